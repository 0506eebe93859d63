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
use edgeplex_api::{Checkpointed, MoveKind, plain};
use edgeplex_journal::{Ack, Begin, Entry, Frames, Hello, Record, State, Welcome, read_header, write_beat};
use edgeplex_mgmt::show::JOURNAL_SOCKET;
use edgeplex_runtime::Stream;
use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

/// The value in a checkpoint that says whose state it is. No daemon has it.
const OF: &str = "checkpoint/of";
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

/// Where the operator wants the unit's checkpoint: a file that is not there yet. In a directory it gets a name.
pub fn place(unit: &Unit, file: &Path, now_ms: u64) -> anyhow::Result<PathBuf> {
    let shown = file.display();
    ensure!(file.is_absolute(), "{shown}: must be an absolute path");
    match fs::metadata(file) {
        Ok(about) if about.is_dir() => Ok(file.join(format!("{}-{now_ms}.checkpoint", unit.to_string().replace('/', "-")))),
        Ok(_) => bail!("{shown}: is there already; a checkpoint overwrites nothing"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let dir = file.parent().filter(|d| d.is_dir());
            ensure!(dir.is_some(), "{shown}: there is no such directory");
            Ok(file.to_owned())
        }
        Err(e) => bail!("{shown}: {}", plain(&e)),
    }
}

/// Writes the state of the unit's active instance to `file`, which must not be there.
pub async fn write(viewer: &Viewer, unit: &Unit, file: PathBuf) -> anyhow::Result<Checkpointed> {
    let mut state =
        timeout(PATIENCE, follow(&viewer.speaker(unit)?, limit(unit))).await.context("the journal does not come to its end")??;
    let (sessions, values) = (state.sessions().len(), state.values().len());
    state.apply(&Record::Put { name: OF.into(), value: unit.to_string().into_bytes() })?;
    let path = file.clone();
    let write = move || -> anyhow::Result<usize> {
        let bytes = state.checkpoint()?;
        let failed = |e: std::io::Error| anyhow::anyhow!("{}: {}", path.display(), plain(&e));
        // Passwords and customers' routes are in there.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let written = std::io::Write::write_all(&mut file, &bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a state is none.
            let _ = fs::remove_file(&path);
        }
        written.map_err(failed)?;
        Ok(bytes.len())
    };
    let bytes = tokio::task::spawn_blocking(write).await??;
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Ok(Checkpointed { unit: unit.to_string(), file, bytes: count(bytes), sessions: count(sessions), values: count(values) })
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
async fn load(file: PathBuf, limit: usize, of: Option<Unit>) -> anyhow::Result<Vec<u8>> {
    let read = move || read_frames(&file, limit, of.as_ref()).with_context(|| file.display().to_string());
    tokio::task::spawn_blocking(read).await?
}

fn read_frames(file: &Path, limit: usize, of: Option<&Unit>) -> anyhow::Result<Vec<u8>> {
    let failed = |e: std::io::Error| anyhow::anyhow!(plain(&e));
    let about = fs::metadata(file).map_err(failed)?;
    ensure!(!about.is_dir(), "is a directory; name a file that `edgeplex checkpoint` wrote");
    ensure!(about.is_file(), "is no file that `edgeplex checkpoint` wrote");
    ensure!(about.len() <= u64::try_from(limit)?, "has {} bytes, more than the state of one daemon may", about.len());
    let mut state = State::from_file(&fs::read(file).map_err(failed)?, limit).context("is no whole checkpoint")?;
    if let Some(unit) = of {
        is_of(&state, unit)?;
    }
    // It is nothing to the daemon.
    state.apply(&Record::Delete { name: OF.into() })?;
    let sessions: Vec<_> = state.sessions().keys().copied().collect();
    for id in sessions {
        state.apply(&Record::Close(id))?;
    }
    let mut out = vec![];
    state.write_file(&mut out, false, &Begin { journal: 0, position: 0, next_session: state.next_session() })?;
    Ok(read_header(&out)?.to_vec())
}

/// Sessions, routes and secrets of one are nothing for another.
fn is_of(state: &State, unit: &Unit) -> anyhow::Result<()> {
    if let Some(owner) = state.values().get(OF) {
        let owner = String::from_utf8_lossy(owner);
        ensure!(owner == unit.to_string(), "is the state of {owner}, not of {unit}");
        return Ok(());
    }
    // Of an earlier version, which said no more than this.
    let kind = if *unit == Unit::Cvm { "cvm/" } else { "pvm/" };
    ensure!(state.values().keys().any(|name| name.starts_with(kind)), "is not the state of {unit}");
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> Unit {
        text.parse().unwrap()
    }

    #[test]
    fn a_checkpoint_goes_where_nothing_is_and_gets_a_name_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| place(&unit("acme/denver-1"), &dir.path().join(name), 7).map_err(|e| e.to_string());
        assert_eq!(at("x").unwrap(), dir.path().join("x"));
        assert_eq!(at("").unwrap(), dir.path().join("acme-denver-1-7.checkpoint"));
        fs::write(dir.path().join("x"), "").unwrap();
        assert!(at("x").unwrap_err().ends_with("/x: is there already; a checkpoint overwrites nothing"));
        assert!(at("no/x").unwrap_err().ends_with("/no/x: there is no such directory"));
        assert!(at("x/y").unwrap_err().ends_with("/x/y: leads through something that is no directory"));
        assert!(place(&Unit::Cvm, Path::new("x"), 7).is_err(), "nobody knows where that is");
    }

    #[tokio::test]
    async fn a_state_is_restored_to_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let put = |state: &mut State, name: &str, value: &str| {
            state.apply(&Record::Put { name: name.into(), value: value.as_bytes().to_vec() }).unwrap();
        };
        let write = |name: &str, owner: Option<&str>| {
            let mut state = State::new(PVM_LIMIT);
            put(&mut state, "pvm/epoch", "1");
            owner.iter().for_each(|owner| put(&mut state, OF, owner));
            let file = dir.path().join(name);
            fs::write(&file, state.checkpoint().unwrap()).unwrap();
            file
        };
        let load_for = async |file: PathBuf, of: &str| load(file, PVM_LIMIT, Some(unit(of))).await.map_err(|e| format!("{e:#}"));
        let acme = write("acme", Some("acme/denver-1"));
        let frames = load_for(acme.clone(), "acme/denver-1").await.unwrap();
        let mut led = State::new(PVM_LIMIT);
        led.read(&frames).unwrap();
        assert_eq!(led.values().keys().collect::<Vec<_>>(), ["pvm/epoch"]);
        for other in ["beta/denver-1", "cvm"] {
            let error = load_for(acme.clone(), other).await.unwrap_err();
            assert_eq!(error, format!("{}: is the state of acme/denver-1, not of {other}", acme.display()));
        }
        let old = write("old", None);
        assert!(load_for(old.clone(), "beta/denver-1").await.is_ok() && load_for(old, "cvm").await.is_err());
        fs::write(dir.path().join("junk"), "junk").unwrap();
        for (name, says) in [("none", "is not there"), ("junk", "is no whole checkpoint"), ("", "is a directory")] {
            let error = load_for(dir.path().join(name), "cvm").await.unwrap_err();
            assert!(error.contains(says) && !error.contains("os error"), "{error}");
        }
    }
}
