//! FastForward as the state task sees it: a snapshot after each connect, then changes, a few requests at a time.

use crate::{fib, relay::clock_epoch};
use edgeplex_ff_fib_api::{MAX_OPS, Reply, Request, Status};
use edgeplex_pvm_vrf::{Verdict, Vrf};
use edgeplex_types::Epoch;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// Pause before a snapshot that FastForward refused is tried again.
const REFUSED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Forwarder {
    link: fib::Link,
    connection: Option<u64>,
    epoch: Epoch,
    in_flight: usize,
    ended: bool,
    /// A request was refused: start over then.
    retry_at: Option<Instant>,
}

impl Forwarder {
    pub(crate) fn new(link: fib::Link) -> Self {
        Self { link, connection: None, epoch: Epoch(0), in_flight: 0, ended: false, retry_at: None }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.connection.is_some()
    }

    /// Cancel-safe.
    pub(crate) async fn event(&mut self) -> Option<fib::Event> {
        self.link.events.recv().await
    }

    /// What FastForward holds, whenever a connection to it is made.
    pub(crate) fn handle(&mut self, now: Instant, event: fib::Event, vrf: &mut Vrf) -> Option<Status> {
        match event {
            fib::Event::Up { connection, status } => {
                info!(epoch = ?status.epoch, routes = status.routes, "connected to FastForward");
                self.connection = Some(connection);
                self.epoch = self.epoch.max(status.epoch.unwrap_or_default());
                self.in_flight = 0;
                self.begin(vrf);
                Some(status)
            }
            fib::Event::Down { connection, reason } if self.connection == Some(connection) => {
                warn!(reason, "FastForward is away; packets go on by what it has, if it lives");
                self.connection = None;
                None
            }
            fib::Event::Reply { connection, reply } if self.connection == Some(connection) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                match reply {
                    Reply::Done => {}
                    Reply::Refused { reason } => {
                        error!(reason, "FastForward refused a request; telling it everything again");
                        self.retry_at.get_or_insert(now + REFUSED);
                    }
                    other => warn!(?other, "FastForward answered what was not asked"),
                }
                None
            }
            fib::Event::Down { .. } | fib::Event::Reply { .. } => None,
        }
    }

    /// Opens a snapshot. Its epoch was never used before, not even by a former life of this daemon: a snapshot cut
    /// short by its death must not be taken for part of this one.
    fn begin(&mut self, vrf: &mut Vrf) {
        self.retry_at = None;
        self.ended = false;
        self.epoch = Epoch(clock_epoch().0.max(self.epoch.0.saturating_add(1)));
        vrf.fib_restart();
        let epoch = self.epoch;
        self.request(Request::Begin { epoch });
    }

    fn request(&mut self, request: Request) {
        let Some(connection) = self.connection else { return };
        self.in_flight += 1;
        if !self.link.send(connection, request) {
            // Not within IN_FLIGHT; if it were to happen, only a new snapshot is right again.
            error!("queue towards FastForward is full; telling it everything again");
            self.retry_at.get_or_insert(Instant::now() + REFUSED);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Sends what is allowed and fits.
    pub(crate) fn flush(&mut self, now: Instant, verdict: Verdict, vrf: &mut Vrf) {
        if self.connection.is_none() {
            return;
        }
        if let Some(at) = self.retry_at {
            if now < at || self.in_flight > 0 {
                return;
            }
            self.begin(vrf);
        }
        let epoch = self.epoch;
        while self.in_flight < fib::IN_FLIGHT && self.retry_at.is_none() {
            let ops = vrf.fib_ops(MAX_OPS, verdict.fib);
            if ops.is_empty() {
                break;
            }
            self.request(Request::Program { epoch, ops });
        }
        if verdict.fib_end && !self.ended && vrf.fib_clean() && self.in_flight < fib::IN_FLIGHT {
            self.ended = true;
            self.request(Request::End { epoch });
            info!(routes = vrf.counts().best, "FastForward has the whole table");
        }
    }
}
