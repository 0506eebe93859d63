//! What `show` tells of the engine.

use crate::db::Entry;
use crate::engine::Ospf;
use crate::fsm::{Interface, InterfaceState, Neighbor, NeighborState};
use crate::packet::{
    ASBR_SUMMARY, EXTERNAL, External, GRACE_ID, Grace, LinkKind, LsaBody, LsaKey, NETWORK, NSSA, OPAQUE_AREA, OPAQUE_AS, OPAQUE_LINK,
    ROUTER, SUMMARY,
};
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
    /// It restarts, and we keep its link for so long.
    pub helping: Option<Duration>,
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

impl Ospf {
    /// By interface and address; also those that are gone.
    pub fn neighbors(&self) -> Vec<NeighborView> {
        let all = self.interfaces.iter().flat_map(|(name, i)| i.neighbors.iter().map(move |(address, n)| (name, i, *address, n)));
        all.map(|(name, interface, address, neighbor)| self.neighbor_view(name, interface, address, neighbor)).collect()
    }

    fn neighbor_view(&self, name: &Arc<str>, interface: &Interface, address: Ipv4Addr, neighbor: &Neighbor) -> NeighborView {
        let role = match address {
            _ if !interface.is_broadcast() => "-",
            address if address == interface.designated => "dr",
            address if address == interface.backup => "backup",
            _ => "other",
        };
        let alive = neighbor.state > NeighborState::Down;
        NeighborView {
            router_id: neighbor.router_id,
            address,
            interface: name.clone(),
            state: neighbor.state.name(),
            priority: neighbor.priority,
            role,
            dead_in: if alive { neighbor.dead_at.saturating_sub(self.now) } else { Duration::ZERO },
            full_for: neighbor.full_since.map(|at| self.now - at),
            retransmissions: neighbor.retransmissions.len(),
            requests: neighbor.requests.len(),
            resets: neighbor.resets,
            last_error: neighbor.last_error.clone(),
            helping: neighbor.helping.map(|h| h.until.saturating_sub(self.now)),
        }
    }

    pub fn interfaces(&self) -> Vec<InterfaceView> {
        let address = |a: Ipv4Addr| (!a.is_unspecified()).then_some(a);
        let view = |(name, i): (&Arc<str>, &Interface)| InterfaceView {
            interface: name.clone(),
            address: i.config.address,
            area: self.config.area,
            network: i.config.network.name(),
            state: i.state.name(),
            cost: self.transit_cost(i),
            designated: address(i.designated),
            backup: address(i.backup),
            neighbors: i.neighbors.values().filter(|n| n.state > NeighborState::Down).count(),
            refused: i.refused.clone(),
        };
        self.interfaces.iter().map(view).collect()
    }

    /// Of the area, then of each link.
    pub fn database(&self) -> Vec<LsaView> {
        let links = self.interfaces.values().filter(|i| i.state != InterfaceState::Down).map(|i| &i.db);
        std::iter::once(&self.db).chain(links).flat_map(|db| db.iter()).map(|(key, entry)| self.lsa_view(key, entry)).collect()
    }

    fn lsa_view(&self, key: &LsaKey, entry: &Entry) -> LsaView {
        let header = entry.header(self.now);
        LsaView {
            kind: kind_name(key.kind),
            id: key.id,
            advertising_router: key.advertising_router,
            age_s: header.age,
            sequence: header.sequence.cast_unsigned(),
            checksum: header.checksum,
            length: header.length,
            contents: words(key, &entry.lsa.body),
        }
    }
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        ROUTER => "router",
        NETWORK => "network",
        SUMMARY => "summary",
        ASBR_SUMMARY => "asbr-summary",
        EXTERNAL => "external",
        NSSA => "nssa",
        OPAQUE_LINK => "opaque-link",
        OPAQUE_AREA => "opaque-area",
        OPAQUE_AS => "opaque-as",
        _ => "unknown",
    }
}

fn words(key: &LsaKey, body: &LsaBody) -> Vec<String> {
    match body {
        LsaBody::Router(router) => {
            let link = |l: &crate::packet::RouterLink| match l.kind {
                LinkKind::PointToPoint => format!("link to {} at {}, cost {}", l.id, l.data, l.metric),
                LinkKind::Transit => format!("segment of {} at {}, cost {}", l.id, l.data, l.metric),
                LinkKind::Virtual => format!("virtual link to {}, cost {}", l.id, l.metric),
                LinkKind::Stub => format!("prefix {}/{}, cost {}", l.id, u32::from(l.data).leading_ones(), l.metric),
            };
            let roles =
                [(crate::packet::ROUTER_FLAG_BORDER, "area border router"), (crate::packet::ROUTER_FLAG_EXTERNAL, "AS boundary router")];
            let roles = roles.iter().filter(|(flag, _)| router.flags & flag != 0).map(|(_, name)| (*name).to_owned());
            roles.chain(router.links.iter().map(link)).collect()
        }
        LsaBody::Network(network) => {
            let routers = network.attached.iter().map(|id| format!("router {id}"));
            std::iter::once(format!("prefix {}/{}", key.id, network.prefix_length)).chain(routers).collect()
        }
        LsaBody::Summary(summary) => vec![format!("prefix {}/{}, cost {}", key.id, summary.prefix_length, summary.metric)],
        LsaBody::AsbrSummary(summary) => vec![format!("AS boundary router {}, cost {}", key.id, summary.metric)],
        LsaBody::External(external) | LsaBody::Nssa(external) => external_words(key, external),
        LsaBody::Opaque(contents) => match Grace::decode(contents) {
            Ok(grace) if key.kind == OPAQUE_LINK && key.id == GRACE_ID => vec![format!("restarts, grace period {} s", grace.period)],
            _ => vec![format!("{} bytes", contents.len())],
        },
    }
}

fn external_words(key: &LsaKey, external: &External) -> Vec<String> {
    let kind = if external.type_2 { 2 } else { 1 };
    let mut out = vec![format!("prefix {}/{}, type {kind}, cost {}", key.id, external.prefix_length, external.metric)];
    if !external.forwarding.is_unspecified() {
        out.push(format!("by way of {}", external.forwarding));
    }
    if external.tag != 0 {
        out.push(format!("tag {}", external.tag));
    }
    out
}
