//! [`Vrf`]: the inputs, the table of best routes, and the three outputs.

use crate::{
    attributes,
    best::{self, Best, CustomerPath, RouteView, Source},
    config::VrfConfig,
    import::{self, Rejected},
    outputs::{CeOp, FibState, Output},
    vpn::VpnTable,
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_ff_fib_api as fib;
use edgeplex_relay::{CustomerOp, EpochMap, Sync, VpnOp};
use edgeplex_types::Epoch;
use ipnet::{IpNet, Ipv4Net};
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
    pub customer: usize,
    pub vpn: usize,
    /// Prefixes with a best route.
    pub best: usize,
    /// Prefixes that FastForward has from the present snapshot on.
    pub fib: usize,
    /// Routes of the CE refused since the start, by [`Rejected`].
    pub rejected: u64,
    /// VPN paths whose attributes did not decode, since the start.
    pub undecodable: u64,
    /// Customer routes not exported because their attributes are longer than the relay carries, since the start.
    pub too_long: u64,
}

/// The customer RIB of one attachment.
#[derive(Debug)]
pub struct Vrf {
    config: VrfConfig,
    statics: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// Adj-RIB-in of the CE; the epoch is that of its session.
    customer: EpochMap<Ipv4Net, CustomerPath>,
    session: Epoch,
    vpn: VpnTable,
    best: BTreeMap<Ipv4Net, Best>,
    fib: Output,
    fib_state: FibState,
    relay: Output,
    ce: Output,
    rejected: BTreeMap<Rejected, u64>,
    too_long: u64,
}

impl Vrf {
    pub fn new(config: VrfConfig) -> Self {
        let statics = resolved_statics(&config);
        let mut vrf = Self {
            config,
            statics,
            customer: EpochMap::default(),
            session: Epoch(0),
            vpn: VpnTable::default(),
            best: BTreeMap::new(),
            fib: Output::default(),
            fib_state: FibState { interface: true, ..FibState::default() },
            relay: Output::default(),
            ce: Output::default(),
            rejected: BTreeMap::new(),
            too_long: 0,
        };
        vrf.select_own();
        vrf
    }

    pub fn config(&self) -> &VrfConfig {
        &self.config
    }

    /// Moves to another configuration; what stays the same is not touched. The caller ends the CE's session
    /// ([`Vrf::customer_down`]) if the neighbor or the PE's address changed.
    pub fn reconfigure(&mut self, config: VrfConfig) {
        let mut touched: BTreeSet<Ipv4Net> = self.statics.keys().copied().collect();
        touched.extend([self.config.own(), self.config.subnet()]);
        let old = std::mem::replace(&mut self.config, config);
        let new = &self.config;
        self.fib_state.interface |=
            (old.mac, old.address, old.customer_mtu, old.core_mtu) != (new.mac, new.address, new.customer_mtu, new.core_mtu);
        self.statics = resolved_statics(new);
        touched.extend(self.statics.keys());
        touched.into_iter().for_each(|p| self.select(p));
        self.select_own();
    }

    fn select_own(&mut self) {
        let own = [self.config.own(), self.config.subnet()];
        let statics: Vec<Ipv4Net> = self.statics.keys().copied().collect();
        own.into_iter().chain(statics).for_each(|p| self.select(p));
    }

    // --- the customer's session

    /// The CE's session came up; routes kept from the former one are stale from now on.
    pub fn customer_up(&mut self) {
        self.session.0 += 1;
    }

    /// One UPDATE of the CE. Withdrawals are applied first; a route that fails the checks counts as withdrawn.
    /// Returns why the first refused route was, for the log.
    pub fn customer_update(
        &mut self,
        attributes: &Arc<Attributes>,
        next_hop: IpAddr,
        reach: impl IntoIterator<Item = Ipv4Net>,
        unreach: impl IntoIterator<Item = Ipv4Net>,
    ) -> Option<(Ipv4Net, Rejected)> {
        for prefix in unreach {
            self.customer_withdraw(prefix);
        }
        let remote_as = self.config.customer.map_or(0, |c| c.remote_as);
        let path = import::check_path(&self.config, remote_as, attributes, next_hop);
        let path = path.map(|next_hop| CustomerPath { next_hop, attributes: attributes::from_customer(attributes) });
        let mut first = None;
        for prefix in reach {
            match path.as_ref().map_err(|e| *e).and_then(|p| import::check_prefix(&self.config, prefix).map(|()| p)) {
                Ok(path) => {
                    if self.customer.insert(self.session, prefix, path.clone()) {
                        self.select(prefix);
                    }
                }
                Err(reason) => {
                    *self.rejected.entry(reason).or_default() += 1;
                    first.get_or_insert((prefix, reason));
                    self.customer_withdraw(prefix);
                }
            }
        }
        first
    }

    fn customer_withdraw(&mut self, prefix: Ipv4Net) {
        if self.customer.remove(&prefix).is_some() {
            self.select(prefix);
        }
    }

    /// The CE has told all it has, or waited too long to: what it did not repeat since [`Vrf::customer_up`] goes.
    pub fn customer_sweep(&mut self) {
        for (prefix, _) in self.customer.sweep(self.session) {
            self.select(prefix);
        }
    }

    /// The CE's session ended. With `keep`, its routes stay and packets go on following them; those that were
    /// already stale go (RFC 4724 §4.2: a route marked stale by an earlier restart must be deleted).
    pub fn customer_down(&mut self, keep: bool) {
        if !keep {
            self.session.0 += 1;
        }
        self.customer_sweep();
    }

    // --- the CVM

    /// A piece of the CVM's stream. True: a snapshot is now complete.
    pub fn vpn(&mut self, sync: Sync<VpnOp>) -> bool {
        let changed = self.vpn.take(self.config.local_as, sync);
        self.fib_state.own_label |= changed.own_label;
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

    fn select(&mut self, prefix: Ipv4Net) {
        let new = best::select(&self.config, self.statics.get(&prefix).copied(), self.customer.get(&prefix), &self.vpn, prefix);
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
            self.ce.dirty.insert(prefix);
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
        self.fib_state = FibState {
            interface: true,
            own_label: self.vpn.own_label.is_some(),
            tunnels: self.vpn.tunnels.iter().map(|(id, _)| *id).collect(),
            ..FibState::default()
        };
    }

    /// The next operations for FastForward, at most `max`: interface and label, tunnels, then routes (if `routes`),
    /// and a tunnel's end after the last route that used it.
    pub fn fib_ops(&mut self, max: usize, routes: bool) -> Vec<fib::FibOp> {
        let mut ops = vec![];
        let state = &mut self.fib_state;
        if std::mem::take(&mut state.interface) {
            ops.push(fib::FibOp::Interface(fib::Interface {
                mac: self.config.mac,
                addresses: vec![self.config.address],
                customer_mtu: self.config.customer_mtu,
                core_mtu: self.config.core_mtu,
            }));
        }
        if std::mem::take(&mut state.own_label) {
            ops.extend(self.vpn.own_label.map(|label| fib::FibOp::OwnLabel { label }));
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
                |p| best.get(&p).map(|b| fib::FibOp::Route { prefix: IpNet::V4(p), target: b.target() }),
                |p| fib::FibOp::Withdraw { prefix: IpNet::V4(p) },
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
        !s.interface && !s.own_label && s.tunnels.is_empty() && s.gone.is_empty() && self.fib.dirty.is_empty()
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
        let (best, too_long) = (&self.best, std::cell::Cell::new(self.too_long));
        while ops.len() < max && bytes < EXPORT_BATCH {
            let op = self.relay.take(
                |p| {
                    let attributes = best.get(&p)?.export()?.to_bytes();
                    // Attributes of a legal UPDATE can grow past the limit when 2-octet AS numbers become 4.
                    if attributes.len() > edgeplex_relay::MAX_ATTRIBUTES {
                        too_long.set(too_long.get() + 1);
                        return None;
                    }
                    Some(CustomerOp::Route { prefix: IpNet::V4(p), attributes })
                },
                |p| CustomerOp::Withdraw { prefix: IpNet::V4(p) },
            );
            let Some(op) = op else { break };
            if let CustomerOp::Route { attributes, .. } = &op {
                bytes += attributes.len();
            }
            ops.push(op);
        }
        self.too_long = too_long.get();
        ops
    }

    /// Nothing is left for the CVM.
    pub fn relay_clean(&self) -> bool {
        self.relay.dirty.is_empty()
    }

    // --- towards the CE

    /// Another CE, or another engine, will take the routes: tell it everything again.
    pub fn ce_restart(&mut self) {
        self.ce.restart(self.best.keys().copied());
    }

    /// The next changes of the CE's adj-RIB-out, at most `max`.
    pub fn ce_ops(&mut self, max: usize) -> Vec<CeOp> {
        let best = &self.best;
        let mut ops = vec![];
        while ops.len() < max {
            let op = self.ce.take(
                |prefix| best.get(&prefix)?.to_customer().map(|a| CeOp::Advertise { prefix, attributes: a.clone() }),
                |prefix| CeOp::Withdraw { prefix },
            );
            let Some(op) = op else { break };
            ops.push(op);
        }
        ops
    }

    /// Nothing is left for the CE.
    pub fn ce_clean(&self) -> bool {
        self.ce.dirty.is_empty()
    }

    // --- for people

    pub fn counts(&self) -> Counts {
        Counts {
            customer: self.customer.len(),
            vpn: self.vpn.routes.len(),
            best: self.best.len(),
            fib: self.fib.told(),
            rejected: self.rejected.values().sum(),
            undecodable: self.vpn.undecodable,
            too_long: self.too_long,
        }
    }

    /// Every route of every source, in prefix order; of one prefix in the order of [`Source`].
    pub fn routes(&self) -> Vec<RouteView<'_>> {
        let mut rows = vec![];
        for (prefix, best) in &self.best {
            if let Best::Local | Best::Connected = best {
                rows.push(RouteView { best: true, ..RouteView::plain(*prefix, best.source()) });
            }
        }
        let wins = |prefix: &Ipv4Net, source| self.best.get(prefix).is_some_and(|b| b.source() == source);
        for s in &self.config.statics {
            let best = wins(&s.prefix, Source::Static) && self.statics.get(&s.prefix) == Some(&s.via);
            rows.push(RouteView { best, next_hop: Some(s.via), ..RouteView::plain(s.prefix, Source::Static) });
        }
        for (prefix, path) in self.customer.iter() {
            rows.push(RouteView {
                best: wins(prefix, Source::Customer),
                stale: self.customer.is_stale(prefix, self.session),
                next_hop: Some(path.next_hop),
                attributes: Some(&path.attributes),
                ..RouteView::plain(*prefix, Source::Customer)
            });
        }
        for (prefix, paths) in self.vpn.routes.iter() {
            let chosen: &[_] = match self.best.get(prefix) {
                Some(Best::Vpn(chosen)) => chosen,
                _ => &[],
            };
            for path in paths.iter() {
                let endpoint = self.vpn.tunnels.get(&path.tunnel).map(|t| t.endpoint);
                rows.push(RouteView {
                    best: chosen.contains(path),
                    stale: self.vpn.is_stale(prefix),
                    next_hop: match endpoint {
                        Some(IpAddr::V4(a)) => Some(a),
                        _ => None,
                    },
                    label: Some(path.label),
                    tunnel: Some(path.tunnel),
                    attributes: Some(&path.attributes.received),
                    ..RouteView::plain(*prefix, Source::Vpn)
                });
            }
        }
        rows.sort_by_key(|r| (r.prefix, r.source));
        rows
    }
}

impl RouteView<'_> {
    fn plain(prefix: Ipv4Net, source: Source) -> Self {
        Self { prefix, source, best: false, stale: false, next_hop: None, label: None, tunnel: None, attributes: None }
    }
}

/// Static routes whose next hop is a neighbour on the connected subnet; the first of a prefix counts.
fn resolved_statics(config: &VrfConfig) -> BTreeMap<Ipv4Net, Ipv4Addr> {
    let mut table = BTreeMap::new();
    for s in config.statics.iter().filter(|s| config.resolves(s.via)) {
        table.entry(s.prefix).or_insert(s.via);
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{Customer, StaticRoute};
    use edgeplex_bgp_wire::AsPath;

    pub(crate) fn config() -> VrfConfig {
        VrfConfig {
            local_as: 65000,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            address: "192.168.1.1/30".parse().unwrap(),
            customer_mtu: 1500,
            core_mtu: 1600,
            customer: Some(Customer { address: "192.168.1.2".parse().unwrap(), remote_as: 65101 }),
            statics: vec![StaticRoute { prefix: net("10.9.0.0/16"), via: "192.168.1.2".parse().unwrap() }],
        }
    }

    fn net(s: &str) -> Ipv4Net {
        s.parse().unwrap()
    }

    fn path(asns: &[u32]) -> Arc<Attributes> {
        Arc::new(Attributes { as_path: AsPath::sequence(asns), ..Attributes::default() })
    }

    fn announce(v: &mut Vrf, prefix: &str, asns: &[u32]) -> Option<Rejected> {
        v.customer_update(&path(asns), "192.168.1.2".parse().unwrap(), [net(prefix)], []).map(|(_, r)| r)
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
            let got = v.customer_update(&path(&[65101]), next_hop.parse().unwrap(), [net("10.0.0.0/8")], []);
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
        ];
        assert_eq!(best, want.map(|(p, s)| (p.to_string(), s)));
    }

    #[test]
    fn an_unresolved_static_route_waits_and_is_shown() {
        let mut c = config();
        c.statics.push(StaticRoute { prefix: net("10.8.0.0/16"), via: "10.0.0.1".parse().unwrap() });
        let v = Vrf::new(c);
        let shown: Vec<_> = v.routes().iter().filter(|r| r.source == Source::Static).map(|r| r.best).collect();
        assert_eq!(shown, [false, true]);
    }

    #[test]
    fn routes_kept_across_a_session_are_swept_by_its_end_of_rib() {
        let mut v = Vrf::new(config());
        v.customer_up();
        announce(&mut v, "10.1.0.0/16", &[65101]);
        announce(&mut v, "10.2.0.0/16", &[65101]);
        v.customer_down(true);
        assert_eq!(v.counts().customer, 2);
        v.customer_up();
        announce(&mut v, "10.1.0.0/16", &[65101]);
        assert_eq!(v.routes().iter().filter(|r| r.stale).count(), 1);
        // A second loss before the end: what was stale already goes (RFC 4724 §4.2).
        v.customer_down(true);
        assert_eq!(v.counts().customer, 1);
        v.customer_up();
        v.customer_sweep();
        assert_eq!(v.counts().customer, 0);
        announce(&mut v, "10.1.0.0/16", &[65101]);
        v.customer_down(false);
        assert_eq!(v.counts().customer, 0);
    }

    #[test]
    fn a_new_static_route_touches_nothing_else() {
        let mut v = Vrf::new(config());
        while !v.fib_ops(8, true).is_empty() {}
        while !v.relay_ops(8).is_empty() {}
        let mut c = config();
        c.statics.push(StaticRoute { prefix: net("10.8.0.0/16"), via: "192.168.1.2".parse().unwrap() });
        v.reconfigure(c);
        assert_eq!(v.fib_ops(8, true).len(), 1);
        assert_eq!(v.relay_ops(8).len(), 1);
        v.reconfigure(config());
        assert_eq!(v.fib_ops(8, true), [fib::FibOp::Withdraw { prefix: IpNet::V4(net("10.8.0.0/16")) }]);
        assert_eq!(v.relay_ops(8), [CustomerOp::Withdraw { prefix: IpNet::V4(net("10.8.0.0/16")) }]);
    }

    #[test]
    fn after_a_restart_nothing_is_withdrawn_that_was_not_announced_since() {
        let mut v = Vrf::new(config());
        announce(&mut v, "10.1.0.0/16", &[65101]);
        v.relay_restart();
        v.customer_down(false);
        let ops = v.relay_ops(512);
        assert!(ops.iter().all(|op| matches!(op, CustomerOp::Route { .. })), "{ops:?}");
    }
}
