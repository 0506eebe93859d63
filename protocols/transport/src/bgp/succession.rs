//! How one instance's sessions become another's: replayed while it follows, taken over when it is promoted.
//!
//! ```text
//!   replay: Open, Received, Sent, Acked, Close ─┬─► Progress of the connection ─────► promote: TCP_REPAIR ─┐
//!                                               └─► the neighbour's task: engine ───────────────────────────┴─► it goes on
//! ```

use super::task::{self, Command};
use super::{Speaker, listener};
use crate::{Promoted, journal::Journal, tcp::Standing};
use edgeplex_bgp_wire::{Cease, Notification};
use edgeplex_journal::{Protocol, Record, SessionId};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// What a neighbour's task replays.
#[derive(Debug)]
pub(super) enum Piece {
    Open { outgoing: bool, local: IpAddr },
    Received(Vec<u8>),
    Sent(Vec<u8>),
    Close,
}

/// What a neighbour's task is told about whose turn it is.
#[derive(Debug)]
pub(super) enum Turn {
    Replay(SessionId, Piece),
    Promote { journal: Journal, sessions: Vec<(SessionId, Standing)>, done: oneshot::Sender<Promoted> },
    Fence(oneshot::Sender<()>),
    Unfence,
    Leave(oneshot::Sender<()>),
}

/// What a speaker is.
#[derive(Debug)]
pub(super) enum Stage {
    Following(Following),
    Live(Journal),
}

#[derive(Debug, Default)]
pub(super) struct Following {
    sessions: BTreeMap<SessionId, Standing>,
    /// Of neighbours that are not configured yet.
    early: HashMap<IpAddr, Vec<(SessionId, Piece)>>,
    /// Listeners that are still to be started.
    listeners: Vec<(SocketAddr, mpsc::UnboundedReceiver<listener::Key>)>,
}

fn neighbor(standing: &Standing) -> IpAddr {
    standing.progress.opened.remote.ip().to_canonical()
}

impl Following {
    pub(super) fn new(listeners: Vec<(SocketAddr, mpsc::UnboundedReceiver<listener::Key>)>) -> Self {
        Self { listeners, ..Self::default() }
    }

    /// Counts a record along. Which neighbour it concerns, and what its engine is to know of it.
    fn apply(&mut self, record: &Record) -> Option<(IpAddr, SessionId, Piece)> {
        let (id, piece) = match record {
            Record::Open(id, opened) if opened.protocol == Protocol::Bgp => {
                self.sessions.insert(*id, Standing::new(opened));
                (id, Some(Piece::Open { outgoing: !opened.passive, local: opened.local.ip().to_canonical() }))
            }
            Record::Received(id, bytes) => (id, Some(Piece::Received(bytes.clone()))),
            Record::Sent(id, bytes) => (id, Some(Piece::Sent(bytes.clone()))),
            Record::Acked { session, .. } => (session, None),
            Record::Close(id) => {
                let standing = self.sessions.remove(id)?;
                return Some((neighbor(&standing), *id, Piece::Close));
            }
            Record::Open(..) | Record::Put { .. } | Record::Delete { .. } => return None,
        };
        let standing = self.sessions.get_mut(id)?;
        standing.apply(record);
        Some((neighbor(standing), *id, piece?))
    }

    /// A neighbour is configured: what was replayed of it.
    pub(super) fn early(&mut self, peer: IpAddr) -> Vec<(SessionId, Piece)> {
        self.early.remove(&peer).unwrap_or_default()
    }

    /// Keeps it until the neighbour is configured.
    fn keep(&mut self, peer: IpAddr, session: SessionId, piece: Piece) {
        let kept = self.early.entry(peer).or_default();
        if matches!(piece, Piece::Close) {
            kept.retain(|(id, _)| *id != session);
        } else {
            kept.push((session, piece));
        }
    }
}

impl Speaker {
    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.shared.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To one that follows: a change that the active instance has written down. Those of others are let pass. Neighbours may be set
    /// before or after; what a session says comes out as events once its neighbour is.
    pub fn replay(&self, record: &Record) {
        let neighbors = self.neighbors_locked();
        let Stage::Following(following) = &mut *self.stage() else { return };
        let Some((peer, session, piece)) = following.apply(record) else { return };
        match neighbors.get(&peer) {
            // A task that has ended no longer needs to know.
            Some(neighbor) => drop(neighbor.commands.send(Command::Turn(Turn::Replay(session, piece)))),
            None => following.keep(peer, session, piece),
        }
    }

    /// To one that follows: the journal begins anew (`Followed::Reset`), so what was replayed is forgotten. Sessions go down, as if
    /// their connections had failed, and come up again with what is replayed next.
    pub fn forget(&self) {
        let neighbors = self.neighbors_locked();
        let Stage::Following(following) = &mut *self.stage() else { return };
        following.early.clear();
        for (session, standing) in std::mem::take(&mut following.sessions) {
            if let Some(known) = neighbors.get(&neighbor(&standing)) {
                let _ = known.commands.send(Command::Turn(Turn::Replay(session, Piece::Close)));
            }
        }
    }

    /// To one that follows: everything has been replayed, and nobody else speaks. Sessions go on over their connections, first
    /// with a KEEPALIVE; of what was advertised so far only what the neighbour does not have is sent, and only once released. Those
    /// that cannot go on are lost, and come back with graceful restart; those that the configuration no longer wants end in order.
    /// Needs no event to be taken meanwhile.
    pub async fn promote(&self, journal: Journal) -> Promoted {
        let following = {
            let mut stage = self.stage();
            let Stage::Following(following) = &mut *stage else { return Promoted::default() };
            let following = std::mem::take(following);
            *stage = Stage::Live(journal.clone());
            following
        };
        let listeners = following.listeners.into_iter().map(|(address, keys)| self.listen(address, keys)).collect::<Vec<_>>();
        self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner).extend(listeners);
        let mut of_peers: BTreeMap<IpAddr, Vec<(SessionId, Standing)>> = BTreeMap::new();
        for (session, standing) in following.sessions {
            of_peers.entry(neighbor(&standing)).or_default().push((session, standing));
        }
        let mut asked = Vec::new();
        for (peer, neighbor) in &*self.neighbors_locked() {
            let (done, promoted) = oneshot::channel();
            let sessions = of_peers.remove(peer).unwrap_or_default();
            let _ = neighbor.commands.send(Command::Turn(Turn::Promote { journal: journal.clone(), sessions, done }));
            asked.push(promoted);
        }
        // Neighbours that are not configured any more.
        for (session, standing) in of_peers.into_values().flatten() {
            let words = Notification::cease(Cease::PeerDeconfigured);
            tokio::spawn(task::end(standing, None, session, journal.clone(), words));
        }
        let mut sum = Promoted::default();
        for promoted in asked {
            // Of a task that has ended meanwhile there is nothing to count.
            let promoted = promoted.await.unwrap_or_default();
            sum.sessions += promoted.sessions;
            sum.lost += promoted.lost;
        }
        sum
    }

    pub(super) fn listen(&self, address: SocketAddr, keys: mpsc::UnboundedReceiver<listener::Key>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(listener::run(address, Arc::clone(&self.shared.doors), keys))
    }

    /// Asks every neighbour's task, and waits until all have answered.
    async fn ask_all(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        let ask = |neighbor: &super::Neighbor| {
            let (done, asked) = oneshot::channel();
            // Dropped with a task that has ended, which has nothing more to tell.
            let _ = neighbor.commands.send(command(done));
            asked
        };
        let asked: Vec<_> = self.neighbors_locked().values().map(ask).collect();
        for answer in asked {
            let _ = answer.await;
        }
    }

    /// Resolves when the daemon has taken, or will find in the channel, every event of what was replayed or heard so far. Events
    /// must be taken meanwhile.
    pub async fn told(&self) {
        self.ask_all(Command::Told).await;
    }

    /// Sessions stand still: nothing is read or written, and nothing leaves or enters. Returns when what was written down is
    /// committed.
    pub async fn fence(&self) {
        self.ask_all(|done| Command::Turn(Turn::Fence(done))).await;
        let journal = match &*self.stage() {
            Stage::Live(journal) => journal.clone(),
            Stage::Following(_) => return,
        };
        journal.committed_all().await;
    }

    /// Sessions go on after [`Speaker::fence`].
    pub fn unfence(&self) {
        for neighbor in self.neighbors_locked().values() {
            let _ = neighbor.commands.send(Command::Turn(Turn::Unfence));
        }
    }

    /// Falls silent for good, without a word to the neighbours: a successor goes on with what was written down. Returns when
    /// the sockets are closed.
    pub async fn leave(&self) {
        self.stop_listening();
        self.ask_all(|done| Command::Turn(Turn::Leave(done))).await;
        self.neighbors_locked().clear();
    }
}
