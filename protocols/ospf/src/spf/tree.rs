//! The graph of the area and its shortest-path trees (RFC 2328 §16.1).

use crate::Time;
use crate::db::Db;
use crate::fsm::OwnLink;
use crate::packet::{LinkKind, LsaBody, NETWORK, NetworkLsa, ROUTER, RouterLsa};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Networks come first among those of equal distance (§16.1 (3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Vertex {
    /// Link State ID and advertising router of its network-LSA.
    Network(Ipv4Addr, Ipv4Addr),
    Router(Ipv4Addr),
}

/// The first step of a way from us. Without an address: the network is ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hop {
    pub(crate) interface: Arc<str>,
    pub(crate) address: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) distance: u32,
    pub(crate) hops: BTreeSet<Hop>,
}

/// Our own links are as they are now, not as our last LSA had to leave them.
#[derive(Debug)]
pub(crate) struct Topology<'a> {
    pub(crate) own_id: Ipv4Addr,
    own: RouterLsa,
    routers: HashMap<Ipv4Addr, &'a RouterLsa>,
    /// By Link State ID, the address of the designated router; then by advertising router.
    networks: BTreeMap<(Ipv4Addr, Ipv4Addr), &'a NetworkLsa>,
}

impl<'a> Topology<'a> {
    pub(crate) fn new(db: &'a Db, now: Time, own_id: Ipv4Addr, links: &[OwnLink]) -> Self {
        let living = |kind| db.of_kind(kind).filter(move |(_, e)| !e.is_dead(now)).map(|(key, e)| (*key, &e.lsa.body));
        let routers = living(ROUTER).filter_map(|(key, body)| match body {
            // RFC 2328 §A.4.2: both are the router ID.
            LsaBody::Router(router) if key.id == key.advertising_router => Some((key.id, router)),
            _ => None,
        });
        let networks = living(NETWORK).filter_map(|(key, body)| match body {
            LsaBody::Network(network) => Some(((key.id, key.advertising_router), network)),
            _ => None,
        });
        let own = RouterLsa { flags: 0, links: links.iter().map(|l| l.link).collect() };
        Self { own_id, own, routers: routers.collect(), networks: networks.collect() }
    }

    pub(crate) fn router(&self, id: Ipv4Addr) -> Option<&RouterLsa> {
        if id == self.own_id { Some(&self.own) } else { self.routers.get(&id).copied() }
    }

    pub(crate) fn network(&self, id: Ipv4Addr, advertising_router: Ipv4Addr) -> Option<&NetworkLsa> {
        self.networks.get(&(id, advertising_router)).copied()
    }

    /// Network-LSAs of a segment that list this router.
    fn networks_with(&self, id: Ipv4Addr, router: Ipv4Addr) -> impl Iterator<Item = Vertex> {
        let all = self.networks.range((id, Ipv4Addr::UNSPECIFIED)..=(id, Ipv4Addr::BROADCAST));
        all.filter(move |(_, n)| n.attached.contains(&router)).map(|((id, by), _)| Vertex::Network(*id, *by))
    }

    /// Addresses of a router on a segment; several if it is there twice.
    pub(crate) fn addresses_on(&self, segment: Ipv4Addr, router: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let links = self.router(router).map(|r| r.links.as_slice()).unwrap_or_default();
        links.iter().filter(move |l| l.kind == LinkKind::Transit && l.id == segment).map(|l| l.data)
    }

    /// Where one can go from a vertex, and at what cost; only what is linked back (§16.1 (2b)).
    fn edges(&self, from: Vertex) -> Vec<(Vertex, u32)> {
        let mut edges = vec![];
        match from {
            Vertex::Router(id) => {
                for link in self.router(id).map(|r| r.links.as_slice()).unwrap_or_default() {
                    let cost = link.metric.into();
                    match link.kind {
                        LinkKind::PointToPoint if self.points_to(link.id, id) => edges.push((Vertex::Router(link.id), cost)),
                        LinkKind::Transit => edges.extend(self.networks_with(link.id, id).map(|n| (n, cost))),
                        _ => {}
                    }
                }
            }
            Vertex::Network(id, by) => {
                for router in self.network(id, by).map(|n| n.attached.as_slice()).unwrap_or_default() {
                    if self.addresses_on(id, *router).next().is_some() {
                        edges.push((Vertex::Router(*router), 0));
                    }
                }
            }
        }
        edges
    }

    fn points_to(&self, router: Ipv4Addr, to: Ipv4Addr) -> bool {
        self.router(router).is_some_and(|r| r.links.iter().any(|l| l.kind == LinkKind::PointToPoint && l.id == to))
    }

    /// Distances from any vertex.
    pub(crate) fn distances(&self, from: Vertex) -> HashMap<Vertex, u32> {
        let mut done = HashMap::new();
        let mut open = BTreeSet::from([(0u32, from)]);
        while let Some((distance, vertex)) = open.pop_first() {
            if done.contains_key(&vertex) {
                continue;
            }
            done.insert(vertex, distance);
            open.extend(
                self.edges(vertex).into_iter().filter(|(v, _)| !done.contains_key(v)).map(|(v, cost)| (distance.saturating_add(cost), v)),
            );
        }
        done
    }

    /// The tree from us, with all next hops of equal cost.
    pub(crate) fn tree(&self, links: &[OwnLink]) -> BTreeMap<Vertex, Node> {
        let root = Vertex::Router(self.own_id);
        let mut best: BTreeMap<Vertex, Node> = BTreeMap::from([(root, Node::default())]);
        let mut done = BTreeSet::new();
        let mut open = BTreeSet::from([(0u32, root)]);
        while let Some((distance, vertex)) = open.pop_first() {
            if !done.insert(vertex) {
                continue;
            }
            let hops = best.get(&vertex).map(|n| n.hops.clone()).unwrap_or_default();
            let steps: Vec<(Vertex, u32, BTreeSet<Hop>)> = if vertex == root {
                links.iter().flat_map(|link| self.first_steps(link)).collect()
            } else {
                let edges = self.edges(vertex).into_iter();
                edges.map(|(next, cost)| (next, cost, self.inherited(vertex, next, &hops))).collect()
            };
            for (next, cost, hops) in steps {
                // A way without a first step is none.
                if done.contains(&next) || hops.is_empty() {
                    continue;
                }
                let distance = distance.saturating_add(cost);
                match best.get_mut(&next) {
                    Some(node) if node.distance < distance => {}
                    Some(node) if node.distance == distance => node.hops.extend(hops),
                    _ => {
                        best.insert(next, Node { distance, hops });
                        open.insert((distance, next));
                    }
                }
            }
        }
        best.retain(|vertex, _| done.contains(vertex));
        best
    }

    /// §16.1.1: next hops of what hangs on us.
    pub(crate) fn first_steps(&self, own: &OwnLink) -> Vec<(Vertex, u32, BTreeSet<Hop>)> {
        let hop = |address| BTreeSet::from([Hop { interface: own.interface.clone(), address }]);
        let cost = own.link.metric.into();
        match (own.link.kind, own.neighbor) {
            (LinkKind::PointToPoint, Some(address)) if self.points_to(own.link.id, self.own_id) => {
                vec![(Vertex::Router(own.link.id), cost, hop(Some(address)))]
            }
            (LinkKind::Transit, _) => self.networks_with(own.link.id, self.own_id).map(|n| (n, cost, hop(None))).collect(),
            _ => vec![],
        }
    }

    /// §16.1.1: behind a network of ours the next hop is the router itself; further on it is inherited.
    fn inherited(&self, parent: Vertex, next: Vertex, hops: &BTreeSet<Hop>) -> BTreeSet<Hop> {
        let (Vertex::Network(segment, _), Vertex::Router(router)) = (parent, next) else { return hops.clone() };
        let resolve = |hop: &Hop| -> Vec<Hop> {
            match hop.address {
                Some(_) => vec![hop.clone()],
                None => self.addresses_on(segment, router).map(|a| Hop { interface: hop.interface.clone(), address: Some(a) }).collect(),
            }
        };
        hops.iter().flat_map(resolve).collect()
    }
}
