//! A network in memory: links that lose Hellos, connections that deliver late and in pieces, an IGP that converges node by node.
#![allow(dead_code)] // each test uses a part

mod checks;
mod routing;
mod succession;

use edgeplex_ldp::{Action, Config, ConnId, Event, Ldp, Start};
use edgeplex_types::{Label, LabelRange};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

/// xorshift64*
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| rng.0 ^= rng.next());
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }
}

pub(crate) struct Link {
    pub(crate) ends: [usize; 2],
    pub(crate) up: bool,
    pub(crate) cost: usize,
}

pub(crate) struct Node {
    pub(crate) ldp: Ldp,
    config: Config,
    /// On its disk.
    stored: BTreeMap<Ipv4Net, Label>,
    /// Counts its processes: what was meant for a former one is lost.
    life: u32,
    accepted: u64,
    pub(crate) journal: succession::Journal,
}

/// One end of a connection: a node, its process, and its name for it.
type End = (usize, u32, ConnId);

struct Connection {
    ends: [Option<End>; 2],
    /// When the last bytes towards each end arrive: they do not overtake each other.
    clear_at: [Duration; 2],
}

enum Delivery {
    Hello { to: usize, link: usize, packet: Vec<u8> },
    Connect { from: End, to: usize },
    Bytes { connection: usize, towards: usize, bytes: Vec<u8> },
    Closed { connection: usize, towards: usize },
    Routes { to: usize },
}

pub(crate) struct Network {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
    /// Prefixes behind nodes, and whether they are there.
    pub(crate) prefixes: Vec<(Ipv4Net, usize, bool)>,
    queue: BTreeMap<(Duration, u64), Delivery>,
    count: u64,
    connections: Vec<Connection>,
    by_end: BTreeMap<End, usize>,
    /// Of Hellos, in percent.
    pub(crate) loss: usize,
    /// Something other than a Hello has happened since the last check.
    eventful: bool,
}

pub(crate) fn loopback(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, u8::try_from(node + 1).unwrap())
}

pub(crate) fn address(link: usize, node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, u8::try_from(link).unwrap(), u8::try_from(node + 1).unwrap())
}

pub(crate) fn interface(link: usize) -> Arc<str> {
    format!("l{link}").into()
}

pub(crate) fn node_of(lsr_id: Ipv4Addr) -> usize {
    usize::from(lsr_id.octets()[3]) - 1
}

impl Network {
    /// Nodes in a ring, each with two prefixes; some pairs have a second link. `labels`: how many each has.
    pub(crate) fn new(size: usize, labels: u32, rng: &mut Rng) -> Self {
        let mut links: Vec<_> = (0..size).map(|n| Link { ends: [n, (n + 1) % size], up: true, cost: 1 + rng.below(3) }).collect();
        if rng.below(2) == 0 {
            links.push(Link { ends: [0, 1], up: true, cost: 1 });
        }
        let label = |l| Label::try_from(l).unwrap();
        let nodes = (0..size).map(|n| {
            let first = 1000 * u32::try_from(n + 1).unwrap();
            let mut config = Config::new(loopback(n), LabelRange::new(label(first), label(first + labels - 1)).unwrap());
            config.interfaces = (0..links.len()).map(interface).collect();
            config.keepalive_s = 30;
            config.reconnect = Duration::from_secs(if rng.below(3) == 0 { 0 } else { 60 });
            config.recovery = Duration::from_secs(40);
            let ldp = Ldp::new(Duration::ZERO, config.clone(), Start::default());
            Node { ldp, config, stored: BTreeMap::new(), life: 0, accepted: 0, journal: succession::Journal::default() }
        });
        let prefix = |n: usize, i: u8| (Ipv4Net::new(Ipv4Addr::new(172, 16 + i, u8::try_from(n).unwrap(), 0), 24).unwrap(), n, true);
        let mut network = Self {
            now: Duration::ZERO,
            nodes: nodes.collect(),
            links,
            prefixes: (0..size).flat_map(|n| [prefix(n, 0), prefix(n, 1)]).collect(),
            queue: BTreeMap::new(),
            count: 0,
            connections: vec![],
            by_end: BTreeMap::new(),
            loss: 20,
            eventful: false,
        };
        for node in 0..size {
            network.raise_interfaces(node);
        }
        network.converge(rng);
        network
    }

    fn raise_interfaces(&mut self, node: usize) {
        for link in 0..self.links.len() {
            if self.links[link].up && self.links[link].ends.contains(&node) {
                self.handle(node, Event::Interface { name: interface(link), address: address(link, node), up: true });
            }
        }
    }

    fn later(&mut self, delay: Duration, delivery: Delivery) {
        self.count += 1;
        self.queue.insert((self.now + delay, self.count), delivery);
    }

    /// The IGP tells everybody, each after a while.
    fn converge(&mut self, rng: &mut Rng) {
        for to in 0..self.nodes.len() {
            self.later(Duration::from_millis(50 + rng.below(1500) as u64), Delivery::Routes { to });
        }
    }

    pub(crate) fn pass(&mut self, time: Duration, rng: &mut Rng) {
        let until = self.now + time;
        loop {
            let timers = (0..self.nodes.len()).filter_map(|n| Some((self.nodes[n].ldp.deadline()?, n))).min();
            let next = self.queue.first_key_value().map(|(key, _)| *key);
            let at = [timers.map(|t| t.0), next.map(|k| k.0)].into_iter().flatten().min();
            let Some(at) = at.filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            if next.is_some_and(|k| k.0 <= at) {
                let (_, delivery) = self.queue.pop_first().unwrap();
                self.deliver(delivery, rng);
            } else if let Some((_, node)) = timers {
                self.handle_with(node, Event::Timer, rng);
            }
            if std::mem::take(&mut self.eventful) {
                self.check_always();
            }
        }
        self.now = until;
    }

    fn handle(&mut self, node: usize, event: Event) {
        self.handle_with(node, event, &mut Rng::new(self.count + 1));
    }

    fn handle_with(&mut self, node: usize, event: Event, rng: &mut Rng) {
        let pieces = matches!(event, Event::Received { .. });
        self.nodes[node].journal.heard(&event);
        let actions = self.nodes[node].ldp.handle(self.now, event);
        self.follow_up(node, actions, pieces, rng);
    }

    fn follow_up(&mut self, node: usize, actions: Vec<Action>, pieces: bool, rng: &mut Rng) {
        let Node { ldp, journal, .. } = &mut self.nodes[node];
        journal.store(ldp.changes());
        self.eventful |= actions.iter().any(|a| !matches!(a, Action::SendHello { .. })) || pieces && rng.below(8) == 0;
        actions.into_iter().for_each(|action| self.act(node, action, rng));
    }

    fn act(&mut self, node: usize, action: Action, rng: &mut Rng) {
        let life = self.nodes[node].life;
        match action {
            Action::SendHello { interface: name, packet } => {
                let link = (0..self.links.len()).find(|l| interface(*l) == name).unwrap();
                let Link { ends, up, .. } = &self.links[link];
                let to = if ends[0] == node { ends[1] } else { ends[0] };
                if *up && rng.below(100) >= self.loss {
                    self.later(Duration::from_millis(1 + rng.below(300) as u64), Delivery::Hello { to, link, packet });
                }
            }
            Action::Connect { conn, remote, .. } => {
                let delivery = Delivery::Connect { from: (node, life, conn), to: node_of(remote) };
                self.later(Duration::from_millis(1 + rng.below(100) as u64), delivery);
            }
            Action::Send { conn, bytes } => {
                self.nodes[node].journal.said(conn, &bytes);
                let Some(&connection) = self.by_end.get(&(node, life, conn)) else { return };
                let towards = self.other_end(connection, (node, life, conn));
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let (piece, more) = rest.split_at(rest.len().min(1 + rng.below(60)));
                    self.send(connection, towards, rng, |_| Delivery::Bytes { connection, towards, bytes: piece.to_vec() });
                    rest = more;
                }
            }
            Action::Close { conn } => {
                self.nodes[node].journal.closed(conn);
                self.close((node, life, conn), rng);
            }
            Action::BindingsChanged => self.nodes[node].stored = self.nodes[node].ldp.bindings().clone(),
            _ => {}
        }
    }

    fn other_end(&self, connection: usize, end: End) -> usize {
        usize::from(self.connections[connection].ends[0] == Some(end))
    }

    /// In order, whatever the delay.
    fn send(&mut self, connection: usize, towards: usize, rng: &mut Rng, make: impl Fn(()) -> Delivery) {
        let at = (self.now + Duration::from_millis(1 + rng.below(40) as u64)).max(self.connections[connection].clear_at[towards]);
        self.connections[connection].clear_at[towards] = at;
        self.later(at - self.now, make(()));
    }

    fn close(&mut self, end: End, rng: &mut Rng) {
        if let Some(connection) = self.by_end.remove(&end) {
            let towards = self.other_end(connection, end);
            self.connections[connection].ends[1 - towards] = None;
            self.send(connection, towards, rng, |()| Delivery::Closed { connection, towards });
        }
    }

    fn alive(&self, end: End) -> bool {
        self.nodes[end.0].life == end.1
    }

    fn deliver(&mut self, delivery: Delivery, rng: &mut Rng) {
        match delivery {
            Delivery::Hello { to, link, packet } => {
                let from = self.links[link].ends.into_iter().find(|n| *n != to).unwrap();
                if self.links[link].up {
                    self.handle_with(to, Event::Hello { interface: interface(link), source: address(link, from), packet }, rng);
                }
            }
            Delivery::Connect { from, to } => {
                if !self.alive(from) {
                    return;
                }
                if !self.reachable(from.0, to) {
                    return self.handle_with(from.0, Event::Closed { conn: from.2, reason: "no route".into() }, rng);
                }
                self.nodes[to].accepted += 1;
                let there = (to, self.nodes[to].life, ConnId::Accepted(self.nodes[to].accepted));
                self.connections.push(Connection { ends: [Some(from), Some(there)], clear_at: [self.now; 2] });
                self.by_end.extend([(from, self.connections.len() - 1), (there, self.connections.len() - 1)]);
                for (end, remote) in [(there, from.0), (from, to)] {
                    self.nodes[end.0].journal.opened(end.2, loopback(remote));
                }
                self.handle_with(to, Event::Accepted { conn: there.2, remote: loopback(from.0) }, rng);
                self.handle_with(from.0, Event::Connected { conn: from.2 }, rng);
            }
            Delivery::Bytes { connection, towards, bytes } => {
                if let Some(end) = self.connections[connection].ends[towards].filter(|e| self.alive(*e)) {
                    self.handle_with(end.0, Event::Received { conn: end.2, bytes }, rng);
                }
            }
            Delivery::Closed { connection, towards } => {
                if let Some(end) = self.connections[connection].ends[towards].take() {
                    self.by_end.remove(&end);
                    if self.alive(end) {
                        self.handle_with(end.0, Event::Closed { conn: end.2, reason: "closed".into() }, rng);
                    }
                }
            }
            Delivery::Routes { to } => {
                let routes = Arc::new(self.routes_of(to));
                self.handle_with(to, Event::Routes(routes), rng);
            }
        }
    }

    pub(crate) fn flip_link(&mut self, rng: &mut Rng) {
        let link = rng.below(self.links.len());
        self.set_link(link, !self.links[link].up, rng);
    }

    fn set_link(&mut self, link: usize, up: bool, rng: &mut Rng) {
        if self.links[link].up == up {
            return;
        }
        self.links[link].up = up;
        for node in self.links[link].ends {
            self.handle_with(node, Event::Interface { name: interface(link), address: address(link, node), up }, rng);
        }
        self.converge(rng);
    }

    pub(crate) fn change_cost(&mut self, rng: &mut Rng) {
        let link = rng.below(self.links.len());
        self.links[link].cost = 1 + rng.below(4);
        self.converge(rng);
    }

    pub(crate) fn flip_prefix(&mut self, rng: &mut Rng) {
        let at = rng.below(self.prefixes.len());
        self.prefixes[at].2 ^= true;
        self.converge(rng);
    }

    pub(crate) fn reset_session(&mut self, rng: &mut Rng) {
        let (node, other) = (rng.below(self.nodes.len()), rng.below(self.nodes.len()));
        self.handle_with(node, Event::Reset { lsr_id: loopback(other) }, rng);
    }

    /// All connections of a node break, and each side finds out by itself.
    pub(crate) fn cut_connections(&mut self, rng: &mut Rng) {
        let node = rng.below(self.nodes.len());
        let cut: Vec<_> = self.by_end.iter().filter(|(end, _)| end.0 == node).map(|(_, connection)| *connection).collect();
        for connection in cut {
            for towards in [0, 1] {
                self.later(Duration::from_millis(rng.below(3000) as u64), Delivery::Closed { connection, towards });
            }
        }
    }

    /// The process is killed and comes back; its interfaces and routes are told to it again.
    pub(crate) fn restart(&mut self, rng: &mut Rng) {
        let node = rng.below(self.nodes.len());
        let ends: Vec<_> = self.by_end.keys().filter(|end| end.0 == node).copied().collect();
        ends.into_iter().for_each(|end| self.close(end, rng));
        let restarted = &mut self.nodes[node];
        restarted.life += 1;
        restarted.journal = succession::Journal::default();
        let start = Start { restarting: true, bindings: restarted.stored.clone() };
        restarted.ldp = Ldp::new(self.now, restarted.config.clone(), start);
        self.raise_interfaces(node);
        self.later(Duration::from_millis(rng.below(3000) as u64), Delivery::Routes { to: node });
    }

    pub(crate) fn flip_explicit_null(&mut self, rng: &mut Rng) {
        let node = rng.below(self.nodes.len());
        self.nodes[node].config.explicit_null ^= true;
        let config = self.nodes[node].config.clone();
        self.handle_with(node, Event::Configure(config), rng);
    }

    /// Everything is repaired, and there is time for every timer.
    pub(crate) fn calm_down(&mut self, rng: &mut Rng) {
        self.loss = 0;
        (0..self.links.len()).for_each(|link| self.set_link(link, true, rng));
        self.prefixes.iter_mut().for_each(|p| p.2 = true);
        self.converge(rng);
        self.pass(Duration::from_secs(240), rng);
        self.loss = 20;
    }

    /// Interfaces of a node that are up.
    pub(crate) fn links_of(&self, node: usize) -> BTreeSet<usize> {
        (0..self.links.len()).filter(|l| self.links[*l].up && self.links[*l].ends.contains(&node)).collect()
    }
}
