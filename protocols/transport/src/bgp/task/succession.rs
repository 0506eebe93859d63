//! A neighbour's task that follows another's, takes its place, stands still, or makes room.

use super::{Input, Task};
use crate::bgp::connection::{self, Connection, TTL};
use crate::bgp::succession::{Piece, Turn};
use crate::{
    Promoted,
    journal::Journal,
    tcp::{How, Standing},
};
use edgeplex_bgp::{Action, ConnId, PeerConfig, State};
use edgeplex_bgp_wire::{Cease, Notification};
use edgeplex_journal::SessionId;
use std::io;
use tokio::net::TcpStream;
use tracing::{info, warn};

/// Makes a connection again. What of `unacknowledged` could not be queued at once is left to be written.
fn restore(id: ConnId, standing: &Standing, config: Option<&PeerConfig>, session: SessionId, journal: &Journal) -> io::Result<Connection> {
    let how = How { password: config.and_then(|c| c.password.as_deref()), ttl: TTL, least_ttl: config.and_then(connection::least_ttl) };
    let (stream, taken) = standing.restore(how, journal)?;
    let progress = &standing.progress;
    let rest = progress.unacknowledged.get(taken..).unwrap_or_default();
    Ok(Connection::resumed(id, TcpStream::from_std(stream)?, journal.resumed(session, progress), progress, rest))
}

/// Ends a session that nobody wants to go on with, in order.
pub(in crate::bgp) async fn end(standing: Standing, config: Option<PeerConfig>, session: SessionId, journal: Journal, words: Notification) {
    match restore(ConnId(0), &standing, config.as_ref(), session, &journal) {
        Ok(mut connection) => {
            connection.out().extend_from_slice(&words.encode());
            connection.close().await;
        }
        // The peer finds out by its hold timer.
        Err(error) => {
            warn!(peer = %standing.progress.opened.remote, %error, "cannot end a former session");
            journal.resumed(session, &standing.progress).close();
        }
    }
}

impl Task {
    /// What another has written down of one of its connections.
    fn replay(&mut self, session: SessionId, piece: Piece) {
        let known = self.followed.iter().find(|(id, _)| *id == session).map(|(_, connection)| *connection);
        match (piece, known) {
            (Piece::Open { outgoing, local }, _) => {
                let actions = self.peer.handle(self.now(), Input::Opened { outgoing, local });
                self.followed.extend(actions.iter().filter_map(|a| if let Action::Adopt(id) = a { Some((session, *id)) } else { None }));
            }
            (Piece::Received(bytes), Some(id)) => self.step(Input::Received(id, &bytes), None),
            (Piece::Sent(bytes), Some(id)) => self.step(Input::Sent(id, &bytes), None),
            (Piece::Close, Some(id)) => self.step(Input::Closed(id, "the connection was closed"), None),
            // The engine has let go of it already.
            (_, None) => {}
        }
    }

    /// All has been replayed: `sessions` are those that stand.
    fn promote(&mut self, journal: Journal, sessions: Vec<(SessionId, Standing)>) -> Promoted {
        let peer = self.peer.config().address;
        let mut promoted = Promoted::default();
        for (session, standing) in sessions {
            let known = self.followed.iter().find(|(id, _)| *id == session).map(|(_, connection)| *connection);
            let Some((id, state)) = known.and_then(|id| Some((id, self.peer.connection(id)?))) else {
                let words = Notification::cease(Cease::OtherConfigurationChange);
                self.lingering.spawn(end(standing, Some(self.peer.config().clone()), session, journal.clone(), words));
                continue;
            };
            let stood = u32::from(state == State::Established);
            match restore(id, &standing, Some(self.peer.config()), session, &journal) {
                Ok(connection) => {
                    info!(%peer, state = state.name(), "BGP session taken over");
                    self.connections.push(connection);
                    promoted.sessions += stood;
                }
                Err(error) => {
                    warn!(%peer, %error, "cannot take a BGP session over");
                    journal.resumed(session, &standing.progress).close();
                    promoted.lost += stood;
                    self.step(Input::Closed(id, &format!("cannot be taken over: {error}")), None);
                }
            }
        }
        self.followed.clear();
        self.journal = Some(journal);
        self.step(Input::Promoted, None);
        promoted
    }

    fn fence(&mut self) {
        self.fenced = true;
        self.connections.iter_mut().for_each(Connection::fence);
    }

    fn unfence(&mut self) {
        self.fenced = false;
        self.connections.iter().for_each(Connection::unfence);
    }

    /// Whoever goes on knows all that is needed.
    fn leave(&mut self) {
        self.connecting.abort_all();
        self.aborts.clear();
        self.connections.drain(..).for_each(Connection::leave);
        self.stopping = true;
    }

    pub(super) fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Replay(session, piece) => self.replay(session, piece),
            Turn::Promote { journal, sessions, done } => {
                let promoted = self.promote(journal, sessions);
                // Whoever asked may have given up waiting.
                let _ = done.send(promoted);
            }
            Turn::Fence(done) => {
                self.fence();
                let _ = done.send(());
            }
            Turn::Unfence => self.unfence(),
            Turn::Leave(done) => {
                self.leave();
                let _ = done.send(());
            }
        }
    }
}
