//! What one PVM is told: a snapshot, then deltas, as fast as it grants credits.
//!
//! Changes are remembered as dirty prefixes, never as messages: whatever a slow PVM misses coalesces, and its cost is bounded
//! by the size of its table. What to say is decided when it is said.

use crate::{
    core_net::{CoreNet, tunnel_id},
    rib::Path,
};
use edgeplex_bgp::decision;
use edgeplex_bgp_wire::Attributes;
use edgeplex_relay::{MAX_OPS, Sync, Tunnel, VpnOp, VpnPath, WINDOW};
use edgeplex_types::{Epoch, Label, Rd, TunnelId};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

/// The paths imported into one VRF: for each prefix the best of every RD.
pub(crate) type Vrf = BTreeMap<Ipv4Net, BTreeMap<Rd, Arc<Path>>>;

/// Attributes in one message, about, bytes: well within a message's limit.
const MESSAGE_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fresh,
    Snapshot,
    Live,
}

#[derive(Debug, Clone)]
pub(crate) struct Feed {
    epoch: Epoch,
    stage: Stage,
    credits: u32,
    dirty: BTreeSet<Ipv4Net>,
    dirty_tunnels: BTreeSet<Ipv4Addr>,
    told_label: Option<Label>,
    told: BTreeMap<Ipv4Net, TunnelId>,
    /// Tunnels told, and how many told prefixes use each.
    tunnels: BTreeMap<TunnelId, (Tunnel, u64)>,
}

/// The path of a prefix that goes to the PVM: the best across RDs whose tunnel is up.
pub(crate) fn select<'a>(core: &'a CoreNet, paths: &'a BTreeMap<Rd, Arc<Path>>) -> Option<(&'a Arc<Path>, &'a Tunnel)> {
    let usable: Vec<_> = paths.values().filter_map(|p| core.tunnel(p.endpoint).map(|t| (p, t))).collect();
    let candidates: Vec<_> = usable.iter().map(|(p, _)| p.candidate()).collect();
    usable.get(decision::best(&candidates)?).copied()
}

impl Feed {
    pub(crate) fn new(epoch: Epoch, vrf: &Vrf) -> Self {
        Self {
            epoch,
            stage: Stage::Fresh,
            credits: 0,
            dirty: vrf.keys().copied().collect(),
            dirty_tunnels: BTreeSet::new(),
            told_label: None,
            told: BTreeMap::new(),
            tunnels: BTreeMap::new(),
        }
    }

    pub(crate) fn grant(&mut self, credits: u32) {
        // More than the window would only let a peer fill our queues.
        self.credits = self.credits.saturating_add(credits).min(WINDOW);
    }

    pub(crate) fn prefix_changed(&mut self, prefix: Ipv4Net) {
        self.dirty.insert(prefix);
    }

    pub(crate) fn tunnel_changed(&mut self, endpoint: Ipv4Addr) {
        if self.tunnels.contains_key(&tunnel_id(endpoint)) {
            self.dirty_tunnels.insert(endpoint);
        }
    }

    pub(crate) fn told_routes(&self) -> u64 {
        self.told.len() as u64
    }

    /// The next message, if there is something to say and a credit for it. `complete`: nothing that belongs into the
    /// snapshot is still to come.
    pub(crate) fn next(&mut self, core: &CoreNet, vrf: &Vrf, label: Option<Label>, complete: bool) -> Option<Sync<VpnOp>> {
        let epoch = self.epoch;
        if self.stage == Stage::Fresh {
            self.stage = Stage::Snapshot;
            return Some(Sync::Begin { epoch });
        }
        if self.credits > 0 {
            let ops = self.ops(core, vrf, label);
            if !ops.is_empty() {
                self.credits -= 1;
                return Some(Sync::Ops { epoch, ops });
            }
        }
        let said = self.dirty.is_empty() && self.dirty_tunnels.is_empty() && (label.is_none() || self.told_label == label);
        if self.stage == Stage::Snapshot && complete && said {
            self.stage = Stage::Live;
            return Some(Sync::End { epoch });
        }
        None
    }

    fn ops(&mut self, core: &CoreNet, vrf: &Vrf, label: Option<Label>) -> Vec<VpnOp> {
        let mut ops = vec![];
        let mut bytes = 0;
        if let Some(label) = label.filter(|l| self.told_label != Some(*l)) {
            self.told_label = Some(label);
            ops.push(VpnOp::OwnLabel { label });
        }
        while ops.len() < MAX_OPS
            && let Some(endpoint) = self.dirty_tunnels.pop_first()
        {
            // A tunnel that is down changes nothing here: its paths leave one by one, and it goes with the last.
            if let (Some((told, _)), Some(tunnel)) = (self.tunnels.get_mut(&tunnel_id(endpoint)), core.tunnel(endpoint))
                && told != tunnel
            {
                *told = tunnel.clone();
                ops.push(VpnOp::Tunnel(tunnel.clone()));
            }
        }
        // Routes of one UPDATE share their attributes: encode them once.
        let mut last: Option<(Arc<Attributes>, Vec<u8>)> = None;
        // One prefix takes three operations at most: tunnel, route, old tunnel gone.
        while ops.len() + 3 <= MAX_OPS
            && bytes < MESSAGE_BYTES
            && let Some(prefix) = self.dirty.pop_first()
        {
            let old = self.told.get(&prefix).copied();
            match vrf.get(&prefix).and_then(|paths| select(core, paths)) {
                Some((path, tunnel)) => {
                    let entry = self.tunnels.entry(tunnel.id).or_insert_with(|| {
                        ops.push(VpnOp::Tunnel(tunnel.clone()));
                        (tunnel.clone(), 0)
                    });
                    if entry.0 != *tunnel {
                        entry.0 = tunnel.clone();
                        ops.push(VpnOp::Tunnel(tunnel.clone()));
                    }
                    entry.1 += 1;
                    let attributes = match &last {
                        Some((of, encoded)) if Arc::ptr_eq(of, &path.attributes) => encoded.clone(),
                        _ => path.attributes.to_bytes(),
                    };
                    bytes += attributes.len();
                    last = Some((path.attributes.clone(), attributes.clone()));
                    let paths = vec![VpnPath { label: path.label, tunnel: tunnel.id, attributes }];
                    ops.push(VpnOp::Route { prefix: prefix.into(), paths });
                    self.told.insert(prefix, tunnel.id);
                }
                None if old.is_some() => {
                    self.told.remove(&prefix);
                    ops.push(VpnOp::Withdraw { prefix: prefix.into() });
                }
                None => {}
            }
            if let Some(id) = old
                && let Some(entry) = self.tunnels.get_mut(&id)
            {
                entry.1 -= 1;
                if entry.1 == 0 {
                    self.tunnels.remove(&id);
                    ops.push(VpnOp::TunnelGone { id });
                }
            }
        }
        ops
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
