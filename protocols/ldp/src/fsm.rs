//! One session: its states (RFC 5036 §2.5.4), its timers, its PDUs.

use crate::packet::{Composer, Error, FaultTolerance, Initialization, LdpId, MAX_PDU, Message, Notification, Status, VERSION};
use crate::{Config, ConnId, Time};
use std::time::Duration;

/// How long each step of setting a session up may take.
pub(crate) const SETUP: Duration = Duration::from_secs(15);
/// How long labels are awaited from a neighbour that cannot say when they are all there.
const LIB_WAIT: Duration = Duration::from_secs(3);
/// And from one that can (RFC 5919).
const LIB_WAIT_END: Duration = Duration::from_secs(15);
/// More messages than the journal ever leaves out.
const FORGOTTEN: u32 = 1 << 20;

/// State of a session (RFC 5036 §2.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    NonExistent,
    Initialized,
    OpenRec,
    OpenSent,
    Operational,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::NonExistent => "non-existent",
            Self::Initialized => "initialized",
            Self::OpenRec => "open-rec",
            Self::OpenSent => "open-sent",
            Self::Operational => "operational",
        }
    }
}

/// What a message means in the state of its session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The peer proposes these parameters.
    Negotiate(Initialization),
    /// The session is operational from now on.
    Up,
    /// Addresses and labels.
    Exchange,
    Nothing,
    /// It does not belong here.
    Wrong,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    /// Another process speaks.
    pub(crate) muted: bool,
    pub(crate) state: State,
    /// Received and not yet a whole PDU.
    pub(crate) input: Vec<u8>,
    out: Composer,
    last_id: u32,
    pub(crate) max_pdu: u16,
    /// Agreed on.
    pub(crate) keepalive_s: u16,
    /// The session fails unless something comes before.
    pub(crate) receive_by: Time,
    /// When a KeepAlive is due.
    pub(crate) send_by: Option<Time>,
    pub(crate) up_since: Option<Time>,
    /// When the labels of the peer are taken to be all there; `None`: they are.
    pub(crate) complete_at: Option<Time>,
    pub(crate) peer: Option<Initialization>,
}

impl Session {
    pub(crate) fn new(now: Time, conn: ConnId, config: &Config) -> Self {
        Self {
            conn,
            muted: false,
            state: State::Initialized,
            input: vec![],
            out: Composer::new(config.lsr_id, MAX_PDU),
            last_id: 0,
            max_pdu: MAX_PDU,
            keepalive_s: config.keepalive_s,
            receive_by: now + SETUP,
            send_by: None,
            up_since: None,
            complete_at: None,
            peer: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Operational
    }

    /// All labels of the peer are here.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_up() && self.complete_at.is_none()
    }

    pub(crate) fn push(&mut self, message: &Message) {
        if self.muted {
            return;
        }
        self.last_id = self.last_id.wrapping_add(1);
        self.out.push(self.last_id, message);
    }

    /// What is to be sent; sending it puts the next KeepAlive off.
    pub(crate) fn flush(&mut self, now: Time) -> Option<Vec<u8>> {
        if self.out.is_empty() {
            return None;
        }
        if self.send_by.is_some() {
            self.send_by = Some(now + self.keepalive_interval());
        }
        Some(self.out.take())
    }

    fn keepalive_interval(&self) -> Duration {
        Duration::from_secs(self.keepalive_s.into()) / 3
    }

    /// Any PDU counts (RFC 5036 §2.5.6).
    pub(crate) fn heard(&mut self, now: Time) {
        if self.peer.is_some() {
            self.receive_by = now + Duration::from_secs(self.keepalive_s.into());
        }
    }

    pub(crate) fn step(&self, message: &Message) -> Step {
        match (self.state, message) {
            (State::Initialized | State::OpenSent, Message::Initialization(i)) => Step::Negotiate(*i),
            (State::OpenRec, Message::KeepAlive) => Step::Up,
            (State::Operational, Message::KeepAlive | Message::Hello(_)) => Step::Nothing,
            (State::Operational, Message::Initialization(_)) => Step::Wrong,
            (State::Operational, _) => Step::Exchange,
            _ => Step::Wrong,
        }
    }

    /// RFC 5036 §3.5.3: takes the peer's parameters, or says why not.
    pub(crate) fn negotiate(&mut self, now: Time, config: &Config, peer: Initialization) -> Result<(), Status> {
        if peer.receiver != (LdpId { lsr_id: config.lsr_id, label_space: 0 }) {
            return Err(Status::REJECTED_NO_HELLO);
        }
        if peer.keepalive_s == 0 {
            return Err(Status::REJECTED_KEEPALIVE_TIME);
        }
        // Of two proposals, downstream unsolicited wins except on ATM and frame relay: nothing to refuse. Neither are
        // loop detection and its limit, which each side does for itself.
        self.keepalive_s = peer.keepalive_s.min(self.keepalive_s);
        // RFC 5036 §3.5.3: 255 or less means the default.
        self.max_pdu = if peer.max_pdu <= 255 { MAX_PDU } else { peer.max_pdu.min(MAX_PDU) };
        self.out.set_max(self.max_pdu);
        self.peer = Some(peer);
        self.heard(now);
        self.send_by = Some(now + self.keepalive_interval());
        self.state = State::OpenRec;
        Ok(())
    }

    /// Another process has said this over our connection.
    pub(crate) fn said(&mut self, id: u32, message: &Message) {
        self.last_id = id;
        if let Message::Initialization(ours) = message {
            self.keepalive_s = self.peer.map_or(ours.keepalive_s, |peer| peer.keepalive_s.min(ours.keepalive_s));
        }
    }

    /// It is ours: both sides have all the time that was agreed on, and the peer hears of us at once.
    pub(crate) fn take_over(&mut self, now: Time) {
        if std::mem::take(&mut self.muted) {
            // KeepAlives have no lasting place in the journal, and so had identifiers that we do not know.
            self.last_id = self.last_id.wrapping_add(FORGOTTEN);
            self.complete_at = None;
        }
        self.heard(now);
        self.send_by = self.peer.map(|_| now);
    }

    pub(crate) fn up(&mut self, now: Time) {
        self.state = State::Operational;
        self.up_since = Some(now);
        let can_tell = self.peer.is_some_and(|p| p.capabilities.unrecognized_notification);
        self.complete_at = Some(now + if can_tell { LIB_WAIT_END } else { LIB_WAIT });
    }
}

/// Our proposal; `recovery`: what is left of the time in which we confirm the forwarding state of before our restart.
pub(crate) fn initialization(config: &Config, peer: LdpId, recovery: Duration) -> Message {
    let fault_tolerance = (!config.reconnect.is_zero()).then_some(FaultTolerance { reconnect: config.reconnect, recovery });
    Message::Initialization(Initialization {
        version: VERSION,
        keepalive_s: config.keepalive_s,
        downstream_on_demand: false,
        loop_detection: false,
        path_vector_limit: 0,
        max_pdu: MAX_PDU,
        receiver: peer,
        fault_tolerance,
        capabilities: crate::packet::Capabilities { dynamic: true, typed_wildcard: true, unrecognized_notification: true },
    })
}

/// About a message of the peer.
pub(crate) fn notification(status: Status, about: (u32, u16)) -> Message {
    Message::Notification(Notification { status, message_id: about.0, message_kind: about.1, fec: None })
}

/// Why a session ends.
#[derive(Debug)]
pub(crate) struct End {
    /// What the peer is told, and about which message of its.
    pub(crate) notify: Option<(Status, (u32, u16))>,
    pub(crate) reason: String,
    /// The peer may be restarting: what it told us stays for a while, if it can do that (RFC 3478).
    pub(crate) keep: bool,
}

impl End {
    /// The connection is gone.
    pub(crate) fn lost(reason: String) -> Self {
        Self { notify: None, reason, keep: true }
    }

    /// We end it.
    pub(crate) fn ours(status: Status, reason: &str) -> Self {
        let keep = matches!(status, Status::HOLD_TIMER_EXPIRED | Status::KEEPALIVE_TIMER_EXPIRED);
        Self { notify: Some((status, (0, 0))), reason: reason.to_owned(), keep }
    }

    /// The peer sent what it must not.
    pub(crate) fn error(error: Error, about: (u32, u16)) -> Self {
        Self { notify: Some((error.status, about)), reason: error.to_string(), keep: false }
    }
}
