//! One router, several processes one after the other: what the one that speaks tells of its state, and how another that was told
//! goes on in its place (the values are those of `stored`).
//!
//! ```text
//!   speaks:   handle ─► changes ─► values, safe ─► packets leave
//!   follows:                         └─► apply ─► routes as they are there; promote ─► speaks: nobody notices
//! ```
//! Adjacencies that were Full are Full, LSAs that were not acknowledged are flooded again, and our own LSAs are originated anew only
//! where they say something else. Half-made adjacencies begin anew, and so do the clocks of all neighbours.

mod take_over;
mod tell;

use crate::Time;
use crate::flood::Scope;
use crate::packet::LsaKey;
use crate::stored::{Name, StoredInterface, StoredNeighbor, StoredRouter};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A value of this name is new; `None`: there is none any more.
pub type Change = (String, Option<Vec<u8>>);

/// What a successor has been told, or the process that we follow has told us.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    router: Option<StoredRouter>,
    sequence: Option<u32>,
    interfaces: BTreeMap<Arc<str>, StoredInterface>,
    neighbors: BTreeMap<(Arc<str>, Ipv4Addr), StoredNeighbor>,
    unacked: BTreeMap<(Arc<str>, Ipv4Addr), BTreeSet<LsaKey>>,
    lsas: BTreeSet<(Scope, LsaKey)>,
    /// LSAs may have gone without a trace.
    pub(crate) anew: bool,
    /// What we were told is from too long ago.
    outdated: bool,
}

/// The date (seconds since 1970) at one moment of the engine's time: those who come after us count from another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) at: Time,
    pub(crate) date: u32,
}

impl Clock {
    fn date(self, at: Time) -> u32 {
        let since = at.saturating_sub(self.at).as_secs();
        self.date.saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }
}

impl Told {
    /// What was told was of a router that is no more.
    pub(crate) fn of_another(&mut self) -> Self {
        Self { anew: true, ..std::mem::take(self) }
    }

    /// The names of all values.
    fn everything(&self) -> Vec<Name> {
        let unacked = self.unacked.iter().flat_map(|((i, address), keys)| keys.iter().map(|key| Name::Unacked(i.clone(), *address, *key)));
        let rest = [self.router.as_ref().map(|_| Name::Router), self.sequence.map(|_| Name::Sequence)];
        unacked
            .chain(self.neighbors.keys().map(|(interface, address)| Name::Neighbor(interface.clone(), *address)))
            .chain(self.lsas.iter().map(|(scope, key)| Name::Lsa(scope.clone(), *key)))
            .chain(self.interfaces.keys().cloned().map(Name::Interface))
            .chain(rest.into_iter().flatten())
            .collect()
    }

    fn is_empty(&self) -> bool {
        self.router.is_none() && self.lsas.is_empty()
    }
}
