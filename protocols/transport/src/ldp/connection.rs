//! One TCP connection: two small tasks carry its bytes, the engine's task owns its meaning.

use super::{PORT, task::Input};
use crate::{
    journal::{Flow, Journal, SessionLog},
    sockopt::{set_md5, set_min_ttl},
    tcp,
};
use edgeplex_journal::{Opened, Progress, Protocol};
use edgeplex_ldp::ConnId;
use socket2::SockRef;
use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout},
};
use tracing::warn;

/// How much is read at once, bytes.
const READ_SIZE: usize = 16 << 10;
/// A neighbour that leaves more than this unread, bytes, loses its session.
const MAX_WAITING: usize = 16 << 20;
/// How long a closing connection may take to deliver what was said last.
const LINGER: Duration = Duration::from_secs(1);
/// A neighbour that takes nothing at all for so long loses its session.
const SEND_HOLD: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(10);
/// RFC 6720 §2
pub(super) const GTSM: u8 = 255;
/// Internetwork control.
pub(super) const TOS: u32 = 0xc0;

/// What the neighbour has acknowledged is written down at this pace.
pub(super) const ACKED_PACE: Duration = Duration::from_millis(100);

/// Where to connect, and how.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) local: Ipv4Addr,
    pub(super) remote: Ipv4Addr,
    pub(super) password: Option<String>,
    pub(super) gtsm: bool,
}

pub(super) async fn connect(target: Target) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(password) = &target.password {
        set_md5(socket.as_fd(), target.remote.into(), Some(password))?;
    }
    let options = SockRef::from(&socket);
    options.set_ttl_v4(GTSM.into())?;
    options.set_tos_v4(TOS)?;
    socket.bind(SocketAddr::from((target.local, 0)))?;
    let connecting = socket.connect(SocketAddr::from((target.remote, PORT)));
    let stream = timeout(CONNECT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if target.gtsm {
        set_min_ttl(stream.as_fd(), Ipv4Addr::UNSPECIFIED.into(), GTSM)?;
    }
    Ok(stream)
}

/// What is written down of a connection.
#[derive(Debug)]
pub(super) struct Logged {
    log: SessionLog,
    /// TCP_REPAIR_WINDOW.
    window: Vec<u8>,
    /// As written down last, and when that was looked at.
    acked: u64,
    looked: Instant,
}

impl Logged {
    pub(super) fn new(log: SessionLog, progress: &Progress) -> Self {
        Self { log, window: progress.window.clone(), acked: progress.acked, looked: Instant::now() }
    }

    /// Of a connection on which nothing was read or written. `None` if nothing is kept; where a socket cannot be protected the session
    /// is as mortal as its process.
    pub(super) fn open(stream: &TcpStream, passive: bool, journal: &Journal) -> Option<Self> {
        // One that is gone already has no addresses any more.
        let (local, remote) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        if !journal.keeps() {
            journal.unguarded(Flow { local, remote });
            return None;
        }
        match tcp::opened(stream).map(|tcp| Opened { protocol: Protocol::Ldp, local, remote, passive, tcp }) {
            Ok(opened) => Some(Self::new(journal.session(opened.clone()), &Progress::new(&opened))),
            Err(error) => {
                warn!(%remote, %error, "an LDP session that no successor can take over");
                journal.unguarded(Flow { local, remote });
                None
            }
        }
    }
}

/// A connection in use. Dropped, it delivers what waits, if the neighbour takes it soon, and closes.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Arc<TcpStream>,
    out: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes given to `out` and not yet written.
    waiting: Arc<AtomicUsize>,
    log: Option<Logged>,
    tasks: [AbortHandle; 2],
    /// Tells the writer when it is dropped.
    _alive: oneshot::Sender<()>,
}

impl Connection {
    /// What it hears goes to `inputs`; the task given back ends when the connection is closed.
    pub(super) fn start(id: ConnId, stream: TcpStream, log: Option<Logged>, inputs: mpsc::Sender<Input>) -> (Self, JoinHandle<()>) {
        // Without it a KeepAlive may wait for an acknowledgement; a failure costs only time.
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let waiting = Arc::new(AtomicUsize::new(0));
        let (out, messages) = mpsc::unbounded_channel();
        let (alive, dropped) = oneshot::channel();
        let reader = tokio::spawn(read(id, Arc::clone(&stream), inputs.clone()));
        let written = Arc::clone(&waiting);
        let writing = Arc::clone(&stream);
        let reading = reader.abort_handle();
        let writer = tokio::spawn(async move {
            if let Err(error) = write(&writing, messages, &written, dropped, SEND_HOLD).await {
                // Nobody to tell: the speaker is gone.
                let _ = inputs.send(Input::Closed(id, error.to_string())).await;
            }
            end(&writing, reader).await;
        });
        let tasks = [reading, writer.abort_handle()];
        (Self { stream, out, waiting, log, tasks, _alive: alive }, writer)
    }

    /// To be told of what was read before anything is made of it.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        if let Some(l) = &mut self.log {
            l.log.received(bytes);
        }
    }

    /// The neighbour has yet to acknowledge something, for all that is written down.
    pub(super) fn is_behind(&self) -> bool {
        self.log.as_ref().is_some_and(|l| l.acked < l.log.counts().1)
    }

    /// Writes down what the neighbour has acknowledged, and our clock towards it, if it is time for it or `at_once`.
    pub(super) fn note_acked(&mut self, at_once: bool) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let Some(l) = &mut self.log else { return };
        let (_, sent) = l.log.counts();
        if !at_once && (l.acked == sent || l.looked.elapsed() < ACKED_PACE) {
            return;
        }
        l.looked = Instant::now();
        // A socket that cannot be asked any more is about to be closed.
        let Ok(now) = tcp::acked(&*self.stream, &mut l.window) else { return };
        let Ok(unacknowledged) = u64::try_from(waiting + now.unacknowledged) else { return };
        let acked = sent.saturating_sub(unacknowledged).max(l.acked);
        if at_once || acked > l.acked {
            l.acked = acked;
            l.log.acked(acked, l.window.clone(), now.timestamp, now.at_ms);
        }
    }

    /// Nothing leaves or enters any more, and what was written down is complete.
    pub(super) fn fence(&mut self) {
        self.note_acked(true);
        self.log.iter().for_each(|l| l.log.fence());
    }

    pub(super) fn unfence(&self) {
        self.log.iter().for_each(|l| l.log.unfence());
    }

    /// Lets go of the connection, which goes on elsewhere: nothing of this is seen on the wire.
    pub(super) fn leave(mut self) {
        if self.log.take().is_some() {
            // One that was not protected ends as its process does.
            let _ = tcp::abandon(&*self.stream);
            self.tasks.iter().for_each(AbortHandle::abort);
        }
    }

    /// Goes on where another has left: `rest` is written down already, and is still to be written.
    pub(super) fn resume(&mut self, rest: Vec<u8>) {
        if !rest.is_empty() {
            self.waiting.fetch_add(rest.len(), Ordering::Relaxed);
            let _ = self.out.send(rest);
        }
        // The timestamp is by our own clock from now on.
        self.note_acked(true);
    }

    /// `false`: the neighbour does not read.
    pub(super) fn send(&mut self, bytes: Vec<u8>) -> bool {
        if let Some(l) = &mut self.log {
            l.log.sent(&bytes);
        }
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        // A writer that has ended has told of it.
        let _ = self.out.send(bytes);
        waiting <= MAX_WAITING
    }

    pub(super) fn protect(&self) -> io::Result<()> {
        set_min_ttl(self.stream.as_fd(), Ipv4Addr::UNSPECIFIED.into(), GTSM)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(l) = self.log.take() {
            // Failing that, its last words may be lost.
            let _ = tcp::expose(&*self.stream);
            l.log.close();
        }
    }
}

async fn read(id: ConnId, stream: Arc<TcpStream>, inputs: mpsc::Sender<Input>) {
    let mut buffer = vec![0; READ_SIZE];
    let reason = loop {
        if let Err(error) = stream.readable().await {
            break error.to_string();
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => break "closed by the neighbour".to_owned(),
            Ok(n) => {
                let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                if inputs.send(Input::Received(id, bytes)).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break error.to_string(),
        }
    };
    // Nobody to tell: the speaker is gone.
    let _ = inputs.send(Input::Closed(id, reason)).await;
}

/// Writes until the connection is dropped, and a little longer.
async fn write(
    stream: &TcpStream,
    mut messages: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: &AtomicUsize,
    dropped: oneshot::Receiver<()>,
    hold: Duration,
) -> io::Result<()> {
    let deliver = async {
        while let Some(bytes) = messages.recv().await {
            write_all(stream, &bytes, hold).await?;
            waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::pin!(deliver);
    tokio::select! {
        done = &mut deliver => done,
        _ = dropped => timeout(LINGER, deliver).await.unwrap_or(Ok(())),
    }
}

/// Lets the reader read away what still comes: closing over unread input would reset the connection and could take our last words
/// with it.
async fn end(stream: &TcpStream, mut reader: JoinHandle<()>) {
    // Fails where the connection is broken already.
    let _ = SockRef::from(stream).shutdown(Shutdown::Write);
    if timeout(LINGER, &mut reader).await.is_err() {
        reader.abort();
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8], hold: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the neighbour takes nothing");
        timeout(hold, stream.writable()).await.map_err(late)??;
        match stream.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Far more than the kernel takes for a neighbour that does not read.
    const MUCH: usize = 64 << 20;

    #[tokio::test]
    async fn one_that_does_not_read_does_not_hold_a_dropped_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut neighbor, _) = listener.accept().await.unwrap();
        let (inputs, _input) = mpsc::channel(1);
        let (mut connection, ended) = Connection::start(ConnId::Opened(1), stream, None, inputs);
        assert!(!connection.send(vec![0; MUCH]), "that is too much");
        // The write has begun.
        assert_eq!(neighbor.read_u8().await.unwrap(), 0);
        drop(connection);
        timeout(LINGER * 10, ended).await.expect("it ends").unwrap();
    }

    /// Nothing was sent for long; where our clock towards the neighbour stands is new.
    #[tokio::test]
    #[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
    async fn a_fence_writes_down_what_a_successor_needs() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut neighbor, _) = listener.accept().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path()).unwrap();
        let log = Logged::open(&stream, false, &journal);
        assert!(log.is_some());
        let (inputs, _input) = mpsc::channel(1);
        let (mut connection, _) = Connection::start(ConnId::Opened(1), stream, log, inputs);
        connection.send(vec![1]);
        assert_eq!(neighbor.read_u8().await.unwrap(), 1);
        let told = |connection: &mut Connection| {
            let before_ms = tcp::boot_ms();
            connection.fence();
            let state = edgeplex_journal::State::from_file(&std::fs::read(dir.path().join("journal")).unwrap(), 1 << 20).unwrap();
            let acked = state.sessions().values().next().unwrap().acked.clone().unwrap();
            assert!(acked.at_ms >= before_ms);
            (acked.sent, acked.window.len())
        };
        while told(&mut connection) != (1, 20) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(told(&mut connection), (1, 20), "again, though nothing else is new");
        connection.leave();
    }

    #[tokio::test]
    async fn one_that_does_not_read_loses_its_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_neighbor, _) = listener.accept().await.unwrap();
        let (out, messages) = mpsc::unbounded_channel();
        let (_alive, dropped) = oneshot::channel();
        out.send(vec![0; MUCH]).unwrap();
        let waiting = AtomicUsize::new(MUCH);
        let written = write(&stream, messages, &waiting, dropped, LINGER / 10);
        assert_eq!(timeout(LINGER * 10, written).await.expect("it ends").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
