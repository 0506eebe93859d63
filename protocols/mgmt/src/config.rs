//! Configuration of the daemons. The controller writes it from intent that is already validated; a daemon still
//! checks what it reads, because a file can be damaged.

use edgeplex_types::{AttachmentId, Label, LabelRange, MacAddr, Name, Rd, RouteTarget};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Configuration of a CVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CvmConfig {
    pub version: u8,
    pub name: Name,
    pub asn: u32,
    /// BGP identifier and source of its sessions; installed on the loopback interface.
    pub loopback: Ipv4Addr,
    pub core: Vec<CoreInterface>,
    /// Static routes of the core, until an IGP learns them.
    pub core_routes: Vec<CoreRoute>,
    pub route_reflectors: Vec<CoreNeighbor>,
    pub labels: LabelRange,
    /// How long a released label rests before it may be given again, seconds.
    pub label_quarantine_s: u32,
    /// How long a silent PVM's routes stay, seconds.
    pub stale_s: u32,
    pub relay: RelayServer,
    pub attachments: Vec<CvmAttachment>,
}

/// One core-facing interface of the CVM; the vNIC of that name is already in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreInterface {
    pub name: String,
    pub mac: MacAddr,
    pub address: Ipv4Net,
    pub mtu: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreNeighbor {
    pub address: Ipv4Addr,
    /// TCP MD5 (RFC 2385) password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// The CVM's end of the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayServer {
    /// ZeroMQ endpoint to bind, such as `ipc:///run/relay/relay.sock`.
    pub endpoint: String,
    /// CURVE secret key, Z85.
    pub secret_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CvmAttachment {
    pub id: AttachmentId,
    pub rd: Rd,
    pub import: Vec<RouteTarget>,
    pub export: Vec<RouteTarget>,
    /// A label fixed by the operator; otherwise one is allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// CURVE public key of the PVM, Z85.
    pub relay_public_key: String,
    /// How many routes the attachment may export, whatever its PVM says of itself; no limit of its own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_routes: Option<u32>,
}

/// Configuration of a PVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PvmConfig {
    pub version: u8,
    pub attachment: AttachmentId,
    /// The provider's AS number.
    pub asn: u32,
    /// MAC address of the PE towards the customer.
    pub mac: MacAddr,
    /// The PE's address on the attachment's subnet; also the BGP identifier.
    pub address: Ipv4Net,
    pub customer_mtu: u16,
    pub core_mtu: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<CustomerBgp>,
    #[serde(default)]
    pub static_routes: Vec<StaticRoute>,
    pub relay: RelayClient,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomerBgp {
    pub neighbor: Ipv4Addr,
    pub remote_as: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// More prefixes than this end the session with Cease/1 (RFC 4486).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefix: Option<u32>,
    /// Hold time, seconds: 0 or at least 3 (RFC 4271 §4.2).
    pub hold_time_s: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRoute {
    pub prefix: IpNet,
    pub via: IpAddr,
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
