use super::*;
use crate::{
    config::{CoreInterface, CoreRoute},
    core_net::Neighbor,
    rib::Learned,
};
use edgeplex_types::MacAddr;
use proptest::prelude::*;

fn prefix(n: u8) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, n, 0, 0), 16).unwrap()
}

fn endpoint(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

fn core() -> CoreNet {
    let mut core = CoreNet::default();
    let own = CoreInterface { name: "core0".into(), mac: MacAddr([2; 6]), address: "10.0.0.1/24".parse().unwrap() };
    let routes: Vec<_> = (2..6).map(|n| CoreRoute { prefix: endpoint(n).into(), via: Ipv4Addr::new(10, 0, 0, n) }).collect();
    core.configure(endpoint(1), &[own], &routes);
    (2..6).for_each(|n| core.want(endpoint(n)));
    core
}

fn neighbor(n: u8) -> Neighbor {
    Neighbor { interface: "core0".into(), address: Ipv4Addr::new(10, 0, 0, n) }
}

fn path(rd: u8, to: u8) -> Arc<Path> {
    Arc::new(Path {
        rd: Rd([0, 0, 0, 1, 0, 0, 0, rd]),
        from: Learned::Reflector(endpoint(9)),
        endpoint: endpoint(to),
        label: Label::try_from(1000 + u32::from(rd)).unwrap(),
        attributes: Arc::default(),
    })
}

/// What a PVM makes of a feed, checking the promised order on the way.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pvm {
    tunnels: BTreeMap<TunnelId, Tunnel>,
    routes: BTreeMap<Ipv4Net, (Label, TunnelId)>,
    ended: bool,
}

impl Pvm {
    fn take(&mut self, sync: Sync<VpnOp>) {
        match sync {
            Sync::Begin { .. } => *self = Self::default(),
            Sync::End { .. } => self.ended = true,
            Sync::Ops { ops, .. } => {
                assert!(ops.len() <= MAX_OPS);
                ops.into_iter().for_each(|op| self.op(op));
            }
        }
    }
    fn op(&mut self, op: VpnOp) {
        let net = |p| if let ipnet::IpNet::V4(p) = p { p } else { panic!("{p}") };
        match op {
            VpnOp::OwnLabel { .. } => {}
            VpnOp::Tunnel(t) => {
                self.tunnels.insert(t.id, t);
            }
            VpnOp::TunnelGone { id } => {
                assert!(self.tunnels.remove(&id).is_some(), "a tunnel never told goes");
                assert!(self.routes.values().all(|(_, t)| *t != id), "a tunnel goes before its last path");
            }
            VpnOp::Route { prefix, paths } => {
                assert!(self.tunnels.contains_key(&paths[0].tunnel), "a path before its tunnel");
                self.routes.insert(net(prefix), (paths[0].label, paths[0].tunnel));
            }
            VpnOp::Withdraw { prefix } => {
                assert!(self.routes.remove(&net(prefix)).is_some(), "a prefix never told is withdrawn");
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Path {
        prefix: u8,
        rd: u8,
        to: Option<u8>,
    },
    Neighbor {
        n: u8,
        mac: Option<u8>,
    },
    /// The PVM grants and takes this many messages.
    Take(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6, 0u8..3, prop::option::of(2u8..6)).prop_map(|(prefix, rd, to)| Step::Path { prefix, rd, to }),
        2 => (2u8..6, prop::option::of(0u8..3)).prop_map(|(n, mac)| Step::Neighbor { n, mac }),
        1 => (0u32..3).prop_map(Step::Take),
    ]
}

proptest! {
    /// However slowly it reads, a PVM ends up with exactly the usable best paths, and never sees them out of order.
    #[test]
    fn a_slow_pvm_converges_on_the_truth(steps in prop::collection::vec(step(), 0..60)) {
        let (mut core, mut vrf) = (core(), Vrf::new());
        let mut feed = Feed::new(Epoch(1), &vrf);
        let mut pvm = Pvm::default();
        for step in steps {
            match step {
                Step::Path { prefix: p, rd, to } => {
                    let paths = vrf.entry(prefix(p)).or_default();
                    let rd = path(rd, 2).rd;
                    match to {
                        Some(to) => drop(paths.insert(rd, path(rd.0[7], to))),
                        None => drop(paths.remove(&rd)),
                    }
                    feed.prefix_changed(prefix(p));
                }
                Step::Neighbor { n, mac } => {
                    for changed in core.neighbor(neighbor(n), mac.map(|m| MacAddr([2, 0, 0, 0, 1, m]))) {
                        feed.tunnel_changed(changed);
                        // The engine decides anew what uses the tunnel.
                        vrf.iter().filter(|(_, ps)| ps.values().any(|p| p.endpoint == changed)).for_each(|(p, _)| feed.prefix_changed(*p));
                    }
                }
                Step::Take(n) => {
                    feed.grant(n);
                    for _ in 0..n {
                        if let Some(sync) = feed.next(&core, &vrf, None, false) {
                            pvm.take(sync);
                        }
                    }
                }
            }
        }
        feed.grant(u32::MAX);
        while let Some(sync) = feed.next(&core, &vrf, None, true) {
            pvm.take(sync);
            feed.grant(1);
        }
        prop_assert!(pvm.ended);
        let truth: BTreeMap<_, _> = vrf.iter().filter_map(|(p, paths)| select(&core, paths).map(|(path, t)| (*p, (path.label, t.id)))).collect();
        prop_assert_eq!(&pvm.routes, &truth);
        let used: BTreeMap<_, _> = (2..6).filter_map(|n| core.tunnel(endpoint(n))).filter(|t| truth.values().any(|(_, id)| *id == t.id)).map(|t| (t.id, t.clone())).collect();
        prop_assert_eq!(&pvm.tunnels, &used);
    }
}

#[test]
fn nothing_but_the_beginning_is_said_without_credit_and_a_changed_mac_is_one_operation() {
    let mut core = core();
    core.neighbor(neighbor(2), Some(MacAddr([2, 0, 0, 0, 0, 2])));
    let vrf: Vrf = (0..200).map(|n| (prefix(n), [(path(1, 2).rd, path(1, 2))].into())).collect();
    let mut feed = Feed::new(Epoch(7), &vrf);
    let own = Label::try_from(1000).ok();
    assert_eq!(feed.next(&core, &vrf, own, true), Some(Sync::Begin { epoch: Epoch(7) }));
    assert_eq!(feed.next(&core, &vrf, own, true), None);
    feed.grant(2);
    let Some(Sync::Ops { ops, .. }) = feed.next(&core, &vrf, own, true) else { panic!() };
    assert_eq!(ops.len(), 202);
    assert!(matches!(ops[..2], [VpnOp::OwnLabel { .. }, VpnOp::Tunnel(_)]));
    assert_eq!(feed.next(&core, &vrf, own, false), None);
    assert_eq!(feed.next(&core, &vrf, own, true), Some(Sync::End { epoch: Epoch(7) }));
    core.neighbor(neighbor(2), Some(MacAddr([2, 0, 0, 0, 0, 3])));
    feed.tunnel_changed(endpoint(2));
    let Some(Sync::Ops { ops, .. }) = feed.next(&core, &vrf, own, true) else { panic!() };
    assert!(matches!(&ops[..], [VpnOp::Tunnel(t)] if t.destination_mac == MacAddr([2, 0, 0, 0, 0, 3])));
}
