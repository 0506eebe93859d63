//! The adj-RIB-out of one neighbour (RFC 4271 §3.2): the routes it should have, and what it has been told.
//!
//! The owner only says what is desired; it may change a route as often as it likes. What is owed to the neighbour is
//! composed when its connection takes it, newest state only, NLRI of equal attributes packed into full UPDATEs. So
//! a slow neighbour costs memory for its routes and no more.
//!
//! What the session forbids (well-known communities, roles) and what the neighbour did not ask for (RFC 4684) stays here
//! as a desired route that is held back.

mod hash;
mod table;
#[cfg(test)]
mod tests;
mod told;

use crate::membership::Memberships;
use crate::outbound::SendContext;
use edgeplex_bgp_wire::{Attributes, Family, FamilySet, Nlri, NlriKey, RtMembership};
use std::{net::IpAddr, sync::Arc};
use table::{Group, Route, Table};

#[derive(Debug, Default)]
pub struct AdjRibOut {
    tables: [Table; Family::ALL.len()],
    context: Option<SendContext>,
    /// The neighbour says which VPN routes it wants.
    memberships: Option<Memberships>,
    /// It has said all, or had its time.
    memberships_known: bool,
    /// VPN routes have not been looked at since it changed its mind.
    memberships_changed: bool,
}

impl AdjRibOut {
    fn table(&mut self, family: Family) -> Option<&mut Table> {
        let at = Family::ALL.iter().position(|f| *f == family)?;
        self.tables.get_mut(at)
    }

    /// Sets the desired route. Setting what already is so does nothing. Without a next hop it is our address of the session.
    pub fn advertise(&mut self, nlri: Nlri, attributes: Arc<Attributes>, next_hop: impl Into<Option<IpAddr>>) {
        let route = Route { label: nlri.label(), group: Group { attributes, next_hop: next_hop.into() } };
        if let Some(table) = self.table(nlri.family()) {
            table.set(nlri.key(), Some(route));
        }
    }

    pub fn withdraw(&mut self, key: NlriKey) {
        if let Some(table) = self.table(key.family()) {
            table.set(key, None);
        }
    }

    /// From now on routes of the family are sent, then End-of-RIB (RFC 4724 §4.1: selection is deferred until then).
    pub fn release(&mut self, family: Family) {
        if let Some(table) = self.table(family) {
            table.released = true;
        }
    }

    /// Everything of the family is owed again (RFC 2918 §4), between BoRR and EoRR if the neighbour knows them (RFC 7313 §4).
    pub fn refresh(&mut self, family: Family) {
        let enhanced = self.context.is_some_and(|c| c.enhanced_refresh);
        if let Some(table) = self.table(family) {
            table.refresh(enhanced);
        }
    }

    /// A session starts that knows nothing yet.
    pub fn session_up(&mut self, families: FamilySet, context: SendContext) {
        self.session_down();
        self.context = Some(context);
        self.memberships = families.contains(Family::RouteTarget).then(Memberships::default);
        self.memberships_known = false;
        for family in families.iter() {
            if let Some(table) = self.table(family) {
                table.start();
            }
        }
    }

    pub fn session_down(&mut self) {
        self.context = None;
        self.memberships = None;
        self.tables.iter_mut().for_each(Table::stop);
    }

    /// The neighbour wants, or no longer wants, the routes of these targets (RFC 4684 §6).
    pub(crate) fn membership(&mut self, membership: RtMembership, path_id: u32, wanted: bool) {
        if let Some(memberships) = &mut self.memberships {
            self.memberships_changed |= memberships.set(membership, path_id, wanted);
        }
    }

    /// The neighbour has said what it wants: VPN routes need wait no longer.
    pub(crate) fn memberships_known(&mut self) {
        self.memberships_known = true;
    }

    /// Routes the neighbour has.
    pub fn sent(&self) -> usize {
        self.tables.iter().map(Table::sent).sum()
    }

    /// The session's families have all been sent to their End-of-RIB.
    pub fn in_sync(&self) -> bool {
        self.context.is_some() && self.tables.iter().all(Table::in_sync)
    }

    /// Appends the next message that is owed. False if there is none.
    pub fn next(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(context) = self.context else { return false };
        let known = self.memberships.is_none() || self.memberships_known;
        if let Some(memberships) = self.memberships.as_ref().filter(|_| known && std::mem::take(&mut self.memberships_changed)) {
            let vpn = self.tables.iter_mut().zip(Family::ALL).filter(|(_, family)| family.is_vpn());
            vpn.for_each(|(table, _)| table.refilter(|a| memberships.want(a)));
        }
        for (table, family) in self.tables.iter_mut().zip(Family::ALL).filter(|(_, family)| known || !family.is_vpn()) {
            let memberships = self.memberships.as_ref().filter(|_| family.is_vpn());
            let allowed = |a: &Attributes| context.allows(family, a) && memberships.is_none_or(|m| m.want(a));
            if table.next(family, &context, allowed, out) {
                return true;
            }
        }
        false
    }
}
