//! One TCP connection of a neighbour: making it, reading it, writing what it takes, and writing down what a successor needs.

use crate::{
    journal::{Flow, Journal, SessionLog},
    sockopt, tcp,
};
use edgeplex_bgp::{ConnId, PeerConfig};
use edgeplex_journal::{Opened, Progress, Protocol};
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Context;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tracing::warn;

/// UPDATEs are composed while less than this waits to be written, bytes.
pub(super) const WRITE_AHEAD: usize = 64 << 10;
/// How much is read at once, bytes; also the most that one step of the engine has to digest.
pub(super) const READ_SIZE: usize = 32 << 10;
/// How long a closing connection may take to deliver what was said last.
const LINGER: Duration = Duration::from_secs(1);

/// What the peer has acknowledged is written down when so much time has passed, or so many bytes were sent, since it was last.
const ACKED_PACE: Duration = Duration::from_millis(100);
const ACKED_BYTES: u64 = 64 << 10;

/// Our packets leave with it, whatever the peer requires (RFC 5082 §3: those that require it want the largest).
pub(super) const TTL: u32 = 255;

/// Makes a listening socket, or one about to connect, send what a peer with RFC 5082 accepts.
pub(super) fn set_ttl(socket: SockRef<'_>, peer: IpAddr) -> io::Result<()> {
    if peer.is_ipv4() { socket.set_ttl_v4(TTL) } else { socket.set_unicast_hops_v6(TTL) }
}

/// Below this TTL a packet comes from farther away than the configuration allows (RFC 5082).
pub(super) fn least_ttl(config: &PeerConfig) -> Option<u8> {
    config.ttl_security_hops.map(|hops| u8::MAX - hops.saturating_sub(1))
}

/// Drops what comes from farther away than the configuration allows.
pub(super) fn guard(socket: BorrowedFd<'_>, config: &PeerConfig) -> io::Result<()> {
    least_ttl(config).map_or(Ok(()), |least| sockopt::set_min_ttl(socket, config.address, least))
}

/// Connects from the configured address, with the signature if there is a password.
pub(super) async fn connect(config: PeerConfig) -> io::Result<TcpStream> {
    let socket = if config.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    set_ttl(SockRef::from(&socket), config.address)?;
    guard(socket.as_fd(), &config)?;
    if let Some(password) = &config.password {
        sockopt::set_md5(socket.as_fd(), config.address, Some(password))?;
    }
    if let Some(local) = config.local_address {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(SocketAddr::new(config.address, config.port)).await
}

/// What is written down of a connection.
#[derive(Debug)]
struct Logged {
    log: SessionLog,
    /// TCP_REPAIR_WINDOW.
    window: Vec<u8>,
    /// As written down last; when that was looked at, and how many bytes had been sent then.
    acked: u64,
    looked: Instant,
    sent: u64,
}

impl Logged {
    fn new(log: SessionLog, progress: &Progress) -> Self {
        Self { log, window: progress.window.clone(), acked: progress.acked, looked: Instant::now(), sent: progress.sent }
    }

    /// `None` if nothing is kept. Where a socket cannot be protected the session is as mortal as its process, and nothing of it
    /// waits for the journal.
    fn open(stream: &TcpStream, passive: bool, journal: &Journal) -> Option<Self> {
        // One that is gone already has no addresses any more.
        let (local, remote) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        if !journal.keeps() {
            journal.unguarded(Flow { local, remote });
            return None;
        }
        let opened = |tcp| Opened { protocol: Protocol::Bgp, local, remote, passive, tcp };
        match tcp::opened(stream).map(opened) {
            Ok(opened) => Some(Self::new(journal.session(opened.clone()), &Progress::new(&opened))),
            Err(error) => {
                warn!(%remote, %error, "a BGP session that no successor can take over");
                journal.unguarded(Flow { local, remote });
                None
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    stream: TcpStream,
    out: Vec<u8>,
    /// Of `out`, written already.
    written: usize,
    /// Of `out`, written down.
    noted: usize,
    log: Option<Logged>,
    /// Since when something waits and nothing was taken.
    stalled: Option<Instant>,
}

impl Connection {
    /// Nothing was read from the stream or written to it.
    pub(super) fn new(id: ConnId, stream: TcpStream, passive: bool, journal: &Journal) -> Self {
        // Without it a KEEPALIVE may wait for an acknowledgement; a failure costs only time.
        let _ = stream.set_nodelay(true);
        let log = Logged::open(&stream, passive, journal);
        Self { id, stream, out: Vec::new(), written: 0, noted: 0, log, stalled: None }
    }

    /// One that goes on here; `rest` is still to be written of what was sent.
    pub(super) fn resumed(id: ConnId, stream: TcpStream, log: SessionLog, progress: &Progress, rest: &[u8]) -> Self {
        let log = Some(Logged::new(log, progress));
        let mut resumed = Self { id, stream, out: rest.to_vec(), written: 0, noted: rest.len(), log, stalled: None };
        // The timestamp is by our own clock from now on.
        resumed.note_acked(true);
        resumed
    }

    /// Bytes waiting to be written.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    pub(super) fn stalled(&self) -> Option<Instant> {
        self.stalled
    }

    /// Where to append what is to be sent, in whole messages.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        if self.written == self.out.len() {
            self.out.clear();
            (self.written, self.noted) = (0, 0);
        } else if self.written > WRITE_AHEAD {
            self.out.drain(..self.written);
            self.noted = self.noted.saturating_sub(self.written);
            self.written = 0;
        }
        &mut self.out
    }

    /// Output commit: what is sent is written down before.
    fn note_out(&mut self) {
        if let Some(l) = &mut self.log
            && let Some(new) = self.out.get(self.noted..).filter(|new| !new.is_empty())
        {
            l.log.sent(new);
        }
        self.noted = self.out.len();
    }

    /// Writes down what the peer has acknowledged, and our clock towards it, if it is time for it or `at_once`.
    pub(super) fn note_acked(&mut self, at_once: bool) {
        let unwritten = self.noted - self.written;
        let Some(l) = &mut self.log else { return };
        let (_, sent) = l.log.counts();
        if !at_once && (l.acked == sent || l.looked.elapsed() < ACKED_PACE && sent - l.sent < ACKED_BYTES) {
            return;
        }
        (l.looked, l.sent) = (Instant::now(), sent);
        // A socket that cannot be asked any more is about to be closed.
        let Ok(now) = tcp::acked(&self.stream, &mut l.window) else { return };
        let acked = sent.saturating_sub((unwritten + now.unacknowledged) as u64).max(l.acked);
        if at_once || acked > l.acked {
            l.acked = acked;
            l.log.acked(acked, l.window.clone(), now.timestamp, now.at_ms);
        }
    }

    /// Writes what the socket takes now.
    pub(super) fn write_now(&mut self) -> io::Result<()> {
        self.note_out();
        let done = self.write_noted();
        self.note_acked(false);
        done
    }

    fn write_noted(&mut self) -> io::Result<()> {
        while self.waiting() > 0 {
            match self.stream.try_write(self.out.get(self.written..).unwrap_or_default()) {
                Ok(n) => {
                    self.written += n;
                    self.stalled = None;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        self.stalled = None;
        Ok(())
    }

    /// Whether there is something to read, or the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        self.stream.poll_read_ready(cx).is_ready()
    }

    /// Whether something waits and the socket takes more.
    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> bool {
        self.waiting() > 0 && self.stream.poll_write_ready(cx).is_ready()
    }

    /// Reads what is there, and writes it down: `None` if nothing is, 0 bytes at the end of the stream.
    pub(super) fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.try_read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
            Ok(n) => {
                if let (Some(l), Some(read)) = (&mut self.log, buffer.get(..n).filter(|read| !read.is_empty())) {
                    l.log.received(read);
                }
                Ok(Some(n))
            }
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
    pub(super) fn leave(self) {
        // One that was not protected ends as its process does.
        let _ = tcp::abandon(&self.stream);
    }

    /// Delivers what waits, then closes. Unread input is read away meanwhile: closing over it would reset the
    /// connection and could take our NOTIFICATION with it.
    pub(super) fn close(mut self) -> impl Future<Output = ()> {
        self.note_out();
        if let Some(l) = self.log.take() {
            // Failing that, its last words may be lost.
            let _ = tcp::expose(&self.stream);
            l.log.close();
        }
        async move {
            let deliver = async {
                self.stream.write_all(self.out.get(self.written..).unwrap_or_default()).await?;
                self.stream.shutdown().await?;
                let mut sink = [0; 4096];
                while self.stream.read(&mut sink).await? > 0 {}
                io::Result::Ok(())
            };
            // Late or broken, the connection goes either way.
            let _ = tokio::time::timeout(LINGER, deliver).await;
        }
    }
}
