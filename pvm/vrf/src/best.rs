//! The best route of one prefix, and the form in which each route is shown.

use crate::{
    VrfConfig, attributes,
    vpn::{VpnPath, VpnTable},
};
use edgeplex_bgp::decision::{Candidate, Origin, better};
use edgeplex_bgp_wire::Attributes;
use edgeplex_ff_fib_api as fib;
use edgeplex_types::{Label, TunnelId};
use ipnet::Ipv4Net;
use std::{cmp::Ordering, net::Ipv4Addr, sync::Arc};

/// Where a route comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The PE's own address.
    Local,
    Connected,
    Static,
    Customer,
    Vpn,
}

/// One route as the RIB holds it, for `edgeplex show routes`.
#[derive(Debug, Clone)]
pub struct RouteView<'a> {
    pub prefix: Ipv4Net,
    pub source: Source,
    pub best: bool,
    pub stale: bool,
    pub next_hop: Option<Ipv4Addr>,
    pub label: Option<Label>,
    pub tunnel: Option<TunnelId>,
    pub attributes: Option<&'a Attributes>,
}

/// A route learnt from the CE, after the import checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CustomerPath {
    pub(crate) next_hop: Ipv4Addr,
    pub(crate) attributes: Arc<Attributes>,
}

/// The best route of a prefix: what the outputs are derived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Best {
    Local,
    Connected,
    Static {
        via: Ipv4Addr,
    },
    Customer(CustomerPath),
    /// One path, or several that are equally good; the first is the best.
    Vpn(Vec<VpnPath>),
}

impl Best {
    pub(crate) fn source(&self) -> Source {
        match self {
            Self::Local => Source::Local,
            Self::Connected => Source::Connected,
            Self::Static { .. } => Source::Static,
            Self::Customer(_) => Source::Customer,
            Self::Vpn(_) => Source::Vpn,
        }
    }

    /// The FIB's entry.
    pub(crate) fn target(&self) -> fib::Target {
        match self {
            Self::Local => fib::Target::Local,
            Self::Connected => fib::Target::Connected,
            Self::Static { via } => fib::Target::Customer { next_hop: (*via).into() },
            Self::Customer(path) => fib::Target::Customer { next_hop: path.next_hop.into() },
            Self::Vpn(paths) => {
                fib::Target::Vpn { paths: paths.iter().map(|p| fib::VpnPath { label: p.label, tunnel: p.tunnel }).collect() }
            }
        }
    }

    /// Attributes under which the CVM gets the route; `None` if it is not for the CVM.
    pub(crate) fn export(&self) -> Option<Arc<Attributes>> {
        match self {
            Self::Connected | Self::Static { .. } => Some(attributes::redistributed()),
            Self::Customer(path) => Some(path.attributes.clone()),
            Self::Local | Self::Vpn(_) => None,
        }
    }

    /// Attributes under which the CE gets the route; `None` if it is not for the CE.
    pub(crate) fn to_customer(&self) -> Option<&Arc<Attributes>> {
        match self {
            Self::Vpn(paths) => paths.first().map(|p| &p.attributes.to_customer),
            _ => None,
        }
    }
}

/// The best of everything known about `prefix`.
pub(crate) fn select(
    config: &VrfConfig,
    statics: Option<Ipv4Addr>,
    customer: Option<&CustomerPath>,
    vpn: &VpnTable,
    prefix: Ipv4Net,
) -> Option<Best> {
    if prefix == config.own() {
        return Some(Best::Local);
    }
    if prefix == config.subnet() {
        return Some(Best::Connected);
    }
    if let Some(via) = statics {
        return Some(Best::Static { via });
    }
    let core = vpn.usable(&prefix).next();
    match (customer, core) {
        (None, None) => None,
        (Some(ce), None) => Some(Best::Customer(ce.clone())),
        (Some(ce), Some(core)) if customer_wins(config, ce, core) => Some(Best::Customer(ce.clone())),
        (_, Some(first)) => Some(Best::Vpn(multipath(vpn, prefix, first))),
    }
}

/// The decision process between the CE's path and the best of the CVM's, which stands for an iBGP path.
fn customer_wins(config: &VrfConfig, ce: &CustomerPath, core: &VpnPath) -> bool {
    let address = config.customer.map_or(ce.next_hop, |c| c.address);
    let ce = Candidate { attributes: &ce.attributes, origin: Origin::Ebgp, igp_metric: 0, peer_id: address, peer_address: address.into() };
    let core = Candidate {
        attributes: &core.attributes.received,
        origin: Origin::Ibgp,
        igp_metric: 0,
        peer_id: Ipv4Addr::UNSPECIFIED,
        peer_address: Ipv4Addr::UNSPECIFIED.into(),
    };
    // Never a tie: eBGP wins over iBGP (RFC 4271 §9.1.2.2 d) before the identifiers count.
    better(&ce, &core) == Ordering::Greater
}

/// The first path and those that tie with it before the tie-breakers; the CVM sends paths best first.
fn multipath(vpn: &VpnTable, prefix: Ipv4Net, first: &VpnPath) -> Vec<VpnPath> {
    let a = &first.attributes.received;
    let mut out: Vec<VpnPath> = vec![];
    for p in vpn.usable(&prefix).take(fib::MAX_PATHS) {
        let b = &p.attributes.received;
        let equal = a.local_pref == b.local_pref && a.as_path == b.as_path && a.origin == b.origin && a.med == b.med;
        if equal && !out.iter().any(|o| (o.label, o.tunnel) == (p.label, p.tunnel)) {
            out.push(p.clone());
        }
    }
    out
}
