//! The relay session of one PVM, as the CVM sees it (rules: `edgeplex-relay`).

use crate::feed::Feed;
use edgeplex_relay::{KEEPALIVE, WINDOW};
use edgeplex_types::Epoch;
use std::time::Instant;

#[derive(Debug, Clone)]
pub(crate) struct PvmSession<P> {
    pub(crate) peer: P,
    pub(crate) incarnation: u64,
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
    pub(crate) fn new(now: Instant, peer: P, incarnation: u64, feed: Feed) -> Self {
        Self {
            peer,
            incarnation,
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
