//! What the engine is told to be.

use edgeplex_relay::Tunnel;
use edgeplex_types::{AttachmentId, Label, LabelRange, Rd, RouteTarget};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub asn: u32,
    /// Next hop of what we advertise, and the endpoint of the tunnel between our own attachments.
    pub loopback: Ipv4Addr,
    pub reflectors: BTreeSet<Ipv4Addr>,
    pub labels: LabelRange,
    /// How long a released label rests before another owner may get it.
    pub quarantine: Duration,
    /// How long a silent PVM's routes stay.
    pub stale: Duration,
    pub attachments: Vec<AttachmentConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentConfig {
    pub id: AttachmentId,
    pub rd: Rd,
    pub import: BTreeSet<RouteTarget>,
    pub export: BTreeSet<RouteTarget>,
    /// Of other VPNs, only these prefixes.
    pub leaks: Vec<Leak>,
    /// A label fixed by the operator for the VRF; otherwise one is allocated.
    pub label: Option<Label>,
    /// Besides the VRF's label each CE has one of its own, and its routes are advertised with that.
    pub label_per_ce: bool,
    /// Paths of a prefix used together (ECMP); 0 counts as 1.
    pub max_paths: u8,
    /// How many customer routes it may export, whatever its PVM thinks.
    pub max_routes: Option<u32>,
}

/// Routes taken over from another VPN: those with one of the route targets and exactly one of the prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    pub import: BTreeSet<RouteTarget>,
    pub prefixes: BTreeSet<IpNet>,
}

/// How a BGP next hop is reached, as the core says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelState {
    /// Its identifier is [`tunnel_id`](crate::tunnel_id) of the endpoint. Without legs it is out of reach for now.
    pub tunnel: Tunnel,
    /// What the IGP says it costs, for RFC 4271 §9.1.2.2 e.
    pub cost: u32,
}
