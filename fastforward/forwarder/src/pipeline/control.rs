//! Programming by pvmd or cvmd, and the questions anyone on the control socket may ask.

use super::counters::Counts;
use super::ip::is_on_link;
use super::{Drop, Forwarder};
use edgeplex_ff_fib::Fib;
use edgeplex_ff_fib::api::{FibOp, Reply, Request, Status};
use edgeplex_ff_phy::PacketBuf;
use std::time::{Duration, Instant};

impl<B: PacketBuf> Forwarder<B> {
    /// Answers one request. What is refused has changed nothing.
    pub fn control(&mut self, now: Instant, request: Request) -> Reply {
        let of_a_switch = |op: &FibOp| matches!(op, FibOp::Ports(_) | FibOp::Switch { .. });
        match &request {
            Request::Adjacencies => return Reply::Adjacencies { rows: self.neighbours.show(now) },
            Request::Program { ops, .. } if ops.iter().any(of_a_switch) => return refused("a port VM switches no labels"),
            _ => {}
        }
        let programs = matches!(request, Request::Program { .. } | Request::End { .. });
        let reply = answer(&mut self.fib, &self.counts, now.saturating_duration_since(self.started), request);
        if programs && reply == Reply::Done {
            self.programmed();
        }
        reply
    }

    /// Neighbours off the subnets the interface has now are forgotten.
    fn programmed(&mut self) {
        let interface = self.fib.interface();
        let lost = self.neighbours.retain(|a| interface.is_some_and(|i| is_on_link(i, a)));
        (0..lost).for_each(|_| self.counts.drop(Drop::NeighbourUnreachable));
    }
}

/// What either kind of forwarder answers.
pub(super) fn answer(fib: &mut Fib, counts: &Counts, uptime: Duration, request: Request) -> Reply {
    if let Err(e) = request.check() {
        return refused(e);
    }
    match request {
        Request::Begin { epoch } => {
            fib.begin(epoch);
            Reply::Done
        }
        Request::Program { epoch, ops } => fib.program(epoch, &ops).map_or_else(refused, |()| Reply::Done),
        Request::End { epoch } => fib.end(epoch).map_or_else(refused, |()| Reply::Done),
        Request::Status => Reply::Status(Status {
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
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

pub(super) fn refused(reason: impl ToString) -> Reply {
    Reply::Refused { reason: reason.to_string() }
}
