//! The LIB: FEC by FEC, whether there is a label behind it, which label is ours, and who must be told.
//!
//! Ordered control (RFC 5036 §2.6.1.2): a FEC has a label of ours if we are its egress, or while at least one next hop of its
//! route has given us one. When that ends, the label is withdrawn from everybody and never means this FEC again; it returns to
//! the label space when the last neighbour has released it. If the FEC comes back meanwhile it gets another label, so a late
//! release cannot be taken for one of the new mapping.

use crate::fsm::notification;
use crate::labels::Labels;
use crate::neighbor::{Neighbor, Sent};
use crate::packet::{FecElement, LabelMessage, Mapping, Message, Status};
use crate::{Config, Fec, Forwarding, Routes, Start, Time};
use edgeplex_types::{Label, NextHop};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

pub(crate) type Neighbors = BTreeMap<Ipv4Addr, Neighbor>;

/// What settling has changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) bindings: bool,
    pub(crate) forwarding: bool,
    /// A FEC found no label.
    pub(crate) exhausted: bool,
}

#[derive(Debug)]
pub(crate) struct Lib {
    pub(crate) routes: Arc<Routes>,
    /// Our labels that neighbours are told, null labels among them.
    pub(crate) local: BTreeMap<Ipv4Net, Label>,
    /// FECs and the labels that are theirs, in use or of before a restart.
    pub(crate) bindings: BTreeMap<Ipv4Net, Label>,
    /// Of `bindings`, those of before that nobody has needed yet.
    unclaimed: BTreeSet<Ipv4Net>,
    pub(crate) labels: Labels,
    pub(crate) forwarding: Arc<Forwarding>,
    dirty: BTreeSet<Ipv4Net>,
    /// FECs without a label because there was none.
    starved: BTreeSet<Ipv4Net>,
}

/// The neighbour behind a next hop.
pub(crate) fn downstream<'a>(neighbors: &'a Neighbors, hop: &NextHop) -> Option<&'a Neighbor> {
    // One that is heard at the very address comes before one that claims it.
    let heard = |n: &&Neighbor| n.adjacencies.get(&hop.interface).is_some_and(|a| a.source == hop.address);
    neighbors.values().find(heard).or_else(|| neighbors.values().find(|n| n.is_at(hop)))
}

impl Lib {
    pub(crate) fn new(config: &Config, start: Start) -> Self {
        let mut labels = Labels::new(config.labels);
        let mut seen = BTreeSet::new();
        let usable = |label: &Label| config.labels.contains(*label);
        let bindings: BTreeMap<_, _> = start.bindings.into_iter().filter(|(_, l)| usable(l) && seen.insert(*l)).collect();
        bindings.values().for_each(|l| labels.hold(*l));
        let mut lib = Self {
            routes: Arc::default(),
            local: BTreeMap::new(),
            unclaimed: bindings.keys().copied().collect(),
            bindings,
            labels,
            forwarding: Arc::default(),
            dirty: BTreeSet::new(),
            starved: BTreeSet::new(),
        };
        lib.touch([own_fec(config)]);
        lib
    }

    pub(crate) fn touch(&mut self, fecs: impl IntoIterator<Item = Ipv4Net>) {
        self.dirty.extend(fecs);
    }

    /// Who is whose next hop may have changed.
    pub(crate) fn touch_all(&mut self) {
        self.dirty.extend(self.routes.keys().chain(self.local.keys()).chain(self.forwarding.keys()).copied());
    }

    pub(crate) fn set_routes(&mut self, routes: Arc<Routes>) {
        let old = std::mem::replace(&mut self.routes, routes);
        self.dirty.extend(old.iter().filter(|(fec, hops)| self.routes.get(fec) != Some(hops)).map(|(fec, _)| *fec));
        self.dirty.extend(self.routes.keys().filter(|fec| !old.contains_key(fec)).copied());
    }

    /// Labels of before the restart that no FEC has taken up: neighbours may use them until `rest`.
    pub(crate) fn forget_unclaimed(&mut self, rest: Time) -> bool {
        let gone = std::mem::take(&mut self.unclaimed);
        for label in gone.iter().filter_map(|fec| self.bindings.remove(fec)) {
            self.labels.release(label, Some(rest));
        }
        !gone.is_empty()
    }

    /// Every FEC of before the restart has its label again.
    pub(crate) fn all_claimed(&self) -> bool {
        self.unclaimed.is_empty()
    }

    /// A FEC that we bind: neither the default route nor what is never routed.
    pub(crate) fn hops(&self, config: &Config, fec: &Ipv4Net) -> Option<&Vec<NextHop>> {
        let address = fec.network();
        let odd = fec.prefix_len() == 0 || address.is_loopback() || address.is_link_local() || address.is_multicast();
        if odd || config.host_routes_only && fec.prefix_len() != 32 {
            return None;
        }
        self.routes.get(fec)
    }

    /// Brings everything about the touched FECs up to date.
    pub(crate) fn settle(&mut self, now: Time, config: &Config, neighbors: &mut Neighbors) -> Changed {
        let mut changed = Changed::default();
        if !self.starved.is_empty() && self.labels.has_room(now) {
            self.dirty.append(&mut self.starved);
        }
        for fec in std::mem::take(&mut self.dirty) {
            self.settle_one(now, config, neighbors, fec, &mut changed);
        }
        changed
    }

    fn settle_one(&mut self, now: Time, config: &Config, neighbors: &mut Neighbors, fec: Ipv4Net, changed: &mut Changed) {
        let route = self.hops(config, &fec);
        let own = fec == own_fec(config);
        let egress = own || route.is_some_and(Vec::is_empty);
        let label_of = |hop: &NextHop| Some(downstream(neighbors, hop)?.remote.get(&fec)?.label);
        let hops: Vec<_> = route.into_iter().flatten().filter(|_| !own).map(|hop| (hop.clone(), label_of(hop))).collect();
        let known = own || route.is_some();
        let old = self.local.get(&fec).copied();
        let wanted = if egress {
            Some(config.null_label())
        } else if hops.iter().any(|(_, label)| label.is_some()) {
            self.claim(now, fec, changed)
        } else {
            None
        };
        if old != wanted {
            if let Some(old) = old {
                self.retire(neighbors, fec, old, changed);
            }
            if let Some(new) = wanted {
                self.local.insert(fec, new);
            }
        }
        for neighbor in neighbors.values_mut().filter(|n| n.is_up()) {
            match wanted {
                Some(label) => self.offer(neighbor, fec, label),
                // RFC 5036 §A.1.1
                None if !known => {
                    if let Some(id) = neighbor.requests.remove(&fec) {
                        neighbor.send(&notification(Status::NO_ROUTE, (id, LABEL_REQUEST)));
                    }
                }
                None => {}
            }
        }
        let entry = known.then_some(Fec { local: wanted, egress, hops });
        if self.forwarding.get(&fec) != entry.as_ref() {
            changed.forwarding = true;
            let forwarding = Arc::make_mut(&mut self.forwarding);
            match entry {
                Some(entry) => drop(forwarding.insert(fec, entry)),
                None => drop(forwarding.remove(&fec)),
            }
        }
    }

    /// The label of a FEC that needs one.
    fn claim(&mut self, now: Time, fec: Ipv4Net, changed: &mut Changed) -> Option<Label> {
        match self.bindings.get(&fec) {
            Some(label) if self.labels.range().contains(*label) => {
                self.unclaimed.remove(&fec);
                return Some(*label);
            }
            _ => {}
        }
        let allocated = if changed.exhausted { None } else { self.labels.allocate(now) };
        let Some(label) = allocated else {
            changed.exhausted = true;
            self.starved.insert(fec);
            return None;
        };
        changed.bindings = true;
        self.unbind(fec);
        self.bindings.insert(fec, label);
        Some(label)
    }

    fn unbind(&mut self, fec: Ipv4Net) -> bool {
        self.unclaimed.remove(&fec);
        match self.bindings.remove(&fec) {
            Some(label) => {
                self.labels.release(label, None);
                true
            }
            None => false,
        }
    }

    /// Takes a label back from whoever has it.
    fn retire(&mut self, neighbors: &mut Neighbors, fec: Ipv4Net, label: Label, changed: &mut Changed) {
        self.local.remove(&fec);
        // A claim may have put another in its place already.
        if self.bindings.get(&fec) == Some(&label) {
            changed.bindings |= self.unbind(fec);
        }
        for neighbor in neighbors.values_mut() {
            if neighbor.sent.remove(&fec).is_some_and(|sent| sent.held) {
                neighbor.withdrawn.insert((fec, label));
                let fecs = vec![FecElement::Prefix(fec)];
                neighbor.send(&Message::LabelWithdraw(LabelMessage { fecs, label: Some(label) }));
            }
        }
    }

    /// Tells the neighbour of a label, unless it has been told.
    fn offer(&mut self, neighbor: &mut Neighbor, fec: Ipv4Net, label: Label) {
        let request_id = neighbor.requests.remove(&fec);
        let sent = neighbor.sent.get(&fec).copied();
        if sent.is_some_and(|s| s.label == label) && request_id.is_none() {
            return;
        }
        self.map(neighbor, fec, label, request_id);
    }

    pub(crate) fn map(&mut self, neighbor: &mut Neighbor, fec: Ipv4Net, label: Label, request_id: Option<u32>) {
        if neighbor.sent.insert(fec, Sent { label, held: true }).is_none_or(|sent| !sent.held) {
            self.labels.hold(label);
        }
        neighbor.send(&Message::LabelMapping(Mapping { fecs: vec![FecElement::Prefix(fec)], label, request_id }));
    }

    /// A session is up: the neighbour is told everything.
    pub(crate) fn tell_all(&mut self, neighbor: &mut Neighbor) {
        let local = std::mem::take(&mut self.local);
        local.iter().for_each(|(fec, label)| self.offer(neighbor, *fec, *label));
        self.local = local;
    }

    /// The session is gone: the neighbour holds none of our labels, at the latest from `rest` on.
    pub(crate) fn session_ended(&mut self, neighbor: &mut Neighbor, rest: Option<Time>) {
        let sent = std::mem::take(&mut neighbor.sent).into_values().filter(|s| s.held).map(|s| s.label);
        let withdrawn = std::mem::take(&mut neighbor.withdrawn).into_iter().map(|(_, label)| label);
        sent.chain(withdrawn).for_each(|label| self.labels.release(label, rest));
        neighbor.requests.clear();
    }
}

/// Message type, for notifications about requests.
pub(crate) const LABEL_REQUEST: u16 = 0x0401;

pub(crate) fn own_fec(config: &Config) -> Ipv4Net {
    Ipv4Net::from(config.lsr_id)
}
