//! One neighbour's task: it owns the engine and the connections, and is the only one to touch them.
//!
//! What the session has to say waits in `backlog` until the daemon takes it; meanwhile nothing is read from the
//! neighbour, so that a flood stops at its own TCP window. Commands of the daemon are always taken.

mod succession;

pub(super) use succession::end;

use super::Event;
use super::connection::{self, Connection, READ_SIZE, WRITE_AHEAD};
use super::succession::Turn;
use crate::journal::Journal;
use edgeplex_bgp::{Action, ConnId, Event as Input, Local, Peer, PeerConfig, Time};
use edgeplex_bgp_wire::{Attributes, Cease, Family, Nlri, NlriKey, Notification};
use edgeplex_journal::SessionId;
use edgeplex_mgmt::show::BgpNeighbor;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};

/// RFC 9687 §5: at least eight minutes.
const SEND_HOLD: Duration = Duration::from_secs(8 * 60);
/// Connections that may be closing at once; more are cut off.
const MAX_LINGERING: usize = 4;
/// Commands worked off before connections are looked after again.
const COMMANDS_AT_ONCE: usize = 1024;
/// Rounds of composing and writing before commands and reading have their turn.
const WRITES_AT_ONCE: usize = 8;
/// Malformed UPDATEs are logged at this pace; all are counted.
const LOG_PACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Command {
    Advertise {
        nlri: Nlri,
        attributes: Arc<Attributes>,
        next_hop: Option<IpAddr>,
    },
    Withdraw(NlriKey),
    Release(Family),
    Refresh(Family),
    Reset,
    BfdDown,
    Configure(PeerConfig),
    Stop(Option<Notification>),
    /// Answered when all events of before are with the daemon.
    Told(oneshot::Sender<()>),
    Turn(Turn),
}

/// What `show` tells; written by the task alone.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) neighbor: BgpNeighbor,
    pub(super) established_at: Option<Instant>,
}

/// The task's ends of its channels.
#[derive(Debug)]
pub(super) struct Wiring {
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) accepted: mpsc::Receiver<TcpStream>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) status: Arc<Mutex<Status>>,
}

struct Task {
    peer: Peer,
    wiring: Wiring,
    /// `None` while another speaks.
    journal: Option<Journal>,
    /// Its connections, by their names in its journal.
    followed: Vec<(SessionId, ConnId)>,
    /// Everything stands still.
    fenced: bool,
    /// Moment zero of the engine's time.
    zero: Instant,
    local_as: u32,
    backlog: VecDeque<Event>,
    /// Who waits for the backlog to be empty.
    told: Vec<oneshot::Sender<()>>,
    connections: Vec<Connection>,
    connecting: JoinSet<(ConnId, io::Result<TcpStream>)>,
    aborts: Vec<(ConnId, AbortHandle)>,
    lingering: JoinSet<()>,
    buffer: Vec<u8>,
    stopping: bool,
    /// The established connection may take more at once.
    more_to_write: bool,
    faults_logged: (u64, Option<Instant>),
}

/// What woke the task.
enum Wake {
    Command(Option<Command>),
    Delivered(bool),
    Readable(usize),
    Writable,
    Accepted(TcpStream),
    Connected(ConnId, io::Result<TcpStream>),
    Nothing,
    Timer,
}

/// Runs one neighbour until it is stopped or the speaker is gone.
pub(super) async fn run(config: PeerConfig, local: Local, wiring: Wiring, journal: Option<Journal>) {
    let mut task = Task {
        local_as: local.asn,
        peer: if journal.is_some() { Peer::new(config, local) } else { Peer::following(config, local) },
        wiring,
        journal,
        followed: Vec::new(),
        fenced: false,
        zero: Instant::now(),
        backlog: VecDeque::new(),
        told: Vec::new(),
        connections: Vec::new(),
        connecting: JoinSet::new(),
        aborts: Vec::new(),
        lingering: JoinSet::new(),
        buffer: vec![0; READ_SIZE],
        stopping: false,
        more_to_write: false,
        faults_logged: (0, None),
    };
    task.step(Input::Start, None);
    while !task.stopping {
        task.write_all();
        task.publish();
        let wake = task.wait().await;
        task.woken(wake);
    }
    task.publish();
    // Last words are on their way; each has its own time limit.
    while task.lingering.join_next().await.is_some() {}
}

impl Task {
    fn now(&self) -> Time {
        self.zero.elapsed()
    }

    async fn wait(&mut self) -> Wake {
        let now = self.now();
        let blocked = !self.backlog.is_empty();
        if !blocked {
            // Whoever no longer waits need not know.
            for done in self.told.drain(..) {
                let _ = done.send(());
            }
        }
        self.peer.set_paused(now, blocked || self.fenced);
        let stall = self.connections.iter().filter_map(Connection::stalled).min().map(|at| at + self.send_hold());
        let fenced = self.fenced;
        let timer = self.peer.deadline().map(|at| self.zero + at).into_iter().chain(stall).min().filter(|_| !fenced);
        let sleep = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let connections = &self.connections;
        let io = poll_fn(|cx| {
            if let Some(at) = connections.iter().position(|c| !blocked && c.poll_readable(cx)) {
                return Poll::Ready(Wake::Readable(at));
            }
            if connections.iter().any(|c| c.poll_writable(cx)) { Poll::Ready(Wake::Writable) } else { Poll::Pending }
        });
        tokio::select! {
            command = self.wiring.commands.recv() => Wake::Command(command),
            permit = self.wiring.events.reserve(), if blocked => match (permit, self.backlog.pop_front()) {
                (Ok(permit), Some(event)) => {
                    permit.send(event);
                    Wake::Delivered(true)
                }
                (Ok(_), None) => Wake::Delivered(true),
                (Err(_), _) => Wake::Delivered(false),
            },
            wake = io, if !fenced => wake,
            Some(stream) = self.wiring.accepted.recv(), if !fenced => Wake::Accepted(stream),
            Some(done) = self.connecting.join_next(), if !fenced && !self.connecting.is_empty() => match done {
                Ok((id, result)) => Wake::Connected(id, result),
                // Aborted by us.
                Err(_) => Wake::Nothing,
            },
            Some(_) = self.lingering.join_next(), if !self.lingering.is_empty() => Wake::Nothing,
            () = sleep => Wake::Timer,
            () = std::future::ready(()), if self.more_to_write => Wake::Nothing,
        }
    }

    fn woken(&mut self, wake: Wake) {
        match wake {
            Wake::Command(None) | Wake::Delivered(false) => {
                // The daemon has dropped the speaker: nobody is left to speak for.
                self.step(Input::Stop(None), None);
                self.stopping = true;
            }
            Wake::Command(Some(command)) => {
                self.command(command);
                for _ in 1..COMMANDS_AT_ONCE {
                    match self.wiring.commands.try_recv() {
                        Ok(command) => self.command(command),
                        Err(_) => break,
                    }
                }
            }
            Wake::Readable(at) => self.read(at),
            Wake::Accepted(stream) => self.accepted(stream),
            Wake::Connected(id, result) => {
                let Some(at) = self.aborts.iter().position(|(other, _)| *other == id) else {
                    // It stood just before it was given up; the engine knows it no more.
                    return;
                };
                self.aborts.swap_remove(at);
                match result {
                    Ok(stream) => match stream.local_addr() {
                        Ok(local) => {
                            self.connect_up(id, stream, false);
                            self.step(Input::Connected(id, local.ip().to_canonical()), None);
                        }
                        // Reset before we could look.
                        Err(error) => self.step(Input::Closed(id, &error.to_string()), None),
                    },
                    Err(error) => {
                        let reason = format!("cannot connect: {error}");
                        let no_route = error.kind() == io::ErrorKind::NetworkUnreachable;
                        self.step(if no_route { Input::NoRoute(id, &reason) } else { Input::Closed(id, &reason) }, None);
                    }
                }
            }
            Wake::Timer => self.timer(),
            // Writing comes before every wait.
            Wake::Writable | Wake::Delivered(true) | Wake::Nothing => {}
        }
    }

    /// A connection stands, and nothing was said on it yet.
    fn connect_up(&mut self, id: ConnId, stream: TcpStream, passive: bool) {
        // Who follows neither connects nor lets anybody in.
        if let Some(journal) = &self.journal {
            self.connections.push(Connection::new(id, stream, passive, journal));
        }
    }

    fn accepted(&mut self, stream: TcpStream) {
        let guarded = connection::guard(stream.as_fd(), self.peer.config());
        // One that is gone already has no address of ours any more, and is let go.
        match guarded.and_then(|()| stream.local_addr()) {
            Ok(local) => self.step(Input::Accepted(local.ip().to_canonical()), Some(stream)),
            Err(error) => warn!(peer = %self.peer.config().address, %error, "cannot take the connection"),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Advertise { nlri, attributes, next_hop } => self.peer.rib_out().advertise(nlri, attributes, next_hop),
            Command::Withdraw(key) => self.peer.rib_out().withdraw(key),
            Command::Release(family) => self.peer.rib_out().release(family),
            Command::Refresh(family) => self.step(Input::Refresh(family), None),
            Command::Reset => self.step(Input::Reset, None),
            Command::BfdDown => self.step(Input::BfdDown, None),
            Command::Configure(config) => self.configure(config),
            Command::Told(done) => self.told.push(done),
            Command::Turn(turn) => self.turn(turn),
            Command::Stop(notification) => {
                self.step(Input::Stop(notification.as_ref()), None);
                self.stopping = true;
            }
        }
    }

    fn configure(&mut self, config: PeerConfig) {
        let mut same = self.peer.config().clone();
        if self.peer.is_following() {
            // What stands is judged by it on promotion.
            self.peer.reconfigure(config);
            return;
        }
        same.max_prefix = config.max_prefix;
        // Whether we have just restarted was settled when the neighbour was set first.
        same.graceful_restart = same.graceful_restart.zip(config.graceful_restart).map(|(_, theirs)| theirs).or(same.graceful_restart);
        if same == config {
            self.peer.set_max_prefix(config.max_prefix);
            return;
        }
        let words = match &config.shutdown {
            // RFC 9003
            Some(words) => Notification::shutdown(words),
            None => Notification::cease(Cease::OtherConfigurationChange),
        };
        self.step(Input::Stop(Some(&words)), None);
        self.peer.reconfigure(config);
        self.step(Input::Start, None);
    }

    fn timer(&mut self) {
        // What has arrived already counts before a hold timer does: we may have been frozen, not the neighbour.
        if self.backlog.is_empty() {
            (0..self.connections.len()).rev().for_each(|at| self.read(at));
        }
        let hold = self.send_hold();
        let stalled: Vec<_> =
            self.connections.iter().filter(|c| c.stalled().is_some_and(|at| at.elapsed() >= hold)).map(|c| c.id).collect();
        for id in stalled {
            self.step(Input::SendStalled(id), None);
        }
        if self.peer.deadline().is_some_and(|at| at <= self.now()) {
            self.step(Input::Timer, None);
        }
    }

    fn send_hold(&self) -> Duration {
        SEND_HOLD.max(Duration::from_secs(2 * u64::from(self.peer.config().hold_time)))
    }

    fn read(&mut self, at: usize) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        let id = connection.id;
        let mut buffer = std::mem::take(&mut self.buffer);
        match connection.read_now(&mut buffer) {
            Ok(None) => {}
            Ok(Some(0)) => self.step(Input::Closed(id, "the peer closed the connection"), None),
            Ok(Some(n)) => self.step(Input::Received(id, buffer.get(..n).unwrap_or_default()), None),
            Err(error) => self.step(Input::Closed(id, &error.to_string()), None),
        }
        self.buffer = buffer;
    }

    /// Writes on all connections; composes UPDATEs as long as the established one takes them.
    fn write_all(&mut self) {
        if self.fenced {
            return;
        }
        let established = self.peer.established_connection();
        self.more_to_write = false;
        let mut failed = Vec::new();
        for c in &mut self.connections {
            let mut written = c.write_now();
            if Some(c.id) == established {
                let mut rounds = 0;
                while written.is_ok() && c.waiting() == 0 {
                    while c.waiting() < WRITE_AHEAD && self.peer.next_update(c.out()) {}
                    if c.waiting() == 0 {
                        break;
                    }
                    written = c.write_now();
                    rounds += 1;
                    if rounds == WRITES_AT_ONCE {
                        self.more_to_write = true;
                        break;
                    }
                }
            }
            if let Err(error) = written {
                failed.push((c.id, error));
            }
        }
        for (id, error) in failed {
            self.step(Input::Closed(id, &error.to_string()), None);
        }
    }

    fn step(&mut self, input: Input<'_>, mut accepted: Option<TcpStream>) {
        let peer = self.peer.config().address;
        let taken_over = self.peer.is_following();
        let ibgp = self.peer.config().remote_as == self.local_as;
        for action in self.peer.handle(self.now(), input) {
            match action {
                Action::Connect(id) => {
                    let config = self.peer.config().clone();
                    let abort = self.connecting.spawn(async move { (id, connection::connect(config).await) });
                    self.aborts.push((id, abort));
                }
                Action::Adopt(id) => {
                    if let Some(stream) = accepted.take() {
                        self.connect_up(id, stream, true);
                    }
                }
                Action::Send(id, bytes) => {
                    if let Some(c) = self.connections.iter_mut().find(|c| c.id == id) {
                        c.out().extend_from_slice(&bytes);
                    }
                }
                Action::Close(id) => self.close(id),
                Action::Up { router_id, peer_has_gr, restarted, families, preserved } => {
                    info!(%peer, %router_id, "BGP session established");
                    self.backlog.push_back(Event::Up { peer, router_id, peer_has_gr, restarted, families, preserved, taken_over });
                }
                Action::Down { reason, graceful } => {
                    warn!(%peer, %reason, graceful = graceful.is_some(), "BGP session down");
                    self.backlog.push_back(Event::Down { peer, reason, graceful });
                }
                Action::Update { attributes, next_hop, reach, unreach } => {
                    self.backlog.push_back(Event::Update { peer, ibgp, attributes, next_hop, reach, unreach });
                }
                Action::Warn(message) => warn!(%peer, "{message}"),
                Action::EndOfRib(family) => self.backlog.push_back(Event::EndOfRib { peer, family }),
            }
        }
    }

    fn close(&mut self, id: ConnId) {
        self.aborts.retain(|(other, abort)| {
            if *other == id {
                abort.abort();
            }
            *other != id
        });
        let Some(at) = self.connections.iter().position(|c| c.id == id) else { return };
        let connection = self.connections.swap_remove(at);
        let closing = connection.close();
        if self.lingering.len() < MAX_LINGERING {
            self.lingering.spawn(closing);
        }
    }

    fn publish(&mut self) {
        let counters = self.peer.counters();
        let faults = counters.treated_as_withdraw + counters.attributes_discarded;
        if faults > self.faults_logged.0 && self.faults_logged.1.is_none_or(|at| at.elapsed() >= LOG_PACE) {
            self.faults_logged = (faults, Some(Instant::now()));
            let fault = counters.last_fault.unwrap_or_default();
            warn!(peer = %self.peer.config().address, %fault, faults, "malformed attributes (RFC 7606)");
        }
        let neighbor = BgpNeighbor {
            address: self.peer.config().address,
            remote_as: self.peer.config().remote_as,
            state: self.peer.state().name().to_owned(),
            established_s: None,
            prefixes_received: u64::try_from(self.peer.prefixes_received()).unwrap_or(u64::MAX),
            prefixes_sent: u64::try_from(self.peer.prefixes_sent()).unwrap_or(u64::MAX),
            messages_received: counters.messages_received,
            messages_sent: counters.messages_sent,
            resets: counters.resets,
            last_error: counters.last_error,
            treated_as_withdraw: counters.treated_as_withdraw,
            attributes_discarded: counters.attributes_discarded,
            families: self
                .peer
                .families()
                .into_iter()
                .map(|(f, disabled)| format!("{f}{}", if disabled { " (ignored)" } else { "" }))
                .collect(),
            capabilities: self.peer.capabilities(),
        };
        let established_at = self.peer.established_at().map(|at| self.zero + at);
        *self.wiring.status.lock().unwrap_or_else(PoisonError::into_inner) = Status { neighbor, established_at };
    }
}
