//! How one neighbour is configured.

use edgeplex_bgp_wire::{Family, Role};
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// Our side of graceful restart (RFC 4724, RFC 8538, RFC 9494).
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

/// How many prefixes a neighbour may have, over all families; of several paths each counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPrefix {
    /// More than this end the session with Cease/1 (RFC 4486 §4).
    pub limit: u32,
    /// From this part of the limit on there is a warning, 1 to 100.
    pub warn_percent: u8,
    /// The session is not ended.
    pub warning_only: bool,
    /// How long the neighbour is refused then.
    pub restart: Duration,
}

impl MaxPrefix {
    /// Warned of at 75 %, refused for 10 s.
    pub fn new(limit: u32) -> Self {
        Self { limit, warn_percent: 75, warning_only: false, restart: Duration::from_secs(10) }
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
    /// Goes along with our IPv6 next hops: the neighbour is on our link (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    /// Wait for the neighbour to connect.
    pub passive: bool,
    /// Seconds: 0 or at least 3 (RFC 4271 §4.2).
    pub hold_time: u16,
    pub families: Vec<Family>,
    /// TCP MD5 (RFC 2385), 1 to 80 bytes.
    pub password: Option<String>,
    /// Accept packets from this many hops away at most, 1 to 254 (RFC 5082).
    pub ttl_security_hops: Option<u8>,
    /// Ended by the operator, with these words to the peer (RFC 9003).
    pub shutdown: Option<String>,
    pub max_prefix: Option<MaxPrefix>,
    pub graceful_restart: Option<GracefulRestart>,
    /// Long-lived graceful restart (RFC 9494): how long we ask the peer to keep our routes beyond the restart time, seconds.
    /// Announcing it, be it with 0, also makes us its helper; without it the peer's long-lived routes are no matter to us.
    pub long_lived_s: Option<u32>,
    /// Take several paths of a destination (RFC 7911).
    pub add_path_receive: bool,
    /// Our role towards the peer (RFC 9234); eBGP only.
    pub role: Option<Role>,
    /// Refuse a peer that tells no role.
    pub role_strict: bool,
    /// How often our own AS may stand in a path received.
    pub allow_own_as: u8,
    /// The peer's AS is replaced by ours in what it is told: sites of one AS hear one another.
    pub as_override: bool,
    /// Private AS numbers (RFC 6996) but the peer's own are taken out of what it is told.
    pub remove_private_as: bool,
    /// How long VPN routes wait for the peer to say which it wants (RFC 4684 §6), if it does not say that it has said all.
    pub membership_wait: Duration,
    pub backoff: Backoff,
}

impl PeerConfig {
    /// IPv4 or IPv6 unicast as the address is, hold time 90 s, nothing optional.
    pub fn new(address: impl Into<IpAddr>, remote_as: u32) -> Self {
        let address = address.into();
        Self {
            address,
            port: 179,
            remote_as,
            local_address: None,
            link_local: None,
            passive: false,
            hold_time: 90,
            families: vec![if address.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast }],
            password: None,
            ttl_security_hops: None,
            shutdown: None,
            max_prefix: None,
            graceful_restart: None,
            long_lived_s: None,
            add_path_receive: false,
            role: None,
            role_strict: false,
            allow_own_as: 0,
            as_override: false,
            remove_private_as: false,
            membership_wait: Duration::from_secs(60),
            backoff: Backoff::default(),
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
