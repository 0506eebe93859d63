//! Loop-free alternates (RFC 5286): for a route with one next hop, a neighbour on another interface that does not send the packet back.
//!
//! A prefix behind several routers is judged by those that our own route uses: a neighbour with a shorter way of its own is then
//! taken for a longer one, so the answer errs to the safe side (§6.1).

use super::table::{Found, Table};
use super::tree::{Topology, Vertex};
use crate::Route;
use crate::fsm::OwnLink;
use crate::packet::{LinkKind, MAX_LINK_METRIC};
use edgeplex_types::NextHop;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

/// A neighbour as a way out.
struct Candidate {
    hop: NextHop,
    router: Ipv4Addr,
    /// Of our link to it.
    cost: u32,
    /// The segment that we share with it.
    segment: Option<Vertex>,
}

type Distances = HashMap<Vertex, u32>;

struct View<'a> {
    topology: &'a Topology<'a>,
    candidates: Vec<Candidate>,
    /// From each neighbour, and from each segment of ours.
    from: HashMap<Vertex, Distances>,
    ours: Distances,
}

/// Adds [`Route::backup`].
pub(super) fn add(routes: &mut BTreeMap<Ipv4Net, Route>, table: &Table, topology: &Topology<'_>, links: &[OwnLink]) {
    let candidates = candidates(topology, links);
    let roots = candidates.iter().flat_map(|c| c.segment.into_iter().chain([Vertex::Router(c.router)]));
    let roots: BTreeSet<Vertex> = roots.collect();
    let from = roots.into_iter().map(|root| (root, topology.distances(root))).collect();
    let view = View { topology, candidates, from, ours: topology.distances(Vertex::Router(topology.own_id)) };
    for (prefix, route) in routes {
        let mut hops = route.next_hops.iter();
        // Of several next hops each is the others' alternate (§3.6).
        if let (Some(primary), None, Some(found)) = (hops.next(), hops.next(), table.found.get(prefix)) {
            route.backup = view.best(primary, found).into_iter().collect();
        }
    }
}

fn candidates(topology: &Topology<'_>, links: &[OwnLink]) -> Vec<Candidate> {
    let mut out = vec![];
    // §3.5: a link that carries no transit traffic is no way out.
    for own in links.iter().filter(|l| l.link.metric < MAX_LINK_METRIC) {
        for (vertex, cost, hops) in topology.first_steps(own) {
            match vertex {
                Vertex::Router(router) => {
                    let hops = hops.into_iter().filter_map(|h| Some(NextHop { interface: h.interface, address: h.address? }));
                    out.extend(hops.map(|hop| Candidate { hop, router, cost, segment: None }));
                }
                Vertex::Network(id, by) => {
                    for router in topology.network(id, by).map(|n| n.attached.as_slice()).unwrap_or_default() {
                        let hops = topology.addresses_on(id, *router).map(|address| NextHop { interface: own.interface.clone(), address });
                        let others = hops.filter(|_| *router != topology.own_id);
                        out.extend(others.map(|hop| Candidate { hop, router: *router, cost, segment: Some(vertex) }));
                    }
                }
            }
        }
    }
    out
}

impl View<'_> {
    fn distance(&self, from: Vertex, to: Vertex) -> Option<u32> {
        self.from.get(&from)?.get(&to).copied()
    }

    /// To the nearest of the places behind which the destination lies.
    fn to(distances: &Distances, found: &Found) -> Option<u32> {
        found.ends.iter().filter_map(|(end, further)| Some(distances.get(end)?.saturating_add(*further))).min()
    }

    fn best(&self, primary: &NextHop, found: &Found) -> Option<NextHop> {
        let us = Vertex::Router(self.topology.own_id);
        let direct = Self::to(&self.ours, found)?;
        let first = self.candidates.iter().find(|c| c.hop == *primary)?;
        let mut best: Option<((bool, u32), &NextHop)> = None;
        for candidate in self.candidates.iter().filter(|c| c.hop.interface != primary.interface && !self.overloaded(c.router)) {
            let node = Vertex::Router(candidate.router);
            let (Some(way), Some(back)) = (self.from.get(&node).and_then(|d| Self::to(d, found)), self.distance(node, us)) else {
                continue;
            };
            // §3.1, inequality 1: it does not come back to us.
            if way >= back.saturating_add(direct) {
                continue;
            }
            // §3.2, inequality 3: nor does it pass the router that we would have used.
            let around = |through: Vertex| match (self.distance(node, through), self.from.get(&through).and_then(|d| Self::to(d, found))) {
                (Some(there), Some(rest)) => way < there.saturating_add(rest),
                _ => true,
            };
            // §3.3, inequality 4: nor the segment.
            if first.segment.is_some_and(|segment| !around(segment)) {
                continue;
            }
            let protects_node = candidate.router != first.router && around(Vertex::Router(first.router));
            let rank = (!protects_node, candidate.cost.saturating_add(way));
            if best.as_ref().is_none_or(|(have, hop)| (rank, &candidate.hop) < (*have, hop)) {
                best = Some((rank, &candidate.hop));
            }
        }
        best.map(|(_, hop)| hop.clone())
    }

    /// It announces all its links at the highest cost (§3.5, RFC 6987).
    fn overloaded(&self, router: Ipv4Addr) -> bool {
        let links = self.topology.router(router).map(|r| r.links.as_slice()).unwrap_or_default();
        let mut transit = links.iter().filter(|l| matches!(l.kind, LinkKind::PointToPoint | LinkKind::Transit));
        transit.clone().next().is_some() && transit.all(|l| l.metric == MAX_LINK_METRIC)
    }
}
