//! A small core: two interfaces, and whoever is on them.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part of it

use edgeplex_cvm_core::{Action, Config, Core, Interface, StaticRoute, TunnelState};
use edgeplex_ff_fib_api::{FibOp, Port, SwitchTarget, Tunnel};
use edgeplex_ldp::Fec;
use edgeplex_ospf::{Route, RouteKind};
use edgeplex_types::{Label, MacAddr, NextHop, TunnelId};
use ipnet::Ipv4Net;
use std::{collections::BTreeMap, net::Ipv4Addr};

pub(crate) fn ip(s: &str) -> Ipv4Addr {
    s.parse().unwrap()
}

pub(crate) fn net(s: &str) -> Ipv4Net {
    s.parse().unwrap()
}

pub(crate) fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

pub(crate) fn label(n: u32) -> Label {
    Label::try_from(n).unwrap()
}

/// On the interface of the address's third byte.
pub(crate) fn hop(address: &str) -> NextHop {
    let address = ip(address);
    NextHop { interface: format!("core{}", address.octets()[2]).into(), address }
}

/// `core0` 10.0.0.1/24, `core1` 10.0.1.1/24, with LDP; MAC addresses 1 and 2.
pub(crate) fn config(static_routes: &[(&str, &str)]) -> Config {
    let interface = |n: u8| Interface {
        name: format!("core{n}").into(),
        mac: mac(n + 1),
        address: net(&format!("10.0.{n}.1/24")),
        mtu: 1600,
        ldp: true,
    };
    Config {
        loopback: ip("10.255.0.1"),
        interfaces: (0..2).map(interface).collect(),
        static_routes: static_routes.iter().map(|(p, via)| StaticRoute { prefix: net(p), via: ip(via) }).collect(),
    }
}

pub(crate) fn ospf(cost: u32, next_hops: &[&str], backup: &[&str]) -> Route {
    let hops = |list: &[&str]| list.iter().map(|a| hop(a)).collect();
    Route { kind: RouteKind::IntraArea, cost, next_hops: hops(next_hops), backup: hops(backup), connected: false }
}

pub(crate) fn fec(local: Option<u32>, hops: &[(&str, Option<u32>)]) -> Fec {
    let hops = hops.iter().map(|(a, l)| (hop(a), l.map(label))).collect();
    Fec { local: local.map(label), egress: false, hops }
}

pub(crate) fn egress(local: u32) -> Fec {
    Fec { local: Some(label(local)), egress: true, hops: vec![] }
}

/// A label-switching router that refuses what comes in the wrong order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) ports: Vec<Port>,
    pub(crate) tunnels: BTreeMap<TunnelId, Tunnel>,
    pub(crate) labels: BTreeMap<Label, SwitchTarget>,
}

impl Table {
    pub(crate) fn apply(&mut self, ops: Vec<FibOp>) {
        for op in ops {
            match op {
                FibOp::Ports(ports) => self.ports = ports,
                FibOp::Tunnel(tunnel) => {
                    assert!(tunnel.legs.iter().all(|l| usize::from(l.port) < self.ports.len()), "{tunnel:?}");
                    self.tunnels.insert(tunnel.id, tunnel);
                }
                FibOp::TunnelGone { id } => {
                    let user = self.labels.iter().find(|(_, t)| **t == SwitchTarget::Tunnel(id));
                    assert_eq!(user, None, "a tunnel is taken away from a label");
                    assert!(self.tunnels.remove(&id).is_some(), "{id:?}");
                }
                FibOp::Switch { label, target } => {
                    if let SwitchTarget::Tunnel(id) = target {
                        assert!(self.tunnels.contains_key(&id), "{label} leads to no tunnel");
                    }
                    self.labels.insert(label, target);
                }
                FibOp::SwitchGone { label } => assert!(self.labels.remove(&label).is_some(), "{label}"),
                op => panic!("not for a label-switching router: {op:?}"),
            }
        }
    }
}

/// The owner of a core: takes its actions and does as told.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) core: Core,
    pub(crate) tunnels: BTreeMap<Ipv4Addr, TunnelState>,
    pub(crate) table: Table,
}

impl Owner {
    pub(crate) fn new(config: Config) -> Self {
        Self::restarted(config, false)
    }

    pub(crate) fn restarted(config: Config, hold: bool) -> Self {
        Self { core: Core::new(config, hold), tunnels: BTreeMap::new(), table: Table::default() }
    }

    /// Works off what is to be done; the actions' names are returned.
    pub(crate) fn work(&mut self) -> Vec<Action> {
        let mut done = vec![];
        while let Some(action) = self.core.next_action() {
            match &action {
                Action::Tunnel(endpoint, Some(state)) => drop(self.tunnels.insert(*endpoint, state.clone())),
                Action::Tunnel(endpoint, None) => assert!(self.tunnels.remove(endpoint).is_some(), "{endpoint} is taken away twice"),
                Action::LabelMap => self.program(),
                _ => {}
            }
            done.push(action);
        }
        done
    }

    pub(crate) fn program(&mut self) {
        loop {
            let ops = self.core.lsr_ops(2);
            assert!(ops.len() <= 2);
            if ops.is_empty() {
                break;
            }
            self.table.apply(ops);
        }
    }

    /// Port, MAC address of the neighbour, and labels of each leg behind a label.
    pub(crate) fn behind(&self, l: u32) -> Vec<(u8, MacAddr, Vec<u32>)> {
        let legs = &self.table.tunnels[&TunnelId(l)].legs;
        legs.iter().map(|l| (l.port, l.destination_mac, l.transport.iter().map(|l| l.get()).collect())).collect()
    }

    /// MAC address of the neighbour and labels of each leg of a tunnel.
    pub(crate) fn legs(&self, endpoint: &str) -> Vec<(MacAddr, Vec<u32>)> {
        let legs = &self.tunnels[&ip(endpoint)].tunnel.legs;
        legs.iter().map(|l| (l.destination_mac, l.transport.iter().map(|l| l.get()).collect())).collect()
    }
}
