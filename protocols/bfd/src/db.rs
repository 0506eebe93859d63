//! The sessions of a system, and to which of them a packet belongs (RFC 5880 §6.3, §6.8.6).

use crate::{
    config::{Key, Parameters},
    events::{Action, Time},
    fsm::Session,
    packet::Control,
    view::SessionView,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

/// All sessions.
#[derive(Debug)]
pub struct Bfd {
    sessions: BTreeMap<Key, Session>,
    by_discriminator: HashMap<u32, Key>,
    random: u64,
    /// Packets that belong to no session.
    strangers: u64,
}

impl Bfd {
    /// `seed`: discriminators start there, so that those of a past process are not taken for ours, and jitter comes of it.
    pub fn new(seed: u64) -> Self {
        Self { sessions: BTreeMap::new(), by_discriminator: HashMap::new(), random: seed | 1, strangers: 0 }
    }

    /// A client wants the session, or wants it at another pace. It is told the state it is in by what it returns: `true` is Up.
    pub fn add(&mut self, now: Time, key: &Key, client: &str, parameters: Parameters) -> bool {
        if let Some(session) = self.sessions.get_mut(key) {
            session.clients.insert(client.to_owned(), parameters);
            if session.is_leaving() {
                session.return_to(now);
            }
            session.repace(now);
            return session.is_up();
        }
        let discriminator = self.unused_discriminator();
        let random = self.next_random();
        self.by_discriminator.insert(discriminator, key.clone());
        self.sessions.insert(key.clone(), Session::new(now, key.clone(), discriminator, random, client, parameters));
        false
    }

    /// A client wants the session no more. With the last it says AdminDown for a while, then is gone.
    pub fn remove(&mut self, now: Time, key: &Key, client: &str) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.clients.remove(client).is_none() {
            return;
        }
        if session.clients.is_empty() {
            session.leave(now);
        } else {
            session.repace(now);
        }
    }

    /// A control packet that passed the checks of its transport (RFC 5881 §5: TTL 255 on a single hop), from and to these addresses.
    pub fn receive(&mut self, now: Time, source: IpAddr, destination: IpAddr, interface: Option<&str>, packet: &Control) -> Vec<Action> {
        let mut out = vec![];
        let multihop = interface.is_none();
        let fits = |k: &&Key| k.peer == source && k.interface.as_deref() == interface && (!multihop || k.local == destination);
        let key = match packet.your_discriminator {
            // RFC 5881 §3: the first packets are told apart by where they come from.
            0 => self.sessions.keys().find(fits),
            d => self.by_discriminator.get(&d).filter(fits),
        };
        match key.cloned().and_then(|k| self.sessions.get_mut(&k)) {
            // RFC 5883 §6: from afar anybody may send in the neighbour's name. While it is Up the neighbour knows our discriminator;
            // one that begins anew is missed for the detection time first.
            Some(session) if multihop && packet.your_discriminator == 0 && session.is_up() => self.strangers += 1,
            Some(session) => session.receive(now, packet, &mut out),
            None => self.strangers += 1,
        }
        out
    }

    pub fn deadline(&self) -> Option<Time> {
        self.sessions.values().map(Session::deadline).filter(|t| *t != Time::MAX).min()
    }

    pub fn timer(&mut self, now: Time) -> Vec<Action> {
        let mut out = vec![];
        let due: Vec<Key> = self.sessions.values().filter(|s| s.deadline() <= now).map(|s| s.key().clone()).collect();
        for key in due {
            let gone = self.sessions.get_mut(&key).is_some_and(|s| s.timer(now, &mut out));
            if gone && let Some(session) = self.sessions.remove(&key) {
                self.by_discriminator.remove(&session.discriminator());
                out.push(Action::Removed(key));
            }
        }
        out
    }

    pub fn is_up(&self, key: &Key) -> bool {
        self.sessions.get(key).is_some_and(Session::is_up)
    }

    /// In the order of their keys.
    pub fn views(&self, now: Time) -> Vec<SessionView> {
        self.sessions.values().map(|s| s.view(now)).collect()
    }

    fn unused_discriminator(&mut self) -> u32 {
        loop {
            let d = u32::try_from(self.next_random() >> 32).unwrap_or(1);
            if d != 0 && !self.by_discriminator.contains_key(&d) {
                return d;
            }
        }
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
