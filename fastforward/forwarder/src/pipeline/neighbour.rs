//! The hosts on the attachment's subnets: resolved by ARP or neighbour discovery, confirmed again before they grow old.
//!
//! ```text
//!   (none) ──packet──► asked for, up to 3 packets wait ──answer──► known ──30 s──► asked again, still used
//!     ▲                  │ 3 requests, 1 s apart                     ▲               │ 3 unicast, 3 broadcast
//!     └───unreachable────┘                                           └────answer─────┤
//!     └──────────────────────────────── no answer ───────────────────────────────────┘
//! ```
//! A pure table: it says whom to ask and which packets may go; who calls it builds and sends the frames.

use edgeplex_ff_fib::{api, cuckoo::Cuckoo};
use edgeplex_types::MacAddr;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Packets that wait for one neighbour.
pub(crate) const QUEUE: usize = 3;
/// Neighbours, at most.
const MAX: usize = 4096;
/// Neighbours not yet resolved, at most, of either version of IP. Their queues hold buffers of the devices' pool (511 by
/// default), of which a scan of the subnet must leave enough to forward with.
const MAX_UNRESOLVED: usize = 56;
/// Between two requests.
const RETRY: Duration = Duration::from_secs(1);
const REQUESTS: u8 = 3;
/// A known neighbour is asked again after this.
const REACHABLE: Duration = Duration::from_secs(30);
/// One that no packet was sent to for this long is forgotten instead.
const IDLE: Duration = Duration::from_secs(600);

pub(crate) type Queue<B> = [Option<B>; QUEUE];

#[derive(Debug)]
struct Entry<B> {
    address: IpAddr,
    mac: Option<MacAddr>,
    /// Created, or last confirmed.
    since: Instant,
    used: Instant,
    due: Instant,
    requests: u8,
    queue: Queue<B>,
}

/// What became of a packet for a neighbour.
#[derive(Debug)]
pub(crate) enum Sent<B> {
    /// May go to this MAC address.
    Ready(MacAddr, B),
    /// Waits. `ask`: the neighbour is new, send a request. `displaced`: the oldest that waited had to go.
    Waits { ask: bool, displaced: Option<B> },
    /// The table is full.
    Refused,
}

/// What [`Neighbours::expire`] asks for.
#[derive(Debug)]
pub(crate) enum Due<B> {
    /// Send a request, to this MAC address or to all.
    Ask(IpAddr, Option<MacAddr>),
    /// It did not answer; these packets waited for it.
    Unreachable(Queue<B>),
}

#[derive(Debug)]
pub(crate) struct Neighbours<B> {
    index4: Cuckoo<u32>,
    index6: Cuckoo<u128>,
    slots: Vec<Option<Entry<B>>>,
    free: Vec<u32>,
    timers: BTreeSet<(Instant, IpAddr)>,
    /// By version.
    unresolved: [usize; 2],
}

impl<B> Default for Neighbours<B> {
    fn default() -> Self {
        let (index4, index6) = (Cuckoo::default(), Cuckoo::default());
        Self { index4, index6, slots: Vec::new(), free: Vec::new(), timers: BTreeSet::new(), unresolved: [0; 2] }
    }
}

impl<B> Neighbours<B> {
    fn index(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(a) => self.index4.get(a.into()),
            IpAddr::V6(a) => self.index6.get(a.into()),
        }
    }

    fn get_mut(&mut self, address: IpAddr) -> Option<&mut Entry<B>> {
        let n = self.index(address)?;
        self.slots.get_mut(n as usize)?.as_mut()
    }

    fn unresolved(&mut self, address: IpAddr) -> &mut usize {
        let [v4, v6] = &mut self.unresolved;
        if address.is_ipv4() { v4 } else { v6 }
    }

    /// The MAC address of a neighbour that is resolved.
    pub(crate) fn mac(&self, address: IpAddr) -> Option<MacAddr> {
        self.slots.get(self.index(address)? as usize)?.as_ref()?.mac
    }

    pub(crate) fn send(&mut self, now: Instant, address: IpAddr, packet: B) -> Sent<B> {
        let Some(e) = self.get_mut(address) else {
            if *self.unresolved(address) >= MAX_UNRESOLVED || !self.add(now, address, None, now + RETRY) {
                return Sent::Refused;
            }
            if let Some(e) = self.get_mut(address) {
                e.queue[0] = Some(packet);
            }
            return Sent::Waits { ask: true, displaced: None };
        };
        e.used = now;
        if let Some(mac) = e.mac {
            return Sent::Ready(mac, packet);
        }
        // RFC 1122 §2.3.2.2: save at least the latest packet. The oldest gives way.
        if let Some(place) = e.queue.iter_mut().find(|q| q.is_none()) {
            *place = Some(packet);
            return Sent::Waits { ask: false, displaced: None };
        }
        e.queue.rotate_left(1);
        let displaced = e.queue[QUEUE - 1].replace(packet);
        Sent::Waits { ask: false, displaced }
    }

    /// What ARP or neighbour discovery told. RFC 826, RFC 4861 §7.2.5: an entry that exists is updated; a new one is made only if `create`.
    /// Returns the packets that waited for this.
    pub(crate) fn learn(&mut self, now: Instant, address: IpAddr, mac: MacAddr, create: bool) -> Option<Queue<B>> {
        let due = now + REACHABLE;
        let Some(e) = self.get_mut(address) else {
            if create {
                self.add(now, address, Some(mac), due);
            }
            return None;
        };
        let was_unresolved = e.mac.replace(mac).is_none();
        let old = std::mem::replace(&mut e.due, due);
        (e.since, e.requests) = (now, 0);
        let queue = std::mem::replace(&mut e.queue, [const { None }; QUEUE]);
        self.timers.remove(&(old, address));
        self.timers.insert((due, address));
        *self.unresolved(address) -= usize::from(was_unresolved);
        was_unresolved.then_some(queue)
    }

    /// Another instance sends to it.
    pub(crate) fn note_used(&mut self, now: Instant, address: IpAddr) {
        if let Some(e) = self.get_mut(address) {
            e.used = now;
        }
    }

    fn add(&mut self, now: Instant, address: IpAddr, mac: Option<MacAddr>, due: Instant) -> bool {
        if self.index4.len() + self.index6.len() >= MAX {
            return false;
        }
        let requests = u8::from(mac.is_none());
        let entry = Entry { address, mac, since: now, used: now, due, requests, queue: [const { None }; QUEUE] };
        let n = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // MAX bounds it.
            u32::try_from(self.slots.len() - 1).unwrap_or(0)
        });
        *self.unresolved(address) += usize::from(mac.is_none());
        self.slots[n as usize] = Some(entry);
        match address {
            IpAddr::V4(a) => self.index4.insert(a.into(), n),
            IpAddr::V6(a) => self.index6.insert(a.into(), n),
        };
        self.timers.insert((due, address));
        true
    }

    fn remove(&mut self, address: IpAddr) -> Option<Queue<B>> {
        let n = match address {
            IpAddr::V4(a) => self.index4.remove(a.into())?,
            IpAddr::V6(a) => self.index6.remove(a.into())?,
        };
        let e = self.slots.get_mut(n as usize)?.take()?;
        self.free.push(n);
        self.timers.remove(&(e.due, address));
        *self.unresolved(address) -= usize::from(e.mac.is_none());
        Some(e.queue)
    }

    /// Keeps the neighbours that `keep` says; returns how many waiting packets went with the others.
    pub(crate) fn retain(&mut self, keep: impl Fn(IpAddr) -> bool) -> usize {
        let out: Vec<_> = self.slots.iter().flatten().map(|e| e.address).filter(|a| !keep(*a)).collect();
        out.into_iter().filter_map(|a| self.remove(a)).map(|q| q.iter().flatten().count()).sum()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|t| t.0)
    }

    /// The next thing to do by `now`, until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Due<B>> {
        loop {
            let &(due, address) = self.timers.first()?;
            if due > now {
                return None;
            }
            let e = self.get_mut(address)?;
            let limit = if e.mac.is_some() { 2 * REQUESTS } else { REQUESTS };
            let idle = e.requests == 0 && now.saturating_duration_since(e.used) >= IDLE;
            if idle || e.requests >= limit {
                let resolved = e.mac.is_some();
                match self.remove(address) {
                    Some(queue) if !resolved => return Some(Due::Unreachable(queue)),
                    _ => continue,
                }
            }
            e.requests += 1;
            e.due = now + RETRY;
            let again = (e.due, address);
            let unicast = e.mac.filter(|_| e.requests <= REQUESTS);
            self.timers.remove(&(due, address));
            self.timers.insert(again);
            return Some(Due::Ask(address, unicast));
        }
    }

    /// All of them, by address.
    pub(crate) fn show(&self, now: Instant) -> Vec<api::Adjacency> {
        let age = |e: &Entry<B>| u64::try_from(now.saturating_duration_since(e.since).as_millis()).unwrap_or(u64::MAX);
        let row = |e: &Entry<B>| api::Adjacency { address: e.address, mac: e.mac, age_ms: age(e) };
        let mut rows: Vec<_> = self.slots.iter().flatten().map(row).collect();
        rows.sort_unstable_by_key(|r| r.address);
        rows
    }
}
