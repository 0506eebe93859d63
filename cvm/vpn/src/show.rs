//! Views for the operator.

use crate::{
    attachment::Attachment,
    endpoints::tunnel_id,
    engine::{Slot, Vpn},
    feed::MAX_TOGETHER,
    labels::LabelState,
    paths::{Path, Source, split},
    rib::Key,
};
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::Tunnel;
use edgeplex_types::{AttachmentId, Label, Rd, TunnelId};
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// Who told us of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    /// With its path identifier (RFC 7911), 0 where the reflector sends one path only.
    Reflector(Ipv4Addr, u32),
    Attachment(AttachmentId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    pub rd: Rd,
    pub prefix: IpNet,
    pub from: Learned,
    pub best: bool,
    /// Used together with the best.
    pub multipath: bool,
    /// Used when nothing else can be.
    pub backup: bool,
    pub stale: bool,
    pub next_hop: Ipv4Addr,
    pub label: Label,
    /// The tunnel it goes through, while there is a way.
    pub tunnel: Option<TunnelId>,
    pub attributes: Arc<Attributes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentView {
    pub id: AttachmentId,
    pub rd: Rd,
    pub label: Option<Label>,
    /// Of the instance that speaks for the customer.
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
    /// The CE it leads to; otherwise the VRF.
    pub next_hop: Option<IpAddr>,
    pub rd: Rd,
    pub state: LabelState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelView {
    pub endpoint: Ipv4Addr,
    pub id: TunnelId,
    /// What the core said of it last.
    pub tunnel: Option<Tunnel>,
    pub cost: Option<u32>,
    /// Paths that lead to it, those of our own attachments included.
    pub paths: u64,
}

impl<P: Clone + Eq> Vpn<P> {
    /// Prefixes (RD and prefix) in the table.
    pub fn routes(&self) -> u64 {
        self.rib.table.len() as u64
    }

    pub fn show_attachments(&self) -> Vec<AttachmentView> {
        let view = |(id, slot): (&AttachmentId, &Slot)| {
            let a = self.rib.attachments.get(slot)?;
            let speaker = self.sessions.speaker(*slot).and_then(|conn| self.sessions.get(conn));
            Some(AttachmentView {
                id: id.clone(),
                rd: a.config.rd,
                label: a.label.or(a.config.label),
                session_up: speaker.is_some(),
                customer_routes: a.routes.len() as u64,
                vpn_routes: speaker.map_or(0, |s| s.feed.told_routes()),
                over_limit: a.over_limit,
            })
        };
        self.slots.iter().filter_map(view).collect()
    }

    pub fn show_labels(&self) -> Vec<LabelView> {
        let view = |(label, owner, rd, state): (Label, &crate::labels::Owner, Rd, LabelState)| LabelView {
            label,
            attachment: owner.attachment.clone(),
            next_hop: owner.next_hop,
            rd,
            state,
        };
        self.labels.iter().map(view).collect()
    }

    pub fn show_tunnels(&self) -> Vec<TunnelView> {
        let own: usize = self.rib.attachments.values().map(|a| a.exported.len()).sum();
        let tunnels = self.rib.endpoints.iter().map(|(endpoint, uses, state)| TunnelView {
            endpoint,
            id: tunnel_id(endpoint),
            tunnel: state.map(|s| s.tunnel.clone()),
            cost: state.map(|s| s.cost),
            // Our own loopback is wanted even without a path.
            paths: if endpoint == self.config.loopback { own as u64 } else { uses },
        });
        tunnels.collect()
    }

    /// Routes of the whole table, or those that one attachment exports and imports; not best or not usable ones included. In
    /// the table best, multipath and backup are among the paths of one RD; in a VRF among all that are imported.
    pub fn show_routes(&self, attachment: Option<&AttachmentId>) -> Vec<RouteView> {
        let mut out = vec![];
        match attachment {
            Some(id) => {
                let Some((slot, a)) = self.slots.get(id).and_then(|s| Some((*s, self.rib.attachments.get(s)?))) else { return out };
                for prefix in a.exported.keys() {
                    out.extend(self.rib.own(&(a.config.rd, *prefix)).map(|p| self.view(*prefix, &p, true, false, false)));
                }
                let mut prefixes: Vec<IpNet> = a.vrf.iter().map(|(prefix, _)| *prefix).collect();
                prefixes.dedup();
                for prefix in prefixes {
                    self.views(prefix, &self.rib.candidates(slot, prefix), a.config.max_paths, &mut out);
                }
            }
            None => {
                let local = |a: &Attachment| a.exported.keys().map(|prefix| (a.config.rd, *prefix)).collect::<Vec<Key>>();
                let mut keys: Vec<Key> = self.rib.attachments.values().flat_map(local).chain(self.rib.table.keys().copied()).collect();
                keys.sort_unstable();
                keys.dedup();
                for key in keys {
                    self.views(key.1, &self.rib.paths(key).collect::<Vec<_>>(), MAX_TOGETHER, &mut out);
                }
            }
        }
        out.sort_by_key(|r| (r.prefix, r.rd, r.next_hop, !r.best));
        out
    }

    fn views(&self, prefix: IpNet, paths: &[Path], most: u8, out: &mut Vec<RouteView>) {
        let (used, backup) = split(paths, most);
        let best = used.first();
        out.extend(paths.iter().map(|p| self.view(prefix, p, best == Some(p), used.iter().skip(1).any(|u| u == p), backup.contains(p))));
    }

    fn view(&self, prefix: IpNet, path: &Path, best: bool, multipath: bool, backup: bool) -> RouteView {
        let (from, stale) = match path.source {
            Source::Reflector(rr, path_id) => {
                let received = self.rib.table.get(&(path.rd, prefix)).into_iter().flat_map(|e| &e.paths);
                let received = received.filter(|p| (p.reflector, p.path_id) == (rr, path_id));
                let stale = |r: &crate::reflector::Reflector| received.clone().any(|p| r.is_stale(p));
                (Learned::Reflector(rr, path_id), self.rib.reflectors.get(&rr).is_some_and(stale))
            }
            Source::Attachment(slot) => {
                let a = self.rib.attachments.get(&slot);
                let speaker = self.sessions.speaker(slot).and_then(|conn| self.sessions.get(conn));
                let renewing = speaker.is_some_and(|s| s.receiving.is_some());
                let stale = a.is_some_and(|a| a.stale_since.is_some() && (a.routes.is_stale(&prefix, a.epoch) || !renewing));
                // An attachment has a name as long as it has routes.
                let id = self.slots.iter().find(|(_, s)| **s == slot).map(|(id, _)| id.clone());
                (id.map_or(Learned::Reflector(path.endpoint, 0), Learned::Attachment), stale)
            }
        };
        RouteView {
            rd: path.rd,
            prefix,
            from,
            best,
            multipath,
            backup,
            stale,
            next_hop: path.endpoint,
            label: path.label,
            tunnel: path.cost.map(|_| tunnel_id(path.endpoint)),
            attributes: path.attributes.clone(),
        }
    }
}
