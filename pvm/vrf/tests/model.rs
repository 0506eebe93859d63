//! The RIB against a naive model: after any sequence of inputs, with readers that take as little as they like and
//! start again when they like, each reader's table equals what a recomputation from scratch gives.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp_wire::{AsPath, Attributes};
use edgeplex_ff_fib_api::{FibOp, Target};
use edgeplex_pvm_vrf::{CeOp, Customer, Source, StaticRoute, Vrf, VrfConfig};
use edgeplex_relay::{CustomerOp, Sync, Tunnel, VpnOp, VpnPath};
use edgeplex_types::{Epoch, Label, TunnelId};
use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

const CE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const PREFIXES: [&str; 7] =
    ["0.0.0.0/0", "10.1.0.0/16", "10.2.0.0/16", "10.9.0.0/16", "192.168.1.0/30", "192.168.1.1/32", "192.168.1.2/32"];

fn prefix(i: usize) -> Ipv4Net {
    PREFIXES[i].parse().unwrap()
}

fn config() -> VrfConfig {
    VrfConfig {
        local_as: 65000,
        mac: "02:00:00:00:00:01".parse().unwrap(),
        address: "192.168.1.1/30".parse().unwrap(),
        customer_mtu: 1500,
        core_mtu: 1600,
        customer: Some(Customer { address: CE, remote_as: 65101 }),
        statics: vec![StaticRoute { prefix: prefix(3), via: CE }],
    }
}

#[derive(Debug, Clone)]
struct Path {
    tunnel: u32,
    label: u32,
    length: u32,
    local_pref: Option<u32>,
}

#[derive(Debug, Clone)]
enum Step {
    Announce(usize, u32),
    Withdraw(usize),
    SessionUp,
    Sweep,
    SessionDown(bool),
    VpnBegin,
    VpnEnd,
    VpnRoute(usize, Vec<Path>),
    VpnWithdraw(usize),
    Tunnel(u32, u8),
    TunnelGone(u32),
    FibTake(usize),
    FibRestart,
    RelayTake(usize),
    RelayRestart,
    CeTake(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let p = 0..PREFIXES.len();
    let path = (0u32..3, 100u32..103, 0u32..3, prop::option::of(prop_oneof![Just(50u32), Just(100), Just(200)]))
        .prop_map(|(tunnel, label, length, local_pref)| Path { tunnel, label, length, local_pref });
    prop_oneof![
        3 => (p.clone(), 1u32..4).prop_map(|(p, n)| Step::Announce(p, n)),
        2 => p.clone().prop_map(Step::Withdraw),
        1 => Just(Step::SessionUp),
        1 => Just(Step::Sweep),
        1 => any::<bool>().prop_map(Step::SessionDown),
        1 => Just(Step::VpnBegin),
        1 => Just(Step::VpnEnd),
        4 => (p.clone(), prop::collection::vec(path, 0..4)).prop_map(|(p, v)| Step::VpnRoute(p, v)),
        1 => p.prop_map(Step::VpnWithdraw),
        3 => (0u32..3, 1u8..3).prop_map(|(t, mac)| Step::Tunnel(t, mac)),
        1 => (0u32..3).prop_map(Step::TunnelGone),
        3 => (2usize..6).prop_map(Step::FibTake),
        1 => Just(Step::FibRestart),
        2 => (1usize..4).prop_map(Step::RelayTake),
        1 => Just(Step::RelayRestart),
        2 => (1usize..4).prop_map(Step::CeTake),
    ]
}

fn attributes(first: u32, length: u32, local_pref: Option<u32>) -> Attributes {
    let asns: Vec<u32> = (0..length).map(|i| first + i).collect();
    Attributes { as_path: AsPath::sequence(asns), local_pref, ..Attributes::default() }
}

fn tunnel(id: u32, mac: u8) -> Tunnel {
    let of = |last| edgeplex_types::MacAddr([2, 0, 0, 0, 9, last]);
    let endpoint = IpAddr::from([10, 255, 0, 2]);
    Tunnel { id: TunnelId(id), endpoint, transport: vec![], source_mac: of(0), destination_mac: of(mac) }
}

/// The naive RIB: every input in plain maps, everything computed from scratch.
#[derive(Debug, Default)]
struct Model {
    session: u64,
    ce: BTreeMap<Ipv4Net, (u64, u32)>,
    epoch: Option<u64>,
    routes: BTreeMap<Ipv4Net, (u64, Vec<Path>)>,
    tunnels: BTreeMap<u32, (u64, u8)>,
}

#[derive(Debug, PartialEq)]
enum Choice {
    Local,
    Connected,
    Static,
    Customer(u32),
    Vpn(Vec<Path>),
}

impl PartialEq for Path {
    fn eq(&self, o: &Self) -> bool {
        (self.tunnel, self.label, self.length, self.local_pref) == (o.tunnel, o.label, o.length, o.local_pref)
    }
}

impl Model {
    fn choose(&self, p: Ipv4Net) -> Option<Choice> {
        if p == prefix(5) {
            return Some(Choice::Local);
        }
        if p == prefix(4) {
            return Some(Choice::Connected);
        }
        if p == prefix(3) {
            return Some(Choice::Static);
        }
        let paths: Vec<&Path> =
            self.routes.get(&p).into_iter().flat_map(|(_, v)| v).filter(|x| self.tunnels.contains_key(&x.tunnel)).collect();
        let ce = self.ce.get(&p).map(|(_, n)| *n);
        let Some(first) = paths.first() else { return ce.map(Choice::Customer) };
        if let Some(n) = ce {
            let preference = first.local_pref.unwrap_or(100);
            if preference < 100 || (preference == 100 && n <= first.length) {
                return Some(Choice::Customer(n));
            }
        }
        let mut equal: Vec<Path> = vec![];
        for x in &paths {
            let same = x.local_pref == first.local_pref && x.length == first.length;
            if same && !equal.iter().any(|e| (e.tunnel, e.label) == (x.tunnel, x.label)) {
                equal.push((*x).clone());
            }
        }
        Some(Choice::Vpn(equal))
    }
}

/// FastForward: sweeps by epoch, and refuses a stream out of order.
#[derive(Debug, Default)]
struct Fib {
    epoch: u64,
    routes: BTreeMap<IpNet, (u64, Target)>,
    tunnels: BTreeMap<TunnelId, (u64, edgeplex_ff_fib_api::Tunnel)>,
}

impl Fib {
    fn program(&mut self, ops: Vec<FibOp>) {
        for op in ops {
            match op {
                FibOp::Route { prefix, target } => {
                    if let Target::Vpn { paths } = &target {
                        assert!(!paths.is_empty());
                        for p in paths {
                            assert!(self.tunnels.get(&p.tunnel).is_some_and(|(e, _)| *e == self.epoch), "tunnel before first route");
                        }
                    }
                    self.routes.insert(prefix, (self.epoch, target));
                }
                FibOp::Withdraw { prefix } => {
                    let (epoch, _) = self.routes.remove(&prefix).expect("withdraw of a route that is there");
                    assert_eq!(epoch, self.epoch, "withdraw of a route told in this session");
                }
                FibOp::Tunnel(t) => {
                    self.tunnels.insert(t.id, (self.epoch, t));
                }
                FibOp::TunnelGone { id } => {
                    let used = self.routes.values().any(|(epoch, t)| {
                        *epoch == self.epoch && matches!(t, Target::Vpn { paths } if paths.iter().any(|p| p.tunnel == id))
                    });
                    assert!(!used, "tunnel gone after the last route");
                    assert!(self.tunnels.remove(&id).is_some());
                }
                FibOp::Interface(_) | FibOp::OwnLabel { .. } => {}
            }
        }
    }

    fn end(&mut self) {
        let epoch = self.epoch;
        self.routes.retain(|_, (e, _)| *e == epoch);
        self.tunnels.retain(|_, (e, _)| *e == epoch);
    }
}

/// A reader of routes with attributes.
#[derive(Debug, Default)]
struct Mirror(BTreeMap<Ipv4Net, Vec<u8>>);

fn v4(p: IpNet) -> Ipv4Net {
    match p {
        IpNet::V4(p) => p,
        IpNet::V6(_) => panic!("no IPv6 here"),
    }
}

#[derive(Debug, Default)]
struct Readers {
    fib: Fib,
    relay: Mirror,
    told_cvm: BTreeSet<Ipv4Net>,
    ce: Mirror,
}

impl Readers {
    fn relay(&mut self, ops: Vec<CustomerOp>) {
        for op in ops {
            match op {
                CustomerOp::Route { prefix, attributes } => {
                    self.relay.0.insert(v4(prefix), attributes);
                    self.told_cvm.insert(v4(prefix));
                }
                CustomerOp::Withdraw { prefix } => {
                    assert!(self.told_cvm.remove(&v4(prefix)), "withdraw of a route told in this session");
                    self.relay.0.remove(&v4(prefix));
                }
            }
        }
    }

    fn ce(&mut self, ops: Vec<CeOp>) {
        for op in ops {
            match op {
                CeOp::Advertise { prefix, attributes } => {
                    self.ce.0.insert(prefix, attributes.to_bytes());
                }
                CeOp::Withdraw { prefix } => assert!(self.ce.0.remove(&prefix).is_some()),
            }
        }
    }
}

fn apply(step: Step, vrf: &mut Vrf, model: &mut Model, readers: &mut Readers) {
    let epoch = |m: &Model| Epoch(m.epoch.unwrap_or(0));
    let op = |vrf: &mut Vrf, m: &Model, op| vrf.vpn(Sync::Ops { epoch: epoch(m), ops: vec![op] });
    match step {
        Step::Announce(i, length) => {
            let p = prefix(i);
            vrf.customer_update(&Arc::new(attributes(65101, length, None)), CE.into(), [p], []);
            if i != 5 {
                model.ce.insert(p, (model.session, length));
            }
        }
        Step::Withdraw(i) => {
            vrf.customer_update(&Arc::default(), CE.into(), [], [prefix(i)]);
            model.ce.remove(&prefix(i));
        }
        Step::SessionUp => {
            vrf.customer_up();
            model.session += 1;
        }
        Step::Sweep => {
            vrf.customer_sweep();
            let session = model.session;
            model.ce.retain(|_, (s, _)| *s == session);
        }
        Step::SessionDown(keep) => {
            vrf.customer_down(keep);
            let session = model.session;
            model.ce.retain(|_, (s, _)| keep && *s == session);
        }
        Step::VpnBegin => {
            model.epoch = Some(model.epoch.map_or(1, |e| e + 1));
            vrf.vpn(Sync::Begin { epoch: epoch(model) });
        }
        Step::VpnEnd => {
            let ended = vrf.vpn(Sync::End { epoch: epoch(model) });
            assert_eq!(ended, model.epoch.is_some());
            if let Some(e) = model.epoch {
                model.routes.retain(|_, (m, _)| *m == e);
                model.tunnels.retain(|_, (m, _)| *m == e);
            }
        }
        // Without a Begin, operations belong to nothing and are dropped.
        Step::VpnRoute(..) | Step::VpnWithdraw(_) | Step::Tunnel(..) | Step::TunnelGone(_) if model.epoch.is_none() => {}
        Step::VpnRoute(i, paths) => {
            let sent = paths
                .iter()
                .map(|p| VpnPath {
                    label: Label::try_from(p.label).unwrap(),
                    tunnel: TunnelId(p.tunnel),
                    attributes: attributes(65200, p.length, p.local_pref).to_bytes(),
                })
                .collect();
            op(vrf, model, VpnOp::Route { prefix: IpNet::V4(prefix(i)), paths: sent });
            model.routes.insert(prefix(i), (model.epoch.unwrap(), paths));
        }
        Step::VpnWithdraw(i) => {
            op(vrf, model, VpnOp::Withdraw { prefix: IpNet::V4(prefix(i)) });
            model.routes.remove(&prefix(i));
        }
        Step::Tunnel(id, mac) => {
            op(vrf, model, VpnOp::Tunnel(tunnel(id, mac)));
            model.tunnels.insert(id, (model.epoch.unwrap(), mac));
        }
        Step::TunnelGone(id) => {
            op(vrf, model, VpnOp::TunnelGone { id: TunnelId(id) });
            model.tunnels.remove(&id);
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
            readers.relay.0.clear();
            readers.told_cvm.clear();
        }
        Step::CeTake(n) => readers.ce(vrf.ce_ops(n)),
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
    while !vrf.ce_clean() {
        readers.ce(vrf.ce_ops(3));
    }
    let mut want_fib = BTreeMap::new();
    let (mut want_relay, mut want_ce) = (BTreeMap::new(), BTreeMap::new());
    for i in 0..PREFIXES.len() {
        let p = prefix(i);
        let customer = Target::Customer { next_hop: CE.into() };
        let redistributed = Attributes::default().to_bytes();
        let target = match model.choose(p) {
            None => continue,
            Some(Choice::Local) => Target::Local,
            Some(Choice::Connected) => {
                want_relay.insert(p, redistributed);
                Target::Connected
            }
            Some(Choice::Static) => {
                want_relay.insert(p, redistributed);
                customer
            }
            Some(Choice::Customer(length)) => {
                want_relay.insert(p, attributes(65101, length, None).to_bytes());
                customer
            }
            Some(Choice::Vpn(paths)) => {
                let mut to_ce = attributes(65200, paths[0].length, None);
                to_ce.as_path.prepend(65000);
                want_ce.insert(p, to_ce.to_bytes());
                let path = |x: &Path| edgeplex_ff_fib_api::VpnPath { label: Label::try_from(x.label).unwrap(), tunnel: TunnelId(x.tunnel) };
                Target::Vpn { paths: paths.iter().map(path).collect() }
            }
        };
        want_fib.insert(IpNet::V4(p), target);
    }
    let have: BTreeMap<_, _> = readers.fib.routes.iter().map(|(p, (_, t))| (*p, t.clone())).collect();
    assert_eq!(have, want_fib);
    assert_eq!(readers.relay.0, want_relay);
    assert_eq!(readers.ce.0, want_ce);
    let have: BTreeMap<_, _> = readers.fib.tunnels.iter().map(|(id, (_, t))| (id.0, t.destination_mac.0[5])).collect();
    let want: BTreeMap<_, _> = model.tunnels.iter().map(|(id, (_, mac))| (*id, *mac)).collect();
    assert_eq!(have, want);
    let best = vrf.routes().iter().filter(|r| r.best && r.source != Source::Vpn).count();
    assert_eq!(best, want_fib.values().filter(|t| !matches!(t, Target::Vpn { .. })).count());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_ends_up_with_what_a_recomputation_gives(
        rounds in prop::collection::vec(prop::collection::vec(step(), 0..25), 1..4),
    ) {
        let mut vrf = Vrf::new(config());
        let (mut model, mut readers) = (Model::default(), Readers::default());
        for steps in rounds {
            for step in steps {
                apply(step, &mut vrf, &mut model, &mut readers);
            }
            check(&mut vrf, &model, &mut readers);
        }
    }
}
