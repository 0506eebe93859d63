//! Views for the operator.

use crate::{
    engine::Core,
    lsr::LabelAction,
    rib::Source,
    ways::{Leg, Legs},
};
use edgeplex_types::{Label, MacAddr, NextHop, TunnelId};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegView {
    pub hop: NextHop,
    pub mac: MacAddr,
    pub labels: Vec<Label>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelView {
    pub id: TunnelId,
    pub endpoint: Ipv4Addr,
    /// Of the route; none where there is no route.
    pub source: Option<Source>,
    pub cost: Option<u32>,
    /// In use: over the route's ways, or over its alternates when there is no other.
    pub legs: Vec<LegView>,
    /// Kept ready.
    pub backup: Vec<LegView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardingView {
    pub label: Label,
    pub prefix: Ipv4Net,
    pub legs: Vec<LegView>,
}

fn view(legs: &[Leg]) -> Vec<LegView> {
    legs.iter().map(|l| LegView { hop: l.hop.clone(), mac: l.destination_mac, labels: l.labels.clone() }).collect()
}

/// In use, and kept ready.
fn views(legs: &Legs) -> (Vec<LegView>, Vec<LegView>) {
    let ready = if legs.first.is_empty() { &[][..] } else { &legs.backup };
    (view(legs.used()), view(ready))
}

impl Core {
    /// One for each wanted endpoint.
    pub fn show_tunnels(&self) -> Vec<TunnelView> {
        let row = |endpoint: &Ipv4Addr| {
            let way = self.known.to_endpoint(*endpoint);
            let (legs, backup) = way.as_ref().map(|(_, legs)| views(legs)).unwrap_or_default();
            TunnelView {
                id: TunnelId(endpoint.to_bits()),
                endpoint: *endpoint,
                source: way.as_ref().map(|(best, _)| best.source),
                cost: way.as_ref().map(|(best, _)| best.cost),
                legs,
                backup,
            }
        };
        self.endpoints.iter().map(row).collect()
    }

    /// FECs that end here, by what LDP says.
    pub fn egress_fecs(&self) -> impl Iterator<Item = Ipv4Net> {
        self.known.labels.iter().filter(|(_, fec)| fec.egress).map(|(prefix, _)| *prefix)
    }

    /// The ways in use into the LSP of a FEC, with our MAC address on each.
    pub fn lsp(&self, prefix: &Ipv4Net) -> Vec<(LegView, MacAddr)> {
        let legs = self.known.to_fec(prefix);
        view(legs.used()).into_iter().zip(legs.used().iter().map(|l| l.source_mac)).collect()
    }

    /// The incoming label map.
    pub fn show_forwarding(&self) -> Vec<ForwardingView> {
        let row = |(label, entry): (&Label, &crate::lsr::Entry)| {
            let legs = match &entry.action {
                LabelAction::Pop => vec![],
                LabelAction::Swap(legs) => view(legs.used()),
            };
            ForwardingView { label: *label, prefix: entry.prefix, legs }
        };
        self.lsr.entries().iter().map(row).collect()
    }
}
