//! From a way to a leg: is the neighbour alive, where is it, and what does it want in front of the packet?

use crate::{
    config::{Config, Interface},
    rib::{Best, Rib, Source},
};
use edgeplex_ldp::Fec;
use edgeplex_types::{Label, MacAddr, NextHop};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

/// All that is known of the core.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) config: Config,
    pub(crate) rib: Rib,
    pub(crate) labels: Arc<BTreeMap<Ipv4Net, Fec>>,
    pub(crate) macs: BTreeMap<NextHop, MacAddr>,
    /// OSPF router identifier of adjacent neighbours.
    pub(crate) routers: BTreeMap<NextHop, Ipv4Addr>,
    pub(crate) dead: BTreeSet<NextHop>,
}

/// A way that can be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) hop: NextHop,
    pub(crate) port: u8,
    pub(crate) labels: Vec<Label>,
    pub(crate) source_mac: MacAddr,
    pub(crate) destination_mac: MacAddr,
}

/// Legs over the ways, and over the alternates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Legs {
    pub(crate) first: Vec<Leg>,
    pub(crate) backup: Vec<Leg>,
}

impl Legs {
    /// Those to use: the alternates when no way is left.
    pub(crate) fn used(&self) -> &[Leg] {
        if self.first.is_empty() { &self.backup } else { &self.first }
    }
}

impl Known {
    pub(crate) fn is_alive(&self, hop: &NextHop) -> bool {
        !self.dead.contains(hop)
    }

    /// To an endpoint of VPN routes, a label of its own below.
    pub(crate) fn to_endpoint(&self, endpoint: Ipv4Addr) -> Option<(&Best, Legs)> {
        let (prefix, best) = self.rib.lookup(endpoint)?;
        let legs = match best.source {
            Source::Own => Legs { first: self.to_ourselves().into_iter().collect(), backup: vec![] },
            Source::Connected => {
                let hop = self.config.connected(endpoint)?;
                Legs { first: self.leg(&hop, |_| Some(vec![])).into_iter().collect(), backup: vec![] }
            }
            Source::Static | Source::Ospf => {
                let leg = |hop| self.leg(hop, |interface| self.transport(prefix, best.source, endpoint, hop, interface));
                Legs { first: best.ways.iter().filter_map(leg).collect(), backup: best.backup.iter().filter_map(leg).collect() }
            }
        };
        Some((best, legs))
    }

    /// To a FEC, nothing known of what is below: every neighbour must have given a label.
    pub(crate) fn to_fec(&self, prefix: &Ipv4Net) -> Legs {
        let Some(best) = self.rib.get(prefix) else { return Legs::default() };
        let leg = |hop| self.leg(hop, |_| self.label(prefix, hop));
        Legs { first: best.ways.iter().filter_map(leg).collect(), backup: best.backup.iter().filter_map(leg).collect() }
    }

    /// To our own MAC address, where the switch looks at the label.
    fn to_ourselves(&self) -> Option<Leg> {
        let own = self.config.interfaces.first()?;
        let hop = NextHop { interface: own.name.clone(), address: own.address.addr() };
        Some(Leg { hop, port: 0, labels: vec![], source_mac: own.mac, destination_mac: own.mac })
    }

    fn leg(&self, hop: &NextHop, labels: impl FnOnce(&Interface) -> Option<Vec<Label>>) -> Option<Leg> {
        let port = self.config.interfaces.iter().position(|i| i.name == hop.interface)?;
        let interface = self.config.interfaces.get(port)?;
        let destination_mac = *self.macs.get(hop).filter(|_| self.is_alive(hop))?;
        let (port, labels) = (u8::try_from(port).ok()?, labels(interface)?);
        Some(Leg { hop: hop.clone(), port, labels, source_mac: interface.mac, destination_mac })
    }

    fn transport(&self, prefix: Ipv4Net, source: Source, endpoint: Ipv4Addr, hop: &NextHop, interface: &Interface) -> Option<Vec<Label>> {
        // The label of an aggregate leads to whoever aggregates, who knows nothing of the label below.
        let label = if prefix.prefix_len() == 32 { self.label(&prefix, hop) } else { None };
        let is_the_end = || hop.address == endpoint || self.routers.get(hop) == Some(&endpoint);
        match label {
            Some(labels) => Some(labels),
            None if is_the_end() => Some(vec![]),
            // Where nobody speaks LDP the operator says by the route that its gateway is the end.
            None if source == Source::Static && !interface.ldp => Some(vec![]),
            // RFC 4364 §5: without a label switched path all the way, a P router would take the VPN label for its own.
            None => None,
        }
    }

    /// What a neighbour wants in front of packets of a FEC.
    fn label(&self, prefix: &Ipv4Net, hop: &NextHop) -> Option<Vec<Label>> {
        let (_, label) = self.labels.get(prefix)?.hops.iter().find(|(h, _)| h == hop)?;
        match (*label)? {
            // RFC 3031 §3.16: penultimate hop popping.
            Label::IMPLICIT_NULL => Some(vec![]),
            Label::IPV4_EXPLICIT_NULL => Some(vec![Label::IPV4_EXPLICIT_NULL]),
            label if label.is_reserved() => None,
            label => Some(vec![label]),
        }
    }
}
