//! What the routes should be, by Bellman-Ford over the wires as they are; it knows nothing of LSAs.

use super::{Net, address, name, router_id};
use edgeplex_types::NextHop;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};

type Expected = BTreeMap<Ipv4Net, (u32, BTreeSet<NextHop>, bool)>;

impl Net {
    fn alive(&self, router: usize) -> bool {
        self.routers[router].engine.is_some()
    }

    fn cost(&self, router: usize, link: usize) -> u32 {
        self.routers[router].config.interfaces[&name(link)].cost.into()
    }

    /// Link, other router.
    fn steps(&self, router: usize) -> Vec<(usize, usize)> {
        let up = self.links.iter().enumerate().filter(|(_, l)| l.up && l.routers.contains(&router));
        up.flat_map(|(at, l)| l.routers.iter().filter(|r| **r != router && self.alive(**r)).map(move |r| (at, *r))).collect()
    }

    /// From a router to a prefix that some routers have at some cost.
    fn distances(&self, holders: &BTreeMap<usize, u32>) -> BTreeMap<usize, u32> {
        let mut best = holders.clone();
        for _ in 0..self.routers.len() {
            for router in (0..self.routers.len()).filter(|r| self.alive(*r)) {
                for (link, other) in self.steps(router) {
                    if let Some(way) = best.get(&other).map(|d| d + self.cost(router, link)) {
                        let have = best.entry(router).or_insert(way);
                        *have = way.min(*have);
                    }
                }
            }
        }
        best
    }

    pub(super) fn expected_routes(&self, router: usize) -> Expected {
        let alive = |r: &usize| self.alive(*r);
        let subnets = self.links.iter().enumerate().filter(|(_, l)| l.up).map(|(at, l)| {
            let holders = l.routers.iter().copied().filter(alive).map(|r| (r, self.cost(r, at))).collect();
            (format!("{}/24", address(at, 0)).parse::<Ipv4Net>().unwrap().trunc(), holders)
        });
        let hosts = (0..self.routers.len()).filter(alive).map(|r| (Ipv4Net::from(router_id(r)), BTreeMap::from([(r, 0)])));
        let mut out = Expected::new();
        for (prefix, holders) in subnets.chain(hosts) {
            if let Some(cost) = holders.get(&router) {
                out.insert(prefix, (*cost, BTreeSet::new(), true));
                continue;
            }
            let distances = self.distances(&holders);
            let Some(cost) = distances.get(&router) else { continue };
            let right = |(link, other): &(usize, usize)| distances.get(other).is_some_and(|d| d + self.cost(router, *link) == *cost);
            let hops = self.steps(router).into_iter().filter(right).map(|(l, r)| NextHop { interface: name(l), address: address(l, r) });
            out.insert(prefix, (*cost, hops.collect(), false));
        }
        out
    }

    /// Groups of living routers that reach each other.
    pub(super) fn islands(&self) -> Vec<Vec<usize>> {
        let mut left: BTreeSet<usize> = (0..self.routers.len()).filter(|r| self.alive(*r)).collect();
        let mut out = vec![];
        while let Some(first) = left.pop_first() {
            let mut island = vec![first];
            let mut at = 0;
            while at < island.len() {
                for (_, other) in self.steps(island[at]) {
                    if left.remove(&other) {
                        island.push(other);
                    }
                }
                at += 1;
            }
            out.push(island);
        }
        out
    }

    /// Loop-free alternates towards other routers' hosts: those that are wrong, and those that are missing.
    pub(crate) fn wrong_alternates(&self) -> (Vec<String>, usize) {
        let (mut wrong, mut present) = (vec![], 0);
        for router in (0..self.routers.len()).filter(|r| self.alive(*r)) {
            let back = self.distances(&BTreeMap::from([(router, 0)]));
            for to in (0..self.routers.len()).filter(|r| *r != router && self.alive(*r)) {
                let Some(route) = self.engine(router).routes().get(&Ipv4Net::from(router_id(to))) else { continue };
                let (Some(primary), 1) = (route.next_hops.first(), route.next_hops.len()) else {
                    assert!(route.backup.is_empty(), "several next hops need no alternate");
                    continue;
                };
                let way = self.distances(&BTreeMap::from([(to, 0)]));
                // RFC 5286 §3.1, inequality 1.
                let safe = |(link, via): &(usize, usize)| *name(*link) != *primary.interface && way[via] < back[via] + route.cost;
                let all: BTreeSet<NextHop> = self
                    .steps(router)
                    .into_iter()
                    .filter(safe)
                    .map(|(l, r)| NextHop { interface: name(l), address: address(l, r) })
                    .collect();
                present += route.backup.len();
                let kept_from = |l: &super::Link| l.network == edgeplex_ospf::Network::Broadcast;
                let must = !all.is_empty() && !self.links.iter().any(kept_from);
                if !route.backup.is_subset(&all) || (must && route.backup.is_empty()) {
                    wrong.push(format!("router {router} to {to} by {primary}: {:?}, of {all:?}", route.backup));
                }
            }
        }
        (wrong, present)
    }
}
