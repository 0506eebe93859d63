//! The FIB control messages: round trips, limits, hostile bytes, and bytes written by versions 1 and 2.

#![allow(clippy::unwrap_used, reason = "tests")]

use edgeplex_ff_fib_api::*;
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId, wire};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, prelude::*};
use std::net::IpAddr;

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<[u8; 4]>(), 0u8..=32).prop_map(|(a, l)| Ipv4Net::new(a.into(), l).unwrap().trunc().into()),
        (any::<[u8; 16]>(), 0u8..=128).prop_map(|(a, l)| Ipv6Net::new(a.into(), l).unwrap().trunc().into()),
    ]
}

fn label() -> impl Strategy<Value = Label> {
    (16u32..=0xf_ffff).prop_map(|v| v.try_into().unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn leg() -> impl Strategy<Value = Leg> {
    let mac = || any::<[u8; 6]>().prop_map(MacAddr);
    (0u8..64, vec(label(), 0..=8), mac(), mac()).prop_map(|(port, transport, source_mac, destination_mac)| Leg {
        port,
        transport,
        source_mac,
        destination_mac,
    })
}

fn op() -> impl Strategy<Value = FibOp> {
    let path = || (label(), any::<u32>()).prop_map(|(label, t)| VpnPath { label, tunnel: TunnelId(t) });
    let target = prop_oneof![
        (vec(path(), 1..4), vec(path(), 0..4)).prop_map(|(paths, backup)| Target::Vpn { paths, backup }),
        address().prop_map(|next_hop| Target::Customer { next_hop }),
        Just(Target::Connected),
        Just(Target::Local),
        Just(Target::Unreachable),
    ];
    let switch = prop_oneof![Just(SwitchTarget::Pop), any::<u32>().prop_map(|t| SwitchTarget::Tunnel(TunnelId(t)))];
    prop_oneof![
        (label(), proptest::option::of(address())).prop_map(|(label, next_hop)| FibOp::OwnLabel { label, next_hop }),
        label().prop_map(|label| FibOp::OwnLabelGone { label }),
        (label(), switch).prop_map(|(label, target)| FibOp::Switch { label, target }),
        label().prop_map(|label| FibOp::SwitchGone { label }),
        (any::<u32>(), address(), vec(leg(), 0..=16)).prop_map(|(id, endpoint, legs)| FibOp::Tunnel(Tunnel {
            id: TunnelId(id),
            endpoint,
            legs
        })),
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
    let tunnel = |legs| FibOp::Tunnel(Tunnel { id: TunnelId(1), endpoint: [10, 255, 0, 2].into(), legs });
    let leg = |port, transport: Vec<Label>| {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        Leg { port, transport, source_mac: mac, destination_mac: mac }
    };
    let null = Label::IMPLICIT_NULL;
    let port = |mac, mtu| Port { mac, address: [10, 0, 1, 1].into(), mtu };
    let path = VpnPath { label: Label::MAX, tunnel: TunnelId(1) };
    for (op, says) in [
        (interface(100, MacAddr([2, 0, 0, 0, 0, 1])), "interface.customer_mtu is 100: must be 576 to 9216"),
        (interface(1500, MacAddr::BROADCAST), "interface.mac is ff:ff:ff:ff:ff:ff: must be a unicast address"),
        (FibOp::OwnLabel { label: null, next_hop: None }, "own label is 3: must be 16 or above"),
        (FibOp::Switch { label: null, target: SwitchTarget::Pop }, "label is 3: must be 16 or above"),
        (FibOp::Ports(vec![]), "ports is 0: must be 1 to 64 ports"),
        (FibOp::Ports(vec![port(MacAddr::BROADCAST, 1500)]), "port.mac is ff:ff:ff:ff:ff:ff: must be a unicast address"),
        (FibOp::Ports(vec![port(MacAddr([2, 0, 0, 0, 0, 1]), 575)]), "port.mtu is 575: must be 576 to 9216"),
        (tunnel(vec![leg(0, vec![]); 17]), "tunnel.legs is 17: must be at most 16 legs"),
        (tunnel(vec![leg(64, vec![])]), "tunnel.legs.port is 64: must be 0 to 63"),
        (tunnel(vec![leg(0, vec![Label::MAX; 9])]), "tunnel.legs.transport is 9: must be at most 8 labels"),
        (tunnel(vec![leg(0, vec![null])]), "tunnel.legs.transport is 3: must be a label that can be sent"),
        (route("10.0.0.0/8", Target::Vpn { paths: vec![], backup: vec![path] }), "route.paths is 0: must be 1 to 64 paths"),
        (route("10.0.0.0/8", Target::Vpn { paths: vec![path], backup: vec![path; 65] }), "route.backup is 65: must be at most 64 paths"),
        (route("10.0.0.1/8", Target::Connected), "route.prefix is 10.0.0.1/8: must be a prefix without host bits"),
        (route("2001:db8::1/64", Target::Connected), "route.prefix is 2001:db8::1/64: must be a prefix without host bits"),
    ] {
        let error = encode_request(&Request::Program { epoch: Epoch(1), ops: vec![op] }).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
}

/// What an old programmer says is refused by its version, not misread.
#[test]
fn bytes_of_version_1() {
    let bytes = [1, 1, 5, 1, 4, 0, 172, 16, 2, 0, 24, 0, 1, 0xe9, 7, 2];
    assert!(matches!(wire::decode::<Request>(VERSION, &bytes), Err(wire::WireError::Version { .. })));
}

/// These bytes were written by version 3 and must read the same for as long as that version is spoken.
#[test]
fn bytes_of_version_3() {
    let label = |n: u32| Label::try_from(n).unwrap();
    let path = |n, t| VpnPath { label: label(n), tunnel: TunnelId(t) };
    let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
    let request = Request::Program {
        epoch: Epoch(5),
        ops: vec![
            FibOp::Route {
                prefix: "172.16.2.0/24".parse().unwrap(),
                target: Target::Vpn { paths: vec![path(1001, 2)], backup: vec![path(16, 3)] },
            },
            FibOp::OwnLabel { label: label(1001), next_hop: Some([192, 168, 1, 2].into()) },
            FibOp::Ports(vec![Port { mac: mac(1), address: [10, 0, 1, 1].into(), mtu: 1600 }]),
            FibOp::Switch { label: label(500_000), target: SwitchTarget::Tunnel(TunnelId(2)) },
            FibOp::Tunnel(Tunnel {
                id: TunnelId(2),
                endpoint: [10, 255, 0, 2].into(),
                legs: vec![Leg { port: 1, transport: vec![label(17)], source_mac: mac(1), destination_mac: mac(2) }],
            }),
        ],
    };
    let bytes = b"\
        \x00\x00\x00\x6b\x03\x01\x05\x05\x08\x00\xac\x10\x02\x00\x18\x00\x01\xe9\x07\x02\x01\x10\x03\x01\xe9\x07\x01\x00\xc0\
        \xa8\x01\x02\x03\x01\x1102:00:00:00:00:01\x0a\x00\x01\x01\xc0\x0c\x04\xa0\xc2\x1e\x00\x02\x06\x02\x00\x0a\xff\x00\
        \x02\x01\x01\x01\x11\x1102:00:00:00:00:01\x1102:00:00:00:00:02";
    assert_eq!(encode_request(&request).unwrap(), bytes);
    assert_eq!(wire::decode::<Request>(VERSION, &bytes[4..]).unwrap(), request);
    let flow = Flow { local: ([10, 0, 0, 1], 179).into(), remote: ([10, 0, 0, 2], 4096).into() };
    let ops = vec![HoldOp::Upto { flow, seq: 300, ack: 5 }, HoldOp::Fence { flow }, HoldOp::Over { flow }, HoldOp::Known];
    let ends = b"\x00\x0a\x00\x00\x01\xb3\x01\x00\x0a\x00\x00\x02\x80\x20";
    let bytes = [b"\x03\x0a\x04\x00", &ends[..], b"\xac\x02\x05\x01", ends, b"\x02", ends, b"\x03"].concat();
    assert_eq!(encode_request(&Request::Hold(ops.clone())).unwrap()[4..], bytes);
    assert_eq!(wire::decode::<Request>(VERSION, &bytes).unwrap(), Request::Hold(ops));
    let neighbors = Request::Neighbors(vec![Neighbor { address: [10, 0, 0, 2].into(), mac: mac(1) }]);
    let bytes = b"\x03\x0c\x01\x00\x0a\x00\x00\x02\x1102:00:00:00:00:01";
    assert_eq!(encode_request(&neighbors).unwrap()[4..], *bytes);
}
