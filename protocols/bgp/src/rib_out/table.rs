//! The routes of one family, and what of them is owed.

use super::hash::Keyed;
use super::told::Comparison;
use crate::outbound::SendContext;
use edgeplex_bgp_wire::compose::{self, EncodedAttributes, NextHop};
use edgeplex_bgp_wire::{Attributes, Family, Nlri, NlriKey, Refresh, RouteRefresh};
use edgeplex_types::Label;
use std::{
    collections::{HashMap, VecDeque, hash_map},
    net::IpAddr,
    sync::Arc,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Of a VPN's.
    pub(super) label: Option<Label>,
    pub(super) group: Group,
}

/// Routes that can share an UPDATE.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) attributes: Arc<Attributes>,
    /// `None`: our own address of the session.
    pub(super) next_hop: Option<IpAddr>,
}

impl Group {
    /// Without looking at the attributes.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.attributes, &other.attributes) && self.next_hop == other.next_hop
    }
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) desired: Option<Route>,
    /// The neighbour has some version of this route.
    pub(super) sent: bool,
    /// Which, where another has sent it; gone once that was compared with what is desired.
    pub(super) told: Option<Box<Route>>,
    /// What the neighbour has may differ from what it should have, and a queue holds the key.
    queued: bool,
    /// `desired` is not for this neighbour.
    held: bool,
}

impl Entry {
    fn enqueue(&mut self, key: NlriKey, queues: &mut Queues) {
        self.queued = true;
        self.held = false;
        queues.push(key, self.desired.as_ref());
    }
}

/// Keys of which something may be owed.
#[derive(Debug, Default)]
pub(super) struct Queues {
    withdrawals: Vec<NlriKey>,
    /// In the order in which they are sent, and how many have been before.
    groups: VecDeque<(Group, Vec<NlriKey>)>,
    gone: usize,
    /// The number of each group, `gone` included.
    numbers: HashMap<Group, usize, Keyed>,
    /// Keys in all queues and still to do in the current group, those out of date included.
    pub(super) len: usize,
}

impl Queues {
    fn push(&mut self, key: NlriKey, desired: Option<&Route>) {
        self.len += 1;
        let Some(Route { group, .. }) = desired else { return self.withdrawals.push(key) };
        // Routes that share attributes mostly come one after the other.
        if let Some((_, keys)) = self.groups.back_mut().filter(|(last, _)| last.is_same(group)) {
            return keys.push(key);
        }
        let next = self.gone + self.groups.len();
        let number = *self.numbers.entry(group.clone()).or_insert(next);
        match self.groups.get_mut(number - self.gone) {
            Some((_, keys)) => keys.push(key),
            None => self.groups.push_back((group.clone(), vec![key])),
        }
    }

    fn pop_group(&mut self) -> Option<(Group, Vec<NlriKey>)> {
        let (group, keys) = self.groups.pop_front()?;
        self.numbers.remove(&group);
        self.gone += 1;
        Some((group, keys))
    }
}

/// A group being sent; its keys from `next` on are still to do.
#[derive(Debug)]
struct Current {
    group: Group,
    /// `None`: not for this neighbour.
    wire: Option<(EncodedAttributes, NextHop)>,
    compared: Comparison,
    keys: Vec<NlriKey>,
    next: usize,
}

/// Keys in the queues may be out of date: the entry says whether and what is owed.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) entries: HashMap<NlriKey, Entry, Keyed>,
    pub(super) queues: Queues,
    current: Option<Current>,
    pub(super) released: bool,
    /// There is a session that carries this family.
    active: bool,
    pub(super) end_of_rib_due: bool,
    /// BoRR is to be sent once nothing else is owed, and everything after it.
    pub(super) refresh_asked: bool,
    /// EoRR is to be sent once nothing else is owed.
    pub(super) refreshing: bool,
    pub(super) sent: usize,
    /// What is looked at for one UPDATE, and whether the neighbour has none of it yet.
    scratch: Vec<Nlri>,
    fresh: Vec<bool>,
}

fn nlri(key: &NlriKey, label: Option<Label>) -> Nlri {
    match *key {
        NlriKey::Unicast(prefix) => Nlri::Unicast(prefix),
        // Every VPN route was set with its label.
        NlriKey::Vpn { rd, prefix } => Nlri::Vpn { rd, prefix, label: label.unwrap_or(Label::IMPLICIT_NULL) },
        NlriKey::RouteTarget(membership) => Nlri::RouteTarget(membership),
    }
}

enum Progress {
    Sent,
    /// These routes are not for this neighbour, or fit no message.
    Held,
    /// The group has nothing left.
    Done,
}

/// Keys looked at for one UPDATE: about as many as fit 4096 bytes.
fn batch(family: Family) -> usize {
    match family {
        Family::Ipv4Unicast => 1024,
        Family::Ipv6Unicast => 600,
        Family::Vpnv4 | Family::RouteTarget => 320,
        Family::Vpnv6 => 256,
    }
}

/// Queues may hold this many keys beyond twice the table before they are built anew.
pub(super) const SLACK: usize = 1024;

impl Table {
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    /// Sent to its End-of-RIB, or not carried by the session.
    pub(super) fn in_sync(&self) -> bool {
        !self.active || self.released && !self.end_of_rib_due
    }

    pub(super) fn start(&mut self) {
        self.active = true;
        self.end_of_rib_due = true;
        self.owe_everything();
    }

    pub(super) fn stop(&mut self) {
        self.active = false;
        self.end_of_rib_due = false;
        self.refresh_asked = false;
        self.refreshing = false;
        self.entries.retain(|_, e| e.desired.is_some());
        for entry in self.entries.values_mut() {
            (entry.sent, entry.queued, entry.held) = (false, false, false);
            entry.told = None;
        }
        self.sent = 0;
        self.rebuild();
    }

    pub(super) fn refresh(&mut self, enhanced: bool) {
        if enhanced {
            self.refresh_asked = self.active;
        } else {
            self.forget_told();
            self.owe_everything();
        }
    }

    pub(super) fn set(&mut self, key: NlriKey, desired: Option<Route>) {
        let mut entry = match (self.entries.entry(key), &desired) {
            (hash_map::Entry::Occupied(entry), _) => entry,
            (hash_map::Entry::Vacant(_), None) => return,
            (hash_map::Entry::Vacant(vacant), Some(_)) => vacant.insert_entry(Entry::default()),
        };
        if entry.get().desired == desired {
            return;
        }
        entry.get_mut().desired = desired;
        if entry.get().desired.is_none() && !entry.get().sent {
            // Never told: nothing to take back. A key left in a queue finds no entry.
            entry.remove();
        } else if self.active {
            entry.get_mut().enqueue(key, &mut self.queues);
            if self.queues.len > 2 * self.entries.len() + SLACK {
                self.rebuild();
            }
        }
    }

    /// Drops the keys that are out of date.
    fn rebuild(&mut self) {
        self.current = None;
        self.queues = Queues::default();
        for (key, entry) in self.entries.iter_mut().filter(|(_, e)| e.queued) {
            entry.enqueue(*key, &mut self.queues);
        }
    }

    pub(super) fn owe_everything(&mut self) {
        if self.active {
            self.entries.values_mut().for_each(|e| e.queued = true);
            self.rebuild();
        }
    }

    /// What the neighbour wants has changed: what is on its way, what was held back, and what it has are looked at again.
    pub(super) fn refilter(&mut self, wanted: impl Fn(&Attributes) -> bool) {
        if let Some(current) = self.current.take() {
            let rest = current.keys.get(current.next..).unwrap_or_default();
            self.queues.len -= rest.len();
            for key in rest {
                if let Some(entry) = self.entries.get_mut(key).filter(|e| e.queued) {
                    entry.enqueue(*key, &mut self.queues);
                }
            }
        }
        let mut judged: HashMap<*const Attributes, bool> = HashMap::new();
        for (key, entry) in &mut self.entries {
            let Some(route) = &entry.desired else { continue };
            let attributes = &route.group.attributes;
            let wanted = *judged.entry(Arc::as_ptr(attributes)).or_insert_with(|| wanted(attributes));
            if wanted && entry.held || !wanted && entry.sent && !entry.queued {
                entry.enqueue(*key, &mut self.queues);
            }
        }
    }

    /// Appends the next message. `allowed`: whether routes with these attributes are for this neighbour.
    pub(super) fn next(&mut self, family: Family, context: &SendContext, allowed: impl Fn(&Attributes) -> bool, out: &mut Vec<u8>) -> bool {
        if !self.active || !self.released {
            return false;
        }
        if self.next_withdrawal(family, out) {
            return true;
        }
        loop {
            if self.current.is_none() {
                let Some((group, keys)) = self.queues.pop_group() else { break };
                let next_hop = context.next_hop(family, group.next_hop).filter(|_| allowed(&group.attributes));
                let wire = next_hop.map(|hop| (context.encode(family, &group.attributes), hop));
                self.current = Some(Current { group, wire, compared: Comparison::default(), keys, next: 0 });
            }
            match self.next_of_group(family, context, out) {
                Progress::Sent => return true,
                Progress::Held => {}
                Progress::Done => self.current = None,
            }
        }
        // What was held back may have left withdrawals behind.
        self.next_withdrawal(family, out) || self.next_marker(family, out)
    }

    /// Nothing is owed: End-of-RIB, or the marks of a refresh (RFC 7313 §4: BoRR never before End-of-RIB).
    fn next_marker(&mut self, family: Family, out: &mut Vec<u8>) -> bool {
        if std::mem::take(&mut self.end_of_rib_due) {
            compose::end_of_rib(out, family);
        } else if std::mem::take(&mut self.refreshing) {
            RouteRefresh::new(family, Refresh::End).write(out);
        } else if std::mem::take(&mut self.refresh_asked) {
            RouteRefresh::new(family, Refresh::Begin).write(out);
            self.refreshing = true;
            self.forget_told();
            self.owe_everything();
        } else {
            return false;
        }
        true
    }

    fn next_withdrawal(&mut self, family: Family, out: &mut Vec<u8>) -> bool {
        let mut keys = Vec::new();
        while keys.len() < batch(family) {
            let Some(key) = self.queues.withdrawals.pop() else { break };
            self.queues.len -= 1;
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if entry.sent && entry.queued && (entry.desired.is_none() || entry.held) {
                keys.push(key);
                // Done already here, so that a key that stands twice is taken once.
                entry.queued = false;
            }
        }
        let taken = compose::unreach(out, &keys);
        for (at, key) in keys.into_iter().enumerate() {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if at >= taken {
                entry.queued = true;
                self.queues.len += 1;
                self.queues.withdrawals.push(key);
                continue;
            }
            entry.sent = false;
            self.sent -= 1;
            if entry.desired.is_none() {
                self.entries.remove(&key);
            }
        }
        taken > 0
    }

    /// Sends from the current group.
    fn next_of_group(&mut self, family: Family, context: &SendContext, out: &mut Vec<u8>) -> Progress {
        let Some(current) = &mut self.current else { return Progress::Done };
        self.scratch.clear();
        self.fresh.clear();
        let start = current.next;
        for key in current.keys.iter().skip(start) {
            if self.scratch.len() == batch(family) {
                break;
            }
            current.next += 1;
            let Some(entry) = self.entries.get_mut(key).filter(|e| e.queued) else { continue };
            let Some(route) = entry.desired.as_ref().filter(|r| r.group == current.group) else { continue };
            if let (Some(told), Some((attributes, hop))) = (entry.told.take(), &current.wire) {
                let group = &told.group;
                let alike = |told: &Attributes| context.encoded(told) == *attributes;
                if told.label == route.label && group.next_hop == Some(hop.address) && current.compared.same(&group.attributes, alike) {
                    // The neighbour has it already.
                    entry.queued = false;
                    continue;
                }
            }
            self.scratch.push(nlri(key, route.label));
            self.fresh.push(!entry.sent);
            // Done already here, so that a key that stands twice is taken once.
            (entry.queued, entry.sent) = (false, true);
        }
        self.queues.len -= current.next - start;
        if self.scratch.is_empty() {
            return Progress::Done;
        }
        let taken = current.wire.as_ref().map_or(0, |(attributes, hop)| compose::reach(out, attributes, *hop, &self.scratch));
        self.sent += self.fresh.iter().take(taken).filter(|fresh| **fresh).count();
        if taken == 0 {
            self.hold();
            return Progress::Held;
        }
        // What did not fit is looked at again, and it goes on from there.
        let left = self.scratch.get(taken..).unwrap_or_default();
        for (n, fresh) in left.iter().zip(self.fresh.iter().skip(taken)) {
            if let Some(entry) = self.entries.get_mut(&n.key()) {
                (entry.queued, entry.sent) = (true, !fresh);
            }
        }
        if let Some(first) = left.first().map(Nlri::key) {
            let again = current.keys.iter().skip(start).position(|k| *k == first).unwrap_or(0);
            self.queues.len += current.next - start - again;
            current.next = start + again;
        }
        Progress::Sent
    }

    /// RFC 4271 §9.2: what must not or cannot be sent is not; what the neighbour had of it is taken back.
    fn hold(&mut self) {
        for (key, fresh) in self.scratch.iter().map(Nlri::key).zip(&self.fresh) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            (entry.held, entry.sent) = (true, !fresh);
            if entry.sent {
                entry.queued = true;
                self.queues.len += 1;
                self.queues.withdrawals.push(key);
            }
        }
    }
}
