//! Output commit: what the VM's kernel says on guarded TCP ports leaves when a successor would know it, and not before.
//!
//! ```text
//!   kernel ──TAP──► SYN, SYN-ACK, the ACK of it ─────────────────────────────────► wire
//!                   end ≤ seq and ack ≤ ack of the flow's bounds ────────────────►
//!                   else: held ──── Upto moves the bounds ──────────────────────►
//!                   FIN: held until Over ── RST: never before Over     fenced: nothing, either way
//!                   RST of no flow: when all flows are Known
//! ```
//! A pure table: it says what may pass and gives back what was held; who calls it sends. It needs no timers: what is held too
//! long, or found no room, TCP repeats. What it cannot look into (fragments) does not leave.

mod segment;
#[cfg(test)]
mod tests;

use crate::pipeline::{Drop, counters::Counts};
use edgeplex_ff_fib_api::{self as api, HoldOp};
use segment::{ACK, Ends, FIN, RST, SYN, Seen, parse, source};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use segment::Segment;

/// Flows, at most; the one that matters least gives way.
const MAX_FLOWS: usize = 512;
/// Segments held of one flow, at most.
const MAX_OF_FLOW: usize = 64;

/// A connection of the kernel's. Addresses without what only sockets know: scopes, and IPv4 mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
}

impl From<&api::Flow> for Key {
    fn from(f: &api::Flow) -> Self {
        let plain = |a: &SocketAddr| (a.ip().to_canonical(), a.port());
        Self { local: plain(&f.local), remote: plain(&f.remote) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Known from its segments alone. The acknowledgement that completes its handshake, as far as it is known.
    New {
        complete: Option<u32>,
    },
    Over,
    Guarded,
    Fenced,
}

#[derive(Debug)]
struct Waiting<T> {
    segment: Segment,
    since: Instant,
    item: T,
}

#[derive(Debug)]
struct Entry<T> {
    state: State,
    /// How far it may go: sequence number and acknowledgement.
    bounds: Option<(u32, u32)>,
    /// The programmer that is there has told of it.
    told: bool,
    /// When it was last met; a number that grows.
    met: u64,
    queue: VecDeque<Waiting<T>>,
    held: u64,
    dropped: u64,
    longest: Duration,
}

/// What is to be done with a frame from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// [`Holds::keep`] it.
    Hold(Segment),
    Drop(Drop),
}

/// The flows. `T` is a frame, with whatever its owner must know to send it later.
#[derive(Debug)]
pub struct Holds<T> {
    ports: Vec<u16>,
    /// The kernel's own addresses, where it also forwards for others; empty: all that it sends is its own.
    local: Vec<IpAddr>,
    /// Segments held in all, at most.
    room: usize,
    waiting: usize,
    flows: HashMap<Key, Entry<T>>,
    met: u64,
    /// What is not in `flows` is no session that a successor could go on with.
    all_known: bool,
}

/// `a` ≤ `b` in the sense of RFC 9293 §3.4, for numbers less than 2^31 apart.
fn up_to(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

impl<T> Entry<T> {
    fn new(state: State) -> Self {
        Self { state, bounds: None, told: false, met: 0, queue: VecDeque::new(), held: 0, dropped: 0, longest: Duration::ZERO }
    }

    /// Whether this may leave: the rule of output commit.
    fn is_free(&self, s: &Segment) -> bool {
        match (self.state, self.bounds) {
            (State::Over, _) => true,
            (State::Guarded, Some((seq, ack))) => {
                s.flags & (SYN | FIN | RST) == 0 && up_to(s.end, seq) && (!s.has(ACK) || up_to(s.ack, ack))
            }
            _ => false,
        }
    }

    fn raise(&mut self, seq: u32, ack: u32) {
        let later = |a, b| if up_to(a, b) { b } else { a };
        self.bounds = Some(self.bounds.map_or((seq, ack), |(s, a)| (later(s, seq), later(a, ack))));
        self.state = State::Guarded;
    }

    /// What may leave goes to `out`, in its order; how many these are.
    fn release(&mut self, now: Instant, out: &mut Vec<T>) -> usize {
        let before = self.queue.len();
        for _ in 0..before {
            let Some(w) = self.queue.pop_front() else { break };
            if self.is_free(&w.segment) {
                self.longest = self.longest.max(now.saturating_duration_since(w.since));
                out.push(w.item);
            } else {
                self.queue.push_back(w);
            }
        }
        before - self.queue.len()
    }

    fn drop_all(&mut self, waiting: &mut usize, reason: Drop, counts: &mut Counts) {
        *waiting -= self.queue.len();
        for _ in self.queue.drain(..) {
            self.dropped += 1;
            counts.drop(reason);
        }
    }
}

impl<T> Holds<T> {
    /// Guards connections with one of these ports at either end; without any, everything passes. `room`: segments held at a time.
    pub fn new(mut ports: Vec<u16>, room: usize) -> Self {
        ports.sort_unstable();
        Self { ports, local: vec![], room, waiting: 0, flows: HashMap::new(), met: 0, all_known: false }
    }

    /// Only what comes from these addresses is the kernel's own; what it forwards for others passes.
    #[must_use]
    pub fn of(mut self, local: Vec<IpAddr>) -> Self {
        self.local = local;
        self
    }

    /// Whether there is anything to guard.
    pub fn is_on(&self) -> bool {
        !self.ports.is_empty()
    }

    fn guards(&self, ends: &Ends) -> bool {
        [ends.source.1, ends.destination.1].iter().any(|port| self.ports.binary_search(port).is_ok())
    }

    fn entry(&mut self, key: Key, state: State, counts: &mut Counts) -> &mut Entry<T> {
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&key) {
            let least = self.flows.iter().min_by_key(|(_, e)| (rank(e.state), e.met)).map(|(k, _)| *k);
            if let Some(mut e) = least.and_then(|k| self.flows.remove(&k)) {
                e.drop_all(&mut self.waiting, Drop::HoldFull, counts);
                // Forgotten, it must not be taken for one that never was.
                self.all_known &= !matches!(e.state, State::Guarded | State::Fenced);
            }
        }
        self.met += 1;
        let e = self.flows.entry(key).or_insert_with(|| Entry::new(state));
        e.met = self.met;
        e
    }

    /// A frame from the kernel.
    pub(crate) fn outgoing(&mut self, frame: &[u8], counts: &mut Counts) -> Verdict {
        if !self.is_on() || !self.local.is_empty() && source(frame).is_some_and(|from| !self.local.contains(&from)) {
            return Verdict::Pass;
        }
        let s = match parse(frame) {
            Seen::Tcp(s) if self.guards(&s.ends) => s,
            Seen::Tcp(_) | Seen::Other => return Verdict::Pass,
            Seen::Opaque => return Verdict::Drop(Drop::HoldOpaque),
        };
        let key = Key { local: s.ends.source, remote: s.ends.destination };
        let state = self.flows.get(&key).map(|e| e.state);
        match state {
            Some(State::Fenced) => {
                if let Some(e) = self.flows.get_mut(&key) {
                    e.dropped += 1;
                }
                return Verdict::Drop(Drop::HoldFenced);
            }
            // The kernel begins with a new socket, which knows nothing of what was before.
            _ if s.has(SYN) && s.flags & (FIN | RST) == 0 && s.len == 0 => return self.begin(key, &s, counts),
            Some(State::Over) => {}
            // RFC 9293 §3.10.7.1: an answer to a segment without ACK, to a SYN, has this sequence number. Of a connection that
            // is known it would be the end.
            None | Some(State::New { .. }) if s.has(RST | ACK) && s.seq == 0 && s.len == 0 => return Verdict::Pass,
            None | Some(State::New { .. }) if s.has(RST) && self.all_known => return Verdict::Pass,
            _ if s.has(RST) => return Verdict::Drop(Drop::HoldEnd),
            _ => {}
        }
        let e = self.entry(key, State::New { complete: None }, counts);
        let completes = matches!(e.state, State::New { complete: Some(ack) } if s.is_pure_ack() && s.ack == ack);
        if completes || e.is_free(&s) { Verdict::Pass } else { Verdict::Hold(s) }
    }

    /// A SYN or SYN-ACK.
    fn begin(&mut self, key: Key, s: &Segment, counts: &mut Counts) -> Verdict {
        if let Some(mut old) = self.flows.remove(&key) {
            // A repeated SYN finds nothing here; a new one nothing that could still be of use.
            old.drop_all(&mut self.waiting, Drop::HoldEnd, counts);
        }
        self.entry(key, State::New { complete: s.has(ACK).then_some(s.ack) }, counts);
        Verdict::Pass
    }

    /// Keeps the frame of this segment until its time comes; one that finds no room, or that it displaces, is dropped.
    pub(crate) fn keep(&mut self, now: Instant, segment: Segment, item: T, counts: &mut Counts) {
        let is_full = self.waiting >= self.room;
        let Some(e) = self.flows.get_mut(&Key { local: segment.ends.source, remote: segment.ends.destination }) else { return };
        let same =
            |w: &Waiting<T>| w.segment.seq == segment.seq && w.segment.end == segment.end && w.segment.flags & FIN == segment.flags & FIN;
        let displaced = if segment.is_pure_ack() {
            // The newest acknowledgement gives way, not the oldest: that one is the first that may leave, and if each were
            // replaced before its time none ever would. One that differs in its window alone gives way at once.
            let is_full = is_full || e.queue.len() >= MAX_OF_FLOW;
            e.queue.iter().rposition(|w| w.segment.is_pure_ack() && (is_full || same(w) && w.segment.ack == segment.ack))
        } else if e.queue.iter().any(same) {
            // A repetition says nothing new, and may acknowledge more: the first one leaves sooner.
            e.dropped += 1;
            return counts.drop(Drop::HoldRepeated);
        } else {
            None
        };
        if let Some(at) = displaced {
            e.queue.remove(at);
            self.waiting -= 1;
            e.dropped += 1;
            counts.drop(Drop::HoldRepeated);
        } else if is_full || e.queue.len() >= MAX_OF_FLOW {
            e.dropped += 1;
            return counts.drop(Drop::HoldFull);
        }
        e.held += 1;
        self.waiting += 1;
        e.queue.push_back(Waiting { segment, since: now, item });
    }

    /// Whether a frame may be given to the kernel.
    pub(crate) fn incoming(&mut self, frame: &[u8]) -> Result<(), Drop> {
        if self.flows.is_empty() {
            return Ok(());
        }
        let s = match parse(frame) {
            Seen::Tcp(s) if self.guards(&s.ends) => s,
            // It may be of a flow that stands still.
            Seen::Opaque if self.flows.values().any(|e| e.state == State::Fenced) => return Err(Drop::HoldFenced),
            _ => return Ok(()),
        };
        let Some(e) = self.flows.get_mut(&Key { local: s.ends.destination, remote: s.ends.source }) else { return Ok(()) };
        match &mut e.state {
            State::Fenced => {
                e.dropped += 1;
                return Err(Drop::HoldFenced);
            }
            // Our SYN is answered: the kernel will complete the handshake with this.
            State::New { complete } if s.has(SYN | ACK) => *complete = Some(s.seq.wrapping_add(1)),
            _ => {}
        }
        self.met += 1;
        e.met = self.met;
        Ok(())
    }

    /// Does what was told; what may leave by it comes to `out`, in its order.
    pub(crate) fn apply(&mut self, now: Instant, op: &HoldOp, out: &mut Vec<T>, counts: &mut Counts) {
        let (HoldOp::Upto { flow, .. } | HoldOp::Fence { flow } | HoldOp::Over { flow }) = op else {
            return self.known(now, matches!(op, HoldOp::Known), out);
        };
        self.entry(Key::from(flow), State::New { complete: None }, counts);
        let Some(e) = self.flows.get_mut(&Key::from(flow)) else { return };
        e.told = true;
        match *op {
            HoldOp::Upto { seq, ack, .. } => {
                e.raise(seq, ack);
                // Data of ours took the place of the FIN that a process sent when it died.
                let before = e.queue.len();
                let bound = e.bounds.map_or(seq, |b| b.0);
                e.queue.retain(|w| !(w.segment.has(FIN) && up_to(w.segment.end, bound)));
                let ended = before - e.queue.len();
                self.waiting -= ended;
                e.dropped += ended as u64;
                (0..ended).for_each(|_| counts.drop(Drop::HoldEnd));
            }
            HoldOp::Fence { .. } => {
                e.state = State::Fenced;
                e.drop_all(&mut self.waiting, Drop::HoldFenced, counts);
            }
            // What may follow between the same ports is another connection.
            HoldOp::Over { .. } => (e.state, e.bounds) = (State::Over, None),
            HoldOp::Known | HoldOp::Anew => {}
        }
        self.waiting -= e.release(now, out);
    }

    /// All flows that live have been told, or, if not `all`, none yet.
    fn known(&mut self, now: Instant, all: bool, out: &mut Vec<T>) {
        self.all_known = all;
        for e in self.flows.values_mut() {
            if !all {
                e.told = false;
            } else if !e.told && matches!(e.state, State::Guarded | State::Fenced) {
                // A programmer that knew of it is no more, and this one has nothing to go on with.
                (e.state, e.bounds) = (State::Over, None);
                self.waiting -= e.release(now, out);
            }
        }
    }

    /// The flows that are guarded, in the order of their ends.
    pub fn show(&self) -> Vec<api::Hold> {
        let guarded = self.flows.iter().filter(|(_, e)| matches!(e.state, State::Guarded | State::Fenced));
        let mut rows: Vec<_> = guarded.map(|(key, e)| row(key, e)).collect();
        rows.sort_unstable_by_key(|r| r.flow);
        rows
    }
}

/// When there are too many flows, the lowest gives way first: what is guarded and unknown again only stands still.
fn rank(state: State) -> u8 {
    match state {
        State::New { .. } => 0,
        State::Over => 1,
        State::Guarded => 2,
        State::Fenced => 3,
    }
}

fn row<T>(key: &Key, e: &Entry<T>) -> api::Hold {
    let (seq, ack) = e.bounds.unwrap_or_default();
    api::Hold {
        flow: api::Flow { local: key.local.into(), remote: key.remote.into() },
        seq,
        ack,
        fenced: e.state == State::Fenced,
        // MAX_OF_FLOW bounds it.
        waiting: u32::try_from(e.queue.len()).unwrap_or(u32::MAX),
        held: e.held,
        dropped: e.dropped,
        longest_us: u64::try_from(e.longest.as_micros()).unwrap_or(u64::MAX),
    }
}
