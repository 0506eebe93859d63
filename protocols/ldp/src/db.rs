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
    claims: BTreeMap<Ipv4Net, Label>,
    /// For the next process: `claims`, and for FECs without one the label that neighbours have not yet released, or may still use
    /// because they wait for us or we for them. They take it for that FEC, so it must not come to mean another.
    pub(crate) bindings: BTreeMap<Ipv4Net, Label>,
    /// Labels that nobody holds but some may still use, and what they take them for.
    resting: BTreeMap<Label, Ipv4Net>,
    /// Of `claims`, those of before that nobody has needed yet.
    unclaimed: BTreeSet<Ipv4Net>,
    pub(crate) labels: Labels,
    pub(crate) forwarding: Arc<Forwarding>,
    dirty: BTreeSet<Ipv4Net>,
    /// FECs without a label because there was none.
    starved: BTreeSet<Ipv4Net>,
    /// Since it was last taken.
    pub(crate) changed: Changed,
    /// `bindings` may be others than a successor knows.
    pub(crate) rebound: bool,
    /// Another process gives and takes labels.
    pub(crate) following: bool,
    /// Nothing settles until the routes are known.
    pub(crate) held: bool,
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
        if let Some(last) = bindings.values().max().copied().or_else(|| start.restarting.then(|| config.labels.first())) {
            labels.start_beyond(last);
        }
        let mut lib = Self {
            routes: Arc::default(),
            local: BTreeMap::new(),
            unclaimed: bindings.keys().copied().collect(),
            claims: bindings.clone(),
            resting: BTreeMap::new(),
            bindings,
            labels,
            forwarding: Arc::default(),
            dirty: BTreeSet::new(),
            starved: BTreeSet::new(),
            changed: Changed::default(),
            rebound: true,
            following: false,
            held: false,
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
    pub(crate) fn forget_unclaimed(&mut self, rest: Time) {
        for fec in std::mem::take(&mut self.unclaimed) {
            if let Some(label) = self.claims.remove(&fec) {
                self.released(fec, label, Some(rest));
            }
        }
    }

    /// A user of the label is gone: we ourselves, or a neighbour.
    pub(crate) fn released(&mut self, fec: Ipv4Net, label: Label, rest: Option<Time>) {
        if self.labels.release(label, rest) {
            if self.labels.is_resting(label) {
                self.resting.insert(label, fec);
            } else {
                self.forget(fec, label);
            }
        }
    }

    fn forget(&mut self, fec: Ipv4Net, label: Label) {
        if self.bindings.get(&fec) == Some(&label) {
            self.bindings.remove(&fec);
            self.rebind();
        }
    }

    fn rebind(&mut self) {
        (self.changed.bindings, self.rebound) = (true, true);
    }

    /// The process that speaks has given the FEC this label, or takes none for it any longer.
    pub(crate) fn bound(&mut self, fec: Ipv4Net, label: Option<Label>) {
        for map in [&mut self.claims, &mut self.bindings] {
            match label {
                Some(label) => drop(map.insert(fec, label)),
                None => drop(map.remove(&fec)),
            }
        }
        self.touch([fec]);
    }

    /// Labels mean what the neighbours take them for, and each has its users, as the streams tell.
    pub(crate) fn take_over(&mut self, config: &Config, neighbors: &Neighbors) {
        let told = || neighbors.values().flat_map(|n| n.sent.iter()).filter(|(_, sent)| sent.held).map(|(fec, sent)| (*fec, sent.label));
        let withdrawn = || neighbors.values().flat_map(|n| n.withdrawn.iter().copied());
        // A FEC whose label was withdrawn and not yet released gets another one.
        for (fec, label) in withdrawn() {
            if self.claims.get(&fec) == Some(&label) {
                self.claims.remove(&fec);
            }
        }
        self.local.extend(told());
        self.labels = Labels::new(config.labels);
        for label in self.claims.values().copied().chain(told().map(|t| t.1)).chain(withdrawn().map(|w| w.1)) {
            self.labels.hold(label);
        }
        if let Some(last) = self.bindings.values().max() {
            self.labels.start_behind(*last);
        }
        self.unclaimed = self.claims.keys().copied().collect();
        self.rebound = false;
        self.touch_all();
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
    pub(crate) fn settle(&mut self, now: Time, config: &Config, neighbors: &mut Neighbors) {
        if self.held {
            return;
        }
        for label in self.labels.rested(now) {
            if let Some(fec) = self.resting.remove(&label) {
                self.forget(fec, label);
            }
        }
        if !self.starved.is_empty() && self.labels.has_room() {
            self.dirty.append(&mut self.starved);
        }
        for fec in std::mem::take(&mut self.dirty) {
            self.settle_one(config, neighbors, fec);
        }
    }

    fn settle_one(&mut self, config: &Config, neighbors: &mut Neighbors, fec: Ipv4Net) {
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
            if self.following { self.claims.get(&fec).copied() } else { self.claim(fec) }
        } else {
            None
        };
        if old != wanted {
            if self.following {
                self.local.remove(&fec);
            } else if let Some(old) = old {
                self.retire(neighbors, fec, old);
            }
            if let Some(new) = wanted {
                self.local.insert(fec, new);
            }
        }
        let following = self.following;
        for neighbor in neighbors.values_mut().filter(|n| n.is_up() && !following) {
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
            self.changed.forwarding = true;
            let forwarding = Arc::make_mut(&mut self.forwarding);
            match entry {
                Some(entry) => drop(forwarding.insert(fec, entry)),
                None => drop(forwarding.remove(&fec)),
            }
        }
    }

    /// The label of a FEC that needs one.
    fn claim(&mut self, fec: Ipv4Net) -> Option<Label> {
        match self.claims.get(&fec) {
            Some(label) if self.labels.range().contains(*label) => {
                self.unclaimed.remove(&fec);
                return Some(*label);
            }
            _ => {}
        }
        // Whoever still uses the former label takes it for this FEC.
        let former = self.bindings.get(&fec).copied().filter(|l| self.resting.contains_key(l) && self.labels.range().contains(*l));
        let label = match former {
            Some(label) => {
                self.resting.remove(&label);
                self.labels.hold(label);
                Some(label)
            }
            None if self.changed.exhausted => None,
            None => self.labels.allocate(),
        };
        let Some(label) = label else {
            self.changed.exhausted = true;
            self.starved.insert(fec);
            return None;
        };
        self.unbind(fec);
        self.claims.insert(fec, label);
        self.bindings.insert(fec, label);
        self.rebind();
        Some(label)
    }

    fn unbind(&mut self, fec: Ipv4Net) {
        self.unclaimed.remove(&fec);
        if let Some(label) = self.claims.remove(&fec) {
            self.released(fec, label, None);
        }
    }

    /// Takes a label back from whoever has it.
    fn retire(&mut self, neighbors: &mut Neighbors, fec: Ipv4Net, label: Label) {
        self.local.remove(&fec);
        // A claim may have put another in its place already.
        if self.claims.get(&fec) == Some(&label) {
            self.unbind(fec);
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

    /// The session is gone: the neighbour holds none of our labels, at the latest from `rest` on.
    pub(crate) fn session_ended(&mut self, neighbor: &mut Neighbor, rest: Option<Time>) {
        let sent = std::mem::take(&mut neighbor.sent).into_iter().filter(|(_, s)| s.held).map(|(fec, s)| (fec, s.label));
        for (fec, label) in sent.chain(std::mem::take(&mut neighbor.withdrawn)) {
            self.released(fec, label, rest);
        }
        neighbor.requests.clear();
    }
}

/// Message type, for notifications about requests.
pub(crate) const LABEL_REQUEST: u16 = 0x0401;

pub(crate) fn own_fec(config: &Config) -> Ipv4Net {
    Ipv4Net::from(config.lsr_id)
}
