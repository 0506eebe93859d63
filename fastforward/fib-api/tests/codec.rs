//! The FIB control messages: round trips, limits, hostile bytes, and bytes written by version 1.

#![allow(clippy::unwrap_used, reason = "tests")]

use edgeplex_ff_fib_api::*;
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId, wire};
use ipnet::{IpNet, Ipv4Net};
use proptest::{collection::vec, prelude::*};

fn prefix() -> impl Strategy<Value = IpNet> {
    (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, l)| Ipv4Net::new(a.into(), l).unwrap().trunc().into())
}

fn label() -> impl Strategy<Value = Label> {
    (16u32..=0xf_ffff).prop_map(|v| v.try_into().unwrap())
}

fn op() -> impl Strategy<Value = FibOp> {
    let path = (label(), any::<u32>()).prop_map(|(label, t)| VpnPath { label, tunnel: TunnelId(t) });
    let target = prop_oneof![
        vec(path, 1..4).prop_map(|paths| Target::Vpn { paths }),
        any::<[u8; 4]>().prop_map(|a| Target::Customer { next_hop: std::net::Ipv4Addr::from(a).into() }),
        Just(Target::Connected),
        Just(Target::Local),
        Just(Target::Unreachable),
    ];
    prop_oneof![
        label().prop_map(|label| FibOp::OwnLabel { label }),
        any::<u32>().prop_map(|id| FibOp::TunnelGone { id: TunnelId(id) }),
        (prefix(), target).prop_map(|(prefix, target)| FibOp::Route { prefix, target }),
        prefix().prop_map(|prefix| FibOp::Withdraw { prefix }),
    ]
}

proptest! {
    #[test]
    fn requests_read_back(epoch: u64, ops in vec(op(), 0..20)) {
        let request = Request::Program { epoch: Epoch(epoch), ops };
        let mut d = wire::Deframer::default();
        d.push(&encode_request(&request).unwrap());
        prop_assert_eq!(d.next::<Request>(VERSION).unwrap(), Some(request));
    }

    #[test]
    fn garbage_is_an_error_never_a_panic(bytes: Vec<u8>) {
        if let Ok(r) = wire::decode::<Request>(VERSION, &bytes) {
            let _ = r.check();
        }
        let _ = wire::decode::<Reply>(VERSION, &bytes);
    }
}

#[test]
fn what_cannot_be_programmed_is_refused_by_name() {
    let interface = |mtu, mac| {
        FibOp::Interface(Interface { mac, addresses: vec!["192.168.1.1/30".parse().unwrap()], customer_mtu: mtu, core_mtu: 1600 })
    };
    let route = |prefix: &str, target| FibOp::Route { prefix: prefix.parse().unwrap(), target };
    for (op, says) in [
        (interface(100, MacAddr([2, 0, 0, 0, 0, 1])), "interface.customer_mtu is 100: must be 576 to 9216"),
        (interface(1500, MacAddr::BROADCAST), "interface.mac is ff:ff:ff:ff:ff:ff: must be a unicast address"),
        (FibOp::OwnLabel { label: Label::IMPLICIT_NULL }, "own label is 3: must be 16 or above"),
        (route("10.0.0.0/8", Target::Vpn { paths: vec![] }), "route.paths is 0: must be 1 to 64 paths"),
        (route("10.0.0.1/8", Target::Connected), "route.prefix is 10.0.0.1/8: must be a prefix without host bits"),
    ] {
        let error = encode_request(&Request::Program { epoch: Epoch(1), ops: vec![op] }).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
}

/// These bytes were written by version 1 and must read the same for as long as that version is spoken.
#[test]
fn bytes_of_version_1() {
    let path = VpnPath { label: Label::try_from(1001).unwrap(), tunnel: TunnelId(2) };
    let request = Request::Program {
        epoch: Epoch(5),
        ops: vec![FibOp::Route { prefix: "172.16.2.0/24".parse().unwrap(), target: Target::Vpn { paths: vec![path] } }],
    };
    let bytes = [0, 0, 0, 17, 1, 1, 5, 1, 4, 0, 172, 16, 2, 0, 24, 0, 1, 0xe9, 7, 2];
    assert_eq!(encode_request(&request).unwrap()[4..], bytes[4..]);
    assert_eq!(wire::decode::<Request>(VERSION, &bytes[4..]).unwrap(), request);
}
