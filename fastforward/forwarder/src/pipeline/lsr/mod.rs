//! The label-switching router of a platform: core ports only, no customer, no kernel.
//!
//! ```text
//!  port i: MPLS to MAC_i ──► pop explicit nulls and labels of ours ──► swap, PHP ──► leg: port j, neighbour's MAC
//!                              │             │                            │ TTL, MTU
//!                              ▼             ▼                            ▼
//!        PUNT_MAC on port i: label 1   MAC_i on port i: the rest    ICMP error, switched as its cause would have been
//! ```
//! What goes back to port i finds its owner through the platform's switch: the port VM of the next label, or the CVM.

mod switch;
mod tell;

use super::control::{answer, refused};
use super::counters::{self, Counts, Drop};
use super::police::Bucket;
use super::{ICMP_RATE, PUNT_OTHER, Sink};
use edgeplex_ff_fib::Fib;
use edgeplex_ff_fib::api::{FibOp, Reply, Request};
use edgeplex_ff_phy::PacketBuf;
use std::marker::PhantomData;
use std::time::Instant;

/// A label-switching router without its devices. Ports are numbered as programmed.
#[derive(Debug)]
pub struct Lsr<B> {
    started: Instant,
    /// Of the flow hash.
    seed: u64,
    /// Devices there are.
    ports: usize,
    fib: Fib,
    counts: Counts,
    icmp: Bucket,
    punt: Bucket,
    /// Identification of the ICMP errors we originate.
    identification: u16,
    buffers: PhantomData<B>,
}

impl<B: PacketBuf> Lsr<B> {
    /// `seed` makes this router choose among equal ways unlike its neighbours. `ports`: how many it has.
    pub fn new(now: Instant, seed: u64, ports: usize) -> Self {
        let bucket = |(rate, burst)| Bucket::new(now, rate, burst);
        Self {
            started: now,
            seed,
            ports,
            fib: Fib::default(),
            counts: Counts::default(),
            icmp: bucket(ICMP_RATE),
            punt: bucket(PUNT_OTHER),
            identification: 0,
            buffers: PhantomData,
        }
    }

    /// Takes one received frame.
    pub fn process(&mut self, now: Instant, port: u8, buf: B, sink: &mut impl Sink<B, u8>) {
        counters::add(&mut self.counts.from_core, buf.data().len());
        if let Err(reason) = self.frame(now, port, buf, sink) {
            self.counts.drop(reason);
        }
    }

    /// Answers one request. What is refused has changed nothing.
    pub fn control(&mut self, now: Instant, request: Request) -> Reply {
        let of_a_vrf = |op: &FibOp| matches!(op, FibOp::Interface(_) | FibOp::OwnLabel { .. } | FibOp::Route { .. });
        if let Err(e) = request.check() {
            return refused(e);
        }
        match request {
            Request::Program { ops, .. } if ops.iter().any(of_a_vrf) => refused("a label-switching router has no VRF"),
            Request::Program { ops, .. } if ops.iter().any(|op| matches!(op, FibOp::Ports(p) if p.len() > self.ports)) => {
                refused(format!("there are only {} ports", self.ports))
            }
            request => answer(&mut self.fib, &self.counts, now.saturating_duration_since(self.started), request),
        }
    }

    /// Whether control work is left over: [`Lsr::work`] is then to be called soon, with packets in between.
    pub fn has_work(&self) -> bool {
        self.fib.is_sweeping()
    }

    /// Does a bounded slice of it.
    pub fn work(&mut self) {
        self.fib.sweep();
    }
}
