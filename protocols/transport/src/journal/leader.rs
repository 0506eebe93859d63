//! The active instance's end of replication: each follower is a reader of the file, so one that does not read costs nothing.

use super::{
    BEAT, Shared,
    commit::Followed,
    log::{Chunk, Cursor},
};
use crate::tcp::boot_ms;
use edgeplex_journal::{Ack, Hello, MAX_EXTENSION, Welcome, common, write_beat};
use std::{
    fs, io,
    os::unix::fs::FileTypeExt,
    path::Path,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::timeout,
};
use tracing::{debug, info};

/// Followers at a time. There is one; while it is replaced, two.
const MAX_FOLLOWERS: usize = 4;
/// For the first words.
const GREETING: Duration = Duration::from_secs(5);
/// For a chunk to be taken.
const SLOW: Duration = Duration::from_secs(5);
/// Bytes of the file that are sent at a time.
const CHUNK: usize = 64 << 10;

/// Accepting followers ends when this is dropped.
#[derive(Debug)]
pub(super) struct Serving(AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Binds a socket, in place of one that a past process left.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "is there and is not a socket")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    UnixListener::bind(path)
}

pub(super) fn serve(shared: &Arc<Shared>, socket: &Path) -> io::Result<()> {
    let task = tokio::spawn(accept(Arc::downgrade(shared), bind(socket)?));
    shared.core().serving = Some(Serving(task.abort_handle()));
    Ok(())
}

async fn accept(shared: Weak<Shared>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(MAX_FOLLOWERS));
    // Dropped with this task, and with it all of them.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    if let Err(error) = lead(&shared, stream).await {
                        info!(%error, "a follower of the journal is gone");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "no follower could be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A follower's place in the journal's books.
struct Registered {
    shared: Weak<Shared>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut core = shared.core();
        core.lose(self.number, "the standby was lost: went on alone");
        shared.settle(&mut core);
        shared.changed();
    }
}

fn gone() -> io::Error {
    io::Error::other("the journal is closed")
}

async fn lead(shared: &Weak<Shared>, stream: UnixStream) -> io::Result<()> {
    let (mut read, mut write) = stream.into_split();
    let hello = timeout(GREETING, read_hello(&mut read)).await??;
    let Some(format) = common(hello.formats) else {
        write.write_all(&Welcome { format: 0, resumes: false }.encode()).await?;
        return Err(io::Error::other(format!("it knows formats {} to {}", hello.formats.0, hello.formats.1)));
    };
    let (cursor, resumes, positions, registered) = {
        let shared = shared.upgrade().ok_or_else(gone)?;
        let log = shared.log.as_ref().ok_or_else(gone)?;
        let rest = log.cursor(hello.journal, hello.position);
        let resumes = rest.is_some();
        let now = Instant::now();
        let followed = Followed { acked: None, number: 0, arrived: now, confirmed: now, progress: now, binding: None, in_sync: false };
        let number = shared.core().join(followed);
        let registered = Registered { shared: Arc::downgrade(&shared), number };
        (rest.unwrap_or_else(|| log.cursor_at_start()), resumes, log.positions(), registered)
    };
    if let Some(shared) = shared.upgrade() {
        // One that freezes at once must be noticed.
        shared.tend.notify_one();
        shared.changed();
    }
    info!(resumes, "a follower of the journal has come");
    timeout(GREETING, write.write_all(&Welcome { format, resumes }.encode_with_clock(boot_ms()))).await??;
    tokio::select! {
        ended = pump(&registered, write, cursor, positions) => ended,
        ended = acks(&registered, read) => ended,
    }
}

async fn read_hello(read: &mut OwnedReadHalf) -> io::Result<Hello> {
    let mut bytes = Vec::new();
    loop {
        match Hello::read(&bytes).map_err(io::Error::other)? {
            Some((hello, _)) => return Ok(hello),
            None if bytes.len() > MAX_EXTENSION + 64 => return Err(io::Error::other("its first word does not end")),
            // What follows the first word are acknowledgements, which have a length of their own: byte by byte up to it.
            None => bytes.push(read.read_u8().await?),
        }
    }
}

/// Sends what stands in the file, as it is written, and beats between.
async fn pump(to: &Registered, mut write: OwnedWriteHalf, mut cursor: Cursor, mut positions: watch::Receiver<u64>) -> io::Result<()> {
    let mut beat_at = Instant::now();
    loop {
        positions.mark_unchanged();
        let shared = to.shared.upgrade().ok_or_else(gone)?;
        let chunk = shared.log.as_ref().ok_or_else(gone)?.read(&mut cursor, CHUNK)?;
        drop(shared);
        let Chunk::Bytes(bytes, whole) = chunk else { return Err(io::Error::other("the journal begins anew")) };
        if !bytes.is_empty() {
            timeout(SLOW, write.write_all(&bytes)).await??;
            to.shared.upgrade().ok_or_else(gone)?.core().shipped += bytes.len() as u64;
        }
        if whole && beat_at <= Instant::now() {
            let mut beat = Vec::new();
            let (ack, in_sync) = to.shared.upgrade().ok_or_else(gone)?.core().beat(to.number).ok_or_else(gone)?;
            // One that waits to be told hears it soon.
            beat_at = Instant::now() + if in_sync { BEAT } else { BEAT / 10 };
            write_beat(&mut beat, ack, in_sync);
            timeout(SLOW, write.write_all(&beat)).await??;
        }
        if whole {
            let _ = tokio::time::timeout_at(beat_at.into(), positions.changed()).await;
        }
    }
}

async fn acks(from: &Registered, mut read: OwnedReadHalf) -> io::Result<()> {
    let mut last = 0;
    loop {
        let mut bytes = [0; Ack::LEN];
        read.read_exact(&mut bytes).await?;
        let ack = Ack::decode(bytes);
        let shared = from.shared.upgrade().ok_or_else(gone)?;
        if ack.number <= last || ack.position > shared.log.as_ref().ok_or_else(gone)?.position() {
            return Err(io::Error::other("it acknowledges what was not sent"));
        }
        last = ack.number;
        let mut core = shared.core();
        core.acked(from.number, ack, Instant::now());
        shared.settle(&mut core);
    }
}
