//! The connection itself: requests go out as they come, each reply is counted back.
//!
//! The task reconnects for ever. Each connection has a number; a request made for a past one is dropped, because
//! its snapshot ended with that connection.

use edgeplex_ff_fib_api::{ApiError, Reply, Request, Status, VERSION, encode_request};
use edgeplex_types::wire::{Deframer, WireError};
use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    time::timeout,
};
use tracing::debug;

/// Requests without a reply, at most.
pub(crate) const IN_FLIGHT: usize = 8;
/// A FastForward that says nothing for this long with requests open is taken for dead.
const STALLED: Duration = Duration::from_secs(10);
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// What happened on the socket; for [`crate::Client::handle`].
#[derive(Debug)]
pub enum Event {
    /// Connected; this is what FastForward holds.
    Up {
        connection: u64,
        status: Status,
    },
    Reply {
        connection: u64,
        reply: Reply,
    },
    Down {
        connection: u64,
        reason: String,
    },
}

/// Why a connection ended or did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Request(#[from] ApiError),
    #[error("answer does not decode: {0}")]
    Reply(#[from] WireError),
    #[error("answered {0:?} to Status")]
    NotAStatus(Box<Reply>),
    #[error("FastForward takes nothing")]
    Stuck,
    #[error("FastForward stopped answering")]
    Silent,
    #[error("FastForward closed the connection")]
    Closed,
}

/// The owner's end.
#[derive(Debug)]
pub(crate) struct Link {
    requests: mpsc::Sender<(u64, Request)>,
    pub(crate) events: mpsc::Receiver<Event>,
}

impl Link {
    /// Starts the task.
    pub(crate) fn start(path: PathBuf) -> Self {
        // A connection's requests are bounded by IN_FLIGHT; those of a past one may still lie before them.
        let (requests, inbox) = mpsc::channel(4 * IN_FLIGHT);
        let (outbox, events) = mpsc::channel(4 * IN_FLIGHT);
        tokio::spawn(run(path, inbox, outbox));
        Self { requests, events }
    }

    /// False if the queue is full; the caller keeps within [`IN_FLIGHT`], so it is not.
    pub(crate) fn send(&self, connection: u64, request: Request) -> bool {
        self.requests.try_send((connection, request)).is_ok()
    }
}

async fn run(path: PathBuf, mut inbox: mpsc::Receiver<(u64, Request)>, outbox: mpsc::Sender<Event>) {
    let mut pause = RETRY[0];
    for connection in 1.. {
        match connect(&path).await {
            Ok((stream, frames, status)) => {
                pause = RETRY[0];
                if outbox.send(Event::Up { connection, status }).await.is_err() {
                    return;
                }
                let Err(error) = serve(stream, frames, connection, &mut inbox, &outbox).await else { return };
                if outbox.send(Event::Down { connection, reason: error.to_string() }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "FastForward is not there yet");
                if outbox.is_closed() {
                    return;
                }
                pause = (pause * 2).min(RETRY[1]);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Connects, and asks what FastForward holds.
pub(crate) async fn connect(path: &Path) -> Result<(UnixStream, Deframer, Status), Ended> {
    let mut stream = UnixStream::connect(path).await?;
    let mut frames = Deframer::default();
    match exchange(&mut stream, &mut frames, &Request::Status).await? {
        Reply::Status(status) => Ok((stream, frames, status)),
        other => Err(Ended::NotAStatus(Box::new(other))),
    }
}

/// Asks, and waits for the answer.
pub(crate) async fn exchange(stream: &mut UnixStream, frames: &mut Deframer, request: &Request) -> Result<Reply, Ended> {
    timeout(STALLED, stream.write_all(&encode_request(request)?)).await.map_err(|_| Ended::Stuck)??;
    timeout(STALLED, reply(stream, frames)).await.map_err(|_| Ended::Silent)?
}

/// One connection. `Ok` when the owner is gone.
async fn serve(
    stream: UnixStream,
    mut frames: Deframer,
    connection: u64,
    inbox: &mut mpsc::Receiver<(u64, Request)>,
    outbox: &mpsc::Sender<Event>,
) -> Result<(), Ended> {
    let (mut read, mut write) = stream.into_split();
    let (asked, mut answered) = (AtomicU64::new(0), 0u64);
    let writer = async {
        while let Some((of, request)) = inbox.recv().await {
            if of == connection {
                asked.fetch_add(1, Ordering::Relaxed);
                timeout(STALLED, write.write_all(&encode_request(&request)?)).await.map_err(|_| Ended::Stuck)??;
            }
        }
        Ok(())
    };
    let reader = async {
        // Whether a request was already open when the last wait ran out.
        let mut late = false;
        loop {
            let reply = match timeout(STALLED / 2, reply(&mut read, &mut frames)).await {
                Ok(reply) => reply?,
                Err(_) if late => return Err(Ended::Silent),
                Err(_) => {
                    late = asked.load(Ordering::Relaxed) > answered;
                    continue;
                }
            };
            answered += 1;
            late = false;
            if outbox.send(Event::Reply { connection, reply }).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = writer => ended,
        ended = reader => ended,
    }
}

/// Cancel-safe: bytes go into `frames` as they are read.
async fn reply(stream: &mut (impl AsyncReadExt + Unpin), frames: &mut Deframer) -> Result<Reply, Ended> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        if let Some(reply) = frames.next(VERSION)? {
            return Ok(reply);
        }
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Err(Ended::Closed);
        }
        frames.push(&buffer[..n]);
    }
}
