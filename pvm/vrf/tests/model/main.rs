//! The RIB against a naive model: after any sequence of inputs and configurations, with readers that take as little as they
//! like and start again when they like, each reader's table equals what a recomputation from scratch gives.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

mod naive;
mod readers;

use edgeplex_bgp_wire::Attributes;
use edgeplex_pvm_vrf::{Source, Vrf};
use edgeplex_relay::{Leg, Sync, Tunnel, VpnOp, VpnPath};
use edgeplex_types::{Epoch, Label, MacAddr, TunnelId};
use ipnet::IpNet;
use naive::{Model, Path, attributes, ces, config};
use proptest::prelude::*;
use readers::Readers;
use std::{net::IpAddr, sync::Arc};

const PREFIXES: [&str; 11] = [
    "0.0.0.0/0",
    "10.1.0.0/16",
    "10.2.0.0/16",
    "10.9.0.0/16",
    "192.168.1.0/29",
    "192.168.1.1/32",
    "192.168.1.2/32",
    "::/0",
    "2001:db8:a::/48",
    "2001:db8:b::/48",
    "2001:db8:1::1/128",
];

fn prefix(i: usize) -> IpNet {
    PREFIXES[i].parse().unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    /// CE, prefix, length of the path.
    Announce(usize, usize, u32),
    Withdraw(usize, usize),
    /// CE, last byte of its BGP identifier.
    SessionUp(usize, u8),
    Sweep(usize),
    SessionDown(usize, bool),
    Configure(usize),
    Bfd(bool),
    VpnBegin,
    VpnEnd,
    VpnRoute(usize, Vec<Path>, Vec<Path>),
    VpnWithdraw(usize),
    /// Number, and how many legs it has.
    Tunnel(u32, u8),
    TunnelGone(u32),
    OwnLabel(u32, Option<usize>),
    OwnLabelGone(u32),
    FibTake(usize),
    FibRestart,
    RelayTake(usize),
    RelayRestart,
    CeTake(usize, usize),
    CeRestart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let p = 0..PREFIXES.len();
    let path = (0u32..3, 100u32..103, 0u32..3, prop::option::of(prop_oneof![Just(50u32), Just(100), Just(200)]))
        .prop_map(|(tunnel, label, length, local_pref)| Path { tunnel, label, length, local_pref });
    let paths = || prop::collection::vec(path.clone(), 0..4);
    prop_oneof![
        5 => (0usize..3, p.clone(), 1u32..4).prop_map(|(ce, p, n)| Step::Announce(ce, p, n)),
        2 => (0usize..3, p.clone()).prop_map(|(ce, p)| Step::Withdraw(ce, p)),
        1 => (0usize..3, 1u8..4).prop_map(|(ce, id)| Step::SessionUp(ce, id)),
        1 => (0usize..3).prop_map(Step::Sweep),
        1 => (0usize..3, any::<bool>()).prop_map(|(ce, keep)| Step::SessionDown(ce, keep)),
        2 => (0..naive::CONFIGS).prop_map(Step::Configure),
        1 => any::<bool>().prop_map(Step::Bfd),
        1 => Just(Step::VpnBegin),
        1 => Just(Step::VpnEnd),
        5 => (p.clone(), paths(), paths()).prop_map(|(p, paths, backup)| Step::VpnRoute(p, paths, backup)),
        1 => p.prop_map(Step::VpnWithdraw),
        3 => (0u32..3, 0u8..3).prop_map(|(t, legs)| Step::Tunnel(t, legs)),
        1 => (0u32..3).prop_map(Step::TunnelGone),
        1 => (20u32..23, prop::option::of(0usize..3)).prop_map(|(l, ce)| Step::OwnLabel(l, ce)),
        1 => (20u32..23).prop_map(Step::OwnLabelGone),
        3 => (2usize..6).prop_map(Step::FibTake),
        1 => Just(Step::FibRestart),
        2 => (1usize..4).prop_map(Step::RelayTake),
        1 => Just(Step::RelayRestart),
        2 => (0usize..3, 1usize..4).prop_map(|(ce, n)| Step::CeTake(ce, n)),
        1 => (0usize..3).prop_map(Step::CeRestart),
    ]
}

fn label(l: u32) -> Label {
    Label::try_from(l).unwrap()
}

fn tunnel(id: u32, legs: u8) -> Tunnel {
    let of = |last| MacAddr([2, 0, 0, 0, 9, last]);
    let leg = |i| Leg { transport: vec![label(u32::from(i) + 50)], source_mac: of(0), destination_mac: of(i + 1) };
    Tunnel { id: TunnelId(id), endpoint: IpAddr::from([10, 255, 0, 2]), legs: (0..legs).map(leg).collect() }
}

fn apply(step: Step, vrf: &mut Vrf, model: &mut Model, readers: &mut Readers) {
    let epoch = |m: &Model| Epoch(m.epoch.unwrap_or(0));
    let op = |vrf: &mut Vrf, m: &Model, op| vrf.vpn(Sync::Ops { epoch: epoch(m), ops: vec![op] });
    let ce = |i: usize| ces()[i].0;
    match step {
        Step::Announce(i, p, length) => {
            let (address, asn) = ces()[i];
            vrf.customer_update(address, &Arc::new(attributes(asn, length, None)), address, [prefix(p)], []);
            model.announce(address, prefix(p), length);
        }
        Step::Withdraw(i, p) => {
            vrf.customer_update(ce(i), &Arc::default(), ce(i), [], [prefix(p)]);
            model.withdraw(ce(i), prefix(p));
        }
        Step::SessionUp(i, id) => {
            vrf.customer_up(ce(i), [10, 0, 0, id].into());
            model.session_up(ce(i), [10, 0, 0, id].into());
        }
        Step::Sweep(i) => {
            vrf.customer_sweep(ce(i));
            model.sweep(ce(i));
        }
        Step::SessionDown(i, keep) => {
            vrf.customer_down(ce(i), keep);
            model.session_down(ce(i), keep);
        }
        Step::Configure(i) => {
            vrf.reconfigure(config(i));
            model.configure(i);
            readers.ces.retain(|address, _| config(i).neighbors.iter().any(|n| n.address == *address));
        }
        Step::Bfd(up) => {
            vrf.bfd(ce(0), up);
            model.bfd_up = up;
        }
        Step::VpnBegin => {
            model.epoch = Some(model.epoch.map_or(1, |e| e + 1));
            vrf.vpn(Sync::Begin { epoch: epoch(model) });
        }
        Step::VpnEnd => {
            let ended = vrf.vpn(Sync::End { epoch: epoch(model) });
            assert_eq!(ended, model.epoch.is_some());
            model.vpn_end();
        }
        Step::FibTake(n) => {
            let ops = vrf.fib_ops(n, true);
            assert!(ops.len() <= n);
            readers.fib.program(ops);
        }
        Step::FibRestart => {
            vrf.fib_restart();
            readers.fib.epoch += 1;
        }
        Step::RelayTake(n) => readers.relay(vrf.relay_ops(n)),
        Step::RelayRestart => {
            vrf.relay_restart();
            readers.relay.clear();
        }
        Step::CeTake(i, n) => readers.ce(ce(i), vrf.ce_ops(ce(i), n)),
        Step::CeRestart(i) => {
            vrf.ce_restart(ce(i));
            readers.ces.remove(&ce(i));
        }
        // Without a Begin, operations belong to nothing and are dropped.
        _ if model.epoch.is_none() => {}
        Step::VpnRoute(i, paths, backup) => {
            let sent = |paths: &[Path]| -> Vec<VpnPath> {
                let sent = paths.iter().map(|p| VpnPath {
                    label: label(p.label),
                    tunnel: TunnelId(p.tunnel),
                    attributes: attributes(65200, p.length, p.local_pref).to_bytes(),
                });
                sent.collect()
            };
            op(vrf, model, VpnOp::Route { prefix: prefix(i), paths: sent(&paths), backup: sent(&backup) });
            model.routes.insert(prefix(i), (model.epoch.unwrap(), paths, backup));
        }
        Step::VpnWithdraw(i) => {
            op(vrf, model, VpnOp::Withdraw { prefix: prefix(i) });
            model.routes.remove(&prefix(i));
        }
        Step::Tunnel(id, legs) => {
            op(vrf, model, VpnOp::Tunnel(tunnel(id, legs)));
            model.tunnels.insert(id, (model.epoch.unwrap(), legs));
        }
        Step::TunnelGone(id) => {
            op(vrf, model, VpnOp::TunnelGone { id: TunnelId(id) });
            model.tunnels.remove(&id);
        }
        Step::OwnLabel(l, i) => {
            op(vrf, model, VpnOp::OwnLabel { label: label(l), next_hop: i.map(ce) });
            model.labels.insert(l, (model.epoch.unwrap(), i.map(ce)));
        }
        Step::OwnLabelGone(l) => {
            op(vrf, model, VpnOp::OwnLabelGone { label: label(l) });
            model.labels.remove(&l);
        }
    }
}

fn check(vrf: &mut Vrf, model: &Model, readers: &mut Readers) {
    while !vrf.fib_clean() {
        readers.fib.program(vrf.fib_ops(3, true));
    }
    readers.fib.end();
    while !vrf.relay_clean() {
        readers.relay(vrf.relay_ops(3));
    }
    for (ce, _) in ces() {
        while !vrf.ce_clean(ce) {
            readers.ce(ce, vrf.ce_ops(ce, 3));
        }
    }
    let want = model.tables();
    assert_eq!(readers.fib.targets(), want.fib);
    assert_eq!(readers.fib.label_table(), want.labels);
    assert_eq!(readers.fib.legs(), want.tunnels);
    assert_eq!(readers.relay.table, want.relay);
    for (ce, _) in ces() {
        let of = |tables: &std::collections::BTreeMap<IpAddr, _>| tables.get(&ce).cloned().unwrap_or_default();
        assert_eq!(of(&readers.ces), of(&want.ces), "{ce}");
    }
    // What people see: one best route a prefix, and it is the one in use.
    let rows = vrf.routes();
    for p in PREFIXES.iter().map(|p| p.parse::<IpNet>().unwrap()) {
        let best: Vec<_> = rows.iter().filter(|r| r.prefix == p && r.best).map(|r| r.source).collect();
        assert_eq!(best.len(), usize::from(want.fib.contains_key(&p)), "{p}: {best:?}");
        let (shared, kept) = want.fib.get(&p).map_or((0, 0), naive::width);
        let count = |f: fn(&edgeplex_pvm_vrf::RouteView) -> bool| rows.iter().filter(|r| r.prefix == p && f(r)).count();
        assert_eq!(count(|r| r.source == Source::Vpn && (r.best || r.multipath)), shared, "{p}");
        assert_eq!(count(|r| r.backup), kept, "{p}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_ends_up_with_what_a_recomputation_gives(
        rounds in prop::collection::vec(prop::collection::vec(step(), 0..30), 1..4),
    ) {
        let mut vrf = Vrf::new(config(0));
        let (mut model, mut readers) = (Model::new(), Readers::default());
        for steps in rounds {
            for step in steps {
                apply(step, &mut vrf, &mut model, &mut readers);
            }
            check(&mut vrf, &model, &mut readers);
        }
    }
}

#[test]
fn attributes_of_the_model_are_what_the_codec_says() {
    let a = attributes(65101, 2, Some(7));
    assert_eq!(Attributes::from_bytes(&a.to_bytes()).unwrap(), a);
}
