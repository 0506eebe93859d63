//! The routes of one family, and what of them is owed.

use crate::outbound::SendContext;
use edgeplex_bgp_wire::compose::{self, EncodedAttributes, NextHop};
use edgeplex_bgp_wire::{Attributes, Family, Nlri, NlriKey, Refresh, RouteRefresh};
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) nlri: Nlri,
    pub(super) group: Group,
}

/// Routes that can share an UPDATE.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) attributes: Arc<Attributes>,
    /// `None`: our own address of the session.
    pub(super) next_hop: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Entry {
    desired: Option<Route>,
    /// The neighbour has some version of this route.
    sent: bool,
    /// What the neighbour has may differ from what it should have, and a queue holds the key.
    queued: bool,
    /// `desired` is not for this neighbour.
    held: bool,
}

/// A group being sent; its keys from `next` on are still to do.
#[derive(Debug)]
struct Current {
    group: Group,
    /// `None`: not for this neighbour.
    wire: Option<(EncodedAttributes, NextHop)>,
    keys: Vec<NlriKey>,
    next: usize,
}

/// Keys in the queues may be out of date: the entry says whether and what is owed.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<NlriKey, Entry>,
    withdrawals: Vec<NlriKey>,
    groups: HashMap<Group, Vec<NlriKey>>,
    order: VecDeque<Group>,
    current: Option<Current>,
    /// Keys in all queues, those out of date included.
    pub(super) queue_len: usize,
    pub(super) released: bool,
    /// There is a session that carries this family.
    active: bool,
    end_of_rib_due: bool,
    /// BoRR is to be sent once nothing else is owed, and everything after it.
    refresh_asked: bool,
    /// EoRR is to be sent once nothing else is owed.
    refreshing: bool,
    sent: usize,
    scratch: Vec<(usize, Nlri)>,
}

enum Progress {
    Sent,
    /// These routes are not for this neighbour, or fit no message.
    Held,
    /// The group has nothing left.
    Done,
}

/// NLRI looked at for one UPDATE; more than fit 4096 bytes.
const BATCH: usize = 1024;
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
        }
        self.sent = 0;
        self.clear_queues();
    }

    pub(super) fn refresh(&mut self, enhanced: bool) {
        if enhanced {
            self.refresh_asked = self.active;
        } else {
            self.owe_everything();
        }
    }

    pub(super) fn set(&mut self, key: NlriKey, desired: Option<Route>) {
        let entry = match (self.entries.get_mut(&key), &desired) {
            (Some(entry), _) => entry,
            (None, None) => return,
            (None, Some(_)) => self.entries.entry(key).or_default(),
        };
        let same = match (&entry.desired, &desired) {
            (Some(a), Some(b)) => a.nlri == b.nlri && a.group == b.group,
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        entry.desired = desired;
        if entry.desired.is_none() && !entry.sent {
            // Never told: nothing to take back. A key left in a queue finds no entry.
            self.entries.remove(&key);
        } else if self.active {
            self.enqueue(key);
            if self.queue_len > 2 * self.entries.len() + SLACK {
                self.rebuild();
            }
        }
    }

    fn enqueue(&mut self, key: NlriKey) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.queued = true;
        entry.held = false;
        self.queue_len += 1;
        match &entry.desired {
            None => self.withdrawals.push(key),
            Some(route) => match self.groups.get_mut(&route.group) {
                Some(keys) => keys.push(key),
                None => {
                    self.order.push_back(route.group.clone());
                    self.groups.insert(route.group.clone(), vec![key]);
                }
            },
        }
    }

    fn clear_queues(&mut self) {
        self.withdrawals = Vec::new();
        self.groups = HashMap::new();
        self.order = VecDeque::new();
        self.current = None;
        self.queue_len = 0;
    }

    /// Drops the keys that are out of date.
    fn rebuild(&mut self) {
        self.clear_queues();
        let keys: Vec<NlriKey> = self.entries.iter().filter(|(_, e)| e.queued).map(|(k, _)| *k).collect();
        keys.into_iter().for_each(|k| self.enqueue(k));
    }

    fn owe_everything(&mut self) {
        if self.active {
            self.entries.values_mut().for_each(|e| e.queued = true);
            self.rebuild();
        }
    }

    /// What the neighbour wants has changed: what is on its way, what was held back, and what it has are looked at again.
    pub(super) fn refilter(&mut self, wanted: impl Fn(&Attributes) -> bool) {
        if let Some(current) = self.current.take() {
            let rest = current.keys.get(current.next..).unwrap_or_default();
            self.queue_len -= rest.len();
            for key in rest {
                if self.entries.get(key).is_some_and(|e| e.queued) {
                    self.enqueue(*key);
                }
            }
        }
        let mut judged: HashMap<*const Attributes, bool> = HashMap::new();
        let mut again = Vec::new();
        for (key, entry) in &self.entries {
            let Some(route) = &entry.desired else { continue };
            let attributes = &route.group.attributes;
            let wanted = *judged.entry(Arc::as_ptr(attributes)).or_insert_with(|| wanted(attributes));
            if wanted && entry.held || !wanted && entry.sent && !entry.queued {
                again.push(*key);
            }
        }
        again.into_iter().for_each(|k| self.enqueue(k));
    }

    /// Appends the next message. `allowed`: whether routes with these attributes are for this neighbour.
    pub(super) fn next(&mut self, family: Family, context: &SendContext, allowed: impl Fn(&Attributes) -> bool, out: &mut Vec<u8>) -> bool {
        if !self.active || !self.released {
            return false;
        }
        if self.next_withdrawal(out) {
            return true;
        }
        loop {
            if self.current.is_none() {
                let Some(group) = self.order.pop_front() else { break };
                let keys = self.groups.remove(&group).unwrap_or_default();
                let next_hop = context.next_hop(family, group.next_hop).filter(|_| allowed(&group.attributes));
                let wire = next_hop.map(|hop| (context.encode(family, &group.attributes), hop));
                self.current = Some(Current { group, wire, keys, next: 0 });
            }
            match self.next_of_group(out) {
                Progress::Sent => return true,
                Progress::Held => {}
                Progress::Done => self.current = None,
            }
        }
        // What was held back may have left withdrawals behind.
        self.next_withdrawal(out) || self.next_marker(family, out)
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
            self.owe_everything();
        } else {
            return false;
        }
        true
    }

    fn next_withdrawal(&mut self, out: &mut Vec<u8>) -> bool {
        let mut keys = Vec::new();
        while keys.len() < BATCH {
            let Some(key) = self.withdrawals.pop() else { break };
            self.queue_len -= 1;
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
                self.queue_len += 1;
                self.withdrawals.push(key);
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
    fn next_of_group(&mut self, out: &mut Vec<u8>) -> Progress {
        let Some(current) = &mut self.current else { return Progress::Done };
        self.scratch.clear();
        let start = current.next;
        for (at, key) in current.keys.iter().enumerate().skip(start) {
            if self.scratch.len() == BATCH {
                break;
            }
            current.next = at + 1;
            let Some(entry) = self.entries.get_mut(key).filter(|e| e.queued) else { continue };
            let Some(route) = entry.desired.as_ref().filter(|r| r.group == current.group) else { continue };
            // Cleared already here, so that a key that stands twice is taken once.
            entry.queued = false;
            self.scratch.push((at, route.nlri));
        }
        self.queue_len -= current.next - start;
        if self.scratch.is_empty() {
            return Progress::Done;
        }
        let nlri: Vec<Nlri> = self.scratch.iter().map(|(_, n)| *n).collect();
        let taken = current.wire.as_ref().map_or(0, |(attributes, hop)| compose::reach(out, attributes, *hop, &nlri));
        if taken == 0 {
            self.hold(&nlri);
            return Progress::Held;
        }
        for n in nlri.iter().take(taken) {
            if let Some(entry) = self.entries.get_mut(&n.key()) {
                self.sent += usize::from(!entry.sent);
                entry.sent = true;
            }
        }
        if let Some((at, _)) = self.scratch.get(taken) {
            self.queue_len += current.next - at;
            current.next = *at;
            for n in nlri.iter().skip(taken) {
                if let Some(entry) = self.entries.get_mut(&n.key()) {
                    entry.queued = true;
                }
            }
        }
        Progress::Sent
    }

    /// RFC 4271 §9.2: what must not or cannot be sent is not; what the neighbour had of it is taken back.
    fn hold(&mut self, nlri: &[Nlri]) {
        for key in nlri.iter().map(Nlri::key) {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.held = true;
            if entry.sent {
                entry.queued = true;
                self.queue_len += 1;
                self.withdrawals.push(key);
            }
        }
    }
}
