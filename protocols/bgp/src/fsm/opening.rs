//! How a session comes about: connecting, accepting, OPENs, collisions (RFC 4271 §6.8, §8.2.2).

use super::ending::graceful;
use super::{COLLISION_WINDOW, CONNECT_TIMEOUT, DELAY_OPEN, OPEN_TIMEOUT, Peer};
use crate::connection::{Connection, State};
use crate::events::{Action, ConnId, Time};
use crate::inbound::Inbound;
use crate::session::{self, Negotiated};
use edgeplex_bgp_wire::{Cease, Decoder, Family, Notification, Open, keepalive};
use std::{cmp::Ordering, net::IpAddr, time::Duration};

const REPLACED: &str = "the peer opened a new session";

impl Peer {
    pub(super) fn send_open(&mut self, id: ConnId, actions: &mut Vec<Action>) {
        let open = session::our_open(&self.config, &self.local, self.restarting);
        self.send(id, open.encode(), actions);
        self.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.ours = Some(open.clone()));
    }

    /// `local`: our address, if the peer has connected to it.
    pub(super) fn new_connection(&mut self, now: Time, local: Option<IpAddr>, state: State, timeout: Duration) -> ConnId {
        let id = ConnId(self.next_id);
        self.next_id += 1;
        self.connections.push(Connection {
            id,
            outgoing: local.is_none(),
            local,
            state,
            buffer: Vec::new(),
            ours: None,
            sent: Vec::new(),
            negotiated: None,
            since: now,
            open_due: None,
            expires: Some(now + timeout),
            keepalive: None,
        });
        id
    }

    pub(super) fn connect_if_due(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.retry.is_none_or(|at| at > now) {
            return;
        }
        self.retry = None;
        // A connection that is getting somewhere is enough.
        if self.enabled && !self.config.passive && !self.connections.iter().any(|c| c.outgoing || c.state >= State::OpenConfirm) {
            let id = self.new_connection(now, None, State::Connect, CONNECT_TIMEOUT);
            actions.push(Action::Connect(id));
        }
    }

    pub(super) fn schedule_retry(&mut self, now: Time) {
        if self.enabled && !self.config.passive && self.retry.is_none() {
            let doubled = self.config.backoff.first.saturating_mul(1 << self.failures.min(16));
            let pause = doubled.min(self.config.backoff.last);
            // The side that would lose a collision lets the other go first.
            let stagger = if self.peer_id.is_some_and(|id| self.local.router_id < id) { pause / 2 } else { Duration::ZERO };
            self.retry = Some(now + pause + stagger);
            self.failures = self.failures.saturating_add(1);
        }
    }

    pub(super) fn accept(&mut self, now: Time, local: IpAddr, actions: &mut Vec<Action>) {
        if !self.enabled || now < self.refuse_until {
            return;
        }
        // The peer's newest connection is the one it means.
        let older = self.connections.iter().find(|c| !c.outgoing && c.state < State::Established).map(|c| c.id);
        if let Some(id) = older {
            self.drop_connection(id, Some(Notification::cease(Cease::ConnectionCollision)), actions);
        }
        // Beside another connection we hear first who is calling (RFC 4271 §8.1.1, DelayOpen): what both sides decide on a
        // collision then rests on the identifiers alone, not on whose message was faster.
        let second = self.connections.iter().any(|c| c.state >= State::OpenSent);
        let id = self.new_connection(now, Some(local), State::OpenSent, OPEN_TIMEOUT);
        actions.push(Action::Adopt(id));
        if second {
            self.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.open_due = Some(now + DELAY_OPEN));
        } else {
            self.send_open(id, actions);
        }
    }

    pub(super) fn open(&mut self, now: Time, id: ConnId, body: &[u8], actions: &mut Vec<Action>) {
        let sent = self.connections.iter().find(|c| c.id == id).and_then(|c| c.ours.clone());
        let ours = sent.unwrap_or_else(|| session::our_open(&self.config, &self.local, self.restarting));
        let agreed = Open::decode(body)
            .map_err(|f| (f.to_string(), f.notification))
            .and_then(|open| session::negotiate(&self.config, &self.local, &ours, &open).map_err(|n| (n.to_string(), n)));
        let negotiated = match agreed {
            Ok(negotiated) => negotiated,
            Err((reason, n)) => return self.lose(now, id, &reason, Some(n), actions),
        };
        self.peer_id = Some(negotiated.peer_id);
        // Who speaks resolves collisions; we hear of it.
        if !self.following && !self.resolve_collision(now, id, &negotiated, actions) {
            return;
        }
        let connecting = self.connections.iter().find(|c| c.state == State::Connect).map(|c| c.id);
        if let Some(other) = connecting {
            // It would only collide.
            self.drop_connection(other, None, actions);
        }
        if self.connections.iter().any(|c| c.id == id && c.open_due.is_some()) {
            self.send_open(id, actions);
        }
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        c.open_due = None;
        c.state = State::OpenConfirm;
        c.negotiated = Some(negotiated);
        c.expires = None;
        c.restart_hold_timer(now);
        c.restart_keepalive_timer(now);
        self.send(id, keepalive(), actions);
    }

    /// RFC 4271 §6.8. False if it is this connection that goes.
    pub(super) fn resolve_collision(&mut self, now: Time, id: ConnId, negotiated: &Negotiated, actions: &mut Vec<Action>) -> bool {
        let collision = || Some(Notification::cease(Cease::ConnectionCollision));
        let outgoing = self.connections.iter().any(|c| c.id == id && c.outgoing);
        if let Some(other) = self.established().map(|c| c.id) {
            // What comes right after a session stands is the late half of a collision, not a restart.
            let settled = self.established_at.is_some_and(|at| now >= at + COLLISION_WINDOW);
            let restarted = settled && !outgoing && self.established().is_some_and(|c| graceful(c).is_some());
            if restarted {
                // RFC 4724 §4.2: the peer has restarted before we saw its old connection fail.
                self.lose(now, other, REPLACED, None, actions);
                return true;
            }
            self.drop_connection(id, collision(), actions);
            return false;
        }
        let collides = |c: &&Connection| match c.state {
            State::OpenConfirm => true,
            // The peer's identifier is known now, so it may be decided here (§6.8): the peer decides the same.
            State::OpenSent => c.outgoing != outgoing && now < c.since + COLLISION_WINDOW,
            _ => false,
        };
        let Some(other) = self.connections.iter().filter(|c| c.id != id).find(collides).map(|c| c.id) else { return true };
        // The connection opened by the side with the larger identifier stays; RFC 6286 §2.3 breaks ties by AS number.
        let ours = (self.local.router_id, self.local.asn).cmp(&(negotiated.peer_id, self.config.remote_as));
        let stays = outgoing == (ours == Ordering::Greater);
        if !stays {
            // The other was chosen without having said a word: it has not long to do so.
            self.connections
                .iter_mut()
                .filter(|c| c.id == other && c.negotiated.is_none())
                .for_each(|c| c.expires = Some(now + CONNECT_TIMEOUT));
        }
        self.drop_connection(if stays { other } else { id }, collision(), actions);
        stays
    }

    pub(super) fn establish(&mut self, now: Time, id: ConnId, actions: &mut Vec<Action>) {
        let others: Vec<_> = self.connections.iter().filter(|c| c.id != id).map(|c| (c.id, c.state)).collect();
        for (other, state) in others {
            if state == State::Established {
                // Following: that its end was written down comes next.
                self.lose(now, other, REPLACED, None, actions);
                continue;
            }
            let say = Some(Notification::cease(Cease::ConnectionCollision)).filter(|_| state > State::Connect);
            self.drop_connection(other, say, actions);
        }
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        // Both are known once there was a connection and an OPEN on it.
        let (Some(negotiated), Some(local)) = (&c.negotiated, c.local) else { return };
        c.state = State::Established;
        self.retry = None;
        self.established_at = Some(now);
        // What kept the first session from coming up is over, and no reason to worry.
        if self.resets == 0 {
            self.last_error = None;
        }
        self.inbound = Some(Inbound::new(&self.config, self.local, negotiated, local));
        if self.following {
            // Who speaks judges.
            self.inbound.iter_mut().for_each(|i| i.set_max_prefix(None));
        }
        self.outgoing = self.following.then(|| Decoder::new(negotiated.outgoing_context()));
        self.rib_out.session_up(negotiated.families, negotiated.send_context(&self.config, &self.local, local));
        // RFC 4684 §6
        self.membership_wait = negotiated.families.contains(Family::RouteTarget).then(|| now + self.config.membership_wait);
        actions.push(Action::Up {
            router_id: negotiated.peer_id,
            peer_has_gr: negotiated.graceful_restart.is_some(),
            restarted: negotiated.graceful_restart.as_ref().is_some_and(|g| g.restarted),
            families: negotiated.families.iter().collect(),
            preserved: negotiated.preserved().iter().collect(),
        });
    }
}
