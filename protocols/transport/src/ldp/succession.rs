//! How one instance's sessions become another's: replayed while it follows, taken over when it is promoted.

use super::connection::{GTSM, Logged};
use super::task::Task;
pub(super) use crate::tcp::Standing;
use crate::{Promoted, journal::Journal, tcp::How};
use edgeplex_journal::{Protocol, Record, SessionId};
use edgeplex_ldp::{Action, ConnId, Inherited};
use std::{io, net::IpAddr};
use tokio::{net::TcpStream, sync::oneshot};
use tracing::{info, warn};

impl Task {
    /// A change that the active instance has written down.
    pub(super) fn replay(&mut self, record: Record) {
        let now = self.now();
        let actions = match &record {
            Record::Put { name, .. } | Record::Delete { name } => {
                let value = if let Record::Put { value, .. } = &record { Some(value.as_slice()) } else { None };
                if let Err(error) = self.ldp.apply(now, name, value) {
                    warn!(%error, "a stored LDP value is lost");
                }
                self.ldp.handle(now, edgeplex_ldp::Event::Timer)
            }
            Record::Open(id, opened) if opened.protocol == Protocol::Ldp => {
                let IpAddr::V4(remote) = opened.remote.ip() else { return };
                self.standing.insert(*id, Standing::new(opened));
                self.ldp.replay_opened(ConnId::Inherited(id.0), remote);
                vec![]
            }
            Record::Open(..) => return,
            Record::Close(id) => match self.standing.remove(id) {
                Some(_) => self.ldp.replay_closed(now, ConnId::Inherited(id.0)),
                None => return,
            },
            Record::Received(id, _) | Record::Sent(id, _) | Record::Acked { session: id, .. } => {
                let Some(standing) = self.standing.get_mut(id) else { return };
                standing.apply(&record);
                match &record {
                    Record::Received(id, bytes) => self.ldp.replay_received(now, ConnId::Inherited(id.0), bytes),
                    Record::Sent(id, bytes) => self.ldp.replay_sent(now, ConnId::Inherited(id.0), bytes),
                    _ => return,
                }
            }
        };
        self.done(actions);
    }

    /// The journal begins anew.
    pub(super) fn forget(&mut self) {
        self.standing.clear();
        let actions = self.ldp.forget(self.now());
        self.done(actions);
    }

    pub(super) fn promote(&mut self, journal: Journal) -> Promoted {
        if self.journal.is_some() {
            return Promoted::default();
        }
        self.journal = Some(journal.clone());
        let mut promoted = Promoted::default();
        let mut lost = vec![];
        for inherited in self.ldp.inherited() {
            let ConnId::Inherited(id) = inherited.conn else { continue };
            let Some(standing) = self.standing.remove(&SessionId(id)) else { continue };
            match restore(&standing, &inherited, &journal) {
                Ok((stream, taken)) => {
                    let log = journal.resumed(SessionId(id), &standing.progress);
                    self.adopt(inherited.conn, stream, Some(Logged::new(log, &standing.progress)));
                    let rest = standing.progress.unacknowledged.get(taken..).unwrap_or_default().to_vec();
                    if let Some(connection) = self.connections.get_mut(&inherited.conn) {
                        connection.resume(rest);
                    }
                    info!(remote = %standing.progress.opened.remote, "LDP connection taken over");
                    promoted.sessions += 1;
                }
                Err(error) => {
                    warn!(remote = %standing.progress.opened.remote, %error, "cannot take an LDP connection over");
                    journal.resumed(SessionId(id), &standing.progress).close();
                    lost.push(inherited.conn);
                    promoted.lost += 1;
                }
            }
        }
        self.standing.clear();
        // Those that the daemon has not said anything of are as they were.
        let before: Vec<_> = self.ldp.interfaces().filter(|(name, _)| !self.stated.contains(*name)).map(|(n, a)| (n.clone(), a)).collect();
        for (name, address) in before {
            self.hellos.interface(&name, Some(address));
        }
        let actions = self.ldp.promote(self.now(), &lost);
        let closed = actions.iter().filter(|a| matches!(a, Action::Close { conn: ConnId::Inherited(_) })).count();
        promoted.sessions = promoted.sessions.saturating_sub(u32::try_from(closed).unwrap_or(u32::MAX));
        self.done(actions);
        promoted
    }

    pub(super) fn fence(&mut self, done: oneshot::Sender<()>) {
        self.fenced = true;
        self.connections.values_mut().for_each(super::connection::Connection::fence);
        let journal = self.journal.clone();
        tokio::spawn(async move {
            if let Some(journal) = journal {
                journal.committed_all().await;
            }
            // Whoever asked may have given up.
            let _ = done.send(());
        });
    }

    pub(super) fn unfence(&mut self) {
        if std::mem::take(&mut self.fenced) {
            self.connections.values().for_each(super::connection::Connection::unfence);
            let actions = self.ldp.resume(self.now());
            self.done(actions);
        }
    }
}

fn restore(standing: &Standing, inherited: &Inherited, journal: &Journal) -> io::Result<(TcpStream, usize)> {
    let how = How { password: inherited.password.as_deref(), ttl: GTSM.into(), least_ttl: inherited.gtsm.then_some(GTSM) };
    let (stream, taken) = standing.restore(how, journal)?;
    socket2::SockRef::from(&stream).set_tos_v4(super::connection::TOS)?;
    Ok((TcpStream::from_std(stream)?, taken))
}
