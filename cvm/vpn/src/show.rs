//! Views for the operator.

use crate::{
    core_net::Neighbor,
    engine::Vpn,
    feed::select,
    labels::LabelState,
    rib::{Learned, Path},
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::Tunnel;
use edgeplex_types::{AttachmentId, Label, Rd, TunnelId};
use ipnet::Ipv4Net;
use std::{net::Ipv4Addr, sync::Arc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    pub rd: Rd,
    pub prefix: Ipv4Net,
    pub from: Learned,
    pub best: bool,
    pub stale: bool,
    pub next_hop: Ipv4Addr,
    pub label: Label,
    pub tunnel: Option<TunnelId>,
    pub attributes: Arc<Attributes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentView {
    pub id: AttachmentId,
    pub rd: Rd,
    pub label: Option<Label>,
    pub session_up: bool,
    /// Customer routes, and VPN routes told to the PVM.
    pub customer_routes: u64,
    pub vpn_routes: u64,
    /// Customer routes refused since the limit on them was set: there were as many as are allowed.
    pub over_limit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelView {
    pub label: Label,
    pub attachment: AttachmentId,
    pub rd: Rd,
    pub state: LabelState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelView {
    pub endpoint: Ipv4Addr,
    pub id: TunnelId,
    pub neighbor: Option<Neighbor>,
    pub tunnel: Option<Tunnel>,
    pub paths: u64,
}

impl<P: Clone + Eq> Vpn<P> {
    /// Prefixes (RD and prefix) with a usable path.
    pub fn routes(&self) -> u64 {
        self.rib.best.len() as u64
    }

    pub fn show_attachments(&self) -> Vec<AttachmentView> {
        let view = |(id, slot): (&AttachmentId, &u32)| {
            let a = self.attachments.get(slot)?;
            let session = self.sessions.get(slot);
            Some(AttachmentView {
                id: id.clone(),
                rd: a.config.rd,
                label: a.label.or(a.config.label),
                session_up: session.is_some(),
                customer_routes: a.routes.len() as u64,
                vpn_routes: session.map_or(0, |s| s.feed.told_routes()),
                over_limit: a.over_limit,
            })
        };
        self.slots.iter().filter_map(view).collect()
    }

    pub fn show_labels(&self) -> Vec<LabelView> {
        self.labels.iter().map(|(label, owner, rd, state)| LabelView { label, attachment: owner.clone(), rd, state }).collect()
    }

    pub fn show_tunnels(&self) -> Vec<TunnelView> {
        let view = |(endpoint, neighbor, tunnel): (Ipv4Addr, Option<Neighbor>, Option<&Tunnel>)| {
            let local = if endpoint == self.config.loopback { self.attachments.values().map(|a| a.exported.len() as u64).sum() } else { 0 };
            TunnelView {
                endpoint,
                id: crate::core_net::tunnel_id(endpoint),
                neighbor,
                tunnel: tunnel.cloned(),
                paths: self.rib.paths_over(endpoint) + local,
            }
        };
        self.core.tunnels().map(view).collect()
    }

    /// Routes of the whole VPN RIB (those not best or not usable included), or those that one attachment exports and imports.
    pub fn show_routes(&self, attachment: Option<&AttachmentId>) -> Vec<RouteView> {
        let mut out = vec![];
        let slot = attachment.and_then(|id| self.slots.get(id));
        for (s, a) in &self.attachments {
            if attachment.is_some() && slot != Some(s) {
                continue;
            }
            for (prefix, attributes) in &a.exported {
                let Some(label) = a.label else { continue };
                let key = (a.config.rd, *prefix);
                let from = Learned::Attachment(a.config.id.clone());
                let best = self.rib.best.get(&key).is_some_and(|p| p.from == from);
                out.push(RouteView {
                    rd: key.0,
                    prefix: *prefix,
                    from,
                    best,
                    stale: a.stale_since.is_some() && a.routes.is_stale(prefix, a.epoch)
                        || a.stale_since.is_some() && !self.sessions.contains_key(s),
                    next_hop: self.config.loopback,
                    label,
                    tunnel: self.core.tunnel(self.config.loopback).map(|t| t.id),
                    attributes: attributes.clone(),
                });
            }
            if attachment.is_some() {
                for (prefix, paths) in &a.vrf {
                    let chosen = select(&self.core, paths).map(|(p, _)| p.rd);
                    out.extend(paths.values().map(|p| self.view(*prefix, p, chosen == Some(p.rd))));
                }
            }
        }
        if attachment.is_none() {
            for (rr, reflector) in &self.rib.reflectors {
                for (key, route) in reflector.routes.iter() {
                    let path = Path {
                        rd: key.0,
                        from: Learned::Reflector(*rr),
                        endpoint: route.next_hop,
                        label: route.label,
                        attributes: route.attributes.clone(),
                    };
                    let best = self.rib.best.get(key).is_some_and(|b| b.from == path.from);
                    out.push(self.view(key.1, &path, best));
                }
            }
        }
        out.sort_by_key(|r| (r.prefix, r.rd, r.next_hop, !r.best));
        out
    }

    fn view(&self, prefix: Ipv4Net, path: &Path, best: bool) -> RouteView {
        let stale = match &path.from {
            Learned::Reflector(rr) => {
                self.rib.reflectors.get(rr).is_some_and(|r| r.session.is_none() || r.routes.is_stale(&(path.rd, prefix), r.epoch))
            }
            Learned::Attachment(id) => self.slots.get(id).is_some_and(|s| !self.sessions.contains_key(s)),
        };
        RouteView {
            rd: path.rd,
            prefix,
            from: path.from.clone(),
            best,
            stale,
            next_hop: path.endpoint,
            label: path.label,
            tunnel: self.core.tunnel(path.endpoint).map(|t| t.id),
            attributes: path.attributes.clone(),
        }
    }
}
