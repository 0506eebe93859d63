//! A CVM's wires: TAPs of its kernel joined with vNICs, one to one. Frames pass as they are, both ways; but what the kernel's
//! sessions say on guarded ports waits until it may leave.

use super::control::{NOTHING_HELD, millis, refused};
use super::counters::{self, Counts};
use super::{Drop, Sink};
use crate::hold::{Holds, Verdict};
use edgeplex_ff_fib::api::{HoldOp, Reply, Request, Status};
use edgeplex_ff_packet::ethernet;
use edgeplex_ff_phy::PacketBuf;
use std::time::Instant;

/// The two ends of a pair, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Tap(u8),
    Wire(u8),
}

#[derive(Debug)]
pub struct Wires<B> {
    started: Instant,
    /// With the pair that a frame is of.
    holds: Holds<(u8, B)>,
    counts: Counts,
}

impl<B: PacketBuf> Wires<B> {
    /// `holds` says which of the kernel's sessions are guarded.
    pub fn new(now: Instant, holds: Holds<(u8, B)>) -> Self {
        Self { started: now, holds, counts: Counts::default() }
    }

    /// Takes one received frame.
    pub fn process(&mut self, now: Instant, from: Side, buf: B, sink: &mut impl Sink<B, Side>) {
        let done = match from {
            _ if buf.len() < ethernet::HEADER_LEN => Err(Drop::EthernetMalformed),
            Side::Tap(pair) => self.leave(now, pair, buf, sink),
            Side::Wire(pair) => self.enter(pair, buf, sink),
        };
        if let Err(reason) = done {
            self.counts.drop(reason);
        }
    }

    fn leave(&mut self, now: Instant, pair: u8, buf: B, sink: &mut impl Sink<B, Side>) -> Result<(), Drop> {
        counters::add(&mut self.counts.injected, buf.len());
        match self.holds.outgoing(buf.data(), &mut self.counts) {
            Verdict::Pass => self.send(pair, buf, sink),
            Verdict::Hold(segment) => self.holds.keep(now, segment, (pair, buf), &mut self.counts),
            Verdict::Drop(reason) => return Err(reason),
        }
        Ok(())
    }

    fn send(&mut self, pair: u8, buf: B, sink: &mut impl Sink<B, Side>) {
        counters::add(&mut self.counts.to_core, buf.len());
        sink.send(Side::Wire(pair), buf);
    }

    fn enter(&mut self, pair: u8, buf: B, sink: &mut impl Sink<B, Side>) -> Result<(), Drop> {
        counters::add(&mut self.counts.from_core, buf.len());
        self.holds.incoming(buf.data())?;
        counters::add(&mut self.counts.punted, buf.len());
        sink.send(Side::Tap(pair), buf);
        Ok(())
    }

    /// Answers one request. What is refused has changed nothing.
    pub fn control(&mut self, now: Instant, request: Request, sink: &mut impl Sink<B, Side>) -> Reply {
        if let Err(e) = request.check() {
            return refused(e);
        }
        match request {
            Request::Hold(_) if !self.holds.is_on() => refused(NOTHING_HELD),
            Request::Hold(ops) => self.hold(now, &ops, sink),
            Request::Holds => Reply::Holds { rows: self.holds.show() },
            Request::Counters => Reply::Counters(self.counts.show()),
            Request::Status => {
                let uptime_ms = millis(now.saturating_duration_since(self.started));
                Reply::Status(Status { uptime_ms, epoch: None, routes: 0, tunnels: 0, fib_bytes: 0, labels: 0 })
            }
            _ => refused("wires are joined here, and nothing is routed"),
        }
    }

    fn hold(&mut self, now: Instant, ops: &[HoldOp], sink: &mut impl Sink<B, Side>) -> Reply {
        let mut free = vec![];
        for op in ops {
            self.holds.apply(now, op, &mut free, &mut self.counts);
        }
        for (pair, buf) in free {
            self.send(pair, buf, sink);
        }
        Reply::Done
    }
}
