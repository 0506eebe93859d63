//! Programming by pvmd or cvmd, and the questions anyone on the control socket may ask.

use super::counters::Counts;
use super::ip::{is_on_link, is_own};
use super::{Drop, Forwarder, Sink};
use edgeplex_ff_fib::Fib;
use edgeplex_ff_fib::api::{FibOp, HoldOp, Neighbor, Reply, Request, Status};
use edgeplex_ff_phy::PacketBuf;
use std::time::{Duration, Instant};

impl<B: PacketBuf> Forwarder<B> {
    /// Answers one request. What is refused has changed nothing.
    pub fn control(&mut self, now: Instant, request: Request, sink: &mut impl Sink<B>) -> Reply {
        let of_a_switch = |op: &FibOp| matches!(op, FibOp::Ports(_) | FibOp::Switch { .. });
        if let Err(e) = request.check() {
            return refused(e);
        }
        match &request {
            Request::Adjacencies => return Reply::Adjacencies { rows: self.neighbours.show(now) },
            Request::Program { ops, .. } if ops.iter().any(of_a_switch) => return refused("a port VM switches no labels"),
            Request::Hold(ops) => return self.hold(now, ops, sink),
            Request::Holds => return Reply::Holds { rows: self.holds.show() },
            Request::Neighbors(rows) => return self.seed(now, rows, sink),
            _ => {}
        }
        let programs = matches!(request, Request::Program { .. } | Request::End { .. });
        let reply = answer(&mut self.fib, &self.counts, now.saturating_duration_since(self.started), request);
        if programs && reply == Reply::Done {
            self.programmed();
        }
        reply
    }

    /// What the bounds hold back no longer goes on as if it had come from the TAP just now.
    fn hold(&mut self, now: Instant, ops: &[HoldOp], sink: &mut impl Sink<B>) -> Reply {
        if !self.holds.is_on() {
            return refused(NOTHING_HELD);
        }
        let mut free = vec![];
        for op in ops {
            self.holds.apply(now, op, &mut free, &mut self.counts);
        }
        for buf in free {
            if let Err(reason) = self.tap(now, buf, sink) {
                self.counts.drop(reason);
            }
        }
        Reply::Done
    }

    /// Takes neighbours over from another instance. Those that cannot be ours, for the interface has changed, are left out.
    fn seed(&mut self, now: Instant, rows: &[Neighbor], sink: &mut impl Sink<B>) -> Reply {
        let Some(interface) = self.fib.interface() else { return refused("there is no interface yet") };
        let own = interface.mac;
        let fits = |n: &&Neighbor| is_on_link(interface, n.address) && !is_own(interface, n.address) && n.mac != own;
        let rows: Vec<_> = rows.iter().filter(fits).collect();
        for n in rows {
            self.learn(now, n.address, n.mac, true, sink);
            self.neighbours.note_used(now, n.address);
        }
        Reply::Done
    }

    /// Neighbours off the subnets the interface has now are forgotten.
    fn programmed(&mut self) {
        let interface = self.fib.interface();
        let lost = self.neighbours.retain(|a| interface.is_some_and(|i| is_on_link(i, a)));
        (0..lost).for_each(|_| self.counts.drop(Drop::NeighbourUnreachable));
    }
}

pub(super) const NOTHING_HELD: &str = "nothing is held here: started without --hold";

/// What either router answers to a request that was checked.
pub(super) fn answer(fib: &mut Fib, counts: &Counts, uptime: Duration, request: Request) -> Reply {
    match request {
        Request::Begin { epoch } => {
            fib.begin(epoch);
            Reply::Done
        }
        Request::Program { epoch, ops } => fib.program(epoch, &ops).map_or_else(refused, |()| Reply::Done),
        Request::End { epoch } => fib.end(epoch).map_or_else(refused, |()| Reply::Done),
        Request::Status => Reply::Status(Status {
            uptime_ms: millis(uptime),
            epoch: fib.complete_epoch(),
            routes: fib.routes() as u64,
            tunnels: fib.tunnels_there() as u64,
            fib_bytes: fib.bytes() as u64,
            labels: fib.labels() as u64,
        }),
        Request::Counters => Reply::Counters(counts.show()),
        Request::Routes { after, limit } => {
            let (rows, more) = fib.page(after, usize::try_from(limit).unwrap_or(0));
            Reply::Routes { rows, more }
        }
        Request::Tunnels => Reply::Tunnels { rows: fib.tunnels() },
        Request::TunnelCounts => Reply::TunnelCounts { rows: fib.tunnel_counts() },
        Request::Adjacencies => Reply::Adjacencies { rows: vec![] },
        Request::Lookup { address } => Reply::Lookup { found: fib.lookup(address) },
        Request::Hold(_) | Request::Holds => refused("there is no kernel beside this forwarder"),
        Request::Neighbors(_) => refused("there is no customer beside this forwarder"),
    }
}

pub(super) fn millis(uptime: Duration) -> u64 {
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn refused(reason: impl ToString) -> Reply {
    Reply::Refused { reason: reason.to_string() }
}
