//! The tunnels of the core and their legs: what a frame into the core begins with.
//!
//! ```text
//! path, label ──► slot: tunnel ──► leg, leg, …: port, MACs, transport labels, count
//! ```
//! A tunnel's slot outlives the tunnel while paths or labels name it: a slot without a leg is a tunnel that is down, and
//! a new set of legs moves all prefixes behind it at once.

use crate::api;
use crate::routes::Generation;
use edgeplex_types::{Label, MacAddr, TunnelId};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// One of the equal-cost ways of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    pub source: MacAddr,
    pub destination: MacAddr,
    pub port: u8,
    depth: u8,
    labels: [Label; api::MAX_TRANSPORT_LABELS],
    /// What took it since it was programmed.
    pub count: api::Count,
}

impl Leg {
    fn new(leg: &api::Leg) -> Self {
        let mut labels = [Label::IPV4_EXPLICIT_NULL; api::MAX_TRANSPORT_LABELS];
        let mut depth = 0;
        for (to, from) in labels.iter_mut().zip(&leg.transport) {
            *to = *from;
            depth += 1;
        }
        Self { source: leg.source_mac, destination: leg.destination_mac, port: leg.port, depth, labels, count: api::Count::default() }
    }

    /// Transport labels, outermost first.
    #[inline]
    pub fn transport(&self) -> &[Label] {
        self.labels.get(..usize::from(self.depth)).unwrap_or_default()
    }

    fn show(&self) -> api::Leg {
        let transport = self.transport().to_vec();
        api::Leg { port: self.port, transport, source_mac: self.source, destination_mac: self.destination }
    }
}

/// A leg that was chosen, by number: valid until the FIB is programmed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    tunnel: u32,
    leg: u8,
}

#[derive(Debug)]
struct Slot {
    id: TunnelId,
    /// Paths and labels that name it.
    users: u32,
    /// Programmed and not gone, with legs or without.
    there: bool,
    renewed: Generation,
    endpoint: IpAddr,
    /// The first leg in place, since most tunnels have one.
    first: Option<Leg>,
    others: Box<[Leg]>,
}

impl Slot {
    fn legs(&self) -> impl Iterator<Item = &Leg> {
        self.first.iter().chain(&self.others)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_id: BTreeMap<TunnelId, u32>,
    there: usize,
    /// Legs beyond the first of each tunnel.
    others: usize,
}

impl Tunnels {
    /// Tunnels that were programmed.
    pub(crate) fn there(&self) -> usize {
        self.there
    }
    /// Tunnels that were programmed or that a path or label names.
    pub(crate) fn known(&self) -> usize {
        self.by_id.len()
    }
    pub(crate) fn is_known(&self, id: TunnelId) -> bool {
        self.by_id.contains_key(&id)
    }
    pub(crate) fn slot(&mut self, id: TunnelId) -> u32 {
        if let Some(n) = self.by_id.get(&id) {
            return *n;
        }
        let slot = Slot {
            id,
            users: 0,
            there: false,
            renewed: Generation::default(),
            endpoint: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            first: None,
            others: Box::default(),
        };
        let n = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Fib::check bounds the number of tunnels.
            u32::try_from(self.slots.len() - 1).unwrap_or(0)
        });
        self.slots[n as usize] = Some(slot);
        self.by_id.insert(id, n);
        n
    }
    #[inline]
    fn get(&self, n: u32) -> Option<&Slot> {
        self.slots.get(n as usize)?.as_ref()
    }
    #[inline]
    fn get_mut(&mut self, n: u32) -> Option<&mut Slot> {
        self.slots.get_mut(n as usize)?.as_mut()
    }

    /// A leg that stays keeps its count.
    pub(crate) fn set(&mut self, t: &api::Tunnel, renewed: Generation) {
        let n = self.slot(t.id);
        let Some(slot) = self.get_mut(n) else { return };
        let mut legs = t.legs.iter().map(|l| {
            let mut leg = Leg::new(l);
            leg.count = slot.legs().find(|old| old.show() == *l).map_or(leg.count, |old| old.count);
            leg
        });
        let (first, others): (_, Box<[Leg]>) = (legs.next(), legs.collect());
        let (before, after) = (slot.others.len(), others.len());
        let new = !std::mem::replace(&mut slot.there, true);
        (slot.first, slot.others) = (first, others);
        (slot.endpoint, slot.renewed) = (t.endpoint, renewed);
        self.there += usize::from(new);
        self.others = self.others + after - before;
    }

    pub(crate) fn gone(&mut self, id: TunnelId) {
        let Some(&n) = self.by_id.get(&id) else { return };
        if let Some(slot) = self.get_mut(n) {
            let was = std::mem::take(&mut slot.there);
            slot.first = None;
            let others = std::mem::take(&mut slot.others).len();
            self.there -= usize::from(was);
            self.others -= others;
        }
        self.free_unused(n);
    }

    /// One more path or label names this slot.
    pub(crate) fn hold(&mut self, n: u32) {
        if let Some(s) = self.get_mut(n) {
            s.users += 1;
        }
    }

    /// One less.
    pub(crate) fn release(&mut self, n: u32) {
        if let Some(s) = self.get_mut(n) {
            s.users -= 1;
        }
        self.free_unused(n);
    }

    fn free_unused(&mut self, n: u32) {
        if let Some(slot) = self.get(n)
            && slot.users == 0
            && !slot.there
        {
            self.by_id.remove(&slot.id.clone());
            self.slots[n as usize] = None;
            self.free.push(n);
        }
    }

    /// Looks at no more than `limit` slots from `from` on and takes down the tunnels last renewed before `since`.
    /// Returns where to go on, or `None` at the end.
    pub(crate) fn sweep(&mut self, from: usize, limit: usize, since: Generation) -> Option<usize> {
        let slots = self.slots.get(from..).unwrap_or_default();
        let stale = |s: &&Slot| s.there && s.renewed.is_before(since);
        let ids: Vec<_> = slots.iter().take(limit).flatten().filter(stale).map(|s| s.id).collect();
        let more = slots.len() > limit;
        ids.into_iter().for_each(|id| self.gone(id));
        more.then_some(from + limit)
    }

    pub(crate) fn is_up(&self, n: u32) -> bool {
        self.get(n).is_some_and(|s| s.first.is_some())
    }

    /// The leg for a flow, if there is any. Uses the lower half of its hash.
    #[inline]
    pub(crate) fn choose(&self, n: u32, flow: impl FnOnce() -> u64) -> Option<Way> {
        let slot = self.get(n)?;
        slot.first.as_ref()?;
        let leg = if slot.others.is_empty() { 0 } else { share(flow(), slot.others.len() + 1) };
        // MAX_LEGS bounds it.
        Some(Way { tunnel: n, leg: u8::try_from(leg).unwrap_or(0) })
    }

    #[inline]
    pub(crate) fn leg(&self, w: Way) -> Option<&Leg> {
        let slot = self.get(w.tunnel)?;
        if w.leg == 0 { slot.first.as_ref() } else { slot.others.get(usize::from(w.leg) - 1) }
    }

    #[inline]
    pub(crate) fn leg_mut(&mut self, w: Way) -> Option<&mut Leg> {
        let slot = self.get_mut(w.tunnel)?;
        if w.leg == 0 { slot.first.as_mut() } else { slot.others.get_mut(usize::from(w.leg) - 1) }
    }

    pub(crate) fn id(&self, n: u32) -> Option<TunnelId> {
        Some(self.get(n)?.id)
    }

    /// Those that were programmed, by id.
    pub(crate) fn rows(&self) -> Vec<api::Tunnel> {
        let row = |s: &Slot| api::Tunnel { id: s.id, endpoint: s.endpoint, legs: s.legs().map(Leg::show).collect() };
        let there = |n: &u32| self.get(*n).filter(|s| s.there);
        self.by_id.values().filter_map(there).map(row).collect()
    }

    /// What each leg of these took, in the order of the legs.
    pub(crate) fn counts(&self) -> Vec<api::TunnelCount> {
        let there = |n: &u32| self.get(*n).filter(|s| s.there);
        let row = |s: &Slot| api::TunnelCount { id: s.id, legs: s.legs().map(|l| l.count).collect() };
        self.by_id.values().filter_map(there).map(row).collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Slot>>()
            + self.free.capacity() * 4
            + self.by_id.len() * 2 * size_of::<(TunnelId, u32)>()
            + self.others * size_of::<Leg>()
    }
}

/// Multiply-shift on the lower 32 bits: an even share of all hashes for each of `n`.
#[inline]
pub(crate) fn share(hash: u64, n: usize) -> usize {
    usize::try_from(((hash & 0xffff_ffff) * n as u64) >> 32).unwrap_or(0)
}
