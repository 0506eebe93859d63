//! Taking the place of the process that was followed.

use super::Inherited;
use crate::engine::Ldp;
use crate::fsm::End;
use crate::packet::{Message, Status};
use crate::session::ADDRESSES_AT_ONCE;
use crate::{Action, ConnId, Event, Time};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

/// Longest that routes are waited for before labels go by those that there are.
const ROUTES: Duration = Duration::from_secs(30);

impl Ldp {
    /// Connections that were replayed and not closed, and what their sockets must have: to be made again before [`Ldp::promote`].
    pub fn inherited(&self) -> Vec<Inherited> {
        let Some(following) = &self.following else { return vec![] };
        let inherited = following.connections.iter().map(|(conn, connection)| {
            let neighbor = self.conns.get(conn).and_then(|lsr_id| self.neighbors.get(lsr_id));
            let password = match neighbor {
                Some(neighbor) => self.config.passwords.get(&neighbor.lsr_id),
                None => self.keys.get(&connection.remote),
            };
            Inherited { conn: *conn, password: password.cloned(), gtsm: neighbor.is_some_and(|n| n.gtsm) }
        });
        inherited.collect()
    }

    /// The process that we followed is no more: we are the speaker from now on. `lost`: connections that could not be made again.
    /// Those that there is no use for are closed.
    pub fn promote(&mut self, now: Time, lost: &[ConnId]) -> Vec<Action> {
        let Some(following) = self.following.take() else { return vec![] };
        let (start, said, addresses) = following.into_parts();
        self.lib.following = false;
        let ours = self.told.speaker.as_ref().is_some_and(|s| s.lsr_id == self.config.lsr_id);
        if !ours {
            return self.begin_without(now, start, said, addresses.into_keys());
        }
        self.sequence = self.told.speaker.as_ref().map_or(self.sequence, |s| s.sequence);
        // No shorter than routes are waited for: neighbours need not have been asked to wait at all.
        self.kept_until = Some(now + self.config.recovery.max(ROUTES));
        self.lib.held = true;
        self.held_until = Some(now + ROUTES);
        for (name, interface) in &mut self.interfaces {
            interface.hello_at = self.config.interfaces.contains(name).then_some(now);
        }
        for neighbor in self.neighbors.values_mut() {
            for adjacency in neighbor.adjacencies.values_mut() {
                adjacency.expires = adjacency.hold.map(|hold| now + hold);
            }
            if let Some(session) = &mut neighbor.session {
                session.take_over(now);
            }
        }
        self.lib.take_over(&self.config, &self.neighbors);
        for conn in lost {
            self.closed(now, *conn, "its connection could not be taken over".into());
        }
        for conn in addresses.keys().filter(|conn| !lost.contains(conn)) {
            self.keep_or_close(now, *conn);
        }
        for event in said {
            self.event(now, event);
        }
        let enabled = self.config.interfaces.clone();
        self.lose_adjacencies(now, |interface, _| !enabled.contains(interface), "LDP was taken off its interface", false);
        self.tell_what_changed(&addresses);
        self.handle(now, Event::Timer)
    }

    /// Half-made sessions begin anew.
    fn keep_or_close(&mut self, now: Time, conn: ConnId) {
        match self.conns.get(&conn).copied() {
            Some(lsr_id) if self.neighbors.get(&lsr_id).is_some_and(|n| n.is_up()) => {}
            Some(lsr_id) => self.end_session(now, lsr_id, End::ours(Status::SHUTDOWN, "it was not up when its process ended")),
            None => self.actions.push(Action::Close { conn }),
        }
    }

    /// Addresses that have come or gone while nobody spoke.
    fn tell_what_changed(&mut self, told: &BTreeMap<ConnId, BTreeSet<Ipv4Addr>>) {
        let own = self.own_addresses();
        for neighbor in self.neighbors.values_mut().filter(|n| n.is_up()) {
            let Some(told) = neighbor.session.as_ref().and_then(|s| told.get(&s.conn)) else { continue };
            let new: Vec<_> = own.difference(told).copied().collect();
            let gone: Vec<_> = told.difference(&own).copied().collect();
            new.chunks(ADDRESSES_AT_ONCE).for_each(|a| neighbor.send(&Message::Address(a.to_vec())));
            gone.chunks(ADDRESSES_AT_ONCE).for_each(|a| neighbor.send(&Message::AddressWithdraw(a.to_vec())));
        }
    }

    fn begin_without(&mut self, now: Time, start: crate::Start, said: Vec<Event>, conns: impl Iterator<Item = ConnId>) -> Vec<Action> {
        let mut fresh = Self::new(now, self.config.clone(), start);
        // Whoever was told of sessions learns that they are gone.
        let up: Vec<_> = self.neighbors.values().filter(|n| n.is_up()).map(|n| n.lsr_id).collect();
        for lsr_id in up {
            self.end_session(now, lsr_id, End::lost("the process before was another LSR".into()));
        }
        self.actions.retain(|a| matches!(a, Action::SessionDown { .. }));
        fresh.actions.append(&mut self.actions);
        fresh.actions.extend(conns.map(|conn| Action::Close { conn }));
        if !self.told.is_empty() {
            fresh.log(now, None, "cannot go on where the process before was: begins anew".into());
        }
        fresh.told = std::mem::take(&mut self.told);
        fresh.lib.rebound = true;
        fresh.lib.forwarding = Arc::clone(&self.lib.forwarding);
        fresh.synced = std::mem::take(&mut self.synced);
        if !self.lib.routes.is_empty() {
            fresh.set_routes(Arc::clone(&self.lib.routes));
        }
        fresh.lib.touch_all();
        *self = fresh;
        for event in said {
            self.event(now, event);
        }
        self.handle(now, Event::Timer)
    }

    /// Nothing was said or heard for a while, and the neighbours are not to blame.
    pub fn resume(&mut self, now: Time) -> Vec<Action> {
        for neighbor in self.neighbors.values_mut() {
            for adjacency in neighbor.adjacencies.values_mut() {
                adjacency.expires = adjacency.hold.map(|hold| now + hold);
            }
            if let Some(session) = neighbor.session.as_mut().filter(|s| s.is_up()) {
                session.take_over(now);
            }
        }
        for interface in self.interfaces.values_mut() {
            interface.hello_soon(now);
        }
        self.handle(now, Event::Timer)
    }
}
