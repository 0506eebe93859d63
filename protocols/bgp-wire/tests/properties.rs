//! What is composed reads back; what is not a message is an error and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp_wire::compose::{self, EncodedAttributes};
use edgeplex_bgp_wire::*;
use edgeplex_types::{Label, Rd, RouteTarget};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn prefix(v6: bool) -> BoxedStrategy<IpNet> {
    if v6 {
        (any::<u128>(), 0u8..=128).prop_map(|(a, l)| Ipv6Net::new(a.into(), l).unwrap().trunc().into()).boxed()
    } else {
        (any::<u32>(), 0u8..=32).prop_map(|(a, l)| Ipv4Net::new(a.into(), l).unwrap().trunc().into()).boxed()
    }
}

fn nlri(family: Family) -> BoxedStrategy<Nlri> {
    let v6 = matches!(family, Family::Ipv6Unicast | Family::Vpnv6);
    match family {
        Family::Ipv4Unicast | Family::Ipv6Unicast => prefix(v6).prop_map(Nlri::Unicast).boxed(),
        Family::Vpnv4 | Family::Vpnv6 => (prefix(v6), any::<[u8; 8]>(), 0u32..=0xf_ffff)
            .prop_map(|(prefix, rd, label)| Nlri::Vpn { rd: Rd(rd), prefix, label: Label::try_from(label).unwrap() })
            .boxed(),
        Family::RouteTarget => prop_oneof![
            Just(Nlri::RouteTarget(RtMembership::DEFAULT)),
            (any::<u32>(), any::<[u8; 8]>()).prop_map(|(asn, rt)| Nlri::RouteTarget(RtMembership::new(asn, RouteTarget(rt)))),
        ]
        .boxed(),
    }
}

fn next_hop(family: Family) -> compose::NextHop {
    let six = |link_local: Option<&str>| compose::NextHop {
        address: "2001:db8::1".parse().unwrap(),
        link_local: link_local.map(|a| a.parse().unwrap()),
    };
    match family {
        Family::Ipv6Unicast => six(Some("fe80::1")),
        Family::RouteTarget => six(None),
        Family::Ipv4Unicast | Family::Vpnv4 | Family::Vpnv6 => Ipv4Addr::new(10, 0, 0, 1).into(),
    }
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let kind = prop_oneof![Just(SegmentKind::Sequence), Just(SegmentKind::Set)];
    vec((kind, vec(1u32.., 1..6)).prop_map(|(kind, asns)| Segment { kind, asns }), 0..4).prop_map(AsPath)
}

prop_compose! {
    fn attributes()(
        origin in prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)],
        as_path in as_path(),
        numbers: (Option<u32>, Option<u32>, bool, Option<u32>),
        aggregator in proptest::option::of((1u32.., any::<u32>())),
        only_to_customer: Option<u32>,
        communities in vec(any::<u32>(), 0..5),
        cluster_list in vec(any::<u32>(), 0..3),
        ext_communities in vec(any::<[u8; 8]>(), 0..40),
        large_communities in proptest::collection::btree_set(any::<[u32; 3]>(), 0..4),
        unknown in proptest::option::of((41u8..=127, vec(any::<u8>(), 0..300))),
    ) -> Attributes {
        Attributes {
            origin,
            as_path,
            med: numbers.0,
            local_pref: numbers.1,
            atomic_aggregate: numbers.2,
            originator_id: numbers.3.map(Ipv4Addr::from),
            aggregator: aggregator.map(|(asn, a)| Aggregator { asn, address: a.into() }),
            communities,
            cluster_list: cluster_list.into_iter().map(Ipv4Addr::from).collect(),
            ext_communities,
            large_communities: large_communities.into_iter().collect(),
            only_to_customer,
            unknown: unknown.map(|(code, value)| UnknownAttribute { code, value }).into_iter().collect(),
        }
    }
}

fn context(four_octet_as: bool) -> Context {
    Context { four_octet_as, ibgp: true, families: FamilySet::from_iter(Family::ALL), ..Context::default() }
}

fn families() -> impl Strategy<Value = Family> {
    proptest::sample::select(&Family::ALL[..])
}

proptest! {
    #[test]
    fn attributes_read_back(a in attributes()) {
        prop_assert_eq!(Attributes::from_bytes(&a.to_bytes()).unwrap(), a);
    }

    #[test]
    fn updates_read_back(
        (family, list) in families().prop_flat_map(|f| (Just(f), vec(nlri(f), 1..1500))),
        a in attributes(),
    ) {
        let encoded = EncodedAttributes::new(&a, true);
        let mut decoder = Decoder::new(context(true));
        let (mut out, mut rest) = (vec![], &list[..]);
        while !rest.is_empty() {
            let taken = compose::reach(&mut out, &encoded, next_hop(family), rest);
            prop_assert!(taken > 0);
            rest = &rest[taken..];
        }
        let (mut got, mut messages, mut stream) = (vec![], 0, &out[..]);
        while let Some(m) = frame(stream).unwrap() {
            prop_assert_eq!(m.kind, MessageType::Update);
            let u = decoder.decode(m.body).unwrap();
            prop_assert_eq!(&u.faults, &vec![]);
            prop_assert_eq!(u.attributes.as_deref(), Some(&a));
            for a in u.announced {
                prop_assert_eq!(a.next_hop, next_hop(family).address);
                got.extend(a.reach.into_iter().map(|r| r.nlri));
            }
            stream = &stream[m.wire_len()..];
            messages += 1;
        }
        prop_assert_eq!(stream.len(), 0);
        prop_assert_eq!(&got, &list);
        // Packed: all but the last are nearly full.
        prop_assert!((messages - 1) * (MAX_MESSAGE - 32) <= out.len(), "{} messages for {} bytes, {}", messages, out.len(), family);
    }

    #[test]
    fn withdrawals_read_back(list in families().prop_flat_map(|f| vec(nlri(f), 1..1500))) {
        let keys: Vec<NlriKey> = list.iter().map(Nlri::key).collect();
        let (mut out, mut rest) = (vec![], &keys[..]);
        while !rest.is_empty() {
            let taken = compose::unreach(&mut out, rest);
            prop_assert!(taken > 0);
            rest = &rest[taken..];
        }
        let (mut got, mut stream) = (vec![], &out[..]);
        while let Some(m) = frame(stream).unwrap() {
            let u = update::decode(context(true), m.body).unwrap();
            prop_assert_eq!((u.end_of_rib, u.faults.len()), (None, 0));
            got.extend(u.unreach.into_iter().map(|u| u.key));
            stream = &stream[m.wire_len()..];
        }
        prop_assert_eq!(got, keys);
    }

    #[test]
    fn long_attributes_need_long_messages(a in attributes(), count in 900usize..15_000) {
        let a = Attributes { communities: vec![7; count], ..a };
        let list = [Nlri::Unicast("10.0.0.0/8".parse().unwrap())];
        let mut out = vec![];
        let plain = EncodedAttributes::new(&a, true);
        let fits = compose::reach(&mut out, &plain, Ipv4Addr::new(10, 0, 0, 1), &list) == 1;
        prop_assert!(out.len() <= MAX_MESSAGE && fits != out.is_empty());
        if !fits {
            prop_assert_eq!(compose::reach(&mut out, &plain.extended(), Ipv4Addr::new(10, 0, 0, 1), &list), 1);
            let message = frame_within(&out, MAX_EXTENDED_MESSAGE).unwrap().unwrap();
            let u = update::decode(context(true), message.body).unwrap();
            prop_assert_eq!(u.attributes.as_deref(), Some(&a));
        }
    }

    #[test]
    fn a_path_survives_a_two_octet_session(path in vec(1u32.., 1..20)) {
        let a = Attributes { as_path: AsPath::sequence(path), ..Attributes::default() };
        let mut out = vec![];
        let list = [Nlri::Unicast("10.0.0.0/8".parse().unwrap())];
        compose::reach(&mut out, &EncodedAttributes::new(&a, false), Ipv4Addr::new(10, 0, 0, 1), &list);
        let u = update::decode(context(false), &out[HEADER_LEN..]).unwrap();
        prop_assert_eq!(u.attributes.as_deref(), Some(&a));
    }

    #[test]
    fn opens_read_back(
        asn: u32, hold: u16, id: u32,
        mp in vec((any::<u16>(), any::<u8>()), 0..5),
        gr in proptest::option::of((any::<bool>(), 0u16..4096, vec((any::<u16>(), any::<u8>(), any::<bool>()), 0..4))),
        long in proptest::option::of(vec((any::<u16>(), any::<u8>(), any::<bool>(), 0u32..1 << 24), 0..4)),
        paths in proptest::option::of(vec((any::<u16>(), any::<u8>(), any::<bool>(), any::<bool>()), 0..4)),
        plain in proptest::sample::subsequence(
            vec![Capability::RouteRefresh, Capability::EnhancedRefresh, Capability::ExtendedMessage, Capability::Role(3)], 0..4),
        unknown in vec((72u8..=255, vec(any::<u8>(), 0..20)), 0..3),
    ) {
        let mut open = Open::new(asn, hold, id.into());
        open.capabilities.extend(mp.into_iter().map(|(a, s)| Capability::MultiProtocol(a, s)));
        open.capabilities.extend(gr.map(|(restarted, restart_time, families)| {
            Capability::GracefulRestart(GracefulRestart { restarted, notification: !restarted, restart_time, families })
        }));
        let long_lived = |(afi, safi, forwarding, stale_time)| LongLived { afi, safi, forwarding, stale_time };
        open.capabilities.extend(long.map(|l| Capability::LongLived(l.into_iter().map(long_lived).collect())));
        let add_path = |(afi, safi, receive, send)| AddPath { afi, safi, receive, send };
        open.capabilities.extend(paths.map(|p| Capability::AddPath(p.into_iter().map(add_path).collect())));
        open.capabilities.extend(plain);
        open.capabilities.extend(unknown.into_iter().map(|(code, value)| Capability::Unknown { code, value }));
        prop_assert_eq!(Open::decode(&open.encode()[HEADER_LEN..]).unwrap(), open);
    }

    /// A good UPDATE with some bytes changed gets far into the decoder.
    #[test]
    fn damaged_updates_never_panic(
        a in attributes(),
        (family, list) in families().prop_flat_map(|f| (Just(f), vec(nlri(f), 1..20))),
        damage in vec((any::<u16>(), any::<u8>()), 1..6),
        add_path: bool,
    ) {
        let mut out = vec![];
        compose::reach(&mut out, &EncodedAttributes::new(&a, true), next_hop(family), &list);
        let mut body = out.split_off(HEADER_LEN);
        for (at, value) in damage {
            let at = usize::from(at) % body.len();
            body[at] = value;
        }
        for four in [true, false] {
            let add_path = if add_path { context(four).families } else { FamilySet::EMPTY };
            if let Ok(u) = update::decode(Context { add_path, ..context(four) }, &body) {
                prop_assert_eq!(u.attributes.is_some(), !u.announced.is_empty());
            }
        }
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..300), four: bool) {
        let _ = frame(&bytes);
        let _ = Open::decode(&bytes);
        let _ = Notification::decode(&bytes).map(|n| n.to_string());
        let _ = RouteRefresh::decode(&bytes);
        let _ = update::decode(context(four), &bytes);
        let _ = Attributes::from_bytes(&bytes);
    }
}
