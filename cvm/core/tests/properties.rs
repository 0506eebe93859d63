//! Whatever happens, in whatever order: what is told is what is true, and never leads to the dead.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Owner, Table, config, hop, ip, label, mac, net};
use edgeplex_cvm_core::{Config, Interface};
use edgeplex_ff_fib_api::SwitchTarget;
use edgeplex_ldp::Fec;
use edgeplex_ospf::{Route, RouteKind};
use edgeplex_types::{Label, MacAddr, NextHop};
use ipnet::Ipv4Net;
use proptest::{
    collection::{btree_map, btree_set, vec},
    option::{of, weighted},
    prelude::*,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

const HOPS: [&str; 4] = ["10.0.0.2", "10.0.0.3", "10.0.1.2", "10.0.1.3"];
const PREFIXES: [&str; 5] = ["10.255.0.2/32", "10.255.0.3/32", "10.255.0.0/24", "0.0.0.0/0", "10.0.1.0/24"];
const ENDPOINTS: [&str; 5] = ["10.255.0.1", "10.255.0.2", "10.255.0.3", "10.0.0.3", "10.255.0.77"];

/// Of each neighbour.
type Labels = BTreeMap<usize, Option<u32>>;

#[derive(Debug, Clone)]
enum Event {
    Configure { ldp: bool, interfaces: usize, static_route: Option<(usize, usize)> },
    Want(BTreeSet<usize>),
    Neighbor(usize, Option<u8>),
    Router(usize, Option<usize>),
    Liveness(usize, bool),
    Ospf(BTreeMap<usize, (BTreeSet<usize>, BTreeSet<usize>)>),
    Ldp(BTreeMap<usize, (Option<u32>, bool, Labels)>),
    Connected,
}

fn event() -> impl Strategy<Value = Event> {
    let hops = || btree_set(0..HOPS.len(), 0..3);
    // A label of each prefix alone, as LDP gives them.
    let remote = || of(prop_oneof![Just(3u32), Just(0), Just(1), 16..40u32]);
    prop_oneof![
        1 => (any::<bool>(), 1..3usize, of((0..PREFIXES.len(), 0..HOPS.len())))
            .prop_map(|(ldp, interfaces, static_route)| Event::Configure { ldp, interfaces, static_route }),
        2 => btree_set(0..ENDPOINTS.len(), 0..5).prop_map(Event::Want),
        4 => (0..HOPS.len(), weighted(0.8, 0..3u8)).prop_map(|(h, m)| Event::Neighbor(h, m)),
        2 => (0..HOPS.len(), of(0..ENDPOINTS.len())).prop_map(|(h, e)| Event::Router(h, e)),
        3 => (0..HOPS.len(), any::<bool>()).prop_map(|(h, alive)| Event::Liveness(h, alive)),
        4 => btree_map(0..PREFIXES.len(), (hops(), hops()), 0..5).prop_map(Event::Ospf),
        4 => btree_map(0..PREFIXES.len(), (of(any::<bool>()), any::<bool>(), btree_map(0..HOPS.len(), remote(), 0..4)), 0..5)
            .prop_map(|fecs| Event::Ldp(fecs.into_iter().map(|(p, (local, egress, hops))| {
                // Ours: one for each prefix, or implicit null.
                let local = local.map(|own| if own { 600 + u32::try_from(p).unwrap() } else { 3 });
                (p, (local, egress, hops))
            }).collect())),
        1 => Just(Event::Connected),
    ]
}

/// What is true, kept apart from the core.
#[derive(Debug, Clone)]
struct Truth {
    config: Config,
    wanted: BTreeSet<Ipv4Addr>,
    macs: BTreeMap<NextHop, MacAddr>,
    routers: BTreeMap<NextHop, Ipv4Addr>,
    dead: BTreeSet<NextHop>,
    ospf: Arc<BTreeMap<Ipv4Net, Route>>,
    ldp: Arc<BTreeMap<Ipv4Net, Fec>>,
}

fn set<V>(map: &mut BTreeMap<NextHop, V>, key: &NextHop, value: Option<V>) {
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    };
}

impl Truth {
    fn there(&self, hop: &NextHop) -> bool {
        self.config.interfaces.iter().any(|i| i.name == hop.interface)
    }

    fn interface(&self, source: MacAddr) -> &Interface {
        self.config.interfaces.iter().find(|i| i.mac == source).unwrap()
    }

    fn happens(&mut self, owner: &mut Owner, event: Event) {
        let core = &mut owner.core;
        match event {
            Event::Configure { ldp, interfaces, static_route } => {
                let static_routes: Vec<_> = static_route.iter().map(|(p, h)| (PREFIXES[*p], HOPS[*h])).collect();
                self.config = config(&static_routes);
                self.config.interfaces.truncate(interfaces);
                self.config.interfaces.iter_mut().for_each(|i| i.ldp = ldp);
                for gone in HOPS.map(hop).into_iter().filter(|h| !self.there(h)).collect::<Vec<_>>() {
                    self.macs.remove(&gone);
                    self.routers.remove(&gone);
                    self.dead.remove(&gone);
                }
                core.configure(self.config.clone());
            }
            Event::Want(endpoints) => {
                self.wanted = endpoints.into_iter().map(|e| ip(ENDPOINTS[e])).collect();
                core.want(self.wanted.clone());
                owner.tunnels.retain(|e, _| self.wanted.contains(e));
            }
            Event::Neighbor(h, m) => {
                // Each neighbour has MAC addresses of its own.
                let (at, m) = (hop(HOPS[h]), m.map(|m| mac(20 + 10 * u8::try_from(h).unwrap() + m)));
                if self.there(&at) {
                    set(&mut self.macs, &at, m);
                }
                core.neighbor(at, m);
            }
            Event::Router(h, e) if self.there(&hop(HOPS[h])) => {
                let (at, id) = (hop(HOPS[h]), e.map(|e| ip(ENDPOINTS[e])));
                set(&mut self.routers, &at, id);
                core.router(at, id);
            }
            Event::Liveness(h, alive) if self.there(&hop(HOPS[h])) => {
                let at = hop(HOPS[h]);
                if alive {
                    self.dead.remove(&at)
                } else {
                    self.dead.insert(at.clone())
                };
                core.liveness(at, alive);
            }
            Event::Router(..) | Event::Liveness(..) => {}
            Event::Ospf(routes) => {
                let hops = |set: BTreeSet<usize>| set.into_iter().map(|h| hop(HOPS[h])).collect();
                let route = |(next_hops, backup)| Route {
                    kind: RouteKind::IntraArea,
                    cost: 5,
                    next_hops: hops(next_hops),
                    backup: hops(backup),
                    connected: false,
                };
                self.ospf = Arc::new(routes.into_iter().map(|(p, r)| (net(PREFIXES[p]), route(r))).collect());
                core.ospf(self.ospf.clone());
            }
            Event::Ldp(fecs) => {
                let hops = |map: BTreeMap<usize, Option<u32>>| map.into_iter().map(|(h, l)| (hop(HOPS[h]), l.map(label))).collect();
                let fec = |(local, egress, map): (Option<u32>, bool, _)| Fec { local: local.map(label), egress, hops: hops(map) };
                self.ldp = Arc::new(fecs.into_iter().map(|(p, f)| (net(PREFIXES[p]), fec(f))).collect());
                core.ldp(self.ldp.clone());
            }
            Event::Connected => {
                core.lsr_restart();
                owner.table = Table::default();
                owner.program();
            }
        }
        owner.work();
    }

    /// The neighbour a leg goes to; it is alive, and the MAC address is its own.
    fn neighbor(&self, source: MacAddr, destination: MacAddr) -> NextHop {
        let interface = self.interface(source).name.clone();
        let hop = self.macs.iter().find(|(h, m)| **m == destination && h.interface == interface).expect("a leg without a neighbour").0;
        assert!(!self.dead.contains(hop), "a leg to the dead {hop}");
        hop.clone()
    }

    fn label_of(&self, prefix: &Ipv4Net, hop: &NextHop) -> Option<Label> {
        self.ldp.get(prefix)?.hops.iter().find(|(h, _)| h == hop)?.1
    }

    fn check(&self, owner: &Owner) {
        for (endpoint, state) in owner.tunnels.iter().filter(|(e, _)| **e != self.config.loopback) {
            assert!(self.wanted.contains(endpoint));
            for leg in &state.tunnel.legs {
                let hop = self.neighbor(leg.source_mac, leg.destination_mac);
                let given = self.label_of(&Ipv4Net::from(*endpoint), &hop);
                match leg.transport[..] {
                    [outer] => assert_eq!(Some(outer), given, "a label nobody gave"),
                    [] => {
                        let is_the_end = hop.address == *endpoint || self.routers.get(&hop) == Some(endpoint);
                        let by_hand = !self.interface(leg.source_mac).ldp && !self.config.static_routes.is_empty();
                        assert!(given == Some(Label::IMPLICIT_NULL) || is_the_end || by_hand, "{endpoint}: an LSP that is not complete");
                    }
                    _ => panic!("{leg:?}"),
                }
            }
        }
        let said: BTreeMap<Label, (&Ipv4Net, &Fec)> =
            self.ldp.iter().filter_map(|(p, f)| Some((f.local.filter(|l| !l.is_reserved())?, (p, f)))).collect();
        assert!(owner.table.labels.keys().eq(said.keys()), "the label map is not LDP's");
        for (label, target) in &owner.table.labels {
            let (prefix, fec) = said[label];
            assert_eq!(*target == SwitchTarget::Pop, fec.egress);
            let SwitchTarget::Tunnel(id) = target else { continue };
            for leg in &owner.table.tunnels[id].legs {
                let hop = self.neighbor(leg.source_mac, leg.destination_mac);
                let given = self.label_of(prefix, &hop).expect("a leg without a label");
                assert_eq!(leg.transport, if given == Label::IMPLICIT_NULL { vec![] } else { vec![given] });
            }
        }
        let swapped = owner.table.labels.values().filter(|t| **t != SwitchTarget::Pop).count();
        assert_eq!(owner.table.tunnels.len(), swapped, "a tunnel nobody uses");
        for (prefix, hops) in owner.core.kernel_routes() {
            assert!(!hops.is_empty() && hops.iter().all(|h| !self.dead.contains(h) && self.there(h)), "{prefix}");
        }
    }

    /// A core that hears only what is true now.
    fn afresh(&self) -> Owner {
        let mut owner = Owner::new(self.config.clone());
        owner.core.want(self.wanted.clone());
        self.macs.iter().for_each(|(h, m)| owner.core.neighbor(h.clone(), Some(*m)));
        self.routers.iter().for_each(|(h, id)| owner.core.router(h.clone(), Some(*id)));
        self.dead.iter().for_each(|h| owner.core.liveness(h.clone(), false));
        owner.core.ospf(self.ospf.clone());
        owner.core.ldp(self.ldp.clone());
        owner.work();
        owner
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_was_told_step_by_step_is_what_is_true_now(events in vec(event(), 1..60)) {
        let mut truth = Truth {
            config: config(&[]),
            wanted: BTreeSet::new(),
            macs: BTreeMap::new(),
            routers: BTreeMap::new(),
            dead: BTreeSet::new(),
            ospf: Arc::default(),
            ldp: Arc::default(),
        };
        let mut owner = Owner::new(truth.config.clone());
        for event in events {
            truth.happens(&mut owner, event);
            truth.check(&owner);
        }
        let fresh = truth.afresh();
        prop_assert_eq!(&owner.tunnels, &fresh.tunnels);
        prop_assert_eq!(owner.core.kernel_routes(), fresh.core.kernel_routes());
        prop_assert_eq!(owner.core.fecs(), fresh.core.fecs());
        // Those of the past stay known.
        prop_assert!(fresh.core.neighbors().iter().all(|(hop, mac)| owner.core.neighbors().get(hop) == Some(mac)));
        prop_assert_eq!(owner.core.is_resolved(), fresh.core.is_resolved());
        prop_assert_eq!(owner.core.wanted_neighbors(), fresh.core.wanted_neighbors());
        prop_assert_eq!(owner.core.show_tunnels(), fresh.core.show_tunnels());
        prop_assert_eq!(&owner.table, &fresh.table);
        // A snapshot says the same as all the deltas.
        owner.core.lsr_restart();
        let deltas = std::mem::take(&mut owner.table);
        owner.program();
        prop_assert_eq!(owner.table, deltas);
        prop_assert!(owner.core.lsr_complete());
    }

    /// A restart tells nothing that leads nowhere, and ends where a process without a past ends.
    #[test]
    fn a_restart_ends_where_a_start_ends(events in vec(event(), 1..40)) {
        let mut truth = Truth {
            config: config(&[]),
            wanted: BTreeSet::new(),
            macs: BTreeMap::new(),
            routers: BTreeMap::new(),
            dead: BTreeSet::new(),
            ospf: Arc::default(),
            ldp: Arc::default(),
        };
        let mut owner = Owner::restarted(truth.config.clone(), true);
        for event in events {
            truth.happens(&mut owner, event);
            prop_assert!(!owner.core.lsr_complete());
        }
        owner.core.settle();
        owner.work();
        truth.check(&owner);
        let fresh = truth.afresh();
        prop_assert_eq!(&owner.tunnels, &fresh.tunnels);
        prop_assert_eq!(&owner.table, &fresh.table);
    }
}
