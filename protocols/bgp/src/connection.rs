//! One connection of a peer: its state and its timers (RFC 4271 §8.2.2).

use crate::events::{ConnId, Time};
use crate::session::Negotiated;
use edgeplex_bgp_wire::Open;
use std::net::IpAddr;

/// States of RFC 4271 §8.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Active => "active",
            Self::OpenSent => "open-sent",
            Self::OpenConfirm => "open-confirm",
            Self::Established => "established",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    /// We opened it.
    pub(crate) outgoing: bool,
    /// Our address; known once the connection stands.
    pub(crate) local: Option<IpAddr>,
    pub(crate) state: State,
    pub(crate) buffer: Vec<u8>,
    /// The OPEN that we have sent.
    pub(crate) ours: Option<Open>,
    /// Following: of what was sent, less than a message.
    pub(crate) sent: Vec<u8>,
    pub(crate) negotiated: Option<Negotiated>,
    /// When the TCP connection was made.
    pub(crate) since: Time,
    /// Our OPEN has not been sent; then it will be.
    pub(crate) open_due: Option<Time>,
    /// Connect, open or hold timer, by state.
    pub(crate) expires: Option<Time>,
    pub(crate) keepalive: Option<Time>,
}

impl Connection {
    /// The negotiated hold time; nothing before OPEN was received or if it is zero.
    pub(crate) fn restart_hold_timer(&mut self, now: Time) {
        if let Some(n) = self.negotiated.as_ref().filter(|n| !n.hold_time.is_zero()) {
            self.expires = Some(now + n.hold_time);
        }
    }

    /// A third of the hold time (RFC 4271 §4.4).
    pub(crate) fn restart_keepalive_timer(&mut self, now: Time) {
        self.keepalive = self.negotiated.as_ref().filter(|n| !n.hold_time.is_zero()).map(|n| now + n.hold_time / 3);
    }
}
