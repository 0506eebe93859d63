//! One change to a daemon's state.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Names one TCP connection in a journal; never used twice there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Bgp,
    Ldp,
}

/// A change, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A TCP connection stands; nothing was received or sent on it yet.
    Open(SessionId, Box<Opened>),
    /// The neighbour's next bytes, as they came, whole messages or not.
    Received(SessionId, Vec<u8>),
    /// Our next bytes, always whole messages. Written before they are given to the socket.
    Sent(SessionId, Vec<u8>),
    /// The neighbour has acknowledged so many bytes of those sent, counted from the first; now and then. A successor sends
    /// again what comes after. `window`: as TCP_REPAIR_WINDOW tells it; `timestamp`: our TCP timestamp (RFC 7323) at `at_ms`.
    Acked {
        session: SessionId,
        sent: u64,
        window: Vec<u8>,
        timestamp: u32,
        at_ms: u64,
    },
    /// The connection is over; its successor is another session.
    Close(SessionId),
    /// A named value, such as `ospf/lsa/…`; replaces the former one. Who writes it versions what is inside.
    Put {
        name: String,
        value: Vec<u8>,
    },
    Delete {
        name: String,
    },
}

/// What must be known of a connection beside its bytes. As JSON in the journal: fields may be added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub protocol: Protocol,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The neighbour connected to us.
    pub passive: bool,
    pub tcp: TcpOpened,
}

/// TCP's side of it: what the handshake agreed on, and where both streams begin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpOpened {
    /// Sequence number of the first byte of ours, and of the neighbour's.
    pub sent_base: u32,
    pub received_base: u32,
    /// By so much the streams in the journal are shorter than those on the wire, since they were compacted; 0 for who opens one.
    /// All counts ([`Record::Acked`], [`crate::Progress`]) include them.
    #[serde(default)]
    pub sent_skipped: u64,
    #[serde(default)]
    pub received_skipped: u64,
    /// Bytes in a segment, as agreed (TCP_MAXSEG in repair mode).
    pub mss: u32,
    /// Options as TCP_INFO tells them: 1 timestamps, 2 SACK, 4 window scale.
    pub options: u8,
    pub send_scale: u8,
    pub receive_scale: u8,
    /// Our timestamp (RFC 7323) at `at_ms`.
    pub timestamp: u32,
    /// TCP_REPAIR_WINDOW.
    pub window: Vec<u8>,
    /// Milliseconds on the clock that never stands or jumps (CLOCK_BOOTTIME) of the host where this was written. A leader tells its
    /// follower what it says now, and who takes a session over writes it down by its own.
    pub at_ms: u64,
}
