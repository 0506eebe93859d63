//! One TCP connection: two small tasks carry its bytes, the engine's task owns its meaning.

use super::{PORT, task::Input};
use crate::sockopt::{set_md5, set_min_ttl};
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
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// How much is read at once, bytes.
const READ_SIZE: usize = 16 << 10;
/// A neighbour that leaves more than this unread, bytes, loses its session.
const MAX_WAITING: usize = 16 << 20;
/// How long a closing connection may take to deliver what was said last.
const LINGER: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(10);
/// RFC 6720 §2
const GTSM: u8 = 255;
/// Internetwork control.
pub(super) const TOS: u32 = 0xc0;

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

/// A connection in use. Dropped, it delivers what waits and closes.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Arc<TcpStream>,
    out: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes given to `out` and not yet written.
    waiting: Arc<AtomicUsize>,
}

impl Connection {
    /// What it hears goes to `inputs`; the task given back ends when the connection is closed.
    pub(super) fn start(id: ConnId, stream: TcpStream, inputs: mpsc::Sender<Input>) -> (Self, JoinHandle<()>) {
        // Without it a KeepAlive may wait for an acknowledgement; a failure costs only time.
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let waiting = Arc::new(AtomicUsize::new(0));
        let (out, messages) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(id, Arc::clone(&stream), inputs));
        let writer = tokio::spawn(write(Arc::clone(&stream), messages, Arc::clone(&waiting), reader));
        (Self { stream, out, waiting }, writer)
    }

    /// `false`: the neighbour does not read.
    pub(super) fn send(&self, bytes: Vec<u8>) -> bool {
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        // A writer that has ended has met an error, which the reader meets too.
        let _ = self.out.send(bytes);
        waiting <= MAX_WAITING
    }

    pub(super) fn protect(&self) -> io::Result<()> {
        set_min_ttl(self.stream.as_fd(), Ipv4Addr::UNSPECIFIED.into(), GTSM)
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

/// Writes until the connection is dropped, then lets the reader read away what comes: closing over unread input would reset
/// the connection and could take our last words with it.
async fn write(
    stream: Arc<TcpStream>,
    mut messages: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    mut reader: JoinHandle<()>,
) {
    while let Some(bytes) = messages.recv().await {
        let written =
            if messages.is_closed() { timeout(LINGER, write_all(&stream, &bytes)).await } else { Ok(write_all(&stream, &bytes).await) };
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
    }
    // Fails where the connection is broken already.
    let _ = SockRef::from(&*stream).shutdown(Shutdown::Write);
    if timeout(LINGER, &mut reader).await.is_err() {
        reader.abort();
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
