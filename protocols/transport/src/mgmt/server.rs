//! The daemon's end.

use super::{IDLE, MAX_CLIENTS, MAX_QUESTION, MgmtError, SLOW};
use edgeplex_mgmt::Answer;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

/// Answers questions; called from many tasks at once. A future that is dropped (the asker went away) must leave
/// nothing behind.
pub trait Handler: Send + Sync + 'static {
    type Query: DeserializeOwned + Send;
    fn answer(&self, query: Self::Query) -> impl Future<Output = Answer<Value>> + Send;
}

/// A bound management socket. Dropping it stops the service and removes the file.
#[derive(Debug)]
pub struct MgmtServer {
    path: PathBuf,
    inode: u64,
    accept: JoinHandle<()>,
}

impl MgmtServer {
    /// Binds `path`, replacing a socket that a past process left there, and serves until dropped.
    pub fn start<H: Handler>(path: &Path, handler: H) -> Result<Self, MgmtError> {
        let error = |source| MgmtError::Socket { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(error)?,
            Ok(_) => return Err(error(io::Error::new(io::ErrorKind::AlreadyExists, "is there and is not a socket"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(error(e)),
        }
        let listener = UnixListener::bind(path).map_err(error)?;
        let inode = fs::symlink_metadata(path).map_err(error)?.ino();
        let accept = tokio::spawn(accept(listener, Arc::new(handler)));
        Ok(Self { path: path.to_owned(), inode, accept })
    }
}

impl Drop for MgmtServer {
    fn drop(&mut self) {
        self.accept.abort();
        // Only our own file: a successor may already have replaced it.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn accept<H: Handler>(listener: UnixListener, handler: Arc<H>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                clients.spawn(async move {
                    if let Err(error) = serve(stream, &*handler).await {
                        debug!(%error, "management connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait instead of spinning.
                warn!(%error, "management socket: accept failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve<H: Handler>(stream: UnixStream, handler: &H) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = vec![];
    loop {
        line.clear();
        // One byte more than allowed tells a line that is too long from one that just fits.
        let mut capped = (&mut read).take(MAX_QUESTION as u64 + 1);
        let got = timeout(IDLE, capped.read_until(b'\n', &mut line)).await??;
        if got == 0 {
            return Ok(());
        }
        if got > MAX_QUESTION {
            return reply(&mut write, &Answer::Error(format!("question longer than {MAX_QUESTION} bytes"))).await;
        }
        let answer = match serde_json::from_slice::<H::Query>(&line) {
            Ok(query) => tokio::select! {
                biased;
                answer = handler.answer(query) => answer,
                // One question at a time: whatever else arrives meanwhile, the end included, ends the long poll.
                _ = read.fill_buf() => return Ok(()),
            },
            Err(e) => Answer::Error(format!("question does not decode: {e}")),
        };
        reply(&mut write, &answer).await?;
    }
}

async fn reply(write: &mut OwnedWriteHalf, answer: &Answer<Value>) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    if line.len() >= edgeplex_mgmt::MAX_LINE {
        line = serde_json::to_vec(&Answer::<Value>::Error("the answer is too long; ask for less".into()))?;
    }
    line.push(b'\n');
    for piece in line.chunks(64 << 10) {
        timeout(SLOW, write.write_all(piece)).await??;
    }
    Ok(())
}
