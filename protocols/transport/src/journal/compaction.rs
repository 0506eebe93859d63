//! Compaction: when it is time for it, and another file with the same state in fewer frames.
//!
//! ```text
//!   the file grows    state ──────────── worth it ──────────────────── at the latest
//!                                           │ once little is written       │ at once
//!                                           ▼ by a thread of low priority  ▼
//! ```
//! A table that is being learnt leads to no shorter file: to compact meanwhile costs about as much as to learn it, and saves nothing.

use super::log::{Draft, Log, invalid, new_name};
use edgeplex_journal::{Begin, Record, SessionId, State};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::spawn_blocking};

/// A file that has grown by less is left alone, bytes.
const SMALL: u64 = 1 << 20;
/// By how much, or how many times its state, a file may grow before it is compacted whatever goes on, bytes. Far more than a
/// million routes take.
const LARGE: u64 = 64 << 20;
const TIMES: u64 = 2;
/// It is calm when for so long no more than so many bytes were written. 200 UPDATEs a second are less.
const CALM: Duration = Duration::from_secs(2);
const LITTLE: u64 = 512 << 10;
/// Of the thread that compacts when it is calm: a tenth of a processor at least, so that it comes to an end.
const NICE: i32 = 10;
/// State in a file, at most; bytes.
pub(super) const LIMIT: usize = 1 << 30;
/// What is appended during a compaction is copied without holding up the writer down to this.
const LAST_COPY: u64 = 256 << 10;
/// Read and written at a time, bytes.
const CHUNK: u64 = 1 << 20;

/// Names and values that are not in the file yet; `None`: deleted.
pub(super) type Owed = BTreeMap<String, Option<Vec<u8>>>;

/// What a compaction makes good, where frames could not be written.
#[derive(Debug, Default)]
pub(super) struct Mend {
    /// Sessions with a hole, left out; values that are missing, put in.
    pub(super) without: BTreeSet<SessionId>,
    pub(super) owed: Owed,
    /// Positions that were counted in for what is missing.
    pub(super) skip: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Compacted {
    pub(super) before: u64,
    pub(super) after: u64,
}

/// Whether to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    NotYet,
    /// Once it is calm.
    Waits,
    Calm,
    AtOnce,
}

/// The lengths at which a file is compacted.
#[derive(Debug)]
pub(super) struct Due {
    worth: u64,
    at_latest: u64,
    /// Since when it is worth it and little was written, and the position then.
    calm: Option<(Instant, u64)>,
}

impl Due {
    /// Of a file whose state takes so many bytes. There has to be room for two of them.
    pub(super) fn of(dir: &Path, state: u64) -> Self {
        let doubled = (2 * state).max(state + SMALL);
        let most = state + LARGE.max(TIMES * state);
        let at_latest = match nix::sys::statvfs::statvfs(dir) {
            Ok(fs) => most.min((state + fs.blocks_available() * fs.fragment_size()) / 2).max(state + state / 4),
            Err(_) => most,
        };
        Self { worth: doubled.min(at_latest), at_latest, calm: None }
    }

    /// Whether [`Due::look`] may say something new about a file of this length.
    pub(super) fn wakes(&self, length: u64) -> bool {
        length >= if self.calm.is_some() { self.at_latest } else { self.worth }
    }

    pub(super) fn look(&mut self, length: u64, position: u64, now: Instant) -> When {
        if length >= self.at_latest {
            return When::AtOnce;
        }
        if length < self.worth {
            return When::NotYet;
        }
        match self.calm {
            Some((since, at)) if position.saturating_sub(at) <= LITTLE => {
                if now.saturating_duration_since(since) >= CALM {
                    When::Calm
                } else {
                    When::Waits
                }
            }
            _ => {
                self.calm = Some((now, position));
                When::Waits
            }
        }
    }
}

/// A shorter file that is not in force yet.
#[derive(Debug)]
pub(super) struct Prepared {
    draft: Draft,
    /// Of the file in whose place it comes.
    file: Arc<File>,
    generation: u64,
    length: u64,
    copied: u64,
    /// Length of the state in the draft.
    state: u64,
    continues: bool,
}

/// Compacts in the background. If it fails, the file is as it was.
pub(super) async fn compact(log: Arc<Log>, mend: Mend, when: When) -> (io::Result<Compacted>, Arc<Mend>) {
    let mend = Arc::new(mend);
    let prepared = {
        let (log, mend) = (log.clone(), mend.clone());
        let prepare = move || log.prepare(&mend);
        if when == When::Calm { quietly(prepare).await } else { spawn_blocking(prepare).await.map_err(io::Error::other).flatten() }
    };
    let done = match prepared {
        // It keeps writers waiting for a moment: not for a thread that has to wait for others itself.
        Ok(prepared) => spawn_blocking(move || log.finish(prepared)).await.map_err(io::Error::other).flatten(),
        Err(error) => Err(error),
    };
    (done, mend)
}

/// Does work in a thread of low priority.
async fn quietly<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (sender, done) = oneshot::channel();
    thread::Builder::new().name("compaction".into()).spawn(move || {
        // Linux: of this thread alone. Failing that, it is as any other.
        let _ = rustix::process::nice(NICE);
        let _ = sender.send(work());
    })?;
    done.await.map_err(io::Error::other).flatten()
}

impl Log {
    /// What is to be done about the file now.
    pub(super) fn compaction(&self, now: Instant) -> When {
        let files = &mut *self.files();
        let position = files.position();
        files.due.look(files.length, position, now)
    }

    /// Whether [`Log::compaction`] may say something new.
    pub(super) fn wakes(&self) -> bool {
        let files = self.files();
        files.due.wakes(files.length)
    }

    /// Writes the same state into a shorter file. Takes its time; appends go on meanwhile.
    fn prepare(&self, mend: &Mend) -> io::Result<Prepared> {
        let (file, length, begin, begin_at, generation) = {
            let mut files = self.files();
            // Unless it gets shorter, not again before it has doubled.
            files.due = Due::of(self.dir(), files.length);
            (files.file.clone(), files.length, files.begin, files.begin_at, files.generation)
        };
        let (mut state, followed) = read_state(&file, length)?;
        mend.without.iter().try_for_each(|id| state.apply(&Record::Close(*id))).map_err(invalid)?;
        for (name, value) in &mend.owed {
            let name = name.clone();
            let record = value.clone().map_or(Record::Delete { name: name.clone() }, |value| Record::Put { name, value });
            state.apply(&record).map_err(invalid)?;
        }
        state.shorten();
        // What was put in is news to a follower: it has to begin anew.
        let continues = mend.without.is_empty() && mend.owed.is_empty() && mend.skip == 0;
        let journal = if continues { begin.journal } else { new_name()? };
        let begin =
            Begin { journal, position: begin.position.saturating_add(length - begin_at + mend.skip), next_session: state.next_session() };
        let mut draft = self.draft()?;
        write_state(&state, followed, begin, &mut draft)?;
        drop(state);
        draft.begins(begin);
        let mut prepared = Prepared { state: draft.length(), draft, file, generation, length, copied: length, continues };
        loop {
            let end = self.files().length;
            if end.saturating_sub(prepared.copied) <= LAST_COPY {
                return Ok(prepared);
            }
            prepared.catch_up(end)?;
        }
    }

    /// Puts it in force, with what was appended since.
    fn finish(&self, mut prepared: Prepared) -> io::Result<Compacted> {
        loop {
            let mut files = self.files();
            if files.generation != prepared.generation {
                return Err(io::Error::other("another file took its place meanwhile"));
            }
            let end = files.length;
            if end - prepared.copied > LAST_COPY {
                drop(files);
                prepared.catch_up(end)?;
                continue;
            }
            prepared.catch_up(end)?;
            // A journal that was begun meanwhile.
            if files.begin_at > prepared.length {
                let at = prepared.draft.length() - (end - files.begin_at);
                prepared.draft.begins_at(files.begin, at);
            }
            self.replace(&mut files, &prepared.draft, prepared.continues)?;
            files.due = Due::of(self.dir(), prepared.state);
            return Ok(Compacted { before: end, after: files.length });
        }
    }
}

impl Prepared {
    /// Copies what the file has more, up to there.
    fn catch_up(&mut self, end: u64) -> io::Result<()> {
        while self.copied < end {
            let mut bytes = vec![0; usize::try_from((end - self.copied).min(CHUNK)).map_err(invalid)?];
            self.file.read_exact_at(&mut bytes, self.copied)?;
            self.draft.append(&bytes)?;
            self.copied += bytes.len() as u64;
        }
        Ok(())
    }
}

/// The state that a file of this length comes to, and whether a follower is waited for. Holds no more of the file than a part.
fn read_state(file: &File, length: u64) -> io::Result<(State, bool)> {
    let mut state = State::new(LIMIT);
    let (mut followed, mut at, mut frames) = (false, 0, Vec::new());
    while at < length {
        let (held, more) = (frames.len(), (length - at).min(CHUNK));
        frames.resize(held + usize::try_from(more).map_err(invalid)?, 0);
        file.read_exact_at(frames.get_mut(held..).unwrap_or_default(), at)?;
        if at == 0 {
            let header = frames.len() - edgeplex_journal::read_header(&frames).map_err(invalid)?.len();
            frames.drain(..header);
        }
        at += more;
        let read = state.read(&frames).map_err(invalid)?;
        followed = read.followed.unwrap_or(followed);
        frames.drain(..read.valid);
    }
    Ok((state, followed))
}

fn write_state(state: &State, followed: bool, begin: Begin, draft: &mut Draft) -> io::Result<()> {
    let mut frames = Vec::new();
    for record in state.records() {
        edgeplex_journal::write_record(&mut frames, &record).map_err(invalid)?;
        if frames.len() as u64 >= CHUNK {
            draft.append(&frames)?;
            frames.clear();
        }
    }
    edgeplex_journal::write_followed(&mut frames, followed);
    edgeplex_journal::write_begin(&mut frames, &begin);
    draft.append(&frames).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_compacted_when_it_is_calm_or_at_the_latest() {
        let dir = tempfile::tempdir().unwrap();
        let (mut due, start) = (Due::of(dir.path(), 0), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(due.look(SMALL - 1, SMALL - 1, start), When::NotYet);
        assert!(!due.wakes(SMALL - 1) && due.wakes(SMALL));
        // A table that is being learnt: nobody is woken for each of its frames.
        for n in 0..10 {
            let length = SMALL + n * 3 * LITTLE;
            assert_eq!(due.look(length, length, at(n)), When::Waits);
            assert!(!due.wakes(length));
        }
        let length = SMALL + 27 * LITTLE;
        // 200 UPDATEs a second are calm.
        assert_eq!(due.look(length + 20_000, length + 20_000, at(10)), When::Waits);
        assert_eq!(due.look(length + 40_000, length + 40_000, at(11)), When::Calm);
        // It never ends: the file has a bound.
        assert!(due.wakes(LARGE) && due.look(LARGE, LARGE, at(12)) == When::AtOnce);
        let large = Due::of(dir.path(), LARGE);
        assert_eq!((large.worth, large.at_latest), (2 * LARGE, (1 + TIMES) * LARGE));
    }
}
