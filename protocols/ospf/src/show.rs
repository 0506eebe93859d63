//! What `show` tells of the engine.

use crate::Time;
use ipnet::Ipv4Net;
use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborView {
    pub router_id: Ipv4Addr,
    pub address: Ipv4Addr,
    pub interface: Arc<str>,
    /// `down` … `full` (RFC 2328 §10.1).
    pub state: &'static str,
    pub priority: u8,
    /// `dr`, `backup`, `other`, or `-` on a point-to-point link.
    pub role: &'static str,
    pub dead_in: Duration,
    pub full_for: Option<Duration>,
    /// LSAs that wait for its acknowledgement.
    pub retransmissions: usize,
    /// LSAs that we have yet to get from it.
    pub requests: usize,
    /// Times the adjacency left Full.
    pub resets: u64,
    pub last_error: Option<String>,
    /// It restarts, and we keep its links until then.
    pub helping: Option<Time>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceView {
    pub interface: Arc<str>,
    pub address: Ipv4Net,
    pub area: Ipv4Addr,
    pub network: &'static str,
    /// RFC 2328 §9.1.
    pub state: &'static str,
    /// As announced.
    pub cost: u16,
    /// Address of the designated router there.
    pub designated: Option<Ipv4Addr>,
    pub backup: Option<Ipv4Addr>,
    pub neighbors: usize,
    /// Packets refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LsaView {
    pub kind: &'static str,
    pub id: Ipv4Addr,
    pub advertising_router: Ipv4Addr,
    pub age_s: u16,
    pub sequence: u32,
    pub checksum: u16,
    pub length: u16,
    /// What it says, in words.
    pub contents: Vec<String>,
}
