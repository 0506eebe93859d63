//! Configuration of a PVM: the attachment, its CEs, their policy.

use super::{Bfd, PolicyRule};
use edgeplex_types::{AttachmentId, MacAddr, SiteOfOrigin};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// Configuration of a PVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PvmConfig {
    pub version: u8,
    pub attachment: AttachmentId,
    /// The provider's AS number.
    pub asn: u32,
    /// BGP identifier towards the customer.
    pub router_id: Ipv4Addr,
    /// MAC address of the PE towards the customer.
    pub mac: MacAddr,
    /// The PE's addresses on the attachment's subnets: one IPv4, one IPv6, or both. A link-local IPv6 address is derived from
    /// `mac` (RFC 4291 appendix A) where there is an IPv6 one.
    pub addresses: Vec<IpNet>,
    pub customer_mtu: u16,
    pub core_mtu: u16,
    #[serde(default)]
    pub bgp: Vec<CustomerBgp>,
    #[serde(default)]
    pub static_routes: Vec<StaticRoute>,
    /// Paths of a prefix used together (ECMP), 1 to 16.
    pub max_paths: u8,
    pub relay: RelayClient,
    #[serde(default)]
    pub instance: super::Instance,
}

/// One BGP neighbour of the customer. The session carries the family of its addresses.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomerBgp {
    pub neighbor: IpAddr,
    pub remote_as: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefix: Option<MaxPrefix>,
    /// Hold time, seconds: 0 or at least 3 (RFC 4271 §4.2).
    pub hold_time_s: u16,
    /// Ended by the operator, with these words to the peer (RFC 9003), at most 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<String>,
    /// Accept packets from this many hops away at most (RFC 5082), 1 to 254; 1 is a directly connected CE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_security_hops: Option<u8>,
    /// Our role towards this neighbour (RFC 9234).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<BgpRole>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// The CE's AS number is replaced by ours in what it is told: sites of one AS hear one another.
    #[serde(default)]
    pub as_override: bool,
    /// How often our own AS number may stand in what it tells.
    #[serde(default)]
    pub allow_as_in: u8,
    /// Private AS numbers (RFC 6996) are taken out of what it is told.
    #[serde(default)]
    pub remove_private_as: bool,
    /// Routes learnt here carry it; routes that carry it are not told here (RFC 4364 §7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_of_origin: Option<SiteOfOrigin>,
    /// A default route is told, whether or not there is one.
    #[serde(default)]
    pub default_originate: bool,
    /// First match decides; what matches nothing is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub import: Vec<PolicyRule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export: Vec<PolicyRule>,
}

/// Without the password.
impl fmt::Debug for CustomerBgp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomerBgp").field("neighbor", &self.neighbor).field("remote_as", &self.remote_as).finish_non_exhaustive()
    }
}

/// More prefixes than `limit` end the session with Cease/1 (RFC 4486).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxPrefix {
    pub limit: u32,
    /// Percent of the limit at which the log warns, 1 to 100.
    pub warn_percent: u8,
    /// The session is not ended.
    #[serde(default)]
    pub warning_only: bool,
    /// How long the neighbour is refused then, seconds.
    pub restart_s: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BgpRole {
    Provider,
    Customer,
    Peer,
    RouteServer,
    RouteServerClient,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRoute {
    pub prefix: IpNet,
    pub via: IpAddr,
    /// The route is there while the session with `via` is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}

/// The PVM's end of the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayClient {
    pub endpoint: String,
    /// The CVM's CURVE public key, Z85.
    pub server_key: String,
    /// This PVM's own CURVE key pair, Z85.
    pub public_key: String,
    pub secret_key: String,
}
