//! How one instance's sessions become another's: replayed while it follows, taken over when it is promoted.

use super::{Speaker, task::Command};
use crate::{Promoted, journal::Journal};
use edgeplex_journal::Record;
use tokio::sync::oneshot;

impl Speaker {
    /// To one that follows: a change that the active instance has written down. Those of others are let pass. Neighbours may be set
    /// before or after; what a session says comes out as events once its neighbour is.
    pub fn replay(&self, _record: &Record) {}

    /// To one that follows: the journal begins anew (`Followed::Reset`), so what was replayed is forgotten. Sessions go down, as if
    /// their connections had failed, and come up again with what is replayed next.
    pub fn forget(&self) {}

    /// To one that follows: everything has been replayed, and nobody else speaks. Sessions go on over their connections, first
    /// with a KEEPALIVE; of what was advertised so far only what the neighbour does not have is sent, and only once released. Those
    /// that cannot go on are lost, and come back with graceful restart; those that the configuration no longer wants end in order.
    /// Needs no event to be taken meanwhile.
    pub async fn promote(&self, _journal: Journal) -> Promoted {
        Promoted::default()
    }

    /// Resolves when the daemon has taken, or will find in the channel, every event of what was replayed or heard so far. Events
    /// must be taken meanwhile.
    pub async fn told(&self) {
        let asked: Vec<_> = self
            .neighbors_locked()
            .values()
            .map(|neighbor| {
                let (done, told) = oneshot::channel();
                // Dropped with a task that has ended, which has nothing more to tell.
                let _ = neighbor.commands.send(Command::Told(done));
                told
            })
            .collect();
        for told in asked {
            let _ = told.await;
        }
    }

    /// Sessions stand still: nothing is read or written, and nothing leaves or enters. Returns when what was written down is
    /// committed.
    pub async fn fence(&self) {}

    /// Sessions go on after [`Speaker::fence`].
    pub fn unfence(&self) {}

    /// Falls silent for good, without a word to the neighbours: a successor goes on with what was written down. Returns when
    /// the sockets are closed.
    pub async fn leave(&self) {}
}
