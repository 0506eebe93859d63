//! What routes point to: targets with their path lists, each kept once and counted.
//!
//! ```text
//! route ──► target (one for all routes alike) ──► paths, backups: VPN label, tunnel slot
//! ```

use crate::api;
use crate::tunnels::Tunnels;
use edgeplex_types::Label;
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path {
    pub(crate) label: Label,
    pub(crate) tunnel: u32,
}

/// [`api::Target`], resolved to slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forward {
    Vpn(Paths),
    Customer(IpAddr),
    Connected,
    Local,
    Unreachable,
}

/// One path in place, since most routes have one; behind it the others of an ECMP group, then the backups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Paths {
    pub(crate) first: Path,
    rest: Box<[Path]>,
    /// How many of `rest` are no backups.
    others: u8,
}

impl Paths {
    /// Paths, the first among them.
    pub(crate) fn count(&self) -> usize {
        usize::from(self.others) + 1
    }
    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        self.others == 0
    }
    pub(crate) fn nth(&self, n: usize) -> Option<&Path> {
        n.checked_sub(1).map_or(Some(&self.first), |n| self.rest.get(n))
    }
    pub(crate) fn active(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.first).chain(self.rest.iter().take(self.others.into()))
    }
    pub(crate) fn backups(&self) -> &[Path] {
        self.rest.get(self.others.into()..).unwrap_or_default()
    }
}

impl Forward {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let paths = if let Self::Vpn(p) = self { Some(p) } else { None };
        paths.into_iter().flat_map(|p| std::iter::once(&p.first).chain(&p.rest))
    }
    /// Paths on the heap.
    fn rest(&self) -> usize {
        if let Self::Vpn(p) = self { p.rest.len() } else { 0 }
    }
}

#[derive(Debug)]
struct Entry {
    forward: Forward,
    users: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Targets {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Ordered, not hashed: a hash table that grows is a pause.
    ids: BTreeMap<Forward, u32>,
    /// Paths of all entries beyond their first.
    rest: usize,
}

impl Targets {
    pub(crate) fn get(&self, n: u32) -> Option<&Forward> {
        self.entries.get(n as usize)?.as_ref().map(|e| &e.forward)
    }

    /// Different targets.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The number of this target, with one more route or label counted on it. `None` for a VPN without a path.
    pub(crate) fn acquire(&mut self, target: &api::Target, tunnels: &mut Tunnels) -> Option<u32> {
        let forward = match target {
            api::Target::Vpn { paths, backup } => {
                let others = u8::try_from(paths.len().checked_sub(1)?).ok()?;
                let mut all = paths.iter().chain(backup).map(|p| Path { label: p.label, tunnel: tunnels.slot(p.tunnel) });
                Forward::Vpn(Paths { first: all.next()?, rest: all.collect(), others })
            }
            api::Target::Customer { next_hop } => Forward::Customer(*next_hop),
            api::Target::Connected => Forward::Connected,
            api::Target::Local => Forward::Local,
            api::Target::Unreachable => Forward::Unreachable,
        };
        if let Some(n) = self.ids.get(&forward) {
            if let Some(Some(e)) = self.entries.get_mut(*n as usize) {
                e.users += 1;
            }
            return Some(*n);
        }
        forward.paths().for_each(|p| tunnels.hold(p.tunnel));
        let n = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            // Fib::check bounds the number of routes, and with it that of targets.
            u32::try_from(self.entries.len() - 1).unwrap_or(0)
        });
        self.rest += forward.rest();
        self.ids.insert(forward.clone(), n);
        self.entries[n as usize] = Some(Entry { forward, users: 1 });
        Some(n)
    }

    /// One route or label less on this target; without any it goes, and its references to tunnels.
    pub(crate) fn release(&mut self, n: u32, tunnels: &mut Tunnels) {
        let Some(place) = self.entries.get_mut(n as usize) else { return };
        let Some(entry) = place else { return };
        entry.users -= 1;
        if entry.users == 0
            && let Some(entry) = place.take()
        {
            entry.forward.paths().for_each(|p| tunnels.release(p.tunnel));
            self.rest -= entry.forward.rest();
            self.ids.remove(&entry.forward);
            self.free.push(n);
        }
    }

    pub(crate) fn show(&self, n: u32, tunnels: &Tunnels) -> Option<api::Target> {
        let path = |p: &Path| Some(api::VpnPath { label: p.label, tunnel: tunnels.id(p.tunnel)? });
        Some(match self.get(n)? {
            Forward::Vpn(p) => {
                let (paths, backup) = (p.active().filter_map(path).collect(), p.backups().iter().filter_map(path).collect());
                api::Target::Vpn { paths, backup }
            }
            Forward::Customer(a) => api::Target::Customer { next_hop: *a },
            Forward::Connected => api::Target::Connected,
            Forward::Local => api::Target::Local,
            Forward::Unreachable => api::Target::Unreachable,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<Entry>>()
            + self.free.capacity() * 4
            + self.ids.len() * 2 * size_of::<(Forward, u32)>()
            + self.rest * 2 * size_of::<Path>()
    }
}
