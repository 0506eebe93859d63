//! Answers about the core: OSPF, LDP, tunnels, BFD.

use edgeplex_types::{Label, MacAddr, TunnelId};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OspfNeighborRow {
    pub router_id: Ipv4Addr,
    pub address: Ipv4Addr,
    pub interface: String,
    /// `down` … `full` (RFC 2328 §10.1).
    pub state: String,
    pub priority: u8,
    /// `dr`, `backup`, `other`, or `-` on a point-to-point link.
    pub role: String,
    pub dead_in_ms: u64,
    pub full_s: Option<u64>,
    /// LSAs that wait for its acknowledgement, and that we have yet to get from it.
    pub retransmissions: u64,
    pub requests: u64,
    /// Times the adjacency left Full.
    pub resets: u64,
    /// Why it last did, in words.
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OspfInterfaceRow {
    pub interface: String,
    pub address: Ipv4Net,
    pub area: Ipv4Addr,
    /// `point-to-point`, `broadcast`.
    pub network: String,
    /// `down`, `loopback`, `waiting`, `point-to-point`, `dr-other`, `backup`, `dr` (RFC 2328 §9.1).
    pub state: String,
    pub cost: u16,
    pub designated: Option<Ipv4Addr>,
    pub backup: Option<Ipv4Addr>,
    pub neighbors: u64,
    /// Packets refused, by reason, e.g. `authentication`, `checksum`, `mtu`, `area`; in alphabetical order.
    pub refused: Vec<(String, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LsaRow {
    /// `router`, `network`, `summary`, `asbr-summary`, `external`, `nssa`, `opaque-link`, `opaque-area`, `opaque-as`.
    pub kind: String,
    pub id: Ipv4Addr,
    pub advertising_router: Ipv4Addr,
    pub age_s: u16,
    /// As RFC 2328 §12.1.6 counts: 0x80000001 is the first.
    pub sequence: u32,
    pub checksum: u16,
    pub length: u16,
    /// What it says, in words: links, prefix and cost.
    pub contents: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OspfRouteRow {
    pub prefix: Ipv4Net,
    /// `intra-area`, `inter-area`, `external-1`, `external-2`.
    pub kind: String,
    pub cost: u32,
    pub next_hops: Vec<CoreNextHop>,
    /// Loop-free alternates (RFC 5286).
    pub backup: Vec<CoreNextHop>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CoreNextHop {
    pub interface: String,
    /// `None` for a connected prefix.
    pub address: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LdpNeighborRow {
    pub lsr_id: Ipv4Addr,
    pub transport_address: Ipv4Addr,
    /// `non-existent`, `initialized`, `open-rec`, `open-sent`, `operational` (RFC 5036 §2.5.4).
    pub state: String,
    pub up_s: Option<u64>,
    /// Interfaces on which its Hellos arrive.
    pub interfaces: Vec<String>,
    pub hold_ms: u64,
    pub keepalive_s: u16,
    pub labels_received: u64,
    pub labels_sent: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    /// Times the session left Operational.
    pub resets: u64,
    pub last_error: Option<String>,
    /// Its labels are kept through a restart of its own (RFC 3478).
    pub stale: bool,
}

/// One FEC of the LIB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LdpBindingRow {
    pub prefix: Ipv4Net,
    /// Ours; 3 is implicit null.
    pub local: Option<Label>,
    pub remote: Vec<LdpRemoteBinding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LdpRemoteBinding {
    pub lsr_id: Ipv4Addr,
    pub label: Label,
    /// It is a next hop of the route: its label is pushed.
    pub in_use: bool,
    pub stale: bool,
}

/// One incoming label of the platform's label-switching router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardingRow {
    pub label: Label,
    pub prefix: Ipv4Net,
    pub legs: Vec<LegRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRow {
    pub id: TunnelId,
    pub endpoint: IpAddr,
    /// It has a leg.
    pub up: bool,
    /// Where the way comes from: `ospf`, `static`, `connected`, `own` (between attachments of this PE), `-`.
    pub source: String,
    pub cost: Option<u32>,
    pub legs: Vec<LegRow>,
    /// Loop-free alternates, kept ready.
    pub backup: Vec<LegRow>,
    /// VPN paths that use it.
    pub paths: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRow {
    pub interface: String,
    pub next_hop: IpAddr,
    pub mac: Option<MacAddr>,
    /// Outermost first; empty after implicit null.
    pub labels: Vec<Label>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdRow {
    pub address: IpAddr,
    /// Without one for a multihop session.
    pub interface: Option<String>,
    /// `admin-down`, `down`, `init`, `up` (RFC 5880 §6.2).
    pub state: String,
    pub up_s: Option<u64>,
    /// What asked for it, e.g. `ospf`, `bgp`, `static`.
    pub clients: Vec<String>,
    pub transmit_us: u64,
    pub detection_us: u64,
    pub local_discriminator: u32,
    pub remote_discriminator: u32,
    /// As RFC 5880 §4.1 names it.
    pub diagnostic: String,
    pub remote_diagnostic: String,
    /// Times it left Up.
    pub downs: u64,
    pub packets_received: u64,
    pub packets_sent: u64,
}
