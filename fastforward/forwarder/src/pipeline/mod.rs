//! The pipeline: one frame in, frames out, all state in [`Forwarder`]. Time and buffers are arguments.
//!
//! - [`ingress`]: what a frame must be on each port
//! - [`egress`]: where a packet goes: MTU, TTL, labels, rewrite, punt
//! - [`icmp`], [`resolve`]: what we say ourselves: ICMP errors, ARP and neighbour discovery
//! - [`ip`], [`flow`]: what they see of a packet, whatever its version; the hash of its flow
//! - [`neighbour`], [`police`], [`counters`]: the state they use
//! - [`control`]: programming and questions
//! - [`lsr`], [`wires`]: the label-switching router, and the wires of a CVM, of the same parts

mod control;
pub(crate) mod counters;
mod egress;
mod flow;
mod icmp;
mod ingress;
mod ip;
mod lsr;
mod neighbour;
mod police;
mod resolve;
mod wires;

pub use counters::Drop;
pub use lsr::Lsr;
pub use wires::{Side, Wires};

use crate::hold::{Holds, Verdict};
use counters::Counts;
use edgeplex_ff_fib::Fib;
use edgeplex_ff_phy::PacketBuf;
use neighbour::Neighbours;
use police::Bucket;
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// The customer's access circuit.
    Customer,
    /// The provider's core: MPLS only.
    Core,
    /// The TAP to the port VM's own kernel.
    Tap,
}

/// Where frames go and new buffers come from. `P` names a port.
pub trait Sink<B, P = Port> {
    fn send(&mut self, port: P, buf: B);
    /// An empty buffer, or `None` when there are none left.
    fn alloc(&mut self) -> Option<B>;
}

/// ICMP errors a second, and at once.
const ICMP_RATE: (u32, u32) = (1000, 256);
/// Punted packets, by class, a second and at once: a flood of pings or of ARP must not drown the session, nor a flood of any the
/// daemon behind the TAP.
const PUNT_ROUTING: (u32, u32) = (20_000, 1024);
const PUNT_RESOLUTION: (u32, u32) = (1000, 256);
const PUNT_OTHER: (u32, u32) = (10_000, 512);

/// What a punted packet is policed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Punt {
    /// A session's with the CE: BGP, BFD.
    Routing,
    /// ARP, neighbour discovery.
    Resolution,
    Other,
}

/// FastForward without its devices.
#[derive(Debug)]
pub struct Forwarder<B> {
    started: Instant,
    /// Of the flow hash.
    seed: u64,
    fib: Fib,
    neighbours: Neighbours<B>,
    counts: Counts,
    icmp: Bucket,
    punt_routing: Bucket,
    punt_resolution: Bucket,
    punt_other: Bucket,
    /// Identification of the ICMP errors we originate.
    identification: u16,
    /// Sessions of the kernel behind the TAP, and frames of theirs.
    holds: Holds<B>,
}

impl<B: PacketBuf> Forwarder<B> {
    /// `seed` makes this router choose among equal ways unlike its neighbours. `holds` says which sessions of the kernel's are
    /// guarded.
    pub fn new(now: Instant, seed: u64, holds: Holds<B>) -> Self {
        let bucket = |(rate, burst)| Bucket::new(now, rate, burst);
        Self {
            started: now,
            seed,
            fib: Fib::default(),
            neighbours: Neighbours::default(),
            counts: Counts::default(),
            icmp: bucket(ICMP_RATE),
            punt_routing: bucket(PUNT_ROUTING),
            punt_resolution: bucket(PUNT_RESOLUTION),
            punt_other: bucket(PUNT_OTHER),
            identification: 0,
            holds,
        }
    }

    /// Takes one received frame.
    pub fn process(&mut self, now: Instant, port: Port, buf: B, sink: &mut impl Sink<B>) {
        let bytes = buf.data().len();
        let count = match port {
            Port::Customer => &mut self.counts.from_customer,
            Port::Core => &mut self.counts.from_core,
            Port::Tap => &mut self.counts.injected,
        };
        counters::add(count, bytes);
        let done = match port {
            Port::Customer => self.customer(now, buf, sink),
            Port::Core => self.core(now, buf, sink),
            Port::Tap => match self.holds.outgoing(buf.data(), &mut self.counts) {
                Verdict::Pass => self.tap(now, buf, sink),
                Verdict::Hold(segment) => {
                    self.holds.keep(now, segment, buf, &mut self.counts);
                    Ok(())
                }
                Verdict::Drop(reason) => Err(reason),
            },
        };
        if let Err(reason) = done {
            self.counts.drop(reason);
        }
    }

    /// Does what has become due: neighbours asked again, ageing.
    pub fn tick(&mut self, now: Instant, sink: &mut impl Sink<B>) {
        while let Some(due) = self.neighbours.expire(now) {
            match due {
                neighbour::Due::Ask(address, unicast) => self.ask(address, unicast, sink),
                neighbour::Due::Unreachable(queue) => {
                    for packet in queue.into_iter().flatten() {
                        self.counts.drop(Drop::NeighbourUnreachable);
                        self.tell(now, icmp::Error::HostUnreachable, &packet, 0, sink);
                    }
                }
            }
        }
    }

    /// Whether control work is left over: [`Forwarder::work`] is then to be called soon, with packets in between.
    pub fn has_work(&self) -> bool {
        self.fib.is_sweeping()
    }

    /// Does a bounded slice of it.
    pub fn work(&mut self) {
        self.fib.sweep();
    }

    /// When [`Forwarder::tick`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.neighbours.next_deadline()
    }
}
