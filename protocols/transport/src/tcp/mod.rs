//! TCP connections that outlive their process: what of one must be known beforehand, and how a successor makes it again
//! (TCP_REPAIR). Needs CAP_NET_ADMIN in the user namespace that owns the network namespace.
//!
//! ```text
//!   connect, accept ─► opened ─► TcpOpened ─┐                      ┌─► restore ─► the same connection, in another process,
//!   now and then ────► acked ───────────────┴─► journal: Progress ─┘             namespace or VM with the same address
//! ```
//! Bytes that the process has not read were never acknowledged on the wire (output commit), so they come again; bytes that the
//! peer has not acknowledged are sent again. A protected socket leaves nothing behind when its process dies: the kernel would
//! otherwise go on with it as an orphan, and the address pair would not be free.

mod sockopt;
mod standing;

pub(crate) use standing::{How, Standing};

use crate::sockopt::{set_md5, set_min_ttl};
use edgeplex_journal::{Progress, TcpOpened};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use sockopt::{
    OPTION_MSS, OPTION_SACK, OPTION_TIMESTAMP, OPTION_WINDOW_SCALE, Queue, REPAIR_OFF, REPAIR_OFF_SILENT, REPAIR_ON, RepairOption, WINDOW,
};
use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

/// As TCP_INFO names them.
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const WINDOW_SCALE: u8 = 4;
/// Send buffer of a protected socket, bytes as given to the kernel, which doubles them. Bounds what a successor has to send again.
const SEND_BUFFER: usize = 128 << 10;
/// While a successor fills it: the same bytes need never more room than before.
const SEND_BUFFER_RESTORED: usize = 208 << 10;
/// TCP timestamps of a successor are this much ahead: they must not go back, whatever the clocks and the journal's last word.
const TIMESTAMP_SLACK_MS: u64 = 1000;
/// A clock that says that more has passed is none that is known here.
const PLAUSIBLE_MS: u64 = 24 * 3600 * 1000;
/// The lowest bit of a timestamp tells its unit: set, it counts microseconds.
const MICROSECONDS: u32 = 1;

/// What the peer has taken, and our clock towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// Bytes given to the socket that the peer has not acknowledged.
    pub unacknowledged: usize,
    pub timestamp: u32,
    pub at_ms: u64,
}

/// How to take a connection over.
#[derive(Debug, Clone, Copy)]
pub struct Restore<'a> {
    pub progress: &'a Progress,
    /// Now, by the clock of [`Progress::at_ms`] as far as it is known ([`crate::journal::Journal::past_now_ms`]).
    pub now_ms: u64,
    /// The journal's last [`edgeplex_journal::Record::Acked`], or else the open, is at least so old by our own clock.
    pub age: Duration,
    /// TCP MD5 (RFC 2385).
    pub password: Option<&'a str>,
    /// TTL or hop limit of our packets, and the least that is accepted (RFC 5082).
    pub ttl: Option<u32>,
    pub least_ttl: Option<u8>,
}

/// Looks at a connection that has just come to stand and on which nothing was read or written, and protects it: from now on it
/// dies with its process, without an orphan, and what waits to be acknowledged is bounded. [`expose`] takes that back.
pub fn opened(stream: &impl AsFd) -> io::Result<TcpOpened> {
    let fd = stream.as_fd();
    sockopt::repair(fd, REPAIR_ON)?;
    let looked = look(fd);
    sockopt::repair(fd, REPAIR_OFF_SILENT)?;
    protect(fd)?;
    SockRef::from(&fd).set_send_buffer_size(SEND_BUFFER)?;
    looked
}

fn look(fd: BorrowedFd<'_>) -> io::Result<TcpOpened> {
    sockopt::queue(fd, Queue::Send)?;
    let sent_base = sockopt::queue_seq(fd)?;
    sockopt::queue(fd, Queue::Receive)?;
    // Bytes may arrive between the two questions.
    let received_base = loop {
        let (_, before) = sockopt::queued(fd)?;
        let end = sockopt::queue_seq(fd)?;
        let (_, after) = sockopt::queued(fd)?;
        if before == after {
            break end.wrapping_sub(u32::try_from(after).map_err(io::Error::other)?);
        }
    };
    sockopt::queue(fd, Queue::None)?;
    let [_, _, _, _, _, options, scales, _] = sockopt::info(fd)?;
    // Bit fields: the first has the low bits on all machines that we run on.
    let (send_scale, receive_scale) = (scales & 0xf, scales >> 4);
    Ok(TcpOpened {
        sent_base,
        received_base,
        sent_skipped: 0,
        received_skipped: 0,
        mss: sockopt::segment_size(fd)?,
        options: options & (TIMESTAMPS | SACK | WINDOW_SCALE),
        send_scale,
        receive_scale,
        timestamp: sockopt::timestamp(fd)?,
        window: sockopt::window(fd)?.to_vec(),
        at_ms: boot_ms(),
    })
}

/// Milliseconds on this host's clock that never stands or jumps.
pub fn boot_ms() -> u64 {
    sockopt::boot_ms()
}

/// The process's death closes the socket at once; leaving repair mode has also taken the permission to share the port away, which
/// a listener started later needs.
fn protect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_reuse_address(true)
}

/// The connection is to end in order: what was written is delivered first.
pub fn expose(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}

/// Closes our side without a word on the wire: the connection goes on elsewhere.
pub fn abandon(stream: impl AsFd) -> io::Result<()> {
    sockopt::repair(stream.as_fd(), REPAIR_ON)
}

/// Asks what the peer has acknowledged, and brings `window` (TCP_REPAIR_WINDOW) up to date.
pub fn acked(stream: &impl AsFd, window: &mut [u8]) -> io::Result<Acked> {
    let fd = stream.as_fd();
    let (send, receive) = sockopt::windows(fd)?;
    renew(window, send, receive);
    Ok(Acked { unacknowledged: sockopt::queued(fd)?.0, timestamp: sockopt::timestamp(fd)?, at_ms: boot_ms() })
}

/// Both windows as they are now: a receive window that became smaller would drop what the peer has sent already (RFC 9293 §3.8.6).
/// A kernel that does not tell one says 0.
fn renew(window: &mut [u8], send: u32, receive: u32) {
    let Some([_, sends, most, receives, _]) = window.as_chunks_mut::<4>().0.first_chunk_mut::<5>() else { return };
    if send > 0 {
        *sends = send.to_ne_bytes();
        *most = u32::from_ne_bytes(*most).max(send).to_ne_bytes();
    }
    if receive > 0 {
        *receives = receive.to_ne_bytes();
    }
}

/// Makes the connection again, not blocking. How many of [`Progress::unacknowledged`] the socket has taken comes with it: the
/// rest was never given to the former one and is to be written in the ordinary way.
pub fn restore(restore: &Restore<'_>) -> io::Result<(TcpStream, usize)> {
    let opened = &restore.progress.opened;
    let socket = Socket::new(Domain::for_address(opened.local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match repair(&socket, restore) {
        Ok(taken) => Ok((socket.into(), taken)),
        Err(error) => {
            // Nothing of the attempt may be seen on the wire; a failure to say so only means that it was not in repair mode yet.
            let _ = abandon(&socket);
            Err(error)
        }
    }
}

fn repair(socket: &Socket, restore: &Restore<'_>) -> io::Result<usize> {
    let Restore { progress, .. } = restore;
    let (opened, fd) = (&progress.opened, socket.as_fd());
    let tcp = &opened.tcp;
    let peer = opened.remote.ip();
    // In repair mode a port is shared with whoever has it, a listener too.
    sockopt::repair(fd, REPAIR_ON)?;
    for (queue, seq) in [(Queue::Receive, progress.received_seq()), (Queue::Send, progress.acked_seq())] {
        sockopt::queue(fd, queue)?;
        sockopt::set_queue_seq(fd, seq)?;
    }
    sockopt::queue(fd, Queue::None)?;
    if let Some(ttl) = restore.ttl {
        if peer.is_ipv4() { socket.set_ttl_v4(ttl)? } else { socket.set_unicast_hops_v6(ttl)? }
    }
    if let Some(least) = restore.least_ttl {
        set_min_ttl(fd, peer, least)?;
    }
    socket.bind(&opened.local.into())?;
    // Before connecting: the length of our headers is settled there.
    if let Some(password) = restore.password {
        set_md5(fd, peer, Some(password))?;
    }
    socket.connect(&opened.remote.into())?;
    let scales = u32::from(tcp.send_scale) | u32::from(tcp.receive_scale) << 16;
    let options =
        [(0, OPTION_MSS, tcp.mss), (WINDOW_SCALE, OPTION_WINDOW_SCALE, scales), (SACK, OPTION_SACK, 0), (TIMESTAMPS, OPTION_TIMESTAMP, 0)];
    let agreed = options.into_iter().filter(|(bit, ..)| tcp.options & bit == *bit);
    sockopt::set_options(fd, &agreed.map(|(_, code, value)| RepairOption { code, value }).collect::<Vec<_>>())?;
    if tcp.options & TIMESTAMPS != 0 {
        sockopt::set_timestamp(fd, timestamp(progress, restore.now_ms, restore.age))?;
    }
    socket.set_send_buffer_size(SEND_BUFFER_RESTORED)?;
    sockopt::queue(fd, Queue::Send)?;
    let taken = fill(socket, &progress.unacknowledged)?;
    sockopt::queue(fd, Queue::None)?;
    sockopt::set_window(fd, &window(progress))?;
    // Asks the peer where it stands, so that what it has already is not sent again for long.
    sockopt::repair(fd, REPAIR_OFF)?;
    protect(fd)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    Ok(taken)
}

/// Into the queue chosen: it counts as sent.
fn fill(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while let Some(rest) = bytes.get(taken..).filter(|r| !r.is_empty()) {
        match socket.send(rest) {
            Ok(n) => taken += n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(taken)
}

/// RFC 7323 §5: a peer drops segments whose timestamps go back.
fn timestamp(progress: &Progress, now_ms: u64, age: Duration) -> u32 {
    let by_clock = now_ms.checked_sub(progress.at_ms).filter(|ms| *ms < PLAUSIBLE_MS).unwrap_or(0);
    let elapsed = by_clock.max(u64::try_from(age.as_millis()).unwrap_or(0)) + TIMESTAMP_SLACK_MS;
    let micro = progress.timestamp & MICROSECONDS != 0;
    let ticks = if micro { elapsed * 1000 } else { elapsed };
    let ticks = u32::try_from(ticks & u64::from(u32::MAX)).unwrap_or(0);
    let sum = progress.timestamp.wrapping_add(ticks);
    if micro { sum | MICROSECONDS } else { sum & !MICROSECONDS }
}

/// `tcp_repair_window`: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup. The sequence numbers are today's; snd_wl1 is just before, so
/// that the peer's next segment tells its window anew.
fn window(progress: &Progress) -> [u8; WINDOW] {
    let mut window = [0; WINDOW];
    if let Some(told) = progress.window.get(..WINDOW) {
        window.copy_from_slice(told);
    }
    let next = progress.received_seq();
    window[..4].copy_from_slice(&next.wrapping_sub(1).to_ne_bytes());
    window[16..].copy_from_slice(&next.to_ne_bytes());
    window
}

#[cfg(test)]
mod tests;
