//! LDP over UDP and TCP: drives the sans-IO engine of `edgeplex-ldp` with sockets and timers, in one task.
//!
//! ```text
//!   daemon ── Handle: configure, interface, routes ──► task ── Hellos, one socket an interface ──► 224.0.0.2
//!          ◄── Event (the newest forwarding) ────────────┘ └── sessions, one TCP connection each ──► neighbours
//! ```

mod connection;
mod sockets;
mod succession;
mod task;

use crate::{Mode, Promoted, journal::Journal};
use edgeplex_journal::Record;
use edgeplex_ldp::{Config, Forwarding, Routes, Start};
use edgeplex_mgmt::show::{LdpBindingRow, LdpNeighborRow};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Names of LDP's values in the journal begin with this.
const PREFIX: &str = "ldp/";
/// Events that may wait for the daemon.
const EVENTS: usize = 64;
/// How long a shutdown may take.
const SHUTDOWN: Duration = Duration::from_secs(2);
/// UDP and TCP (RFC 5036 §2.10).
const PORT: u16 = 646;

/// What LDP has to say to its daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The newest state; what lay between is left out.
    Forwarding(Arc<Forwarding>),
    SessionUp {
        lsr_id: Ipv4Addr,
        interfaces: Vec<Arc<str>>,
    },
    SessionDown {
        lsr_id: Ipv4Addr,
        interfaces: Vec<Arc<str>>,
        reason: String,
    },
    /// For LDP-IGP synchronization (RFC 5443); until it is first told, an interface is not in step.
    Synced {
        interface: Arc<str>,
        synced: bool,
    },
    /// To be stored for [`Start::bindings`].
    Store(BTreeMap<Ipv4Net, Label>),
    /// What was kept over our restart is confirmed or given up; what the forwarder has beyond the last forwarding may go.
    Recovered,
}

#[derive(Debug)]
enum Command {
    Configure(Config),
    Interface {
        name: Arc<str>,
        address: Ipv4Addr,
        up: bool,
    },
    Routes(Arc<Routes>),
    Reset(Ipv4Addr),
    Neighbors(oneshot::Sender<Vec<LdpNeighborRow>>),
    Bindings(oneshot::Sender<Vec<LdpBindingRow>>),
    /// Answered when all events of before are with the daemon.
    Told(oneshot::Sender<()>),
    Replay(Box<Record>),
    Forget,
    Promote(Journal, oneshot::Sender<Promoted>),
    Fence(oneshot::Sender<()>),
    Unfence,
    Leave(oneshot::Sender<()>),
    Shutdown {
        graceful: bool,
        done: oneshot::Sender<()>,
    },
}

/// One LDP speaker. Cloning gives another handle to the same; with the last one it ends, as `leave` does if it keeps a journal, or
/// else as `shutdown(true)`.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
}

/// Must be called within a tokio runtime.
pub fn start(config: Config, start: Start, mode: Mode) -> (Handle, mpsc::Receiver<Event>) {
    let (commands, command_receiver) = mpsc::unbounded_channel();
    let (events, receiver) = mpsc::channel(EVENTS);
    tokio::spawn(task::run(config, start, mode, command_receiver, events));
    (Handle { commands }, receiver)
}

impl Handle {
    fn tell(&self, command: Command) {
        // A task that has ended no longer needs to know.
        let _ = self.commands.send(command);
    }

    /// Nothing happens if it is the same. Another LSR identifier or password ends the sessions that it concerns.
    pub fn configure(&self, config: Config) {
        self.tell(Command::Configure(config));
    }

    /// States an interface, with LDP or without; nothing happens if it is so already.
    pub fn interface(&self, name: Arc<str>, address: Ipv4Addr, up: bool) {
        self.tell(Command::Interface { name, address, up });
    }

    /// States the whole routing table: FECs and their next hops; without next hops we are egress.
    pub fn routes(&self, routes: Arc<Routes>) {
        self.tell(Command::Routes(routes));
    }

    /// Resets one session; it comes back.
    pub fn reset(&self, lsr_id: Ipv4Addr) {
        self.tell(Command::Reset(lsr_id));
    }

    pub async fn neighbors(&self) -> Vec<LdpNeighborRow> {
        let (answer, receiver) = oneshot::channel();
        self.tell(Command::Neighbors(answer));
        receiver.await.unwrap_or_default()
    }

    pub async fn bindings(&self) -> Vec<LdpBindingRow> {
        let (answer, receiver) = oneshot::channel();
        self.tell(Command::Bindings(answer));
        receiver.await.unwrap_or_default()
    }

    /// Resolves when the daemon has taken, or will find in the channel, every event of what was replayed, heard or commanded so far.
    /// Events must be taken meanwhile.
    pub async fn told(&self) {
        let (done, told) = oneshot::channel();
        self.tell(Command::Told(done));
        let _ = told.await;
    }

    /// To one that follows: a change that the active instance has written down. Those of others are let pass.
    pub fn replay(&self, record: &Record) {
        let ours = match record {
            Record::Put { name, .. } | Record::Delete { name } => name.starts_with(PREFIX),
            _ => true,
        };
        if ours {
            self.tell(Command::Replay(Box::new(record.clone())));
        }
    }

    /// To one that follows: the journal begins anew, so what was replayed is forgotten.
    pub fn forget(&self) {
        self.tell(Command::Forget);
    }

    /// To one that follows: everything has been replayed, and nobody else speaks. Sessions go on over their
    /// connections. Until [`Handle::routes`] is called after this, no label is withdrawn and none given: call it once the routes are
    /// complete again.
    pub async fn promote(&self, journal: Journal) -> Promoted {
        let (done, promoted) = oneshot::channel();
        self.tell(Command::Promote(journal, done));
        promoted.await.unwrap_or_default()
    }

    /// Everything stands still: nothing is said or heard. Returns when what was written down is committed.
    pub async fn fence(&self) {
        let (done, fenced) = oneshot::channel();
        self.tell(Command::Fence(done));
        let _ = fenced.await;
    }

    /// It goes on after [`Handle::fence`].
    pub fn unfence(&self) {
        self.tell(Command::Unfence);
    }

    /// Falls silent for good, without a word to the neighbours: a successor goes on with what was written down. Returns when
    /// the sockets are closed.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        self.tell(Command::Leave(done));
        let _ = left.await;
    }

    /// Ends everything. `graceful`: connections close without a word, so that neighbours keep our labels (RFC 3478);
    /// otherwise each is told Shutdown. Returns when the last words are out, after 2 s at the latest.
    pub async fn shutdown(&self, graceful: bool) {
        let (done, receiver) = oneshot::channel();
        self.tell(Command::Shutdown { graceful, done });
        // Ended already, or late: either way there is nothing more to wait for.
        let _ = tokio::time::timeout(SHUTDOWN, receiver).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_follows_from_a_command_is_in_the_channel_when_it_was_told() {
        let label = |n| Label::try_from(n).unwrap();
        let labels = edgeplex_types::LabelRange::new(label(100), label(199)).unwrap();
        let config = Config::new([192, 0, 2, 1].into(), labels);
        let (handle, mut events) = start(config, Start::default(), Mode::Live(Journal::none()));
        for n in 0..100 {
            let own = Ipv4Net::new([10, 0, n, 0].into(), 24).unwrap();
            handle.routes(Arc::new([(own, vec![])].into()));
            handle.told().await;
            let there = std::iter::from_fn(|| events.try_recv().ok());
            let of_route = |e: &Event| matches!(e, Event::Forwarding(f) if f.contains_key(&own));
            assert_eq!(there.filter(of_route).count(), 1, "route {n}");
        }
    }
}
