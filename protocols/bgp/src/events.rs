//! What goes into a [`crate::Peer`] and what comes out.

use edgeplex_bgp_wire::{Attributes, Family, Nlri, NlriKey, Notification};
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
    /// A connection asked for by [`Action::Connect`] stands.
    Connected(ConnId),
    /// The peer connected to us. [`Action::Adopt`] takes the connection; otherwise it is to be closed.
    Accepted,
    Received(ConnId, &'a [u8]),
    /// A connection failed or ended, and why.
    Closed(ConnId, &'a str),
    /// The peer has taken nothing for too long (RFC 9687).
    SendStalled(ConnId),
    /// [`crate::Peer::deadline`] has passed.
    Timer,
    /// Ask for all routes of a family again.
    Refresh(Family),
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
        families: Vec<Family>,
    },
    /// `graceful`: the peer's routes stay as stale (RFC 4724 §4.2).
    Down {
        reason: String,
        graceful: bool,
    },
    /// `unreach` comes before `reach` (RFC 4271 §4.3: a prefix in both is reachable).
    Update {
        attributes: Arc<Attributes>,
        next_hop: IpAddr,
        reach: Vec<Nlri>,
        unreach: Vec<NlriKey>,
    },
    EndOfRib(Family),
}
