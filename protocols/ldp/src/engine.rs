//! The LSR: brings each event to the part that it concerns, then lets everything settle.

use crate::db::{Changed, Lib, Neighbors};
use crate::discovery::Interface;
use crate::fsm::{End, Session, State};
use crate::neighbor::Neighbor;
use crate::packet::Status;
use crate::successor::{Following, Told};
use crate::{Action, BindingView, Config, ConnId, Event, Forwarding, NeighborView, RemoteView, Routes, Start, Time};
use edgeplex_types::{Label, NextHop};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

/// Lines to the operator about one neighbour keep this distance.
const LOG_PACE: Duration = Duration::from_secs(1);
/// Withdrawn labels that a neighbour may leave unreleased: a quarter of the range, within these limits. The upper one is far more
/// than one change of routes takes back in a core.
const MIN_UNRELEASED: usize = 64;
const MAX_UNRELEASED: usize = 20_000;

/// One LDP speaker: label space 0 of one LSR.
#[derive(Debug)]
pub struct Ldp {
    pub(crate) config: Config,
    pub(crate) interfaces: BTreeMap<Arc<str>, Interface>,
    pub(crate) neighbors: Neighbors,
    pub(crate) lib: Lib,
    pub(crate) actions: Vec<Action>,
    /// Whose session runs over a connection.
    pub(crate) conns: BTreeMap<ConnId, Ipv4Addr>,
    /// Keys that the listener has been told, by remote address.
    pub(crate) keys: BTreeMap<Ipv4Addr, String>,
    /// Accepted connections whose peer is not known yet. None of them is older than the key for its address.
    pub(crate) pending: BTreeMap<ConnId, Pending>,
    pub(crate) opened: u64,
    /// Configuration sequence number of our Hellos.
    pub(crate) sequence: u32,
    pub(crate) hello_id: u32,
    /// Until when labels of before our restart are kept for their FECs.
    pub(crate) kept_until: Option<Time>,
    /// The forwarder has state of before our restart.
    restarting: bool,
    routed: bool,
    /// All next hops of our routes.
    next_hops: BTreeSet<NextHop>,
    pub(crate) synced: BTreeMap<Arc<str>, bool>,
    logged: BTreeMap<Option<Ipv4Addr>, Time>,
    pub(crate) stopped: bool,
    /// Another process speaks.
    pub(crate) following: Option<Following>,
    pub(crate) told: Told,
    /// Just promoted: no label is given or taken before the routes are told, or until then.
    pub(crate) held_until: Option<Time>,
}

/// An accepted connection before its first PDU is understood.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) remote: Ipv4Addr,
    pub(crate) input: Vec<u8>,
    pub(crate) expires: Time,
}

impl Ldp {
    /// What it has to say at first comes with its first event.
    pub fn new(now: Time, config: Config, start: Start) -> Self {
        let restarting = start.restarting && !config.reconnect.is_zero();
        let mut ldp = Self {
            lib: Lib::new(&config, start),
            interfaces: BTreeMap::new(),
            neighbors: BTreeMap::new(),
            actions: vec![],
            conns: BTreeMap::new(),
            keys: BTreeMap::new(),
            pending: BTreeMap::new(),
            opened: 0,
            sequence: 1,
            hello_id: 0,
            kept_until: Some(now + config.recovery),
            restarting,
            routed: false,
            next_hops: BTreeSet::new(),
            synced: BTreeMap::new(),
            logged: BTreeMap::new(),
            stopped: false,
            following: None,
            told: Told::default(),
            held_until: None,
            config,
        };
        ldp.settle_keys();
        ldp
    }

    /// Does one event. What it answers is to be done in order.
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        if self.following.is_some() {
            self.follow(now, event);
        } else if !self.stopped {
            self.event(now, event);
            self.timers(now);
            self.settle(now);
        }
        std::mem::take(&mut self.actions)
    }

    pub(crate) fn event(&mut self, now: Time, event: Event) {
        match event {
            Event::Configure(config) => self.configure(now, config),
            Event::Interface { name, address, up } => self.interface(now, name, up.then_some(address)),
            Event::Hello { interface, source, packet } => self.hello_received(now, &interface, source, &packet),
            Event::Connected { conn } => self.connected(now, conn),
            Event::Accepted { conn, remote } => self.accepted(now, conn, remote),
            Event::Received { conn, bytes } => self.received(now, conn, bytes),
            Event::Closed { conn, reason } => self.closed(now, conn, reason),
            Event::Routes(routes) => {
                self.held_until = None;
                self.set_routes(routes);
            }
            Event::Reset { lsr_id } => {
                self.end_session(now, lsr_id, End::ours(Status::SHUTDOWN, "reset by the operator"));
                if let Some(neighbor) = self.neighbors.get_mut(&lsr_id) {
                    neighbor.forgive();
                }
            }
            Event::Stop => {
                self.end_all(now, "stopped by the operator");
                self.pending.keys().for_each(|conn| self.actions.push(Action::Close { conn: *conn }));
                self.interfaces.clear();
                self.stopped = true;
            }
            Event::Timer => {}
        }
    }

    pub(crate) fn set_routes(&mut self, routes: Arc<Routes>) {
        self.routed = true;
        self.next_hops = routes.values().flatten().cloned().collect();
        self.lib.set_routes(routes);
    }

    fn configure(&mut self, now: Time, config: Config) {
        if config == self.config {
            return;
        }
        let old = std::mem::replace(&mut self.config, config);
        self.sequence = self.sequence.wrapping_add(1);
        if old.lsr_id != self.config.lsr_id {
            self.end_all(now, "our LSR identifier changed");
            self.neighbors.clear();
            // The listener is another.
            self.keys.clear();
            self.lib.touch([old.lsr_id.into()]);
        }
        self.lib.labels.set_range(self.config.labels);
        self.lib.touch([self.config.lsr_id.into()]);
        self.lib.touch_all();
        let passwords = old.passwords;
        let changed = |lsr_id: &Ipv4Addr| passwords.get(lsr_id) != self.config.passwords.get(lsr_id);
        let rekeyed: Vec<_> = self.neighbors.keys().copied().filter(changed).collect();
        for lsr_id in rekeyed {
            self.end_session(now, lsr_id, End::ours(Status::SHUTDOWN, "its password changed"));
        }
        self.settle_keys();
        let enabled = self.config.interfaces.clone();
        for (name, interface) in &mut self.interfaces {
            interface.hello_at = enabled.contains(name).then_some(now);
        }
        self.lose_adjacencies(now, |interface, _| !enabled.contains(interface), "LDP was taken off its interface", false);
        self.neighbors.values_mut().for_each(crate::neighbor::Neighbor::forgive);
    }

    /// Our own address on an interface that is up; `None`: it is down.
    fn interface(&mut self, now: Time, name: Arc<str>, address: Option<Ipv4Addr>) {
        if self.interfaces.get(&name).map(|i| i.address) == address {
            return;
        }
        let before = self.own_addresses();
        match address {
            Some(address) => {
                let discovery = self.config.interfaces.contains(&name);
                self.interfaces.insert(name, Interface::new(now, address, discovery));
            }
            None => {
                self.interfaces.remove(&name);
                self.lose_adjacencies(now, |interface, _| *interface == name, "its interface is down", false);
            }
        }
        self.tell_addresses(&before);
    }

    pub(crate) fn own_addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.interfaces.values().map(|i| i.address).chain([self.config.lsr_id]).collect()
    }

    /// Tells the listener the keys that are wanted now, where they are others than before. What was accepted before a key was set
    /// may be unsigned: it is refused.
    pub(crate) fn settle_keys(&mut self) {
        let passwords = &self.config.passwords;
        let transports = self.neighbors.values().filter_map(|n| Some((n.transport, passwords.get(&n.lsr_id)?.clone())));
        let mut wanted: BTreeMap<_, _> = transports.collect();
        // A Hello is anybody's word: what it says of an address does not outweigh the configuration.
        wanted.extend(passwords.iter().map(|(lsr_id, password)| (*lsr_id, password.clone())));
        let old = std::mem::replace(&mut self.keys, wanted);
        for remote in old.keys().filter(|remote| !self.keys.contains_key(remote)) {
            self.actions.push(Action::Key { remote: *remote, password: None });
        }
        let new: Vec<_> = self.keys.iter().filter(|(remote, password)| old.get(remote) != Some(password)).collect();
        let of_new = |p: &Pending| new.iter().any(|(remote, _)| **remote == p.remote);
        let unsigned: Vec<_> = self.pending.iter().filter(|(_, p)| of_new(p)).map(|(conn, _)| *conn).collect();
        for (remote, password) in new {
            self.actions.push(Action::Key { remote: *remote, password: Some(password.clone()) });
        }
        unsigned.into_iter().for_each(|conn| self.refuse_pending(conn, Status::SHUTDOWN));
    }

    /// What comes from there is signed with this LSR's password, if it has one.
    pub(crate) fn is_signed(&self, lsr_id: Ipv4Addr, remote: Ipv4Addr) -> bool {
        self.config.passwords.get(&lsr_id).is_none_or(|password| self.keys.get(&remote) == Some(password))
    }

    fn end_all(&mut self, now: Time, why: &str) {
        let all: Vec<_> = self.neighbors.keys().copied().collect();
        for lsr_id in all {
            self.end_session(now, lsr_id, End::ours(Status::SHUTDOWN, why));
        }
    }

    fn timers(&mut self, now: Time) {
        self.lose_adjacencies(now, |_, a| a.expires.is_some_and(|at| at <= now), "hold timer expired", true);
        self.expire_pending(now);
        let all: Vec<_> = self.neighbors.keys().copied().collect();
        for lsr_id in all {
            self.session_timers(now, lsr_id);
            let Some(neighbor) = self.neighbors.get_mut(&lsr_id) else { continue };
            if neighbor.stale_until.is_some_and(|at| at <= now) {
                self.lib.touch(neighbor.sweep());
                self.lib.touch_all();
            }
            if neighbor.adjacencies.is_empty() && neighbor.session.is_none() && neighbor.stale_until.is_none() {
                self.neighbors.remove(&lsr_id);
                self.logged.remove(&Some(lsr_id));
                self.settle_keys();
            } else {
                self.try_connect(now, lsr_id);
            }
        }
        if self.kept_until.is_some_and(|at| at <= now) {
            self.recovered(now);
        }
        if self.held_until.is_some_and(|at| at <= now) {
            self.held_until = None;
        }
        self.send_hellos(now);
    }

    /// What was kept over our restart is confirmed by now, or never will be.
    fn recovered(&mut self, now: Time) {
        self.kept_until = None;
        self.lib.forget_unclaimed(now + self.config.recovery);
        if std::mem::take(&mut self.restarting) {
            self.actions.push(Action::Recovered);
        }
    }

    /// What is left of the time to confirm what was kept over our restart.
    pub(crate) fn recovery_left(&self, now: Time) -> Duration {
        self.kept_until.filter(|_| self.restarting).map_or(Duration::ZERO, |until| until.saturating_sub(now))
    }

    pub(crate) fn settle(&mut self, now: Time) {
        self.lib.held &= self.following.is_some() || self.held_until.is_some();
        self.end_hoarders(now);
        self.lib.settle(now, &self.config, &mut self.neighbors);
        let Changed { bindings, forwarding, exhausted } = std::mem::take(&mut self.lib.changed);
        if exhausted {
            self.log(now, None, format!("no label left in {}-{}", self.config.labels.first(), self.config.labels.last()));
        }
        // Handed over before a neighbour learns of it. It need not be on disk by then: that is what the gap after a restart is for.
        if bindings {
            self.actions.push(Action::BindingsChanged);
        }
        for neighbor in self.neighbors.values_mut() {
            if let Some(session) = &mut neighbor.session
                && let Some(bytes) = session.flush(now)
            {
                self.actions.push(Action::Send { conn: session.conn, bytes });
            }
        }
        if forwarding {
            self.actions.push(Action::ForwardingChanged);
        }
        self.tell_synced();
        let all_synced = !self.synced.is_empty() && self.synced.values().all(|s| *s);
        if self.restarting && self.routed && all_synced && self.lib.all_claimed() {
            self.recovered(now);
        }
    }

    /// A neighbour that never releases what we withdraw would use the label space up.
    fn end_hoarders(&mut self, now: Time) {
        let (first, last) = (self.config.labels.first().get(), self.config.labels.last().get());
        let most = usize::try_from((last - first) / 4).unwrap_or(usize::MAX).clamp(MIN_UNRELEASED, MAX_UNRELEASED);
        let hoarders = self.neighbors.values().filter(|n| n.withdrawn.len() > most).map(|n| n.lsr_id);
        for lsr_id in hoarders.collect::<Vec<_>>() {
            let why = End { keep: false, ..End::ours(Status::INTERNAL_ERROR, "it does not release the labels that were withdrawn") };
            self.end_session(now, lsr_id, why);
        }
    }

    /// RFC 5443 §2
    fn tell_synced(&mut self) {
        let enabled = self.interfaces.iter().filter(|(_, i)| i.hello_at.is_some());
        let now_synced: BTreeMap<_, _> = enabled.map(|(name, _)| (Arc::clone(name), self.is_synced(name))).collect();
        let names: BTreeSet<_> = now_synced.keys().chain(self.synced.keys()).cloned().collect();
        for interface in names {
            let synced = now_synced.get(&interface).copied().unwrap_or(false);
            if self.synced.get(&interface).copied().unwrap_or(false) != synced {
                self.actions.push(Action::Synced { interface, synced });
            }
        }
        self.synced = now_synced;
    }

    fn is_synced(&self, interface: &Arc<str>) -> bool {
        // A neighbour that restarts gracefully forwards by the labels it gave: a cost that changes now would end its OSPF's graceful
        // restart as well (RFC 3623 §3.2).
        let in_step = |n: &Neighbor| n.stale_until.is_some() || n.session.as_ref().is_some_and(Session::is_complete);
        // Anybody can invent neighbours: without a session one counts only as a next hop of ours, where no other is in step.
        let needed = |n: &Neighbor, source: Ipv4Addr| {
            let hop = NextHop { interface: Arc::clone(interface), address: source };
            n.is_up() || n.resets > 0 || (self.next_hops.contains(&hop) && !self.neighbors.values().any(|o| in_step(o) && o.is_at(&hop)))
        };
        let here = || self.neighbors.values().filter_map(|n| Some((n, n.adjacencies.get(interface)?.source)));
        here().any(|(n, _)| in_step(n)) && here().all(|(n, source)| in_step(n) || !needed(n, source))
    }

    /// A neighbour cannot flood the log.
    pub(crate) fn log(&mut self, now: Time, lsr_id: Option<Ipv4Addr>, text: String) {
        if self.logged.get(&lsr_id).is_none_or(|last| now.saturating_sub(*last) >= LOG_PACE) {
            self.logged.insert(lsr_id, now);
            self.actions.push(Action::Log { lsr_id, text });
        }
    }

    /// When [`Event::Timer`] is due.
    pub fn deadline(&self) -> Option<Time> {
        if self.stopped || self.following.is_some() {
            return None;
        }
        let neighbors = self.neighbors.values().flat_map(|n| {
            let session = n.session.iter().flat_map(|s| [Some(s.receive_by), s.send_by, s.complete_at.filter(|_| s.is_up())]);
            let retry = n.retry_at.filter(|_| n.session.is_none() && !n.adjacencies.is_empty() && n.transport < self.config.lsr_id);
            let adjacencies = n.adjacencies.values().map(|a| a.expires);
            session.chain(adjacencies).chain([retry, n.stale_until])
        });
        let interfaces = self.interfaces.values().map(|i| i.hello_at);
        let pending = self.pending.values().map(|p| Some(p.expires));
        neighbors.chain(interfaces).chain(pending).chain([self.kept_until, self.held_until]).flatten().min()
    }

    pub fn forwarding(&self) -> &Arc<Forwarding> {
        &self.lib.forwarding
    }

    /// Our labels by FEC, to be stored: those in use, and those withdrawn but not yet released. Null labels are not among them.
    pub fn bindings(&self) -> &BTreeMap<Ipv4Net, Label> {
        &self.lib.bindings
    }

    /// We were restarted, and what was kept over it is not yet confirmed ([`Action::Recovered`] follows).
    pub fn recovering(&self) -> bool {
        self.restarting
    }

    pub fn neighbors(&self, now: Time) -> Vec<NeighborView> {
        self.neighbors.values().map(|n| n.view(now)).collect()
    }

    /// Ours that are up, and our address there.
    pub fn interfaces(&self) -> impl Iterator<Item = (&Arc<str>, Ipv4Addr)> {
        self.interfaces.iter().map(|(name, i)| (name, i.address))
    }

    pub fn state(&self, lsr_id: Ipv4Addr) -> State {
        self.neighbors.get(&lsr_id).and_then(|n| n.session.as_ref()).map_or(State::NonExistent, |s| s.state)
    }

    pub fn lib(&self) -> Vec<BindingView> {
        let mut views: BTreeMap<Ipv4Net, BindingView> = BTreeMap::new();
        for (prefix, local) in &self.lib.local {
            views.insert(*prefix, BindingView { prefix: *prefix, local: Some(*local), remote: vec![] });
        }
        for neighbor in self.neighbors.values() {
            for (prefix, remote) in &neighbor.remote {
                let hops = self.lib.hops(&self.config, prefix).into_iter().flatten();
                let mut users = hops.filter_map(|hop| crate::db::downstream(&self.neighbors, hop));
                let in_use = users.any(|n| n.lsr_id == neighbor.lsr_id);
                let view = RemoteView { lsr_id: neighbor.lsr_id, label: remote.label, in_use, stale: remote.stale };
                let row = views.entry(*prefix).or_insert_with(|| BindingView { prefix: *prefix, local: None, remote: vec![] });
                row.remote.push(view);
            }
        }
        views.into_values().collect()
    }

    /// Labels that are not free, and by how many each is held: our binding and the neighbours that have not released it.
    pub fn labels_in_use(&self) -> &BTreeMap<Label, usize> {
        self.lib.labels.users()
    }
}
