//! The form in which routes are shown to people.

use crate::{
    best::{Best, Source},
    vpn::VpnPath,
    vrf::Vrf,
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_types::{Label, TunnelId};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr};

/// One route as the RIB holds it, for `edgeplex show routes`.
#[derive(Debug, Clone)]
pub struct RouteView<'a> {
    pub prefix: IpNet,
    pub source: Source,
    pub best: bool,
    /// Used together with the best.
    pub multipath: bool,
    /// Preinstalled for when no path in use has a way out.
    pub backup: bool,
    pub stale: bool,
    pub next_hop: Option<IpAddr>,
    pub label: Option<Label>,
    pub tunnel: Option<TunnelId>,
    pub attributes: Option<&'a Attributes>,
}

impl RouteView<'_> {
    fn plain(prefix: IpNet, source: Source) -> Self {
        Self {
            prefix,
            source,
            best: false,
            multipath: false,
            backup: false,
            stale: false,
            next_hop: None,
            label: None,
            tunnel: None,
            attributes: None,
        }
    }
}

impl Vrf {
    /// Every route of every source that its policy accepts, in prefix order; of one prefix in the order of [`Source`].
    pub fn routes(&self) -> Vec<RouteView<'_>> {
        let mut rows = vec![];
        for (prefix, best) in &self.best {
            if let Best::Local | Best::Connected = best {
                rows.push(RouteView { best: true, ..RouteView::plain(*prefix, best.source()) });
            }
        }
        for s in &self.config.statics {
            let best = self.best.get(&s.prefix) == Some(&Best::Static { via: s.via });
            rows.push(RouteView { best, next_hop: Some(s.via), ..RouteView::plain(s.prefix, Source::Static) });
        }
        for (address, neighbor) in &self.neighbors {
            for (prefix, path, stale) in neighbor.routes() {
                rows.push(RouteView {
                    best: matches!(self.best.get(prefix), Some(Best::Customer { from, .. }) if from == address),
                    stale,
                    next_hop: Some(path.next_hop),
                    attributes: path.accepted.as_deref(),
                    ..RouteView::plain(*prefix, Source::Customer)
                });
            }
        }
        for (prefix, route) in self.vpn.routes.iter() {
            let used = if let Some(Best::Vpn(used)) = self.best.get(prefix) { Some(used) } else { None };
            let is = |path: &VpnPath, of: &[VpnPath]| of.iter().any(|p| (p.label, p.tunnel) == (path.label, path.tunnel));
            let mut seen = BTreeSet::new();
            for path in route.iter().filter(|p| seen.insert((p.label, p.tunnel))) {
                let best = used.and_then(|u| u.paths.first()).is_some_and(|p| is(path, std::slice::from_ref(p)));
                let multipath = !best && used.is_some_and(|u| is(path, &u.paths));
                rows.push(RouteView {
                    best,
                    multipath,
                    backup: !best && !multipath && used.is_some_and(|u| is(path, &u.backup)),
                    stale: self.vpn.is_stale(prefix),
                    next_hop: self.vpn.tunnels.get(&path.tunnel).map(|t| t.endpoint),
                    label: Some(path.label),
                    tunnel: Some(path.tunnel),
                    attributes: Some(&path.attributes),
                    ..RouteView::plain(*prefix, Source::Vpn)
                });
            }
        }
        rows.sort_by_key(|r| (r.prefix, r.source));
        rows
    }
}
