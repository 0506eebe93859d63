//! What one PVM is told: a snapshot, then deltas, as fast as it grants credits.
//!
//! Changes are remembered as dirty prefixes, never as messages: whatever a slow PVM misses coalesces, and its cost is bounded
//! by the size of its table. What to say is decided when it is said, and what it was already told is not said again.

use crate::{
    attachment::Attachment,
    endpoints::tunnel_id,
    engine::Slot,
    paths::{Choice, Chosen, LLGR_STALE, choose},
    rib::Rib,
};
use edgeplex_relay::{MAX_ATTRIBUTES, MAX_OPS, Sync, Tunnel, VpnOp, VpnPath, WINDOW};
use edgeplex_types::{Epoch, Label, Rd};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    ops::Bound,
    sync::Arc,
};

/// Attributes in one message, about, bytes: well within a message's limit.
const MESSAGE_BYTES: usize = 256 << 10;
/// Paths used together, at most; as many again as backups.
pub(crate) const MAX_TOGETHER: u8 = 16;
/// Operations that one prefix can take: the tunnels of its paths and backups, the route, the tunnels it used before.
const OPS_OF_PREFIX: usize = 4 * MAX_TOGETHER as usize + 1;

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
    /// The VRF is said from this prefix on (behind it, if there is one): what is changed there waits for its turn.
    round: Option<Option<IpNet>>,
    dirty: BTreeSet<IpNet>,
    dirty_tunnels: BTreeSet<Ipv4Addr>,
    labels: BTreeMap<Label, Option<IpAddr>>,
    told: BTreeMap<IpNet, Arc<Choice>>,
    /// Tunnels told, and how many times told prefixes name each.
    tunnels: BTreeMap<Ipv4Addr, (Tunnel, u64)>,
}

impl Feed {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            stage: Stage::Fresh,
            credits: 0,
            round: Some(None),
            dirty: BTreeSet::new(),
            dirty_tunnels: BTreeSet::new(),
            labels: BTreeMap::new(),
            told: BTreeMap::new(),
            tunnels: BTreeMap::new(),
        }
    }

    pub(crate) fn grant(&mut self, credits: u32) {
        // More than the window would only let a peer fill our queues.
        self.credits = self.credits.saturating_add(credits).min(WINDOW);
    }

    pub(crate) fn prefix_changed(&mut self, prefix: IpNet) {
        let to_come = self.round.is_some_and(|after| after.is_none_or(|after| prefix > after));
        // What was told and is no longer in the VRF would not be met there.
        if !to_come || self.told.contains_key(&prefix) {
            self.dirty.insert(prefix);
        }
    }

    /// Everything in the VRF is looked at again.
    pub(crate) fn all_changed(&mut self) {
        self.round = Some(None);
    }

    pub(crate) fn tunnel_changed(&mut self, endpoint: Ipv4Addr) -> bool {
        self.tunnels.contains_key(&endpoint) && self.dirty_tunnels.insert(endpoint)
    }

    pub(crate) fn told_routes(&self) -> u64 {
        self.told.len() as u64
    }

    /// The snapshot has ended.
    pub(crate) fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// Whether there is something to look at and a credit to say it.
    pub(crate) fn is_busy(&self) -> bool {
        self.credits > 0 && !(self.round.is_none() && self.dirty.is_empty())
    }

    /// The next message, if there is something to say and a credit for it. `complete`: nothing that belongs into the
    /// snapshot is still to come. `looks`: how many prefixes may yet be looked at.
    pub(crate) fn next(&mut self, rib: &Rib, slot: Slot, complete: bool, looks: &mut usize) -> Option<Sync<VpnOp>> {
        let attachment = rib.attachments.get(&slot)?;
        let epoch = self.epoch;
        if self.stage == Stage::Fresh {
            self.stage = Stage::Snapshot;
            return Some(Sync::Begin { epoch });
        }
        if self.credits > 0 {
            let ops = self.ops(rib, slot, attachment, looks);
            if !ops.is_empty() {
                self.credits -= 1;
                return Some(Sync::Ops { epoch, ops });
            }
        }
        let said = self.round.is_none()
            && self.dirty.is_empty()
            && self.dirty_tunnels.is_empty()
            && attachment.labels().collect::<BTreeMap<_, _>>() == self.labels;
        if self.stage == Stage::Snapshot && complete && said {
            self.stage = Stage::Live;
            return Some(Sync::End { epoch });
        }
        None
    }

    fn ops(&mut self, rib: &Rib, slot: Slot, attachment: &Attachment, looks: &mut usize) -> Vec<VpnOp> {
        let mut ops = vec![];
        self.label_ops(attachment, &mut ops);
        while ops.len() < MAX_OPS
            && let Some(endpoint) = self.dirty_tunnels.pop_first()
        {
            self.tell_tunnel(rib, endpoint, &mut ops);
        }
        let mut bytes = 0;
        // Routes of one UPDATE share their paths: encode them once.
        let mut last: Option<(Arc<Choice>, Vec<VpnPath>, Vec<VpnPath>)> = None;
        while ops.len() + OPS_OF_PREFIX <= MAX_OPS
            && bytes < MESSAGE_BYTES
            && *looks > 0
            && let Some(prefix) = self.next_prefix(attachment)
        {
            *looks -= 1;
            let choice = choose(&rib.candidates(slot, prefix), attachment.config.max_paths.clamp(1, MAX_TOGETHER));
            let old = self.told.get(&prefix).cloned();
            if choice == *old.as_deref().unwrap_or(&Choice::default()) {
                continue;
            }
            if choice.paths.is_empty() {
                self.told.remove(&prefix);
                ops.push(VpnOp::Withdraw { prefix });
            } else {
                let said = match last.take() {
                    Some(last) if *last.0 == choice => last,
                    _ => {
                        let (paths, backup) = (encode(&choice.paths), encode(&choice.backup));
                        (Arc::new(choice), paths, backup)
                    }
                };
                for endpoint in said.0.endpoints() {
                    self.use_tunnel(rib, endpoint, &mut ops);
                }
                bytes += said.1.iter().chain(&said.2).map(|p| p.attributes.len()).sum::<usize>();
                ops.push(VpnOp::Route { prefix, paths: said.1.clone(), backup: said.2.clone() });
                self.told.insert(prefix, said.0.clone());
                last = Some(said);
            }
            for endpoint in old.iter().flat_map(|old| old.endpoints()) {
                self.leave_tunnel(endpoint, &mut ops);
            }
        }
        ops
    }

    fn label_ops(&mut self, attachment: &Attachment, ops: &mut Vec<VpnOp>) {
        let labels: BTreeMap<Label, Option<IpAddr>> = attachment.labels().collect();
        let new = labels.iter().filter(|(label, next_hop)| self.labels.get(label) != Some(next_hop));
        ops.extend(new.map(|(label, next_hop)| VpnOp::OwnLabel { label: *label, next_hop: *next_hop }));
        let gone = self.labels.keys().filter(|label| !labels.contains_key(label));
        ops.extend(gone.map(|label| VpnOp::OwnLabelGone { label: *label }));
        self.labels = labels;
    }

    /// A prefix to look at: changed, or next in the round.
    fn next_prefix(&mut self, attachment: &Attachment) -> Option<IpNet> {
        if let Some(prefix) = self.dirty.pop_first() {
            return Some(prefix);
        }
        let after = self.round?;
        let from = after.map_or(Bound::Unbounded, |prefix| Bound::Excluded((prefix, Rd([0xff; 8]))));
        let next = attachment.vrf.range((from, Bound::Unbounded)).next().map(|(prefix, _)| *prefix);
        self.round = next.map(Some);
        next
    }

    /// A tunnel that is known there is another one now, or out of reach.
    fn tell_tunnel(&mut self, rib: &Rib, endpoint: Ipv4Addr, ops: &mut Vec<VpnOp>) {
        let Some((told, _)) = self.tunnels.get_mut(&endpoint) else { return };
        let tunnel = rib.endpoints.tunnel(endpoint);
        if *told != tunnel {
            told.clone_from(&tunnel);
            ops.push(VpnOp::Tunnel(tunnel));
        }
    }

    fn use_tunnel(&mut self, rib: &Rib, endpoint: Ipv4Addr, ops: &mut Vec<VpnOp>) {
        if let Some((_, uses)) = self.tunnels.get_mut(&endpoint) {
            *uses += 1;
        } else {
            let tunnel = rib.endpoints.tunnel(endpoint);
            ops.push(VpnOp::Tunnel(tunnel.clone()));
            self.tunnels.insert(endpoint, (tunnel, 1));
        }
    }

    fn leave_tunnel(&mut self, endpoint: Ipv4Addr, ops: &mut Vec<VpnOp>) {
        if let Some((_, uses)) = self.tunnels.get_mut(&endpoint) {
            *uses -= 1;
            if *uses == 0 {
                self.tunnels.remove(&endpoint);
                self.dirty_tunnels.remove(&endpoint);
                ops.push(VpnOp::TunnelGone { id: tunnel_id(endpoint) });
            }
        }
    }
}

fn encode(paths: &[Chosen]) -> Vec<VpnPath> {
    paths.iter().map(|p| VpnPath { label: p.label, tunnel: tunnel_id(p.endpoint), attributes: attributes(p) }).collect()
}

/// RFC 9494 §4.3: what is kept through a long outage is told with that community, if it fits.
fn attributes(path: &Chosen) -> Vec<u8> {
    if path.long_lived && !path.attributes.communities.contains(&LLGR_STALE) {
        let mut marked = edgeplex_bgp_wire::Attributes::clone(&path.attributes);
        marked.communities.push(LLGR_STALE);
        let bytes = marked.to_bytes();
        if bytes.len() <= MAX_ATTRIBUTES {
            return bytes;
        }
    }
    path.attributes.to_bytes()
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
