//! What the core side is told to be.

use edgeplex_types::{MacAddr, NextHop};
use ipnet::Ipv4Net;
use std::{net::Ipv4Addr, sync::Arc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Endpoint of tunnels to ourselves.
    pub loopback: Ipv4Addr,
    /// In the order of the label-switching router's ports.
    pub interfaces: Vec<Interface>,
    pub static_routes: Vec<StaticRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: Arc<str>,
    pub mac: MacAddr,
    pub address: Ipv4Net,
    pub mtu: u16,
    /// Neighbours here are asked for labels: what goes further than to them needs one.
    pub ldp: bool,
}

/// Its gateway is on a connected segment, or the route is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRoute {
    pub prefix: Ipv4Net,
    pub via: Ipv4Addr,
}

impl Config {
    pub(crate) fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| *i.name == *name)
    }

    /// The neighbour with this address on the most specific of the segments it may be on.
    pub(crate) fn connected(&self, address: Ipv4Addr) -> Option<NextHop> {
        let on = self.interfaces.iter().filter(|i| i.address.contains(&address) && i.address.addr() != address);
        on.max_by_key(|i| i.address.prefix_len()).map(|i| NextHop { interface: i.name.clone(), address })
    }
}
