//! The IGP: shortest paths over the links that are up.

use super::{Network, address, interface, loopback};
use edgeplex_ldp::Routes;
use edgeplex_types::NextHop;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

impl Network {
    /// Cost from every node to one; a node that cannot be reached has none.
    fn costs_to(&self, target: usize) -> Vec<Option<usize>> {
        let mut costs = vec![None; self.nodes.len()];
        costs[target] = Some(0);
        for _ in 0..self.nodes.len() {
            for link in self.links.iter().filter(|l| l.up) {
                for [a, b] in [link.ends, [link.ends[1], link.ends[0]]] {
                    let through = costs[b].map(|c| c + link.cost);
                    if through.is_some_and(|new| costs[a].is_none_or(|old| new < old)) {
                        costs[a] = through;
                    }
                }
            }
        }
        costs
    }

    pub(crate) fn reachable(&self, from: usize, to: usize) -> bool {
        self.costs_to(to)[from].is_some()
    }

    /// Next hops of one node towards another, all of equal cost.
    fn hops(&self, node: usize, target: usize) -> Vec<NextHop> {
        let costs = self.costs_to(target);
        let Some(cost) = costs[node] else { return vec![] };
        let links = self.links.iter().enumerate().filter(|(_, l)| l.up && l.ends.contains(&node));
        let by = links.filter_map(|(at, link)| {
            let other = if link.ends[0] == node { link.ends[1] } else { link.ends[0] };
            let best = costs[other].is_some_and(|c| c + link.cost == cost);
            best.then(|| NextHop { interface: interface(at), address: address(at, other) })
        });
        by.collect()
    }

    pub(crate) fn routes_of(&self, node: usize) -> Routes {
        let mut routes = Routes::new();
        for target in 0..self.nodes.len() {
            let behind = self.prefixes.iter().filter(|p| p.1 == target && p.2).map(|p| p.0);
            for fec in behind.chain([loopback(target).into()]) {
                let hops = self.hops(node, target);
                if target == node || !hops.is_empty() {
                    routes.insert(fec, hops);
                }
            }
        }
        for (at, link) in self.links.iter().enumerate().filter(|(_, l)| l.up) {
            let network = Ipv4Net::new(Ipv4Addr::new(10, 0, u8::try_from(at).unwrap(), 0), 24).unwrap();
            if link.ends.contains(&node) {
                routes.insert(network, vec![]);
                continue;
            }
            // Towards the nearer end.
            let near = link.ends.into_iter().filter_map(|end| Some((self.costs_to(end)[node]?, end))).min();
            if let Some((_, end)) = near {
                routes.insert(network, self.hops(node, end));
            }
        }
        routes
    }
}
