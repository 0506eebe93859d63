//! OSPF on the wire: drives the sans-IO engine of `edgeplex-ospf` with one raw socket an interface.
//!
//! ```text
//!   daemon ── Handle: configure, interface, neighbor_lost, link_cost, show ──► task ── IP protocol 89 ──► core interfaces
//!          ◄── Event: Routes (the newest only), NeighborUp, NeighborDown ──────┘
//! ```

mod rows;
mod socket;
mod task;

use crate::{Mode, Promoted, journal::Journal};
use edgeplex_journal::Record;
use edgeplex_mgmt::config::{CoreInterface, OspfAuthentication, OspfNetwork};
use edgeplex_mgmt::show::{LsaRow, OspfInterfaceRow, OspfNeighborRow, OspfRouteRow};
use edgeplex_ospf::{Algorithm, Authentication, InterfaceConfig, Network};
pub use edgeplex_ospf::{Config, Route};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use task::Command;
use tokio::sync::{mpsc, oneshot};

/// Names of OSPF's values in the journal begin with this.
const PREFIX: &str = "ospf/";
/// Events that may wait for the daemon; more wait in the task, of routes the newest alone.
const EVENTS: usize = 16;
/// How long a shutdown may take.
const SHUTDOWN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All routes, whenever one has changed.
    Routes(Arc<BTreeMap<Ipv4Net, Route>>),
    /// An adjacency is Full: time for BFD.
    NeighborUp {
        interface: Arc<str>,
        address: Ipv4Addr,
        router_id: Ipv4Addr,
    },
    NeighborDown {
        interface: Arc<str>,
        address: Ipv4Addr,
        router_id: Ipv4Addr,
        reason: String,
    },
}

/// The way to one router's task. Cloning gives another to the same; with the last one the task ends, silently.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
}

/// Must be called within a tokio runtime; the sockets belong to the network namespace of the thread that runs it. All
/// interfaces are down until [`Handle::interface`] says otherwise. `restarting`: a past process of ours has just gone, and its
/// neighbours may still wait (RFC 3623); no routes are told until its adjacencies are back or its time is over.
pub fn start(config: Config, restarting: bool, mode: Mode) -> (Handle, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(EVENTS);
    let (commands, command_receiver) = mpsc::unbounded_channel();
    tokio::spawn(task::run(config, restarting, mode, command_receiver, events));
    (Handle { commands }, receiver)
}

impl Handle {
    fn tell(&self, command: Command) {
        // A task that has ended no longer needs to know.
        let _ = self.commands.send(command);
    }

    /// Moves to another configuration; nothing happens where it is the same.
    pub fn configure(&self, config: Config) {
        self.tell(Command::Configure(config));
    }

    /// The interface is there with its address, and has a carrier; or no longer.
    pub fn interface(&self, name: &str, up: bool) {
        self.tell(Command::Interface { name: name.into(), up });
    }

    /// BFD lost this neighbour.
    pub fn neighbor_lost(&self, interface: &str, address: Ipv4Addr) {
        self.tell(Command::NeighborLost { interface: interface.into(), address });
    }

    /// LDP-IGP synchronization (RFC 5443): `max` announces the link at the highest cost.
    pub fn link_cost(&self, interface: &str, max: bool) {
        self.tell(Command::LinkCost { interface: interface.into(), max });
    }

    /// An empty answer if the task has ended.
    async fn ask<T: Default>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (answer, answered) = oneshot::channel();
        self.tell(question(answer));
        answered.await.unwrap_or_default()
    }

    pub async fn show_neighbors(&self) -> Vec<OspfNeighborRow> {
        self.ask(Command::ShowNeighbors).await
    }

    pub async fn show_interfaces(&self) -> Vec<OspfInterfaceRow> {
        self.ask(Command::ShowInterfaces).await
    }

    pub async fn show_database(&self) -> Vec<LsaRow> {
        self.ask(Command::ShowDatabase).await
    }

    pub async fn show_routes(&self) -> Vec<OspfRouteRow> {
        self.ask(Command::ShowRoutes).await
    }

    /// Resolves when the daemon has taken, or will find in the channel, every event of what was heard or commanded so far. Events must be
    /// taken meanwhile.
    pub async fn told(&self) {
        self.ask(Command::Told).await;
    }

    /// To one that follows: a change that the active instance has written down. Those of others are let pass.
    pub fn replay(&self, record: &Record) {
        let (name, value) = match record {
            Record::Put { name, value } => (name, Some(value.clone())),
            Record::Delete { name } => (name, None),
            _ => return,
        };
        if name.starts_with(PREFIX) {
            self.tell(Command::Replay(name.clone(), value));
        }
    }

    /// To one that follows: the journal begins anew, so what was replayed is forgotten.
    pub fn forget(&self) {
        self.tell(Command::Forget);
    }

    /// To one that follows: everything has been replayed, and nobody else speaks. Adjacencies are Full as they were; all routes have been
    /// told ([`Event::Routes`] is in the channel) when this returns. An interface that [`Handle::interface`] has not yet said anything of is
    /// taken to be up.
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

    /// Ends the task. `graceful`: neighbours are asked to keep us until another process of ours is there (RFC 3623);
    /// otherwise our LSAs are flushed and neighbours forget us at once. Returns when the sockets are closed, after 1 s at the latest.
    pub async fn shutdown(&self, graceful: bool) {
        let (done, ended) = oneshot::channel();
        self.tell(Command::Shutdown { graceful, done });
        // An error says that the task has ended before.
        let _ = tokio::time::timeout(SHUTDOWN, ended).await;
    }
}

/// The engine's configuration from the daemon's. Core interfaces without OSPF are left out.
pub fn config(router_id: Ipv4Addr, hosts: &[Ipv4Addr], ospf: &edgeplex_mgmt::config::Ospf, core: &[CoreInterface]) -> Config {
    let interfaces = core.iter().filter_map(|c| Some((Arc::from(c.name.as_str()), interface_config(c)?)));
    Config {
        hosts: hosts.to_vec(),
        interfaces: interfaces.collect(),
        stub_router: ospf.stub_router,
        grace_s: ospf.grace_s,
        loop_free_alternates: ospf.loop_free_alternates,
        ..Config::new(router_id, ospf.area)
    }
}

fn interface_config(core: &CoreInterface) -> Option<InterfaceConfig> {
    let ospf = core.ospf.as_ref()?;
    let network = match ospf.network {
        OspfNetwork::PointToPoint => Network::PointToPoint,
        OspfNetwork::Broadcast => Network::Broadcast,
    };
    Some(InterfaceConfig {
        address: core.address,
        mtu: core.mtu,
        network,
        cost: ospf.cost,
        priority: ospf.priority,
        hello_s: ospf.hello_s,
        dead_s: ospf.dead_s,
        retransmit_s: ospf.retransmit_s,
        passive: ospf.passive,
        authentication: authentication(&ospf.authentication),
    })
}

fn authentication(given: &OspfAuthentication) -> Authentication {
    let cryptographic =
        |algorithm, key_id: &u8, key: &String| Authentication::Cryptographic { algorithm, key_id: *key_id, key: key.clone() };
    match given {
        OspfAuthentication::Null => Authentication::Null,
        OspfAuthentication::Simple { password } => Authentication::Simple(password.clone()),
        OspfAuthentication::Md5 { key_id, password } => cryptographic(Algorithm::Md5, key_id, password),
        OspfAuthentication::HmacSha256 { key_id, password } => cryptographic(Algorithm::HmacSha256, key_id, password),
        OspfAuthentication::HmacSha384 { key_id, password } => cryptographic(Algorithm::HmacSha384, key_id, password),
        OspfAuthentication::HmacSha512 { key_id, password } => cryptographic(Algorithm::HmacSha512, key_id, password),
    }
}
