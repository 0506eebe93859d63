//! What touches many routes, in slices: decisions, exports, going through the table.

use super::*;
use crate::attachment::Exported;
use edgeplex_types::Rd;
use std::ops::Bound;

/// Prefixes that one call of [`Vpn::next_message`] may look at without finding something to say.
pub(super) const LOOKS: usize = 1024;

/// Going through the whole table, once for all reasons there are.
#[derive(Debug, Default)]
pub(super) struct Walk {
    after: Option<Key>,
    /// Attachments whose imports changed.
    pub(super) slots: BTreeSet<Slot>,
    /// Endpoints whose ways changed.
    pub(super) endpoints: BTreeSet<Ipv4Addr>,
    /// Reflectors whose paths count for less, or no longer.
    pub(super) reflectors: BTreeSet<Ipv4Addr>,
}

impl Walk {
    fn has_reason(&self) -> bool {
        !(self.slots.is_empty() && self.endpoints.is_empty() && self.reflectors.is_empty())
    }
}

/// Routes that were advertised under a route distinguisher which their attachment no longer has.
#[derive(Debug)]
pub(super) struct Leaving {
    rd: Rd,
    routes: BTreeMap<IpNet, Exported>,
}

impl<P: Clone + Eq> Vpn<P> {
    /// Does up to `budget` steps of what is queued; true if there is more. Call it once more after the messages if
    /// [`has_more`](Self::has_more) says so.
    pub fn work(&mut self, budget: usize) -> bool {
        let mut left = budget;
        while left > 0
            && let Some(key) = self.undecided.pop_first()
        {
            left -= 1;
            self.decide(key, true);
        }
        self.withdraw_leaving(&mut left);
        self.export_slices(&mut left);
        self.walk_slice(&mut left);
        if !self.has_queued() && budget > left {
            // Snapshots may end now.
            self.ready.extend(self.sessions.iter().map(|(conn, _)| conn));
        }
        self.has_more()
    }

    /// Whether [`work`](Self::work) stopped for the sake of others.
    pub fn has_queued(&self) -> bool {
        !self.undecided.is_empty()
            || !self.leaving.is_empty()
            || !self.exports.is_empty()
            || self.walk.is_some()
            || self.next_walk.has_reason()
    }

    /// Whether [`work`](Self::work) or [`next_message`](Self::next_message) stopped for the sake of others.
    pub fn has_more(&self) -> bool {
        self.has_queued() || self.ready.iter().any(|conn| self.sessions.get(*conn).is_some_and(|s| s.feed.is_busy()))
    }

    /// Whether routes that this attachment imports may be missing in its VRF.
    pub(super) fn is_looking(&self, slot: Slot) -> bool {
        !self.undecided.is_empty()
            || !self.exports.is_empty()
            || self.next_walk.slots.contains(&slot)
            || self.walk.as_ref().is_some_and(|w| w.slots.contains(&slot))
    }

    /// Brings a prefix into the VRFs that import it now, and out of the others. `changed`: it is not the same in those
    /// that had it before either.
    fn decide(&mut self, key: Key, changed: bool) {
        self.rib.bury(&key);
        let new = self.rib.importers_of(key);
        let local = self.rib.own(&key).is_some();
        let entry = self.rib.table.entry(key).or_default();
        let old = std::mem::replace(&mut entry.importers, new.clone());
        if entry.paths.is_empty() && !local {
            self.rib.table.remove(&key);
        }
        let (rd, prefix) = key;
        for slot in old.iter().filter(|slot| !new.contains(slot)) {
            if let Some(attachment) = self.rib.attachments.get_mut(slot) {
                attachment.vrf.remove(&(prefix, rd));
                self.prefix_changed(*slot, prefix);
            }
        }
        for slot in new.iter() {
            if let Some(attachment) = self.rib.attachments.get_mut(slot)
                && (attachment.vrf.insert((prefix, rd)) || changed)
            {
                self.prefix_changed(*slot, prefix);
            }
        }
    }

    fn prefix_changed(&mut self, slot: Slot, prefix: IpNet) {
        for (conn, session) in self.sessions.of_mut(slot) {
            session.feed.prefix_changed(prefix);
            self.ready.insert(conn);
        }
    }

    fn walk_slice(&mut self, left: &mut usize) {
        while *left > 0 {
            let Some(mut walk) = self.walk.take() else {
                if !self.next_walk.has_reason() {
                    return;
                }
                self.walk = Some(std::mem::take(&mut self.next_walk));
                continue;
            };
            let from = walk.after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut last = None;
            let mut found = vec![];
            for (key, entry) in self.rib.table.range((from, Bound::Unbounded)).take(*left) {
                last = Some(*key);
                let own = walk.endpoints.contains(&self.rib.loopback) && self.rib.by_rd.contains_key(&key.0);
                let concerned = |p: &Received| walk.endpoints.contains(&p.next_hop) || walk.reflectors.contains(&p.reflector);
                let changed = own || entry.paths.iter().any(concerned) || self.rib.has_dead(key, entry);
                if changed || !walk.slots.is_empty() {
                    found.push((*key, changed));
                }
                *left -= 1;
            }
            for (key, changed) in found {
                self.decide(key, changed);
            }
            match last {
                Some(key) => {
                    walk.after = Some(key);
                    self.walk = Some(walk);
                }
                None => self.ready.extend(walk.slots.iter().flat_map(|slot| self.sessions.of(*slot)).map(|(conn, _)| conn)),
            }
        }
    }

    /// All that an attachment advertises leaves its route distinguisher.
    pub(super) fn leave(&mut self, slot: Slot) {
        let Some(attachment) = self.rib.attachments.get_mut(&slot) else { return };
        let routes = std::mem::take(&mut attachment.exported);
        if !routes.is_empty() {
            self.leaving.push_back(Leaving { rd: attachment.config.rd, routes });
        }
    }

    fn withdraw_leaving(&mut self, left: &mut usize) {
        while *left > 0
            && let Some(leaving) = self.leaving.front_mut()
        {
            let rd = leaving.rd;
            match leaving.routes.pop_first() {
                Some((prefix, _)) => {
                    *left -= 1;
                    self.actions.push_back(Action::Withdraw(NlriKey::Vpn { rd, prefix }));
                    self.undecided.insert((rd, prefix));
                }
                None => drop(self.leaving.pop_front()),
            }
        }
    }

    fn export_slices(&mut self, left: &mut usize) {
        while *left > 0
            && let Some((slot, after)) = self.exports.pop_first()
        {
            let Some(attachment) = self.rib.attachments.get(&slot) else { continue };
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let said = attachment.exported.range((from, Bound::Unbounded)).map(|(prefix, _)| prefix);
            let to_say = attachment.routes.keys_after(after.as_ref());
            let slice: BTreeSet<IpNet> = said.take(*left).chain(to_say.take(*left)).copied().collect();
            let slice: Vec<IpNet> = slice.into_iter().take(*left).collect();
            *left -= slice.len();
            if let Some(last) = slice.last() {
                self.exports.insert(slot, Some(*last));
            }
            slice.into_iter().for_each(|prefix| self.export(slot, prefix));
        }
    }

    /// Advertises a customer route as it now is, or withdraws it.
    pub(super) fn export(&mut self, slot: Slot, prefix: IpNet) {
        let Some(attachment) = self.rib.attachments.get_mut(&slot) else { return };
        let rd = attachment.config.rd;
        let new = attachment.export(&prefix).unwrap_or_else(|error| {
            self.actions.push_back(Action::Refused(attachment.config.id.clone(), format!("{prefix}: {error}")));
            None
        });
        let old = match &new {
            Some(exported) => attachment.exported.insert(prefix, exported.clone()),
            None => attachment.exported.remove(&prefix),
        };
        // Whoever had the route distinguisher before may have said the same of the prefix.
        let left = self.leaving.iter_mut().filter(|l| l.rd == rd).find_map(|l| l.routes.remove(&prefix));
        if old == new && left.is_none() {
            return;
        }
        if old.or(left) != new {
            self.actions.push_back(match new {
                Some(exported) => Action::Advertise(Nlri::Vpn { rd, prefix, label: exported.label }, exported.attributes),
                None => Action::Withdraw(NlriKey::Vpn { rd, prefix }),
            });
        }
        self.undecided.insert((rd, prefix));
    }
}
