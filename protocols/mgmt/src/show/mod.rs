//! Questions to cvmd and pvmd, and their answers. Every list is in a stable order.

mod core;
mod instance;
mod ping;

pub use self::core::*;
pub use instance::*;
pub use ping::*;

use edgeplex_types::{AttachmentId, Label, MacAddr, Rd, RouteTarget, TunnelId};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "query", deny_unknown_fields)]
pub enum PvmQuery {
    Status,
    Bgp,
    Routes,
    Bfd,
    /// In the attachment's VRF, from its own address.
    Ping {
        to: IpAddr,
        options: PingOptions,
    },
    Traceroute {
        to: IpAddr,
        options: PingOptions,
    },
    Reload,
    /// What is to be done with this instance, and what it is.
    Instance(InstanceOrder),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "query", deny_unknown_fields)]
pub enum CvmQuery {
    Status,
    Bgp,
    /// VPN routes; with `attachment`, only those imported by or exported from it.
    Routes {
        attachment: Option<AttachmentId>,
    },
    Labels,
    Tunnels,
    OspfNeighbors,
    OspfInterfaces,
    OspfDatabase,
    OspfRoutes,
    LdpNeighbors,
    LdpBindings,
    /// Incoming label map of the platform's label-switching router.
    Forwarding,
    Bfd,
    /// Through the LSP of this FEC (RFC 8029).
    LspPing {
        prefix: Ipv4Net,
        options: PingOptions,
    },
    LspTraceroute {
        prefix: Ipv4Net,
        options: PingOptions,
    },
    /// What the switch needs; answered as soon as the generation differs from `seen`, or after some 20 s.
    Fabric {
        seen: u64,
    },
    Reload,
    Instance(InstanceOrder),
}

/// Answer to `Reload`: nothing to say beyond that it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvmStatus {
    pub attachment: AttachmentId,
    pub pid: u32,
    pub uptime_s: u64,
    pub relay_up: bool,
    pub fib_up: bool,
    /// Customer session: `idle` … `established`, or `none` without BGP.
    pub bgp: String,
    /// Prefixes learnt from the customer, from the VPN, and installed.
    pub customer_routes: u64,
    pub vpn_routes: u64,
    pub fib_routes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CvmStatus {
    pub pid: u32,
    pub uptime_s: u64,
    pub vpn_routes: u64,
    pub attachments: Vec<CvmAttachmentStatus>,
    /// Relay connections refused since the start, e.g. a wrong key or a foreign attachment.
    pub refused: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CvmAttachmentStatus {
    pub attachment: AttachmentId,
    pub rd: Rd,
    pub label: Label,
    pub relay_up: bool,
    pub routes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpNeighbor {
    pub address: IpAddr,
    pub remote_as: u32,
    pub state: String,
    pub established_s: Option<u64>,
    pub prefixes_received: u64,
    pub prefixes_sent: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    /// Times the session left Established.
    pub resets: u64,
    /// Why it last did, in words.
    pub last_error: Option<String>,
    /// RFC 7606: UPDATEs treated as withdraw, and attributes discarded.
    pub treated_as_withdraw: u64,
    pub attributes_discarded: u64,
    /// Families agreed on, e.g. `vpnv4`; capabilities, e.g. `graceful-restart`, `add-path`, `extended-message`, `role`.
    #[serde(default)]
    pub families: Vec<String>,
    #[serde(default)]
    pub capabilities: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Connected,
    Static,
    Bgp,
    Vpn,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub prefix: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rd: Option<Rd>,
    pub source: Source,
    pub best: bool,
    /// Used together with the best (ECMP).
    #[serde(default)]
    pub multipath: bool,
    /// Preinstalled for when no other can be used.
    #[serde(default)]
    pub backup: bool,
    pub stale: bool,
    pub next_hop: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelId>,
    /// As a person writes it: `65101 {65102}`.
    pub as_path: String,
    pub local_pref: Option<u32>,
    pub med: Option<u32>,
    #[serde(default)]
    pub route_targets: Vec<RouteTarget>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelRow {
    pub label: Label,
    pub attachment: AttachmentId,
    pub rd: Rd,
    /// The CE it stands for, where there is a label per CE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<IpAddr>,
    /// `active`, or `quarantine` after release.
    pub state: String,
}

/// What the controller needs to write the switch rules of the core side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    pub generation: u64,
    pub labels: Vec<FabricLabel>,
    pub neighbors: Vec<FabricNeighbor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricLabel {
    pub attachment: AttachmentId,
    pub label: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricNeighbor {
    pub mac: MacAddr,
    /// Name of the core interface behind which it was seen.
    pub interface: String,
}
