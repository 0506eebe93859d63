//! Following another's session, and going on with it.
//!
//! ```text
//!   Opened, Received, Sent, Closed: as they were written down ─► the same state, the same Up, Update, EndOfRib, Down ─┐
//!                             no timer runs, nothing is sent                                                          ▼
//!   Promoted ─► KEEPALIVE, hold time anew; then what adj-RIB-out owes: desired routes that differ from those that were sent
//! ```
//! What was agreed on follows from the OPEN that was sent, not from the configuration as it is now: a session that the
//! configuration no longer wants ends in order on promotion. An OPEN that the peer has sent before ours waits for ours.

use super::{OPEN_TIMEOUT, Peer, ending::graceful};
use crate::config::PeerConfig;
use crate::connection::{Connection, State};
use crate::events::{Action, ConnId, Event, Time};
use crate::session::{Local, our_open, same_session};
use edgeplex_bgp_wire::{
    Cease, Frame, MAX_EXTENDED_MESSAGE, MessageType, Notification, Open, Refresh, RouteRefresh, frame_within, keepalive,
};
use std::net::IpAddr;

/// What a peer may say before our OPEN is sent: no more than it can without breaking the rules.
const MAX_EARLY: usize = 2 * MAX_EXTENDED_MESSAGE;

impl Peer {
    /// One that follows whoever speaks to the neighbour now.
    pub fn following(config: PeerConfig, local: Local) -> Self {
        Self { following: true, ..Self::new(config, local) }
    }

    /// Until [`Event::Promoted`].
    pub fn is_following(&self) -> bool {
        self.following
    }

    /// Whether a connection is known, and whether it carries the session.
    pub fn connection(&self, id: ConnId) -> Option<State> {
        self.connections.iter().find(|c| c.id == id).map(|c| c.state)
    }

    pub(super) fn follow(&mut self, now: Time, event: Event<'_>, actions: &mut Vec<Action>) {
        match event {
            Event::Opened { outgoing, local } => {
                let id = self.new_connection(now, Some(local), State::OpenSent, OPEN_TIMEOUT);
                self.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.outgoing = outgoing);
                actions.push(Action::Adopt(id));
            }
            Event::Received(id, bytes) => {
                let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
                if c.ours.is_some() {
                    self.receive(now, id, bytes, actions);
                } else if c.buffer.len() + bytes.len() <= MAX_EARLY {
                    c.buffer.extend_from_slice(bytes);
                } else {
                    self.lose(now, id, "the peer speaks before us", None, actions);
                }
            }
            Event::Sent(id, bytes) => self.sent(now, id, bytes, actions),
            Event::Closed(id, reason) => self.lose(now, id, reason, None, actions),
            Event::Refresh(family) => self.refresh_wanted.insert(family),
            Event::Stop(_) => self.end_all(now, "stopped by the operator", None, false, actions),
            Event::Promoted => self.promote(now, actions),
            // Whoever speaks sees to it.
            Event::Start
            | Event::Reset
            | Event::BfdDown
            | Event::Connected(..)
            | Event::Accepted(_)
            | Event::NoRoute(..)
            | Event::SendStalled(_)
            | Event::Timer => {}
        }
    }

    fn sent(&mut self, now: Time, id: ConnId, bytes: &[u8], actions: &mut Vec<Action>) {
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let mut stream = std::mem::take(&mut c.sent);
        stream.extend_from_slice(bytes);
        let mut rest = stream.as_slice();
        loop {
            match frame_within(rest, MAX_EXTENDED_MESSAGE) {
                Ok(Some(message)) => {
                    rest = rest.get(message.wire_len()..).unwrap_or_default();
                    self.messages.1 += 1;
                    self.said(now, id, message, actions);
                    if !self.connections.iter().any(|c| c.id == id) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(fatal) => return self.lose(now, id, &format!("sent: {fatal}"), None, actions),
            }
        }
        let kept = rest.len();
        stream.drain(..stream.len() - kept);
        if let Some(c) = self.connections.iter_mut().find(|c| c.id == id) {
            c.sent = stream;
        }
    }

    /// A whole message of ours.
    fn said(&mut self, now: Time, id: ConnId, message: Frame<'_>, actions: &mut Vec<Action>) {
        let established = self.established_connection() == Some(id);
        match message.kind {
            MessageType::Open => match Open::decode(message.body) {
                Ok(open) => {
                    self.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.ours = Some(open.clone()));
                    // What came earlier waited for it.
                    self.receive(now, id, &[], actions);
                }
                Err(fatal) => self.lose(now, id, &format!("sent: {fatal}"), None, actions),
            },
            MessageType::Update if established => match self.outgoing.as_mut().map(|d| d.decode(message.body)) {
                Some(Ok(update)) => self.rib_out.told(&update),
                Some(Err(fatal)) => self.lose(now, id, &format!("sent: {fatal}"), None, actions),
                None => {}
            },
            MessageType::RouteRefresh if established => {
                if let Some((family, kind)) = RouteRefresh::decode(message.body).ok().and_then(|r| r.family().map(|f| (f, r.kind))) {
                    match kind {
                        Refresh::Request => self.refresh_wanted.remove(family),
                        kind => self.rib_out.told_refresh(family, kind),
                    }
                }
            }
            MessageType::Notification => self.ended(now, id, message.body, actions),
            MessageType::Keepalive | MessageType::Update | MessageType::RouteRefresh => {}
        }
    }

    /// The last word was said on a connection.
    fn ended(&mut self, now: Time, id: ConnId, body: &[u8], actions: &mut Vec<Action>) {
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let connection = self.connections.remove(at);
        actions.push(Action::Close(id));
        if connection.state == State::Established {
            let notification = Notification::decode(body).ok();
            let reason = notification.as_ref().map_or_else(|| "ended".to_owned(), Notification::to_string);
            // RFC 8538 §3
            let hard = notification.is_none_or(|n| n.is_hard_reset());
            let restart = connection.negotiated.as_ref().is_some_and(|n| n.notification) && !hard;
            self.last_error = Some(reason.clone());
            self.down(now, &reason, graceful(&connection).filter(|_| restart), actions);
        }
    }

    fn promote(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.following = false;
        self.outgoing = None;
        self.failures = 0;
        self.refuse_until = Time::ZERO;
        self.retry = None;
        self.enabled = self.config.shutdown.is_none();
        if let Some(words) = &self.config.shutdown {
            // RFC 9003
            let words = Notification::shutdown(words);
            return self.end_all(now, &format!("stopped by the operator: {words}"), Some(&words), false, actions);
        }
        // Who spoke may have been about to choose between two.
        let chosen = |c: &Connection| c.negotiated.clone().filter(|_| c.state == State::OpenConfirm).map(|n| (c.id, n));
        for (id, negotiated) in self.connections.iter().filter_map(chosen).collect::<Vec<_>>() {
            if self.connection(id).is_some() {
                self.resolve_collision(now, id, &negotiated, actions);
            }
        }
        for id in self.connections.iter().map(|c| c.id).collect::<Vec<_>>() {
            self.go_on(now, id, actions);
        }
        if !self.config.passive && !self.connections.iter().any(|c| c.state >= State::OpenConfirm) {
            self.retry = Some(now);
        }
        self.connect_if_due(now, actions);
    }

    /// A connection is ours now.
    fn go_on(&mut self, now: Time, id: ConnId, actions: &mut Vec<Action>) {
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let wanted = our_open(&self.config, &self.local, self.restarting);
        let fits = c.ours.as_ref().is_none_or(|sent| same_session(sent, &wanted));
        if !fits || c.negotiated.as_ref().is_some_and(|n| n.peer_as != self.config.remote_as) {
            let n = Notification::cease(Cease::OtherConfigurationChange);
            return self.lose(now, id, &n.to_string(), Some(n.clone()), actions);
        }
        c.since = now;
        c.expires = Some(now + OPEN_TIMEOUT);
        let (state, silent) = (c.state, c.ours.is_none());
        if state == State::OpenSent {
            if silent {
                self.send_open(id, actions);
                self.receive(now, id, &[], actions);
            }
            return;
        }
        c.expires = None;
        c.restart_hold_timer(now);
        c.restart_keepalive_timer(now);
        let (local, refreshes) = (c.local, c.negotiated.as_ref().is_some_and(|n| n.route_refresh));
        // Also the one that follows an OPEN, which may not have been sent: one more does no harm.
        self.send(id, keepalive(), actions);
        if state == State::Established {
            self.go_on_established(now, id, local, refreshes, actions);
        }
    }

    fn go_on_established(&mut self, now: Time, id: ConnId, local: Option<IpAddr>, refreshes: bool, actions: &mut Vec<Action>) {
        let Some(negotiated) = self.established().and_then(|c| c.negotiated.clone()) else { return };
        let changed = self.inbound.as_mut().is_some_and(|inbound| inbound.promote(now, &self.config));
        // What it sends depends on the configuration of today.
        let context = local.map(|local| negotiated.send_context(&self.config, &self.local, local));
        if self.rib_out.promote(context) {
            self.membership_wait = Some(now + self.config.membership_wait);
        }
        self.restarting = false;
        let wanted = std::mem::take(&mut self.refresh_wanted);
        for family in negotiated.families.iter().filter(|_| refreshes) {
            if wanted.contains(family) || changed {
                self.send(id, RouteRefresh::new(family, Refresh::Request).encode(), actions);
            }
        }
    }
}
