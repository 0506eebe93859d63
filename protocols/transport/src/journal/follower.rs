//! A standby's end: takes the leader's records, keeps them in a file of its own, acknowledges, and hands them on. Who takes them
//! reads them from that file, so one that is slow costs nothing and holds up nobody.

use super::{
    Journal, JournalStatus,
    commit::Core,
    follow,
    leader::bind,
    log::{Chunk, Cursor, Log},
};
use edgeplex_journal::{Entry, Record};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

/// A leader that was not heard for so long counts as lost.
pub(super) const SILENT: Duration = Duration::from_millis(edgeplex_mgmt::show::STALE_MS / 2);
/// Bytes that are decoded at a time.
const CHUNK: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Forget everything; the whole state follows.
    Reset,
    Record(Record),
    /// All that the leader had committed has been handed on; told once per connection.
    CaughtUp,
    /// The connection is gone. Another one may come.
    LeaderLost,
}

/// Follows the active instance's journal.
#[derive(Debug)]
pub struct Follower {
    view: FollowerView,
    task: JoinHandle<()>,
    cursor: Cursor,
    positions: watch::Receiver<u64>,
    /// Read from the file: a frame that was cut, and what stands before it.
    cut: Vec<u8>,
    ready: VecDeque<Followed>,
}

/// What can be asked of a follower from elsewhere.
#[derive(Debug, Clone)]
pub struct FollowerView(pub(super) Arc<Following>);

#[derive(Debug)]
pub(super) struct Following {
    pub(super) log: Arc<Log>,
    pub(super) state: Mutex<State>,
    pub(super) revision: watch::Sender<u64>,
    /// Something other than a record is to be handed on.
    pub(super) news: Notify,
    /// Nothing is written any more; held while something is.
    ended: Mutex<bool>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) connected: bool,
    /// As the leader told it last.
    pub(super) in_sync: bool,
    /// The last acknowledgement of which we know that it arrived was sent then: up to [`STALE`] later the leader waits for us.
    pub(super) heard: Instant,
    /// The view was told that the leader is silent.
    pub(super) silent: bool,
    pub(super) caught_up: bool,
    pub(super) lost: bool,
    pub(super) next_session: u64,
    /// By so much the leader's clock is ahead of ours, milliseconds, modulo 2^64.
    pub(super) ahead: u64,
    pub(super) open: BTreeSet<u64>,
    pub(super) compactions: u64,
    pub(super) saved: u64,
    pub(super) problem: Option<String>,
    found: Option<String>,
}

impl Following {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ended(&self) -> MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what writes to the file, unless that is the successor's by now.
    pub(super) fn writing<T>(&self, write: impl FnOnce(&Log) -> io::Result<T>) -> io::Result<T> {
        let ended = self.ended();
        if *ended { Err(io::Error::other("this instance was promoted")) } else { write(&self.log) }
    }

    pub(super) fn changed(&self) {
        self.revision.send_modify(|r| *r += 1);
        self.news.notify_one();
    }
}

impl FollowerView {
    /// `committed` is what the file holds: all of it is acknowledged.
    pub fn status(&self) -> JournalStatus {
        let log = &self.0.log;
        let end = log.position();
        let state = self.0.state();
        let silent = state.heard.elapsed();
        let lost = !state.connected || silent > SILENT;
        JournalStatus {
            end,
            committed: end,
            sessions: u32::try_from(state.open.len()).unwrap_or(u32::MAX),
            followers: 0,
            in_sync: state.in_sync,
            leader_lost_ms: lost.then(|| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
            file: log.length(),
            compactions: state.compactions,
            saved: state.saved,
            problems: [&state.found, &state.problem].into_iter().flatten().cloned().collect(),
            ..JournalStatus::default()
        }
    }

    /// Counts up with every change of the status other than `end`, `committed`, `file`, and that `leader_lost_ms` grows.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }
}

impl Follower {
    /// Waits for the leader's connection at `socket`; the file is in `dir`. The records are what a past process left there: the
    /// state from which following goes on. To be called within a runtime.
    pub fn listen(socket: PathBuf, dir: &Path) -> io::Result<(Self, Vec<Record>)> {
        let (log, found) = Log::open(dir)?;
        let mut open = BTreeSet::new();
        found.records.iter().for_each(|r| track(&mut open, r));
        let state = State {
            connected: false,
            in_sync: false,
            heard: Instant::now(),
            silent: true,
            caught_up: false,
            lost: false,
            next_session: found.next_session,
            ahead: 0,
            open,
            compactions: 0,
            saved: 0,
            problem: None,
            found: found.problem,
        };
        let following = Arc::new(Following {
            log: Arc::new(log),
            state: Mutex::new(state),
            revision: watch::Sender::new(0),
            news: Notify::new(),
            ended: Mutex::new(false),
        });
        let task = tokio::spawn(follow::follow(following.clone(), bind(&socket)?));
        let (cursor, positions) = (following.log.cursor_at_end(), following.log.positions());
        let follower = Self { view: FollowerView(following), task, cursor, positions, cut: Vec::new(), ready: VecDeque::new() };
        Ok((follower, found.records))
    }

    pub fn view(&self) -> FollowerView {
        self.view.clone()
    }

    /// What comes next. May be dropped and called again (cancel safe).
    pub async fn next(&mut self) -> Followed {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return next;
            }
            self.positions.mark_unchanged();
            // What came before the loss is handed on before it.
            let (caught_up, lost) = {
                let state = self.view.0.state();
                (state.caught_up, state.lost)
            };
            match self.read() {
                Ok(()) if !self.ready.is_empty() => continue,
                Ok(()) => {}
                Err(error) => self.fail(&error),
            }
            let mut state = self.view.0.state();
            if caught_up {
                state.caught_up = false;
                return Followed::CaughtUp;
            }
            if lost {
                state.lost = false;
                return Followed::LeaderLost;
            }
            drop(state);
            tokio::select! {
                _ = self.positions.changed() => {}
                () = self.view.0.news.notified() => {}
            }
        }
    }

    fn fail(&self, error: &io::Error) {
        let problem = Some(format!("the journal cannot be read: {error}"));
        let mut state = self.view.0.state();
        if state.problem != problem {
            state.problem = problem;
            drop(state);
            self.view.0.changed();
        }
    }

    /// Makes ready what stands in the file and was not handed on yet, or some of it.
    fn read(&mut self) -> io::Result<()> {
        match self.view.0.log.read(&mut self.cursor, CHUNK)? {
            Chunk::Reset => {
                self.cut.clear();
                self.ready.push_back(Followed::Reset);
            }
            Chunk::Bytes(bytes, _) => {
                self.cut.extend_from_slice(&bytes);
                let mut at = 0;
                while let Some((entry, length)) =
                    edgeplex_journal::read(self.cut.get(at..).unwrap_or_default(), at as u64).map_err(io::Error::other)?
                {
                    at += length;
                    if let Entry::Record(record) = entry {
                        self.ready.push_back(Followed::Record(record));
                    }
                }
                self.cut.drain(..at);
                // A frame larger than a chunk.
                if self.ready.is_empty() && !bytes.is_empty() {
                    return self.read();
                }
            }
        }
        Ok(())
    }

    /// This instance is the active one from now on: what is received no more counts. What was received and not handed on by
    /// [`Follower::next`] is returned, and has to be applied first. Where the file takes no more the journal keeps nothing, and tells
    /// it as a problem; an error: what was received cannot be read, so that nothing can be gone on from.
    pub fn into_journal(mut self) -> io::Result<(Journal, Vec<Followed>)> {
        self.task.abort();
        // It may be running still; it writes no more.
        *self.view.0.ended() = true;
        let mut rest: Vec<_> = std::mem::take(&mut self.ready).into();
        loop {
            self.read()?;
            if self.ready.is_empty() {
                break;
            }
            rest.extend(self.ready.drain(..));
        }
        let (next_session, ahead) = {
            let state = self.view.0.state();
            (state.next_session, state.ahead)
        };
        let (log, mut core) = (self.view.0.log.clone(), Core::new(next_session));
        let Err(error) = log.begin_another(next_session) else {
            return Ok((Journal::new(Some(log), core, ahead), rest));
        };
        // It is the leader's still: not this instance's past.
        let kept = log.discard();
        core.found = Some(format!("no journal: {error}{}", kept.err().map_or(String::new(), |e| format!("; it stays: {e}"))));
        Ok((Journal::new(None, core, ahead), rest))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps account of which sessions are open.
pub(super) fn track(open: &mut BTreeSet<u64>, record: &Record) {
    match record {
        Record::Open(id, _) => drop(open.insert(id.0)),
        Record::Close(id) => drop(open.remove(&id.0)),
        _ => {}
    }
}
