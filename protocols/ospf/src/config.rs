//! How one router and its interfaces are configured.

use ipnet::Ipv4Net;
use std::{collections::BTreeMap, fmt, net::Ipv4Addr, sync::Arc, time::Duration};

/// An OSPF router in one area. Start from [`Config::new`] and change what differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub router_id: Ipv4Addr,
    pub area: Ipv4Addr,
    /// Announced as stub hosts at cost 0: the loopback.
    pub hosts: Vec<Ipv4Addr>,
    /// By name.
    pub interfaces: BTreeMap<Arc<str>, InterfaceConfig>,
    /// Drained: our links are announced at the highest cost (RFC 6987).
    pub stub_router: bool,
    /// How long neighbours are asked to keep us through a restart (RFC 3623), seconds; 0 for not at all.
    pub grace_s: u16,
    /// Neighbours that restart gracefully are helped.
    pub helper: bool,
    /// [`crate::Route::backup`] is computed (RFC 5286).
    pub loop_free_alternates: bool,
    pub limits: Limits,
    pub timing: Timing,
}

impl Config {
    pub fn new(router_id: Ipv4Addr, area: Ipv4Addr) -> Self {
        Self {
            router_id,
            area,
            hosts: vec![],
            interfaces: BTreeMap::new(),
            stub_router: false,
            grace_s: 120,
            helper: true,
            loop_free_alternates: false,
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }
}

/// One interface. Start from [`InterfaceConfig::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Our address and the segment's mask.
    pub address: Ipv4Net,
    /// Of the IP layer, bytes; neighbours must have the same (RFC 2328 §10.6).
    pub mtu: u16,
    pub network: Network,
    /// 1 to 65535.
    pub cost: u16,
    /// For the election of the designated router; 0 never is one.
    pub priority: u8,
    pub hello_s: u16,
    pub dead_s: u32,
    pub retransmit_s: u16,
    /// Announced, but no packet is sent or taken.
    pub passive: bool,
    pub authentication: Authentication,
}

impl InterfaceConfig {
    /// The defaults of RFC 2328 appendix C.
    pub fn new(address: Ipv4Net, network: Network) -> Self {
        Self {
            address,
            mtu: 1500,
            network,
            cost: 10,
            priority: 1,
            hello_s: 10,
            dead_s: 40,
            retransmit_s: 5,
            passive: false,
            authentication: Authentication::Null,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    PointToPoint,
    Broadcast,
}

impl Network {
    pub fn name(self) -> &'static str {
        match self {
            Self::PointToPoint => "point-to-point",
            Self::Broadcast => "broadcast",
        }
    }
}

/// RFC 2328 appendix D.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Authentication {
    #[default]
    Null,
    /// At most 8 bytes count.
    Simple(String),
    Cryptographic {
        algorithm: Algorithm,
        key_id: u8,
        key: String,
    },
}

/// RFC 2328 §D.4.3, RFC 5709.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// Without the password.
impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Simple(_) => f.write_str("Simple"),
            Self::Cryptographic { algorithm, key_id, .. } => write!(f, "{algorithm:?} {key_id}"),
        }
    }
}

/// What a mad neighbour can make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// LSAs of others; more are refused.
    pub lsas: usize,
    /// Bytes of all LSAs of others.
    pub bytes: usize,
    /// On one interface; a point-to-point link has one.
    pub neighbors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lsas: 50_000, bytes: 16 << 20, neighbors: 64 }
    }
}

/// Pauses that are ours to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From a change to the computation of routes, when nothing happened lately; doubled from one run to the next.
    pub spf_first: Duration,
    pub spf_last: Duration,
    /// Between two instances of one of our LSAs; doubled from one to the next, from just above what receivers accept
    /// (MinLSArrival, 1 s) to MinLSInterval.
    pub lsa_first: Duration,
    pub lsa_last: Duration,
    /// Acknowledgements wait this long for company (RFC 2328 §13.5).
    pub acknowledge: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            spf_first: Duration::from_millis(2),
            spf_last: Duration::from_secs(1),
            lsa_first: Duration::from_millis(1200),
            lsa_last: Duration::from_secs(5),
            acknowledge: Duration::from_millis(500),
        }
    }
}
