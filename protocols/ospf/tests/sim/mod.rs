//! Several engines on links that lose, double and reorder packets; everything follows from one seed.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

mod oracle;
mod succession;

use edgeplex_ospf::{ALL_ROUTERS, Action, Config, DESIGNATED_ROUTERS, Event, InterfaceConfig, Network, Ospf, Start, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// xorshift64*
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick(&mut self, n: usize) -> usize {
        usize::try_from(self.below(u64::try_from(n).unwrap())).unwrap()
    }
}

/// A wire or a segment; interface `lN` of each router on it, with address 10.0.N.(router + 1).
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) network: Network,
    pub(crate) routers: Vec<usize>,
    pub(crate) up: bool,
}

#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) engine: Option<Ospf>,
    pub(crate) config: Config,
    /// Segments on which it is designated or backup.
    pub(crate) designated: BTreeSet<Arc<str>>,
    /// Everything but packets.
    pub(crate) told: Vec<(Time, Action)>,
    /// What it has stored for a successor.
    pub(crate) values: BTreeMap<String, Vec<u8>>,
    /// One that is told of every change as it happens.
    pub(crate) standby: Option<Ospf>,
}

#[derive(Debug)]
struct Flight {
    to: usize,
    interface: Arc<str>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    packet: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) now: Time,
    pub(crate) random: Random,
    pub(crate) links: Vec<Link>,
    pub(crate) routers: Vec<Router>,
    /// Per cent.
    pub(crate) loss: u64,
    pub(crate) doubled: u64,
    /// Longest delay, milliseconds.
    pub(crate) delay: u64,
    flying: BTreeMap<(Time, u64), Flight>,
    counter: u64,
    /// Packets sent, by OSPF type.
    pub(crate) sent: BTreeMap<u8, u64>,
    /// OSPF types of what the last successor said when it was promoted.
    pub(crate) sent_at_once: Vec<u8>,
}

pub(crate) fn router_id(router: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, u8::try_from(router + 1).unwrap())
}

pub(crate) fn address(link: usize, router: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, u8::try_from(link).unwrap(), u8::try_from(router + 1).unwrap())
}

pub(crate) fn name(link: usize) -> Arc<str> {
    format!("l{link}").into()
}

impl Net {
    /// `shape` may change each interface's configuration.
    pub(crate) fn new(seed: u64, routers: usize, links: Vec<Link>, shape: impl Fn(usize, usize, &mut InterfaceConfig)) -> Self {
        let config = |router: usize| {
            let mut config = Config { hosts: vec![router_id(router)], ..Config::new(router_id(router), Ipv4Addr::UNSPECIFIED) };
            for (at, link) in links.iter().enumerate().filter(|(_, l)| l.routers.contains(&router)) {
                let subnet = format!("{}/24", address(at, router)).parse().unwrap();
                let mut interface =
                    InterfaceConfig { hello_s: 1, dead_s: 4, retransmit_s: 1, ..InterfaceConfig::new(subnet, link.network) };
                shape(router, at, &mut interface);
                config.interfaces.insert(name(at), interface);
            }
            config
        };
        let routers = (0..routers)
            .map(|r| Router {
                engine: None,
                config: config(r),
                designated: BTreeSet::new(),
                told: vec![],
                values: BTreeMap::new(),
                standby: None,
            })
            .collect();
        let (flying, sent) = Default::default();
        Self {
            now: s(1),
            random: Random::new(seed),
            links,
            routers,
            loss: 0,
            doubled: 0,
            delay: 3,
            flying,
            counter: 0,
            sent,
            sent_at_once: vec![],
        }
    }

    pub(crate) fn start(&mut self, router: usize, restarting: bool) {
        let crypto_sequence = u32::try_from(self.now.as_secs()).unwrap();
        let engine = Ospf::new(self.now, self.routers[router].config.clone(), Start { restarting, crypto_sequence });
        self.routers[router].engine = Some(engine);
        self.routers[router].standby = None;
        self.routers[router].values.clear();
        self.routers[router].designated.clear();
        for link in (0..self.links.len()).filter(|l| self.links[*l].up && self.links[*l].routers.contains(&router)).collect::<Vec<_>>() {
            self.handle(router, Event::Interface { name: &name(link), up: true });
        }
    }

    pub(crate) fn start_all(&mut self) {
        (0..self.routers.len()).for_each(|r| self.start(r, false));
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self, router: usize) {
        self.routers[router].engine = None;
    }

    pub(crate) fn set_link(&mut self, link: usize, up: bool) {
        self.links[link].up = up;
        for router in self.links[link].routers.clone() {
            self.handle(router, Event::Interface { name: &name(link), up });
        }
    }

    pub(crate) fn configure(&mut self, router: usize, change: impl FnOnce(&mut Config)) {
        change(&mut self.routers[router].config);
        let config = self.routers[router].config.clone();
        self.handle(router, Event::Configure(config));
    }

    pub(crate) fn engine(&self, router: usize) -> &Ospf {
        self.routers[router].engine.as_ref().expect("it runs")
    }

    pub(crate) fn handle(&mut self, router: usize, event: Event<'_>) {
        let now = self.now;
        let Some(engine) = self.routers[router].engine.as_mut() else { return };
        let actions = engine.handle(now, event);
        assert!(engine.deadline().is_none_or(|at| at + s(1) > now), "the deadline does not move");
        self.act(router, actions);
    }

    fn act(&mut self, router: usize, actions: Vec<Action>) {
        let now = self.now;
        self.store(router);
        for action in actions {
            match action {
                Action::Send { interface, destination, packet } => self.send(router, interface, destination, packet),
                Action::JoinDrRouters { interface } => drop(self.routers[router].designated.insert(interface)),
                Action::LeaveDrRouters { interface } => drop(self.routers[router].designated.remove(&interface)),
                other => self.routers[router].told.push((now, other)),
            }
        }
    }

    fn send(&mut self, from: usize, interface: Arc<str>, destination: Ipv4Addr, packet: Vec<u8>) {
        *self.sent.entry(packet[1]).or_default() += 1;
        let link: usize = interface[1..].parse().unwrap();
        if !self.links[link].up {
            return;
        }
        for to in self.links[link].routers.clone().into_iter().filter(|to| *to != from) {
            let for_it = match destination {
                ALL_ROUTERS => true,
                DESIGNATED_ROUTERS => self.routers[to].designated.contains(&interface),
                unicast => unicast == address(link, to),
            };
            let copies = if self.random.chance(self.doubled) { 2 } else { 1 };
            for _ in 0..copies {
                let delay = ms(1 + self.random.below(self.delay));
                if for_it && !self.random.chance(self.loss) {
                    self.counter += 1;
                    let flight =
                        Flight { to, interface: interface.clone(), source: address(link, from), destination, packet: packet.clone() };
                    self.flying.insert((self.now + delay, self.counter), flight);
                }
            }
        }
    }

    /// Lets time pass; true as soon as `done` is.
    pub(crate) fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + time;
        let mut stuck = (self.now, 0);
        loop {
            if done(self) {
                return true;
            }
            stuck = if stuck.0 == self.now { (self.now, stuck.1 + 1) } else { (self.now, 0) };
            assert!(stuck.1 < 100_000, "time stands still at {:?}: {:#?}", self.now, self.routers);
            let timer = self.routers.iter().enumerate().filter_map(|(r, x)| Some((x.engine.as_ref()?.deadline()?, r))).min();
            let arrival = self.flying.first_key_value().map(|(key, _)| key.0);
            let Some(next) = timer.map(|t| t.0).into_iter().chain(arrival).min().filter(|at| *at <= until) else {
                self.now = until;
                return done(self);
            };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, f) = self.flying.pop_first().unwrap();
                let up = self.links[f.interface[1..].parse::<usize>().unwrap()].up;
                if up {
                    let (source, destination) = (f.source, f.destination);
                    self.handle(f.to, Event::Received { interface: &f.interface, source, destination, packet: &f.packet });
                }
            } else if let Some((_, router)) = timer {
                self.handle(router, Event::Timer);
            }
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Nothing is waited for, all know the same, and every route is right.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut wrong = self.wrong_routes();
        for (router, r) in self.routers.iter().enumerate() {
            let owed = r.engine.iter().flat_map(|e| e.neighbors()).filter(|n| n.retransmissions + n.requests > 0);
            wrong.extend(owed.map(|n| format!("router {router}: {n:?} is owed something")));
        }
        for group in self.islands() {
            let known: Vec<_> = group.iter().map(|r| self.database(*r)).collect();
            for (router, other) in group.iter().zip(&known).skip(1) {
                if known[0] != *other {
                    wrong.push(format!("routers {} and {router} differ:\n{:?}\n{other:?}", group[0], known[0]));
                }
            }
        }
        wrong
    }

    pub(crate) fn wrong_routes(&self) -> Vec<String> {
        let mut wrong = vec![];
        for (router, r) in self.routers.iter().enumerate() {
            let Some(engine) = &r.engine else { continue };
            let want = self.expected_routes(router);
            let have: BTreeMap<_, _> = engine.routes().iter().map(|(p, r)| (*p, (r.cost, r.next_hops.clone(), r.connected))).collect();
            for prefix in want.keys().chain(have.keys()).collect::<BTreeSet<_>>() {
                if want.get(prefix) != have.get(prefix) {
                    wrong.push(format!("router {router}: {prefix} is {:?}, should be {:?}", have.get(prefix), want.get(prefix)));
                }
            }
        }
        wrong
    }

    /// Identity and instance of all LSAs of routers that can be reached.
    fn database(&self, router: usize) -> BTreeSet<(&'static str, Ipv4Addr, Ipv4Addr, u32, u16)> {
        let reachable: Vec<_> = self.islands().into_iter().find(|i| i.contains(&router)).unwrap_or_default();
        let near = |id| reachable.iter().any(|r| router_id(*r) == id);
        let all = self.engine(router).database().into_iter().filter(|l| l.kind != "opaque-link" && near(l.advertising_router));
        all.map(|l| (l.kind, l.id, l.advertising_router, l.sequence, l.checksum)).collect()
    }

    /// Everything is right within `time`, and then stays quiet.
    pub(crate) fn settles(&mut self, time: Duration) {
        let right = |net: &Self| net.complaints().is_empty();
        let step = ms(100);
        let until = self.now + time;
        while !right(self) {
            assert!(self.now < until, "never settles:\n{}", self.complaints().join("\n"));
            self.run(step);
        }
        self.run(s(8));
        self.sent.clear();
        self.run(s(12));
        let noise: u64 = self.sent.iter().filter(|(kind, _)| **kind != 1).map(|(_, n)| n).sum();
        assert_eq!(noise, 0, "only Hellos when nothing happens: {:?}", self.sent);
        assert_eq!(self.complaints(), Vec::<String>::new());
    }
}
