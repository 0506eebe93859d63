//! What the CVM says: tunnels, VPN routes with their paths, and the label under which the core knows this VRF.
//! Survives the relay's sessions; a new snapshot sweeps what it does not renew.

use crate::attributes;
use edgeplex_bgp_wire::Attributes;
use edgeplex_ff_fib_api::Tunnel;
use edgeplex_relay::{EpochMap, Sync, VpnOp};
use edgeplex_types::{Epoch, Label, TunnelId};
use ipnet::{IpNet, Ipv4Net};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
};

/// Path attributes as they came, and as the CE will get them; shared by all routes that have the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SharedAttributes {
    pub(crate) received: Attributes,
    pub(crate) to_customer: Arc<Attributes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VpnPath {
    pub(crate) label: Label,
    pub(crate) tunnel: TunnelId,
    pub(crate) attributes: Arc<SharedAttributes>,
}

/// What a message from the CVM changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) prefixes: Vec<Ipv4Net>,
    pub(crate) tunnels: Vec<TunnelId>,
    pub(crate) own_label: bool,
    /// The snapshot is complete.
    pub(crate) ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct VpnTable {
    epoch: Option<Epoch>,
    pub(crate) own_label: Option<Label>,
    pub(crate) tunnels: EpochMap<TunnelId, Tunnel>,
    pub(crate) routes: EpochMap<Ipv4Net, Arc<[VpnPath]>>,
    /// Prefixes with a path through a tunnel that is not here; empty unless the CVM breaks the order of its stream.
    waiting: BTreeMap<TunnelId, BTreeSet<Ipv4Net>>,
    interner: Interner,
    /// Paths left out because their attributes did not decode.
    pub(crate) undecodable: u64,
}

impl VpnTable {
    pub(crate) fn is_stale(&self, prefix: &Ipv4Net) -> bool {
        self.epoch.is_some_and(|e| self.routes.is_stale(prefix, e))
    }

    /// Paths of a prefix that can carry packets, best first.
    pub(crate) fn usable(&self, prefix: &Ipv4Net) -> impl Iterator<Item = &VpnPath> {
        self.routes.get(prefix).into_iter().flat_map(|p| p.iter()).filter(|p| self.tunnels.get(&p.tunnel).is_some())
    }

    pub(crate) fn take(&mut self, local_as: u32, sync: Sync<VpnOp>) -> Changed {
        let mut changed = Changed::default();
        match sync {
            Sync::Begin { epoch } => self.epoch = Some(epoch),
            Sync::Ops { epoch, ops } if self.epoch == Some(epoch) => {
                for op in ops {
                    self.op(local_as, epoch, op, &mut changed);
                }
            }
            Sync::End { epoch } if self.epoch == Some(epoch) => {
                changed.prefixes.extend(self.routes.sweep(epoch).into_iter().map(|(p, _)| p));
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

    fn op(&mut self, local_as: u32, epoch: Epoch, op: VpnOp, changed: &mut Changed) {
        match op {
            VpnOp::OwnLabel { label } => {
                changed.own_label |= self.own_label != Some(label);
                self.own_label = Some(label);
            }
            VpnOp::Tunnel(t) => {
                let id = t.id;
                let tunnel = Tunnel {
                    id,
                    endpoint: t.endpoint,
                    transport: t.transport,
                    source_mac: t.source_mac,
                    destination_mac: t.destination_mac,
                };
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
            VpnOp::Route { prefix: IpNet::V4(prefix), paths } => {
                let paths: Arc<[VpnPath]> = paths.into_iter().filter_map(|p| self.path(local_as, p)).collect();
                for p in paths.iter().filter(|p| self.tunnels.get(&p.tunnel).is_none()) {
                    self.waiting.entry(p.tunnel).or_default().insert(prefix);
                }
                if self.routes.insert(epoch, prefix, paths) {
                    changed.prefixes.push(prefix);
                }
            }
            VpnOp::Withdraw { prefix: IpNet::V4(prefix) } => {
                if self.routes.remove(&prefix).is_some() {
                    changed.prefixes.push(prefix);
                }
            }
            // IPv6 VPN routes are not asked for.
            VpnOp::Route { .. } | VpnOp::Withdraw { .. } => {}
        }
    }

    /// Routes that still use a tunnel which is gone lose those paths. Rare: the CVM moves the routes first.
    fn tunnel_lost(&mut self, id: TunnelId, changed: &mut Changed) {
        changed.tunnels.push(id);
        let users: BTreeSet<Ipv4Net> =
            self.routes.iter().filter(|(_, paths)| paths.iter().any(|p| p.tunnel == id)).map(|(p, _)| *p).collect();
        if !users.is_empty() {
            changed.prefixes.extend(users.iter().copied());
            self.waiting.insert(id, users);
        }
    }

    fn path(&mut self, local_as: u32, path: edgeplex_relay::VpnPath) -> Option<VpnPath> {
        let attributes = self.interner.get(local_as, &path.attributes);
        if attributes.is_none() {
            self.undecodable += 1;
        }
        Some(VpnPath { label: path.label, tunnel: path.tunnel, attributes: attributes? })
    }
}

/// One copy of each attribute set in use, found by its bytes.
#[derive(Debug, Default)]
struct Interner {
    by_bytes: HashMap<Box<[u8]>, Weak<SharedAttributes>>,
    /// Size at which the entries that nobody uses any more are dropped.
    clean_at: usize,
}

impl Interner {
    fn get(&mut self, local_as: u32, bytes: &[u8]) -> Option<Arc<SharedAttributes>> {
        if let Some(found) = self.by_bytes.get(bytes).and_then(Weak::upgrade) {
            return Some(found);
        }
        let received = Attributes::from_bytes(bytes).ok()?;
        let to_customer = Arc::new(attributes::to_customer(&received, local_as));
        let shared = Arc::new(SharedAttributes { received, to_customer });
        if self.by_bytes.len() >= self.clean_at.max(64) {
            self.by_bytes.retain(|_, w| w.strong_count() > 0);
            self.clean_at = self.by_bytes.len() * 2;
        }
        self.by_bytes.insert(bytes.into(), Arc::downgrade(&shared));
        Some(shared)
    }
}
