//! The link-state database of one flooding scope (RFC 2328 §12.2), and how its LSAs grow old.

use crate::Time;
use crate::packet::{Lsa, LsaHeader, LsaKey, MAX_AGE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) lsa: Arc<Lsa>,
    pub(crate) installed: Time,
    /// It came by flooding and not in a database exchange: MinLSArrival holds (RFC 2328 §13 (5a)).
    pub(crate) flooded: bool,
    /// It says something else than the instance before.
    pub(crate) changed: bool,
    /// When it last went to a neighbour that held an older one (RFC 2328 §13 (8)).
    pub(crate) sent_back: Option<Time>,
}

impl Entry {
    /// Seconds, at most [`MAX_AGE`].
    pub(crate) fn age(&self, now: Time) -> u16 {
        let passed = now.saturating_sub(self.installed).as_secs();
        u16::try_from(passed).unwrap_or(MAX_AGE).saturating_add(self.lsa.header.age).min(MAX_AGE)
    }

    pub(crate) fn is_dead(&self, now: Time) -> bool {
        self.age(now) >= MAX_AGE
    }

    /// At its present age.
    pub(crate) fn header(&self, now: Time) -> LsaHeader {
        LsaHeader { age: self.age(now), ..self.lsa.header }
    }

    fn dies_at(&self) -> Time {
        self.installed + Duration::from_secs(u64::from(MAX_AGE - self.lsa.header.age))
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Db {
    entries: BTreeMap<LsaKey, Entry>,
    /// When each living LSA reaches MaxAge.
    due: BTreeSet<(Time, LsaKey)>,
    /// At MaxAge; they go once everyone knows.
    dead: BTreeSet<LsaKey>,
    bytes: usize,
    /// What has come, changed or gone since it was last asked.
    touched: BTreeSet<LsaKey>,
}

impl Db {
    pub(crate) fn get(&self, key: &LsaKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &LsaKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LsaKey, &Entry)> {
        self.entries.iter()
    }

    /// All of one LS type, in the order of Link State ID and advertising router.
    pub(crate) fn of_kind(&self, kind: u8) -> impl Iterator<Item = (&LsaKey, &Entry)> {
        let end = std::net::Ipv4Addr::BROADCAST;
        let first = LsaKey { kind, id: std::net::Ipv4Addr::UNSPECIFIED, advertising_router: std::net::Ipv4Addr::UNSPECIFIED };
        self.entries.range(first..=LsaKey { kind, id: end, advertising_router: end })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Of all LSAs.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Replaces what was there; tells whether the contents differ (RFC 2328 §13.2: options, life, body).
    pub(crate) fn install(&mut self, now: Time, lsa: Arc<Lsa>, flooded: bool) -> bool {
        let key = lsa.header.key;
        let old = self.remove(&key);
        let changed = old.is_none_or(|old| {
            old.lsa.header.options != lsa.header.options
                || (old.lsa.header.age >= MAX_AGE) != (lsa.header.age >= MAX_AGE)
                || old.lsa.contents() != lsa.contents()
        });
        self.bytes += lsa.length();
        self.touched.insert(key);
        let entry = Entry { lsa, installed: now, flooded, changed, sent_back: None };
        if entry.is_dead(now) {
            self.dead.insert(key);
        } else {
            self.due.insert((entry.dies_at(), key));
        }
        self.entries.insert(key, entry);
        changed
    }

    pub(crate) fn remove(&mut self, key: &LsaKey) -> Option<Entry> {
        let old = self.entries.remove(key)?;
        self.bytes -= old.lsa.length();
        self.due.remove(&(old.dies_at(), *key));
        self.dead.remove(key);
        self.touched.insert(*key);
        Some(old)
    }

    pub(crate) fn take_touched(&mut self) -> BTreeSet<LsaKey> {
        std::mem::take(&mut self.touched)
    }

    /// When the next LSA reaches MaxAge.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those that have reached MaxAge by now without anyone having said so.
    pub(crate) fn expired(&self, now: Time) -> Vec<LsaKey> {
        self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| *key).collect()
    }

    pub(crate) fn dead(&self) -> impl Iterator<Item = &LsaKey> {
        self.dead.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{INITIAL_SEQUENCE, LsaBody, OPAQUE_AREA};
    use std::net::Ipv4Addr;

    fn lsa(sequence: i32, age: u16, contents: &[u8]) -> Arc<Lsa> {
        let key = LsaKey { kind: OPAQUE_AREA, id: Ipv4Addr::UNSPECIFIED, advertising_router: Ipv4Addr::LOCALHOST };
        Arc::new(Lsa::new(key, 2, INITIAL_SEQUENCE + sequence, LsaBody::Opaque(contents.to_vec())).unwrap().at_age(age))
    }

    #[test]
    fn an_lsa_ages_to_its_end_and_a_refresh_gives_it_new_life() {
        let s = Duration::from_secs;
        let mut db = Db::default();
        assert!(db.install(s(0), lsa(0, 3000, b"x"), true));
        assert_eq!(db.deadline(), Some(s(600)));
        assert!(!db.install(s(100), lsa(1, 0, b"x"), true), "a refresh is no change");
        assert_eq!(db.deadline(), Some(s(3700)));
        let key = lsa(0, 0, b"").header.key;
        assert_eq!(db.get(&key).unwrap().age(s(3699)), 3599);
        assert_eq!(db.expired(s(3700)), [key]);
        assert!(db.install(s(3700), lsa(1, MAX_AGE, b"x"), false), "its end is a change");
        assert_eq!((db.deadline(), db.dead().count(), db.bytes()), (None, 1, 21));
        db.remove(&key);
        assert_eq!((db.len(), db.dead().count(), db.bytes()), (0, 0, 0));
    }
}
