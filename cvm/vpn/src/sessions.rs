//! The relay sessions of the PVMs, as the CVM sees them (rules: `edgeplex-relay`).
//!
//! An attachment may have several instances at once, with a session each: the one that forwards, one that stands by, one that
//! it is being moved to. All are told the same; one of them speaks for the customer.

use crate::{engine::Slot, feed::Feed};
use edgeplex_relay::{KEEPALIVE, WINDOW};
use edgeplex_types::Epoch;
use std::{collections::BTreeMap, time::Instant};

/// Instances of one attachment that can have a session: one that speaks, its standby, and as many again during an upgrade.
pub(crate) const MAX_INSTANCES: usize = 4;

/// One instance of an attachment, as it says of itself. The order is who comes first: a standby never comes before one that is
/// not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub(crate) active: bool,
    pub(crate) generation: u64,
}

/// A session, for as long as it lasts: no other will have the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Conn {
    pub(crate) slot: Slot,
    number: u64,
}

impl Conn {
    /// The first possible one.
    pub(crate) const FIRST: Self = Self { slot: 0, number: 0 };

    /// Where the one behind this begins.
    pub(crate) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

#[derive(Debug)]
pub(crate) struct Sessions<P> {
    all: BTreeMap<Conn, PvmSession<P>>,
    number: u64,
}

impl<P> Default for Sessions<P> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), number: 0 }
    }
}

impl<P: Clone + Eq> Sessions<P> {
    pub(crate) fn insert(&mut self, slot: Slot, session: PvmSession<P>) -> Conn {
        self.number += 1;
        let conn = Conn { slot, number: self.number };
        self.all.insert(conn, session);
        conn
    }

    pub(crate) fn get(&self, conn: Conn) -> Option<&PvmSession<P>> {
        self.all.get(&conn)
    }

    pub(crate) fn get_mut(&mut self, conn: Conn) -> Option<&mut PvmSession<P>> {
        self.all.get_mut(&conn)
    }

    pub(crate) fn remove(&mut self, conn: Conn) -> Option<PvmSession<P>> {
        self.all.remove(&conn)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Conn, &PvmSession<P>)> {
        self.all.iter().map(|(conn, session)| (*conn, session))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Conn, &mut PvmSession<P>)> {
        self.all.iter_mut().map(|(conn, session)| (*conn, session))
    }

    fn span(slot: Slot) -> std::ops::RangeInclusive<Conn> {
        Conn { slot, number: 0 }..=Conn { slot, number: u64::MAX }
    }

    /// Those of an attachment.
    pub(crate) fn of(&self, slot: Slot) -> impl Iterator<Item = (Conn, &PvmSession<P>)> {
        self.all.range(Self::span(slot)).map(|(conn, session)| (*conn, session))
    }

    pub(crate) fn of_mut(&mut self, slot: Slot) -> impl Iterator<Item = (Conn, &mut PvmSession<P>)> {
        self.all.range_mut(Self::span(slot)).map(|(conn, session)| (*conn, session))
    }

    /// The session that speaks for the attachment's customer.
    pub(crate) fn speaker(&self, slot: Slot) -> Option<Conn> {
        self.of(slot).filter(|(_, s)| s.instance.active).max_by_key(|(_, s)| s.instance).map(|(conn, _)| conn)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct PvmSession<P> {
    pub(crate) peer: P,
    pub(crate) incarnation: u64,
    pub(crate) instance: Instance,
    pub(crate) since: Instant,
    pub(crate) last_heard: Instant,
    keepalive_due: Instant,
    /// Epoch of the snapshot that the PVM has begun.
    pub(crate) receiving: Option<Epoch>,
    /// `Ops` messages the PVM may still send.
    credits: u32,
    /// `Ops` messages worked off and not granted anew.
    worked_off: u32,
    pub(crate) feed: Feed,
}

impl<P> PvmSession<P> {
    pub(crate) fn new(now: Instant, peer: P, incarnation: u64, instance: Instance, feed: Feed) -> Self {
        Self {
            peer,
            incarnation,
            instance,
            since: now,
            last_heard: now,
            keepalive_due: now + KEEPALIVE,
            receiving: None,
            credits: WINDOW,
            worked_off: 0,
            feed,
        }
    }

    /// The PVM has sent an `Ops` message; false if it had no credit for it.
    pub(crate) fn spend(&mut self) -> bool {
        let Some(left) = self.credits.checked_sub(1) else { return false };
        self.credits = left;
        self.worked_off += 1;
        true
    }

    /// Credits to grant now, once it is worth a message.
    pub(crate) fn grant_due(&mut self) -> Option<u32> {
        if self.worked_off < WINDOW / 2 {
            return None;
        }
        let n = std::mem::take(&mut self.worked_off);
        self.credits += n;
        Some(n)
    }

    pub(crate) fn keepalive_due(&mut self, now: Instant) -> bool {
        let due = now >= self.keepalive_due;
        if due {
            self.keepalive_due = now + KEEPALIVE;
        }
        due
    }
}
