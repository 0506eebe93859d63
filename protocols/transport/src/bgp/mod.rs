//! BGP over TCP: drives the sans-IO engine of `edgeplex-bgp` with sockets, timers and one task a neighbour.
//!
//! ```text
//!   daemon ── Speaker: advertise, withdraw… ──► task of a neighbour ── TCP ──► neighbour
//!          ◄── Event (bounded: not taken, the neighbour is not read) ──┘ ▲
//!                                         listener ── accepted stream ───┘
//! ```

mod connection;
mod listener;
mod succession;
mod task;

use crate::Mode;
use edgeplex_bgp::{Graceful, Local, PeerConfig};
use edgeplex_bgp_wire::{Attributes, Cease, Family, Nlri, NlriKey, Notification, Reach, Unreach};
use edgeplex_mgmt::show::BgpNeighbor;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use succession::{Following, Stage, Turn};
use task::{Command, Status, Wiring};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;

/// Events that may wait for the daemon, over all neighbours.
const EVENTS: usize = 64;
/// Accepted connections that may wait for a neighbour's task.
const ACCEPTED: usize = 4;
/// How long a shutdown may take.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// What all sessions of a speaker share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeakerConfig {
    pub local_as: u32,
    pub router_id: Ipv4Addr,
    /// Where to accept connections; tried again until the address is there. None: connect only.
    pub listen: Vec<SocketAddr>,
}

/// What a session has to say to its daemon. Not read, it stops the reading of that neighbour's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Up {
        peer: IpAddr,
        /// BGP identifier of the peer, for the decision process.
        router_id: Ipv4Addr,
        /// The peer sends graceful-restart capability: its End-of-RIB will come.
        peer_has_gr: bool,
        /// The peer has just been started again: whoever waits for every peer's End-of-RIB does not wait for this one's.
        restarted: bool,
        families: Vec<Family>,
        /// Stale routes of these families stay until End-of-RIB; those of others go now (RFC 4724 §4.2).
        preserved: Vec<Family>,
        /// It came up where we followed, or in a past life of ours; since then we may have taken it over.
        taken_over: bool,
    },
    /// `graceful`: keep the peer's routes as stale until it is back (RFC 4724 §4.2); otherwise they are gone.
    Down {
        peer: IpAddr,
        reason: String,
        graceful: Option<Graceful>,
    },
    /// `attributes` and `next_hop` belong to `reach` and mean nothing where it is empty. Routes that carry our own
    /// AS or identifier, and those treated as withdrawn (RFC 7606), arrive as `unreach`.
    Update {
        peer: IpAddr,
        ibgp: bool,
        attributes: Arc<Attributes>,
        next_hop: IpAddr,
        reach: Vec<Reach>,
        unreach: Vec<Unreach>,
    },
    EndOfRib {
        peer: IpAddr,
        family: Family,
    },
}

/// Where accepted connections go, by the address they come from.
#[derive(Debug, Default)]
struct Doors {
    open: Mutex<HashMap<IpAddr, mpsc::Sender<TcpStream>>>,
    refused: AtomicU64,
}

impl Doors {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, mpsc::Sender<TcpStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the stream back, counted as refused, if nobody awaits it.
    fn hand_over(&self, from: IpAddr, stream: TcpStream) -> Result<(), TcpStream> {
        let given = match self.lock().get(&from) {
            Some(door) => door.try_send(stream).map_err(TrySendError::into_inner),
            None => Err(stream),
        };
        given.inspect_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
        })
    }
}

#[derive(Debug)]
struct Neighbor {
    commands: mpsc::UnboundedSender<Command>,
    status: Arc<Mutex<Status>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    local: Local,
    neighbors: Mutex<BTreeMap<IpAddr, Neighbor>>,
    doors: Arc<Doors>,
    events: mpsc::Sender<Event>,
    /// Per listener: which family of addresses it accepts from, and where it learns the neighbours' keys.
    keys: Vec<(bool, mpsc::UnboundedSender<listener::Key>)>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
    /// To be locked after `neighbors`.
    stage: Mutex<Stage>,
}

/// All sessions of one daemon. Cloning gives another handle to the same speaker; with the last one everything ends.
#[derive(Debug, Clone)]
pub struct Speaker {
    shared: Arc<Shared>,
}

impl Speaker {
    /// Must be called within a tokio runtime.
    pub fn start(config: SpeakerConfig, mode: Mode) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let doors = Arc::new(Doors::default());
        let (keys, receivers): (Vec<_>, Vec<_>) = config
            .listen
            .into_iter()
            .map(|address| {
                let (sender, receiver) = mpsc::unbounded_channel();
                ((address.is_ipv4(), sender), (address, receiver))
            })
            .unzip();
        // Who follows lets nobody in.
        let (stage, listeners) = match mode {
            Mode::Live(journal) => (Stage::Live(journal), receivers),
            Mode::Following => (Stage::Following(Following::new(receivers)), Vec::new()),
        };
        let shared = Shared {
            local: Local { asn: config.local_as, router_id: config.router_id },
            neighbors: Mutex::default(),
            doors,
            events,
            keys,
            listeners: Mutex::default(),
            stage: Mutex::new(stage),
        };
        let speaker = Self { shared: Arc::new(shared) };
        let listeners = listeners.into_iter().map(|(address, keys)| speaker.listen(address, keys)).collect();
        *speaker.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner) = listeners;
        (speaker, receiver)
    }

    fn stop_listening(&self) {
        let listeners = std::mem::take(&mut *self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        listeners.iter().for_each(JoinHandle::abort);
        self.shared.doors.lock().clear();
    }

    fn neighbors_locked(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Neighbor>> {
        self.shared.neighbors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, peer: IpAddr, command: Command) {
        if let Some(neighbor) = self.neighbors_locked().get(&peer) {
            // A task that has ended no longer needs to know.
            let _ = neighbor.commands.send(command);
        }
    }

    fn set_key(&self, peer: IpAddr, password: Option<String>) {
        for (_, keys) in self.shared.keys.iter().filter(|(ipv4, _)| *ipv4 == peer.is_ipv4()) {
            // A listener that has ended needs no key.
            let _ = keys.send(listener::Key { peer, password: password.clone() });
        }
    }

    /// Adds a neighbour, or moves it to another configuration; nothing happens if it is the same. Desired routes stay.
    /// A change of `max_prefix` alone does not disturb the session.
    pub fn set_peer(&self, config: PeerConfig) {
        let address = config.address;
        self.set_key(address, config.password.clone());
        let mut neighbors = self.neighbors_locked();
        if let Some(neighbor) = neighbors.get(&address) {
            let _ = neighbor.commands.send(Command::Configure(config));
            return;
        }
        let (commands, command_receiver) = mpsc::unbounded_channel();
        let (door, accepted) = mpsc::channel(ACCEPTED);
        let neighbor = BgpNeighbor {
            address,
            remote_as: config.remote_as,
            state: edgeplex_bgp::State::Idle.name().to_owned(),
            established_s: None,
            prefixes_received: 0,
            prefixes_sent: 0,
            messages_received: 0,
            messages_sent: 0,
            resets: 0,
            last_error: None,
            treated_as_withdraw: 0,
            attributes_discarded: 0,
            families: vec![],
            capabilities: vec![],
        };
        let status = Arc::new(Mutex::new(Status { neighbor, established_at: None }));
        let wiring = Wiring { commands: command_receiver, accepted, events: self.shared.events.clone(), status: Arc::clone(&status) };
        self.shared.doors.lock().insert(address, door);
        let journal = match &mut *self.stage() {
            Stage::Live(journal) => Some(journal.clone()),
            Stage::Following(following) => {
                for (session, piece) in following.early(address) {
                    let _ = commands.send(Command::Turn(Turn::Replay(session, piece)));
                }
                None
            }
        };
        let task = tokio::spawn(task::run(config, self.shared.local, wiring, journal));
        neighbors.insert(address, Neighbor { commands, status, task });
    }

    /// Ends the session with Cease/3 and forgets the neighbour. No `Down` follows.
    pub fn remove_peer(&self, peer: IpAddr) {
        self.tell(peer, Command::Stop(Some(Notification::cease(Cease::PeerDeconfigured))));
        self.shared.doors.lock().remove(&peer);
        self.set_key(peer, None);
        self.neighbors_locked().remove(&peer);
    }

    /// Sets the desired route of a neighbour; it is kept across its sessions. The attributes are those of our RIB: what
    /// the session's kind requires is done on sending: towards eBGP the local AS stands in front (added unless it is
    /// already there), LOCAL_PREF and reflection attributes are left out, and so is a MED learnt from another AS;
    /// towards iBGP LOCAL_PREF is filled in; as_override and remove_private_as of the neighbour are applied. Communities go as
    /// they are, and well-known ones are honoured (RFC 1997). Without a next hop it is our own address of the session.
    pub fn advertise(&self, peer: IpAddr, nlri: Nlri, attributes: Arc<Attributes>, next_hop: impl Into<Option<IpAddr>>) {
        self.tell(peer, Command::Advertise { nlri, attributes, next_hop: next_hop.into() });
    }

    pub fn withdraw(&self, peer: IpAddr, key: NlriKey) {
        self.tell(peer, Command::Withdraw(key));
    }

    /// Routes of this family are complete: from now on they are sent, and End-of-RIB after them. Needed once for a
    /// neighbour, whether it does graceful restart or not; until then nothing of the family is sent.
    pub fn release(&self, peer: IpAddr, family: Family) {
        self.tell(peer, Command::Release(family));
    }

    /// Asks the neighbour to send its routes of a family again (RFC 2918), if it can.
    pub fn refresh(&self, peer: IpAddr, family: Family) {
        self.tell(peer, Command::Refresh(family));
    }

    /// BFD says that the way to the neighbour is broken: the session ends with Cease/10 (RFC 9384) and its routes go at once;
    /// it comes back by itself.
    pub fn bfd_down(&self, peer: IpAddr) {
        self.tell(peer, Command::BfdDown);
    }

    /// Ends the session with Cease/4; it comes back by itself.
    pub fn reset(&self, peer: IpAddr) {
        self.tell(peer, Command::Reset);
    }

    /// All neighbours in the order of their addresses.
    pub fn neighbors(&self) -> Vec<BgpNeighbor> {
        let neighbors = self.neighbors_locked();
        let shown = neighbors.values().map(|n| {
            let status = n.status.lock().unwrap_or_else(PoisonError::into_inner);
            BgpNeighbor { established_s: status.established_at.map(|at| at.elapsed().as_secs()), ..status.neighbor.clone() }
        });
        shown.collect()
    }

    /// Connections refused since the start because no neighbour of ours has their address.
    pub fn refused(&self) -> u64 {
        self.shared.doors.refused.load(Ordering::Relaxed)
    }

    /// Ends everything. `graceful`: connections close without a NOTIFICATION, so that neighbours keep our routes
    /// (RFC 4724); otherwise each gets Cease/2. Returns when the sockets are closed, after 2 s at the latest.
    pub async fn shutdown(&self, graceful: bool) {
        self.stop_listening();
        let neighbors = std::mem::take(&mut *self.neighbors_locked());
        let mut tasks = Vec::new();
        for neighbor in neighbors.into_values() {
            let words = (!graceful).then(|| Notification::cease(Cease::AdministrativeShutdown));
            let _ = neighbor.commands.send(Command::Stop(words));
            tasks.push(neighbor.task);
        }
        let all = async {
            for task in tasks {
                // A task that panicked has closed its sockets as well.
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(SHUTDOWN, all).await;
    }
}
