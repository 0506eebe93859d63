//! Checkpoints: an instance's state in a file, and an instance that begins with the state of a file.
//!
//! To write one the controller follows the journal for a moment, as a standby would. To restore one it leads a new instance, as
//! the active one would; then the new one takes over by an ordinary move. TCP connections of the past are left out: their other
//! ends have gone on.

use crate::{
    hosts::Place,
    moves::{Moves, Target},
    placement::Unit,
    show::Viewer,
};
use anyhow::{Context, bail, ensure};
use edgeplex_api::{Checkpointed, MoveKind};
use edgeplex_journal::{Ack, Begin, Entry, Frames, Hello, Record, State, Welcome, read_header, write_beat};
use edgeplex_mgmt::show::JOURNAL_SOCKET;
use edgeplex_runtime::Stream;
use std::{os::unix::fs::OpenOptionsExt, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

/// State of one daemon, bytes: a PVM is hostile, and has the routes of one attachment.
const CVM_LIMIT: usize = 4 << 30;
const PVM_LIMIT: usize = 256 << 20;
/// What a whole state may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// As a leader does.
const BEAT: Duration = Duration::from_millis(100);

fn limit(unit: &Unit) -> usize {
    match unit {
        Unit::Cvm => CVM_LIMIT,
        Unit::Pvm(_) => PVM_LIMIT,
    }
}

/// Writes the state of the unit's active instance to `file`, which must not be there.
pub async fn write(viewer: &Viewer, unit: &Unit, file: &Path) -> anyhow::Result<Checkpointed> {
    ensure!(file.is_absolute(), "{}: must be an absolute path", file.display());
    let state = timeout(PATIENCE, follow(&viewer.speaker(unit)?, limit(unit))).await.context("the journal does not come to its end")??;
    let (sessions, values) = (state.sessions().len(), state.values().len());
    let path = file.to_owned();
    let write = move || -> anyhow::Result<usize> {
        let bytes = state.checkpoint()?;
        // Passwords and customers' routes are in there.
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.with_context(|| path.display().to_string())?;
        std::io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()?;
        Ok(bytes.len())
    };
    let bytes = tokio::task::spawn_blocking(write).await??;
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Ok(Checkpointed { unit: unit.to_string(), bytes: count(bytes), sessions: count(sessions), values: count(values) })
}

/// Follows a journal to its present end.
async fn follow(at: &Place, limit: usize) -> anyhow::Result<State> {
    let mut stream = at.runtime.connect(&at.vm, JOURNAL_SOCKET).await?;
    stream.write_all(&Hello::ours(0, 0).encode()).await?;
    let (mut state, mut buffer, mut welcomed) = (State::new(limit), Vec::new(), false);
    loop {
        ensure!(stream.read_buf(&mut buffer).await? > 0, "the daemon closed its journal");
        if !welcomed {
            let Some((welcome, taken)) = Welcome::read(&buffer)? else { continue };
            ensure!(welcome.format != 0 && !welcome.resumes, "the daemon's journal is of a format that is not known here");
            buffer.drain(..taken);
            welcomed = true;
        }
        let mut frames = Frames::new(&buffer);
        for entry in frames.by_ref() {
            match entry? {
                Entry::Record(record) => state.apply(&record)?,
                // It has nothing more to say.
                Entry::Beat { .. } => return Ok(state),
                Entry::Begin(_) | Entry::Followed(_) | Entry::Skipped => {}
            }
        }
        let valid = frames.valid();
        buffer.drain(..valid);
    }
}

/// Begins a move to an instance whose state is that of `file`; its number.
pub async fn restore(moves: &Moves, unit: &Unit, file: &Path) -> anyhow::Result<u64> {
    load(file.to_owned(), limit(unit), Some(unit.clone())).await?;
    let p = moves.placements().get(unit).context("it has no VM yet")?;
    let target = Target {
        kind: MoveKind::Restore,
        host: p.active.host.clone(),
        image: p.active.image.clone(),
        why: format!("from {}", file.display()),
        file: Some(file.to_owned()),
    };
    moves.begin(unit, target).await
}

/// What a leader with the state of `file` sends: frames without a file's header.
async fn load(file: std::path::PathBuf, limit: usize, of: Option<Unit>) -> anyhow::Result<Vec<u8>> {
    let read = move || -> anyhow::Result<Vec<u8>> {
        let about = std::fs::metadata(&file).with_context(|| file.display().to_string())?;
        ensure!(about.is_file(), "{}: must be a file that `edgeplex checkpoint` wrote", file.display());
        ensure!(
            about.len() <= u64::try_from(limit)?,
            "{}: has {} bytes, more than the state of one daemon may",
            file.display(),
            about.len()
        );
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let mut state = State::from_file(&bytes, limit).with_context(|| file.display().to_string())?;
        if let Some(unit) = of {
            let kind = if unit == Unit::Cvm { "cvm/" } else { "pvm/" };
            ensure!(state.values().keys().any(|name| name.starts_with(kind)), "{}: is not the state of {unit}", file.display());
        }
        let sessions: Vec<_> = state.sessions().keys().copied().collect();
        for id in sessions {
            state.apply(&Record::Close(id))?;
        }
        let mut out = vec![];
        state.write_file(&mut out, false, &Begin { journal: 0, position: 0, next_session: state.next_session() })?;
        Ok(read_header(&out)?.to_vec())
    };
    tokio::task::spawn_blocking(read).await?
}

/// Leads a follower with the state of `file`, until it hangs up.
pub async fn lead(mut follower: Stream, file: &Path) -> anyhow::Result<()> {
    // Whose it is was looked at when it was asked for.
    let frames = load(file.to_owned(), CVM_LIMIT, None).await?;
    let mut buffer = vec![];
    let hello = loop {
        ensure!(follower.read_buf(&mut buffer).await? > 0, "the follower hung up");
        if let Some((hello, taken)) = Hello::read(&buffer)? {
            buffer.drain(..taken);
            break hello;
        }
    };
    let Some(format) = edgeplex_journal::common(hello.formats) else { bail!("the follower knows no format that is known here") };
    follower.write_all(&Welcome { format, resumes: false }.encode()).await?;
    follower.write_all(&frames).await?;
    let mut number = 0;
    loop {
        let mut beat = vec![];
        write_beat(&mut beat, number, number > 0);
        follower.write_all(&beat).await?;
        tokio::select! {
            read = follower.read_buf(&mut buffer) => ensure!(read? > 0, "the follower hung up"),
            () = sleep(BEAT) => {}
        }
        while let Some((ack, _)) = buffer.split_first_chunk::<{ Ack::LEN }>() {
            number = Ack::decode(*ack).number;
            buffer.drain(..Ack::LEN);
        }
    }
}
