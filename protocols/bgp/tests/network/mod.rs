//! Two engines over a network that delivers in any order, cuts messages anywhere and breaks connections. What one of them hears and
//! says is written down, and it may die at any moment: a successor goes on from what was written.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)] // Each test uses its part.

use edgeplex_bgp::{Action, ConnId, Event, Local, Peer, PeerConfig, State, Time};
use edgeplex_bgp_wire::*;
use edgeplex_types::{Label, RouteTarget};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

pub const LOCAL: [Local; 2] =
    [Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 1) }, Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 2) }];
pub const FAMILIES: [Family; 3] = [Family::RouteTarget, Family::Ipv4Unicast, Family::Vpnv4];

/// What is on its way to one end of a connection.
#[derive(Debug)]
pub enum Item {
    /// The connection itself: TCP stands for the one who opened it before the other accepts it.
    Accept,
    Bytes(Vec<u8>),
    End,
}

/// One end of a connection: its name there, and what comes towards it.
pub type End = (Option<ConnId>, VecDeque<Item>);

/// What a daemon above an engine keeps: routes with their MED, and which of them are stale.
#[derive(Default)]
pub struct Daemon {
    pub routes: BTreeMap<NlriKey, u32>,
    pub stale: BTreeSet<NlriKey>,
    /// When stale routes go.
    pub until: Option<Time>,
    pub ups: u32,
    pub downs: Vec<String>,
}

impl Daemon {
    pub fn sweep(&mut self, which: impl Fn(Family) -> bool) {
        for key in self.stale.extract_if(.., |k| which(k.family())) {
            self.routes.remove(&key);
        }
    }

    pub fn hear(&mut self, now: Time, action: Action) {
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

/// What is written down of side 0, by the number of the wire.
#[derive(Debug, Clone)]
pub enum Note {
    Opened { outgoing: bool },
    Received(Vec<u8>),
    Sent(Vec<u8>),
    Closed,
}

/// What a daemon means its neighbour to have: which of [`nlri`], with which MED.
pub type Desired = BTreeMap<NlriKey, (u32, u32)>;

pub struct Net {
    /// What was written down.
    pub journal: Vec<(usize, Note)>,
    /// How much more will be written before the process dies.
    budget: Option<usize>,
    /// Codes and subcodes of NOTIFICATIONs sent by each side.
    pub notifications: [Vec<(u8, u8)>; 2],
    /// UPDATEs sent by side 0.
    pub updates: usize,
    pub peers: [Peer; 2],
    pub daemons: [Daemon; 2],
    pub now: Time,
    pub wires: Vec<[End; 2]>,
    pub connecting: VecDeque<(usize, ConnId)>,
}

impl Net {
    pub fn new(change: impl Fn(&mut PeerConfig)) -> Self {
        let peer = |us: usize| {
            let mut config = PeerConfig { families: FAMILIES.into(), ..PeerConfig::new(LOCAL[1 - us].router_id, LOCAL[1 - us].asn) };
            change(&mut config);
            Peer::new(config, LOCAL[us])
        };
        let now = Duration::from_secs(1);
        let (journal, budget, notifications, updates) = Default::default();
        Self {
            journal,
            budget,
            notifications,
            updates,
            peers: [peer(0), peer(1)],
            daemons: Default::default(),
            now,
            wires: vec![],
            connecting: VecDeque::new(),
        }
    }

    /// Writes down what is about to happen. False: it does not, as the process has died.
    fn note(&mut self, side: usize, wire: usize, note: Note) -> bool {
        if side == 0 {
            match &mut self.budget {
                Some(0) => return false,
                Some(left) => *left -= 1,
                None => {}
            }
            self.journal.push((wire, note));
        }
        true
    }

    /// An engine that follows, made of what was written down; its daemon; its connections by their wires.
    pub fn replay(&self) -> (Peer, Daemon, BTreeMap<usize, ConnId>) {
        let mut next = Peer::following(self.peers[0].config().clone(), LOCAL[0]);
        let mut daemon = Daemon::default();
        let mut names: BTreeMap<usize, ConnId> = BTreeMap::new();
        for (wire, note) in &self.journal {
            let id = names.get(wire).copied();
            let event = match (note, id) {
                (Note::Opened { outgoing }, _) => Event::Opened { outgoing: *outgoing, local: LOCAL[0].router_id.into() },
                (Note::Received(bytes), Some(id)) => Event::Received(id, bytes),
                (Note::Sent(bytes), Some(id)) => Event::Sent(id, bytes),
                (Note::Closed, Some(id)) => Event::Closed(id, "closed"),
                (_, None) => continue,
            };
            for action in next.handle(self.now, event) {
                match action {
                    Action::Adopt(id) => drop(names.insert(*wire, id)),
                    Action::Close(id) => names.retain(|_, other| *other != id),
                    Action::Send(..) | Action::Connect(_) => panic!("who follows says nothing"),
                    other => daemon.hear(self.now, other),
                }
            }
        }
        (next, daemon, names)
    }

    /// Side 0 dies, and what becomes of it goes on: its engine and its daemon are made of what was written down, and want what the
    /// former ones did. `torn`: it dies while it works on something, having written so much of that.
    pub fn succeed(&mut self, torn: Option<usize>, draw: usize, desired: &Desired) {
        self.succeed_with(torn, draw, desired, |_| {});
    }

    /// With another configuration, which the successor gets before it is promoted.
    pub fn succeed_with(&mut self, torn: Option<usize>, draw: usize, desired: &Desired, change: impl Fn(&mut PeerConfig)) {
        if let Some(torn) = torn {
            // What was received is written in any case: otherwise it was never acknowledged, and comes again.
            self.budget = Some(torn + 1);
            self.step(draw);
            self.write(0, 2);
        }
        self.budget = None;
        let (mut next, daemon, names) = self.replay();
        assert_eq!(next.deadline(), None, "time stands still");
        if torn.is_none() && daemon.stale.is_empty() && self.daemons[0].stale.is_empty() {
            assert_eq!(daemon.routes, self.daemons[0].routes, "the daemon knows what the former one did");
            assert_eq!(next.prefixes_sent(), self.peers[0].prefixes_sent());
            assert_eq!(next.prefixes_received(), self.peers[0].prefixes_received());
        }
        for (n, med) in desired.values() {
            next.rib_out().advertise(nlri(*n), attributes(*n, *med), std::net::IpAddr::from([192, 0, 2, 1]));
        }
        FAMILIES.iter().for_each(|f| next.rib_out().release(*f));
        let mut config = next.config().clone();
        change(&mut config);
        next.reconfigure(config);
        self.peers[0] = next;
        self.daemons[0] = daemon;
        self.connecting.retain(|(side, _)| *side != 0);
        for w in 0..self.wires.len() {
            let lost = self.wires[w][0].0.take().is_some();
            self.wires[w][0].0 = names.get(&w).copied();
            if lost && self.wires[w][0].0.is_none() {
                self.wires[w][0].1.clear();
                self.wires[w][1].1.push_back(Item::End);
                self.journal.push((w, Note::Closed));
            }
        }
        self.act(0, Event::Promoted, None);
    }

    pub fn act(&mut self, side: usize, event: Event<'_>, accepted: Option<usize>) {
        let wire = |wires: &[[End; 2]], id| wires.iter().position(|w| w[side].0 == Some(id));
        let note = match event {
            Event::Connected(id, _) => Some((id, Note::Opened { outgoing: true })),
            Event::Received(id, bytes) => Some((id, Note::Received(bytes.to_vec()))),
            _ => None,
        };
        if let Some((w, note)) = note.and_then(|(id, note)| Some((wire(&self.wires, id)?, note))) {
            self.note(side, w, note);
        }
        for action in self.peers[side].handle(self.now, event) {
            let of = match &action {
                Action::Adopt(_) => accepted.map(|w| (w, Note::Opened { outgoing: false })),
                Action::Send(id, bytes) => wire(&self.wires, *id).map(|w| (w, Note::Sent(bytes.clone()))),
                Action::Close(id) => wire(&self.wires, *id).map(|w| (w, Note::Closed)),
                _ => None,
            };
            if of.is_some_and(|(w, note)| !self.note(side, w, note)) {
                return;
            }
            if let Action::Send(_, bytes) = &action
                && bytes[18] == 3
            {
                self.notifications[side].push((bytes[19], bytes[20]));
            }
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
    pub fn write(&mut self, side: usize, limit: usize) {
        for _ in 0..limit {
            let Some(id) = self.peers[side].established_connection() else { return };
            let Some(w) = self.wires.iter().position(|w| w[side].0 == Some(id)) else { return };
            let mut bytes = vec![];
            if !self.peers[side].next_update(&mut bytes) || !self.note(side, w, Note::Sent(bytes.clone())) {
                return;
            }
            self.updates += usize::from(side == 0);
            self.wires[w][1 - side].1.push_back(Item::Bytes(bytes));
        }
    }

    /// Breaks a connection: what is on its way is lost.
    pub fn cut(&mut self, draw: usize) {
        let alive: Vec<usize> = (0..self.wires.len()).filter(|w| self.wires[*w].iter().any(|e| e.0.is_some())).collect();
        let Some(w) = alive.get(draw % alive.len().max(1)) else { return };
        for side in 0..2 {
            self.wires[*w][side].1.clear();
            if let Some(id) = self.wires[*w][side].0.take() {
                self.note(side, *w, Note::Closed);
                self.act(side, Event::Closed(id, "cut"), None);
            }
        }
    }

    /// Does one of the things that may happen now; false if there is none.
    pub fn step(&mut self, draw: usize) -> bool {
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
                    if self.budget != Some(0) {
                        self.wires[w][side].0 = None;
                    }
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
    pub fn wait(&mut self) -> bool {
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
    pub fn calm_down(&mut self) {
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
pub fn nlri(n: u32) -> Nlri {
    let prefix = ipnet::Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap().into();
    match n % 3 {
        0 => Nlri::Unicast(prefix),
        1 => Nlri::Vpn { rd: "65000:1".parse().unwrap(), prefix, label: Label::try_from(16 + n).unwrap() },
        _ => Nlri::RouteTarget(RtMembership::new(65000, target(n / 3))),
    }
}

pub fn target(n: u32) -> RouteTarget {
    format!("65000:{}", n % 4).parse().unwrap()
}

pub fn attributes(n: u32, med: u32) -> Arc<Attributes> {
    Arc::new(Attributes { med: Some(med), ext_communities: vec![target(n / 3).0], ..Attributes::default() })
}
