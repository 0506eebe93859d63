//! The state machine: what is new comes in, what follows from it goes out.

use crate::{
    config::Config,
    lsr::Lsr,
    rib::{Rib, Source},
    ways::{Known, Leg},
};
use edgeplex_ff_fib_api::FibOp;
use edgeplex_ldp::Fec;
use edgeplex_ospf::Route;
use edgeplex_relay::{self as relay, MAX_LEGS, Tunnel};
use edgeplex_types::{MacAddr, NextHop, TunnelId};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
};

/// Neighbours of the past that are remembered.
const MAX_PAST: usize = 256;

/// The way to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelState {
    /// Without legs the endpoint has a route and cannot be reached: its neighbours are dead, unresolved or without a label.
    pub tunnel: Tunnel,
    /// Of the IGP, for the choice between BGP routes (RFC 4271 §9.1.2.2).
    pub cost: u32,
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// What is true of a wanted endpoint from now on; `None` without a route.
    Tunnel(Ipv4Addr, Option<TunnelState>),
    /// [`Core::lsr_ops`] has operations.
    LabelMap,
    /// [`Core::kernel_routes`] are others.
    KernelRoutes,
    /// [`Core::fecs`] are others: for LDP.
    Fecs,
    /// [`Core::wanted_neighbors`] or [`Core::neighbors`] are others.
    Neighbors,
}

/// The core side of a platform.
#[derive(Debug)]
pub struct Core {
    pub(crate) known: Known,
    ospf: Arc<BTreeMap<Ipv4Net, Route>>,
    pub(crate) endpoints: BTreeSet<Ipv4Addr>,
    told: BTreeMap<Ipv4Addr, TunnelState>,
    pub(crate) lsr: Lsr,
    fecs: Arc<BTreeMap<Ipv4Net, Vec<NextHop>>>,
    kernel: BTreeMap<Ipv4Net, BTreeSet<NextHop>>,
    wanted: BTreeSet<NextHop>,
    seen: BTreeMap<NextHop, MacAddr>,
    /// A past process programmed what forwards now, and this one has yet to learn all of it again: nothing is taken away.
    hold: bool,
    actions: VecDeque<Action>,
}

impl Core {
    /// Knows nothing but its configuration. `hold`: until [`settle`](Self::settle) nothing is taken away that a past process
    /// may have told.
    pub fn new(config: Config, hold: bool) -> Self {
        let ospf = Arc::default();
        let known = Known {
            rib: Rib::new(&config, &ospf),
            config,
            labels: Arc::default(),
            macs: BTreeMap::new(),
            routers: BTreeMap::new(),
            dead: BTreeSet::new(),
        };
        let mut core = Self {
            known,
            ospf,
            endpoints: BTreeSet::new(),
            told: BTreeMap::new(),
            lsr: Lsr::default(),
            fecs: Arc::default(),
            kernel: BTreeMap::new(),
            wanted: BTreeSet::new(),
            seen: BTreeMap::new(),
            hold,
            actions: VecDeque::new(),
        };
        core.reroute();
        core
    }

    /// Moves to another configuration.
    pub fn configure(&mut self, config: Config) {
        let there = |hop: &NextHop| config.interface(&hop.interface).is_some();
        self.known.macs.retain(|hop, _| there(hop));
        self.known.routers.retain(|hop, _| there(hop));
        self.known.dead.retain(there);
        self.seen.retain(|hop, _| there(hop));
        self.known.config = config;
        self.reroute();
    }

    /// Sets the endpoints that VPN routes lead to. The ways to them follow as actions, those that were told before as well: an
    /// endpoint that nobody wanted for a moment was forgotten there.
    pub fn want(&mut self, endpoints: BTreeSet<Ipv4Addr>) {
        self.told.retain(|endpoint, _| endpoints.contains(endpoint));
        self.endpoints = endpoints;
        let again = self.told.iter().map(|(endpoint, state)| Action::Tunnel(*endpoint, Some(state.clone())));
        self.actions.extend(again);
        self.refresh();
    }

    /// What the kernel knows of a neighbour.
    pub fn neighbor(&mut self, hop: NextHop, mac: Option<MacAddr>) {
        if self.known.config.interface(&hop.interface).is_none() {
            return;
        }
        let mac = mac.filter(|m| m.is_unicast());
        let before = match mac {
            Some(mac) => self.known.macs.insert(hop, mac),
            None => self.known.macs.remove(&hop),
        };
        if before != mac {
            self.refresh();
        }
    }

    /// The OSPF router an adjacency is with; `None` when it ends.
    pub fn router(&mut self, hop: NextHop, id: Option<Ipv4Addr>) {
        let id = id.filter(|_| self.known.config.interface(&hop.interface).is_some());
        let before = match id {
            Some(id) => self.known.routers.insert(hop, id),
            None => self.known.routers.remove(&hop),
        };
        if before != id {
            self.refresh();
        }
    }

    /// A neighbour is dead, as BFD found out, or no longer.
    pub fn liveness(&mut self, hop: NextHop, alive: bool) {
        let known = self.known.config.interface(&hop.interface).is_some();
        let changed = if alive { self.known.dead.remove(&hop) } else { known && self.known.dead.insert(hop) };
        if changed {
            self.refresh();
        }
    }

    /// Dead neighbours whom nobody watches any more are dead no longer, for nobody would say that they live. But for those to whom
    /// OSPF still leads: it is about to take its routes away.
    pub fn forget_dead(&mut self, is_watched: impl Fn(&NextHop) -> bool) {
        let leads_to = |hop: &NextHop| self.ospf.values().any(|r| r.next_hops.contains(hop) || r.backup.contains(hop));
        let before = self.known.dead.len();
        self.known.dead.retain(|hop| is_watched(hop) || leads_to(hop));
        if self.known.dead.len() != before {
            self.refresh();
        }
    }

    pub fn ospf(&mut self, routes: Arc<BTreeMap<Ipv4Net, Route>>) {
        self.ospf = routes;
        self.reroute();
    }

    pub fn ldp(&mut self, labels: Arc<BTreeMap<Ipv4Net, Fec>>) {
        self.known.labels = labels;
        self.refresh();
    }

    /// All is learnt that a past process knew, or it was waited for long enough: what is not true goes.
    pub fn settle(&mut self) {
        if std::mem::replace(&mut self.hold, false) {
            self.refresh();
            // What was held back is due, whether or not something is new.
            self.actions.push_back(Action::LabelMap);
            self.actions.push_back(Action::KernelRoutes);
        }
    }

    pub fn is_settled(&self) -> bool {
        !self.hold
    }

    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// FECs and the neighbours whose labels are needed, alternates included; those without are our own.
    pub fn fecs(&self) -> Arc<BTreeMap<Ipv4Net, Vec<NextHop>>> {
        self.fecs.clone()
    }

    /// Routes for packets of our own and those without labels. What the kernel has beyond them goes once we
    /// [are settled](Self::is_settled).
    pub fn kernel_routes(&self) -> &BTreeMap<Ipv4Net, BTreeSet<NextHop>> {
        &self.kernel
    }

    /// Neighbours to keep resolved.
    pub fn wanted_neighbors(&self) -> &BTreeSet<NextHop> {
        &self.wanted
    }

    /// Whether all of them are.
    pub fn is_resolved(&self) -> bool {
        self.wanted.iter().all(|hop| self.known.macs.contains_key(hop))
    }

    /// Neighbours that are wanted or once were, with the MAC address each had last: for the switch, which takes longer to be told
    /// than a tunnel. To one that comes back packets go at once.
    pub fn neighbors(&self) -> &BTreeMap<NextHop, MacAddr> {
        &self.seen
    }

    /// A snapshot for the label-switching router begins.
    pub fn lsr_restart(&mut self) {
        self.lsr.restart();
    }

    /// The next operations for it, at most `max`, which is 2 or more.
    pub fn lsr_ops(&mut self, max: usize) -> Vec<FibOp> {
        self.lsr.ops(max, self.hold)
    }

    /// It has been told everything: what it has beyond that may go.
    pub fn lsr_complete(&self) -> bool {
        !self.hold && self.lsr.is_clean()
    }

    fn reroute(&mut self) {
        self.known.rib = Rib::new(&self.known.config, &self.ospf);
        let fecs = self.known.rib.fecs();
        if *self.fecs != fecs {
            self.fecs = Arc::new(fecs);
            self.actions.push_back(Action::Fecs);
        }
        self.refresh();
    }

    /// Works out everything anew, and says what is different. Tunnels first: customers' packets are waiting.
    fn refresh(&mut self) {
        for endpoint in &self.endpoints {
            let new = self.tunnel(*endpoint);
            let reachable = new.as_ref().is_some_and(|state| !state.tunnel.legs.is_empty());
            let told = self.told.get(endpoint);
            // Not even told yet: a past process may have told a way that still forwards.
            if told == new.as_ref() || (self.hold && told.is_none() && !reachable) {
                continue;
            }
            match &new {
                Some(state) => self.told.insert(*endpoint, state.clone()),
                None => self.told.remove(endpoint),
            };
            self.actions.push_back(Action::Tunnel(*endpoint, new));
        }
        if self.lsr.refresh(&self.known) {
            self.actions.push_back(Action::LabelMap);
        }
        let kernel = self.routes();
        if kernel != self.kernel {
            self.kernel = kernel;
            self.actions.push_back(Action::KernelRoutes);
        }
        let wanted = self.wanted();
        let mut seen = self.seen.clone();
        seen.extend(wanted.iter().filter_map(|hop| Some((hop.clone(), *self.known.macs.get(hop)?))));
        if seen.len() > wanted.len() + MAX_PAST {
            seen.retain(|hop, _| wanted.contains(hop));
        }
        if (&wanted, &seen) != (&self.wanted, &self.seen) {
            (self.wanted, self.seen) = (wanted, seen);
            self.actions.push_back(Action::Neighbors);
        }
    }

    fn tunnel(&self, endpoint: Ipv4Addr) -> Option<TunnelState> {
        let (best, legs) = self.known.to_endpoint(endpoint)?;
        let leg =
            |leg: &Leg| relay::Leg { transport: leg.labels.clone(), source_mac: leg.source_mac, destination_mac: leg.destination_mac };
        let legs = legs.used().iter().take(MAX_LEGS).map(leg).collect();
        // The same after a restart: paths that a PVM still holds never meet a tunnel that means another PE.
        let tunnel = Tunnel { id: TunnelId(endpoint.to_bits()), endpoint: endpoint.into(), legs };
        Some(TunnelState { tunnel, cost: best.cost })
    }

    fn routes(&self) -> BTreeMap<Ipv4Net, BTreeSet<NextHop>> {
        let routed = self.known.rib.iter().filter(|(_, best)| matches!(best.source, Source::Static | Source::Ospf));
        let hops = |hops: &[NextHop]| hops.iter().filter(|hop| self.known.is_alive(hop)).cloned().collect::<BTreeSet<_>>();
        let route = |(prefix, best): (&Ipv4Net, &crate::rib::Best)| {
            let first = hops(&best.ways);
            let used = if first.is_empty() { hops(&best.backup) } else { first };
            (!used.is_empty()).then_some((*prefix, used))
        };
        routed.filter_map(route).collect()
    }

    fn wanted(&self) -> BTreeSet<NextHop> {
        let hops = self.known.rib.iter().flat_map(|(_, best)| best.ways.iter().chain(&best.backup)).cloned();
        let direct = self.endpoints.iter().filter(|e| {
            let found = self.known.rib.lookup(**e);
            found.is_some_and(|(_, best)| best.source == Source::Connected)
        });
        hops.chain(direct.filter_map(|e| self.known.config.connected(*e))).collect()
    }
}
