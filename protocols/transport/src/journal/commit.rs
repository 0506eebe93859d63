//! What is committed: written to the file, and acknowledged by the standby while there is one that counts on it.
//!
//! ```text
//!   a follower:  connected ──near the end──► binding: commits wait for it ──has all that is committed──► in sync
//!                    ▲                          │ gone: nobody waits             │ gone or silent
//!                    └──────────────────────────┴──────────── alone ◄── STALE ───┘ until then it may believe it knows all
//! ```

use super::{
    Gate, JournalStatus, STALE,
    compaction::{Compacted, Mend, Owed, When},
    leader::Serving,
    log::Log,
    session::Guarded,
};
use edgeplex_journal::{Ack, FrameError, SessionId};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

/// A follower that lags no more than this makes commits wait, bytes.
const NEAR: u64 = 256 << 10;
/// Frames that wait for a compaction to make room, at most; bytes.
const MAX_PENDING: usize = 4 << 20;
/// How long after a compaction that found no room another one is tried.
const RETRY: Duration = Duration::from_secs(5);

/// A name and its new value; `None`: deleted.
pub(super) type Value<'a> = (&'a String, Option<&'a Vec<u8>>);

/// A follower that is connected.
#[derive(Debug)]
pub(super) struct Followed {
    /// It has everything up to there; `None` until it has the state.
    pub(super) acked: Option<u64>,
    /// Its last acknowledgement, and the last that it was told to have arrived, with the time when that one did.
    pub(super) number: u64,
    pub(super) arrived: Instant,
    pub(super) confirmed: Instant,
    /// When it last had, or came closer to, everything.
    pub(super) progress: Instant,
    /// Commits wait for it; it is in sync when it has everything up to there.
    pub(super) binding: Option<u64>,
    pub(super) in_sync: bool,
}

/// The file takes no more.
#[derive(Debug)]
struct Trouble {
    cause: String,
    /// Frames that still wait for room.
    pending: Vec<u8>,
    /// It was tried, and there is none: sessions go on unprotected.
    gave_up: bool,
    /// Whose frames are missing; and values.
    sessions: BTreeSet<SessionId>,
    owed: Owed,
    try_at: Instant,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) next_session: u64,
    pub(super) sessions: HashMap<SessionId, Guarded>,
    pub(super) gate: Option<Arc<dyn Gate>>,
    followers: BTreeMap<u64, Followed>,
    joined: u64,
    pub(super) serving: Option<Serving>,
    pub(super) committed: u64,
    /// A standby was lost that may believe until then that it knows all.
    pub(super) lost_until: Option<Instant>,
    pub(super) scratch: Vec<u8>,
    /// What was wrong when it was opened.
    pub(super) found: Option<String>,
    alone: Option<&'static str>,
    refused: Option<String>,
    trouble: Option<Trouble>,
    uncompacted: Option<String>,
    /// Bytes that were counted in and never written; until a compaction skips them, ends and commits are so much ahead of the file.
    dropped: u64,
    pub(super) shipped: u64,
    compactions: u64,
    saved: u64,
    /// The file tells that a follower is waited for.
    pub(super) noted: bool,
}

impl Core {
    pub(super) fn new(next_session: u64) -> Self {
        Self {
            next_session,
            sessions: HashMap::new(),
            gate: None,
            followers: BTreeMap::new(),
            joined: 0,
            serving: None,
            committed: 0,
            lost_until: None,
            scratch: Vec::new(),
            found: None,
            alone: None,
            refused: None,
            trouble: None,
            uncompacted: None,
            dropped: 0,
            shipped: 0,
            compactions: 0,
            saved: 0,
            noted: false,
        }
    }

    /// Where the journal ends, what waits for room included.
    pub(super) fn end(&self, log: Option<&Log>) -> u64 {
        let pending = self.trouble.as_ref().map_or(0, |t| t.pending.len() as u64);
        self.written(log) + pending
    }

    /// The same without.
    fn written(&self, log: Option<&Log>) -> u64 {
        log.map_or(0, Log::position) + self.dropped
    }

    /// A follower has everything up to there in the file.
    pub(super) fn acked(&mut self, number: u64, ack: Ack, now: Instant) {
        let position = ack.position + self.dropped;
        let Some(f) = self.followers.get_mut(&number) else { return };
        if f.acked.is_none_or(|before| before < position) {
            f.progress = now;
        }
        (f.acked, f.number, f.arrived) = (Some(position), ack.number, now);
    }

    pub(super) fn refused(&mut self, error: &FrameError) {
        self.refused = Some(format!("a record was not written: {error}"));
    }

    /// Appends frames: of a session, of a value, or of neither.
    pub(super) fn append(&mut self, log: Option<&Log>, session: Option<SessionId>, frames: &[u8], value: Option<Value<'_>>) {
        let Some(log) = log.filter(|_| !frames.is_empty()) else { return };
        // Of a session that has a hole nothing more is worth writing.
        if session.is_some_and(|id| self.sessions.get(&id).is_some_and(|s| s.unprotected)) {
            return;
        }
        if self.trouble.is_none() {
            let Err(error) = log.append(frames) else { return };
            self.trouble = Some(Trouble {
                cause: error.to_string(),
                pending: Vec::new(),
                gave_up: false,
                sessions: BTreeSet::new(),
                owed: Owed::new(),
                try_at: Instant::now(),
            });
        }
        let Some(trouble) = &mut self.trouble else { return };
        trouble.sessions.extend(session);
        if let Some((name, value)) = value {
            trouble.owed.insert(name.clone(), value.cloned());
        }
        if !trouble.gave_up {
            trouble.pending.extend_from_slice(frames);
        }
        if trouble.gave_up || trouble.pending.len() > MAX_PENDING {
            self.give_up(log);
        }
    }

    /// No room: what waits is dropped, and who it belonged to is not protected any more; nor does another process go on with it.
    fn give_up(&mut self, log: &Log) {
        let Some(trouble) = &mut self.trouble else { return };
        if !std::mem::replace(&mut trouble.gave_up, true) {
            log.mark_holes();
        }
        self.dropped += std::mem::take(&mut trouble.pending).len() as u64;
        for id in &trouble.sessions {
            if let Some(guarded) = self.sessions.get_mut(id) {
                guarded.unprotected = true;
            }
        }
    }

    pub(super) fn troubled(&self) -> bool {
        self.trouble.is_some()
    }

    /// Time alone may change something.
    pub(super) fn wants_tending(&self) -> bool {
        self.trouble.is_some() || self.lost_until.is_some() || !self.followers.is_empty()
    }

    /// Whether to compact, and what that has to mend.
    pub(super) fn compaction(&self, log: &Log, now: Instant) -> (When, Mend) {
        match &self.trouble {
            Some(trouble) if now < trouble.try_at => (When::Waits, Mend::default()),
            Some(trouble) if trouble.gave_up => {
                (When::AtOnce, Mend { without: trouble.sessions.clone(), owed: trouble.owed.clone(), skip: self.dropped })
            }
            Some(_) => (When::AtOnce, Mend::default()),
            None => (log.compaction(now), Mend::default()),
        }
    }

    pub(super) fn compacted(&mut self, log: &Log, done: io::Result<Compacted>, mended: &Mend, now: Instant) {
        match done {
            Ok(done) => {
                self.compactions += 1;
                self.saved += done.before.saturating_sub(done.after);
                self.uncompacted = None;
                self.dropped -= mended.skip;
                self.recover(log, mended, now);
            }
            Err(error) => {
                self.uncompacted = Some(format!("the journal cannot be compacted: {error}"));
                if let Some(trouble) = &mut self.trouble {
                    trouble.try_at = now + RETRY;
                    self.give_up(log);
                }
            }
        }
    }

    /// There may be room again.
    fn recover(&mut self, log: &Log, mended: &Mend, now: Instant) {
        let Some(trouble) = &mut self.trouble else { return };
        if !trouble.gave_up {
            if log.append(&trouble.pending).is_ok() {
                self.trouble = None;
            } else {
                trouble.try_at = now + RETRY;
                self.give_up(log);
            }
            return;
        }
        // What came meanwhile is still owed, and is put in by another one.
        trouble.sessions.retain(|id| !mended.without.contains(id));
        trouble.owed.retain(|name, value| mended.owed.get(name) != Some(value));
        trouble.try_at = now;
        if trouble.sessions.is_empty() && trouble.owed.is_empty() {
            self.trouble = None;
        } else {
            // It is another file now.
            log.mark_holes();
        }
    }

    /// Works out what is committed and tells the gate. Whether something of the status is new.
    pub(super) fn settle(&mut self, log: Option<&Log>, now: Instant) -> bool {
        let before = self.summary();
        if self.lost_until.is_some_and(|until| until <= now) {
            self.lost_until = None;
            self.alone = Some("the standby was lost: went on alone");
        }
        let end = self.written(log);
        for f in self.followers.values_mut() {
            let Some(acked) = f.acked else { continue };
            if f.binding.is_none() && acked + NEAR >= end {
                f.binding = Some(self.committed);
                f.progress = now;
            }
            if acked >= end {
                f.progress = now;
            }
            if !f.in_sync && f.binding.is_some_and(|target| acked >= target) {
                f.in_sync = true;
                self.lost_until = None;
                self.alone = None;
            }
        }
        self.note(log);
        let end = self.written(log);
        let gave_up = self.trouble.as_ref().is_some_and(|t| t.gave_up);
        let held = self.followers.values().filter(|f| f.binding.is_some()).filter_map(|f| f.acked).min();
        let reached = match held {
            // Nobody waits for what cannot be written.
            _ if gave_up => end,
            _ if self.lost_until.is_some() => self.committed,
            Some(acked) => acked.min(end),
            None => end,
        };
        self.committed = self.committed.max(reached);
        let gate = self.gate.clone();
        let committed = self.committed;
        let sessions = self.sessions.len();
        self.sessions.retain(|_, guarded| guarded.settle(committed, gate.as_deref()));
        before != self.summary() || sessions != self.sessions.len()
    }

    /// Keeps in the file whether a successor in this place has to wait for a standby.
    fn note(&mut self, log: Option<&Log>) {
        let waits = self.lost_until.is_some() || self.followers.values().any(|f| f.in_sync);
        let Some(log) = log.filter(|_| waits != self.noted && self.trouble.is_none()) else { return };
        let mut frame = Vec::new();
        edgeplex_journal::write_followed(&mut frame, waits);
        // Where it fails the next append does as well, and says so.
        if log.append(&frame).is_ok() {
            self.noted = waits;
        }
    }

    fn summary(&self) -> (usize, bool, bool, bool, bool) {
        let gave_up = self.trouble.as_ref().is_some_and(|t| t.gave_up);
        (self.followers.len(), self.in_sync(), self.trouble.is_some(), gave_up, self.lost_until.is_some())
    }

    pub(super) fn in_sync(&self) -> bool {
        self.followers.values().any(|f| f.in_sync) && self.trouble.is_none()
    }

    /// Followers that are silent, or get no further, while commits wait for them.
    pub(super) fn silent(&self, now: Instant) -> Vec<u64> {
        let silent = |f: &Followed| f.binding.is_some() && now.duration_since(f.arrived.min(f.progress)) > STALE;
        self.followers.iter().filter(|(_, f)| silent(f)).map(|(number, _)| *number).collect()
    }

    /// A follower is gone, or counts no longer.
    pub(super) fn lose(&mut self, number: u64, cause: &'static str) {
        let Some(f) = self.followers.remove(&number) else { return };
        if f.in_sync {
            // Its own lease counts from when it sent what we confirmed, which was before that arrived.
            self.lost_until = Some(f.confirmed + STALE);
            self.alone = Some(cause);
        }
    }

    /// A follower has come; it goes by this number.
    pub(super) fn join(&mut self, followed: Followed) -> u64 {
        self.joined += 1;
        self.followers.insert(self.joined, followed);
        self.joined
    }

    /// What its next beat says, as if it were sent now.
    pub(super) fn beat(&mut self, number: u64) -> Option<(u64, bool)> {
        let healthy = self.trouble.is_none();
        let f = self.followers.get_mut(&number)?;
        f.confirmed = f.arrived;
        Some((f.number, f.in_sync && healthy))
    }

    pub(super) fn set_gate(&mut self, gate: Arc<dyn Gate>) {
        self.sessions.values().for_each(|guarded| guarded.tell(Some(&*gate)));
        self.gate = Some(gate);
    }

    pub(super) fn status(&self, log: Option<&Log>) -> JournalStatus {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let unprotected = count(self.sessions.values().filter(|s| s.unprotected).count());
        let mut problems: Vec<String> = [&self.found, &self.refused, &self.uncompacted].into_iter().flatten().cloned().collect();
        if let Some(trouble) = &self.trouble {
            problems.push(format!("the journal takes no more: {}", trouble.cause));
        }
        if unprotected > 0 {
            problems.push(format!("{unprotected} sessions could not be taken over: a part of them is not in the journal"));
        }
        problems.extend(self.alone.map(str::to_owned));
        JournalStatus {
            end: self.end(log),
            committed: self.committed,
            sessions: count(self.sessions.len()),
            unprotected,
            followers: count(self.followers.len()),
            in_sync: self.in_sync(),
            leader_lost_ms: None,
            file: log.map_or(0, Log::length),
            shipped: self.shipped,
            compactions: self.compactions,
            saved: self.saved,
            problems,
        }
    }
}
