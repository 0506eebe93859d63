//! The relay's messages: round trips, limits, hostile bytes, and bytes written by version 2.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_relay::*;
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, prelude::*};

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, l)| Ipv4Net::new(a.into(), l).unwrap().into()),
        (any::<[u8; 16]>(), 0u8..=128).prop_map(|(a, l)| Ipv6Net::new(a.into(), l).unwrap().into()),
    ]
}

fn label() -> impl Strategy<Value = Label> {
    (0u32..=0xf_ffff).prop_map(|v| v.try_into().unwrap())
}

fn sync<Op: Clone + std::fmt::Debug + 'static>(op: impl Strategy<Value = Op> + 'static) -> BoxedStrategy<Sync<Op>> {
    let epoch = any::<u64>().prop_map(Epoch);
    prop_oneof![
        epoch.clone().prop_map(|epoch| Sync::Begin { epoch }),
        (epoch.clone(), vec(op, 0..8)).prop_map(|(epoch, ops)| Sync::Ops { epoch, ops }),
        epoch.prop_map(|epoch| Sync::End { epoch }),
    ]
    .boxed()
}

fn customer_op() -> impl Strategy<Value = CustomerOp> {
    prop_oneof![
        (prefix(), proptest::option::of(prefix()), vec(any::<u8>(), 0..64)).prop_map(|(prefix, ce, attributes)| CustomerOp::Route {
            prefix,
            next_hop: ce.map(|c| c.addr()),
            attributes
        }),
        prefix().prop_map(|prefix| CustomerOp::Withdraw { prefix }),
    ]
}

fn vpn_op() -> impl Strategy<Value = VpnOp> {
    let path = (label(), any::<u32>(), vec(any::<u8>(), 0..64)).prop_map(|(label, t, attributes)| VpnPath {
        label,
        tunnel: TunnelId(t),
        attributes,
    });
    let path = path.boxed();
    let leg = (vec(label(), 0..=MAX_TRANSPORT_LABELS), any::<[u8; 6]>(), any::<[u8; 6]>()).prop_map(|(transport, s, d)| Leg {
        transport,
        source_mac: MacAddr(s),
        destination_mac: MacAddr(d),
    });
    let tunnel = (any::<u32>(), any::<[u8; 4]>(), vec(leg, 0..=MAX_LEGS)).prop_map(|(id, endpoint, legs)| Tunnel {
        id: TunnelId(id),
        endpoint: std::net::Ipv4Addr::from(endpoint).into(),
        legs,
    });
    prop_oneof![
        (label(), proptest::option::of(prefix())).prop_map(|(label, ce)| VpnOp::OwnLabel { label, next_hop: ce.map(|c| c.addr()) }),
        label().prop_map(|label| VpnOp::OwnLabelGone { label }),
        tunnel.prop_map(VpnOp::Tunnel),
        any::<u32>().prop_map(|id| VpnOp::TunnelGone { id: TunnelId(id) }),
        (prefix(), vec(path.clone(), 0..4), vec(path, 0..4)).prop_map(|(prefix, paths, backup)| VpnOp::Route { prefix, paths, backup }),
        prefix().prop_map(|prefix| VpnOp::Withdraw { prefix }),
    ]
}

proptest! {
    #[test]
    fn what_a_pvm_says_reads_back(incarnation: u64, sync in sync(customer_op())) {
        let m = ToCvm::Sync { incarnation, sync };
        prop_assert_eq!(decode::<ToCvm>(&encode(&m).unwrap()).unwrap(), m);
    }

    #[test]
    fn what_the_cvm_says_reads_back(incarnation: u64, sync in sync(vpn_op())) {
        let m = ToPvm::Sync { incarnation, sync };
        prop_assert_eq!(decode::<ToPvm>(&encode(&m).unwrap()).unwrap(), m);
    }

    #[test]
    fn a_damaged_message_is_an_error_or_a_message_never_a_panic(
        sync in sync(customer_op()), at: prop::sample::Index, byte: u8, cut: prop::sample::Index
    ) {
        let mut bytes = encode(&ToCvm::Sync { incarnation: 1, sync }).unwrap();
        let i = at.index(bytes.len());
        bytes[i] = byte;
        bytes.truncate(cut.index(bytes.len() + 1));
        let _ = decode::<ToCvm>(&bytes);
        let _ = decode::<ToPvm>(&bytes);
    }
}

#[test]
fn limits_name_the_field() {
    let ops = vec![CustomerOp::Withdraw { prefix: "10.0.0.0/8".parse().unwrap() }; MAX_OPS + 1];
    let m = ToCvm::Sync { incarnation: 0, sync: Sync::Ops { epoch: Epoch(1), ops } };
    assert_eq!(encode(&m), Err(RelayError::Limit { field: "ops", got: MAX_OPS + 1, max: MAX_OPS }));
    let op = CustomerOp::Route { prefix: "10.0.0.0/8".parse().unwrap(), next_hop: None, attributes: vec![0; MAX_ATTRIBUTES + 1] };
    let m = ToCvm::Sync { incarnation: 0, sync: Sync::Ops { epoch: Epoch(1), ops: vec![op] } };
    assert_eq!(encode(&m).unwrap_err().to_string(), "attributes holds 4097: at most 4096 are allowed");
    let leg = Leg { transport: vec![], source_mac: MacAddr([2; 6]), destination_mac: MacAddr([4; 6]) };
    let refused = |op: VpnOp| {
        let m = ToPvm::Sync { incarnation: 0, sync: Sync::Ops { epoch: Epoch(1), ops: vec![op] } };
        encode(&m).unwrap_err().to_string()
    };
    let tunnel = |legs| VpnOp::Tunnel(Tunnel { id: TunnelId(1), endpoint: [10, 0, 0, 1].into(), legs });
    assert_eq!(refused(tunnel(vec![leg.clone(); MAX_LEGS + 1])), "legs holds 17: at most 16 are allowed");
    let deep = Leg { transport: vec![Label::MAX; MAX_TRANSPORT_LABELS + 1], ..leg };
    assert_eq!(refused(tunnel(vec![deep])), "transport holds 9: at most 8 are allowed");
    let path = VpnPath { label: Label::MAX, tunnel: TunnelId(1), attributes: vec![] };
    let prefix = "10.0.0.0/8".parse().unwrap();
    assert_eq!(
        refused(VpnOp::Route { prefix, paths: vec![], backup: vec![path; MAX_PATHS + 1] }),
        "backup holds 65: at most 64 are allowed"
    );
}

/// These bytes were written by version 3 and must read the same for as long as that version is spoken.
#[test]
fn bytes_of_version_3() {
    let hello = ToCvm::Hello { attachment: "acme/denver-1".parse().unwrap(), incarnation: 300, generation: 7, standby: true };
    let bytes = [&[3, 0, 13][..], b"acme/denver-1", &[0xac, 2, 7, 1]].concat();
    assert_eq!(encode(&hello).unwrap(), bytes);
    assert_eq!(decode::<ToCvm>(&bytes).unwrap(), hello);

    let route = ToCvm::Sync {
        incarnation: 1,
        sync: Sync::Ops {
            epoch: Epoch(7),
            ops: vec![CustomerOp::Route {
                prefix: "10.1.0.0/16".parse().unwrap(),
                next_hop: Some([192, 168, 1, 2].into()),
                attributes: vec![0x40, 1, 1, 0],
            }],
        },
    };
    let bytes = [3, 1, 1, 1, 7, 1, 0, 0, 10, 1, 0, 0, 16, 1, 0, 192, 168, 1, 2, 4, 0x40, 1, 1, 0];
    assert_eq!(encode(&route).unwrap(), bytes);
    assert_eq!(decode::<ToCvm>(&bytes).unwrap(), route);

    let tunnel = ToPvm::Sync {
        incarnation: 1,
        sync: Sync::Ops { epoch: Epoch(7), ops: vec![VpnOp::OwnLabel { label: Label::try_from(1000).unwrap(), next_hop: None }] },
    };
    let bytes = [3, 2, 1, 1, 7, 1, 0, 0xe8, 7, 0];
    assert_eq!(encode(&tunnel).unwrap(), bytes);
    assert_eq!(decode::<ToPvm>(&bytes).unwrap(), tunnel);
    let superseded = ToPvm::Refused { incarnation: 1, reason: Refusal::Superseded };
    assert_eq!(encode(&superseded).unwrap(), [3, 1, 1, 3]);
    // Version 2 had another Hello: whoever speaks it is told so.
    assert!(decode::<ToPvm>(&[2, 2, 1, 1, 7, 1, 0, 0xe8, 7]).unwrap_err().to_string().contains("version 2"));
}
