//! The engine: one event in, its actions out.

use crate::db::Db;
use crate::events::{ALL_ROUTERS, Action, DESIGNATED_ROUTERS, Event, Route, Start, Time};
use crate::flood::Scope;
use crate::fsm::{Interface, InterfaceState, Neighbor, NeighborState, OwnLink};
use crate::originate::Own;
use crate::packet::{AuthError, LsaKey, Message, Packet};
use crate::spf::Schedule;
use crate::successor::{Clock, Told};
use crate::{Config, InterfaceConfig};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// One OSPF router.
#[derive(Debug)]
pub struct Ospf {
    pub(crate) config: Config,
    /// Of the event being handled.
    pub(crate) now: Time,
    pub(crate) started: Time,
    pub(crate) crypto_sequence: u32,
    pub(crate) clock: Clock,
    /// Another process speaks, and we are told what it knows.
    pub(crate) following: bool,
    pub(crate) told: Told,
    /// The next negotiation of a database exchange begins above.
    pub(crate) dd_counter: u32,
    pub(crate) interfaces: BTreeMap<Arc<str>, Interface>,
    /// Of the area and the AS.
    pub(crate) db: Db,
    pub(crate) own: BTreeMap<(Scope, LsaKey), Own>,
    /// What we announce may no longer be right.
    pub(crate) dirty: bool,
    /// Links that routes were last computed from.
    pub(crate) links: Vec<OwnLink>,
    pub(crate) spf: Schedule,
    pub(crate) routes: BTreeMap<Ipv4Net, Route>,
    /// We have been started again, and neighbours wait for us until then.
    pub(crate) restart_until: Option<Time>,
    pub(crate) stopped: bool,
    pub(crate) out: Vec<Action>,
}

impl Ospf {
    pub fn new(now: Time, config: Config, start: Start) -> Self {
        let restart_until = (start.restarting && config.grace_s > 0).then(|| now + Duration::from_secs(config.grace_s.into()));
        let interfaces = config.interfaces.iter().map(|(name, c)| (name.clone(), Interface::new(c.clone()))).collect();
        Self {
            config,
            now,
            started: now,
            crypto_sequence: start.crypto_sequence,
            clock: Clock { at: now, date: start.crypto_sequence },
            following: false,
            told: Told::default(),
            dd_counter: start.crypto_sequence,
            interfaces,
            db: Db::default(),
            own: BTreeMap::new(),
            dirty: true,
            links: vec![],
            spf: Schedule::default(),
            routes: BTreeMap::new(),
            restart_until,
            stopped: false,
            out: vec![],
        }
    }

    /// `now` must not fall from one call to the next.
    pub fn handle(&mut self, now: Time, event: Event<'_>) -> Vec<Action> {
        self.now = self.now.max(now);
        if self.stopped {
            return vec![];
        }
        if self.following {
            return self.follow(event);
        }
        match event {
            Event::Configure(config) => self.configure(config),
            Event::Interface { name, up } => self.set_carrier(name, up),
            Event::Received { interface, source, destination, packet } => self.receive(interface, source, destination, packet),
            Event::NeighborLost { interface, address } => self.neighbor_lost(interface, address),
            Event::LinkCost { interface, max } => {
                if let Some(interface) = self.interfaces.get_mut(interface)
                    && interface.max_cost != max
                {
                    interface.max_cost = max;
                    self.dirty = true;
                }
            }
            Event::PrepareRestart => self.prepare_restart(),
            Event::Shutdown => self.shut_down(),
            Event::Timer => {}
        }
        if !self.stopped {
            self.timers();
            self.finish();
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Timer`] is wanted next.
    pub fn deadline(&self) -> Option<Time> {
        if self.stopped {
            return None;
        }
        if self.following {
            return self.spf.deadline().into_iter().chain(self.dirty.then_some(self.now)).min();
        }
        let interfaces = self.interfaces.values().flat_map(|i| {
            let neighbors = i.neighbors.values().filter_map(Neighbor::deadline);
            neighbors.chain([i.hello_at, i.wait_until, i.acknowledge_at, i.db.deadline()].into_iter().flatten())
        });
        let spf = self.spf.deadline().filter(|_| !self.is_restarting());
        let rest = [self.own_deadline(), self.db.deadline(), spf, self.restart_until];
        let fresh = self.dirty.then_some(self.now);
        interfaces.chain(rest.into_iter().flatten()).chain(fresh).min()
    }

    fn timers(&mut self) {
        let now = self.now;
        for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
            self.hello_timers(&name, now);
            self.exchange_timers(&name);
            self.flood_timers(&name, now);
        }
        self.age_timers(now);
        self.own_timers(now);
        self.dirty |= self.restart_until.is_some_and(|at| at <= now);
    }

    /// What follows from whatever the event has changed.
    fn finish(&mut self) {
        loop {
            self.run_elections();
            if std::mem::take(&mut self.dirty) {
                self.check_restart();
                self.originate();
                let links = self.own_links();
                if links != self.links {
                    self.links = links;
                    self.spf.request(self.now, &self.config.timing);
                }
            } else if self.sweep() {
                // One that was ours may come anew.
                self.dirty = true;
            } else {
                break;
            }
        }
        self.flush_floods();
        for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
            self.sync_neighbors(&name);
        }
        self.compute_routes();
    }

    fn configure(&mut self, config: Config) {
        if (config.router_id, config.area) != (self.config.router_id, self.config.area) {
            self.begin_anew(config);
            return;
        }
        let gone: Vec<_> = self.interfaces.keys().filter(|name| !config.interfaces.contains_key(*name)).cloned().collect();
        for name in gone {
            self.interface_down(&name, "the interface is no longer configured");
            self.interfaces.remove(&name);
        }
        for (name, new) in &config.interfaces {
            match self.interfaces.get_mut(name) {
                None => {
                    self.interfaces.insert(name.clone(), Interface::new(new.clone()));
                }
                Some(interface) if is_other(&interface.config, new) => {
                    self.interface_down(name, "the interface is configured anew");
                    if let Some(interface) = self.interfaces.get_mut(name) {
                        interface.config = new.clone();
                    }
                    self.interface_up(name);
                }
                Some(interface) if interface.config != *new => {
                    interface.config = new.clone();
                    interface.elect = true;
                    self.hello_soon(name);
                }
                Some(_) => {}
            }
        }
        if config.loop_free_alternates != self.config.loop_free_alternates {
            self.spf.request(self.now, &config.timing);
        }
        self.config = config;
        self.dirty = true;
    }

    /// Another router, or another area: the old one says good-bye.
    fn begin_anew(&mut self, config: Config) {
        self.shut_down();
        for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
            self.interface_down(&name, "the router is configured anew");
        }
        let start = Start { restarting: false, crypto_sequence: self.crypto_now() };
        let mut fresh = Self::new(self.now, config, start);
        fresh.out = std::mem::take(&mut self.out);
        fresh.spf.request(self.now, &fresh.config.timing);
        let carriers: Vec<_> = self.interfaces.iter().filter(|(_, i)| i.carrier).map(|(n, _)| n.clone()).collect();
        fresh.routes = std::mem::take(&mut self.routes);
        fresh.told = self.told.of_another();
        fresh.clock = self.clock;
        *self = fresh;
        for name in carriers {
            self.set_carrier(&name, true);
        }
    }

    pub(crate) fn set_carrier(&mut self, name: &str, up: bool) {
        let Some((name, interface)) = self.interfaces.get_key_value(name) else { return };
        let name = name.clone();
        if interface.carrier == up {
            return;
        }
        if let Some(interface) = self.interfaces.get_mut(&name) {
            interface.carrier = up;
        }
        if up { self.interface_up(&name) } else { self.interface_down(&name, "the interface is down") }
    }

    fn neighbor_lost(&mut self, name: &str, address: Ipv4Addr) {
        let Some((name, interface)) = self.interfaces.get_key_value(name) else { return };
        let name = name.clone();
        // RFC 5882 §4.3: who restarts may take its BFD with it; its grace period bounds that.
        if interface.neighbors.get(&address).is_some_and(|n| n.helping.is_none()) {
            self.neighbor_down(&name, address, "BFD lost it");
        }
    }

    /// RFC 2328 §8.2.
    fn receive(&mut self, name: &str, source: Ipv4Addr, destination: Ipv4Addr, bytes: &[u8]) {
        let Some((name, interface)) = self.interfaces.get_key_value(name) else { return };
        let name = name.clone();
        // Our own multicast may come back to us; AllDRouters is not for us unless we are one.
        let for_others = destination == DESIGNATED_ROUTERS && !interface.is_designated();
        if !interface.state.is_active() || source == interface.address() || for_others {
            return;
        }
        if !interface.config.address.contains(&source) {
            return self.refuse(&name, "source", &format!("a packet from {source}, which is not of its subnet"));
        }
        let packet = match Packet::decode(bytes) {
            Ok(packet) => packet,
            Err(error) => return self.refuse(&name, "malformed", &format!("a packet from {source}: {error}")),
        };
        let router_id = packet.header.router_id;
        if packet.header.area != self.config.area {
            return self.refuse(&name, "area", &format!("a packet from {source} for area {}", packet.header.area));
        }
        if router_id == self.config.router_id {
            return self.refuse(&name, "router ID", &format!("a packet from {source} with our own router ID"));
        }
        let sealed = match packet.open(&interface.config.authentication) {
            Ok(sealed) => sealed,
            Err(error) => {
                let reason = if error == AuthError::Checksum { "checksum" } else { "authentication" };
                return self.refuse(&name, reason, &format!("a packet from {source}: {error}"));
            }
        };
        let neighbor = interface.neighbors.get(&source).filter(|n| n.state > NeighborState::Down);
        // RFC 2328 §D.5.3
        if let (Some(neighbor), Some(sequence)) = (neighbor, sealed.sequence)
            && sequence < neighbor.crypto_sequence
        {
            return self.refuse(&name, "replay", &format!("a packet from {source} that is older than its last"));
        }
        let message = match packet.message() {
            Ok(message) => message,
            Err(error) => return self.refuse(&name, "malformed", &format!("a packet from {source}: {error}")),
        };
        if let Message::Hello(hello) = &message {
            return self.receive_hello(&name, source, router_id, sealed.sequence, hello);
        }
        let Some(neighbor) = self.neighbor_mut(&name, source).filter(|n| n.state > NeighborState::Down && n.router_id == router_id) else {
            return self.refuse(&name, "no neighbor", "");
        };
        if let Some(sequence) = sealed.sequence {
            neighbor.crypto_sequence = sequence;
        }
        match message {
            Message::Hello(_) => {}
            Message::DatabaseDescription(dd) => self.receive_dd(&name, source, &dd),
            Message::Request(keys) => self.receive_request(&name, source, &keys),
            Message::Update(update) => self.receive_update(&name, source, update),
            Message::Acknowledge(headers) => self.receive_acknowledgement(&name, source, &headers),
        }
    }

    /// Counted; the first of its kind goes to the log, if there is something to say.
    pub(crate) fn refuse(&mut self, name: &Arc<str>, reason: &'static str, words: &str) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        interface.refuse(reason);
        if interface.refused.get(reason) == Some(&1) && !words.is_empty() {
            self.log(format!("OSPF on {name} refuses {words}; more of this kind are only counted"));
        }
    }

    pub(crate) fn log(&mut self, text: String) {
        self.out.push(Action::Log(text));
    }

    pub(crate) fn neighbor(&self, name: &Arc<str>, address: Ipv4Addr) -> Option<&Neighbor> {
        self.interfaces.get(name)?.neighbors.get(&address)
    }

    pub(crate) fn neighbor_mut(&mut self, name: &Arc<str>, address: Ipv4Addr) -> Option<&mut Neighbor> {
        self.interfaces.get_mut(name)?.neighbors.get_mut(&address)
    }

    /// Never falls (RFC 2328 §D.3), also over a restart, as long as the clock of whoever started us does not.
    pub(crate) fn crypto_now(&self) -> u32 {
        let passed = (self.now - self.started).as_secs();
        self.crypto_sequence.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX))
    }

    pub(crate) fn send(&mut self, name: &Arc<str>, destination: Ipv4Addr, message: &Message) {
        let Some(interface) = self.interfaces.get(name) else { return };
        if interface.state == InterfaceState::Down {
            return;
        }
        let packet = message.encode(self.config.router_id, self.config.area, &interface.config.authentication, self.crypto_now());
        self.out.push(Action::Send { interface: name.clone(), destination, packet });
    }

    /// RFC 2328 §8.1: on a point-to-point link everything goes to AllSPFRouters.
    pub(crate) fn unicast(&self, name: &Arc<str>, neighbor: Ipv4Addr) -> Ipv4Addr {
        if self.interfaces.get(name).is_some_and(Interface::is_broadcast) { neighbor } else { ALL_ROUTERS }
    }

    pub(crate) fn send_to(&mut self, name: &Arc<str>, neighbor: Ipv4Addr, message: &Message) {
        self.send(name, self.unicast(name, neighbor), message);
    }

    /// Valid until the next [`Action::RoutesChanged`].
    pub fn routes(&self) -> &BTreeMap<Ipv4Net, Route> {
        &self.routes
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// What cannot be changed under running adjacencies.
fn is_other(old: &InterfaceConfig, new: &InterfaceConfig) -> bool {
    (old.address, old.mtu, old.network, old.passive) != (new.address, new.mtu, new.network, new.passive)
}
