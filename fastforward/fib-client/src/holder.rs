//! How far the sessions of our own kernel may go (output commit): one thread with a connection of its own to FastForward.
//!
//! ```text
//!   upto, fence, over ──► book: the newest of each flow ──► Hold{…}, one request at a time ──► taken
//!                           ▲ after each connect all of it is owed again, and goes first
//! ```
//! Whoever says something never waits: what changes while a request is open coalesces in the book.

use crate::link::{Ended, connect, exchange};
use book::Book;
use edgeplex_ff_fib_api::{Adjacency, Counters, Flow, Hold, MAX_OPS, Neighbor, Reply, Request};
use edgeplex_types::wire::Deframer;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    sync::{Notify, mpsc, oneshot, watch},
};
use tracing::{debug, error, info, warn};

mod book;
mod gate;

/// Between two attempts to connect: FastForward that was started again stands still for the neighbours until it is told.
const RETRY: Duration = Duration::from_millis(10);
const QUESTIONS: usize = 16;

/// A handle; clones are the same holder. The thread ends with the last of them.
#[derive(Debug, Clone)]
pub struct Holder {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    wake: Notify,
    /// Of what was said, the first so many things were taken.
    taken: watch::Sender<u64>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    #[error("FastForward is away")]
    Away,
    #[error("FastForward refused: {0}")]
    Refused(String),
}

#[derive(Debug)]
struct Question {
    request: Request,
    answer: oneshot::Sender<Result<Reply, HolderError>>,
}

impl Holder {
    /// Starts what connects to `socket`, again and again, in a thread of its own: while a daemon is busy with a whole table its
    /// sessions' segments must not wait.
    pub fn start(socket: PathBuf) -> Self {
        let (questions, inbox) = mpsc::channel(QUESTIONS);
        let shared = Arc::new(Shared { book: Mutex::default(), wake: Notify::new(), taken: watch::Sender::new(0) });
        let task = run(socket, shared.clone(), inbox);
        let started = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| std::thread::Builder::new().name("holder".into()).spawn(move || runtime.block_on(task)));
        if let Err(error) = started {
            error!(%error, "no thread for the output hold: nothing of our sessions will leave");
        }
        Self { shared, questions }
    }

    /// Segments of the flow may leave that end at or before `seq` and acknowledge no more than `ack`. Bounds only grow;
    /// a fence ends; after [`Holder::over`] they begin anew.
    pub fn upto(&self, flow: Flow, seq: u32, ack: u32) {
        self.say(|book| book.upto(flow, seq, ack));
    }

    /// Nothing of the flow leaves or enters.
    pub fn fence(&self, flow: Flow) {
        self.say(|book| book.fence(flow));
    }

    /// The connection ends in order. To be said before the socket is closed; its RST, and a FIN that came too early, are not
    /// repeated at once.
    pub fn over(&self, flow: Flow) {
        self.say(|book| book.over(flow));
    }

    /// All sessions that live have been told: what else neighbours may think to have with us, the kernel may refuse.
    pub fn known(&self) {
        self.say(Book::known);
    }

    fn say(&self, what: impl FnOnce(&mut Book)) {
        what(&mut self.shared.book());
        self.shared.wake.notify_one();
    }

    /// Resolves when FastForward has taken everything that was said before: fences stand then. Not while it is away.
    pub async fn fenced(&self) {
        let said = self.shared.book().said();
        let mut taken = self.shared.taken.subscribe();
        // The sender lives in `self`.
        let _ = taken.wait_for(|n| *n >= said).await;
    }

    /// Neighbours that another instance knows; said again within 30 s, FastForward never asks for them.
    pub async fn neighbors(&self, rows: Vec<Neighbor>) -> Result<(), HolderError> {
        for rows in rows.chunks(MAX_OPS) {
            self.ask(Request::Neighbors(rows.to_vec())).await?;
        }
        Ok(())
    }

    /// The CEs and hosts that FastForward knows.
    pub async fn adjacencies(&self) -> Result<Vec<Adjacency>, HolderError> {
        match self.ask(Request::Adjacencies).await? {
            Reply::Adjacencies { rows } => Ok(rows),
            other => Err(HolderError::Refused(format!("answered {other:?}"))),
        }
    }

    /// The flows that FastForward guards.
    pub async fn holds(&self) -> Result<Vec<Hold>, HolderError> {
        match self.ask(Request::Holds).await? {
            Reply::Holds { rows } => Ok(rows),
            other => Err(HolderError::Refused(format!("answered {other:?}"))),
        }
    }

    /// What FastForward counted, and in how long a life, milliseconds: a shorter one than before is another FastForward's.
    pub async fn counters(&self) -> Result<(u64, Counters), HolderError> {
        let uptime_ms = match self.ask(Request::Status).await? {
            Reply::Status(status) => status.uptime_ms,
            other => return Err(HolderError::Refused(format!("answered {other:?}"))),
        };
        match self.ask(Request::Counters).await? {
            Reply::Counters(counters) => Ok((uptime_ms, counters)),
            other => Err(HolderError::Refused(format!("answered {other:?}"))),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, HolderError> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question { request, answer }).await.map_err(|_| HolderError::Away)?;
        answered.await.map_err(|_| HolderError::Away)?
    }
}

async fn run(socket: PathBuf, shared: Arc<Shared>, mut inbox: mpsc::Receiver<Question>) {
    loop {
        match connect(&socket).await {
            Ok((stream, frames, _)) => {
                shared.book().owe_all();
                info!("output hold: connected to FastForward");
                match serve(stream, frames, &shared, &mut inbox).await {
                    Ok(()) => return,
                    Err(reason) => warn!(%reason, "output hold: FastForward is away; what it holds stays held"),
                }
            }
            Err(error) => debug!(%error, "FastForward is not there yet"),
        }
        if !wait(&mut inbox).await {
            return;
        }
    }
}

/// Between two attempts nobody is kept waiting. False when the owners are gone.
async fn wait(inbox: &mut mpsc::Receiver<Question>) -> bool {
    let pause = tokio::time::sleep(RETRY);
    tokio::pin!(pause);
    loop {
        tokio::select! {
            () = &mut pause => return true,
            question = inbox.recv() => match question {
                Some(q) => drop(q.answer.send(Err(HolderError::Away))),
                None => return false,
            },
        }
    }
}

/// One connection. `Ok` when the owners are gone.
async fn serve(mut stream: UnixStream, mut frames: Deframer, shared: &Shared, inbox: &mut mpsc::Receiver<Question>) -> Result<(), Ended> {
    loop {
        // In a statement of its own: the lock must not live on.
        let owed = shared.book().take(MAX_OPS);
        if let Some(batch) = owed {
            match exchange(&mut stream, &mut frames, &Request::Hold(batch.ops)).await? {
                Reply::Done => {}
                other => error!(?other, "FastForward does not take how far sessions may go"),
            }
            let taken = shared.book().taken(batch.said);
            shared.taken.send_if_modified(|n| std::mem::replace(n, taken) != taken);
            continue;
        }
        let mut byte = [0];
        tokio::select! {
            () = shared.wake.notified() => {}
            question = inbox.recv() => {
                let Some(q) = question else { return Ok(()) };
                let answer = match exchange(&mut stream, &mut frames, &q.request).await {
                    Ok(Reply::Refused { reason }) => Err(HolderError::Refused(reason)),
                    Ok(reply) => Ok(reply),
                    Err(e) => {
                        let _ = q.answer.send(Err(HolderError::Away));
                        return Err(e);
                    }
                };
                let _ = q.answer.send(answer);
            }
            // With no request open there is nothing to read but the end.
            read = stream.read(&mut byte) => {
                read?;
                return Err(Ended::Closed);
            }
        }
    }
}
