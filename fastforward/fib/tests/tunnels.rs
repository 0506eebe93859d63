//! Tunnels with legs, backups, labels: what a change moves, and that it costs the same whatever is behind it.

#![allow(clippy::unwrap_used, reason = "tests")]

use edgeplex_ff_fib::{Fib, Incoming, api::*};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

fn label(n: u32) -> Label {
    n.try_into().unwrap()
}

fn tunnel(id: u32, to: &[u8]) -> FibOp {
    let mac = |n| MacAddr([2, 0, 0, 0, 1, n]);
    let legs = to.iter().map(|n| Leg { port: 0, transport: vec![label(16)], source_mac: mac(0), destination_mac: mac(*n) }).collect();
    FibOp::Tunnel(Tunnel { id: TunnelId(id), endpoint: Ipv4Addr::new(10, 255, 0, 2).into(), legs })
}

fn target(paths: &[(u32, u32)], backup: &[(u32, u32)]) -> Target {
    let of = |p: &[(u32, u32)]| p.iter().map(|(l, t)| VpnPath { label: label(*l), tunnel: TunnelId(*t) }).collect();
    Target::Vpn { paths: of(paths), backup: of(backup) }
}

fn begun() -> Fib {
    let mut f = Fib::default();
    f.begin(Epoch(1));
    f
}

/// The label and the last byte of the neighbour's MAC that a flow to this address gets.
fn sent(f: &Fib, a: Ipv4Addr, flow: u64) -> Option<(u32, u8)> {
    let (label, way) = f.path(f.route(a)?, flow)?;
    Some((label.get(), f.leg(way)?.destination.0[5]))
}

fn flows(n: u64) -> impl Iterator<Item = u64> {
    (1..=n).map(|i| {
        let z = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ z >> 31
    })
}

/// Routes of both versions with a path and a backup, in requests of the largest size.
fn load(f: &mut Fib, n: u32) {
    let ops: Vec<_> = (0..n)
        .map(|i| {
            let prefix: IpNet = if i % 4 == 0 {
                Ipv6Net::new((0x2001_0db8_u128 << 96 | u128::from(i) << 72).into(), 56).unwrap().into()
            } else {
                Ipv4Net::new((0x0b00_0000 + (i << 6)).into(), 26).unwrap().into()
            };
            // Some different labels, as of several customers' prefixes.
            FibOp::Route { prefix, target: target(&[(1000 + i % 50, 1)], &[(2000 + i % 50, 2)]) }
        })
        .collect();
    ops.chunks(MAX_OPS).for_each(|ops| f.program(Epoch(1), ops).unwrap());
}

/// Seconds that a tunnel's loss and return take: the least of many, which is what the code needs.
fn change(f: &mut Fib) -> Duration {
    let (down, up) = ([tunnel(1, &[])], [tunnel(1, &[1])]);
    let once = |_| {
        let began = Instant::now();
        f.program(Epoch(1), &down).unwrap();
        f.program(Epoch(1), &up).unwrap();
        began.elapsed()
    };
    (0..2000).map(once).min().unwrap()
}

#[test]
fn one_change_moves_two_hundred_thousand_prefixes_to_their_backup_at_no_cost_of_theirs() {
    const N: u32 = 200_000;
    let mut small = begun();
    let mut large = begun();
    for (f, n) in [(&mut small, 8), (&mut large, N)] {
        f.program(Epoch(1), &[tunnel(1, &[1]), tunnel(2, &[2])]).unwrap();
        load(f, n);
    }
    let all = |f: &Fib, base: u32, to: u8| {
        (0..N).filter(|i| i % 4 != 0).all(|i| sent(f, (0x0b00_0001 + (i << 6)).into(), 5) == Some((base + i % 50, to)))
    };
    assert!(all(&large, 1000, 1));
    large.program(Epoch(1), &[tunnel(1, &[])]).unwrap();
    assert!(all(&large, 2000, 2), "out of reach: there, without a leg");
    large.program(Epoch(1), &[tunnel(1, &[3])]).unwrap();
    assert!(all(&large, 1000, 3));
    large.program(Epoch(1), &[FibOp::TunnelGone { id: TunnelId(1) }]).unwrap();
    assert!(all(&large, 2000, 2));
    large.program(Epoch(1), &[tunnel(1, &[1])]).unwrap();
    let (few, many) = (change(&mut small), change(&mut large));
    println!("a tunnel's loss and return: {few:?} before 8 prefixes, {many:?} before {N}");
    assert!(many < few * 10 + Duration::from_micros(20), "{few:?} before 8 prefixes, {many:?} before {N}");
}

#[test]
fn legs_are_even_and_independent_of_the_path() {
    let mut f = begun();
    let route = FibOp::Route { prefix: "10.0.0.0/8".parse().unwrap(), target: target(&[(100, 1), (200, 2), (300, 3)], &[]) };
    f.program(Epoch(1), &[tunnel(1, &[1, 2, 3]), tunnel(2, &[1, 2, 3]), tunnel(3, &[1, 2, 3]), route]).unwrap();
    let count = |f: &Fib| {
        let mut seen = BTreeMap::<_, u32>::new();
        flows(9000).for_each(|flow| *seen.entry(sent(f, [10, 1, 1, 1].into(), flow).unwrap()).or_default() += 1);
        seen
    };
    let seen = count(&f);
    assert!(seen.len() == 9 && seen.values().all(|n| (880..1120).contains(n)), "{seen:?}");
    // With one tunnel down the flows that had to move are spread over legs as evenly.
    f.program(Epoch(1), &[tunnel(2, &[])]).unwrap();
    let seen = count(&f);
    assert!(seen.len() == 6 && seen.values().all(|n| (1350..1650).contains(n)), "{seen:?}");
}

#[test]
fn labels_lead_to_the_vrf_a_ce_a_tunnel_or_home_and_hold_what_they_name() {
    let mut f = begun();
    let ce = "2001:db8::2".parse().unwrap();
    let switch = |l, target| FibOp::Switch { label: label(l), target };
    f.program(
        Epoch(1),
        &[
            FibOp::OwnLabel { label: label(100), next_hop: None },
            FibOp::OwnLabel { label: label(101), next_hop: Some(ce) },
            FibOp::OwnLabel { label: label(102), next_hop: Some(ce) },
            switch(200, SwitchTarget::Tunnel(TunnelId(5))),
            switch(201, SwitchTarget::Pop),
        ],
    )
    .unwrap();
    assert_eq!(
        [100, 101, 102, 201, 999].map(|l| f.label(label(l))),
        [Some(Incoming::Vrf), Some(Incoming::NextHop(ce)), Some(Incoming::NextHop(ce)), Some(Incoming::Pop), None]
    );
    assert_eq!((f.labels(), f.targets(), f.tunnels_known(), f.tunnels_there()), (5, 1, 1, 0));
    let Some(Incoming::Tunnel(slot)) = f.label(label(200)) else { panic!() };
    assert_eq!(f.switch(slot, || 0), None);
    f.program(Epoch(1), &[tunnel(5, &[7])]).unwrap();
    assert_eq!(f.leg(f.switch(slot, || 0).unwrap()).unwrap().destination.0[5], 7);
    // A new meaning lets go of the old one.
    f.program(Epoch(1), &[switch(200, SwitchTarget::Pop), FibOp::OwnLabel { label: label(101), next_hop: None }]).unwrap();
    f.program(Epoch(1), &[FibOp::OwnLabelGone { label: label(102) }, FibOp::TunnelGone { id: TunnelId(5) }]).unwrap();
    assert_eq!((f.labels(), f.targets(), f.tunnels_known()), (4, 0, 0));
}

#[test]
fn labels_are_swept_in_slices() {
    let mut f = begun();
    let ops: Vec<_> =
        (0..5000).map(|i| FibOp::Switch { label: label(1000 + i), target: SwitchTarget::Tunnel(TunnelId(i % 300)) }).collect();
    ops.chunks(MAX_OPS).for_each(|ops| f.program(Epoch(1), ops).unwrap());
    f.end(Epoch(1)).unwrap();
    f.begin(Epoch(2));
    f.program(Epoch(2), &ops[..100]).unwrap();
    f.end(Epoch(2)).unwrap();
    while f.is_sweeping() {
        let before = f.labels();
        f.sweep();
        assert!(before - f.labels() <= 128);
        assert!((0..100).all(|i| f.label(label(1000 + i)).is_some()));
    }
    assert_eq!((f.labels(), f.tunnels_known(), f.complete_epoch()), (100, 100, Some(Epoch(2))));
}

proptest! {
    /// Whatever is programmed, a flow takes a path that is up if there is one, else a backup, and in the end nothing is left.
    #[test]
    fn a_path_if_one_is_up_else_a_backup(
        ops in vec((0u8..8, 0u8..4, 0u32..6, vec(0u8..5, 0..4), vec((0u32..3, 0u32..6), 1..4), vec((0u32..3, 0u32..6), 0..3)), 1..120),
        flow: u64,
    ) {
        let mut f = begun();
        let mut routes = BTreeMap::new();
        let mut tunnels: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for (op, n, id, to, paths, backup) in ops {
            let prefix = format!("10.{n}.0.0/16").parse().unwrap();
            let op = match op {
                0 | 1 => { tunnels.insert(id, to.clone()); tunnel(id, &to) }
                2 => { tunnels.remove(&id); FibOp::TunnelGone { id: TunnelId(id) } }
                3 => FibOp::Switch { label: label(100 + id), target: SwitchTarget::Tunnel(TunnelId(id)) },
                4 => FibOp::SwitchGone { label: label(100 + id) },
                5 => { routes.remove(&n); FibOp::Withdraw { prefix } }
                _ => {
                    let [p, b] = [&paths, &backup].map(|s| s.iter().map(|(l, t)| (100 + l, *t)).collect::<Vec<_>>());
                    let target = target(&p, &b);
                    routes.insert(n, (p, b));
                    FibOp::Route { prefix, target }
                }
            };
            f.program(Epoch(1), &[op]).unwrap();
            for (n, (paths, backup)) in &routes {
                let up = |set: &[(u32, u32)]| -> Vec<(u32, u8)> {
                    set.iter().flat_map(|(l, t)| tunnels.get(t).into_iter().flatten().map(|leg| (*l, *leg))).collect()
                };
                let may = Some(up(paths)).filter(|u| !u.is_empty()).unwrap_or(up(backup));
                match sent(&f, [10, *n, 1, 1].into(), flow) {
                    None => prop_assert!(may.is_empty()),
                    Some(to) => prop_assert!(may.contains(&to), "{to:?} of {may:?}"),
                }
            }
        }
        f.begin(Epoch(2));
        f.end(Epoch(2)).unwrap();
        while f.is_sweeping() {
            f.sweep();
        }
        prop_assert_eq!((f.routes(), f.labels(), f.targets(), f.tunnels_known()), (0, 0, 0, 0));
    }
}
