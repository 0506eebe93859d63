//! What the engine is told to be.

use edgeplex_types::{AttachmentId, Label, LabelRange, MacAddr, Rd, RouteTarget};
use ipnet::Ipv4Net;
use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub asn: u32,
    /// Next hop of what we advertise, and the endpoint of tunnels to ourselves.
    pub loopback: Ipv4Addr,
    pub interfaces: Vec<CoreInterface>,
    pub routes: Vec<CoreRoute>,
    pub reflectors: BTreeSet<Ipv4Addr>,
    pub labels: LabelRange,
    /// How long a released label rests before another attachment may get it.
    pub quarantine: Duration,
    /// How long a silent PVM's routes stay.
    pub stale: Duration,
    pub attachments: Vec<AttachmentConfig>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreInterface {
    pub name: String,
    pub mac: MacAddr,
    pub address: Ipv4Net,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentConfig {
    pub id: AttachmentId,
    pub rd: Rd,
    pub import: BTreeSet<RouteTarget>,
    pub export: BTreeSet<RouteTarget>,
    /// A label fixed by the operator; otherwise one is allocated.
    pub label: Option<Label>,
    /// How many customer routes it may export, whatever its PVM thinks.
    pub max_routes: Option<u32>,
}
