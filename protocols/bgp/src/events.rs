//! What goes into a [`crate::Peer`] and what comes out.

use edgeplex_bgp_wire::{Attributes, Family, Notification, Reach, Unreach};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

/// Time since any fixed moment.
pub type Time = Duration;

/// One TCP connection of a peer; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The operator wants the session (RFC 4271 §8.1.2 ManualStart).
    Start,
    /// The operator ends it, with these words to the peer or, for graceful restart, with none.
    Stop(Option<&'a Notification>),
    /// The operator resets it (Cease/4); it comes back.
    Reset,
    /// BFD says that the way to the peer is broken (RFC 9384: Cease/10); its routes go at once, and it is tried again.
    BfdDown,
    /// A connection asked for by [`Action::Connect`] stands, with this address of ours.
    Connected(ConnId, IpAddr),
    /// The peer connected to this address of ours. [`Action::Adopt`] takes the connection; otherwise it is to be closed.
    Accepted(IpAddr),
    Received(ConnId, &'a [u8]),
    /// A connection failed or ended, and why.
    Closed(ConnId, &'a str),
    /// A connection could not even be tried, for want of a route. Nobody was bothered, so the pauses do not grow: an IGP that is
    /// still converging does not keep the session waiting long after it has.
    NoRoute(ConnId, &'a str),
    /// The peer has taken nothing for too long (RFC 9687).
    SendStalled(ConnId),
    /// [`crate::Peer::deadline`] has passed.
    Timer,
    /// Ask for all routes of a family again.
    Refresh(Family),
    /// Following: there is a connection, by us or by the peer, with this address of ours. [`Action::Adopt`] names it.
    Opened {
        outgoing: bool,
        local: IpAddr,
    },
    /// Following: what was sent on a connection.
    Sent(ConnId, &'a [u8]),
    /// It is us who speak from now on.
    Promoted,
}

/// The peer's routes stay as stale (RFC 4724 §4.2): until the End-of-RIB of its next session, or until the times are over.
/// Routes of families that do not stay were reported as unreachable before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Graceful {
    /// The peer must be back within this time, seconds.
    pub stale_s: u32,
    /// If it is not, routes go on as least preferred ones for so long (RFC 9494 §4.2), seconds: see
    /// [`crate::decision::long_lived_stale`]. 0: they go.
    pub llgr_stale_s: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to the peer.
    Connect(ConnId),
    /// The connection just accepted goes under this name.
    Adopt(ConnId),
    Send(ConnId, Vec<u8>),
    /// Close once what was sent is out.
    Close(ConnId),
    Up {
        router_id: Ipv4Addr,
        peer_has_gr: bool,
        /// It has just started again (R bit): whoever waits for everybody's End-of-RIB does not wait for this one's (RFC 4724 §4.1).
        restarted: bool,
        families: Vec<Family>,
        /// Stale routes of these families may stay until End-of-RIB; those of others go now (RFC 4724 §4.2: no F bit).
        preserved: Vec<Family>,
    },
    Down {
        reason: String,
        graceful: Option<Graceful>,
    },
    /// `unreach` comes before `reach` (RFC 4271 §4.3: a prefix in both is reachable).
    Update {
        attributes: Arc<Attributes>,
        next_hop: IpAddr,
        reach: Vec<Reach>,
        unreach: Vec<Unreach>,
    },
    EndOfRib(Family),
    /// Something the operator should know, though nothing follows from it.
    Warn(String),
}
