//! The one task that owns the engine and its sockets.

use super::connection::{self, Connection, Logged, Target};
use super::sockets::{Heard, Hellos, Listener};
use super::succession::Standing;
use super::{Command, Event};
use crate::{Mode, journal::Journal};
use edgeplex_journal::{Record, SessionId};
use edgeplex_ldp::{Action, BindingView, Change, Config, ConnId, Event as Engine, Ldp, NeighborView, Start};
use edgeplex_mgmt::show::{LdpBindingRow, LdpNeighborRow, LdpRemoteBinding};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

/// Pause between attempts to listen at an address that is not there yet, and after accept() failed.
const RETRY: Duration = Duration::from_millis(250);
/// Datagrams and reads that may wait for the engine.
const INPUTS: usize = 64;
/// Most TCP connections at once, those about to close among them.
const MAX_CONNECTIONS: usize = 1024;

/// What the connections tell.
#[derive(Debug)]
pub(super) enum Input {
    Received(ConnId, Vec<u8>),
    Closed(ConnId, String),
}

pub(super) struct Task {
    pub(super) ldp: Ldp,
    /// Moment zero of the engine's time.
    zero: Instant,
    config: Config,
    pub(super) hellos: Hellos,
    listener: Listener,
    pub(super) connections: HashMap<ConnId, Connection>,
    connecting: JoinSet<(ConnId, io::Result<TcpStream>)>,
    /// To give up what is still being tried.
    attempts: HashMap<ConnId, AbortHandle>,
    /// All connections, each until its last words are out.
    open: JoinSet<()>,
    inputs: mpsc::Sender<Input>,
    accepted: u64,
    /// Nothing is accepted before.
    accept_at: Option<Instant>,
    /// What the daemon has not yet taken.
    backlog: VecDeque<Event>,
    /// Who waits for the backlog to be empty.
    told: Vec<oneshot::Sender<()>>,
    stopping: bool,
    /// None yet while we follow.
    pub(super) journal: Option<Journal>,
    /// Connections in the journal that we follow.
    pub(super) standing: BTreeMap<SessionId, Standing>,
    /// Nothing is heard or said, and what the daemon wants waits.
    pub(super) fenced: bool,
    pub(super) deferred: Vec<Command>,
    /// Interfaces of which the daemon has said whether they are up.
    pub(super) stated: BTreeSet<Arc<str>>,
}

/// Runs until it is shut down or every handle is gone.
pub(super) async fn run(
    config: Config,
    start: Start,
    mode: Mode,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let (heard_sender, mut heard) = mpsc::channel(INPUTS);
    let (inputs, mut input) = mpsc::channel(INPUTS);
    let (ldp, journal) = match mode {
        Mode::Live(journal) => (Ldp::new(Duration::ZERO, config.clone(), start), Some(journal)),
        Mode::Following => (Ldp::following(Duration::ZERO, config.clone(), start), None),
    };
    let mut task = Task {
        ldp,
        zero: Instant::now(),
        hellos: Hellos::new(heard_sender),
        listener: Listener::new(config.lsr_id),
        config,
        connections: HashMap::new(),
        connecting: JoinSet::new(),
        attempts: HashMap::new(),
        open: JoinSet::new(),
        inputs,
        accepted: 0,
        accept_at: None,
        backlog: VecDeque::new(),
        told: vec![],
        stopping: false,
        journal,
        standing: BTreeMap::new(),
        fenced: false,
        deferred: vec![],
        stated: BTreeSet::new(),
    };
    let mut done = None;
    // What a new engine has to say comes with its first event.
    task.step(Engine::Timer);
    while !task.stopping {
        let speaks = task.journal.is_some() && !task.fenced;
        if speaks {
            task.listener.try_open();
        }
        if task.backlog.is_empty() {
            // Whoever no longer waits need not know.
            task.told.drain(..).for_each(|done| _ = done.send(()));
        }
        let behind = task.note_acked();
        let timer = task.ldp.deadline().filter(|_| speaks).map(|at| task.zero + at);
        let timer = async {
            match timer {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv() => done = task.command(command),
            Some(Heard { interface, source, packet }) = heard.recv(), if speaks => task.step(Engine::Hello { interface, source, packet }),
            Some(input) = input.recv(), if speaks => task.input(input),
            accepted = task.listener.accept(), if speaks && task.accept_at.is_none() => task.accept(accepted),
            () = sleep_until(task.accept_at.unwrap_or_else(Instant::now)), if task.accept_at.is_some() => task.accept_at = None,
            Some(attempt) = task.connecting.join_next(), if speaks => {
                // One that was given up has nothing to tell.
                if let Ok((conn, result)) = attempt {
                    task.connected(conn, result);
                }
            }
            Some(_) = task.open.join_next() => {}
            () = timer => task.step(Engine::Timer),
            () = sleep(RETRY), if speaks && !task.listener.is_open() => {}
            () = sleep(connection::ACKED_PACE), if behind && speaks => {}
            permit = events.reserve(), if !task.backlog.is_empty() => match (permit, task.backlog.pop_front()) {
                (Ok(permit), Some(event)) => permit.send(event),
                // The daemon no longer listens.
                _ => task.backlog.clear(),
            },
        }
    }
    task.connections.clear();
    task.connecting.abort_all();
    drop((input, task.inputs));
    // Last words are on their way; each has its own time limit.
    while task.open.join_next().await.is_some() {}
    if let Some(done) = done {
        // Whoever waited may have given up.
        let _ = done.send(());
    }
}

impl Task {
    pub(super) fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    /// Tells whether a neighbour has yet to acknowledge something.
    fn note_acked(&mut self) -> bool {
        if self.fenced {
            return false;
        }
        self.connections.values_mut().for_each(|c| c.note_acked(false));
        self.connections.values().any(Connection::is_behind)
    }

    fn command(&mut self, command: Option<Command>) -> Option<oneshot::Sender<()>> {
        let waits = matches!(command, Some(Command::Configure(_) | Command::Interface { .. } | Command::Routes(_) | Command::Reset(_)));
        match command {
            Some(command) if self.fenced && waits => self.deferred.push(command),
            Some(Command::Configure(config)) => self.configure(config),
            Some(Command::Interface { name, address, up }) => {
                self.stated.insert(Arc::clone(&name));
                self.hellos.interface(&name, up.then_some(address));
                self.step(Engine::Interface { name, address, up });
            }
            Some(Command::Routes(routes)) => self.step(Engine::Routes(routes)),
            Some(Command::Reset(lsr_id)) => self.step(Engine::Reset { lsr_id }),
            // Whoever asked may have given up.
            Some(Command::Neighbors(answer)) => {
                drop(answer.send(self.ldp.neighbors(self.now()).into_iter().map(neighbor_row).collect()));
            }
            Some(Command::Bindings(answer)) => drop(answer.send(self.ldp.lib().into_iter().map(binding_row).collect())),
            Some(Command::Told(done)) => self.told.push(done),
            Some(Command::Shutdown { graceful, done }) => {
                if !graceful {
                    self.step(Engine::Stop);
                }
                let farewell = self.ldp.farewell();
                self.append(farewell);
                self.stopping = true;
                return Some(done);
            }
            Some(Command::Replay(record)) => self.replay(*record),
            Some(Command::Forget) => self.forget(),
            Some(Command::Promote(journal, done)) => drop(done.send(self.promote(journal))),
            Some(Command::Fence(done)) => self.fence(done),
            Some(Command::Unfence) => {
                self.unfence();
                for command in std::mem::take(&mut self.deferred) {
                    self.command(Some(command));
                }
            }
            Some(Command::Leave(done)) => {
                self.leave();
                return Some(done);
            }
            None => {
                if self.journal.as_ref().is_some_and(Journal::keeps) {
                    self.leave();
                }
                self.stopping = true;
            }
        }
        None
    }

    /// Whoever goes on knows all that is needed.
    fn leave(&mut self) {
        self.stopping = true;
        self.connections.drain().for_each(|(_, connection)| connection.leave());
    }

    fn configure(&mut self, config: Config) {
        if config == self.config {
            return;
        }
        if config.lsr_id != self.listener.address() {
            self.listener = Listener::new(config.lsr_id);
        }
        self.hellos.retain(|name| config.interfaces.contains(name));
        self.config = config.clone();
        self.step(Engine::Configure(config));
    }

    pub(super) fn step(&mut self, event: Engine) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.ldp.handle(self.now(), event);
            events.extend(self.act_all(actions));
        }
    }

    /// Gives the events that the actions brought about at once.
    fn act_all(&mut self, actions: Vec<Action>) -> Vec<Engine> {
        let changes = self.ldp.changes();
        self.append(changes);
        actions.into_iter().filter_map(|action| self.act(action)).collect()
    }

    /// What has been done already, whatever follows from it.
    pub(super) fn done(&mut self, actions: Vec<Action>) {
        for event in self.act_all(actions) {
            self.step(event);
        }
    }

    /// Tells the journal what is new.
    fn append(&self, changes: Vec<Change>) {
        let Some(journal) = &self.journal else { return };
        for (name, value) in changes {
            journal.append(&match value {
                Some(value) => Record::Put { name, value },
                None => Record::Delete { name },
            });
        }
    }

    /// Gives the event that the action brought about at once.
    fn act(&mut self, action: Action) -> Option<Engine> {
        match action {
            Action::SendHello { interface, packet } => self.hellos.send(&interface, &packet),
            Action::Connect { conn, local, remote, password, gtsm } => {
                let target = Target { local, remote, password, gtsm };
                let attempt = self.connecting.spawn(async move { (conn, connection::connect(target).await) });
                self.attempts.insert(conn, attempt);
            }
            Action::Protect { conn } => {
                if let Some(Err(error)) = self.connections.get(&conn).map(Connection::protect) {
                    warn!(%error, "cannot set the minimum TTL of an LDP session");
                }
            }
            Action::Key { remote, password } => self.listener.set_key(remote, password),
            Action::Send { conn, bytes } => {
                let taken = self.connections.get_mut(&conn).is_none_or(|c| c.send(bytes));
                if !taken {
                    self.connections.remove(&conn);
                    return Some(Engine::Closed { conn, reason: "the neighbour takes nothing".into() });
                }
            }
            Action::Close { conn } => {
                self.connections.remove(&conn);
                if let Some(attempt) = self.attempts.remove(&conn) {
                    attempt.abort();
                }
            }
            Action::BindingsChanged => {
                let bindings = self.ldp.bindings().clone();
                self.tell(Event::Store(bindings), |e| matches!(e, Event::Store(_)));
            }
            Action::ForwardingChanged => {
                let forwarding = Arc::clone(self.ldp.forwarding());
                self.tell(Event::Forwarding(forwarding), |e| matches!(e, Event::Forwarding(_)));
            }
            Action::SessionUp { lsr_id, interfaces } => {
                info!(%lsr_id, ?interfaces, "LDP session up");
                self.backlog.push_back(Event::SessionUp { lsr_id, interfaces });
            }
            Action::SessionDown { lsr_id, interfaces, reason } => {
                info!(%lsr_id, ?interfaces, %reason, "LDP session down");
                self.backlog.push_back(Event::SessionDown { lsr_id, interfaces, reason });
            }
            Action::Synced { interface, synced } => {
                let about = Arc::clone(&interface);
                let event = Event::Synced { interface, synced };
                self.tell(event, |e| matches!(e, Event::Synced { interface, .. } if *interface == about));
            }
            Action::Recovered => self.backlog.push_back(Event::Recovered),
            Action::Log { lsr_id: Some(lsr_id), text } => warn!(%lsr_id, "LDP: {text}"),
            Action::Log { lsr_id: None, text } => warn!("LDP: {text}"),
        }
        None
    }

    /// In place of an older one of its kind that still waits.
    fn tell(&mut self, event: Event, same: impl Fn(&Event) -> bool) {
        self.backlog.retain(|e| !same(e));
        self.backlog.push_back(event);
    }

    fn input(&mut self, input: Input) {
        let (Input::Received(conn, _) | Input::Closed(conn, _)) = &input;
        // What still comes over a connection that we have closed is read away.
        if !self.connections.contains_key(conn) {
            return;
        }
        match input {
            Input::Received(conn, bytes) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.received(&bytes);
                }
                self.step(Engine::Received { conn, bytes });
            }
            Input::Closed(conn, reason) => {
                self.connections.remove(&conn);
                self.step(Engine::Closed { conn, reason });
            }
        }
    }

    /// Nothing was read from the stream or written to it.
    fn opened(&mut self, conn: ConnId, stream: TcpStream, passive: bool) {
        let log = self.journal.as_ref().and_then(|journal| Logged::open(&stream, passive, journal));
        self.adopt(conn, stream, log);
    }

    pub(super) fn adopt(&mut self, conn: ConnId, stream: TcpStream, log: Option<Logged>) {
        let (connection, task) = Connection::start(conn, stream, log, self.inputs.clone());
        self.connections.insert(conn, connection);
        self.open.spawn(async move {
            // A task that panicked has closed its socket as well.
            let _ = task.await;
        });
    }

    fn connected(&mut self, conn: ConnId, result: io::Result<TcpStream>) {
        // Given up when it was just done.
        if self.attempts.remove(&conn).is_none() {
            return;
        }
        match result {
            Ok(stream) => {
                self.opened(conn, stream, false);
                self.step(Engine::Connected { conn });
            }
            Err(error) => self.step(Engine::Closed { conn, reason: error.to_string() }),
        }
    }

    fn accept(&mut self, accepted: io::Result<(TcpStream, IpAddr)>) {
        match accepted {
            Ok((stream, IpAddr::V4(remote))) if self.listener.admits(remote) && self.open.len() < MAX_CONNECTIONS => {
                self.accepted += 1;
                let conn = ConnId::Accepted(self.accepted);
                self.opened(conn, stream, true);
                self.step(Engine::Accepted { conn, remote });
            }
            Ok(_) => {}
            Err(error) => {
                // Out of descriptors, perhaps: the pause keeps this from spinning.
                warn!(%error, "cannot accept LDP connections");
                self.accept_at = Some(Instant::now() + RETRY);
            }
        }
    }
}

fn neighbor_row(n: NeighborView) -> LdpNeighborRow {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    LdpNeighborRow {
        lsr_id: n.lsr_id,
        transport_address: n.transport_address,
        state: n.state.name().to_owned(),
        up_s: n.up.map(|up| up.as_secs()),
        interfaces: n.interfaces.iter().map(|i| i.to_string()).collect(),
        hold_ms: u64::try_from(n.hold.as_millis()).unwrap_or(u64::MAX),
        keepalive_s: n.keepalive_s,
        labels_received: count(n.labels_received),
        labels_sent: count(n.labels_sent),
        messages_received: n.messages_received,
        messages_sent: n.messages_sent,
        resets: n.resets,
        last_error: n.last_error,
        stale: n.stale,
    }
}

fn binding_row(b: BindingView) -> LdpBindingRow {
    let remote = |r: edgeplex_ldp::RemoteView| LdpRemoteBinding { lsr_id: r.lsr_id, label: r.label, in_use: r.in_use, stale: r.stale };
    LdpBindingRow { prefix: b.prefix, local: b.local, remote: b.remote.into_iter().map(remote).collect() }
}
