//! The CEs that speak BGP: what each has told (adj-RIB-in, before and after its policy), and what it is to be told.

use crate::{
    VrfConfig, attributes,
    best::Best,
    config::{Neighbor, default_of},
    import::{self, Rejected},
    outputs::{CeOp, Output},
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_pvm_policy::Prepared;
use edgeplex_relay::EpochMap;
use edgeplex_types::Epoch;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// A route of a CE that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CustomerPath {
    pub(crate) next_hop: IpAddr,
    /// BGP identifier of who told it, for the decision process: a CE that returns may have another one.
    pub(crate) router_id: Ipv4Addr,
    /// As they came; kept so that another policy can be applied without asking the CE again.
    received: Arc<Attributes>,
    /// What the policy makes of them; `None`: rejected.
    pub(crate) accepted: Option<Arc<Attributes>>,
}

#[derive(Debug)]
pub(crate) struct NeighborRib {
    config: Neighbor,
    /// BGP identifier of the present session, or of the last one.
    router_id: Ipv4Addr,
    /// Adj-RIB-in; the epoch is that of the session.
    routes: EpochMap<IpNet, CustomerPath>,
    session: Epoch,
    out: Output<IpNet>,
}

/// What is known of one UPDATE's routes before the prefix is looked at.
type Judged<'a> = (Prepared<'a>, IpAddr, &'a Arc<Attributes>);

impl NeighborRib {
    pub(crate) fn new(config: Neighbor) -> Self {
        let mut rib =
            Self { config, router_id: Ipv4Addr::UNSPECIFIED, routes: EpochMap::default(), session: Epoch(0), out: Output::default() };
        rib.out.dirty.extend(rib.originates());
        rib
    }

    /// The default route it is told in any case.
    fn originates(&self) -> Option<IpNet> {
        self.config.default_originate.then(|| default_of(self.config.address))
    }

    /// Moves to another configuration of the same neighbour; prefixes whose import came out differently.
    pub(crate) fn reconfigure(&mut self, config: Neighbor, best: &BTreeMap<IpNet, Best>) -> Vec<IpNet> {
        let old = std::mem::replace(&mut self.config, config);
        let new = &self.config;
        if (&old.export, old.site_of_origin, old.default_originate) != (&new.export, new.site_of_origin, new.default_originate) {
            let told = best.keys().copied().filter(|p| self.config.carries(*p)).chain(self.originates());
            self.out.review(told);
        }
        let new = &self.config;
        if (&old.import, old.site_of_origin) == (&new.import, new.site_of_origin) { vec![] } else { self.import_again() }
    }

    fn import_again(&mut self) -> Vec<IpNet> {
        let neighbor = &self.config;
        let mut judged: HashMap<*const Attributes, Prepared> = HashMap::new();
        let mut changed = vec![];
        for (prefix, path) in self.routes.iter_mut() {
            let prepared = judged
                .entry(Arc::as_ptr(&path.received))
                .or_insert_with(|| neighbor.import.prepare(&attributes::from_customer(&path.received, neighbor), neighbor.remote_as));
            let accepted = prepared.decide(*prefix);
            if accepted != path.accepted {
                path.accepted = accepted;
                changed.push(*prefix);
            }
        }
        changed
    }

    // --- adj-RIB-in

    pub(crate) fn up(&mut self, router_id: Ipv4Addr) {
        self.session.0 += 1;
        self.router_id = router_id;
    }

    /// One UPDATE; `changed` and `refused` hear of each prefix.
    pub(crate) fn update(
        &mut self,
        vrf: &VrfConfig,
        (attributes, next_hop): (&Arc<Attributes>, IpAddr),
        reach: impl IntoIterator<Item = IpNet>,
        changed: &mut Vec<IpNet>,
        mut refused: impl FnMut(IpNet, Rejected),
    ) {
        let neighbor = &self.config;
        let mut judged: Result<Judged, Rejected> = import::check_path(vrf, neighbor, attributes, next_hop).map(|()| {
            let prepared = neighbor.import.prepare(&attributes::from_customer(attributes, neighbor), neighbor.remote_as);
            (prepared, next_hop, attributes)
        });
        for prefix in reach {
            let checked = match &mut judged {
                Ok(judged) => import::check_prefix(vrf, neighbor, prefix).map(|()| judged),
                Err(reason) => Err(*reason),
            };
            match checked {
                Ok((prepared, next_hop, received)) => {
                    let path = CustomerPath {
                        next_hop: *next_hop,
                        router_id: self.router_id,
                        received: received.clone(),
                        accepted: prepared.decide(prefix),
                    };
                    if self.routes.insert(self.session, prefix, path) {
                        changed.push(prefix);
                    }
                }
                Err(reason) => {
                    refused(prefix, reason);
                    if self.routes.remove(&prefix).is_some() {
                        changed.push(prefix);
                    }
                }
            }
        }
    }

    pub(crate) fn withdraw(&mut self, prefix: IpNet) -> bool {
        self.routes.remove(&prefix).is_some()
    }

    /// Drops what the present session has not repeated.
    pub(crate) fn sweep(&mut self) -> Vec<IpNet> {
        self.routes.sweep(self.session).into_iter().map(|(p, _)| p).collect()
    }

    pub(crate) fn down(&mut self, keep: bool) -> Vec<IpNet> {
        if !keep {
            self.session.0 += 1;
        }
        self.sweep()
    }

    pub(crate) fn accepted(&self, prefix: &IpNet) -> Option<&CustomerPath> {
        self.routes.get(prefix).filter(|p| p.accepted.is_some())
    }

    /// Routes of the RIB, with whether each is stale.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&IpNet, &CustomerPath, bool)> {
        let accepted = self.routes.iter().filter(|(_, path)| path.accepted.is_some());
        accepted.map(|(prefix, path)| (prefix, path, self.routes.is_stale(prefix, self.session)))
    }

    // --- adj-RIB-out

    /// The best route of `prefix` is another one.
    pub(crate) fn touch(&mut self, prefix: IpNet) {
        if self.config.carries(prefix) {
            self.out.dirty.insert(prefix);
        }
    }

    /// Whoever takes the routes starts from nothing.
    pub(crate) fn restart(&mut self, best: &BTreeMap<IpNet, Best>) {
        let neighbor = &self.config;
        let originates = neighbor.default_originate.then(|| default_of(neighbor.address));
        self.out.restart(best.keys().copied().filter(|p| neighbor.carries(*p)).chain(originates));
    }

    pub(crate) fn ops(&mut self, local_as: u32, best: &BTreeMap<IpNet, Best>, max: usize) -> Vec<CeOp> {
        let originates = self.originates();
        let mut export = attributes::Export::new(&self.config, local_as);
        let mut ops = vec![];
        while ops.len() < max {
            let op = self.out.take(
                |prefix| {
                    if originates == Some(prefix) {
                        return Some(CeOp::Advertise { prefix, attributes: export.originated() });
                    }
                    let (from, attributes) = best.get(&prefix)?.to_customer()?;
                    if from == Some(self.config.address) {
                        return None;
                    }
                    Some(CeOp::Advertise { prefix, attributes: export.route(prefix, attributes)? })
                },
                |prefix| CeOp::Withdraw { prefix },
            );
            let Some(op) = op else { break };
            ops.push(op);
        }
        ops
    }

    pub(crate) fn clean(&self) -> bool {
        self.out.dirty.is_empty()
    }
}
