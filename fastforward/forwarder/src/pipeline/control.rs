//! Programming by pvmd, and the questions anyone on the control socket may ask.

use super::{Drop, Forwarder};
use edgeplex_ff_fib::api::{Reply, Request, Status};
use edgeplex_ff_phy::PacketBuf;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Instant;

impl<B: PacketBuf> Forwarder<B> {
    /// Answers one request. What is refused has changed nothing.
    pub fn control(&mut self, now: Instant, request: Request) -> Reply {
        if let Err(e) = request.check() {
            return refused(e);
        }
        match request {
            Request::Begin { epoch } => {
                self.fib.begin(epoch);
                Reply::Done
            }
            Request::Program { epoch, ops } => match self.fib.program(epoch, &ops) {
                Ok(()) => self.programmed(),
                Err(e) => refused(e),
            },
            Request::End { epoch } => match self.fib.end(epoch) {
                Ok(()) => self.programmed(),
                Err(e) => refused(e),
            },
            Request::Status => Reply::Status(Status {
                uptime_ms: u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX),
                epoch: self.fib.complete_epoch(),
                routes: self.fib.routes() as u64,
                tunnels: self.fib.tunnels_up() as u64,
                fib_bytes: self.fib.bytes() as u64,
                own_label: self.fib.own_label(),
            }),
            Request::Counters => Reply::Counters(self.counts.show()),
            Request::Routes { after, limit } => {
                let after = match after {
                    None => None,
                    Some(IpNet::V4(p)) => Some(p),
                    // Every IPv4 prefix comes before every IPv6 prefix.
                    Some(IpNet::V6(_)) => return Reply::Routes { rows: vec![], more: false },
                };
                let (rows, more) = self.fib.page(after, usize::try_from(limit).unwrap_or(0));
                Reply::Routes { rows, more }
            }
            Request::Tunnels => Reply::Tunnels { rows: self.fib.tunnels() },
            Request::Adjacencies => Reply::Adjacencies { rows: self.neighbours.show(now) },
            Request::Lookup { address: IpAddr::V4(a) } => Reply::Lookup { found: self.fib.lookup(a) },
            Request::Lookup { address: IpAddr::V6(_) } => Reply::Lookup { found: None },
        }
    }

    /// Neighbours off the subnets the interface has now are forgotten.
    fn programmed(&mut self) -> Reply {
        let subnets = self.fib.interface().map_or(&[][..], |i| &i.addresses);
        let lost = self.neighbours.retain(|a| subnets.iter().any(|s| s.contains(&a)));
        (0..lost).for_each(|_| self.counts.drop(Drop::NeighbourUnreachable));
        Reply::Done
    }
}

fn refused(reason: impl ToString) -> Reply {
    Reply::Refused { reason: reason.to_string() }
}
