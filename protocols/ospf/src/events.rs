//! What goes into [`crate::Ospf`] and what comes out.

use crate::Config;
use edgeplex_types::NextHop;
use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

/// Time since any fixed moment.
pub type Time = Duration;

/// AllSPFRouters (RFC 2328 §A.1).
pub const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 5);
/// AllDRouters.
pub const DESIGNATED_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 6);

/// How the engine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// A past process of ours asked its neighbours to wait (RFC 3623), or died so lately that they have not noticed: our LSAs out there stand until the adjacencies are back.
    pub restarting: bool,
    /// Cryptographic sequence numbers begin here and grow by one a second: the time of day, so that they never fall.
    pub crypto_sequence: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    Configure(Config),
    /// The interface can carry packets, or no longer. All are down at first.
    Interface {
        name: &'a str,
        up: bool,
    },
    /// An OSPF packet, its IP header taken off.
    Received {
        interface: &'a str,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        packet: &'a [u8],
    },
    /// BFD lost this neighbour.
    NeighborLost {
        interface: &'a str,
        address: Ipv4Addr,
    },
    /// LDP-IGP synchronization (RFC 5443): `max` announces the link at the highest cost.
    LinkCost {
        interface: &'a str,
        max: bool,
    },
    /// The process is about to be replaced: neighbours are asked to keep us (RFC 3623 §2.1). Nothing is sent after it.
    PrepareRestart,
    /// The process ends: our LSAs are flushed, neighbours told with an empty Hello. Nothing is sent after it.
    Shutdown,
    /// [`crate::Ospf::deadline`] has passed.
    Timer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An OSPF packet without IP header.
    Send {
        interface: Arc<str>,
        destination: Ipv4Addr,
        packet: Vec<u8>,
    },
    /// [`crate::Ospf::routes`] has changed.
    RoutesChanged,
    /// The adjacency is Full. It stays up through a graceful restart of the neighbour.
    NeighborUp {
        interface: Arc<str>,
        address: Ipv4Addr,
        router_id: Ipv4Addr,
    },
    NeighborDown {
        interface: Arc<str>,
        address: Ipv4Addr,
        router_id: Ipv4Addr,
        reason: String,
    },
    /// Take packets for 224.0.0.6 there too.
    JoinDrRouters {
        interface: Arc<str>,
    },
    LeaveDrRouters {
        interface: Arc<str>,
    },
    /// For the operator's log, one sentence.
    Log(String),
}

/// RFC 2328 §11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    IntraArea,
    InterArea,
    External1,
    External2,
}

impl RouteKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::IntraArea => "intra-area",
            Self::InterArea => "inter-area",
            Self::External1 => "external-1",
            Self::External2 => "external-2",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub kind: RouteKind,
    /// For `external-2` the external cost alone.
    pub cost: u32,
    /// All of equal cost; empty for a prefix of our own.
    pub next_hops: BTreeSet<NextHop>,
    /// Loop-free alternates (RFC 5286) for a route with one next hop, kept ready.
    pub backup: BTreeSet<NextHop>,
    /// The prefix of one of our interfaces, or a host of ours.
    pub connected: bool,
}
