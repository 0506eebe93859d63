//! What routes point to: targets with their path lists, each kept once and counted, and the tunnels behind paths.
//!
//! ```text
//! route ──► target (one for all routes alike) ──► path: VPN label, tunnel slot ──► tunnel: MACs, transport labels
//! ```
//! A tunnel's slot outlives the tunnel while paths name it: an empty slot is a tunnel that is down, and filling it
//! moves all prefixes behind it at once.

use crate::api;
use crate::routes::Generation;
use edgeplex_types::{Label, MacAddr, TunnelId};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    pub label: Label,
    tunnel: u32,
}

/// [`api::Target`], resolved to slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forward {
    /// One path in place, since most routes have one; the others of an ECMP group behind it.
    Vpn {
        first: Path,
        others: Box<[Path]>,
    },
    Customer(Ipv4Addr),
    Connected,
    Local,
    Unreachable,
}

impl Forward {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let (first, others) = match self {
            Self::Vpn { first, others } => (Some(first), &others[..]),
            _ => (None, &[][..]),
        };
        first.into_iter().chain(others)
    }
    fn others(&self) -> usize {
        if let Self::Vpn { others, .. } = self { others.len() } else { 0 }
    }
}

/// What a frame into the core begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    pub source: MacAddr,
    pub destination: MacAddr,
    labels: [Label; api::MAX_TRANSPORT_LABELS],
    depth: u8,
}

impl Rewrite {
    /// Transport labels, outermost first.
    pub fn transport(&self) -> &[Label] {
        self.labels.get(..usize::from(self.depth)).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Slot {
    id: TunnelId,
    /// Paths that name it.
    paths: u32,
    rewrite: Option<Rewrite>,
    endpoint: IpAddr,
    renewed: Generation,
}

#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_id: BTreeMap<TunnelId, u32>,
    up: usize,
}

impl Tunnels {
    pub(crate) fn up(&self) -> usize {
        self.up
    }
    /// Tunnels that are up or that a path names.
    pub(crate) fn known(&self) -> usize {
        self.by_id.len()
    }
    pub(crate) fn is_known(&self, id: TunnelId) -> bool {
        self.by_id.contains_key(&id)
    }
    fn slot(&mut self, id: TunnelId) -> u32 {
        if let Some(n) = self.by_id.get(&id) {
            return *n;
        }
        let slot = Some(Slot { id, paths: 0, rewrite: None, endpoint: IpAddr::V4(Ipv4Addr::UNSPECIFIED), renewed: Generation::default() });
        let n = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Fib::check bounds the number of tunnels.
            u32::try_from(self.slots.len() - 1).unwrap_or(0)
        });
        self.slots[n as usize] = slot;
        self.by_id.insert(id, n);
        n
    }
    fn get_mut(&mut self, n: u32) -> Option<&mut Slot> {
        self.slots.get_mut(n as usize)?.as_mut()
    }
    pub(crate) fn set(&mut self, t: &api::Tunnel, renewed: Generation) {
        let n = self.slot(t.id);
        let mut labels = [Label::IPV4_EXPLICIT_NULL; api::MAX_TRANSPORT_LABELS];
        let mut depth = 0;
        for (to, from) in labels.iter_mut().zip(&t.transport) {
            *to = *from;
            depth += 1;
        }
        let rewrite = Rewrite { source: t.source_mac, destination: t.destination_mac, labels, depth };
        if let Some(slot) = self.get_mut(n) {
            slot.endpoint = t.endpoint;
            slot.renewed = renewed;
            if slot.rewrite.replace(rewrite).is_none() {
                self.up += 1;
            }
        }
    }
    pub(crate) fn gone(&mut self, id: TunnelId) {
        if let Some(&n) = self.by_id.get(&id) {
            if self.get_mut(n).and_then(|s| s.rewrite.take()).is_some() {
                self.up -= 1;
            }
            self.release(n, 0);
        }
    }
    /// Takes `paths` references off a slot and frees it when neither paths nor a tunnel are left.
    fn release(&mut self, n: u32, paths: u32) {
        let Some(slot) = self.get_mut(n) else { return };
        slot.paths -= paths;
        if slot.paths == 0 && slot.rewrite.is_none() {
            let id = slot.id;
            self.by_id.remove(&id);
            self.slots[n as usize] = None;
            self.free.push(n);
        }
    }
    /// Looks at no more than `limit` slots from `from` on and takes down the tunnels last renewed before `since`.
    /// Returns where to go on, or `None` at the end.
    pub(crate) fn sweep(&mut self, from: usize, limit: usize, since: Generation) -> Option<usize> {
        let slots = self.slots.get(from..).unwrap_or_default();
        let stale = |s: &&Slot| s.rewrite.is_some() && s.renewed.is_before(since);
        let ids: Vec<_> = slots.iter().take(limit).flatten().filter(stale).map(|s| s.id).collect();
        let more = slots.len() > limit;
        ids.into_iter().for_each(|id| self.gone(id));
        more.then_some(from + limit)
    }
    pub(crate) fn rewrite(&self, path: &Path) -> Option<&Rewrite> {
        self.slots.get(path.tunnel as usize)?.as_ref()?.rewrite.as_ref()
    }
    fn id(&self, path: &Path) -> Option<TunnelId> {
        Some(self.slots.get(path.tunnel as usize)?.as_ref()?.id)
    }
    /// Those that are up, by id.
    pub(crate) fn rows(&self) -> Vec<api::Tunnel> {
        let row = |s: &Slot| {
            let r = s.rewrite?;
            let transport = r.transport().to_vec();
            Some(api::Tunnel { id: s.id, endpoint: s.endpoint, transport, source_mac: r.source, destination_mac: r.destination })
        };
        let mut rows: Vec<_> = self.slots.iter().flatten().filter_map(row).collect();
        rows.sort_unstable_by_key(|t| t.id);
        rows
    }
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Slot>>() + self.free.capacity() * 4 + self.by_id.len() * 2 * size_of::<(TunnelId, u32)>()
    }
}

#[derive(Debug)]
struct Entry {
    forward: Forward,
    routes: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Targets {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Ordered, not hashed: a hash table that grows is a pause.
    ids: BTreeMap<Forward, u32>,
    /// Paths of all entries beyond their first.
    others: usize,
}

impl Targets {
    pub(crate) fn get(&self, n: u32) -> Option<&Forward> {
        self.entries.get(n as usize)?.as_ref().map(|e| &e.forward)
    }

    /// Different targets.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The number of this target, with one more route counted on it. `None` for what is not IPv4.
    pub(crate) fn acquire(&mut self, target: &api::Target, tunnels: &mut Tunnels) -> Option<u32> {
        let forward = match target {
            api::Target::Vpn { paths } => {
                let mut resolved = paths.iter().map(|p| Path { label: p.label, tunnel: tunnels.slot(p.tunnel) });
                Forward::Vpn { first: resolved.next()?, others: resolved.collect() }
            }
            api::Target::Customer { next_hop: IpAddr::V4(a) } => Forward::Customer(*a),
            api::Target::Customer { next_hop: IpAddr::V6(_) } => return None,
            api::Target::Connected => Forward::Connected,
            api::Target::Local => Forward::Local,
            api::Target::Unreachable => Forward::Unreachable,
        };
        if let Some(n) = self.ids.get(&forward) {
            if let Some(Some(e)) = self.entries.get_mut(*n as usize) {
                e.routes += 1;
            }
            return Some(*n);
        }
        for p in forward.paths() {
            if let Some(s) = tunnels.get_mut(p.tunnel) {
                s.paths += 1;
            }
        }
        let n = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            // Fib::check bounds the number of routes, and with it that of targets.
            u32::try_from(self.entries.len() - 1).unwrap_or(0)
        });
        self.others += forward.others();
        self.ids.insert(forward.clone(), n);
        self.entries[n as usize] = Some(Entry { forward, routes: 1 });
        Some(n)
    }

    /// One route less on this target; without any it goes, and its references to tunnels.
    pub(crate) fn release(&mut self, n: u32, tunnels: &mut Tunnels) {
        let Some(place) = self.entries.get_mut(n as usize) else { return };
        let Some(entry) = place else { return };
        entry.routes -= 1;
        if entry.routes == 0
            && let Some(entry) = place.take()
        {
            entry.forward.paths().for_each(|p| tunnels.release(p.tunnel, 1));
            self.others -= entry.forward.others();
            self.ids.remove(&entry.forward);
            self.free.push(n);
        }
    }

    pub(crate) fn show(&self, n: u32, tunnels: &Tunnels) -> Option<api::Target> {
        let forward = self.get(n)?;
        let path = |p: &Path| Some(api::VpnPath { label: p.label, tunnel: tunnels.id(p)? });
        Some(match forward {
            Forward::Vpn { .. } => api::Target::Vpn { paths: forward.paths().filter_map(path).collect() },
            Forward::Customer(a) => api::Target::Customer { next_hop: (*a).into() },
            Forward::Connected => api::Target::Connected,
            Forward::Local => api::Target::Local,
            Forward::Unreachable => api::Target::Unreachable,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<Entry>>()
            + self.free.capacity() * 4
            + self.ids.len() * 2 * size_of::<(Forward, u32)>()
            + self.others * 2 * size_of::<Path>()
    }
}
