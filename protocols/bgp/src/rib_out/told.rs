//! What the neighbour has been told by another whose place we take: read from the UPDATEs that were sent, so that afterwards only
//! what differs is sent.

use super::AdjRibOut;
use super::table::{Group, Route, Table};
use crate::outbound::SendContext;
use edgeplex_bgp_wire::{Announced, Attributes, Family, NlriKey, Refresh, Update};
use std::sync::Arc;

impl AdjRibOut {
    /// An UPDATE that was sent on the session.
    pub(crate) fn told(&mut self, update: &Update) {
        // An UPDATE of ours that we cannot make sense of, of another version perhaps: what it told is not known, only that it did.
        let doubtful = !update.faults.is_empty();
        let mut vpn = update.end_of_rib.is_some_and(Family::is_vpn);
        for gone in &update.unreach {
            vpn |= gone.key.family().is_vpn();
            if let Some(table) = self.table(gone.key.family()) {
                if doubtful { table.told(gone.key, None) } else { table.took_back(gone.key) }
            }
        }
        let attributes = update.attributes.clone().unwrap_or_default();
        for Announced { next_hop, reach } in &update.announced {
            let group = Group { attributes: Arc::clone(&attributes), next_hop: Some(*next_hop) };
            for nlri in reach.iter().map(|r| r.nlri) {
                vpn |= nlri.family().is_vpn();
                if let Some(table) = self.table(nlri.family()) {
                    table.told(nlri.key(), Some(Route { label: nlri.label(), group: group.clone() }));
                }
            }
        }
        if let Some(table) = update.end_of_rib.and_then(|family| self.table(family)) {
            table.end_of_rib_due = false;
        }
        // VPN routes are not sent before (RFC 4684 §6).
        self.memberships_known |= vpn;
    }

    /// BoRR or EoRR was sent (RFC 7313).
    pub(crate) fn told_refresh(&mut self, family: Family, kind: Refresh) {
        let Some(table) = self.table(family) else { return };
        match kind {
            Refresh::Begin => {
                table.refresh_asked = false;
                table.refreshing = true;
                table.forget_told();
            }
            Refresh::End => table.refreshing = false,
            Refresh::Request | Refresh::Other(_) => {}
        }
    }

    /// We send from now on. Whether the neighbour still has to say which VPN routes it wants.
    pub(crate) fn promote(&mut self, context: Option<SendContext>) -> bool {
        self.context = context;
        self.memberships_changed = true;
        self.tables.iter_mut().for_each(Table::owe_everything);
        self.memberships.is_some() && !self.memberships_known
    }
}

impl Table {
    /// The neighbour has this route; `None`: it has some version of it.
    fn told(&mut self, key: NlriKey, route: Option<Route>) {
        let entry = self.entries.entry(key).or_default();
        self.sent += usize::from(!std::mem::replace(&mut entry.sent, true));
        entry.told = route.map(Box::new);
    }

    fn took_back(&mut self, key: NlriKey) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.sent -= usize::from(std::mem::take(&mut entry.sent));
        entry.told = None;
        if entry.desired.is_none() {
            self.entries.remove(&key);
        }
    }

    /// Everything has to be sent again, whatever was sent before.
    pub(super) fn forget_told(&mut self) {
        self.entries.values_mut().for_each(|e| e.told = None);
    }
}

/// Whether what was told is what would be sent; remembers its last answer, since routes that share attributes were mostly told with
/// shared ones as well.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    last: Option<(Arc<Attributes>, bool)>,
}

impl Comparison {
    pub(super) fn same(&mut self, told: &Arc<Attributes>, encodes_alike: impl FnOnce(&Attributes) -> bool) -> bool {
        match &self.last {
            Some((last, same)) if Arc::ptr_eq(last, told) => *same,
            _ => {
                let same = encodes_alike(told);
                self.last = Some((Arc::clone(told), same));
                same
            }
        }
    }
}
