//! Next-hop resolution: BGP next hop → core route → neighbour → MAC address (RFC 4271 §5.1.3, RFC 4364 §5).
//!
//! A tunnel is all there is to know about the way to one remote PE. Its identifier is the endpoint's IPv4 address as
//! a number: the same before and after a restart, so that paths of the old epoch never meet a tunnel that means
//! another PE.

use crate::config::{CoreInterface, CoreRoute};
use edgeplex_relay::Tunnel;
use edgeplex_types::{MacAddr, TunnelId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// A neighbour on a core segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbor {
    pub interface: String,
    pub address: Ipv4Addr,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct CoreNet {
    loopback: Option<Ipv4Addr>,
    interfaces: Vec<CoreInterface>,
    routes: Vec<CoreRoute>,
    macs: BTreeMap<Neighbor, MacAddr>,
    /// Endpoints that some route needs, and the tunnel to each that can be reached.
    tunnels: BTreeMap<Ipv4Addr, Option<Tunnel>>,
}

pub(crate) fn tunnel_id(endpoint: Ipv4Addr) -> TunnelId {
    TunnelId(endpoint.to_bits())
}

impl CoreNet {
    /// Takes a configuration; returns the endpoints whose tunnel changed.
    pub(crate) fn configure(&mut self, loopback: Ipv4Addr, interfaces: &[CoreInterface], routes: &[CoreRoute]) -> Vec<Ipv4Addr> {
        if let Some(old) = self.loopback.replace(loopback)
            && old != loopback
        {
            self.tunnels.remove(&old);
        }
        self.interfaces = interfaces.to_vec();
        self.routes = routes.to_vec();
        self.macs.retain(|n, _| interfaces.iter().any(|i| i.name == n.interface));
        self.tunnels.entry(loopback).or_default();
        self.refresh()
    }

    /// What the neighbour table says of one neighbour; returns the endpoints whose tunnel changed.
    pub(crate) fn neighbor(&mut self, neighbor: Neighbor, mac: Option<MacAddr>) -> Vec<Ipv4Addr> {
        if !self.interfaces.iter().any(|i| i.name == neighbor.interface) {
            return vec![];
        }
        let before = match mac.filter(|m| m.is_unicast()) {
            Some(mac) => self.macs.insert(neighbor.clone(), mac),
            None => self.macs.remove(&neighbor),
        };
        if before == self.macs.get(&neighbor).copied() { vec![] } else { self.refresh() }
    }

    /// A route needs this endpoint.
    pub(crate) fn want(&mut self, endpoint: Ipv4Addr) {
        if !self.is_wanted(endpoint) {
            let tunnel = self.resolve(endpoint);
            self.tunnels.insert(endpoint, tunnel);
        }
    }

    pub(crate) fn is_wanted(&self, endpoint: Ipv4Addr) -> bool {
        self.tunnels.contains_key(&endpoint)
    }

    /// No route needs this endpoint any more.
    pub(crate) fn unwant(&mut self, endpoint: Ipv4Addr) {
        if self.loopback != Some(endpoint) {
            self.tunnels.remove(&endpoint);
        }
    }

    /// The tunnel to a wanted endpoint, while it can be reached.
    pub(crate) fn tunnel(&self, endpoint: Ipv4Addr) -> Option<&Tunnel> {
        self.tunnels.get(&endpoint)?.as_ref()
    }

    /// Every wanted endpoint, its neighbour, and its tunnel if it is up.
    pub(crate) fn tunnels(&self) -> impl Iterator<Item = (Ipv4Addr, Option<Neighbor>, Option<&Tunnel>)> {
        self.tunnels.iter().map(|(e, t)| (*e, self.adjacency(*e), t.as_ref()))
    }

    /// Neighbours that must be kept resolved: those of tunnels, and of every core route beforehand.
    pub(crate) fn wanted(&self) -> BTreeSet<Neighbor> {
        let ways = self.tunnels.keys().copied().chain(self.routes.iter().map(|r| r.via));
        ways.filter(|e| Some(*e) != self.loopback).filter_map(|e| self.adjacency(e)).collect()
    }

    /// Wanted neighbours whose MAC address is known.
    pub(crate) fn resolved(&self) -> BTreeMap<Neighbor, MacAddr> {
        self.wanted().into_iter().filter_map(|n| self.macs.get(&n).map(|m| (n.clone(), *m))).collect()
    }

    fn refresh(&mut self) -> Vec<Ipv4Addr> {
        let fresh: Vec<_> = self.tunnels.keys().map(|e| (*e, self.resolve(*e))).collect();
        let mut changed = vec![];
        for (endpoint, tunnel) in fresh {
            if self.tunnels.get(&endpoint) != Some(&tunnel) {
                self.tunnels.insert(endpoint, tunnel);
                changed.push(endpoint);
            }
        }
        changed
    }

    fn resolve(&self, endpoint: Ipv4Addr) -> Option<Tunnel> {
        let to = |source_mac, destination_mac| Tunnel {
            id: tunnel_id(endpoint),
            endpoint: endpoint.into(),
            // A directly connected core: penultimate-hop popping leaves no label outside the VPN label.
            transport: vec![],
            source_mac,
            destination_mac,
        };
        if Some(endpoint) == self.loopback {
            // Between two attachments of this PE: to our own MAC address, where the switch looks at the label.
            return self.interfaces.first().map(|own| to(own.mac, own.mac));
        }
        let neighbor = self.adjacency(endpoint)?;
        let own = self.interfaces.iter().find(|i| i.name == neighbor.interface)?;
        Some(to(own.mac, *self.macs.get(&neighbor)?))
    }

    /// Longest match among core routes and connected segments; a route's gateway must be on a connected segment.
    fn adjacency(&self, endpoint: Ipv4Addr) -> Option<Neighbor> {
        let connected = |address: Ipv4Addr| {
            let on = self.interfaces.iter().filter(|i| i.address.contains(&address) && i.address.addr() != address);
            on.max_by_key(|i| i.address.prefix_len())
        };
        let at = |i: &CoreInterface, address| Neighbor { interface: i.name.clone(), address };
        let direct = connected(endpoint);
        let route = self.routes.iter().filter(|r| r.prefix.contains(&endpoint)).max_by_key(|r| r.prefix.prefix_len());
        match (direct, route) {
            (Some(i), Some(r)) if i.address.prefix_len() >= r.prefix.prefix_len() => Some(at(i, endpoint)),
            (Some(i), None) => Some(at(i, endpoint)),
            (_, Some(r)) => connected(r.via).map(|i| at(i, r.via)),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
#[path = "core_net_tests.rs"]
mod tests;
