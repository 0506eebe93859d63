//! The sessions of a system, and to which of them a packet belongs (RFC 5880 §6.3, §6.8.6).

use crate::{
    config::{Key, Parameters},
    events::{Action, Time},
    fsm::Session,
    packet::Control,
    stored::{Stored, ValueError},
    view::SessionView,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

/// All sessions.
#[derive(Debug)]
pub struct Bfd {
    sessions: BTreeMap<Key, Session>,
    by_discriminator: HashMap<u32, Key>,
    /// Sessions that a successor may have to be told of.
    touched: BTreeSet<Key>,
    /// Another process speaks; we are told what it knows.
    following: bool,
    random: u64,
    /// Packets that belong to no session.
    strangers: u64,
}

impl Bfd {
    /// `seed`: discriminators start there, so that those of a past process are not taken for ours, and jitter comes of it.
    pub fn new(seed: u64) -> Self {
        let (sessions, by_discriminator, touched) = Default::default();
        Self { sessions, by_discriminator, touched, following: false, random: seed | 1, strangers: 0 }
    }

    /// As long as it follows it sends nothing, hears nothing and does not look at the time; clients may come and go.
    pub fn following(seed: u64) -> Self {
        Self { following: true, ..Self::new(seed) }
    }

    /// A client wants the session, or wants it at another pace. It is told the state it is in by what it returns: `true` is Up.
    pub fn add(&mut self, now: Time, key: &Key, client: &str, parameters: Parameters) -> bool {
        self.touched.insert(key.clone());
        if let Some(session) = self.sessions.get_mut(key) {
            session.clients.insert(client.to_owned(), parameters);
            if self.following {
                return false;
            }
            if session.is_leaving() {
                session.return_to(now);
            }
            session.repace(now);
            return session.is_up();
        }
        let discriminator = self.unused_discriminator();
        let session = self.insert(now, key, discriminator, parameters);
        session.clients.insert(client.to_owned(), parameters);
        false
    }

    fn insert(&mut self, now: Time, key: &Key, discriminator: u32, parameters: Parameters) -> &mut Session {
        let random = self.next_random();
        self.by_discriminator.insert(discriminator, key.clone());
        let fresh = || Session::new(now, key.clone(), discriminator, random, parameters);
        self.sessions.entry(key.clone()).or_insert_with(fresh)
    }

    /// A client wants the session no more. With the last it says AdminDown for a while, then is gone.
    pub fn remove(&mut self, now: Time, key: &Key, client: &str) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.clients.remove(client).is_none() {
            return;
        }
        if self.following {
            if session.clients.is_empty() && !session.is_told() {
                self.forget(now, key);
            }
            return;
        }
        self.touched.insert(key.clone());
        if session.clients.is_empty() {
            session.leave(now);
        } else {
            session.repace(now);
        }
    }

    /// A control packet that passed the checks of its transport (RFC 5881 §5: TTL 255 on a single hop), from and to these addresses.
    pub fn receive(&mut self, now: Time, source: IpAddr, destination: IpAddr, interface: Option<&str>, packet: &Control) -> Vec<Action> {
        let mut out = vec![];
        if self.following {
            return out;
        }
        let multihop = interface.is_none();
        let fits = |k: &&Key| k.peer == source && k.interface.as_deref() == interface && (!multihop || k.local == destination);
        let key = match packet.your_discriminator {
            // RFC 5881 §3: the first packets are told apart by where they come from.
            0 => self.sessions.keys().find(fits),
            d => self.by_discriminator.get(&d).filter(fits),
        };
        let key = key.cloned();
        self.touched.extend(key.clone());
        match key.and_then(|k| self.sessions.get_mut(&k)) {
            // RFC 5883 §6: from afar anybody may send in the neighbour's name. While it is Up the neighbour knows our discriminator;
            // one that begins anew is missed for the detection time first.
            Some(session) if multihop && packet.your_discriminator == 0 && session.is_up() => self.strangers += 1,
            Some(session) => session.receive(now, packet, &mut out),
            None => self.strangers += 1,
        }
        out
    }

    pub fn deadline(&self) -> Option<Time> {
        if self.following {
            return None;
        }
        self.sessions.values().map(Session::deadline).filter(|t| *t != Time::MAX).min()
    }

    pub fn timer(&mut self, now: Time) -> Vec<Action> {
        let mut out = vec![];
        if self.following {
            return out;
        }
        let due: Vec<Key> = self.sessions.values().filter(|s| s.deadline() <= now).map(|s| s.key().clone()).collect();
        self.touched.extend(due.iter().cloned());
        for key in due {
            let gone = self.sessions.get_mut(&key).is_some_and(|s| s.timer(now, &mut out));
            if gone && let Some(session) = self.sessions.remove(&key) {
                self.by_discriminator.remove(&session.discriminator());
                out.push(Action::Removed(key));
            }
        }
        out
    }

    /// What a successor must be told since this was last asked: values by name, `None` for one that is gone. Packets that follow from
    /// the changes must not leave before the values are safe.
    pub fn changes(&mut self) -> Vec<(Key, String, Option<Vec<u8>>)> {
        let mut out = vec![];
        if self.following {
            return out;
        }
        for key in std::mem::take(&mut self.touched) {
            let news = match self.sessions.get_mut(&key) {
                Some(session) => session.news(),
                None => Some(None),
            };
            if let Some(value) = news {
                let name = key.value_name();
                out.push((key, name, value));
            }
        }
        out
    }

    /// What the process that we follow has told of a session; `None`: it has none.
    pub fn restore(&mut self, now: Time, name: &str, value: Option<&[u8]>) -> Result<(), ValueError> {
        let key = Key::from_value_name(name)?;
        let Some(value) = value else {
            self.forget(now, &key);
            return Ok(());
        };
        let (own, remote) = Stored::decode(value)?;
        // Two sessions of one discriminator: the first keeps it.
        if self.by_discriminator.get(&own.discriminator).is_some_and(|other| *other != key) {
            return Err(ValueError::Field("discriminator"));
        }
        if let Some(session) = self.sessions.get(&key) {
            self.by_discriminator.remove(&session.discriminator());
        }
        self.insert(now, &key, own.discriminator, own.parameters).become_like(own, remote);
        Ok(())
    }

    /// Everything that was told is forgotten: it is told anew.
    pub fn forget_all(&mut self, now: Time) {
        if self.following {
            self.sessions.keys().cloned().collect::<Vec<_>>().iter().for_each(|key| self.forget(now, key));
        }
    }

    /// The session begins anew, if it is still wanted.
    fn forget(&mut self, now: Time, key: &Key) {
        let Some(session) = self.sessions.remove(key) else { return };
        self.by_discriminator.remove(&session.discriminator());
        for (client, parameters) in &session.clients {
            self.add(now, key, client, *parameters);
        }
    }

    /// The process that we followed is no more: we go on in its place. All packets that are due are sent at once.
    pub fn promote(&mut self, now: Time) -> Vec<Action> {
        let mut out = vec![];
        if std::mem::take(&mut self.following) {
            self.touched.extend(self.sessions.keys().cloned());
            for (key, session) in &mut self.sessions {
                if session.take_over(now) {
                    out.push(Action::Up(key.clone()));
                }
            }
            out.extend(self.timer(now));
        }
        out
    }

    /// Time has passed in which we heard and said nothing, and the neighbours are not to blame.
    pub fn resume(&mut self, now: Time) -> Vec<Action> {
        self.sessions.values_mut().for_each(|s| s.stood_still(now));
        self.timer(now)
    }

    /// Where the session's packets come from (RFC 5881 §4).
    pub fn set_source_port(&mut self, key: &Key, port: u16) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.set_source_port(port);
            self.touched.insert(key.clone());
        }
    }

    pub fn source_port(&self, key: &Key) -> Option<u16> {
        self.sessions.get(key)?.source_port()
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
