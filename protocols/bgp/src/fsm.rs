//! The session state machine (RFC 4271 §8) of one neighbour over all its connections.
//!
//! ```text
//!            Start                 connected           OPEN good            KEEPALIVE
//!   Idle ───────────► Connect/Active ────► OpenSent ───────────► OpenConfirm ──────► Established
//!    ▲  pause, doubled each time  ▲            │  a second connection may stand beside the first until one of
//!    └────────────────────────────┴─ failure ──┘  them is told to go (§6.8)
//! ```
//! A neighbour has at most three connections: one established, one we opened, one it opened.

use crate::config::{MaxPrefix, PeerConfig};
use crate::connection::{Connection, State};
use crate::events::{Action, ConnId, Event, Graceful, Time};
use crate::inbound::{Inbound, Outcomes, Refusal};
use crate::rib_out::AdjRibOut;
use crate::session::{self, Local, Negotiated};
use edgeplex_bgp_wire::{Cease, Code, Frame, MAX_MESSAGE, MessageType, Notification, Open, Refresh, RouteRefresh, frame, keepalive};
use std::{cmp::Ordering, net::Ipv4Addr, time::Duration};

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
        if let Some(inbound) = &mut self.inbound {
            inbound.set_max_prefix(limit);
        }
    }

    /// Replaces the configuration while stopped; desired routes stay.
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
        let of_connections = self.connections.iter().flat_map(|c| [c.expires.filter(|_| !self.paused), c.keepalive, c.open_due]);
        of_connections.chain([self.retry]).flatten().min()
    }

    /// The connection of the established session.
    pub fn established_connection(&self) -> Option<ConnId> {
        self.established().map(|c| c.id)
    }

    /// Appends the next UPDATE owed on the established connection; call while the connection takes more. False if
    /// there is none.
    pub fn next_update(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.rib_out.next(out) {
            return false;
        }
        self.messages.1 += 1;
        // RFC 4724 §4.1: the restart is over when End-of-RIB is out.
        self.restarting &= !self.rib_out.in_sync();
        true
    }

    pub fn handle(&mut self, now: Time, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Start => {
                self.enabled = true;
                if self.connections.is_empty() {
                    self.retry = Some(now).filter(|_| !self.config.passive);
                    self.connect_if_due(now, &mut actions);
                }
            }
            Event::Stop(notification) => {
                self.enabled = false;
                self.retry = None;
                self.end_all(now, "stopped by the operator", notification, &mut actions);
            }
            Event::Reset => {
                let notification = Notification::cease(Cease::AdministrativeReset);
                self.end_all(now, "reset by the operator", Some(&notification), &mut actions);
                self.schedule_retry(now);
            }
            Event::Connected(id, _) => {
                if let Some(c) = self.connections.iter_mut().find(|c| c.id == id && c.state == State::Connect) {
                    c.state = State::OpenSent;
                    c.since = now;
                    c.expires = Some(now + OPEN_TIMEOUT);
                    self.send_open(id, &mut actions);
                }
            }
            Event::Accepted(_) => self.accept(now, &mut actions),
            Event::Received(id, bytes) => self.receive(now, id, bytes, &mut actions),
            Event::Closed(id, reason) => self.lose(now, id, reason, None, &mut actions),
            Event::BfdDown => {}
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
        }
        actions
    }

    fn established(&self) -> Option<&Connection> {
        self.connections.iter().find(|c| c.state == State::Established)
    }

    fn send(&mut self, id: ConnId, message: Vec<u8>, actions: &mut Vec<Action>) {
        self.messages.1 += 1;
        actions.push(Action::Send(id, message));
    }

    fn send_open(&mut self, id: ConnId, actions: &mut Vec<Action>) {
        let open = session::our_open(&self.config, &self.local, self.restarting);
        self.send(id, open.encode(), actions);
    }

    fn new_connection(&mut self, now: Time, outgoing: bool, state: State, timeout: Duration) -> ConnId {
        let id = ConnId(self.next_id);
        self.next_id += 1;
        self.connections.push(Connection {
            id,
            outgoing,
            state,
            buffer: Vec::new(),
            negotiated: None,
            since: now,
            open_due: None,
            expires: Some(now + timeout),
            keepalive: None,
        });
        id
    }

    fn connect_if_due(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.retry.is_none_or(|at| at > now) {
            return;
        }
        self.retry = None;
        // A connection that is getting somewhere is enough.
        if self.enabled && !self.config.passive && !self.connections.iter().any(|c| c.outgoing || c.state >= State::OpenConfirm) {
            let id = self.new_connection(now, true, State::Connect, CONNECT_TIMEOUT);
            actions.push(Action::Connect(id));
        }
    }

    fn schedule_retry(&mut self, now: Time) {
        if self.enabled && !self.config.passive && self.retry.is_none() {
            let doubled = self.config.backoff.first.saturating_mul(1 << self.failures.min(16));
            let pause = doubled.min(self.config.backoff.last);
            // The side that would lose a collision lets the other go first.
            let stagger = if self.peer_id.is_some_and(|id| self.local.router_id < id) { pause / 2 } else { Duration::ZERO };
            self.retry = Some(now + pause + stagger);
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn accept(&mut self, now: Time, actions: &mut Vec<Action>) {
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
        let id = self.new_connection(now, false, State::OpenSent, OPEN_TIMEOUT);
        actions.push(Action::Adopt(id));
        if second {
            self.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.open_due = Some(now + DELAY_OPEN));
        } else {
            self.send_open(id, actions);
        }
    }

    /// Takes a connection away that is not established.
    fn drop_connection(&mut self, id: ConnId, notification: Option<Notification>, actions: &mut Vec<Action>) {
        self.connections.retain(|c| c.id != id);
        if let Some(n) = notification {
            self.send(id, n.encode(), actions);
        }
        actions.push(Action::Close(id));
    }

    /// A connection is over. `notification` is what we have to say about it; without one the peer left.
    fn lose(&mut self, now: Time, id: ConnId, reason: &str, notification: Option<Notification>, actions: &mut Vec<Action>) {
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let connection = self.connections.remove(at);
        let silent = notification.is_none();
        if let Some(n) = notification {
            // After our own complaint the peer waits as long as we do, lest it keep us busy with errors.
            self.schedule_retry(now);
            self.refuse_until = self.refuse_until.max(self.retry.unwrap_or(now + self.config.backoff.first));
            self.send(id, n.encode(), actions);
        }
        actions.push(Action::Close(id));
        // What ended a session is not hidden by a failure to connect again.
        if connection.state == State::Established || !silent || self.resets == 0 && self.connections.is_empty() {
            self.last_error = Some(reason.to_owned());
        }
        if connection.state == State::Established {
            // RFC 4724 §4.2: only a connection that fails without a NOTIFICATION is a restart.
            self.down(now, reason, silent && self.keeps_routes(&connection), actions);
        }
        if !self.connections.iter().any(|c| c.state >= State::OpenConfirm) {
            self.schedule_retry(now);
        }
    }

    fn keeps_routes(&self, connection: &Connection) -> bool {
        let theirs = connection.negotiated.as_ref().and_then(|n| n.graceful_restart.as_ref());
        self.config.graceful_restart.is_some() && theirs.is_some_and(|g| !g.families.is_empty())
    }

    fn down(&mut self, now: Time, reason: &str, graceful: bool, actions: &mut Vec<Action>) {
        if self.established_at.take().is_some_and(|at| now >= at + STABLE) {
            self.failures = 0;
        }
        self.resets += 1;
        self.inbound = None;
        self.rib_out.session_down();
        let graceful = graceful.then_some(Graceful { stale_s: 0, llgr_stale_s: 0 });
        actions.push(Action::Down { reason: reason.to_owned(), graceful });
    }

    fn end_all(&mut self, now: Time, reason: &str, notification: Option<&Notification>, actions: &mut Vec<Action>) {
        let established = self.established().is_some();
        for (id, state) in self.connections.iter().map(|c| (c.id, c.state)).collect::<Vec<_>>() {
            let say = notification.filter(|_| state > State::Connect).cloned();
            self.drop_connection(id, say, actions);
        }
        if established {
            self.last_error = Some(reason.to_owned());
            self.down(now, reason, false, actions);
        }
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
    }

    fn receive(&mut self, now: Time, id: ConnId, bytes: &[u8], actions: &mut Vec<Action>) {
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let mut stream = std::mem::take(&mut c.buffer);
        // Whole messages are taken at once, so what is kept is less than one message.
        stream.extend_from_slice(bytes);
        let mut rest = stream.as_slice();
        loop {
            match frame(rest) {
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
        debug_assert!(rest.len() < MAX_MESSAGE);
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
            (_, MessageType::Notification) => {
                let reason = match Notification::decode(message.body) {
                    Ok(n) => format!("peer sent {n}"),
                    Err(e) => e.to_string(),
                };
                self.notified(now, id, &reason, actions);
            }
            (State::OpenSent, MessageType::Open) => self.open(now, id, message.body, actions),
            (State::OpenConfirm, MessageType::Keepalive) => self.establish(now, id, actions),
            (State::Established, MessageType::Keepalive) => {}
            (State::Established, MessageType::Update) => {
                let Some(inbound) = &mut self.inbound else { return };
                if let Err(Refusal { notification, reason, max_prefix }) = inbound.update(message.body, &mut self.outcomes, actions) {
                    self.lose(now, id, &reason, Some(notification), actions);
                    if max_prefix {
                        let until = now + self.config.max_prefix.map_or(Duration::ZERO, |m| m.restart);
                        self.refuse_until = until;
                        self.retry = self.retry.map(|_| until);
                    }
                }
            }
            (State::Established, MessageType::RouteRefresh) => match RouteRefresh::decode(message.body) {
                Ok(refresh) => {
                    let family = refresh.family().filter(|f| c.negotiated.as_ref().is_some_and(|n| n.families.contains(*f)));
                    // RFC 2918 §4: other families are ignored.
                    if let Some(family) = family {
                        self.rib_out.refresh(family);
                    }
                }
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

    /// The peer ends a connection with a NOTIFICATION.
    fn notified(&mut self, now: Time, id: ConnId, reason: &str, actions: &mut Vec<Action>) {
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let connection = self.connections.remove(at);
        actions.push(Action::Close(id));
        // The loser of a collision is told so: nothing has failed.
        if connection.state == State::Established {
            self.last_error = Some(reason.to_owned());
            self.down(now, reason, false, actions);
        } else if self.connections.is_empty() {
            self.last_error = Some(reason.to_owned());
        }
        if !self.connections.iter().any(|c| c.state >= State::OpenConfirm) {
            self.schedule_retry(now);
        }
    }

    fn open(&mut self, now: Time, id: ConnId, body: &[u8], actions: &mut Vec<Action>) {
        let agreed = Open::decode(body)
            .map_err(|f| (f.to_string(), f.notification))
            .and_then(|open| session::negotiate(&self.config, &self.local, &open).map_err(|n| (n.to_string(), n)));
        let negotiated = match agreed {
            Ok(negotiated) => negotiated,
            Err((reason, n)) => return self.lose(now, id, &reason, Some(n), actions),
        };
        self.peer_id = Some(negotiated.peer_id);
        if !self.resolve_collision(now, id, &negotiated, actions) {
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
    fn resolve_collision(&mut self, now: Time, id: ConnId, negotiated: &Negotiated, actions: &mut Vec<Action>) -> bool {
        let collision = || Some(Notification::cease(Cease::ConnectionCollision));
        let outgoing = self.connections.iter().any(|c| c.id == id && c.outgoing);
        if let Some(other) = self.established().map(|c| c.id) {
            // What comes right after a session stands is the late half of a collision, not a restart.
            let settled = self.established_at.is_some_and(|at| now >= at + COLLISION_WINDOW);
            let restarted = settled && !outgoing && self.established().is_some_and(|c| self.keeps_routes(c));
            if restarted {
                // RFC 4724 §4.2: the peer has restarted before we saw its old connection fail.
                self.lose(now, other, "the peer opened a new session", None, actions);
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

    fn establish(&mut self, now: Time, id: ConnId, actions: &mut Vec<Action>) {
        let others: Vec<_> = self.connections.iter().filter(|c| c.id != id).map(|c| (c.id, c.state)).collect();
        for (other, state) in others {
            let say = Some(Notification::cease(Cease::ConnectionCollision)).filter(|_| state > State::Connect);
            self.drop_connection(other, say, actions);
        }
        let Some(c) = self.connections.iter_mut().find(|c| c.id == id) else { return };
        let Some(negotiated) = &c.negotiated else { return };
        c.state = State::Established;
        self.retry = None;
        self.established_at = Some(now);
        self.inbound = Some(Inbound::new(&self.config, self.local, negotiated));
        self.rib_out.session_up(negotiated.families, negotiated.send_context(&self.config, &self.local));
        actions.push(Action::Up {
            router_id: negotiated.peer_id,
            peer_has_gr: negotiated.graceful_restart.is_some(),
            restarted: false,
            families: negotiated.families.iter().collect(),
            preserved: vec![],
        });
    }
}
