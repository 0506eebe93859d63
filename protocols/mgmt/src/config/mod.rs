//! Configuration of the daemons. The controller writes it from intent that is already validated; a daemon still
//! checks what it reads, because a file can be damaged.

mod core;
mod customer;
mod instance;
mod policy;

pub use self::core::*;
pub use customer::*;
pub use instance::*;
pub use policy::*;

use edgeplex_types::{AttachmentId, Label, LabelRange, Name, Rd, RouteTarget};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What a platform is to its provider's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Provider edge: customers are attached.
    #[default]
    Pe,
    /// Provider core: a label-switching router without customers, and without BGP.
    P,
}

/// Configuration of a CVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CvmConfig {
    pub version: u8,
    pub name: Name,
    #[serde(default)]
    pub role: Role,
    pub asn: u32,
    /// OSPF router identifier, LDP LSR identifier and transport address, BGP identifier and source of its sessions; installed
    /// on the loopback interface.
    pub loopback: Ipv4Addr,
    pub core: Vec<CoreInterface>,
    /// Static routes of the core; they come before an IGP's.
    pub core_routes: Vec<CoreRoute>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ospf: Option<Ospf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ldp: Option<Ldp>,
    /// Control socket of the platform's label-switching router, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsr_socket: Option<String>,
    pub route_reflectors: Vec<CoreNeighbor>,
    pub labels: LabelRange,
    /// How long a released label rests before it may be given again, seconds.
    pub label_quarantine_s: u32,
    /// How long a silent PVM's routes stay, seconds.
    pub stale_s: u32,
    pub relay: RelayServer,
    #[serde(default)]
    pub instance: Instance,
    pub attachments: Vec<CvmAttachment>,
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
    /// Of other VPNs, only these prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaks: Vec<Leak>,
    /// A label fixed by the operator; otherwise one is allocated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    #[serde(default)]
    pub label_mode: LabelMode,
    /// Paths of a prefix used together (ECMP), 1 to 16.
    #[serde(default = "one")]
    pub max_paths: u8,
    /// CURVE public key of the PVM, Z85.
    pub relay_public_key: String,
    /// How many routes the attachment may export, whatever its PVM says of itself; no limit of its own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_routes: Option<u32>,
}

fn one() -> u8 {
    1
}

/// Routes taken over from another VPN: those with one of the route targets and exactly one of the prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leak {
    pub import: Vec<RouteTarget>,
    pub prefixes: Vec<IpNet>,
}

/// What a VPN label stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelMode {
    /// The attachment's VRF: the egress looks the destination up.
    #[default]
    PerAttachment,
    /// One CE: the egress forwards without a lookup.
    PerCe,
}

/// BFD in asynchronous mode (RFC 5880).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bfd {
    /// Desired transmit and required receive interval, milliseconds, 10 to 60,000.
    pub interval_ms: u32,
    /// Packets missed in a row that end the session, 2 to 255.
    pub multiplier: u8,
}
