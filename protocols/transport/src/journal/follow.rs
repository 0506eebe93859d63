//! Taking frames from the leader: checked, written to our file, acknowledged.

use super::{
    STALE,
    compaction::{self, Mend, When},
    follower::{Following, SILENT, track},
    log::Draft,
};
use crate::tcp::boot_ms;
use edgeplex_journal::{Ack, Begin, Entry, FORMATS, Hello, MAX_BODY, MAX_EXTENSION, Record, Welcome};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tracing::info;

/// For the first words.
const GREETING: Duration = Duration::from_secs(5);
/// Our file, at most; bytes.
const MAX_FILE: u64 = 1 << 30;
/// Read at a time, bytes.
const CHUNK: usize = 256 << 10;
/// Acknowledgements whose arrival was not confirmed yet, at most.
const MAX_ACKS: usize = 1024;

/// Runs until it is aborted. A new connection takes the place of the one before.
pub(super) async fn follow(following: Arc<Following>, listener: UnixListener) {
    let mut next = None;
    loop {
        let stream = match next.take() {
            Some(stream) => stream,
            None => accept(&listener).await,
        };
        let mut connection = Connection::new(following.clone());
        let ended = tokio::select! {
            ended = connection.take(stream) => ended,
            newer = accept(&listener) => {
                next = Some(newer);
                Ok(())
            }
        };
        if let Err(error) = ended {
            info!(%error, "the leader of the journal is lost");
        }
        let mut state = following.state();
        (state.connected, state.lost) = (false, true);
        drop(state);
        following.changed();
    }
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

struct Connection {
    following: Arc<Following>,
    /// Where a whole state goes until it is complete.
    draft: Option<Draft>,
    /// Sessions open in it.
    open: BTreeSet<u64>,
    acks: VecDeque<(u64, Instant)>,
    number: u64,
    told: bool,
    compaction: Option<JoinHandle<()>>,
}

impl Connection {
    fn new(following: Arc<Following>) -> Self {
        Self { following, draft: None, open: BTreeSet::new(), acks: VecDeque::new(), number: 0, told: false, compaction: None }
    }

    async fn take(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let log = self.following.log.clone();
        let asked = boot_ms();
        timeout(GREETING, stream.write_all(&Hello::ours(log.name(), log.position()).encode())).await??;
        let mut bytes = Vec::with_capacity(CHUNK);
        let (welcome, clock) = timeout(GREETING, read_welcome(&mut stream, &mut bytes)).await??;
        // As if the answer had taken no time: rather too far ahead than behind, since TCP timestamps must not go back.
        self.following.state().ahead = clock.map_or(0, |now| now.wrapping_sub(asked));
        if !FORMATS.contains(&welcome.format) {
            self.problem("leader and standby know no common format of the journal".to_owned());
            return Err(io::Error::other("no common format"));
        }
        if welcome.resumes {
            self.acknowledge(&mut stream).await?;
        } else {
            self.draft = Some(log.draft()?);
        }
        self.following.state().connected = true;
        self.following.changed();
        loop {
            self.frames(&mut bytes).await?;
            self.tend();
            if self.draft.is_none() {
                self.acknowledge(&mut stream).await?;
            }
            self.receive(&mut stream, &mut bytes).await?;
        }
    }

    /// Waits for more bytes; a leader that is silent is lost.
    async fn receive(&self, stream: &mut UnixStream, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.reserve(CHUNK);
        let read = match timeout(SILENT, stream.read_buf(bytes)).await {
            Ok(read) => read?,
            Err(_) => {
                self.following.changed();
                timeout(STALE - SILENT, stream.read_buf(bytes)).await??
            }
        };
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Takes all whole frames.
    async fn frames(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        // Those before `from` are written.
        let (mut from, mut at) = (0, 0);
        while let Some((entry, length)) =
            edgeplex_journal::read(bytes.get(at..).unwrap_or_default(), at as u64).map_err(io::Error::other)?
        {
            match entry {
                Entry::Beat { ack, in_sync } => {
                    // Not part of the file.
                    self.write(bytes.get(from..at).unwrap_or_default(), None).await?;
                    from = at + length;
                    self.beat(ack, in_sync);
                }
                Entry::Begin(begin) => {
                    self.write(bytes.get(from..at + length).unwrap_or_default(), Some(begin)).await?;
                    from = at + length;
                    let mut state = self.following.state();
                    state.next_session = state.next_session.max(begin.next_session);
                }
                Entry::Record(record) => self.account(&record),
                Entry::Followed(_) | Entry::Skipped => {}
            }
            at += length;
        }
        self.write(bytes.get(from..at).unwrap_or_default(), None).await?;
        bytes.drain(..at);
        // Less than a frame is left: bounded by what read() takes for one.
        debug_assert!(bytes.len() <= MAX_BODY + 8);
        Ok(())
    }

    fn account(&mut self, record: &Record) {
        let mut state = self.following.state();
        if let Record::Open(id, _) = record {
            state.next_session = state.next_session.max(id.0.saturating_add(1));
        }
        if self.draft.is_some() {
            track(&mut self.open, record);
        } else {
            track(&mut state.open, record);
        }
    }

    /// Writes frames; `begin` is the last of them.
    async fn write(&mut self, frames: &[u8], begin: Option<Begin>) -> io::Result<()> {
        let log = self.following.log.clone();
        if let Some(draft) = &mut self.draft {
            let length = draft.append(frames)?;
            if length > MAX_FILE {
                return Err(io::Error::other("the leader's state is too large"));
            }
            let Some(begin) = begin else { return Ok(()) };
            draft.begins(begin);
            self.following.writing(|log| log.start_over(draft))?;
            self.draft = None;
            let mut state = self.following.state();
            (state.in_sync, state.open) = (false, std::mem::take(&mut self.open));
            return Ok(());
        }
        if frames.is_empty() {
            return Ok(());
        }
        if log.length() + frames.len() as u64 > MAX_FILE {
            return Err(io::Error::other("the leader's journal is too large"));
        }
        let append = || {
            self.following.writing(|log| match begin {
                Some(begin) => log.append_begin(frames, begin),
                None => log.append(frames),
            })
        };
        if let Err(error) = append() {
            // Perhaps a shorter one has room; the one under way may be it.
            if let Some(under_way) = self.compaction.take() {
                let _ = under_way.await;
            }
            compact(&self.following, When::AtOnce).await;
            append().inspect_err(|_| self.problem(format!("the journal takes no more: {error}")))?;
        }
        if self.following.state().problem.take().is_some() {
            self.following.changed();
        }
        Ok(())
    }

    /// One compaction at a time: a second one would end as the first took its file's place.
    fn tend(&mut self) {
        if self.draft.is_none() && self.compaction.as_ref().is_none_or(JoinHandle::is_finished) {
            let when = self.following.log.compaction(Instant::now());
            if matches!(when, When::Calm | When::AtOnce) {
                let following = self.following.clone();
                self.compaction = Some(tokio::spawn(async move { compact(&following, when).await }));
            }
        }
    }

    fn problem(&self, problem: String) {
        self.following.state().problem = Some(problem);
        self.following.changed();
    }

    async fn acknowledge(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        self.number += 1;
        self.acks.push_back((self.number, Instant::now()));
        if self.acks.len() > MAX_ACKS {
            self.acks.pop_front();
        }
        stream.write_all(&Ack { number: self.number, position: self.following.log.position() }.encode()).await
    }

    fn beat(&mut self, ack: u64, in_sync: bool) {
        let mut arrived = None;
        while let Some((_, sent)) = self.acks.pop_front_if(|(number, _)| *number <= ack) {
            arrived = Some(sent);
        }
        let mut state = self.following.state();
        let before = (state.in_sync, state.silent);
        if let Some(arrived) = arrived {
            state.heard = arrived;
        }
        state.in_sync = in_sync;
        state.silent = state.heard.elapsed() > SILENT;
        if in_sync && !self.told {
            (self.told, state.caught_up) = (true, true);
        }
        if before != (state.in_sync, state.silent) || state.caught_up {
            drop(state);
            self.following.changed();
        }
    }
}

async fn compact(following: &Arc<Following>, when: When) {
    let (done, _) = compaction::compact(following.log.clone(), Mend::default(), when).await;
    let mut state = following.state();
    match done {
        Ok(done) => {
            state.compactions += 1;
            state.saved += done.before.saturating_sub(done.after);
        }
        Err(error) => state.problem = Some(format!("the journal cannot be compacted: {error}")),
    }
    drop(state);
    following.changed();
}

/// The leader's first word, and what its clock says.
async fn read_welcome(stream: &mut UnixStream, bytes: &mut Vec<u8>) -> io::Result<(Welcome, Option<u64>)> {
    loop {
        match Welcome::read(bytes).map_err(io::Error::other)? {
            Some((welcome, length)) => {
                let clock = Welcome::clock(bytes.get(..length).unwrap_or_default());
                bytes.drain(..length);
                return Ok((welcome, clock));
            }
            None if bytes.len() > MAX_EXTENSION + 64 => return Err(io::Error::other("its first word does not end")),
            None => {}
        }
        if stream.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
