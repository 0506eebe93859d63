//! One TCP connection of a neighbour: making it, reading it, and writing what it takes.

use crate::sockopt;
use edgeplex_bgp::{ConnId, PeerConfig};
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Context;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// UPDATEs are composed while less than this waits to be written, bytes.
pub(super) const WRITE_AHEAD: usize = 64 << 10;
/// How much is read at once, bytes; also the most that one step of the engine has to digest.
pub(super) const READ_SIZE: usize = 32 << 10;
/// How long a closing connection may take to deliver what was said last.
const LINGER: Duration = Duration::from_secs(1);

/// Our packets leave with it, whatever the peer requires (RFC 5082 §3: those that require it want the largest).
const TTL: u32 = 255;

/// Makes a listening socket, or one about to connect, send what a peer with RFC 5082 accepts.
pub(super) fn set_ttl(socket: SockRef<'_>, peer: IpAddr) -> io::Result<()> {
    if peer.is_ipv4() { socket.set_ttl_v4(TTL) } else { socket.set_unicast_hops_v6(TTL) }
}

/// Drops what comes from farther away than the configuration allows (RFC 5082).
pub(super) fn guard(socket: BorrowedFd<'_>, config: &PeerConfig) -> io::Result<()> {
    match config.ttl_security_hops {
        Some(hops) => sockopt::set_min_ttl(socket, config.address, u8::MAX - hops.saturating_sub(1)),
        None => Ok(()),
    }
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

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    stream: TcpStream,
    out: Vec<u8>,
    /// Of `out`, written already.
    written: usize,
    /// Since when something waits and nothing was taken.
    stalled: Option<Instant>,
}

impl Connection {
    pub(super) fn new(id: ConnId, stream: TcpStream) -> Self {
        // Without it a KEEPALIVE may wait for an acknowledgement; a failure costs only time.
        let _ = stream.set_nodelay(true);
        Self { id, stream, out: Vec::new(), written: 0, stalled: None }
    }

    /// Bytes waiting to be written.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    pub(super) fn stalled(&self) -> Option<Instant> {
        self.stalled
    }

    /// Where to append what is to be sent.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > WRITE_AHEAD {
            self.out.drain(..self.written);
            self.written = 0;
        }
        &mut self.out
    }

    /// Writes what the socket takes now.
    pub(super) fn write_now(&mut self) -> io::Result<()> {
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

    /// Reads what is there: `None` if nothing is, 0 bytes at the end of the stream.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.try_read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    /// Delivers what waits, then closes. Unread input is read away meanwhile: closing over it would reset the
    /// connection and could take our NOTIFICATION with it.
    pub(super) async fn close(mut self) {
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
