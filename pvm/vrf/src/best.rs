//! The best route of one prefix.

use crate::{
    VrfConfig, attributes,
    neighbors::{CustomerPath, NeighborRib},
    vpn::{VpnRoute, VpnTable},
};
use edgeplex_bgp::decision::{self, Candidate, Origin, better};
use edgeplex_bgp_wire::Attributes;
use edgeplex_ff_fib_api as fib;
use edgeplex_types::Community;
use ipnet::IpNet;
use std::{
    cmp::Ordering,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

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

/// The best route of a prefix: what the outputs are derived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Best {
    Local,
    Connected,
    Static {
        via: IpAddr,
    },
    Customer {
        from: IpAddr,
        next_hop: IpAddr,
        attributes: Arc<Attributes>,
    },
    /// What the CVM chose, as far as its tunnels are here; never without paths.
    Vpn(VpnRoute),
}

/// A route as it is exported to the CVM: its attributes, and the CE it leads to.
pub(crate) type Exported = (Arc<Attributes>, Option<IpAddr>);

impl Best {
    pub(crate) fn source(&self) -> Source {
        match self {
            Self::Local => Source::Local,
            Self::Connected => Source::Connected,
            Self::Static { .. } => Source::Static,
            Self::Customer { .. } => Source::Customer,
            Self::Vpn(_) => Source::Vpn,
        }
    }

    /// The FIB's entry.
    pub(crate) fn target(&self) -> fib::Target {
        let path = |p: &crate::vpn::VpnPath| fib::VpnPath { label: p.label, tunnel: p.tunnel };
        match self {
            Self::Local => fib::Target::Local,
            Self::Connected => fib::Target::Connected,
            Self::Static { via: next_hop } | Self::Customer { next_hop, .. } => fib::Target::Customer { next_hop: *next_hop },
            Self::Vpn(route) => {
                fib::Target::Vpn { paths: route.paths.iter().map(path).collect(), backup: route.backup.iter().map(path).collect() }
            }
        }
    }

    /// What the CVM gets; `None` if it is not for the CVM.
    pub(crate) fn export(&self) -> Option<Exported> {
        match self {
            Self::Connected => Some((attributes::redistributed(), None)),
            Self::Static { via } => Some((attributes::redistributed(), Some(*via))),
            // RFC 1997: NO_ADVERTISE is for no peer at all.
            Self::Customer { attributes, .. } if attributes.communities.contains(&Community::NO_ADVERTISE.0) => None,
            Self::Customer { attributes, next_hop, .. } => Some((attributes.clone(), Some(*next_hop))),
            Self::Local | Self::Vpn(_) => None,
        }
    }

    /// What the CEs get, and which of them it came from; `None` if it is for none.
    pub(crate) fn to_customer(&self) -> Option<(Option<IpAddr>, &Arc<Attributes>)> {
        match self {
            Self::Vpn(route) => route.paths.first().map(|p| (None, &p.attributes)),
            Self::Customer { from, attributes, .. } => Some((Some(*from), attributes)),
            _ => None,
        }
    }
}

/// The best of everything known about `prefix`.
pub(crate) fn select(
    config: &VrfConfig,
    statics: Option<IpAddr>,
    neighbors: &BTreeMap<IpAddr, NeighborRib>,
    vpn: &VpnTable,
    prefix: IpNet,
) -> Option<Best> {
    if config.own().any(|own| own == prefix) {
        return Some(Best::Local);
    }
    if config.subnets().any(|subnet| subnet == prefix) {
        return Some(Best::Connected);
    }
    if let Some(via) = statics {
        return Some(Best::Static { via });
    }
    let core = vpn.usable(&prefix, config.max_paths.min(fib::MAX_PATHS));
    let Some((candidate, path)) = customer(neighbors, prefix) else { return core.map(Best::Vpn) };
    if let Some(core) = core.filter(|core| core.paths.first().is_some_and(|first| !wins(&candidate, &first.attributes))) {
        return Some(Best::Vpn(core));
    }
    Some(Best::Customer { from: candidate.peer_address, next_hop: path.next_hop, attributes: path.accepted.clone()? })
}

/// The best of what the CEs tell. One alone: FastForward has one next hop towards the customer, so equal paths of two CEs
/// are not used together; the other takes over when the best goes.
fn customer(neighbors: &BTreeMap<IpAddr, NeighborRib>, prefix: IpNet) -> Option<(Candidate<'_>, &CustomerPath)> {
    let known = neighbors.iter().filter_map(|(address, n)| {
        let path = n.accepted(&prefix)?;
        let attributes = path.accepted.as_deref()?;
        Some((
            Candidate { attributes, origin: Origin::Ebgp, igp_metric: 0, peer_id: path.router_id, peer_address: *address, path_id: 0 },
            path,
        ))
    });
    let (candidates, paths): (Vec<_>, Vec<_>) = known.unzip();
    let best = decision::best(&candidates)?;
    Some((*candidates.get(best)?, *paths.get(best)?))
}

/// The decision process between a CE's path and the best of the CVM's, which stands for an iBGP path.
fn wins(ce: &Candidate<'_>, core: &Attributes) -> bool {
    let core = Candidate {
        attributes: core,
        origin: Origin::Ibgp,
        igp_metric: 0,
        peer_id: Ipv4Addr::UNSPECIFIED,
        peer_address: Ipv4Addr::UNSPECIFIED.into(),
        path_id: 0,
    };
    // Never a tie: eBGP wins over iBGP (RFC 4271 §9.1.2.2 d) before the identifiers count.
    better(ce, &core) == Ordering::Greater
}
