//! What the CVM says: tunnels, VPN routes with their paths and backups, and the labels under which the core knows this VRF
//! and its CEs. Survives the relay's sessions; a new snapshot sweeps what it does not renew.

use edgeplex_bgp_wire::Attributes;
use edgeplex_ff_fib_api::{Leg, Tunnel};
use edgeplex_relay::{EpochMap, Sync, VpnOp};
use edgeplex_types::{Epoch, Label, TunnelId};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Weak},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VpnPath {
    pub(crate) label: Label,
    pub(crate) tunnel: TunnelId,
    /// As they came; shared by all routes that have the same.
    pub(crate) attributes: Arc<Attributes>,
}

/// The paths of a prefix, best first; as the CVM chose them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VpnRoute {
    pub(crate) paths: Vec<VpnPath>,
    pub(crate) backup: Vec<VpnPath>,
}

impl VpnRoute {
    /// All paths, those in use first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &VpnPath> {
        self.paths.iter().chain(&self.backup)
    }
}

/// What a message from the CVM changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) prefixes: Vec<IpNet>,
    pub(crate) tunnels: Vec<TunnelId>,
    pub(crate) labels: Vec<Label>,
    /// The snapshot is complete.
    pub(crate) ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct VpnTable {
    epoch: Option<Epoch>,
    /// What each label of ours stands for: this VRF, or a CE.
    pub(crate) own_labels: EpochMap<Label, Option<IpAddr>>,
    pub(crate) tunnels: EpochMap<TunnelId, Tunnel>,
    pub(crate) routes: EpochMap<IpNet, Arc<VpnRoute>>,
    /// Prefixes with a path through a tunnel that is not here; empty unless the CVM breaks the order of its stream.
    waiting: BTreeMap<TunnelId, BTreeSet<IpNet>>,
    interner: Interner,
    /// Paths left out because their attributes did not decode.
    pub(crate) undecodable: u64,
}

impl VpnTable {
    pub(crate) fn is_stale(&self, prefix: &IpNet) -> bool {
        self.epoch.is_some_and(|e| self.routes.is_stale(prefix, e))
    }

    /// What can be programmed of a prefix: paths through tunnels that are here, each once, at most `max` of them together.
    /// Where only backups are left, they are the paths. `None` if there is nothing.
    pub(crate) fn usable(&self, prefix: &IpNet, max: usize) -> Option<VpnRoute> {
        let route = self.routes.get(prefix)?;
        let mut seen = BTreeSet::new();
        let mut take = |paths: &[VpnPath], max: usize| -> Vec<VpnPath> {
            let here = paths.iter().filter(|p| self.tunnels.get(&p.tunnel).is_some());
            here.filter(|p| seen.insert((p.label, p.tunnel))).take(max).cloned().collect()
        };
        let paths = take(&route.paths, max);
        if paths.is_empty() {
            let paths = take(&route.backup, max);
            return (!paths.is_empty()).then_some(VpnRoute { paths, backup: vec![] });
        }
        let backup = take(&route.backup, max);
        Some(VpnRoute { paths, backup })
    }

    pub(crate) fn take(&mut self, sync: Sync<VpnOp>) -> Changed {
        let mut changed = Changed::default();
        match sync {
            Sync::Begin { epoch } => self.epoch = Some(epoch),
            Sync::Ops { epoch, ops } if self.epoch == Some(epoch) => {
                for op in ops {
                    self.op(epoch, op, &mut changed);
                }
            }
            Sync::End { epoch } if self.epoch == Some(epoch) => {
                changed.prefixes.extend(self.routes.sweep(epoch).into_iter().map(|(p, _)| p));
                changed.labels.extend(self.own_labels.sweep(epoch).into_iter().map(|(l, _)| l));
                let gone: Vec<_> = self.tunnels.sweep(epoch).into_iter().map(|(id, _)| id).collect();
                for id in gone {
                    self.tunnel_lost(id, &mut changed);
                }
                changed.ended = true;
            }
            // A piece of a snapshot that was given up.
            Sync::Ops { .. } | Sync::End { .. } => {}
        }
        changed
    }

    fn op(&mut self, epoch: Epoch, op: VpnOp, changed: &mut Changed) {
        match op {
            VpnOp::OwnLabel { label, next_hop } => {
                if self.own_labels.insert(epoch, label, next_hop) {
                    changed.labels.push(label);
                }
            }
            VpnOp::OwnLabelGone { label } => {
                if self.own_labels.remove(&label).is_some() {
                    changed.labels.push(label);
                }
            }
            VpnOp::Tunnel(t) => {
                let id = t.id;
                // The one core vNIC of a port VM is its port 0.
                let leg = |l: edgeplex_relay::Leg| Leg {
                    port: 0,
                    transport: l.transport,
                    source_mac: l.source_mac,
                    destination_mac: l.destination_mac,
                };
                let tunnel = Tunnel { id, endpoint: t.endpoint, legs: t.legs.into_iter().map(leg).collect() };
                if self.tunnels.insert(epoch, id, tunnel) {
                    changed.tunnels.push(id);
                    changed.prefixes.extend(self.waiting.remove(&id).into_iter().flatten());
                }
            }
            VpnOp::TunnelGone { id } => {
                if self.tunnels.remove(&id).is_some() {
                    self.tunnel_lost(id, changed);
                }
            }
            VpnOp::Route { prefix, paths, backup } => {
                let mut decoded = |paths: Vec<_>| paths.into_iter().filter_map(|p| self.path(p)).collect();
                let route = VpnRoute { paths: decoded(paths), backup: decoded(backup) };
                for p in route.iter().filter(|p| self.tunnels.get(&p.tunnel).is_none()) {
                    self.waiting.entry(p.tunnel).or_default().insert(prefix);
                }
                if self.routes.insert(epoch, prefix, Arc::new(route)) {
                    changed.prefixes.push(prefix);
                }
            }
            VpnOp::Withdraw { prefix } => {
                if self.routes.remove(&prefix).is_some() {
                    changed.prefixes.push(prefix);
                }
            }
        }
    }

    /// Routes that still use a tunnel which is gone lose those paths. Rare: the CVM moves the routes first.
    fn tunnel_lost(&mut self, id: TunnelId, changed: &mut Changed) {
        changed.tunnels.push(id);
        let users: BTreeSet<IpNet> =
            self.routes.iter().filter(|(_, route)| route.iter().any(|p| p.tunnel == id)).map(|(p, _)| *p).collect();
        if !users.is_empty() {
            changed.prefixes.extend(users.iter().copied());
            self.waiting.insert(id, users);
        }
    }

    fn path(&mut self, path: edgeplex_relay::VpnPath) -> Option<VpnPath> {
        let attributes = self.interner.get(&path.attributes);
        if attributes.is_none() {
            self.undecodable += 1;
        }
        Some(VpnPath { label: path.label, tunnel: path.tunnel, attributes: attributes? })
    }
}

/// One copy of each attribute set in use, found by its bytes.
#[derive(Debug, Default)]
struct Interner {
    by_bytes: HashMap<Box<[u8]>, Weak<Attributes>>,
    /// Size at which the entries that nobody uses any more are dropped.
    clean_at: usize,
}

impl Interner {
    fn get(&mut self, bytes: &[u8]) -> Option<Arc<Attributes>> {
        if let Some(found) = self.by_bytes.get(bytes).and_then(Weak::upgrade) {
            return Some(found);
        }
        let attributes = Arc::new(Attributes::from_bytes(bytes).ok()?);
        if self.by_bytes.len() >= self.clean_at.max(64) {
            self.by_bytes.retain(|_, w| w.strong_count() > 0);
            self.clean_at = self.by_bytes.len() * 2;
        }
        self.by_bytes.insert(bytes.into(), Arc::downgrade(&attributes));
        Some(attributes)
    }
}
