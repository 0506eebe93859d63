//! The journal of a daemon: every change that a successor needs, in a file in memory that outlives the process, and with a standby.
//!
//! ```text
//!   SessionLog, append ──► file ──► follower's connection ──► its file ──► its engines
//!                            │            │ acknowledges
//!                            └── committed ◄┘ ──► Gate: FastForward lets go what tells the neighbour no more than that
//! ```
//! Nothing here waits: an append is one write(2), and what is not committed yet is held on the wire, not in the daemon.

mod commit;
mod compaction;
mod follow;
mod follower;
mod leader;
mod log;
mod role;
mod session;
mod tend;

pub use follower::{Followed, Follower, FollowerView};
pub use role::RoleFile;
pub use session::{Flow, Gate, SessionLog};

use crate::tcp::boot_ms;
use commit::Core;
use edgeplex_journal::{FrameError, Opened, Progress, Record, SessionId};
use log::Log;
use session::Guarded;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};

/// [`edgeplex_mgmt::show::STALE_MS`]
const STALE: Duration = Duration::from_millis(edgeplex_mgmt::show::STALE_MS);
/// How often an idle leader tells that it lives.
const BEAT: Duration = Duration::from_millis(100);

/// What an instance tells of its journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalStatus {
    /// Bytes written since the journal began, and of those, held by whoever must hold them.
    pub end: u64,
    pub committed: u64,
    /// Sessions in it that are open; and those that a successor could not take over, as a part of them could not be written.
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
    /// `None`: keeps nothing.
    log: Option<Arc<Log>>,
    core: Mutex<Core>,
    committed: watch::Sender<u64>,
    revision: watch::Sender<u64>,
    /// There is something to do that takes longer.
    tend: Arc<Notify>,
    /// By so much the clock of who wrote before us is ahead of ours, milliseconds, modulo 2^64.
    ahead: u64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tend.notify_one();
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        // Each change leaves it whole.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something of the status is new.
    fn changed(&self) {
        self.revision.send_modify(|r| *r += 1);
    }

    /// Works out what is committed, and tells all who wait for it. Whether something of the status is new.
    fn settled(&self, core: &mut Core) -> bool {
        let changed = core.settle(self.log.as_deref(), Instant::now());
        if changed {
            self.changed();
        }
        self.committed.send_if_modified(|c| std::mem::replace(c, core.committed) != core.committed);
        changed
    }

    /// The same, and whoever tends the journal hears of it.
    fn settle(&self, core: &mut Core) {
        let changed = self.settled(core);
        if changed || core.troubled() || self.log.as_deref().is_some_and(Log::wakes) {
            self.tend.notify_one();
        }
    }
}

impl Journal {
    fn new(log: Option<Arc<Log>>, core: Core, ahead: u64) -> Self {
        let tended = log.is_some();
        let shared = Shared {
            log,
            core: Mutex::new(core),
            committed: watch::Sender::new(0),
            revision: watch::Sender::new(0),
            tend: Arc::new(Notify::new()),
            ahead,
        };
        let journal = Self(Arc::new(shared));
        journal.0.settle(&mut journal.0.core());
        if tended {
            journal.0.tend.notify_one();
            tokio::spawn(tend::tend(Arc::downgrade(&journal.0), journal.0.tend.clone()));
        }
        journal
    }

    /// Keeps nothing; everything is committed at once.
    pub fn none() -> Self {
        Self::new(None, Core::new(1), 0)
    }

    /// Whether anything is kept: sessions of [`Journal::none`] need no protection.
    pub fn keeps(&self) -> bool {
        self.0.log.is_some()
    }

    /// Now, in milliseconds, by the clock (CLOCK_BOOTTIME) of who wrote what this journal began with: on another host it is another.
    pub fn past_now_ms(&self) -> u64 {
        boot_ms().wrapping_add(self.0.ahead)
    }

    /// Opens the journal in `dir`: what a past process left there, and appends go on behind it. Where that cannot be understood
    /// it is put aside, told as a problem, and the journal begins anew. To be called within a runtime.
    pub fn open(dir: &Path) -> io::Result<(Self, Vec<Record>)> {
        let (log, found) = Log::open(dir)?;
        let mut core = Core::new(found.next_session);
        core.found = found.problem;
        if found.followed {
            // The standby may still believe that it knows all.
            core.lost_until = Some(Instant::now() + STALE);
            core.noted = true;
        }
        Ok((Self::new(Some(Arc::new(log)), core, 0), found.records))
    }

    /// Writes a change; when this returns it outlives the process. Errors are the journal's own: see [`JournalStatus::problems`].
    pub fn append(&self, record: &Record) {
        let session = match record {
            Record::Received(id, _) | Record::Sent(id, _) | Record::Open(id, _) | Record::Close(id) => Some(*id),
            Record::Acked { session, .. } => Some(*session),
            Record::Put { .. } | Record::Delete { .. } => None,
        };
        self.write(session, |out| edgeplex_journal::write_record(out, record), record_value(record), |_, _| {});
    }

    /// Appends what `frames` writes, then lets `then` change the session's guard knowing where that ends.
    fn write(
        &self,
        session: Option<SessionId>,
        frames: impl FnOnce(&mut Vec<u8>) -> Result<(), FrameError>,
        value: Option<commit::Value<'_>>,
        then: impl FnOnce(&mut Guarded, u64),
    ) {
        let mut core = self.0.core();
        let mut bytes = std::mem::take(&mut core.scratch);
        bytes.clear();
        match frames(&mut bytes) {
            Ok(()) => core.append(self.0.log.as_deref(), session, &bytes, value),
            Err(error) => core.refused(&error),
        }
        core.scratch = bytes;
        let end = core.end(self.0.log.as_deref());
        if let Some(guarded) = session.and_then(|id| core.sessions.get_mut(&id)) {
            then(guarded, end);
        }
        self.0.settle(&mut core);
    }

    /// A connection that has just come to stand.
    pub fn session(&self, opened: Opened) -> SessionLog {
        let progress = Progress::new(&opened);
        let id = {
            let mut core = self.0.core();
            let id = SessionId(core.next_session);
            core.next_session += 1;
            id
        };
        let log = self.guarded(id, &progress);
        self.append(&Record::Open(id, Box::new(opened)));
        log.moved();
        log
    }

    /// One that was replayed and goes on here.
    pub fn resumed(&self, id: SessionId, progress: &Progress) -> SessionLog {
        let log = self.guarded(id, progress);
        // Before anything of it is committed the gate must know that it lives: by bounds that are behind it.
        if let Some(gate) = self.0.core().gate.clone() {
            let (seq, ack) = log.behind(progress.acked);
            gate.upto(Flow::from(&progress.opened), seq, ack);
        }
        log
    }

    fn guarded(&self, id: SessionId, progress: &Progress) -> SessionLog {
        let log = SessionLog::new(self.clone(), id, progress);
        let mut core = self.0.core();
        core.sessions.insert(id, Guarded::new(Flow::from(&progress.opened)));
        drop(core);
        self.0.changed();
        log
    }

    /// A connection of which nothing is written down: it is held no more.
    pub(crate) fn unguarded(&self, flow: Flow) {
        let gate = self.0.core().gate.clone();
        gate.inspect(|gate| gate.over(flow));
    }

    /// Lets followers connect, until the journal is dropped.
    pub fn serve(&self, socket: PathBuf) -> io::Result<()> {
        leader::serve(&self.0, &socket)
    }

    /// Who holds what is not committed. Told at once how far all open sessions may go.
    pub fn set_gate(&self, gate: Arc<dyn Gate>) {
        self.0.core().set_gate(gate);
    }

    pub fn status(&self) -> JournalStatus {
        self.0.core().status(self.0.log.as_deref())
    }

    /// Counts up with every change of the status other than `end`, `committed`, `file` and `shipped`.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    /// How far the journal reaches now; what was appended before is committed when [`Journal::committed`] is there.
    pub fn end(&self) -> u64 {
        self.0.core().end(self.0.log.as_deref())
    }

    /// Resolves when everything up to `end` is committed.
    pub async fn committed(&self, end: u64) {
        // The sender lives as long as we do.
        let _ = self.0.committed.subscribe().wait_for(|committed| *committed >= end).await;
    }

    /// Resolves when everything appended so far is committed.
    pub async fn committed_all(&self) {
        self.committed(self.end()).await;
    }
}

fn record_value(record: &Record) -> Option<commit::Value<'_>> {
    match record {
        Record::Put { name, value } => Some((name, Some(value))),
        Record::Delete { name } => Some((name, None)),
        _ => None,
    }
}
