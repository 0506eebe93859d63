//! Routes from the shortest-path tree and from what border routers say (RFC 2328 §16.1 to §16.4).

use super::tree::{Hop, Node, Topology, Vertex};
use crate::db::Db;
use crate::fsm::OwnLink;
use crate::packet::{
    ASBR_SUMMARY, EXTERNAL, External, LS_INFINITY, LinkKind, LsaBody, LsaKey, ROUTER_FLAG_BORDER, ROUTER_FLAG_EXTERNAL, SUMMARY,
};
use crate::{Route, RouteKind, Time};
use edgeplex_types::NextHop;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A way to a destination, best so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: RouteKind,
    /// Within the AS.
    pub(super) distance: u32,
    /// Of an external-2 route.
    external: u32,
    hops: BTreeSet<Hop>,
    /// Vertices of the tree behind which it lies, and how far.
    pub(super) ends: Vec<(Vertex, u32)>,
    connected: bool,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) found: BTreeMap<Ipv4Net, Found>,
}

/// Prefix of a Link State ID or address and a mask.
fn net(address: Ipv4Addr, length: u8) -> Option<Ipv4Net> {
    Some(Ipv4Net::new(address, length).ok()?.trunc())
}

struct Inputs<'a> {
    db: &'a Db,
    now: Time,
    topology: &'a Topology<'a>,
    tree: BTreeMap<Vertex, Node>,
    area: Ipv4Addr,
}

/// `own`: our prefixes with cost and the interface each is on.
pub(super) fn compute(
    db: &Db,
    now: Time,
    topology: &Topology<'_>,
    links: &[OwnLink],
    own: &BTreeMap<Ipv4Net, (u32, Option<Arc<str>>)>,
    area: Ipv4Addr,
) -> Table {
    let inputs = Inputs { db, now, topology, tree: topology.tree(links), area };
    let mut table = Table::default();
    table.intra_area(&inputs);
    // Ours are ours, even if there were a cheaper way around.
    for (prefix, (distance, interface)) in own {
        let distance = *distance;
        let hops = interface.iter().map(|i| Hop { interface: i.clone(), address: None }).collect();
        table.found.insert(*prefix, Found { kind: RouteKind::IntraArea, distance, external: 0, hops, ends: vec![], connected: true });
    }
    table.inter_area(&inputs);
    table.externals(&inputs);
    table
}

impl Inputs<'_> {
    fn living(&self, kind: u8) -> impl Iterator<Item = (&LsaKey, &LsaBody)> {
        // Our own are for others.
        let others = |(key, e): &(&LsaKey, &crate::db::Entry)| !e.is_dead(self.now) && key.advertising_router != self.topology.own_id;
        self.db.of_kind(kind).filter(others).map(|(key, e)| (key, &e.lsa.body))
    }

    /// A border router that the tree reaches and that says it is one.
    fn border(&self, id: Ipv4Addr, flag: u8) -> Option<&Node> {
        self.topology.router(id).filter(|r| r.flags & flag != 0)?;
        self.tree.get(&Vertex::Router(id))
    }

    /// §16.4 (3): how to reach each AS boundary router.
    fn boundary_routers(&self) -> BTreeMap<Ipv4Addr, Found> {
        let mut out = BTreeMap::new();
        for (vertex, node) in &self.tree {
            if let Vertex::Router(id) = vertex
                && self.border(*id, ROUTER_FLAG_EXTERNAL).is_some()
            {
                out.insert(*id, Found::through(RouteKind::IntraArea, *vertex, node, 0));
            }
        }
        for (key, body) in self.living(ASBR_SUMMARY) {
            let (LsaBody::AsbrSummary(summary), Some(node)) = (body, self.border(key.advertising_router, ROUTER_FLAG_BORDER)) else {
                continue;
            };
            if summary.metric >= LS_INFINITY || key.id == self.topology.own_id {
                continue;
            }
            let found = Found::through(RouteKind::InterArea, Vertex::Router(key.advertising_router), node, summary.metric);
            match out.get_mut(&key.id) {
                None => drop(out.insert(key.id, found)),
                // §16.4.1: a way through the area wins, unless the area is the backbone; then the shorter does.
                Some(have) if have.kind == RouteKind::IntraArea && !self.area.is_unspecified() => {}
                Some(have) => have.merge(found, |f| f.distance),
            }
        }
        out
    }
}

impl Found {
    fn through(kind: RouteKind, vertex: Vertex, node: &Node, further: u32) -> Self {
        let distance = node.distance.saturating_add(further);
        Self { kind, distance, external: 0, hops: node.hops.clone(), ends: vec![(vertex, further)], connected: false }
    }

    /// The better stays; equals share.
    fn merge<K: Ord>(&mut self, other: Self, rank: impl Fn(&Self) -> K) {
        match rank(&other).cmp(&rank(self)) {
            std::cmp::Ordering::Less => *self = other,
            std::cmp::Ordering::Equal => {
                self.hops.extend(other.hops);
                self.ends.extend(other.ends);
            }
            std::cmp::Ordering::Greater => {}
        }
    }
}

impl Table {
    fn add(&mut self, prefix: Ipv4Net, found: Found) {
        match self.found.get_mut(&prefix) {
            // §11: the kind of path comes first; externals of type 2 then go by their own cost (§16.4 (6)).
            Some(have) => have.merge(found, |f| (f.kind, f.external, f.distance)),
            None => drop(self.found.insert(prefix, found)),
        }
    }

    fn intra_area(&mut self, inputs: &Inputs<'_>) {
        for (vertex, node) in &inputs.tree {
            match vertex {
                Vertex::Network(id, by) => {
                    let prefix = inputs.topology.network(*id, *by).and_then(|n| net(*id, n.prefix_length));
                    if let Some(prefix) = prefix {
                        self.add(prefix, Found::through(RouteKind::IntraArea, *vertex, node, 0));
                    }
                }
                Vertex::Router(id) if *id != inputs.topology.own_id => {
                    let links = inputs.topology.router(*id).map(|r| r.links.as_slice()).unwrap_or_default();
                    for link in links.iter().filter(|l| l.kind == LinkKind::Stub) {
                        // The mask was found contiguous when the LSA was read.
                        let length = u32::from(link.data).leading_ones();
                        if let Some(prefix) = u8::try_from(length).ok().and_then(|l| net(link.id, l)) {
                            self.add(prefix, Found::through(RouteKind::IntraArea, *vertex, node, link.metric.into()));
                        }
                    }
                }
                Vertex::Router(_) => {}
            }
        }
    }

    /// §16.2
    fn inter_area(&mut self, inputs: &Inputs<'_>) {
        for (key, body) in inputs.living(SUMMARY) {
            let LsaBody::Summary(summary) = body else { continue };
            let Some(node) = inputs.border(key.advertising_router, ROUTER_FLAG_BORDER) else { continue };
            if summary.metric >= LS_INFINITY {
                continue;
            }
            if let Some(prefix) = net(key.id, summary.prefix_length) {
                let vertex = Vertex::Router(key.advertising_router);
                self.add(prefix, Found::through(RouteKind::InterArea, vertex, node, summary.metric));
            }
        }
    }

    /// §16.4
    fn externals(&mut self, inputs: &Inputs<'_>) {
        let boundary = inputs.boundary_routers();
        // Forwarding addresses are looked up among routes within the AS only.
        let within = Self { found: self.found.clone() };
        for (key, body) in inputs.living(EXTERNAL) {
            let LsaBody::External(external) = body else { continue };
            let Some(asbr) = boundary.get(&key.advertising_router).filter(|_| external.metric < LS_INFINITY) else { continue };
            let Some(way) = within.way_to(asbr, external) else { continue };
            let Some(prefix) = net(key.id, external.prefix_length) else { continue };
            let (kind, distance, cost) = match external.type_2 {
                true => (RouteKind::External2, way.distance, external.metric),
                false => (RouteKind::External1, way.distance.saturating_add(external.metric), 0),
            };
            let further = distance - way.distance;
            let ends = way.ends.iter().map(|(vertex, more)| (*vertex, more.saturating_add(further))).collect();
            self.add(prefix, Found { kind, distance, external: cost, hops: way.hops, ends, connected: false });
        }
    }

    /// §16.4 (3): to the boundary router, or to the address that it names.
    fn way_to(&self, asbr: &Found, external: &External) -> Option<Found> {
        if external.forwarding.is_unspecified() {
            return Some(asbr.clone());
        }
        let mut way = self.longest_match(external.forwarding)?.clone();
        if way.connected {
            // On a segment of ours it is the next hop itself. It may also be our own address: then there is none.
            way.hops = way.hops.into_iter().map(|h| Hop { address: Some(external.forwarding), ..h }).collect();
        }
        (!way.hops.is_empty()).then_some(way)
    }

    fn longest_match(&self, address: Ipv4Addr) -> Option<&Found> {
        (0..=32).rev().find_map(|length| self.found.get(&net(address, length)?))
    }

    pub(super) fn routes(&self) -> BTreeMap<Ipv4Net, Route> {
        let route = |found: &Found| {
            let hops = found.hops.iter().filter_map(|h| Some(NextHop { interface: h.interface.clone(), address: h.address? }));
            let next_hops: BTreeSet<NextHop> = if found.connected { BTreeSet::new() } else { hops.collect() };
            let cost = if found.kind == RouteKind::External2 { found.external } else { found.distance };
            Route { kind: found.kind, cost, next_hops, backup: BTreeSet::new(), connected: found.connected }
        };
        let usable = |r: &Route| r.connected || !r.next_hops.is_empty();
        self.found.iter().map(|(prefix, found)| (*prefix, route(found))).filter(|(_, r)| usable(r)).collect()
    }
}
