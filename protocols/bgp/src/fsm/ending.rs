//! How a session ends, and what of it stays (RFC 4724 §4.2, RFC 8538, RFC 4486, RFC 9384).

use super::{Peer, STABLE};
use crate::connection::{Connection, State};
use crate::events::{Action, ConnId, Graceful, Time};
use edgeplex_bgp_wire::{Cease, Code, FamilySet, Notification};

/// What is said when the routes are meant to go: RFC 8538 §3.1 wraps it, lest the peer take it for a restart.
fn is_final(n: &Notification) -> bool {
    let subcodes = [Cease::MaximumPrefixes, Cease::AdministrativeShutdown, Cease::PeerDeconfigured, Cease::BfdDown, Cease::HardReset];
    n.code == Code::Cease && subcodes.iter().any(|s| s.number() == n.subcode)
}

impl Peer {
    /// Takes a connection away that is not established.
    pub(super) fn drop_connection(&mut self, id: ConnId, notification: Option<Notification>, actions: &mut Vec<Action>) {
        self.connections.retain(|c| c.id != id);
        if let Some(n) = notification {
            self.send(id, n.encode(), actions);
        }
        actions.push(Action::Close(id));
    }

    /// Says why a connection ends; whether the peer takes it for a restart all the same.
    fn say_last(&mut self, connection: &Connection, n: Notification, actions: &mut Vec<Action>) -> bool {
        let restart = connection.negotiated.as_ref().is_some_and(|c| c.notification);
        let last = if restart && is_final(&n) && !n.is_hard_reset() { n.into_hard_reset() } else { n };
        let keeps = restart && !last.is_hard_reset();
        self.send(connection.id, last.encode(), actions);
        keeps
    }

    /// A connection is over. `notification` is what we have to say about it; without one the peer left.
    pub(super) fn lose(&mut self, now: Time, id: ConnId, reason: &str, notification: Option<Notification>, actions: &mut Vec<Action>) {
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let connection = self.connections.remove(at);
        let silent = notification.is_none();
        let mut restart = silent;
        if let Some(n) = notification {
            // After our own complaint the peer waits as long as we do, lest it keep us busy with errors.
            self.schedule_retry(now);
            self.refuse_until = self.refuse_until.max(self.retry.unwrap_or(now + self.config.backoff.first));
            restart = self.say_last(&connection, n, actions);
        }
        actions.push(Action::Close(id));
        // What ended a session is not hidden by a failure to connect again.
        if connection.state == State::Established || !silent || self.resets == 0 && self.connections.is_empty() {
            self.last_error = Some(reason.to_owned());
        }
        if connection.state == State::Established {
            // RFC 4724 §4.2: a connection that fails without a NOTIFICATION is a restart; RFC 8538: or with one, if both say so.
            self.down(now, reason, graceful(&connection).filter(|_| restart), actions);
        }
        if !self.connections.iter().any(|c| c.state >= State::OpenConfirm) {
            self.schedule_retry(now);
        }
    }

    /// The peer ends a connection with a NOTIFICATION.
    pub(super) fn notified(&mut self, now: Time, id: ConnId, notification: &Notification, actions: &mut Vec<Action>) {
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let connection = self.connections.remove(at);
        let reason = format!("peer sent {notification}");
        actions.push(Action::Close(id));
        // The loser of a collision is told so: nothing has failed.
        if connection.state == State::Established {
            // RFC 8538 §3
            let restart = connection.negotiated.as_ref().is_some_and(|n| n.notification) && !notification.is_hard_reset();
            self.down(now, &reason, graceful(&connection).filter(|_| restart), actions);
            self.last_error = Some(reason);
        } else if self.connections.is_empty() {
            self.last_error = Some(reason);
        }
        if !self.connections.iter().any(|c| c.state >= State::OpenConfirm) {
            self.schedule_retry(now);
        }
    }

    /// `graceful`: which families stay, and for how long.
    pub(super) fn down(&mut self, now: Time, reason: &str, graceful: Option<(FamilySet, Graceful)>, actions: &mut Vec<Action>) {
        if self.established_at.take().is_some_and(|at| now >= at + STABLE) {
            self.failures = 0;
        }
        self.resets += 1;
        if let (Some(mut inbound), Some((kept, _))) = (self.inbound.take(), &graceful) {
            inbound.keep_only(*kept, actions);
        }
        self.membership_wait = None;
        self.outgoing = None;
        self.refresh_wanted = FamilySet::EMPTY;
        self.rib_out.session_down();
        actions.push(Action::Down { reason: reason.to_owned(), graceful: graceful.map(|(_, times)| times) });
    }

    /// The operator ends everything. `keep`: it is to come back, so that the peer's routes may stay.
    pub(super) fn end_all(&mut self, now: Time, reason: &str, notification: Option<&Notification>, keep: bool, actions: &mut Vec<Action>) {
        for connection in std::mem::take(&mut self.connections) {
            let say = notification.filter(|_| connection.state > State::Connect).cloned();
            let restart = say.is_some_and(|n| self.say_last(&connection, n, actions));
            actions.push(Action::Close(connection.id));
            if connection.state == State::Established {
                self.last_error = Some(reason.to_owned());
                self.down(now, reason, graceful(&connection).filter(|_| keep && restart), actions);
            }
        }
    }
}

/// What stays if the end of this connection is a restart of the peer: nothing unless both sides can do it.
pub(super) fn graceful(connection: &Connection) -> Option<(FamilySet, Graceful)> {
    let negotiated = connection.negotiated.as_ref()?;
    let theirs = negotiated.graceful_restart.as_ref()?;
    let times = Graceful { stale_s: theirs.restart_time.into(), llgr_stale_s: negotiated.long_lived_s() };
    let kept = negotiated.kept();
    (!kept.is_empty() && times != Graceful { stale_s: 0, llgr_stale_s: 0 }).then_some((kept, times))
}
