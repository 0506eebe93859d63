//! Two engines over a network that delivers in any order, cuts messages anywhere and breaks connections: they come together,
//! and in the end each has what the other means it to have.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp::{Action, ConnId, Event, GracefulRestart, Local, Peer, PeerConfig, State, Time};
use edgeplex_bgp_wire::*;
use edgeplex_types::{Label, RouteTarget};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const LOCAL: [Local; 2] =
    [Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 1) }, Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 2) }];
const FAMILIES: [Family; 3] = [Family::RouteTarget, Family::Ipv4Unicast, Family::Vpnv4];

/// What is on its way to one end of a connection.
#[derive(Debug)]
enum Item {
    /// The connection itself: TCP stands for the one who opened it before the other accepts it.
    Accept,
    Bytes(Vec<u8>),
    End,
}

/// One end of a connection: its name there, and what comes towards it.
type End = (Option<ConnId>, VecDeque<Item>);

/// What a daemon above an engine keeps: routes with their MED, and which of them are stale.
#[derive(Default)]
struct Daemon {
    routes: BTreeMap<NlriKey, u32>,
    stale: BTreeSet<NlriKey>,
    /// When stale routes go.
    until: Option<Time>,
    ups: u32,
    downs: Vec<String>,
}

impl Daemon {
    fn sweep(&mut self, which: impl Fn(Family) -> bool) {
        for key in self.stale.extract_if(.., |k| which(k.family())) {
            self.routes.remove(&key);
        }
    }

    fn hear(&mut self, now: Time, action: Action) {
        match action {
            Action::Up { preserved, peer_has_gr, .. } => {
                self.ups += 1;
                self.sweep(|f| !peer_has_gr || !preserved.contains(&f));
            }
            Action::Down { reason, graceful } => {
                self.downs.push(reason);
                self.stale = self.routes.keys().copied().collect();
                match graceful {
                    Some(times) => self.until = Some(now + Duration::from_secs(times.stale_s.into())),
                    None => self.sweep(|_| true),
                }
            }
            Action::Update { attributes, reach, unreach, .. } => {
                for u in unreach {
                    self.routes.remove(&u.key);
                    self.stale.remove(&u.key);
                }
                for r in reach {
                    self.routes.insert(r.nlri.key(), attributes.med.unwrap());
                    self.stale.remove(&r.nlri.key());
                }
            }
            Action::EndOfRib(family) => self.sweep(|f| f == family),
            _ => {}
        }
    }
}

struct Net {
    peers: [Peer; 2],
    daemons: [Daemon; 2],
    now: Time,
    wires: Vec<[End; 2]>,
    connecting: VecDeque<(usize, ConnId)>,
}

impl Net {
    fn new(change: impl Fn(&mut PeerConfig)) -> Self {
        let peer = |us: usize| {
            let mut config = PeerConfig { families: FAMILIES.into(), ..PeerConfig::new(LOCAL[1 - us].router_id, LOCAL[1 - us].asn) };
            change(&mut config);
            Peer::new(config, LOCAL[us])
        };
        let now = Duration::from_secs(1);
        Self { peers: [peer(0), peer(1)], daemons: Default::default(), now, wires: vec![], connecting: VecDeque::new() }
    }

    fn act(&mut self, side: usize, event: Event<'_>, accepted: Option<usize>) {
        for action in self.peers[side].handle(self.now, event) {
            let wire = |wires: &[[End; 2]], id| wires.iter().position(|w| w[side].0 == Some(id));
            match action {
                Action::Connect(id) => self.connecting.push_back((side, id)),
                Action::Adopt(id) => self.wires[accepted.unwrap()][side].0 = Some(id),
                Action::Send(id, bytes) => {
                    if let Some(w) = wire(&self.wires, id) {
                        self.wires[w][1 - side].1.push_back(Item::Bytes(bytes));
                    }
                }
                Action::Close(id) => {
                    self.connecting.retain(|c| *c != (side, id));
                    if let Some(w) = wire(&self.wires, id) {
                        self.wires[w][side].0 = None;
                        self.wires[w][1 - side].1.push_back(Item::End);
                    }
                }
                other => self.daemons[side].hear(self.now, other),
            }
        }
    }

    /// The socket of a side takes up to `limit` messages.
    fn write(&mut self, side: usize, limit: usize) {
        for _ in 0..limit {
            let Some(id) = self.peers[side].established_connection() else { return };
            let Some(w) = self.wires.iter().position(|w| w[side].0 == Some(id)) else { return };
            let mut bytes = vec![];
            if !self.peers[side].next_update(&mut bytes) {
                return;
            }
            self.wires[w][1 - side].1.push_back(Item::Bytes(bytes));
        }
    }

    /// Breaks a connection: what is on its way is lost.
    fn cut(&mut self, draw: usize) {
        let alive: Vec<usize> = (0..self.wires.len()).filter(|w| self.wires[*w].iter().any(|e| e.0.is_some())).collect();
        let Some(w) = alive.get(draw % alive.len().max(1)) else { return };
        for side in 0..2 {
            self.wires[*w][side].1.clear();
            if let Some(id) = self.wires[*w][side].0.take() {
                self.act(side, Event::Closed(id, "cut"), None);
            }
        }
    }

    /// Does one of the things that may happen now; false if there is none.
    fn step(&mut self, draw: usize) -> bool {
        let deliveries: Vec<(usize, usize)> = (0..self.wires.len())
            .flat_map(|w| [(w, 0), (w, 1)])
            .filter(|(w, side)| {
                let (id, coming) = &self.wires[*w][*side];
                matches!(coming.front(), Some(Item::Accept)) || id.is_some() && !coming.is_empty()
            })
            .collect();
        let total = deliveries.len() + usize::from(!self.connecting.is_empty());
        if total == 0 {
            return false;
        }
        if let Some((w, side)) = deliveries.get(draw % total).copied() {
            let id = self.wires[w][side].0;
            match (self.wires[w][side].1.pop_front().unwrap(), id) {
                (Item::Bytes(mut bytes), Some(id)) => {
                    // A part of it, sometimes.
                    if draw.is_multiple_of(3) && bytes.len() > 1 {
                        let rest = bytes.split_off(draw % bytes.len());
                        self.wires[w][side].1.push_front(Item::Bytes(rest));
                    }
                    self.act(side, Event::Received(id, &bytes), None);
                }
                (Item::End, Some(id)) => {
                    self.act(side, Event::Closed(id, "closed"), None);
                    self.wires[w][side].0 = None;
                }
                (Item::Accept, _) => {
                    let own = LOCAL[side].router_id.into();
                    self.act(side, Event::Accepted(own), Some(w));
                    if self.wires[w][side].0.is_none() {
                        self.wires[w][side].1.clear();
                        self.wires[w][1 - side].1.push_back(Item::End);
                    }
                }
                (_, None) => unreachable!("nothing is delivered to a closed end"),
            }
        } else if let Some((side, id)) = self.connecting.pop_front() {
            let mut wire: [End; 2] = Default::default();
            wire[side].0 = Some(id);
            wire[1 - side].1.push_back(Item::Accept);
            self.wires.push(wire);
            self.act(side, Event::Connected(id, LOCAL[side].router_id.into()), None);
        }
        true
    }

    /// To the next deadline.
    fn wait(&mut self) -> bool {
        let stale = self.daemons.iter().filter_map(|d| d.until).min();
        let Some(due) = self.peers.iter().filter_map(Peer::deadline).chain(stale).min() else { return false };
        self.now = self.now.max(due);
        for side in 0..2 {
            if self.peers[side].deadline().is_some_and(|d| d <= self.now) {
                self.act(side, Event::Timer, None);
            }
            if self.daemons[side].until.is_some_and(|at| at <= self.now) {
                self.daemons[side].until = None;
                self.daemons[side].sweep(|_| true);
            }
        }
        true
    }

    /// Nothing breaks any more: until nothing is on its way and both sides have said all.
    fn calm_down(&mut self) {
        for round in 0..20_000 {
            (0..2).for_each(|side| self.write(side, 1));
            if self.step(round) {
                continue;
            }
            if self.peers.iter_mut().all(|p| p.state() == State::Established && p.rib_out().in_sync()) {
                return;
            }
            assert!(self.wait(), "nothing will ever happen");
        }
        panic!("no end: {:?} {:?}", self.daemons[0].downs, self.daemons[1].downs);
    }
}

/// Destination `n`: half of them belong to a VPN, and what a side wants to hear of stands among them.
fn nlri(n: u32) -> Nlri {
    let prefix = ipnet::Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap().into();
    match n % 3 {
        0 => Nlri::Unicast(prefix),
        1 => Nlri::Vpn { rd: "65000:1".parse().unwrap(), prefix, label: Label::try_from(16 + n).unwrap() },
        _ => Nlri::RouteTarget(RtMembership::new(65000, target(n / 3))),
    }
}

fn target(n: u32) -> RouteTarget {
    format!("65000:{}", n % 4).parse().unwrap()
}

fn attributes(n: u32, med: u32) -> Arc<Attributes> {
    Arc::new(Attributes { med: Some(med), ext_communities: vec![target(n / 3).0], ..Attributes::default() })
}

#[derive(Debug, Clone)]
enum Op {
    Advertise(usize, u32, u32),
    Withdraw(usize, u32),
    Write(usize, usize),
    Step(usize),
    Refresh(usize, usize),
    Cut(usize),
    Reset(usize),
    Wait,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..2, 0u32..24, 0u32..4).prop_map(|(s, n, med)| Op::Advertise(s, n, med)),
        2 => (0usize..2, 0u32..24).prop_map(|(s, n)| Op::Withdraw(s, n)),
        4 => (0usize..2, 0usize..4).prop_map(|(s, n)| Op::Write(s, n)),
        20 => (0usize..1000).prop_map(Op::Step),
        1 => (0usize..2, 0usize..3).prop_map(|(s, f)| Op::Refresh(s, f)),
        1 => (0usize..4).prop_map(Op::Cut),
        1 => (0usize..2).prop_map(Op::Reset),
        4 => Just(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_side_ends_with_what_the_other_means_it_to_have(
        ops in proptest::collection::vec(op(), 50..400),
        gr: bool,
        add_path: bool,
    ) {
        let mut net = Net::new(|c| {
            c.graceful_restart = Some(GracefulRestart { restart_time_s: 30, restarting: false }).filter(|_| gr);
            c.add_path_receive = add_path;
            c.membership_wait = Duration::from_secs(5);
        });
        let mut desired: [BTreeMap<NlriKey, u32>; 2] = Default::default();
        for side in 0..2 {
            FAMILIES.iter().for_each(|f| net.peers[side].rib_out().release(*f));
            net.act(side, Event::Start, None);
        }
        for op in ops {
            match op {
                Op::Advertise(side, n, med) => {
                    net.peers[side].rib_out().advertise(nlri(n), attributes(n, med), IpAddr::from([192, 0, 2, 1]));
                    desired[side].insert(nlri(n).key(), med);
                }
                Op::Withdraw(side, n) => {
                    net.peers[side].rib_out().withdraw(nlri(n).key());
                    desired[side].remove(&nlri(n).key());
                }
                Op::Write(side, limit) => net.write(side, limit),
                Op::Step(draw) => { net.step(draw); }
                Op::Refresh(side, at) => net.act(side, Event::Refresh(FAMILIES[at]), None),
                Op::Cut(draw) => net.cut(draw),
                Op::Reset(side) => net.act(side, Event::Reset, None),
                Op::Wait => { net.wait(); }
            }
        }
        net.calm_down();
        for side in 0..2 {
            let wanted: BTreeSet<RouteTarget> =
                desired[side].keys().filter_map(|k| if let NlriKey::RouteTarget(m) = k { m.target() } else { None }).collect();
            let mut meant = desired[1 - side].clone();
            meant.retain(|k, _| k.family() != Family::Vpnv4 || (0..24).any(|n| nlri(n).key() == *k && wanted.contains(&target(n / 3))));
            prop_assert_eq!(&net.daemons[side].routes, &meant, "side {}", side);
            prop_assert!(net.daemons[side].stale.is_empty());
            prop_assert_eq!(net.peers[side].prefixes_received(), meant.len());
            prop_assert_eq!(net.peers[1 - side].prefixes_sent(), meant.len());
            for reason in &net.daemons[side].downs {
                prop_assert!(!reason.contains("error"), "{}", reason);
            }
        }
    }

    /// However messages of two simultaneous connections interleave, one session comes up, the same on both sides,
    /// and within seconds.
    #[test]
    fn collisions_leave_one_session(draws in proptest::collection::vec(0usize..60, 60), first in 0usize..2, gr: bool) {
        let mut net = Net::new(|c| c.graceful_restart = Some(GracefulRestart { restart_time_s: 60, restarting: false }).filter(|_| gr));
        net.act(first, Event::Start, None);
        net.act(1 - first, Event::Start, None);
        let mut draws = draws.into_iter().cycle();
        for _ in 0..400 {
            if net.step(draws.next().unwrap()) {
                continue;
            }
            if net.peers.iter().all(|p| p.state() == State::Established) || !net.wait() {
                break;
            }
        }
        let alive: Vec<_> = net.wires.iter().filter(|w| w[0].0.is_some() || w[1].0.is_some()).collect();
        prop_assert_eq!(alive.len(), 1);
        prop_assert_eq!(alive[0][0].0, net.peers[0].established_connection());
        prop_assert_eq!(alive[0][1].0, net.peers[1].established_connection());
        prop_assert_eq!([net.daemons[0].ups, net.daemons[1].ups], [1, 1], "no session flapped");
        prop_assert!(net.now < Duration::from_secs(10));
    }
}
