//! The file: frames are appended with one write each, so that what was written outlives kill -9; compaction writes another file and
//! renames it. Readers go on where they were, from one file into the next.

use super::compaction::{Due, LIMIT};
use edgeplex_journal::{Begin, Entry, FILE_HEADER, Frames, Record, State};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

const NAME: &str = "journal";
/// Files that are being written begin with this; and one that could not be understood.
const NEW: &str = "journal.new";
const BAD: &str = "journal.bad";
/// Files back that a reader may still stand at the end of.
const RETIRED: usize = 8;

#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    files: Mutex<Files>,
    position: watch::Sender<u64>,
    /// Files begun.
    drafts: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Files {
    pub(super) file: Arc<File>,
    pub(super) length: u64,
    /// The last one in the file, and where what it tells of begins.
    pub(super) begin: Begin,
    pub(super) begin_at: u64,
    /// Counts up with every file; another epoch does not continue what was before.
    pub(super) generation: u64,
    epoch: u64,
    /// Length and position at which former files ended.
    retired: BTreeMap<u64, (u64, u64)>,
    /// When it is compacted.
    pub(super) due: Due,
}

impl Files {
    pub(super) fn position(&self) -> u64 {
        self.begin.position.saturating_add(self.length - self.begin_at)
    }
}

/// What a past process left.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    pub(super) next_session: u64,
    pub(super) followed: bool,
    /// Why it could not be used.
    pub(super) problem: Option<String>,
}

/// A reader's place.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    file: Arc<File>,
    generation: u64,
    epoch: u64,
    at: u64,
}

/// What a reader gets.
#[derive(Debug)]
pub(super) enum Chunk {
    /// `true`: a frame ends where they end, and nothing more is there now.
    Bytes(Vec<u8>, bool),
    /// The file does not continue what was read before; the cursor stands at its beginning.
    Reset,
}

pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A journal's name.
pub(super) fn new_name() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// A new file in place of another, not in force yet.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    file: File,
    length: u64,
    /// Of the last [`Begin`] written, and where that ends.
    begin: Option<(Begin, u64)>,
}

impl Draft {
    /// Length of the file now.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<u64> {
        self.file.write_all_at(frames, self.length)?;
        self.length += frames.len() as u64;
        Ok(self.length)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The state is whole, and stands before this.
    pub(super) fn begins(&mut self, begin: Begin) {
        self.begins_at(begin, self.length);
    }

    pub(super) fn begins_at(&mut self, begin: Begin, at: u64) {
        self.begin = Some((begin, at));
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Not there any more if it was put in force.
        let _ = fs::remove_file(&self.path);
    }
}

impl Log {
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Found)> {
        fs::create_dir_all(dir)?;
        for left in fs::read_dir(dir)?.flatten().filter(|f| f.file_name().to_string_lossy().starts_with(NEW)) {
            fs::remove_file(left.path())?;
        }
        let path = dir.join(NAME);
        let problem = match Self::read_existing(dir, &path) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => None,
            Err(error) => {
                fs::rename(&path, dir.join(BAD))?;
                Some(format!("the journal found cannot be used, and is put aside: {error}"))
            }
        };
        let begin = Begin { journal: new_name()?, position: 0, next_session: 1 };
        let mut bytes = Vec::new();
        State::new(LIMIT).write_file(&mut bytes, false, &begin).map_err(invalid)?;
        let file = create(&dir.join(NEW))?;
        file.write_all_at(&bytes, 0)?;
        fs::rename(dir.join(NEW), &path)?;
        let length = bytes.len() as u64;
        let log = Self::new(dir, file, length, (begin, length));
        Ok((log, Found { records: Vec::new(), next_session: 1, followed: false, problem }))
    }

    fn new(dir: &Path, file: File, length: u64, (begin, begin_at): (Begin, u64)) -> Self {
        let files = Files {
            file: Arc::new(file),
            length,
            begin,
            begin_at,
            generation: 0,
            epoch: 0,
            retired: BTreeMap::new(),
            due: Due::of(dir, begin_at),
        };
        let position = watch::Sender::new(files.position());
        Self { dir: dir.to_owned(), files: Mutex::new(files), position, drafts: AtomicU64::new(0) }
    }

    fn read_existing(dir: &Path, path: &Path) -> io::Result<Option<(Self, Found)>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut frames = Frames::new(edgeplex_journal::read_header(&bytes).map_err(invalid)?);
        let mut found = Found { records: Vec::new(), next_session: 1, followed: false, problem: None };
        let mut begin = None;
        while let Some(entry) = frames.next() {
            match entry.map_err(invalid)? {
                Entry::Record(record) => {
                    if let Record::Open(id, _) = &record {
                        found.next_session = found.next_session.max(id.0.saturating_add(1));
                    }
                    found.records.push(record);
                }
                Entry::Begin(b) => {
                    begin = Some((b, (FILE_HEADER + frames.valid()) as u64));
                    found.next_session = found.next_session.max(b.next_session);
                }
                Entry::Followed(on) => found.followed = on,
                Entry::Beat { .. } | Entry::Skipped => {}
            }
        }
        if edgeplex_journal::has_holes(&bytes) {
            return Self::without_sessions(dir, path, found).map(Some);
        }
        let begin = begin.ok_or_else(|| invalid("its state is not whole"))?;
        let length = (FILE_HEADER + frames.valid()) as u64;
        // A frame that is torn was never committed.
        file.set_len(length)?;
        Ok(Some((Self::new(dir, file, length, begin), found)))
    }

    /// Of a file from which frames of sessions are missing the values go on, as another journal.
    fn without_sessions(dir: &Path, path: &Path, mut found: Found) -> io::Result<(Self, Found)> {
        found.records.retain(|r| matches!(r, Record::Put { .. } | Record::Delete { .. }));
        let mut state = State::new(LIMIT);
        found.records.iter().try_for_each(|r| state.apply(r)).map_err(invalid)?;
        let begin = Begin { journal: new_name()?, position: 0, next_session: found.next_session };
        let mut bytes = Vec::new();
        state.write_file(&mut bytes, found.followed, &begin).map_err(invalid)?;
        // There may be no room for both.
        fs::remove_file(path)?;
        let file = create(&dir.join(NEW))?;
        file.write_all_at(&bytes, 0)?;
        fs::rename(dir.join(NEW), path)?;
        let length = bytes.len() as u64;
        Ok((Self::new(dir, file, length, (begin, length)), found))
    }

    /// Frames of sessions are missing from the file from now on: no other process may go on with any of them. Needs no room.
    pub(super) fn mark_holes(&self) {
        let (at, mark) = edgeplex_journal::HOLES;
        // Fails where nothing can be written at all.
        let _ = self.files().file.write_all_at(&[mark], at);
    }

    /// Nobody is to find it.
    pub(super) fn discard(&self) -> io::Result<()> {
        fs::remove_file(self.dir.join(NAME))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        // Every change is made after all that can fail.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends whole frames: all of them, or none.
    pub(super) fn append(&self, frames: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        if let Err(error) = files.file.write_all_at(frames, files.length) {
            let _ = files.file.set_len(files.length);
            return Err(error);
        }
        files.length += frames.len() as u64;
        self.position.send_replace(files.position());
        Ok(())
    }

    /// Appends frames of which the last one is this begin.
    pub(super) fn append_begin(&self, frames: &[u8], begin: Begin) -> io::Result<()> {
        self.append(frames)?;
        let mut files = self.files();
        (files.begin, files.begin_at) = (begin, files.length);
        self.position.send_replace(files.position());
        Ok(())
    }

    /// What was appended belongs to the past; from now on this is another journal, and nobody follows.
    pub(super) fn begin_another(&self, next_session: u64) -> io::Result<()> {
        let begin = Begin { journal: new_name()?, position: self.position(), next_session };
        let mut frames = Vec::new();
        edgeplex_journal::write_followed(&mut frames, false);
        edgeplex_journal::write_begin(&mut frames, &begin);
        self.append_begin(&frames, begin)
    }

    /// How far it reaches: bytes since the journal began.
    pub(super) fn position(&self) -> u64 {
        self.files().position()
    }

    pub(super) fn positions(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    pub(super) fn name(&self) -> u128 {
        self.files().begin.journal
    }

    /// Length of the file.
    pub(super) fn length(&self) -> u64 {
        self.files().length
    }

    /// Where whoever has this journal up to there goes on; `None` if that is not in the file.
    pub(super) fn cursor(&self, journal: u128, position: u64) -> Option<Cursor> {
        let files = self.files();
        let known = files.begin.journal == journal && (files.begin.position..=files.position()).contains(&position);
        known.then(|| Self::place(&files, position))
    }

    pub(super) fn cursor_at_start(&self) -> Cursor {
        let files = self.files();
        Cursor { at: FILE_HEADER as u64, ..Self::place(&files, files.position()) }
    }

    pub(super) fn cursor_at_end(&self) -> Cursor {
        let files = self.files();
        Self::place(&files, files.position())
    }

    fn place(files: &Files, position: u64) -> Cursor {
        let at = files.begin_at + position.saturating_sub(files.begin.position);
        Cursor { file: files.file.clone(), generation: files.generation, epoch: files.epoch, at }
    }

    /// What stands at the cursor, at most `max` bytes; moves it behind.
    pub(super) fn read(&self, cursor: &mut Cursor, max: usize) -> io::Result<Chunk> {
        let end = {
            let files = self.files();
            let ended = files.retired.get(&cursor.generation).filter(|_| cursor.epoch == files.epoch);
            match ended {
                _ if cursor.generation == files.generation => files.length,
                Some((length, _)) if cursor.at < *length => *length,
                Some((_, position)) if *position >= files.begin.position => {
                    *cursor = Self::place(&files, *position);
                    files.length
                }
                // Another epoch; or a whole file came and went meanwhile.
                _ => {
                    *cursor = Cursor { at: FILE_HEADER as u64, ..Self::place(&files, files.position()) };
                    return Ok(Chunk::Reset);
                }
            }
        };
        let left = usize::try_from(end.saturating_sub(cursor.at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(max)];
        cursor.file.read_exact_at(&mut bytes, cursor.at)?;
        cursor.at += bytes.len() as u64;
        Ok(Chunk::Bytes(bytes, cursor.at == end))
    }

    pub(super) fn draft(&self) -> io::Result<Draft> {
        let path = self.dir.join(format!("{NEW}.{}", self.drafts.fetch_add(1, Ordering::Relaxed)));
        let mut header = Vec::new();
        edgeplex_journal::write_header(&mut header);
        let mut draft = Draft { file: create(&path)?, path, length: 0, begin: None };
        draft.append(&header)?;
        Ok(draft)
    }

    /// Puts a file in force; readers see a [`Chunk::Reset`] unless it continues the one before.
    pub(super) fn replace(&self, files: &mut Files, draft: &Draft, continues: bool) -> io::Result<()> {
        let (begin, begin_at) = draft.begin.ok_or_else(|| invalid("a file without its begin"))?;
        fs::rename(&draft.path, self.dir.join(NAME))?;
        let ended = (files.length, files.position());
        files.retired.insert(files.generation, ended);
        while files.retired.len() > RETIRED {
            files.retired.pop_first();
        }
        files.generation += 1;
        files.epoch += u64::from(!continues);
        files.file = Arc::new(draft.file.try_clone()?);
        files.length = draft.length;
        (files.begin, files.begin_at) = (begin, begin_at);
        self.position.send_replace(files.position());
        Ok(())
    }

    /// Another journal takes this one's place.
    pub(super) fn start_over(&self, draft: &Draft) -> io::Result<()> {
        let mut files = self.files();
        self.replace(&mut files, draft, false)?;
        files.due = Due::of(&self.dir, files.length);
        Ok(())
    }
}
