//! What goes into [`crate::Ldp`], what comes out, and what it shows.

use crate::Config;
use crate::fsm::State;
use edgeplex_types::{Label, NextHop};
use ipnet::Ipv4Net;
use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

/// Time since any fixed moment.
pub type Time = Duration;

/// FECs with their next hops. No next hop: we are egress, as for own addresses and connected networks.
pub type Routes = BTreeMap<Ipv4Net, Vec<NextHop>>;

/// What labelled packets need, by FEC.
pub type Forwarding = BTreeMap<Ipv4Net, Fec>;

/// One TCP connection; never used twice. Those we open and those we accept are numbered apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnId {
    /// Numbered by the engine.
    Opened(u64),
    /// Numbered by the driver.
    Accepted(u64),
    /// Replayed, and numbered by whoever does that.
    Inherited(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Configure(Config),
    /// An interface of ours is up with this address, or down. Interfaces without discovery count as well: their
    /// addresses are told to neighbours.
    Interface {
        name: Arc<str>,
        address: Ipv4Addr,
        up: bool,
    },
    /// A UDP datagram to 224.0.0.2 port 646.
    Hello {
        interface: Arc<str>,
        source: Ipv4Addr,
        packet: Vec<u8>,
    },
    /// The connection asked for by [`Action::Connect`] stands.
    Connected {
        conn: ConnId,
    },
    Accepted {
        conn: ConnId,
        remote: Ipv4Addr,
    },
    Received {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    /// A connection failed or ended, and why.
    Closed {
        conn: ConnId,
        reason: String,
    },
    /// The whole routing table.
    Routes(Arc<Routes>),
    /// The operator resets a session.
    Reset {
        lsr_id: Ipv4Addr,
    },
    /// The operator ends LDP: neighbours are told (Shutdown), so that they forget our labels. For a graceful restart the driver
    /// just closes the connections instead.
    Stop,
    /// [`crate::Ldp::deadline`] has passed.
    Timer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To 224.0.0.2 port 646 with TTL 1.
    SendHello {
        interface: Arc<str>,
        packet: Vec<u8>,
    },
    /// From the loopback to port 646, with TTL 255; `gtsm`: take TTL 255 only.
    Connect {
        conn: ConnId,
        local: Ipv4Addr,
        remote: Ipv4Addr,
        password: Option<String>,
        gtsm: bool,
    },
    /// The accepted connection takes TTL 255 only from now on.
    Protect {
        conn: ConnId,
    },
    /// TCP MD5 key for connections from this address. What [`Event::Accepted`] tells of from now on has been accepted with it.
    Key {
        remote: Ipv4Addr,
        password: Option<String>,
    },
    Send {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    /// Close once what was sent is out. No [`Event::Closed`] need follow.
    Close {
        conn: ConnId,
    },
    /// [`crate::Ldp::bindings`] is to be stored for [`crate::Start`]. Comes before the messages that tell of them, but
    /// need not be done by then.
    BindingsChanged,
    /// [`crate::Ldp::forwarding`] has changed.
    ForwardingChanged,
    SessionUp {
        lsr_id: Ipv4Addr,
        interfaces: Vec<Arc<str>>,
    },
    SessionDown {
        lsr_id: Ipv4Addr,
        interfaces: Vec<Arc<str>>,
        reason: String,
    },
    /// For the IGP (RFC 5443): whether all neighbours heard on the interface that are next hops or have had a session, and at least
    /// one, have a session and have sent all their labels. Until it is first told, an interface is not in step.
    Synced {
        interface: Arc<str>,
        synced: bool,
    },
    /// The state of before our restart is confirmed or given up: what the forwarder has beyond [`crate::Ldp::forwarding`] may go.
    Recovered,
    /// Worth a line to the operator.
    Log {
        lsr_id: Option<Ipv4Addr>,
        text: String,
    },
}

/// How packets of a FEC are forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fec {
    /// The label that neighbours use towards us; none while there is nothing behind it (ordered control).
    pub local: Option<Label>,
    /// Labelled packets of it end here.
    pub egress: bool,
    /// All next hops of the route, and the label each wants; `None`: it gave none (yet). 3: no label, 0 and above 15: to be pushed.
    pub hops: Vec<(NextHop, Option<Label>)>,
}

/// One neighbour, for `show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborView {
    pub lsr_id: Ipv4Addr,
    pub transport_address: Ipv4Addr,
    pub state: State,
    /// For how long the session has been operational.
    pub up: Option<Duration>,
    /// Interfaces on which its Hellos arrive.
    pub interfaces: Vec<Arc<str>>,
    /// Shortest hold time agreed with it.
    pub hold: Duration,
    pub keepalive_s: u16,
    pub labels_received: usize,
    pub labels_sent: usize,
    pub messages_received: u64,
    pub messages_sent: u64,
    /// Times the session left Operational.
    pub resets: u64,
    pub last_error: Option<String>,
    /// Its labels are kept through a restart of its own.
    pub stale: bool,
}

/// One FEC of the LIB, for `show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingView {
    pub prefix: Ipv4Net,
    pub local: Option<Label>,
    pub remote: Vec<RemoteView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteView {
    pub lsr_id: Ipv4Addr,
    pub label: Label,
    /// It is a next hop of the route: its label is pushed.
    pub in_use: bool,
    pub stale: bool,
}
