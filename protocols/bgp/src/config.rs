//! How one neighbour is configured.

use edgeplex_bgp_wire::Family;
use std::{fmt, net::IpAddr, time::Duration};

/// Our side of graceful restart (RFC 4724).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GracefulRestart {
    /// How long the peer keeps our routes while we are away, seconds, at most 4095.
    pub restart_time_s: u16,
    /// We have just been started again: the R bit is set until our routes are released.
    pub restarting: bool,
}

/// Pauses before a session is tried again: the first, doubled after each failure up to the last. No jitter: the
/// engine is deterministic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), last: Duration::from_secs(8) }
    }
}

/// One neighbour. Start from [`PeerConfig::new`] and change what differs.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerConfig {
    pub address: IpAddr,
    /// TCP port to connect to.
    pub port: u16,
    pub remote_as: u32,
    /// Source of our connections.
    pub local_address: Option<IpAddr>,
    /// Wait for the neighbour to connect.
    pub passive: bool,
    /// Seconds: 0 or at least 3 (RFC 4271 §4.2).
    pub hold_time: u16,
    pub families: Vec<Family>,
    /// TCP MD5 (RFC 2385), 1 to 80 bytes.
    pub password: Option<String>,
    /// More prefixes than this end the session with Cease/1 (RFC 4486 §4).
    pub max_prefix: Option<u32>,
    pub graceful_restart: Option<GracefulRestart>,
    pub backoff: Backoff,
    /// Pause after the neighbour exceeded `max_prefix`; its connections are refused meanwhile.
    pub max_prefix_pause: Duration,
}

impl PeerConfig {
    /// IPv4 unicast, hold time 90 s, nothing optional.
    pub fn new(address: impl Into<IpAddr>, remote_as: u32) -> Self {
        Self {
            address: address.into(),
            port: 179,
            remote_as,
            local_address: None,
            passive: false,
            hold_time: 90,
            families: vec![Family::Ipv4Unicast],
            password: None,
            max_prefix: None,
            graceful_restart: None,
            backoff: Backoff::default(),
            max_prefix_pause: Duration::from_secs(10),
        }
    }
}

/// Without the password.
impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("address", &self.address)
            .field("remote_as", &self.remote_as)
            .field("local_address", &self.local_address)
            .field("families", &self.families)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}
