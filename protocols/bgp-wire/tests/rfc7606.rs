//! What each malformed UPDATE leads to (RFC 4271 §6.3, RFC 7606 §3 to §7).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp_wire::update::decode;
use edgeplex_bgp_wire::{Context, Family, FamilySet, HEADER_LEN, Severity, Update};

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
/// Sequence 65101.
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfe, 0x4d];
const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const NLRI: &[u8] = &[16, 10, 1];
const RD: [u8; 8] = [0, 0, 0xfd, 0xe8, 0, 0, 0, 7];

fn context() -> Context {
    Context { four_octet_as: true, first_as: Some(65101), families: FamilySet::from_iter(Family::ALL), ..Context::default() }
}

fn update(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let len = |b: &[u8]| u16::try_from(b.len()).unwrap().to_be_bytes();
    [&len(withdrawn)[..], withdrawn, &len(&attributes), &attributes, nlri].concat()
}

fn read(attributes: &[&[u8]], nlri: &[u8]) -> Update {
    decode(context(), &update(&[], attributes, nlri)).unwrap()
}

/// Of a message: `ok`, `discard`, `withdraw`, `disable`, or the subcode of the NOTIFICATION 3/x.
fn outcome(body: &[u8]) -> String {
    match decode(context(), body) {
        Err(fatal) => format!("3/{}", fatal.notification.subcode),
        Ok(u) => {
            let rank = |s: &Severity| match s {
                Severity::AttributeDiscard => (1, "discard"),
                Severity::TreatAsWithdraw => (2, "withdraw"),
                Severity::AfiSafiDisable(_) => (3, "disable"),
                Severity::SessionReset(_) => (4, "reset"),
            };
            let worst = u.faults.iter().map(|f| rank(&f.severity)).max().unwrap_or((0, "ok"));
            // What counts as withdrawn is withdrawn, and nothing else is.
            assert_eq!(worst.0 >= 2, u.announced.is_empty(), "{u:?}");
            assert_eq!(worst.0 >= 2, !u.unreach.is_empty() || u.announced.is_empty() && worst.0 == 3, "{u:?}");
            worst.1.to_owned()
        }
    }
}

/// A good route plus one attribute.
fn with(attribute: &[u8]) -> String {
    outcome(&update(&[], &[ORIGIN, PATH, HOP, attribute], NLRI))
}

#[test]
fn a_good_update_says_what_it_says() {
    let u = read(&[ORIGIN, PATH, HOP, &[0x80, 4, 4, 0, 0, 0, 9], &[0xc0, 8, 4, 0xfd, 0xe8, 0, 7]], &[16, 10, 1, 0]);
    let a = u.attributes.unwrap();
    assert_eq!((a.med, a.communities.as_slice(), a.as_path.to_string()), (Some(9), &[0xfde8_0007][..], "65101".to_owned()));
    assert_eq!(u.announced.len(), 1);
    assert_eq!(u.announced[0].reach.iter().map(|r| r.nlri.to_string()).collect::<Vec<_>>(), ["10.1.0.0/16", "0.0.0.0/0"]);
    assert!(u.faults.is_empty());
}

#[test]
fn attribute_by_attribute() {
    let replace = |origin: &[u8], path: &[u8], hop: &[u8]| outcome(&update(&[], &[origin, path, hop], NLRI));
    // §7.1 to §7.3, and §3 (d): missing.
    for bad in [&[0x40, 1, 1, 3][..], &[0x40, 1, 2, 0, 0], &[0x40, 1, 0], &[]] {
        assert_eq!(replace(bad, PATH, HOP), "withdraw", "{bad:?}");
    }
    for bad in [&[0x40, 2, 0][..], &[0x40, 2, 2, 2, 0], &[0x40, 2, 6, 9, 1, 0, 0, 0xfe, 0x4d], &[0x40, 2, 6, 2, 2, 0, 0, 0xfe, 0x4d], &[]] {
        assert_eq!(replace(ORIGIN, bad, HOP), "withdraw", "{bad:?}");
    }
    // RFC 4271 §6.3: another AS in front.
    assert_eq!(replace(ORIGIN, &[0x40, 2, 6, 2, 1, 0, 0, 0xfe, 0x4e], HOP), "withdraw");
    for bad in [&[0x40, 3, 3, 1, 1, 1][..], &[0x40, 3, 4, 0, 0, 0, 0], &[0x40, 3, 4, 224, 0, 0, 1], &[0x40, 3, 4, 127, 0, 0, 1], &[]] {
        assert_eq!(replace(ORIGIN, PATH, bad), "withdraw", "{bad:?}");
    }
    assert_eq!(with(&[0x80, 4, 3, 0, 0, 0]), "withdraw");
    // §7.5, §7.9, §7.10: internal attributes from an external peer, malformed or not.
    for internal in [&[0x40, 5, 4, 0, 0, 0, 1][..], &[0x40, 5, 1, 0], &[0x80, 9, 4, 1, 1, 1, 1], &[0x80, 10, 3, 1, 1, 1]] {
        assert_eq!(with(internal), "discard", "{internal:?}");
    }
    assert_eq!(with(&[0x40, 6, 1, 0]), "discard");
    assert_eq!(with(&[0xc0, 7, 6, 0, 1, 1, 1, 1, 1]), "discard");
    assert_eq!(with(&[0xc0, 7, 8, 0, 0, 0, 1, 1, 1, 1, 1]), "ok");
    // §7.8, §7.14, RFC 8092 §6
    for bad in [&[0xc0, 8, 3, 1, 1, 1][..], &[0xc0, 8, 0], &[0xc0, 16, 7, 0, 2, 0, 0, 0, 0, 0], &[0xc0, 16, 0], &[0xc0, 32, 4, 1, 1, 1, 1]]
    {
        assert_eq!(with(bad), "withdraw", "{bad:?}");
    }
    // §3 (c): flags.
    assert_eq!(with(&[0x40, 8, 4, 0, 0, 0, 0]), "withdraw");
    assert_eq!(with(&[0xc0, 4, 4, 0, 0, 0, 0]), "withdraw");
    // §3 (g): duplicates.
    assert_eq!(with(ORIGIN), "discard");
    // Unknown: optional goes, well-known does not (RFC 4271 §6.3).
    assert_eq!(with(&[0xc0, 99, 1, 0]), "ok");
    assert_eq!(with(&[0x80, 99, 1, 0]), "ok");
    assert_eq!(with(&[0x40, 99, 1, 0]), "3/2");
}

#[test]
fn attributes_that_came_later() {
    // RFC 9234 §5.
    assert_eq!(with(&[0xc0, 35, 4, 0, 0, 0, 9]), "ok");
    assert_eq!(with(&[0xc0, 35, 3, 0, 0, 0]), "withdraw");
    assert_eq!(with(&[0x80, 35, 4, 0, 0, 0, 9]), "withdraw");
    // RFC 7311 §3.2: whatever is wrong with AIGP, its flags included, the route stays.
    for aigp in [&[0x80, 26, 11, 1, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0x80, 26, 3, 1, 0, 2], &[0x80, 26, 0], &[0xc0, 26, 3, 1, 0, 3]] {
        assert_eq!(with(aigp), "discard", "{aigp:?}");
    }
    assert_eq!(with(&[0x80, 26, 11, 1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]), "ok");
    // RFC 6514 §5, RFC 9012 §13, RFC 7606 §7.15 and §7.16.
    for bad in [&[0xc0, 22, 4, 0, 6, 0, 0][..], &[0xc0, 23, 5, 0, 8, 0, 2, 1], &[0xc0, 23, 0], &[0xc0, 25, 19, 0], &[0xc0, 128, 3, 0, 0, 1]]
    {
        let mut bad = bad.to_vec();
        bad.resize(3 + usize::from(bad[2]), 0);
        assert_eq!(with(&bad), "withdraw", "{bad:?}");
        bad[0] = 0x80;
        assert_eq!(with(&bad), "withdraw", "{bad:?}");
    }
    assert_eq!(with(&[0xc0, 128, 6, 0, 0, 0, 1, 0x40, 1]), "withdraw");
    // RFC 8669 §5, §6: nothing of segment routing is taken from outside; from inside it is passed on or, malformed, not.
    assert_eq!(with(&[0xc0, 40, 4, 1, 0, 1, 0]), "discard");
    let inside = |value: &[u8]| {
        let mut attribute = vec![0xc0, 40, u8::try_from(value.len()).unwrap()];
        attribute.extend_from_slice(value);
        let internal = Context { ibgp: true, first_as: None, ..context() };
        decode(internal, &update(&[], &[ORIGIN, PATH, HOP, &attribute], NLRI)).unwrap()
    };
    let (good, bad) = (inside(&[1, 0, 1, 0]), inside(&[1, 0, 2, 0]));
    assert_eq!((good.attributes.unwrap().unknown.len(), good.faults.len()), (1, 0));
    assert_eq!((bad.attributes.unwrap().unknown.len(), bad.faults[0].severity.clone()), (0, Severity::AttributeDiscard));
}

#[test]
fn what_we_do_not_act_upon_is_passed_on_as_it_came() {
    let tunnel = [0xc0, 23, 6, 0, 8, 0, 2, 1, 2];
    let set = [0xc0, 128, 8, 0, 0, 0, 1, 0x40, 1, 1, 0];
    let a = read(&[ORIGIN, PATH, HOP, &tunnel, &set], NLRI).attributes.unwrap();
    assert_eq!(a.unknown.iter().map(|u| (u.code, &u.value[..])).collect::<Vec<_>>(), [(23, &tunnel[3..]), (128, &set[3..])]);
    // AIGP is not: it is for sessions that have it enabled (RFC 7311 §3.1).
    assert!(read(&[ORIGIN, PATH, HOP, &[0x80, 26, 3, 1, 0, 3]], NLRI).attributes.unwrap().unknown.is_empty());
}

#[test]
fn routes_from_above_are_marked() {
    let from_provider = Context { only_to_customer: Some(65101), ..context() };
    let otc = |attribute: &[u8]| decode(from_provider, &update(&[], &[ORIGIN, PATH, HOP, attribute], NLRI)).unwrap().attributes.unwrap();
    assert_eq!(otc(&[]).only_to_customer, Some(65101));
    assert_eq!(otc(&[0xc0, 35, 4, 0, 0, 0, 9]).only_to_customer, Some(9));
}

#[test]
fn a_malformed_large_community_leaves_the_route_targets_unheard_but_harmless() {
    let target = [0xc0, 16, 8, 0, 2, 0xfd, 0xe8, 0, 0, 0, 100];
    let u = read(&[ORIGIN, PATH, HOP, &[0xc0, 32, 4, 1, 1, 1, 1], &target], NLRI);
    assert!(u.announced.is_empty() && u.unreach.len() == 1);
    // A discard beside it keeps them.
    let u = read(&[ORIGIN, PATH, HOP, &[0x40, 6, 1, 0], &target], NLRI);
    assert_eq!(u.attributes.unwrap().route_targets().map(|t| t.to_string()).collect::<Vec<_>>(), ["65000:100"]);
}

#[test]
fn lengths_that_do_not_fit() {
    // §4: an attribute that runs past the end; the NLRI is still found.
    assert_eq!(outcome(&update(&[], &[ORIGIN, PATH, HOP, &[0xc0, 8, 200, 1]], NLRI)), "withdraw");
    assert_eq!(outcome(&update(&[], &[ORIGIN, PATH, HOP, &[0xc0]], NLRI)), "withdraw");
    // §5.2: and without NLRI nobody knows what was lost.
    assert_eq!(outcome(&update(&[], &[ORIGIN, PATH, HOP, &[0xc0]], &[])), "3/1");
    assert_eq!(outcome(&update(&[16, 10, 1], &[&[0x40, 1, 1, 9]], &[])), "3/1");
    // RFC 4271 §6.3
    assert_eq!(outcome(&[0, 9, 0, 0]), "3/1");
    assert_eq!(outcome(&[0, 0, 0, 9]), "3/1");
    assert_eq!(outcome(&update(&[], &[ORIGIN, PATH, HOP], &[33, 1, 1, 1, 1, 1])), "3/10");
    assert_eq!(outcome(&update(&[], &[ORIGIN, PATH, HOP], &[24, 1])), "3/10");
    assert_eq!(outcome(&update(&[40], &[], &[])), "3/10");
}

fn mp_reach(next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let value = [&[0, 1, 128, u8::try_from(next_hop.len()).unwrap()], next_hop, &[0], nlri].concat();
    [&[0x80, 14, u8::try_from(value.len()).unwrap()], &value[..]].concat()
}

fn vpn_entry() -> Vec<u8> {
    [&[112, 0, 0x3e, 0x81][..], &RD, &[10, 1, 2]].concat()
}

const VPN_HOP: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 10, 255, 0, 2];

#[test]
fn vpnv4_reach_and_unreach() {
    let u = read(&[&mp_reach(&VPN_HOP, &vpn_entry()), ORIGIN, PATH], &[]);
    assert_eq!(u.announced[0].next_hop, std::net::IpAddr::from([10, 255, 0, 2]));
    assert_eq!(u.announced[0].reach[0].nlri.to_string(), "65000:7 10.1.2.0/24 label 1000");

    let withdrawn = [&[0x80, 15, 18, 0, 1, 128, 112, 0x80, 0, 0][..], &RD, &[10, 1, 2]].concat();
    let u = decode(context(), &update(&[], &[&withdrawn], &[])).unwrap();
    assert_eq!(u.unreach[0].key.to_string(), "65000:7 10.1.2.0/24");
    assert_eq!((u.end_of_rib, u.faults.len()), (None, 0));
}

#[test]
fn vpnv4_faults() {
    let case = |mp: &[u8]| outcome(&update(&[], &[mp, ORIGIN, PATH], &[]));
    // §7.11
    assert_eq!(case(&mp_reach(&VPN_HOP[..11], &vpn_entry())), "disable");
    assert_eq!(case(&mp_reach(&[0; 24], &vpn_entry())), "disable");
    // §5.3
    assert_eq!(case(&mp_reach(&VPN_HOP, &vpn_entry()[..14])), "disable");
    assert_eq!(case(&[0x80, 14, 2, 0, 1]), "3/9");
    // Not the address of a host; a stack of labels that was not agreed on.
    assert_eq!(case(&mp_reach(&[0; 12], &vpn_entry())), "withdraw");
    let stack = [&[144, 0, 0x3e, 0x80, 0, 0x3e, 0x91][..], &RD, &[10, 1, 2, 3]].concat();
    assert_eq!(case(&mp_reach(&VPN_HOP, &stack)), "withdraw");
    // §3 (g)
    let twice = [mp_reach(&VPN_HOP, &vpn_entry()), mp_reach(&VPN_HOP, &vpn_entry())].concat();
    assert_eq!(case(&twice), "3/1");
    // Families that were not agreed on are left aside.
    let multicast = [0x80, 14, 6, 0, 2, 2, 0, 0, 0];
    assert_eq!(read(&[&multicast, ORIGIN, PATH], &[]), Update::default());
}

fn mp_reach_of(afi: u8, safi: u8, next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut out = mp_reach(next_hop, nlri);
    (out[4], out[5]) = (afi, safi);
    out
}

/// 2001:db8::1, and an address of the link.
const HOP6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

#[test]
fn next_hops_of_ipv6_and_of_6vpe() {
    let hop = |afi, safi, hop: &[u8], nlri: &[u8]| {
        read(&[&mp_reach_of(afi, safi, hop, nlri), ORIGIN, PATH], &[]).announced[0].next_hop.to_string()
    };
    let prefix = &[32, 0x20, 1, 0x0d, 0xb8];
    assert_eq!(hop(2, 1, &HOP6, prefix), "2001:db8::1");
    assert_eq!(hop(2, 1, &[HOP6, LINK].concat(), prefix), "2001:db8::1");
    assert_eq!(hop(2, 1, &[[0; 16], LINK].concat(), prefix), "fe80::2");
    let vpn = &[&[88, 0, 0x3e, 0x81][..], &RD].concat();
    assert_eq!(hop(2, 128, &[&[0; 8][..], &HOP6].concat(), vpn), "2001:db8::1");
    assert_eq!(hop(2, 128, &[&[0; 8][..], &HOP6, &[0; 8], &LINK].concat(), vpn), "2001:db8::1");
    // RFC 4659 §3.2.1.2
    assert_eq!(hop(2, 128, &[&[0; 18][..], &[0xff, 0xff, 10, 255, 0, 2]].concat(), vpn), "10.255.0.2");
    assert_eq!(hop(1, 132, &[10, 255, 0, 2], &[0]), "10.255.0.2");

    let case = |afi, safi, hop: &[u8], nlri: &[u8]| outcome(&update(&[], &[&mp_reach_of(afi, safi, hop, nlri), ORIGIN, PATH], &[]));
    assert_eq!(case(2, 1, &HOP6[..15], prefix), "disable");
    assert_eq!(case(2, 1, &[0; 24], prefix), "disable");
    assert_eq!(case(2, 128, &HOP6, vpn), "disable");
    assert_eq!(case(2, 1, &[0; 16], prefix), "withdraw");
    assert_eq!(case(2, 1, &[&[0xff, 2][..], &[0; 14]].concat(), prefix), "withdraw");
    assert_eq!(case(2, 1, &HOP6, &[&[129][..], &[0; 17]].concat()), "disable");
    // RFC 4684 §4
    assert_eq!(case(1, 132, &[10, 255, 0, 2], &[16, 0, 1]), "disable");
}

#[test]
fn several_paths_of_one_prefix() {
    let context = Context { add_path: FamilySet::from_iter([Family::Ipv4Unicast]), ..context() };
    let u = decode(context, &update(&[0, 0, 0, 7, 8, 10], &[ORIGIN, PATH, HOP], &[0, 0, 0, 8, 8, 10, 0, 0, 0, 9, 8, 10])).unwrap();
    assert_eq!(u.unreach.iter().map(|u| u.path_id).collect::<Vec<_>>(), [7]);
    assert_eq!(
        u.announced[0].reach.iter().map(|r| (r.path_id, r.nlri.to_string())).collect::<Vec<_>>(),
        [(8, "10.0.0.0/8".into()), (9, "10.0.0.0/8".into())]
    );
}

#[test]
fn end_of_rib_of_each_family() {
    assert_eq!(decode(context(), &[0, 0, 0, 0]).unwrap().end_of_rib, Some(Family::Ipv4Unicast));
    assert_eq!(decode(context(), &update(&[], &[&[0x80, 15, 3, 0, 1, 128]], &[])).unwrap().end_of_rib, Some(Family::Vpnv4));
    assert_eq!(decode(context(), &update(&[], &[&[0x80, 15, 3, 0, 2, 2]], &[])).unwrap(), Update::default());
    for (safi, family) in [(1, Family::Ipv6Unicast), (128, Family::Vpnv6)] {
        assert_eq!(decode(context(), &update(&[], &[&[0x80, 15, 3, 0, 2, safi]], &[])).unwrap().end_of_rib, Some(family));
    }
}

#[test]
fn errors_say_where() {
    let body = update(&[], &[ORIGIN, PATH, HOP, &[0xc0, 8, 3, 1, 1, 1]], NLRI);
    let fault = decode(context(), &body).unwrap().faults[0].error;
    assert_eq!(fault.offset, HEADER_LEN + 4 + ORIGIN.len() + PATH.len() + HOP.len());
    assert_eq!(fault.to_string(), "COMMUNITIES at byte 43: 3 bytes, where a multiple of 4 would be right");
}

#[test]
fn a_two_octet_peer_with_as4_path_and_as4_aggregator() {
    let old = Context { four_octet_as: false, first_as: Some(65101), ..context() };
    let path = [0x40, 2, 6, 2, 2, 0xfe, 0x4d, 0x5b, 0xa0];
    let as4_path = [0xc0, 17, 6, 2, 1, 0xfa, 0x56, 0xea, 0x01];
    let aggregator = [0xc0, 7, 6, 0x5b, 0xa0, 1, 1, 1, 1];
    let as4_aggregator = [0xc0, 18, 8, 0xfa, 0x56, 0xea, 0x01, 1, 1, 1, 1];
    let body = update(&[], &[ORIGIN, &path, HOP, &aggregator, &as4_path, &as4_aggregator], NLRI);
    let a = decode(old, &body).unwrap().attributes.unwrap();
    assert_eq!((a.as_path.to_string(), a.aggregator.unwrap().asn), ("65101 4200000001".to_owned(), 4_200_000_001));
    // RFC 6793 §6: malformed, it is as if it were not there.
    let bad = update(&[], &[ORIGIN, &path, HOP, &[0xc0, 17, 3, 2, 1, 0]], NLRI);
    let u = decode(old, &bad).unwrap();
    assert_eq!((u.attributes.unwrap().as_path.to_string(), u.faults.len()), ("65101 23456".to_owned(), 1));
}
