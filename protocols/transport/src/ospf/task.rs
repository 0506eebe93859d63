//! The task that owns the engine and the sockets.
//!
//! What an event changes is written to the journal before its packets leave, and they leave when that is committed: a successor
//! never knows less than a neighbour does.

use super::socket::Port;
use super::{Event, rows};
use crate::{Mode, Promoted, journal::Journal, mode::is_committed};
use edgeplex_journal::Record;
use edgeplex_mgmt::show::{LsaRow, OspfInterfaceRow, OspfNeighborRow, OspfRouteRow};
use edgeplex_ospf::{Action, Config, Event as Input, Ospf, Start, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, mpsc::error::TrySendError, oneshot};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Packets taken from one socket before others have their turn.
const READ_AT_ONCE: usize = 64;
/// While more events than this wait for the daemon, no packets are read.
const MAX_BACKLOG: usize = 256;
/// An interface whose socket cannot be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_millis(500);
/// Last words are said twice: nobody will repeat them.
const SAY_AGAIN: Duration = Duration::from_millis(30);
/// The engine's time at our start: what a process before us did has its place before that.
const START: Time = Duration::from_secs(10 * 365 * 86400);

#[derive(Debug)]
pub(super) enum Command {
    Configure(Config),
    Interface {
        name: String,
        up: bool,
    },
    NeighborLost {
        interface: String,
        address: Ipv4Addr,
    },
    LinkCost {
        interface: String,
        max: bool,
    },
    ShowNeighbors(oneshot::Sender<Vec<OspfNeighborRow>>),
    ShowInterfaces(oneshot::Sender<Vec<OspfInterfaceRow>>),
    ShowDatabase(oneshot::Sender<Vec<LsaRow>>),
    ShowRoutes(oneshot::Sender<Vec<OspfRouteRow>>),
    /// Answered when all events of before are with the daemon.
    Told(oneshot::Sender<()>),
    Replay(String, Option<Vec<u8>>),
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

struct Task {
    engine: Ospf,
    /// Where [`START`] is.
    start: Instant,
    /// A past process of ours has just gone.
    restarting: bool,
    /// None yet while we follow.
    journal: Option<Journal>,
    /// How far the journal reaches with what we have written, and how far we know it to be committed.
    written: u64,
    committed: u64,
    /// Packets that wait for the journal to be committed so far.
    outbox: VecDeque<(u64, Packet)>,
    /// Nothing is heard or said, and what the daemon wants waits.
    fenced: bool,
    deferred: Vec<Command>,
    /// Interfaces of which the daemon has said whether they are up.
    stated: BTreeMap<Arc<str>, bool>,
    /// Interfaces that were up before we took over.
    inherited: BTreeSet<Arc<str>>,
    ports: BTreeMap<Arc<str>, Port>,
    open_again: Option<Instant>,
    events: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    /// Who waits for the backlog to be empty.
    told: Vec<oneshot::Sender<()>>,
    buffer: Vec<u8>,
    /// The interface that was read from last: the others come first.
    last_read: Option<Arc<str>>,
}

struct Packet {
    interface: Arc<str>,
    destination: Ipv4Addr,
    bytes: Vec<u8>,
}

enum Wake {
    Committed,
    Command(Option<Command>),
    Delivered(bool),
    Readable(Arc<str>),
    Timer,
}

pub(super) async fn run(
    config: Config,
    restarting: bool,
    mode: Mode,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Seconds until the year 2106.
    let crypto_sequence = u32::try_from(since_1970.as_secs()).unwrap_or(u32::MAX);
    let begin = Start { restarting, crypto_sequence };
    let (engine, journal) = match mode {
        Mode::Live(journal) => (Ospf::new(START, config, begin), Some(journal)),
        Mode::Following => (Ospf::following(START, config, begin), None),
    };
    let mut task = Task {
        engine,
        start: Instant::now(),
        restarting,
        journal,
        written: 0,
        committed: 0,
        outbox: VecDeque::new(),
        fenced: false,
        deferred: vec![],
        stated: BTreeMap::new(),
        inherited: BTreeSet::new(),
        ports: BTreeMap::new(),
        open_again: None,
        events,
        backlog: VecDeque::new(),
        told: vec![],
        buffer: vec![0; 1 << 16],
        last_read: None,
    };
    loop {
        match task.wait(&mut commands).await {
            Wake::Command(Some(Command::Shutdown { graceful, done })) => {
                task.last_words(graceful).await;
                // Sockets are closed before the caller hears of it.
                drop(task);
                let _ = done.send(());
                return;
            }
            Wake::Command(Some(Command::Leave(done))) => {
                drop(task);
                let _ = done.send(());
                return;
            }
            Wake::Command(Some(command)) => task.command(command),
            // Nobody is left to route for.
            Wake::Command(None) | Wake::Delivered(false) => return,
            Wake::Delivered(true) => {}
            Wake::Committed => task.let_go(),
            Wake::Readable(name) => {
                task.read(&name);
                task.last_read = Some(name);
            }
            Wake::Timer => {
                if task.open_again.is_some_and(|at| at <= Instant::now()) {
                    task.open_ports();
                }
                task.step(Input::Timer);
            }
        }
    }
}

/// All of the map, beginning behind `last`: everybody gets a turn.
fn from_next<'a, T>(map: &'a BTreeMap<Arc<str>, T>, last: Option<&Arc<str>>) -> impl Iterator<Item = (&'a Arc<str>, &'a T)> {
    let behind = (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    let before = last.map(|last| map.range::<Arc<str>, _>(..=last));
    map.range::<Arc<str>, _>(behind).chain(before.into_iter().flatten())
}

impl Task {
    fn now(&self) -> Time {
        START + self.start.elapsed()
    }

    async fn wait(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Wake {
        if self.backlog.is_empty() {
            // Whoever no longer waits need not know.
            self.told.drain(..).for_each(|done| _ = done.send(()));
        }
        let engine = self.engine.deadline().filter(|_| !self.fenced).map(|at| self.start + at.saturating_sub(START));
        let timer = engine.into_iter().chain(self.open_again).min();
        let sleep = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let (ports, last) = (&self.ports, self.last_read.as_ref());
        let readable = poll_fn(|cx| match from_next(ports, last).find(|(_, port)| port.poll_readable(cx)) {
            Some((name, _)) => Poll::Ready(Wake::Readable(name.clone())),
            None => Poll::Pending,
        });
        let (waiting, deaf) = (!self.backlog.is_empty(), self.fenced || self.backlog.len() >= MAX_BACKLOG);
        let committed = async {
            match (&self.journal, self.outbox.front()) {
                (Some(journal), Some((end, _))) if !self.fenced => journal.committed(*end).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv() => Wake::Command(command),
            permit = self.events.reserve(), if waiting => match (permit, self.backlog.pop_front()) {
                (Ok(permit), Some(event)) => {
                    permit.send(event);
                    Wake::Delivered(true)
                }
                (permit, _) => Wake::Delivered(permit.is_ok()),
            },
            () = committed => Wake::Committed,
            wake = readable, if !deaf => wake,
            () = sleep => Wake::Timer,
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let actions = self.engine.handle(self.now(), input);
        self.act_all(actions);
    }

    fn act_all(&mut self, actions: Vec<Action>) {
        self.write_down();
        for action in actions {
            self.act(action);
        }
    }

    /// Tells the journal what is new.
    fn write_down(&mut self) {
        let Some(journal) = self.journal.as_ref().filter(|j| j.keeps()) else { return };
        let changes = self.engine.changes();
        if changes.is_empty() {
            return;
        }
        for (name, value) in changes {
            journal.append(&match value {
                Some(value) => Record::Put { name, value },
                None => Record::Delete { name },
            });
        }
        self.written = journal.end();
    }

    fn is_committed(&mut self, end: u64) -> bool {
        if self.committed < end && self.journal.as_ref().is_some_and(|j| is_committed(j, end)) {
            self.committed = end;
        }
        self.committed >= end
    }

    /// Sends what has waited for the journal.
    fn let_go(&mut self) {
        while let Some(end) = self.outbox.front().map(|(end, _)| *end).filter(|_| !self.fenced) {
            if !self.is_committed(end) {
                return;
            }
            if let Some((_, packet)) = self.outbox.pop_front() {
                self.send(&packet);
            }
        }
    }

    fn send(&self, packet: &Packet) {
        let Packet { interface, destination, bytes } = packet;
        if let Some(Err(error)) = self.ports.get(interface).map(|port| port.send(*destination, bytes)) {
            // As good as lost on the wire; OSPF repeats.
            debug!(%interface, %destination, %error, "an OSPF packet was not sent");
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { interface, destination, packet } => {
                let packet = Packet { interface, destination, bytes: packet };
                if self.outbox.is_empty() && !self.fenced && self.is_committed(self.written) {
                    self.send(&packet);
                } else {
                    self.outbox.push_back((self.written, packet));
                }
            }
            Action::RoutesChanged => {
                // Only the newest matters.
                self.backlog.retain(|e| !matches!(e, Event::Routes(_)));
                self.backlog.push_back(Event::Routes(Arc::new(self.engine.routes().clone())));
            }
            Action::NeighborUp { interface, address, router_id } => {
                info!(%interface, %address, %router_id, "OSPF adjacency is full");
                self.backlog.push_back(Event::NeighborUp { interface, address, router_id });
            }
            Action::NeighborDown { interface, address, router_id, reason } => {
                warn!(%interface, %address, %router_id, reason, "OSPF adjacency is lost");
                self.backlog.push_back(Event::NeighborDown { interface, address, router_id, reason });
            }
            Action::JoinDrRouters { interface } => self.listen_as_designated(&interface, true),
            Action::LeaveDrRouters { interface } => self.listen_as_designated(&interface, false),
            Action::Log(text) => warn!("{text}"),
        }
    }

    fn listen_as_designated(&self, interface: &Arc<str>, yes: bool) {
        if let Some(Err(error)) = self.ports.get(interface).map(|port| port.listen_as_designated(yes)) {
            // An interface that goes away takes its groups along.
            debug!(%interface, %error, "AllDRouters");
        }
    }

    fn read(&mut self, name: &Arc<str>) {
        for _ in 0..READ_AT_ONCE {
            let Some(port) = self.ports.get(name) else { return };
            let actions = match port.receive(&mut self.buffer) {
                Ok(Some(d)) if !d.is_of_link(port.address()) => {
                    debug!(interface = %name, source = %d.source, destination = %d.destination, "an OSPF packet from afar, or for others");
                    continue;
                }
                Ok(Some(d)) => {
                    let input = Input::Received { interface: name, source: d.source, destination: d.destination, packet: d.packet };
                    self.engine.handle(START + self.start.elapsed(), input)
                }
                Ok(None) => return,
                Err(error) => {
                    // The interface went away under us; its owner will say so too.
                    debug!(interface = %name, %error, "reading OSPF packets");
                    return;
                }
            };
            self.act_all(actions);
        }
    }

    fn command(&mut self, command: Command) {
        let waits =
            matches!(command, Command::Configure(_) | Command::Interface { .. } | Command::NeighborLost { .. } | Command::LinkCost { .. });
        if self.fenced && waits {
            return self.deferred.push(command);
        }
        match command {
            Command::Configure(config) => {
                self.step(Input::Configure(config));
                self.open_ports();
            }
            Command::Interface { name, up } => {
                self.stated.insert(Arc::from(name), up);
                self.open_ports();
            }
            Command::NeighborLost { interface, address } => self.step(Input::NeighborLost { interface: &interface, address }),
            Command::LinkCost { interface, max } => self.step(Input::LinkCost { interface: &interface, max }),
            // Whoever asked may have gone meanwhile.
            Command::ShowNeighbors(answer) => drop(answer.send(rows::neighbors(&self.engine))),
            Command::ShowInterfaces(answer) => drop(answer.send(rows::interfaces(&self.engine))),
            Command::ShowDatabase(answer) => drop(answer.send(rows::database(&self.engine))),
            Command::ShowRoutes(answer) => drop(answer.send(rows::routes(&self.engine))),
            Command::Told(done) => self.told.push(done),
            // run() has taken it.
            Command::Shutdown { .. } | Command::Leave(_) => {}
            Command::Replay(name, value) => {
                if let Err(error) = self.engine.apply(self.now(), &name, value.as_deref()) {
                    warn!(%error, "a stored OSPF value is lost");
                }
            }
            Command::Forget => {
                let actions = self.engine.forget(self.now());
                self.act_all(actions);
            }
            Command::Promote(journal, done) => drop(done.send(self.promote(journal))),
            Command::Fence(done) => {
                self.fenced = true;
                let journal = self.journal.clone();
                tokio::spawn(async move {
                    if let Some(journal) = journal {
                        journal.committed_all().await;
                    }
                    let _ = done.send(());
                });
            }
            Command::Unfence => {
                if std::mem::take(&mut self.fenced) {
                    self.let_go();
                    let actions = self.engine.resume(self.now());
                    self.act_all(actions);
                    for command in std::mem::take(&mut self.deferred) {
                        self.command(command);
                    }
                }
            }
        }
    }

    fn promote(&mut self, journal: Journal) -> Promoted {
        self.journal = Some(journal);
        let up = self.engine.interfaces().into_iter().filter(|i| i.state != "down");
        self.inherited = up.map(|i| i.interface).collect();
        for (name, (address, passive)) in self.wanted() {
            if !passive && self.is_up(&name) {
                self.open_port(&name, address);
            }
        }
        let actions = self.engine.promote(self.now(), self.restarting);
        self.act_all(actions);
        self.open_ports();
        // The daemon may be waiting for us, and not reading: what fits it will find.
        self.backlog.make_contiguous().sort_by_key(|e| !matches!(e, Event::Routes(_)));
        while let Some(event) = self.backlog.pop_front() {
            if let Err(TrySendError::Full(event) | TrySendError::Closed(event)) = self.events.try_send(event) {
                self.backlog.push_front(event);
                break;
            }
        }
        let full = self.engine.neighbors().iter().filter(|n| n.state == "full").count();
        Promoted { sessions: u32::try_from(full).unwrap_or(u32::MAX), lost: 0 }
    }

    /// Address of each interface that is configured, and whether it is passive.
    fn wanted(&self) -> BTreeMap<Arc<str>, (Ipv4Addr, bool)> {
        self.engine.config().interfaces.iter().map(|(name, i)| (name.clone(), (i.address.addr(), i.passive))).collect()
    }

    fn is_up(&self, name: &Arc<str>) -> bool {
        self.stated.get(name).copied().unwrap_or_else(|| self.inherited.contains(name))
    }

    /// Tells whether there is a socket.
    fn open_port(&mut self, name: &Arc<str>, address: Ipv4Addr) -> bool {
        if self.ports.contains_key(name) {
            return true;
        }
        match Port::open(name, address) {
            Ok(port) => {
                self.ports.insert(name.clone(), port);
                // It may come late to one that is designated router since before.
                if self.engine.interfaces().iter().any(|i| i.interface == *name && matches!(i.state, "dr" | "backup")) {
                    self.listen_as_designated(name, true);
                }
                true
            }
            Err(error) => {
                warn!(interface = %name, %error, "OSPF cannot use the interface yet");
                self.open_again = Some(Instant::now() + OPEN_AGAIN);
                false
            }
        }
    }

    /// Gives every interface that is up and configured its socket, closes the others, and tells the engine which can be used.
    fn open_ports(&mut self) {
        self.open_again = None;
        let wanted = self.wanted();
        let speaks = self.journal.is_some();
        let wants = |name: &Arc<str>, port: &Port| wanted.get(name).is_some_and(|(a, passive)| *a == port.address() && !passive);
        let unwanted: Vec<_> = self.ports.iter().filter(|(name, p)| !self.is_up(name) || !wants(name, p)).map(|(n, _)| n.clone()).collect();
        for name in unwanted {
            self.step(Input::Interface { name: &name, up: false });
            self.ports.remove(&name);
        }
        for (name, (address, passive)) in wanted {
            if !self.is_up(&name) {
                self.step(Input::Interface { name: &name, up: false });
                continue;
            }
            if !passive && speaks && !self.open_port(&name, address) {
                continue;
            }
            self.step(Input::Interface { name: &name, up: true });
        }
    }

    async fn last_words(&mut self, graceful: bool) {
        let input = if graceful { Input::PrepareRestart } else { Input::Shutdown };
        let actions = self.engine.handle(self.now(), input);
        // There is no successor to wait for.
        self.write_down();
        (self.fenced, self.committed) = (false, u64::MAX);
        self.let_go();
        for action in actions.clone() {
            self.act(action);
        }
        tokio::time::sleep(SAY_AGAIN).await;
        for action in actions {
            self.act(action);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_gets_its_turn() {
        let ports: BTreeMap<Arc<str>, ()> = ["a", "b", "c"].map(|n| (n.into(), ())).into();
        let order = |last: Option<&str>| {
            let last = last.map(Arc::from);
            from_next(&ports, last.as_ref()).map(|(n, ())| &**n).collect::<String>()
        };
        assert_eq!([None, Some("a"), Some("b"), Some("c"), Some("bb")].map(order), ["abc", "bca", "cab", "abc", "cab"]);
    }
}
