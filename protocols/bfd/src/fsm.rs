//! One session: its state variables (RFC 5880 §6.8.1), its state machine (§6.2) and its two timers.

use crate::{
    config::{Key, Parameters},
    events::{Action, Time, Why},
    packet::{Control, Diagnostic, State},
    stored::{Own, Stored, StoredRemote},
    view::SessionView,
};
use std::{collections::BTreeMap, time::Duration};

/// Slowest that a session may ask for while it is not Up (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);
/// A neighbour that announces more than this is held to it: sums of times stay far from overflowing.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);

/// How long a session that was taken over waits for someone who wants it.
const UNCLAIMED: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Session {
    key: Key,
    pub(crate) clients: BTreeMap<String, Parameters>,
    parameters: Parameters,
    state: State,
    diagnostic: Diagnostic,
    local_discriminator: u32,
    remote: Option<Remote>,
    /// A Poll Sequence is going on (§6.5).
    polling: bool,
    /// What the neighbour has been told to count on; not before a Poll Sequence ends do slower values hold (§6.8.3).
    agreed: Agreed,
    next_send: Time,
    /// The neighbour does not know yet what changed: said even to one that wants no periodic packets.
    owed: bool,
    last_sent: Option<Time>,
    expires: Option<Time>,
    /// Removed: says AdminDown until then.
    leaves: Option<Time>,
    /// Taken over from another process and not yet wanted by anybody here: it goes then.
    unclaimed: Option<Time>,
    source_port: Option<u16>,
    /// As a successor was last told.
    told: Option<Stored>,
    random: u64,
    up_since: Option<Time>,
    downs: u64,
    received: u64,
    sent: u64,
}

/// The last packet of the neighbour.
#[derive(Debug, Clone, Copy)]
struct Remote {
    state: State,
    diagnostic: Diagnostic,
    discriminator: u32,
    demand: bool,
    min_rx: Duration,
    desired_tx: Duration,
    multiplier: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Agreed {
    desired_tx: Duration,
    required_rx: Duration,
}

fn micros(us: u32) -> Duration {
    Duration::from_micros(us.into()).min(LONGEST)
}

fn in_micros(d: Duration) -> u32 {
    u32::try_from(d.as_micros()).unwrap_or(u32::MAX)
}

impl Session {
    pub(crate) fn new(now: Time, key: Key, discriminator: u32, random: u64, parameters: Parameters) -> Self {
        Self {
            key,
            clients: BTreeMap::new(),
            parameters,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            local_discriminator: discriminator,
            remote: None,
            polling: false,
            agreed: Agreed { desired_tx: SLOW, required_rx: parameters.interval() },
            next_send: now,
            owed: true,
            last_sent: None,
            expires: None,
            leaves: None,
            unclaimed: None,
            source_port: None,
            told: None,
            random: random | 1,
            up_since: None,
            downs: 0,
            received: 0,
            sent: 0,
        }
    }

    pub(crate) fn discriminator(&self) -> u32 {
        self.local_discriminator
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaves.is_some()
    }

    /// Clients came or went: the fastest sets the pace.
    pub(crate) fn repace(&mut self, now: Time) {
        let Some(parameters) = self.clients.values().copied().reduce(Parameters::faster) else { return };
        if parameters != self.parameters {
            self.parameters = parameters;
            self.renegotiate(now);
        }
    }

    /// The last client is gone.
    pub(crate) fn leave(&mut self, now: Time) {
        self.state = State::AdminDown;
        self.diagnostic = Diagnostic::ADMIN_DOWN;
        self.up_since = None;
        // RFC 5880 §6.8.16: for at least a detection time, so that the neighbour hears of it.
        let lingers = self.parameters.interval() * u32::from(self.parameters.multiplier());
        self.leaves = Some(now + lingers.min(Duration::from_secs(3)));
        self.expires = None;
        self.say(now);
    }

    /// A client came back before the session was gone.
    pub(crate) fn return_to(&mut self, now: Time) {
        self.leaves = None;
        self.diagnostic = Diagnostic::NONE;
        self.enter(now, State::Down);
    }

    pub(crate) fn deadline(&self) -> Time {
        let send = if self.is_silent() { None } else { Some(self.next_send) };
        [send, self.expires, self.leaves, self.unclaimed].into_iter().flatten().min().unwrap_or(Duration::MAX)
    }

    /// RFC 5880 §6.8.7: the neighbour wants no packets, or only answers to its polls (§6.6).
    fn is_silent(&self) -> bool {
        let unwanted = |r: Remote| r.min_rx.is_zero() || r.demand && self.state == State::Up && r.state == State::Up && !self.polling;
        !self.owed && self.remote.is_some_and(unwanted)
    }

    /// `true`: the session is gone.
    pub(crate) fn timer(&mut self, now: Time, out: &mut Vec<Action>) -> bool {
        if self.leaves.is_some_and(|t| t <= now) {
            return true;
        }
        if self.unclaimed.take_if(|t| *t <= now).is_some() && self.clients.is_empty() {
            self.leave(now);
        }
        if self.expires.is_some_and(|t| t <= now) {
            self.expires = None;
            // RFC 5880 §6.8.4
            if matches!(self.state, State::Init | State::Up) {
                self.go_down(now, Diagnostic::EXPIRED, Why::Expired, out);
            }
            // RFC 5880 §6.8.1: bfd.RemoteDiscr
            self.remote = None;
        }
        if self.next_send <= now && !self.is_silent() {
            self.send(now, false, out);
        }
        false
    }

    /// RFC 5880 §6.8.6, from where the session is found.
    pub(crate) fn receive(&mut self, now: Time, packet: &Control, out: &mut Vec<Action>) {
        self.received += 1;
        self.remote = Some(Remote {
            state: packet.state,
            diagnostic: packet.diagnostic,
            discriminator: packet.my_discriminator,
            demand: packet.demand,
            min_rx: micros(packet.required_min_rx_us),
            desired_tx: micros(packet.desired_min_tx_us),
            multiplier: packet.detect_multiplier,
        });
        if packet.is_final && self.polling {
            self.polling = false;
            self.agreed = self.wanted();
        }
        if self.state == State::AdminDown {
            return;
        }
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) => {
                self.go_down(now, Diagnostic::NEIGHBOR_DOWN, Why::NeighborAdminDown, out);
            }
            (State::Down, State::Down) => self.enter(now, State::Init),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.enter(now, State::Up);
                self.up_since = Some(now);
                self.diagnostic = Diagnostic::NONE;
                out.push(Action::Up(self.key.clone()));
                self.renegotiate(now);
            }
            (State::Up, State::Down) => self.go_down(now, Diagnostic::NEIGHBOR_DOWN, Why::NeighborDown, out),
            _ => {}
        }
        self.expires = Some(now + self.detection());
        // What the neighbour now accepts may be sooner than what was planned.
        if let Some(last) = self.last_sent {
            self.next_send = self.next_send.min(last + self.transmit());
        }
        if packet.poll {
            self.send(now, true, out);
        } else if self.next_send <= now && !self.is_silent() {
            self.send(now, false, out);
        }
    }

    /// RFC 5880 §6.8.7: a packet whose contents changed is sent at once.
    fn enter(&mut self, now: Time, state: State) {
        self.state = state;
        self.say(now);
    }

    fn say(&mut self, now: Time) {
        self.next_send = now;
        self.owed = true;
    }

    fn go_down(&mut self, now: Time, diagnostic: Diagnostic, why: Why, out: &mut Vec<Action>) {
        let was_up = self.state == State::Up;
        self.enter(now, State::Down);
        self.diagnostic = diagnostic;
        self.up_since = None;
        self.polling = false;
        self.agreed = self.wanted();
        if was_up {
            self.downs += 1;
            out.push(Action::Down(self.key.clone(), why));
        }
    }

    /// RFC 5880 §6.8.2, §6.8.3
    fn wanted(&self) -> Agreed {
        let interval = self.parameters.interval();
        let desired_tx = if self.state == State::Up { interval } else { interval.max(SLOW) };
        Agreed { desired_tx, required_rx: interval }
    }

    fn renegotiate(&mut self, now: Time) {
        let wanted = self.wanted();
        if self.state == State::Up {
            // RFC 5880 §6.8.3: what is faster for us to send and slower for us to expect holds at once.
            self.agreed.desired_tx = self.agreed.desired_tx.min(wanted.desired_tx);
            self.agreed.required_rx = self.agreed.required_rx.max(wanted.required_rx);
            self.polling = true;
            self.say(now);
        } else {
            self.agreed = wanted;
        }
    }

    /// RFC 5880 §6.8.7
    fn transmit(&self) -> Duration {
        self.agreed.desired_tx.max(self.remote.map_or(Duration::ZERO, |r| r.min_rx))
    }

    /// RFC 5880 §6.8.4
    fn detection(&self) -> Duration {
        self.remote.map_or(Duration::ZERO, |r| self.agreed.required_rx.max(r.desired_tx) * u32::from(r.multiplier))
    }

    fn send(&mut self, now: Time, answers_poll: bool, out: &mut Vec<Action>) {
        let wanted = self.wanted();
        self.sent += 1;
        out.push(Action::Send(
            self.key.clone(),
            Control {
                diagnostic: self.diagnostic,
                state: self.state,
                // RFC 5880 §6.5: not both in one packet.
                poll: self.polling && !answers_poll,
                is_final: answers_poll,
                control_plane_independent: false,
                demand: false,
                detect_multiplier: self.parameters.multiplier(),
                my_discriminator: self.local_discriminator,
                your_discriminator: self.remote.map_or(0, |r| r.discriminator),
                desired_min_tx_us: in_micros(wanted.desired_tx),
                required_min_rx_us: in_micros(wanted.required_rx),
                required_min_echo_rx_us: 0,
            },
        ));
        self.owed = false;
        self.last_sent = Some(now);
        self.next_send = now + self.jittered(self.transmit());
    }

    /// RFC 5880 §6.8.7: 75 % to 100 % of the interval, so that sessions do not beat in step.
    fn jittered(&mut self, interval: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let quarter = u32::try_from(self.random % 251).unwrap_or(0);
        interval - interval * quarter / 1000
    }

    pub(crate) fn set_source_port(&mut self, port: u16) {
        self.source_port = Some(port);
    }

    pub(crate) fn source_port(&self) -> Option<u16> {
        self.source_port
    }

    /// A successor knows of it.
    pub(crate) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// What a successor must be told, if it is anything new; `Some(None)`: that there is no such session.
    pub(crate) fn news(&mut self) -> Option<Option<Vec<u8>>> {
        let own = Own {
            state: self.state,
            discriminator: self.local_discriminator,
            diagnostic: self.diagnostic,
            parameters: self.parameters,
            polling: self.polling,
            agreed_tx: self.agreed.desired_tx,
            agreed_rx: self.agreed.required_rx,
            source_port: self.source_port,
        };
        let remote = self.remote.map(|r| StoredRemote {
            state: r.state.number(),
            diagnostic: r.diagnostic.0,
            discriminator: r.discriminator,
            demand: r.demand,
            min_rx_us: in_micros(r.min_rx),
            desired_tx_us: in_micros(r.desired_tx),
            multiplier: r.multiplier,
        });
        let stored = Stored::new(own, remote);
        if stored == self.told {
            return None;
        }
        self.told = stored;
        Some(self.told.as_ref().map(Stored::encode))
    }

    /// Becomes what another process says it is; its clients stay.
    pub(crate) fn become_like(&mut self, own: Own, remote: Option<StoredRemote>) {
        self.state = own.state;
        self.local_discriminator = own.discriminator;
        self.diagnostic = own.diagnostic;
        self.parameters = own.parameters;
        self.polling = own.polling;
        self.agreed = Agreed { desired_tx: own.agreed_tx, required_rx: own.agreed_rx };
        self.source_port = own.source_port;
        self.remote = remote.map(|r| Remote {
            state: State::from_number(r.state),
            diagnostic: Diagnostic(r.diagnostic & 0x1f),
            discriminator: r.discriminator,
            demand: r.demand,
            min_rx: micros(r.min_rx_us),
            desired_tx: micros(r.desired_tx_us),
            multiplier: r.multiplier,
        });
        self.told = Stored::new(own, remote);
    }

    /// It is ours from now on: it speaks at once, and the neighbour has all of the detection time. Tells whether it is up.
    pub(crate) fn take_over(&mut self, now: Time) -> bool {
        self.expires = self.remote.map(|_| now + self.detection());
        self.up_since = self.is_up().then_some(now);
        if self.clients.is_empty() {
            self.unclaimed = Some(now + UNCLAIMED);
        }
        self.say(now);
        self.repace(now);
        self.is_up()
    }

    /// It stood still: the neighbour gets the detection time anew.
    pub(crate) fn stood_still(&mut self, now: Time) {
        if self.expires.is_some() {
            self.expires = Some(now + self.detection());
        }
        self.say(now);
    }

    pub(crate) fn view(&self, now: Time) -> SessionView {
        SessionView {
            key: self.key.clone(),
            state: self.state,
            up: self.up_since.map(|t| now.saturating_sub(t)),
            clients: self.clients.keys().cloned().collect(),
            transmit: self.transmit(),
            detection: self.detection(),
            local_discriminator: self.local_discriminator,
            remote_discriminator: self.remote.map_or(0, |r| r.discriminator),
            diagnostic: self.diagnostic,
            remote_diagnostic: self.remote.map_or(Diagnostic::NONE, |r| r.diagnostic),
            downs: self.downs,
            packets_received: self.received,
            packets_sent: self.sent,
        }
    }
}
