//! The task that owns the engine and the sockets.

use super::socket::Port;
use super::{Event, rows};
use crate::{Mode, Promoted, journal::Journal};
use edgeplex_mgmt::show::{LsaRow, OspfInterfaceRow, OspfNeighborRow, OspfRouteRow};
use edgeplex_ospf::{Action, Config, Event as Input, Ospf, Start, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
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

#[derive(Debug)]
pub(super) enum Command {
    Configure(Config),
    Interface { name: String, up: bool },
    NeighborLost { interface: String, address: Ipv4Addr },
    LinkCost { interface: String, max: bool },
    ShowNeighbors(oneshot::Sender<Vec<OspfNeighborRow>>),
    ShowInterfaces(oneshot::Sender<Vec<OspfInterfaceRow>>),
    ShowDatabase(oneshot::Sender<Vec<LsaRow>>),
    ShowRoutes(oneshot::Sender<Vec<OspfRouteRow>>),
    Replay(String, Option<Vec<u8>>),
    Promote(Journal, oneshot::Sender<Promoted>),
    Fence(oneshot::Sender<()>),
    Unfence,
    Leave(oneshot::Sender<()>),
    Shutdown { graceful: bool, done: oneshot::Sender<()> },
}

struct Task {
    engine: Ospf,
    /// Moment zero of the engine's time.
    zero: Instant,
    /// Interfaces that the daemon says are up.
    up: BTreeSet<Arc<str>>,
    ports: BTreeMap<Arc<str>, Port>,
    open_again: Option<Instant>,
    events: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    buffer: Vec<u8>,
    /// The interface that was read from last: the others come first.
    last_read: Option<Arc<str>>,
}

enum Wake {
    Command(Option<Command>),
    Delivered(bool),
    Readable(Arc<str>),
    Timer,
}

pub(super) async fn run(
    config: Config,
    restarting: bool,
    _mode: Mode,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    let zero = Instant::now();
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Seconds until the year 2106.
    let crypto_sequence = u32::try_from(since_1970.as_secs()).unwrap_or(u32::MAX);
    let mut task = Task {
        engine: Ospf::new(Time::ZERO, config, Start { restarting, crypto_sequence }),
        zero,
        up: BTreeSet::new(),
        ports: BTreeMap::new(),
        open_again: None,
        events,
        backlog: VecDeque::new(),
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
    async fn wait(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Wake {
        let engine = self.engine.deadline().map(|at| self.zero + at);
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
        let (waiting, full) = (!self.backlog.is_empty(), self.backlog.len() >= MAX_BACKLOG);
        tokio::select! {
            command = commands.recv() => Wake::Command(command),
            permit = self.events.reserve(), if waiting => match (permit, self.backlog.pop_front()) {
                (Ok(permit), Some(event)) => {
                    permit.send(event);
                    Wake::Delivered(true)
                }
                (permit, _) => Wake::Delivered(permit.is_ok()),
            },
            wake = readable, if !full => wake,
            () = sleep => Wake::Timer,
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let actions = self.engine.handle(self.zero.elapsed(), input);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { interface, destination, packet } => {
                if let Some(Err(error)) = self.ports.get(&interface).map(|port| port.send(destination, &packet)) {
                    // As good as lost on the wire; OSPF repeats.
                    debug!(%interface, %destination, %error, "an OSPF packet was not sent");
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
                    self.engine.handle(self.zero.elapsed(), input)
                }
                Ok(None) => return,
                Err(error) => {
                    // The interface went away under us; its owner will say so too.
                    debug!(interface = %name, %error, "reading OSPF packets");
                    return;
                }
            };
            for action in actions {
                self.act(action);
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Configure(config) => {
                self.step(Input::Configure(config));
                self.open_ports();
            }
            Command::Interface { name, up } => {
                let name = Arc::from(name);
                let _ = if up { self.up.insert(name) } else { self.up.remove(&name) };
                self.open_ports();
            }
            Command::NeighborLost { interface, address } => self.step(Input::NeighborLost { interface: &interface, address }),
            Command::LinkCost { interface, max } => self.step(Input::LinkCost { interface: &interface, max }),
            // Whoever asked may have gone meanwhile.
            Command::ShowNeighbors(answer) => drop(answer.send(rows::neighbors(&self.engine))),
            Command::ShowInterfaces(answer) => drop(answer.send(rows::interfaces(&self.engine))),
            Command::ShowDatabase(answer) => drop(answer.send(rows::database(&self.engine))),
            Command::ShowRoutes(answer) => drop(answer.send(rows::routes(&self.engine))),
            // run() has taken it.
            Command::Shutdown { .. } | Command::Leave(_) => {}
            Command::Replay(..) | Command::Unfence => {}
            Command::Promote(_, done) => drop(done.send(Promoted::default())),
            Command::Fence(done) => drop(done.send(())),
        }
    }

    /// Gives every interface that is up and configured its socket, closes the others, and tells the engine which can be used.
    fn open_ports(&mut self) {
        self.open_again = None;
        let wanted: BTreeMap<Arc<str>, (Ipv4Addr, bool)> =
            self.engine.config().interfaces.iter().map(|(name, i)| (name.clone(), (i.address.addr(), i.passive))).collect();
        let wants = |name: &Arc<str>, port: &Port| wanted.get(name).is_some_and(|(a, passive)| *a == port.address() && !passive);
        let unwanted: Vec<_> =
            self.ports.iter().filter(|(name, p)| !self.up.contains(*name) || !wants(name, p)).map(|(n, _)| n.clone()).collect();
        for name in unwanted {
            self.step(Input::Interface { name: &name, up: false });
            self.ports.remove(&name);
        }
        for (name, (address, passive)) in wanted {
            if !self.up.contains(&name) {
                self.step(Input::Interface { name: &name, up: false });
                continue;
            }
            if !passive && !self.ports.contains_key(&name) {
                match Port::open(&name, address) {
                    Ok(port) => drop(self.ports.insert(name.clone(), port)),
                    Err(error) => {
                        warn!(interface = %name, %error, "OSPF cannot use the interface yet");
                        self.open_again = Some(Instant::now() + OPEN_AGAIN);
                        continue;
                    }
                }
            }
            self.step(Input::Interface { name: &name, up: true });
        }
    }

    async fn last_words(&mut self, graceful: bool) {
        let input = if graceful { Input::PrepareRestart } else { Input::Shutdown };
        let actions = self.engine.handle(self.zero.elapsed(), input);
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
