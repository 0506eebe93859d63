//! Following another process, and taking its place.

use super::Told;
use crate::db::Db;
use crate::engine::Ospf;
use crate::flood::Scope;
use crate::fsm::{Helping, Interface, InterfaceState, Neighbor, NeighborState};
use crate::packet::{Lsa, MAX_AGE, OPAQUE_LINK};
use crate::stored::{self, Name, StoredInterface, StoredInterfaceState, StoredNeighborState, StoredRouter, StoredSequence, ValueError};
use crate::{Action, Config, Event, Network, Start, Time};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// An LSA that is beyond MaxAge by more than this has not been looked after: so has nothing else.
const UNATTENDED: u64 = 60;

impl Ospf {
    /// Follows another process: hears and says nothing, only [`Ospf::apply`] changes what it knows, and routes follow from that.
    /// Configuration and carriers may be told as ever.
    pub fn following(now: Time, config: Config, start: Start) -> Self {
        let mut engine = Self::new(now, config, Start { restarting: false, ..start });
        engine.following = true;
        engine.dirty = false;
        engine
    }

    /// Only the configuration, carriers and the passing of time change anything here.
    pub(crate) fn follow(&mut self, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Configure(config) => {
                self.interfaces.retain(|name, _| config.interfaces.contains_key(name));
                for (name, new) in &config.interfaces {
                    self.interfaces.entry(name.clone()).or_insert_with(|| Interface::new(new.clone())).config = new.clone();
                }
                self.config = config;
                for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
                    self.imitate(&name);
                }
            }
            Event::Interface { name, up } => {
                if let Some(interface) = self.interfaces.get_mut(name) {
                    interface.carrier = up;
                }
            }
            _ => {}
        }
        self.dirty = false;
        let links = self.own_links();
        if links != self.links {
            self.links = links;
            self.spf.request(self.now, &self.config.timing);
        }
        for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
            self.sync_neighbors(&name);
        }
        self.compute_routes();
        std::mem::take(&mut self.out)
    }

    /// What is left until this date.
    fn left(&self, until: u32) -> Duration {
        Duration::from_secs(until.saturating_sub(self.clock.date(self.now)).into())
    }

    /// What the process that we follow has told; a timer event works it in.
    pub fn apply(&mut self, now: Time, name: &str, value: Option<&[u8]>) -> Result<(), ValueError> {
        let name: Name = name.parse()?;
        self.now = self.now.max(now);
        match (&name, value) {
            (Name::Lsa(scope, key), Some(value)) => {
                let (lsa, at) = stored::decode_lsa(&name, key, value)?;
                self.told.lsas.insert((scope.clone(), *key));
                self.apply_lsa(scope, lsa, at);
            }
            (Name::Lsa(scope, key), None) => {
                self.told.lsas.remove(&(scope.clone(), *key));
                if let Some(db) = self.db_mut(scope) {
                    db.remove(key);
                }
                let (now, timing) = (self.now, self.config.timing);
                self.spf.request(now, &timing);
            }
            (Name::Neighbor(interface, address), value) => {
                let slot = (interface.clone(), *address);
                match value {
                    Some(value) => drop(self.told.neighbors.insert(slot, stored::decode(&name, value)?)),
                    None => drop(self.told.neighbors.remove(&slot)),
                }
                self.imitate(interface);
            }
            (Name::Unacked(interface, address, key), value) => {
                let keys = self.told.unacked.entry((interface.clone(), *address)).or_default();
                let _ = if value.is_some() { keys.insert(*key) } else { keys.remove(key) };
            }
            (Name::Interface(interface), value) => {
                match value {
                    Some(value) => drop(self.told.interfaces.insert(interface.clone(), stored::decode(&name, value)?)),
                    None => drop(self.told.interfaces.remove(interface)),
                }
                self.imitate(interface);
            }
            (Name::Router, value) => self.told.router = value.map(|v| stored::decode(&name, v)).transpose()?,
            (Name::Sequence, value) => {
                let stored: Option<StoredSequence> = value.map(|v| stored::decode(&name, v)).transpose()?;
                self.told.sequence = stored.map(|s| s.reserved);
            }
        }
        Ok(())
    }

    /// Everything that was told is forgotten: it is told anew.
    pub fn forget(&mut self, now: Time) -> Vec<Action> {
        if !self.following {
            return vec![];
        }
        self.told = Told::default();
        self.db = Db::default();
        for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
            self.imitate(&name);
            if let Some(interface) = self.interfaces.get_mut(&name) {
                interface.db = Db::default();
            }
        }
        self.spf.request(self.now, &self.config.timing);
        self.handle(now, Event::Timer)
    }

    fn apply_lsa(&mut self, scope: &Scope, lsa: Lsa, at: u64) {
        let (now, timing, date) = (self.now, self.config.timing, u64::from(self.clock.date(self.now)));
        let (then, passed) = (lsa.header.age, date.saturating_sub(at));
        let age = passed.saturating_add(then.into());
        let age = match u16::try_from(age).ok().filter(|age| *age < MAX_AGE) {
            _ if then >= MAX_AGE => MAX_AGE,
            Some(age) => age,
            // About to be flushed, with everybody else's.
            None if age < u64::from(MAX_AGE) + UNATTENDED => MAX_AGE - 1,
            None => {
                self.told.outdated = true;
                MAX_AGE - 1
            }
        };
        let Some(db) = self.db_mut(scope) else { return };
        db.install(now, Arc::new(lsa.at_age(age)), false);
        self.spf.request(now, &timing);
    }

    /// Makes an interface what we have been told of it.
    pub(crate) fn imitate(&mut self, name: &Arc<str>) {
        let (now, dead) = (self.now, self.interfaces.get(name).map(Interface::dead).unwrap_or_default());
        let lefts: BTreeMap<Ipv4Addr, Duration> = self
            .told
            .neighbors
            .iter()
            .filter(|((i, _), _)| i == name)
            .filter_map(|((_, address), n)| Some((*address, self.left(n.helping_until?))))
            .collect();
        let (date, told) = (self.clock.date(now), &self.told);
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let stored = told.interfaces.get(name).filter(|s| is_ours(s, interface));
        interface.state = stored.map_or(InterfaceState::Down, |s| interface_state(s, interface));
        interface.max_cost = stored.map_or(interface.max_cost, |s| s.max_cost);
        (interface.designated, interface.backup) =
            stored.map_or((Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED), |s| (s.designated, s.backup));
        let mut before = std::mem::take(&mut interface.neighbors);
        if stored.is_some() {
            for ((_, address), stored) in told.neighbors.range((name.clone(), Ipv4Addr::UNSPECIFIED)..=(name.clone(), Ipv4Addr::BROADCAST))
            {
                let mut neighbor = before.remove(address).unwrap_or_else(|| Neighbor::new(stored.router_id));
                neighbor.router_id = stored.router_id;
                neighbor.state = match stored.state {
                    StoredNeighborState::Silent => NeighborState::Down,
                    StoredNeighborState::TwoWay => NeighborState::TwoWay,
                    StoredNeighborState::Full => NeighborState::Full,
                };
                (neighbor.priority, neighbor.designated, neighbor.backup) = (stored.priority, stored.designated, stored.backup);
                neighbor.options = stored.options;
                neighbor.dead_at = now + dead;
                neighbor.full_since = stored.since.map(|since| now.saturating_sub(Duration::from_secs(date.saturating_sub(since).into())));
                neighbor.helping = lefts.get(address).map(|left| Helping { until: now + *left, back: stored.back });
                interface.neighbors.insert(*address, neighbor);
            }
        }
        // Those that are gone are gone for whoever watches, too.
        for (address, mut neighbor) in before.into_iter().filter(|(_, n)| n.up) {
            (neighbor.state, neighbor.helping) = (NeighborState::Down, None);
            interface.neighbors.insert(address, neighbor);
        }
        self.dirty = true;
    }

    /// The router that we follow is another than we are configured to be, or has not been looked after for too long.
    fn is_useless(&self) -> bool {
        let other = |r: &StoredRouter| (r.router_id, r.area) != (self.config.router_id, self.config.area);
        let unattended = self.db.deadline().is_some_and(|at| at + Duration::from_secs(UNATTENDED) < self.now);
        self.told.router.as_ref().is_none_or(other) || self.told.outdated || unattended
    }

    /// The process that we followed is no more: we are the router from now on. Without anything to go on with it begins as one that
    /// restarts, if `restarting`, or else as a new one.
    pub fn promote(&mut self, now: Time, restarting: bool) -> Vec<Action> {
        self.now = self.now.max(now);
        self.following = false;
        let useless = self.is_useless();
        // Above whatever was in use.
        let reserved = self.told.sequence.map_or(0, |s| s.saturating_add(1));
        let crypto_sequence = self.clock.date(self.now).max(reserved);
        if useless {
            return self.begin_without(Start { restarting, crypto_sequence });
        }
        self.db.take_touched();
        (self.crypto_sequence, self.started) = (crypto_sequence, self.now);
        self.dd_counter = crypto_sequence;
        self.restart_until = self.told.router.as_ref().and_then(|r| r.restarting_until).map(|until| self.now + self.left(until));
        self.own_lsas_again();
        for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
            self.imitate(&name);
            self.db_mut(&Some(name.clone())).map(Db::take_touched);
            self.take_over(&name);
        }
        self.spf.at_once(self.now);
        self.handle(now, Event::Timer)
    }

    fn begin_without(&mut self, start: Start) -> Vec<Action> {
        let mut fresh = Self::new(self.now, self.config.clone(), start);
        if !self.told.is_empty() {
            fresh.log("OSPF cannot go on where the process before was: it begins anew".into());
        }
        fresh.told = self.told.of_another();
        fresh.clock = self.clock;
        fresh.routes = std::mem::take(&mut self.routes);
        fresh.spf.request(fresh.now, &fresh.config.timing);
        // Whoever was told of adjacencies learns that there are none yet.
        for (name, interface) in &self.interfaces {
            for (address, neighbor) in interface.neighbors.iter().filter(|(_, n)| n.up) {
                let (interface, router_id, reason) = (name.clone(), neighbor.router_id, "a new process".to_owned());
                fresh.out.push(Action::NeighborDown { interface, address: *address, router_id, reason });
            }
        }
        let up: Vec<_> = self.interfaces.iter().filter(|(_, i)| i.carrier).map(|(n, _)| n.clone()).collect();
        *self = fresh;
        for name in up {
            self.set_carrier(&name, true);
        }
        self.handle(self.now, Event::Timer)
    }

    fn take_over(&mut self, name: &Arc<str>) {
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        if interface.state == InterfaceState::Down {
            if interface.carrier {
                self.interface_up(name);
            }
            return;
        }
        interface.carrier = true;
        if interface.state == InterfaceState::Waiting {
            interface.wait_until = Some(now + interface.dead());
        }
        let (unacked, again) = (&self.told.unacked, now + interface.retransmit());
        for (address, neighbor) in interface.neighbors.iter_mut().filter(|(_, n)| n.state == NeighborState::Full) {
            for key in unacked.get(&(name.clone(), *address)).into_iter().flatten() {
                let db = if key.kind == OPAQUE_LINK { &interface.db } else { &self.db };
                if db.get(key).is_some() {
                    neighbor.retransmissions.insert(*key, now);
                    neighbor.retransmit_at = Some(again);
                    interface.flood.insert(*key);
                }
            }
        }
        if interface.is_designated() {
            self.out.push(Action::JoinDrRouters { interface: name.clone() });
        }
        self.send_hello(name);
        for address in self.neighbors_of(name) {
            self.adjacency_ok(name, address);
        }
    }

    /// Nothing was said or heard for a while, and the neighbours are not to blame.
    pub fn resume(&mut self, now: Time) -> Vec<Action> {
        self.now = self.now.max(now);
        for name in self.interfaces.keys().cloned().collect::<Vec<_>>() {
            let Some(interface) = self.interfaces.get_mut(&name) else { continue };
            let dead_at = self.now + interface.dead();
            interface.neighbors.values_mut().for_each(|n| n.dead_at = dead_at);
            self.send_hello(&name);
        }
        self.handle(now, Event::Timer)
    }
}

/// It was told of the interface as it is configured here.
fn is_ours(stored: &StoredInterface, interface: &Interface) -> bool {
    let fits = match stored.state {
        StoredInterfaceState::Passive => interface.config.passive,
        StoredInterfaceState::PointToPoint => !interface.config.passive && interface.config.network == Network::PointToPoint,
        StoredInterfaceState::Waiting | StoredInterfaceState::Broadcast => !interface.config.passive && interface.is_broadcast(),
    };
    fits && stored.address == interface.config.address
}

fn interface_state(stored: &StoredInterface, interface: &Interface) -> InterfaceState {
    match stored.state {
        StoredInterfaceState::Passive => InterfaceState::Passive,
        StoredInterfaceState::PointToPoint => InterfaceState::PointToPoint,
        StoredInterfaceState::Waiting => InterfaceState::Waiting,
        StoredInterfaceState::Broadcast if stored.designated == interface.address() => InterfaceState::Dr,
        StoredInterfaceState::Broadcast if stored.backup == interface.address() => InterfaceState::Backup,
        StoredInterfaceState::Broadcast => InterfaceState::DrOther,
    }
}
