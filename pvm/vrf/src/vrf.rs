//! [`Vrf`]: the inputs, the table of best routes, and the outputs.

use crate::{
    best::{self, Best},
    config::VrfConfig,
    import::Rejected,
    neighbors::NeighborRib,
    outputs::{CeOp, FibState, Output},
    vpn::VpnTable,
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_ff_fib_api as fib;
use edgeplex_relay::{CustomerOp, Sync, VpnOp};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// Bytes of attributes in one batch of exports: with 512 prefixes it stays well below the message limit.
const EXPORT_BATCH: usize = 512 << 10;

/// Sizes, for `edgeplex status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Routes of the CEs that their policies accept.
    pub customer: usize,
    pub vpn: usize,
    /// Prefixes with a best route.
    pub best: usize,
    /// Prefixes that FastForward has from the present snapshot on.
    pub fib: usize,
    /// Routes of the CEs refused since the start, by [`Rejected`].
    pub rejected: u64,
    /// VPN paths whose attributes did not decode, since the start.
    pub undecodable: u64,
    /// Customer routes not exported because their attributes are longer than the relay carries, since the start.
    pub too_long: u64,
}

/// The customer RIB of one attachment.
#[derive(Debug)]
pub struct Vrf {
    pub(crate) config: VrfConfig,
    statics: BTreeMap<IpNet, IpAddr>,
    /// Neighbours of static routes with which BFD is up.
    bfd_up: BTreeSet<IpAddr>,
    pub(crate) neighbors: BTreeMap<IpAddr, NeighborRib>,
    pub(crate) vpn: VpnTable,
    pub(crate) best: BTreeMap<IpNet, Best>,
    fib: Output<IpNet>,
    fib_state: FibState,
    relay: Output<IpNet>,
    rejected: BTreeMap<Rejected, u64>,
    too_long: u64,
}

impl Vrf {
    pub fn new(config: VrfConfig) -> Self {
        let neighbors = config.neighbors.iter().map(|n| (n.address, NeighborRib::new(n.clone()))).collect();
        let mut vrf = Self {
            statics: BTreeMap::new(),
            bfd_up: BTreeSet::new(),
            neighbors,
            config,
            vpn: VpnTable::default(),
            best: BTreeMap::new(),
            fib: Output::default(),
            fib_state: FibState { interface: true, ..FibState::default() },
            relay: Output::default(),
            rejected: BTreeMap::new(),
            too_long: 0,
        };
        let own: Vec<IpNet> = vrf.config.own().chain(vrf.config.subnets()).collect();
        own.into_iter().for_each(|p| vrf.select(p));
        vrf.select_statics();
        vrf
    }

    pub fn config(&self) -> &VrfConfig {
        &self.config
    }

    /// Moves to another configuration; what stays the same is not touched. Another policy is applied to what the CEs
    /// have told. The caller ends a CE's session ([`Vrf::customer_down`]) if its AS or the PE's address changed; a CE
    /// that is no longer there leaves with its routes.
    pub fn reconfigure(&mut self, config: VrfConfig) {
        let old = std::mem::replace(&mut self.config, config);
        let new = &self.config;
        let mut touched: BTreeSet<IpNet> = old.own().chain(old.subnets()).chain(new.own()).chain(new.subnets()).collect();
        self.fib_state.interface |=
            (old.mac, &old.addresses, old.customer_mtu, old.core_mtu) != (new.mac, &new.addresses, new.customer_mtu, new.core_mtu);
        if old.max_paths != new.max_paths {
            touched.extend(self.vpn.routes.iter().map(|(p, _)| *p));
        }
        for gone in self.neighbors.extract_if(.., |address, _| new.neighbors.iter().all(|n| n.address != *address)) {
            touched.extend(gone.1.routes().map(|(p, ..)| *p));
        }
        for n in new.neighbors.clone() {
            match self.neighbors.get_mut(&n.address) {
                Some(known) => touched.extend(known.reconfigure(n, &self.best)),
                None => {
                    let mut rib = NeighborRib::new(n.clone());
                    rib.restart(&self.best);
                    self.neighbors.insert(n.address, rib);
                }
            }
        }
        touched.into_iter().for_each(|p| self.select(p));
        self.select_statics();
    }

    /// BFD with the neighbour of a static route came up or went down.
    pub fn bfd(&mut self, via: IpAddr, up: bool) {
        let changed = if up { self.bfd_up.insert(via) } else { self.bfd_up.remove(&via) };
        if changed {
            self.select_statics();
        }
    }

    /// Static routes whose next hop is a neighbour on a connected subnet, and up if BFD watches it; the first of a prefix
    /// counts.
    fn select_statics(&mut self) {
        let mut table = BTreeMap::new();
        for s in self.config.statics.iter().filter(|s| self.config.resolves(s.via) && (!s.bfd || self.bfd_up.contains(&s.via))) {
            table.entry(s.prefix).or_insert(s.via);
        }
        let mut touched: BTreeSet<IpNet> = self.statics.keys().copied().collect();
        touched.extend(table.keys());
        self.statics = table;
        touched.into_iter().for_each(|p| self.select(p));
    }

    // --- the customer's sessions

    /// A CE's session came up; routes kept from the former one are stale from now on.
    pub fn customer_up(&mut self, peer: IpAddr, router_id: Ipv4Addr) {
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            neighbor.up(router_id);
        }
    }

    /// One UPDATE of a CE. Withdrawals are applied first; a route that fails the checks counts as withdrawn.
    /// Returns why the first refused route was, for the log.
    pub fn customer_update(
        &mut self,
        peer: IpAddr,
        attributes: &Arc<Attributes>,
        next_hop: IpAddr,
        reach: impl IntoIterator<Item = IpNet>,
        unreach: impl IntoIterator<Item = IpNet>,
    ) -> Option<(IpNet, Rejected)> {
        let neighbor = self.neighbors.get_mut(&peer)?;
        let mut changed: Vec<IpNet> = unreach.into_iter().filter(|p| neighbor.withdraw(*p)).collect();
        let mut first = None;
        let rejected = &mut self.rejected;
        neighbor.update(&self.config, (attributes, next_hop), reach, &mut changed, |prefix, reason| {
            *rejected.entry(reason).or_default() += 1;
            first.get_or_insert((prefix, reason));
        });
        changed.into_iter().for_each(|p| self.select(p));
        first
    }

    /// The CE has told all it has, or waited too long to: what it did not repeat since [`Vrf::customer_up`] goes.
    pub fn customer_sweep(&mut self, peer: IpAddr) {
        let gone = self.neighbors.get_mut(&peer).map(NeighborRib::sweep);
        gone.into_iter().flatten().for_each(|p| self.select(p));
    }

    /// The CE's session ended. With `keep`, its routes stay and packets go on following them; those that were
    /// already stale go (RFC 4724 §4.2: a route marked stale by an earlier restart must be deleted).
    pub fn customer_down(&mut self, peer: IpAddr, keep: bool) {
        let gone = self.neighbors.get_mut(&peer).map(|n| n.down(keep));
        gone.into_iter().flatten().for_each(|p| self.select(p));
    }

    // --- the CVM

    /// A piece of the CVM's stream. True: a snapshot is now complete.
    pub fn vpn(&mut self, sync: Sync<VpnOp>) -> bool {
        let changed = self.vpn.take(sync);
        self.fib_state.labels.dirty.extend(changed.labels);
        for id in changed.tunnels {
            if self.vpn.tunnels.get(&id).is_some() {
                self.fib_state.gone.remove(&id);
                self.fib_state.tunnels.insert(id);
            } else {
                self.fib_state.tunnels.remove(&id);
                if self.fib_state.told.contains(&id) {
                    self.fib_state.gone.insert(id);
                }
            }
        }
        for prefix in changed.prefixes {
            self.select(prefix);
        }
        changed.ended
    }

    // --- the decision

    fn select(&mut self, prefix: IpNet) {
        let new = best::select(&self.config, self.statics.get(&prefix).copied(), &self.neighbors, &self.vpn, prefix);
        let old = self.best.get(&prefix);
        if old == new.as_ref() {
            return;
        }
        let (old_b, new_b) = (old, new.as_ref());
        if old_b.map(Best::target) != new_b.map(Best::target) {
            self.fib.dirty.insert(prefix);
        }
        if old_b.and_then(Best::export) != new_b.and_then(Best::export) {
            self.relay.dirty.insert(prefix);
        }
        if old_b.and_then(Best::to_customer) != new_b.and_then(Best::to_customer) {
            self.neighbors.values_mut().for_each(|n| n.touch(prefix));
        }
        match new {
            Some(best) => self.best.insert(prefix, best),
            None => self.best.remove(&prefix),
        };
    }

    // --- towards FastForward

    /// FastForward will take a new snapshot: tell it everything again.
    pub fn fib_restart(&mut self) {
        self.fib.restart(self.best.keys().copied());
        let mut labels = Output::default();
        labels.restart(self.vpn.own_labels.iter().map(|(l, _)| *l));
        let tunnels = self.vpn.tunnels.iter().map(|(id, _)| *id).collect();
        self.fib_state = FibState { interface: true, labels, tunnels, ..FibState::default() };
    }

    /// The next operations for FastForward, at most `max`: interface, labels and tunnels, then routes (if `routes`),
    /// and a tunnel's end after the last route that used it.
    pub fn fib_ops(&mut self, max: usize, routes: bool) -> Vec<fib::FibOp> {
        let mut ops = vec![];
        let state = &mut self.fib_state;
        if std::mem::take(&mut state.interface) {
            let config = &self.config;
            ops.push(fib::FibOp::Interface(fib::Interface {
                mac: config.mac,
                addresses: config.addresses.iter().copied().chain(config.link_local().map(IpNet::V6)).collect(),
                customer_mtu: config.customer_mtu,
                core_mtu: config.core_mtu,
            }));
        }
        while ops.len() < max {
            let op = state.labels.take(
                |label| self.vpn.own_labels.get(&label).map(|next_hop| fib::FibOp::OwnLabel { label, next_hop: *next_hop }),
                |label| fib::FibOp::OwnLabelGone { label },
            );
            let Some(op) = op else { break };
            ops.push(op);
        }
        while ops.len() < max {
            let Some(id) = state.tunnels.pop_first() else { break };
            if let Some(tunnel) = self.vpn.tunnels.get(&id) {
                state.told.insert(id);
                ops.push(fib::FibOp::Tunnel(tunnel.clone()));
            }
        }
        if !routes {
            return ops;
        }
        let best = &self.best;
        while ops.len() < max {
            let op = self.fib.take(
                |prefix| best.get(&prefix).map(|b| fib::FibOp::Route { prefix, target: b.target() }),
                |prefix| fib::FibOp::Withdraw { prefix },
            );
            let Some(op) = op else { break };
            ops.push(op);
        }
        // There is room only if every route is out.
        while ops.len() < max {
            let Some(id) = state.gone.pop_first() else { break };
            state.told.remove(&id);
            ops.push(fib::FibOp::TunnelGone { id });
        }
        ops
    }

    /// Nothing is left for FastForward.
    pub fn fib_clean(&self) -> bool {
        let s = &self.fib_state;
        !s.interface && s.labels.dirty.is_empty() && s.tunnels.is_empty() && s.gone.is_empty() && self.fib.dirty.is_empty()
    }

    // --- towards the CVM

    /// The CVM will take a new snapshot.
    pub fn relay_restart(&mut self) {
        self.relay.restart(self.best.keys().copied());
    }

    /// The next exports, at most `max` and never more than fit one relay message.
    pub fn relay_ops(&mut self, max: usize) -> Vec<CustomerOp> {
        let mut ops = vec![];
        let mut bytes = 0;
        let (best, too_long) = (&self.best, &mut self.too_long);
        while ops.len() < max && bytes < EXPORT_BATCH {
            let op = self.relay.take(
                |prefix| {
                    let (attributes, next_hop) = best.get(&prefix)?.export()?;
                    let attributes = attributes.to_bytes();
                    // Attributes of a legal UPDATE can grow past the limit when 2-octet AS numbers become 4.
                    if attributes.len() > edgeplex_relay::MAX_ATTRIBUTES {
                        *too_long += 1;
                        return None;
                    }
                    Some(CustomerOp::Route { prefix, next_hop, attributes })
                },
                |prefix| CustomerOp::Withdraw { prefix },
            );
            let Some(op) = op else { break };
            if let CustomerOp::Route { attributes, .. } = &op {
                bytes += attributes.len();
            }
            ops.push(op);
        }
        ops
    }

    /// Nothing is left for the CVM.
    pub fn relay_clean(&self) -> bool {
        self.relay.dirty.is_empty()
    }

    // --- towards the CEs

    /// Another engine will take the CE's routes, or another next hop goes with them: tell it everything again.
    pub fn ce_restart(&mut self, peer: IpAddr) {
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            neighbor.restart(&self.best);
        }
    }

    /// The next changes of the CE's adj-RIB-out, at most `max`.
    pub fn ce_ops(&mut self, peer: IpAddr, max: usize) -> Vec<CeOp> {
        let neighbor = self.neighbors.get_mut(&peer);
        neighbor.map(|n| n.ops(self.config.local_as, &self.best, max)).unwrap_or_default()
    }

    /// Nothing is left for the CE.
    pub fn ce_clean(&self, peer: IpAddr) -> bool {
        self.neighbors.get(&peer).is_none_or(NeighborRib::clean)
    }

    // --- for people

    pub fn counts(&self) -> Counts {
        Counts {
            customer: self.neighbors.values().map(|n| n.routes().count()).sum(),
            vpn: self.vpn.routes.len(),
            best: self.best.len(),
            fib: self.fib.told(),
            rejected: self.rejected.values().sum(),
            undecodable: self.vpn.undecodable,
            too_long: self.too_long,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        Source,
        config::{Neighbor, StaticRoute},
    };
    use edgeplex_bgp_wire::AsPath;

    pub(crate) fn config() -> VrfConfig {
        VrfConfig {
            local_as: 65000,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            addresses: vec![net("192.168.1.1/30"), net("2001:db8:1::1/64")],
            customer_mtu: 1500,
            core_mtu: 1600,
            neighbors: vec![Neighbor::new(CE, 65101), Neighbor::new(ip("2001:db8:1::2"), 65101)],
            statics: vec![StaticRoute { prefix: net("10.9.0.0/16"), via: CE, bfd: false }],
            max_paths: 4,
        }
    }

    const CE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn path(asns: &[u32]) -> Arc<Attributes> {
        Arc::new(Attributes { as_path: AsPath::sequence(asns), ..Attributes::default() })
    }

    fn announce(v: &mut Vrf, prefix: &str, asns: &[u32]) -> Option<Rejected> {
        v.customer_update(CE, &path(asns), CE, [net(prefix)], []).map(|(_, r)| r)
    }

    #[test]
    fn import_checks_and_a_refused_route_replaces_the_good_one() {
        let mut v = Vrf::new(config());
        assert_eq!(announce(&mut v, "10.0.0.0/8", &[65101]), None);
        assert_eq!(v.counts().customer, 1);
        assert_eq!(announce(&mut v, "10.0.0.0/8", &[65101, 65000]), Some(Rejected::Loop));
        assert_eq!(v.counts().customer, 0);
        assert_eq!(announce(&mut v, "10.0.0.0/8", &[65102, 65101]), Some(Rejected::FirstAs));
        assert_eq!(announce(&mut v, "10.0.0.0/8", &[]), Some(Rejected::FirstAs));
        assert_eq!(announce(&mut v, "192.168.1.1/32", &[65101]), Some(Rejected::OwnAddress));
        for next_hop in ["192.168.1.1", "192.168.1.0", "192.168.1.3", "192.168.1.5", "10.0.0.1", "::1"] {
            let got = v.customer_update(CE, &path(&[65101]), ip(next_hop), [net("10.0.0.0/8")], []);
            assert_eq!(got, Some((net("10.0.0.0/8"), Rejected::NextHop)), "{next_hop}");
        }
        assert_eq!(v.counts().rejected, 10);
    }

    #[test]
    fn connected_and_static_win_over_the_customer() {
        let mut v = Vrf::new(config());
        for p in ["10.9.0.0/16", "192.168.1.0/30", "192.168.1.0/24"] {
            assert_eq!(announce(&mut v, p, &[65101]), None);
        }
        let best: Vec<_> = v.routes().into_iter().filter(|r| r.best).map(|r| (r.prefix.to_string(), r.source)).collect();
        let want = [
            ("10.9.0.0/16", Source::Static),
            ("192.168.1.0/24", Source::Customer),
            ("192.168.1.0/30", Source::Connected),
            ("192.168.1.1/32", Source::Local),
            ("2001:db8:1::/64", Source::Connected),
            ("2001:db8:1::1/128", Source::Local),
        ];
        assert_eq!(best, want.map(|(p, s)| (p.to_string(), s)));
    }

    #[test]
    fn an_unresolved_static_route_waits_and_is_shown() {
        let mut c = config();
        c.statics.push(StaticRoute { prefix: net("10.8.0.0/16"), via: ip("10.0.0.1"), bfd: false });
        let v = Vrf::new(c);
        let shown: Vec<_> = v.routes().iter().filter(|r| r.source == Source::Static).map(|r| r.best).collect();
        assert_eq!(shown, [false, true]);
    }

    #[test]
    fn routes_kept_across_a_session_are_swept_by_its_end_of_rib() {
        let mut v = Vrf::new(config());
        v.customer_up(CE, Ipv4Addr::LOCALHOST);
        announce(&mut v, "10.1.0.0/16", &[65101]);
        announce(&mut v, "10.2.0.0/16", &[65101]);
        v.customer_down(CE, true);
        assert_eq!(v.counts().customer, 2);
        v.customer_up(CE, Ipv4Addr::LOCALHOST);
        announce(&mut v, "10.1.0.0/16", &[65101]);
        assert_eq!(v.routes().iter().filter(|r| r.stale).count(), 1);
        // A second loss before the end: what was stale already goes (RFC 4724 §4.2).
        v.customer_down(CE, true);
        assert_eq!(v.counts().customer, 1);
        v.customer_up(CE, Ipv4Addr::LOCALHOST);
        v.customer_sweep(CE);
        assert_eq!(v.counts().customer, 0);
        announce(&mut v, "10.1.0.0/16", &[65101]);
        v.customer_down(CE, false);
        assert_eq!(v.counts().customer, 0);
    }

    #[test]
    fn a_new_static_route_touches_nothing_else() {
        let mut v = Vrf::new(config());
        while !v.fib_ops(8, true).is_empty() {}
        while !v.relay_ops(8).is_empty() {}
        let mut c = config();
        c.statics.push(StaticRoute { prefix: net("10.8.0.0/16"), via: CE, bfd: false });
        v.reconfigure(c);
        assert_eq!(v.fib_ops(8, true).len(), 1);
        assert_eq!(v.relay_ops(8).len(), 1);
        v.reconfigure(config());
        assert_eq!(v.fib_ops(8, true), [fib::FibOp::Withdraw { prefix: net("10.8.0.0/16") }]);
        assert_eq!(v.relay_ops(8), [CustomerOp::Withdraw { prefix: net("10.8.0.0/16") }]);
    }

    #[test]
    fn after_a_restart_nothing_is_withdrawn_that_was_not_announced_since() {
        let mut v = Vrf::new(config());
        announce(&mut v, "10.1.0.0/16", &[65101]);
        v.relay_restart();
        v.customer_down(CE, false);
        let ops = v.relay_ops(512);
        assert!(ops.iter().all(|op| matches!(op, CustomerOp::Route { .. })), "{ops:?}");
    }
}
