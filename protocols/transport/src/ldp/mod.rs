//! LDP over UDP and TCP: drives the sans-IO engine of `edgeplex-ldp` with sockets and timers, in one task.
//!
//! ```text
//!   daemon ── Handle: configure, interface, routes ──► task ── Hellos, one socket an interface ──► 224.0.0.2
//!          ◄── Event (the newest forwarding) ────────────┘ └── sessions, one TCP connection each ──► neighbours
//! ```

mod connection;
mod sockets;
mod task;

use edgeplex_ldp::{Config, Forwarding, Routes, Start};
use edgeplex_mgmt::show::{LdpBindingRow, LdpNeighborRow};
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

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
    Interface { name: Arc<str>, address: Ipv4Addr, up: bool },
    Routes(Arc<Routes>),
    Reset(Ipv4Addr),
    Neighbors(oneshot::Sender<Vec<LdpNeighborRow>>),
    Bindings(oneshot::Sender<Vec<LdpBindingRow>>),
    Shutdown { graceful: bool, done: oneshot::Sender<()> },
}

/// One LDP speaker. Cloning gives another handle to the same; with the last one it ends, as `shutdown(true)` does.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
}

/// Must be called within a tokio runtime.
pub fn start(config: Config, start: Start) -> (Handle, mpsc::Receiver<Event>) {
    let (commands, command_receiver) = mpsc::unbounded_channel();
    let (events, receiver) = mpsc::channel(EVENTS);
    tokio::spawn(task::run(config, start, command_receiver, events));
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

    /// Ends everything. `graceful`: connections close without a word, so that neighbours keep our labels (RFC 3478);
    /// otherwise each is told Shutdown. Returns when the last words are out, after 2 s at the latest.
    pub async fn shutdown(&self, graceful: bool) {
        let (done, receiver) = oneshot::channel();
        self.tell(Command::Shutdown { graceful, done });
        // Ended already, or late: either way there is nothing more to wait for.
        let _ = tokio::time::timeout(SHUTDOWN, receiver).await;
    }
}
