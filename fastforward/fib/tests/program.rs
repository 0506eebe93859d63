//! The FIB as its programmer sees it: epochs, tunnels that come and go, shared path lists, refusals.

#![allow(clippy::unwrap_used, reason = "tests")]

use edgeplex_ff_fib::{Fib, Forward, Incoming, Refused, api::*};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

fn label(n: u32) -> Label {
    n.try_into().unwrap()
}

fn leg(last: u8) -> Leg {
    let transport = vec![label(16 + u32::from(last))];
    Leg { port: 0, transport, source_mac: MacAddr([2, 0, 0, 0, 0, 1]), destination_mac: MacAddr([2, 0, 0, 0, 1, last]) }
}

fn tunnel(id: u32, last: u8) -> FibOp {
    FibOp::Tunnel(Tunnel { id: TunnelId(id), endpoint: Ipv4Addr::new(10, 255, 0, last).into(), legs: vec![leg(last)] })
}

fn paths(of: &[(u32, u32)]) -> Vec<VpnPath> {
    of.iter().map(|(l, t)| VpnPath { label: label(*l), tunnel: TunnelId(*t) }).collect()
}

fn vpn(of: &[(u32, u32)]) -> Target {
    Target::Vpn { paths: paths(of), backup: vec![] }
}

fn route(prefix: &str, target: Target) -> FibOp {
    FibOp::Route { prefix: prefix.parse().unwrap(), target }
}

fn withdraw(prefix: &str) -> FibOp {
    FibOp::Withdraw { prefix: prefix.parse().unwrap() }
}

/// The label and the neighbour's last byte that a packet to `address` gets, if any path is up.
fn sent(fib: &Fib, address: &str, flow: u64) -> Option<(u32, u8)> {
    let forward = match address.parse().unwrap() {
        IpAddr::V4(a) => fib.route(a)?,
        IpAddr::V6(a) => fib.route6(a)?,
    };
    let (label, way) = fib.path(forward, flow)?;
    Some((label.get(), fib.leg(way).unwrap().destination.0[5]))
}

fn own(n: u32) -> FibOp {
    FibOp::OwnLabel { label: label(n), next_hop: None }
}

fn begun() -> Fib {
    let mut f = Fib::default();
    f.begin(Epoch(1));
    f
}

#[test]
fn one_tunnel_moves_every_prefix_behind_it_and_its_absence_is_no_path() {
    let mut f = begun();
    let routes: Vec<_> = (0..100).map(|i| route(&format!("172.16.{i}.0/24"), vpn(&[(1001, 7)]))).collect();
    f.program(Epoch(1), &routes).unwrap();
    assert_eq!(f.targets(), 1);
    assert!(f.route("172.16.5.1".parse().unwrap()).is_some());
    assert_eq!(sent(&f, "172.16.5.1", 0), None, "the tunnel has not come yet");
    f.program(Epoch(1), &[tunnel(7, 2)]).unwrap();
    assert_eq!(sent(&f, "172.16.5.1", 0), Some((1001, 2)));
    f.program(Epoch(1), &[tunnel(7, 9)]).unwrap();
    assert!((0..100).all(|i| sent(&f, &format!("172.16.{i}.200"), i) == Some((1001, 9))));
    f.program(Epoch(1), &[FibOp::TunnelGone { id: TunnelId(7) }]).unwrap();
    assert_eq!(sent(&f, "172.16.5.1", 0), None);
    assert_eq!((f.tunnels_there(), f.routes()), (0, 100));
    // Its slot was kept for the routes; another tunnel must not get it.
    f.program(Epoch(1), &[tunnel(8, 8)]).unwrap();
    assert_eq!(sent(&f, "172.16.5.1", 0), None);
    let all: Vec<_> = (0..100).map(|i| withdraw(&format!("172.16.{i}.0/24"))).collect();
    f.program(Epoch(1), &all).unwrap();
    assert_eq!((f.targets(), f.routes()), (0, 0));
}

fn flows(n: u64) -> impl Iterator<Item = u64> {
    (1..=n).map(|i| {
        let z = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ z >> 31
    })
}

#[test]
fn ecmp_spreads_flows_and_passes_over_a_tunnel_that_is_down() {
    let mut f = begun();
    f.program(Epoch(1), &[tunnel(1, 1), tunnel(2, 2), tunnel(3, 3), route("0.0.0.0/0", vpn(&[(100, 1), (200, 2), (300, 3)]))]).unwrap();
    let mut seen = BTreeMap::new();
    for flow in flows(3000) {
        *seen.entry(sent(&f, "8.8.8.8", flow).unwrap()).or_insert(0) += 1;
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [(100, 1), (200, 2), (300, 3)]);
    assert!(seen.values().all(|n| (900..1100).contains(n)), "{seen:?}");
    f.program(Epoch(1), &[FibOp::TunnelGone { id: TunnelId(3) }]).unwrap();
    // Only what went there moves, to both others alike.
    let moved: Vec<_> = flows(3000).map(|flow| sent(&f, "8.8.8.8", flow).unwrap()).collect();
    let onto = |l: u32| moved.iter().filter(|m| m.0 == l).count();
    assert!((1350..1650).contains(&onto(100)) && onto(100) + onto(200) == 3000, "{}", onto(100));
    f.program(Epoch(1), &[FibOp::TunnelGone { id: TunnelId(1) }, FibOp::TunnelGone { id: TunnelId(2) }]).unwrap();
    assert_eq!(sent(&f, "8.8.8.8", 5), None);
}

#[test]
fn a_new_epoch_keeps_the_old_until_its_end_and_then_only_what_it_renewed() {
    let mut f = begun();
    let interface = FibOp::Interface(Interface {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        addresses: vec!["192.168.1.1/30".parse().unwrap()],
        customer_mtu: 1500,
        core_mtu: 1600,
    });
    f.program(Epoch(1), &[interface.clone(), own(1001), tunnel(1, 1), tunnel(2, 2)]).unwrap();
    f.program(Epoch(1), &[route("10.1.0.0/16", vpn(&[(100, 1)])), route("10.2.0.0/16", vpn(&[(200, 2)]))]).unwrap();
    f.end(Epoch(1)).unwrap();
    assert_eq!(f.complete_epoch(), Some(Epoch(1)));

    f.begin(Epoch(9));
    assert_eq!(sent(&f, "10.2.0.1", 0), Some((200, 2)));
    f.program(Epoch(9), &[tunnel(1, 1), route("10.1.0.0/16", vpn(&[(101, 1)]))]).unwrap();
    assert_eq!((sent(&f, "10.1.0.1", 0), sent(&f, "10.2.0.1", 0)), (Some((101, 1)), Some((200, 2))));
    assert!(f.label(label(1001)) == Some(Incoming::Vrf) && f.interface().is_some());
    f.program(Epoch(9), &[interface, own(1002)]).unwrap();
    f.end(Epoch(9)).unwrap();
    assert_eq!((sent(&f, "10.1.0.1", 0), sent(&f, "10.2.0.1", 0)), (Some((101, 1)), None));
    assert_eq!((f.tunnels_there(), f.routes(), f.targets()), (1, 1, 1));
    assert!(f.label(label(1001)).is_none() && f.label(label(1002)).is_some());
    // Deltas go on under the same epoch, and no longer under another.
    f.program(Epoch(9), &[withdraw("10.1.0.0/16")]).unwrap();
    assert_eq!(f.end(Epoch(9)), Err(Refused::NoSnapshot));

    f.begin(Epoch(10));
    f.end(Epoch(10)).unwrap();
    assert_eq!((f.labels(), f.interface()), (0, None));
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut f = begun();
    let none = Target::Vpn { paths: vec![], backup: vec![] };
    let bad = [
        vec![route("10.0.0.0/8", Target::Local), route("2001:db8::/32", none)],
        vec![route("10.0.0.0/8", Target::Local), FibOp::Switch { label: label(3), target: SwitchTarget::Pop }],
    ];
    for ops in bad {
        assert!(f.program(Epoch(1), &ops).is_err());
    }
    let e = f.program(Epoch(2), &[route("10.0.0.0/8", Target::Local)]).unwrap_err();
    assert_eq!(e.to_string(), "epoch 2: the current one is 1");
    assert_eq!(Fib::default().end(Epoch(2)).unwrap_err().to_string(), "epoch 2: the current one is none");
    assert_eq!(f.routes(), 0);
}

#[test]
fn rows_come_back_as_programmed() {
    let mut f = begun();
    let rows = [
        ("0.0.0.0/0", vpn(&[(100, 1), (200, 2)])),
        ("10.0.0.0/8", Target::Unreachable),
        ("10.0.0.0/24", Target::Customer { next_hop: "192.168.1.2".parse().unwrap() }),
        ("192.168.1.0/30", Target::Connected),
        ("192.168.1.1/32", Target::Local),
    ];
    for (p, t) in &rows {
        f.program(Epoch(1), &[route(p, t.clone())]).unwrap();
    }
    let rows: Vec<_> = rows.map(|(p, t)| (p.parse().unwrap(), t)).into();
    assert_eq!(f.page(None, 10), (rows.clone(), false));
    assert_eq!(f.page(Some("10.0.0.0/8".parse().unwrap()), 2), (rows[2..4].to_vec(), true));
    assert_eq!(f.lookup(Ipv4Addr::new(192, 168, 1, 1).into()), Some(rows[4].clone()));
    assert_eq!(f.lookup(Ipv4Addr::new(192, 168, 1, 2).into()), Some(rows[3].clone()));
    assert_eq!(f.route(Ipv4Addr::new(10, 0, 0, 9)), Some(&Forward::Customer(Ipv4Addr::new(192, 168, 1, 2).into())));
    assert!(f.bytes() < 8192, "{}", f.bytes());
}

fn many(epoch: u64, f: &mut Fib, what: impl Iterator<Item = u32>) {
    let ops: Vec<_> = what.map(|i| route(&format!("{}/24", Ipv4Addr::from(0x0b00_0000 + (i << 8))), Target::Unreachable)).collect();
    ops.chunks(MAX_OPS).for_each(|ops| f.program(Epoch(epoch), ops).unwrap());
}

/// The thread that sweeps also forwards: no call may do more than a little, and no answer may be wrong meanwhile.
#[test]
fn a_sweep_of_many_goes_in_slices_and_takes_new_programming_in_between() {
    const N: u32 = 20_000;
    let there = |f: &Fib, i: u32| f.route(Ipv4Addr::from(0x0b00_0001 + (i << 8))).is_some();
    let mut f = begun();
    many(1, &mut f, 0..N);
    f.program(Epoch(1), &(0..500).map(|t| tunnel(t, 1)).collect::<Vec<_>>()).unwrap();
    f.end(Epoch(1)).unwrap();
    while f.is_sweeping() {
        f.sweep();
    }
    assert_eq!((f.complete_epoch(), f.routes(), f.tunnels_there()), (Some(Epoch(1)), 20_000, 500));

    // The second snapshot renews every tenth.
    f.begin(Epoch(2));
    many(2, &mut f, (0..N).step_by(10));
    f.end(Epoch(2)).unwrap();
    assert_eq!(f.end(Epoch(2)), Err(Refused::NoSnapshot));
    assert!(f.is_sweeping());
    // While it is swept: a delta of it, behind and before where the sweep is; then a third that renews every fifth of
    // what is there and ends, and a fourth that only begins.
    many(2, &mut f, [1, N - 1].into_iter());
    f.begin(Epoch(3));
    many(3, &mut f, (0..N).step_by(50));
    f.end(Epoch(3)).unwrap();
    f.begin(Epoch(4));
    many(4, &mut f, std::iter::once(N - 2));
    let (mut calls, mut epochs) = (0, vec![]);
    while f.is_sweeping() {
        let (routes, tunnels) = (f.routes(), f.tunnels_there());
        f.sweep();
        assert!(routes - f.routes() + (tunnels - f.tunnels_there()) <= 128);
        assert!((0..N).step_by(50).all(|i| there(&f, i)) && there(&f, N - 2));
        if epochs.last() != Some(&f.complete_epoch()) {
            epochs.push(f.complete_epoch());
            assert_eq!(f.tunnels_there(), if epochs.len() == 1 { tunnels } else { 0 });
            if epochs.len() == 2 {
                let left = f.routes();
                assert_eq!(left, 2000 + 3, "what the second did not renew is gone, deltas are not");
            }
        }
        calls += 1;
        assert!(calls < 1000);
    }
    assert_eq!(epochs, [1, 2, 3].map(|e| Some(Epoch(e))));
    assert_eq!(f.routes(), 400 + 1);
    f.end(Epoch(4)).unwrap();
    while f.is_sweeping() {
        f.sweep();
    }
    assert_eq!((f.routes(), f.targets(), f.tunnels_known()), (1, 1, 0));
}

proptest! {
    /// Whatever is programmed, references balance: with all routes and tunnels gone, nothing is left.
    #[test]
    fn nothing_leaks(ops in vec((0u8..6, 0u8..6, 1u8..5, vec((0u32..3, 0u32..6), 1..4)), 1..200)) {
        let mut f = begun();
        let mut model: BTreeMap<u8, Vec<(u32, u32)>> = BTreeMap::new();
        let mut up: BTreeMap<u32, u8> = BTreeMap::new();
        for (i, (op, prefix, t, paths)) in ops.into_iter().enumerate() {
            let paths: Vec<_> = paths.into_iter().map(|(l, t)| (100 + l, t)).collect();
            let name = format!("10.{prefix}.0.0/16");
            let op = match op {
                0 => { up.insert(u32::from(t), t); tunnel(u32::from(t), t) }
                1 => { up.remove(&u32::from(t)); FibOp::TunnelGone { id: TunnelId(u32::from(t)) } }
                2 => { model.remove(&prefix); withdraw(&name) }
                _ => { model.insert(prefix, paths.clone()); route(&name, vpn(&paths)) }
            };
            f.program(Epoch(1), &[op]).unwrap();
            for (p, paths) in &model {
                let got = sent(&f, &format!("10.{p}.1.1"), (i as u64) << 56);
                match got {
                    None => prop_assert!(paths.iter().all(|(_, t)| !up.contains_key(t))),
                    Some((l, t)) => prop_assert!(paths.contains(&(l, u32::from(t))) && up.contains_key(&u32::from(t))),
                }
            }
        }
        prop_assert_eq!(f.tunnels_there(), up.len());
        prop_assert_eq!(f.routes(), model.len());
        f.begin(Epoch(2));
        f.end(Epoch(2)).unwrap();
        prop_assert_eq!((f.routes(), f.targets(), f.tunnels_there(), f.tunnels_known()), (0, 0, 0, 0));
    }
}
