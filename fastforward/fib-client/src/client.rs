//! A snapshot after each connect, then changes, a few requests at a time.

use crate::link::{Event, IN_FLIGHT, Link};
use edgeplex_ff_fib_api::{FibOp, MAX_OPS, Reply, Request, Status};
use edgeplex_types::Epoch;
use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tracing::{error, info, warn};

/// Pause before a snapshot that FastForward refused is tried again.
const REFUSED: Duration = Duration::from_secs(1);

/// The table that FastForward is to have, and what of it FastForward was told.
pub trait Source {
    /// FastForward takes a new snapshot: everything is owed again, and nothing of before may be taken back.
    fn restart(&mut self);
    /// The next operations owed that may be sent now, at most `max`, in an order FastForward accepts. Empty: none.
    fn take(&mut self, max: usize) -> Vec<FibOp>;
    /// The snapshot is complete with what was taken: `End` may follow, and sweeps what was not renewed.
    fn complete(&self) -> bool;
}

/// One FastForward, wherever it is in its life.
#[derive(Debug)]
pub struct Client {
    link: Link,
    connection: Option<u64>,
    epoch: Epoch,
    in_flight: usize,
    begun: bool,
    ended: bool,
    /// A request was refused: start over then.
    retry_at: Option<Instant>,
}

impl Client {
    /// Starts the task that connects to `path`, again and again; it ends with this value. Within a tokio runtime.
    pub fn start(path: PathBuf) -> Self {
        let link = Link::start(path);
        Self { link, connection: None, epoch: Epoch(0), in_flight: 0, begun: false, ended: false, retry_at: None }
    }

    pub fn is_up(&self) -> bool {
        self.connection.is_some()
    }

    /// The whole table has been told on this connection.
    pub fn is_complete(&self) -> bool {
        self.is_up() && self.ended
    }

    /// What happened next. Cancel-safe.
    pub async fn event(&mut self) -> Event {
        match self.link.events.recv().await {
            Some(event) => event,
            // The task ends only when this value does.
            None => std::future::pending().await,
        }
    }

    /// Takes an event; what FastForward holds, whenever a connection to it is made. Call [`Client::flush`] after it.
    pub fn handle(&mut self, now: Instant, event: Event) -> Option<Status> {
        match event {
            Event::Up { connection, status } => {
                info!(epoch = ?status.epoch, routes = status.routes, labels = status.labels, "connected to FastForward");
                self.connection = Some(connection);
                self.epoch = self.epoch.max(status.epoch.unwrap_or_default());
                self.in_flight = 0;
                self.begun = false;
                self.retry_at = None;
                Some(status)
            }
            Event::Down { connection, reason } if self.connection == Some(connection) => {
                warn!(reason, "FastForward is away; packets go on by what it has, if it lives");
                self.connection = None;
                None
            }
            Event::Reply { connection, reply } if self.connection == Some(connection) => {
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
            Event::Down { .. } | Event::Reply { .. } => None,
        }
    }

    /// Opens a snapshot. Its epoch was never used before, not even by a former life of the daemon: a snapshot cut
    /// short by its death must not be taken for part of this one.
    fn begin(&mut self, now: Instant, source: &mut impl Source) {
        self.retry_at = None;
        self.begun = true;
        self.ended = false;
        self.epoch = Epoch(clock_epoch().0.max(self.epoch.0.saturating_add(1)));
        source.restart();
        self.request(now, Request::Begin { epoch: self.epoch });
    }

    fn request(&mut self, now: Instant, request: Request) {
        let Some(connection) = self.connection else { return };
        self.in_flight += 1;
        if !self.link.send(connection, request) {
            // Not within IN_FLIGHT; if it were to happen, only a new snapshot is right again.
            error!("queue towards FastForward is full; telling it everything again");
            self.retry_at.get_or_insert(now + REFUSED);
        }
    }

    /// When to [`Client::flush`] again, if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Sends what is owed and fits. Call it after every event and every change of the table.
    pub fn flush(&mut self, now: Instant, source: &mut impl Source) {
        if self.connection.is_none() {
            return;
        }
        let again = match self.retry_at {
            Some(at) if now < at || self.in_flight > 0 => return,
            at => at.is_some(),
        };
        if again || !self.begun {
            self.begin(now, source);
        }
        let epoch = self.epoch;
        while self.in_flight < IN_FLIGHT && self.retry_at.is_none() {
            let ops = source.take(MAX_OPS);
            if ops.is_empty() {
                break;
            }
            self.request(now, Request::Program { epoch, ops });
        }
        // Only when all of it was taken: `End` after a refused batch would sweep what that batch renewed.
        if !self.ended && self.in_flight == 0 && self.retry_at.is_none() && source.complete() {
            self.ended = true;
            self.request(now, Request::End { epoch });
            info!("FastForward has the whole table");
        }
    }
}

/// A number that grows from one life of the daemon to the next.
fn clock_epoch() -> Epoch {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Epoch(u64::try_from(micros).unwrap_or(u64::MAX))
}
