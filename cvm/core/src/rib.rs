//! The routes of the core, the best of each prefix: connected segments, then static routes, then OSPF.

use crate::config::Config;
use edgeplex_ospf::Route;
use edgeplex_types::NextHop;
use ipnet::Ipv4Net;
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Where a way comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The loopback: between attachments of this PE.
    Own,
    Connected,
    Static,
    Ospf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Best {
    pub(crate) source: Source,
    pub(crate) cost: u32,
    /// Of equal cost; none for what is our own.
    pub(crate) ways: Vec<NextHop>,
    /// Loop-free alternates (RFC 5286).
    pub(crate) backup: Vec<NextHop>,
}

impl Best {
    fn own(source: Source) -> Self {
        Self { source, cost: 0, ways: vec![], backup: vec![] }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rib(BTreeMap<Ipv4Net, Best>);

impl Rib {
    pub(crate) fn new(config: &Config, ospf: &BTreeMap<Ipv4Net, Route>) -> Self {
        let mut best = BTreeMap::new();
        for (prefix, route) in ospf.iter().filter(|(_, r)| !r.connected) {
            let known = |hop: &&NextHop| config.interface(&hop.interface).is_some();
            let ways: Vec<NextHop> = route.next_hops.iter().filter(known).cloned().collect();
            let backup = route.backup.iter().filter(known).filter(|hop| !ways.contains(hop)).cloned().collect();
            if !ways.is_empty() {
                best.insert(prefix.trunc(), Best { source: Source::Ospf, cost: route.cost, ways, backup });
            }
        }
        let mut fixed: BTreeMap<Ipv4Net, Best> = BTreeMap::new();
        for route in &config.static_routes {
            if let Some(hop) = config.connected(route.via) {
                let ways = &mut fixed.entry(route.prefix.trunc()).or_insert_with(|| Best::own(Source::Static)).ways;
                if !ways.contains(&hop) {
                    ways.push(hop);
                }
            }
        }
        best.append(&mut fixed);
        best.extend(config.interfaces.iter().map(|i| (i.address.trunc(), Best::own(Source::Connected))));
        best.insert(config.loopback.into(), Best::own(Source::Own));
        Self(best)
    }

    pub(crate) fn get(&self, prefix: &Ipv4Net) -> Option<&Best> {
        self.0.get(prefix)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Ipv4Net, &Best)> {
        self.0.iter()
    }

    /// Longest match.
    pub(crate) fn lookup(&self, address: Ipv4Addr) -> Option<(Ipv4Net, &Best)> {
        (0..=32).rev().find_map(|length| {
            let prefix = Ipv4Net::new(address, length).ok()?.trunc();
            Some((prefix, self.0.get(&prefix)?))
        })
    }

    /// What LDP is to give labels to, and the neighbours whose labels are needed for it. The default route is no FEC: a label
    /// for it would draw what has a better way elsewhere.
    pub(crate) fn fecs(&self) -> BTreeMap<Ipv4Net, Vec<NextHop>> {
        let fecs = self.0.iter().filter(|(prefix, _)| prefix.prefix_len() > 0);
        fecs.map(|(prefix, best)| (*prefix, best.ways.iter().chain(&best.backup).cloned().collect())).collect()
    }
}
