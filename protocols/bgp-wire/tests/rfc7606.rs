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
    Context { four_octet_as: true, ibgp: false, first_as: Some(65101), families: FamilySet::from_iter(Family::ALL) }
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
            assert_eq!(worst.0 >= 2, u.reach.is_empty(), "{u:?}");
            assert_eq!(worst.0 >= 2, !u.unreach.is_empty() || u.reach.is_empty() && worst.0 == 3, "{u:?}");
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
    assert_eq!(u.reach.len(), 1);
    assert_eq!(u.reach[0].nlri.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/16", "0.0.0.0/0"]);
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
fn a_malformed_large_community_leaves_the_route_targets_unheard_but_harmless() {
    let target = [0xc0, 16, 8, 0, 2, 0xfd, 0xe8, 0, 0, 0, 100];
    let u = read(&[ORIGIN, PATH, HOP, &[0xc0, 32, 4, 1, 1, 1, 1], &target], NLRI);
    assert!(u.reach.is_empty() && u.unreach.len() == 1);
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
    assert_eq!(u.reach[0].next_hop, std::net::IpAddr::from([10, 255, 0, 2]));
    assert_eq!(u.reach[0].nlri[0].to_string(), "65000:7 10.1.2.0/24 label 1000");

    let withdrawn = [&[0x80, 15, 18, 0, 1, 128, 112, 0x80, 0, 0][..], &RD, &[10, 1, 2]].concat();
    let u = decode(context(), &update(&[], &[&withdrawn], &[])).unwrap();
    assert_eq!(u.unreach[0].to_string(), "65000:7 10.1.2.0/24");
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
    let v6 = [0x80, 14, 6, 0, 2, 1, 0, 0, 0];
    assert_eq!(read(&[&v6, ORIGIN, PATH], &[]), Update::default());
}

#[test]
fn end_of_rib_of_each_family() {
    assert_eq!(decode(context(), &[0, 0, 0, 0]).unwrap().end_of_rib, Some(Family::Ipv4Unicast));
    assert_eq!(decode(context(), &update(&[], &[&[0x80, 15, 3, 0, 1, 128]], &[])).unwrap().end_of_rib, Some(Family::Vpnv4));
    assert_eq!(decode(context(), &update(&[], &[&[0x80, 15, 3, 0, 2, 1]], &[])).unwrap(), Update::default());
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
