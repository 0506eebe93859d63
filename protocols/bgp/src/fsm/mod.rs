//! The session state machine (RFC 4271 §8) of one neighbour over all its connections.
//!
//! ```text
//!            Start                 connected           OPEN good            KEEPALIVE
//!   Idle ───────────► Connect/Active ────► OpenSent ───────────► OpenConfirm ──────► Established
//!    ▲  pause, doubled each time  ▲            │  a second connection may stand beside the first until one of
//!    └────────────────────────────┴─ failure ──┘  them is told to go (§6.8)
//! ```
//! A neighbour has at most three connections: one established, one we opened, one it opened.

mod ending;
mod opening;
mod succession;

use crate::config::{MaxPrefix, PeerConfig};
use crate::connection::{Connection, State};
use crate::events::{Action, ConnId, Event, Time};
use crate::inbound::{Inbound, Outcomes, Refusal};
use crate::rib_out::AdjRibOut;
use crate::session::{Local, Negotiated};
use edgeplex_bgp_wire::{
    Cease, Code, Decoder, Family, FamilySet, Frame, MAX_MESSAGE, MessageType, NlriKey, Notification, Refresh, RouteRefresh, frame_within,
    keepalive,
};
use std::{net::Ipv4Addr, time::Duration};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the peer may take to send its OPEN (RFC 4271 §8.2.2 asks for a large value).
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long our OPEN waits for the peer's on a second connection.
const DELAY_OPEN: Duration = Duration::from_secs(1);
/// Connections whose OPEN is still to come collide only while they are this young: an older one may be dead.
const COLLISION_WINDOW: Duration = Duration::from_secs(2);
/// A session that held this long was no failure: the next pause is the shortest.
const STABLE: Duration = Duration::from_secs(10);

/// Counters since the peer was configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub messages_received: u64,
    pub messages_sent: u64,
    pub resets: u64,
    pub last_error: Option<String>,
    pub treated_as_withdraw: u64,
    pub attributes_discarded: u64,
    pub last_fault: Option<String>,
}

/// One neighbour.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    local: Local,
    /// Another speaks; we keep up with what it hears and says.
    following: bool,
    enabled: bool,
    connections: Vec<Connection>,
    next_id: u64,
    /// When to connect next.
    retry: Option<Time>,
    failures: u32,
    /// BGP identifier of the peer, once heard.
    peer_id: Option<Ipv4Addr>,
    /// Connections of the peer are refused until then.
    refuse_until: Time,
    established_at: Option<Time>,
    inbound: Option<Inbound>,
    rib_out: AdjRibOut,
    /// Following: reads what was sent on the established connection.
    outgoing: Option<Decoder>,
    /// Following: families that we would have asked for again.
    refresh_wanted: FamilySet,
    /// Until then VPN routes wait for the peer's memberships (RFC 4684 §6).
    membership_wait: Option<Time>,
    /// The R bit of the next OPEN.
    restarting: bool,
    /// Nobody reads what arrives: the peer cannot be blamed for silence.
    paused: bool,
    messages: (u64, u64),
    resets: u64,
    last_error: Option<String>,
    outcomes: Outcomes,
}

impl Peer {
    pub fn new(config: PeerConfig, local: Local) -> Self {
        Self {
            restarting: config.graceful_restart.is_some_and(|g| g.restarting),
            config,
            local,
            following: false,
            enabled: false,
            connections: Vec::new(),
            next_id: 0,
            retry: None,
            failures: 0,
            peer_id: None,
            refuse_until: Time::ZERO,
            established_at: None,
            inbound: None,
            rib_out: AdjRibOut::default(),
            outgoing: None,
            refresh_wanted: FamilySet::EMPTY,
            membership_wait: None,
            paused: false,
            messages: (0, 0),
            resets: 0,
            last_error: None,
            outcomes: Outcomes::default(),
        }
    }

    pub fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// Desired routes: may be changed at any time.
    pub fn rib_out(&mut self) -> &mut AdjRibOut {
        &mut self.rib_out
    }

    pub fn state(&self) -> State {
        let of_connections = self.connections.iter().map(|c| c.state).max();
        let waiting = if self.enabled { State::Active } else { State::Idle };
        of_connections.unwrap_or(waiting)
    }

    pub fn established_at(&self) -> Option<Time> {
        self.established_at
    }

    pub fn prefixes_received(&self) -> usize {
        self.inbound.as_ref().map_or(0, Inbound::prefixes)
    }

    pub fn prefixes_sent(&self) -> usize {
        self.rib_out.sent()
    }

    /// Families of the established session, and whether one is ignored after an error (RFC 7606 §2).
    pub fn families(&self) -> Vec<(Family, bool)> {
        let negotiated = self.established().and_then(|c| c.negotiated.as_ref());
        let disabled = |f| self.inbound.as_ref().is_some_and(|i| i.disabled().contains(f));
        negotiated.iter().flat_map(|n| n.families.iter()).map(|f| (f, disabled(f))).collect()
    }

    /// Names of what both sides can do.
    pub fn capabilities(&self) -> Vec<String> {
        self.established().and_then(|c| c.negotiated.as_ref()).map(Negotiated::capabilities).unwrap_or_default()
    }

    pub fn counters(&self) -> Counters {
        Counters {
            messages_received: self.messages.0,
            messages_sent: self.messages.1,
            resets: self.resets,
            last_error: self.last_error.clone(),
            treated_as_withdraw: self.outcomes.treated_as_withdraw,
            attributes_discarded: self.outcomes.attributes_discarded,
            last_fault: self.outcomes.last_fault.clone(),
        }
    }

    /// Changes the limit without touching the session; it is judged with the next UPDATE.
    pub fn set_max_prefix(&mut self, limit: Option<MaxPrefix>) {
        self.config.max_prefix = limit;
        // Who follows does not judge.
        if let Some(inbound) = self.inbound.as_mut().filter(|_| !self.following) {
            inbound.set_max_prefix(limit);
        }
    }

    /// Replaces the configuration while stopped or following; desired routes stay.
    pub fn reconfigure(&mut self, config: PeerConfig) {
        self.restarting &= config.graceful_restart.is_some();
        self.config = config;
    }

    /// While `paused` nobody reads the peer's messages, so its silence does not count; afterwards the hold time starts anew.
    pub fn set_paused(&mut self, now: Time, paused: bool) {
        if self.paused && !paused {
            for c in &mut self.connections {
                c.restart_hold_timer(now);
            }
        }
        self.paused = paused;
    }

    /// When [`Event::Timer`] is next due.
    pub fn deadline(&self) -> Option<Time> {
        if self.following {
            return None;
        }
        let of_connections = self.connections.iter().flat_map(|c| [c.expires.filter(|_| !self.paused), c.keepalive, c.open_due]);
        let of_session = [self.retry, self.membership_wait, self.inbound.as_ref().and_then(Inbound::deadline)];
        of_connections.chain(of_session).flatten().min()
    }

    /// The connection of the established session.
    pub fn established_connection(&self) -> Option<ConnId> {
        self.established().map(|c| c.id)
    }

    /// Appends the next UPDATE owed on the established connection; call while the connection takes more. False if
    /// there is none.
    pub fn next_update(&mut self, out: &mut Vec<u8>) -> bool {
        if self.following || !self.rib_out.next(out) {
            return false;
        }
        self.messages.1 += 1;
        // RFC 4724 §4.1: the restart is over when End-of-RIB is out.
        self.restarting &= !self.rib_out.in_sync();
        true
    }

    pub fn handle(&mut self, now: Time, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.following {
            self.follow(now, event, &mut actions);
            return actions;
        }
        match event {
            Event::Start => {
                self.enabled = self.config.shutdown.is_none();
                if self.connections.is_empty() && self.enabled {
                    self.retry = Some(now).filter(|_| !self.config.passive);
                    self.connect_if_due(now, &mut actions);
                }
            }
            Event::Stop(notification) => {
                self.enabled = false;
                self.retry = None;
                let words = notification.map(|n| format!(": {n}")).unwrap_or_default();
                self.end_all(now, &format!("stopped by the operator{words}"), notification, false, &mut actions);
            }
            Event::Reset => {
                let notification = Notification::cease(Cease::AdministrativeReset);
                self.end_all(now, "reset by the operator", Some(&notification), true, &mut actions);
                self.schedule_retry(now);
            }
            Event::BfdDown => {
                let n = Notification::cease(Cease::BfdDown);
                if let Some(id) = self.established_connection() {
                    self.lose(now, id, &n.to_string(), Some(n.clone()), &mut actions);
                }
            }
            Event::Connected(id, local) => {
                if let Some(c) = self.connections.iter_mut().find(|c| c.id == id && c.state == State::Connect) {
                    c.state = State::OpenSent;
                    c.local = Some(local);
                    c.since = now;
                    c.expires = Some(now + OPEN_TIMEOUT);
                    self.send_open(id, &mut actions);
                }
            }
            Event::Accepted(local) => self.accept(now, local, &mut actions),
            Event::Received(id, bytes) => self.receive(now, id, bytes, &mut actions),
            Event::Closed(id, reason) => self.lose(now, id, reason, None, &mut actions),
            Event::NoRoute(id, reason) => {
                let failures = std::mem::take(&mut self.failures);
                self.lose(now, id, reason, None, &mut actions);
                self.failures = failures;
            }
            Event::SendStalled(id) => {
                let n = Notification::new(Code::SendHoldTimerExpired, 0, &[]);
                self.lose(now, id, &n.to_string(), Some(n.clone()), &mut actions);
            }
            Event::Timer => self.timers(now, &mut actions),
            Event::Refresh(family) => {
                let able = |n: &Negotiated| n.route_refresh && n.families.contains(family);
                if let Some(id) = self.established().filter(|c| c.negotiated.as_ref().is_some_and(able)).map(|c| c.id) {
                    self.send(id, RouteRefresh::new(family, Refresh::Request).encode(), &mut actions);
                }
            }
            // Nobody is followed.
            Event::Opened { .. } | Event::Sent(..) | Event::Promoted => {}
        }
        actions
    }

    fn established(&self) -> Option<&Connection> {
        self.connections.iter().find(|c| c.state == State::Established)
    }

    fn send(&mut self, id: ConnId, message: Vec<u8>, actions: &mut Vec<Action>) {
        if self.following {
            return;
        }
        self.messages.1 += 1;
        actions.push(Action::Send(id, message));
    }

    fn timers(&mut self, now: Time, actions: &mut Vec<Action>) {
        let due = |t: Option<Time>| t.is_some_and(|t| t <= now);
        let expired: Vec<_> = self.connections.iter().filter(|c| due(c.expires) && !self.paused).map(|c| (c.id, c.state)).collect();
        for (id, state) in expired {
            if state == State::Connect {
                self.lose(now, id, "connection timed out", None, actions);
            } else {
                // RFC 4271 §6.5
                let n = Notification::new(Code::HoldTimerExpired, 0, &[]);
                self.lose(now, id, &n.to_string(), Some(n.clone()), actions);
            }
        }
        let silent: Vec<_> = self.connections.iter().filter(|c| due(c.open_due)).map(|c| c.id).collect();
        for id in silent {
            if self.established().is_some() {
                self.drop_connection(id, Some(Notification::cease(Cease::ConnectionCollision)), actions);
            } else {
                self.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.open_due = None);
                self.send_open(id, actions);
            }
        }
        let mut keepalives = Vec::new();
        for c in self.connections.iter_mut().filter(|c| due(c.keepalive)) {
            c.restart_keepalive_timer(now);
            keepalives.push(c.id);
        }
        for id in keepalives {
            self.send(id, keepalive(), actions);
        }
        self.connect_if_due(now, actions);
        self.session_timers(now, actions);
    }

    fn session_timers(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.membership_wait.is_some_and(|at| at <= now) {
            self.membership_wait = None;
            self.rib_out.memberships_known();
            actions.push(Action::Warn("the peer did not say in time that it has told all route targets it wants".into()));
        }
        let from = actions.len();
        if let Some(inbound) = &mut self.inbound {
            inbound.timer(now, actions);
        }
        self.heed_memberships(actions.get(from..).unwrap_or_default());
    }

    fn receive(&mut self, now: Time, id: ConnId, bytes: &[u8], actions: &mut Vec<Action>) {
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let mut stream = std::mem::take(&mut c.buffer);
        // Whole messages are taken at once, so what is kept is less than one message.
        stream.extend_from_slice(bytes);
        let mut rest = stream.as_slice();
        loop {
            let limit = self.connections.iter().find(|c| c.id == id).and_then(|c| c.negotiated.as_ref()).map(Negotiated::longest_message);
            match frame_within(rest, limit.unwrap_or(MAX_MESSAGE)) {
                Ok(Some(message)) => {
                    rest = rest.get(message.wire_len()..).unwrap_or_default();
                    self.messages.0 += 1;
                    self.message(now, id, message, actions);
                    if !self.connections.iter().any(|c| c.id == id) {
                        return;
                    }
                }
                Ok(None) => break,
                Err(fatal) => {
                    self.lose(now, id, &fatal.to_string(), Some(fatal.notification), actions);
                    return;
                }
            }
        }
        let kept = rest.len();
        stream.drain(..stream.len() - kept);
        stream.shrink_to(MAX_MESSAGE);
        if let Some(c) = self.connections.iter_mut().find(|c| c.id == id) {
            c.buffer = stream;
        }
    }

    fn message(&mut self, now: Time, id: ConnId, message: Frame<'_>, actions: &mut Vec<Action>) {
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        c.restart_hold_timer(now);
        match (c.state, message.kind) {
            (_, MessageType::Notification) => match Notification::decode(message.body) {
                Ok(n) => self.notified(now, id, &n, actions),
                Err(error) => self.lose(now, id, &error.to_string(), None, actions),
            },
            (State::OpenSent, MessageType::Open) => self.open(now, id, message.body, actions),
            (State::OpenConfirm, MessageType::Keepalive) => self.establish(now, id, actions),
            (State::Established, MessageType::Keepalive) => {}
            (State::Established, MessageType::Update) => self.update(now, id, message.body, actions),
            (State::Established, MessageType::RouteRefresh) => match RouteRefresh::decode(message.body) {
                Ok(refresh) => self.refresh(now, refresh, actions),
                Err(fatal) => self.lose(now, id, &fatal.to_string(), Some(fatal.notification), actions),
            },
            (state, _) => {
                // RFC 6608 §4
                let subcode = match state {
                    State::OpenSent => 1,
                    State::OpenConfirm => 2,
                    _ => 3,
                };
                let n = Notification::new(Code::FiniteStateMachine, subcode, &[]);
                self.lose(now, id, &n.to_string(), Some(n.clone()), actions);
            }
        }
    }

    fn update(&mut self, now: Time, id: ConnId, body: &[u8], actions: &mut Vec<Action>) {
        let Some(inbound) = &mut self.inbound else { return };
        let from = actions.len();
        match inbound.update(body, &mut self.outcomes, actions) {
            Ok(()) => self.heed_memberships(actions.get(from..).unwrap_or_default()),
            Err(Refusal { notification, reason, max_prefix }) => {
                self.lose(now, id, &reason, Some(notification), actions);
                if let Some(limit) = self.config.max_prefix.filter(|_| max_prefix) {
                    self.refuse_until = now + limit.restart;
                    self.retry = self.retry.map(|_| now + limit.restart);
                }
            }
        }
    }

    /// What the peer wants to hear of changes what it is told (RFC 4684 §6).
    fn heed_memberships(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Update { reach, unreach, .. } => {
                    let gone = unreach.iter().map(|u| (u.key, u.path_id, false));
                    for (key, path_id, wanted) in gone.chain(reach.iter().map(|r| (r.nlri.key(), r.path_id, true))) {
                        if let NlriKey::RouteTarget(membership) = key {
                            self.rib_out.membership(membership, path_id, wanted);
                        }
                    }
                }
                Action::EndOfRib(Family::RouteTarget) => {
                    self.membership_wait = None;
                    self.rib_out.memberships_known();
                }
                _ => {}
            }
        }
    }

    fn refresh(&mut self, now: Time, refresh: RouteRefresh, actions: &mut Vec<Action>) {
        let Some(negotiated) = self.established().and_then(|c| c.negotiated.as_ref()) else { return };
        // RFC 2918 §4: other families are ignored.
        let Some(family) = refresh.family().filter(|f| negotiated.families.contains(*f)) else { return };
        let enhanced = negotiated.enhanced_refresh;
        let from = actions.len();
        match (refresh.kind, &mut self.inbound) {
            (Refresh::Request, _) => self.rib_out.refresh(family),
            (kind, Some(inbound)) if enhanced => inbound.refresh(now, family, kind, actions),
            _ => {}
        }
        self.heed_memberships(actions.get(from..).unwrap_or_default());
    }
}
