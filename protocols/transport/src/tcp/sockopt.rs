//! What the kernel tells and takes of a connection in repair mode (tcp(7), TCP_REPAIR and its kin), which no crate of ours offers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Values of `TCP_REPAIR`: the last leaves repair mode without asking the peer how it stands.
pub(super) const REPAIR_OFF: libc::c_int = 0;
pub(super) const REPAIR_ON: libc::c_int = 1;
pub(super) const REPAIR_OFF_SILENT: libc::c_int = -1;

/// Values of `TCP_REPAIR_QUEUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    None = 0,
    Receive = 1,
    Send = 2,
}

/// linux/tcp.h; not in libc for every target.
const TCP_REPAIR_WINDOW: libc::c_int = 29;
/// `struct tcp_repair_window`: five numbers of 32 bits.
pub(super) const WINDOW: usize = 20;

/// Options of the handshake as `TCP_REPAIR_OPTIONS` wants them (TCPOPT_*).
pub(super) const OPTION_MSS: u32 = 2;
pub(super) const OPTION_WINDOW_SCALE: u32 = 3;
pub(super) const OPTION_SACK: u32 = 4;
pub(super) const OPTION_TIMESTAMP: u32 = 8;

/// `struct tcp_repair_opt`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RepairOption {
    pub(super) code: u32,
    pub(super) value: u32,
}

pub(super) fn repair(socket: BorrowedFd<'_>, mode: libc::c_int) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR, &[mode])
}

pub(super) fn queue(socket: BorrowedFd<'_>, queue: Queue) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR_QUEUE, &[queue as libc::c_int])
}

/// Sequence number at the end of the chosen queue.
pub(super) fn queue_seq(socket: BorrowedFd<'_>) -> io::Result<u32> {
    get::<u32, 1>(socket, libc::TCP_QUEUE_SEQ).map(|[seq]| seq)
}

pub(super) fn set_queue_seq(socket: BorrowedFd<'_>, seq: u32) -> io::Result<()> {
    set(socket, libc::TCP_QUEUE_SEQ, &[seq])
}

pub(super) fn timestamp(socket: BorrowedFd<'_>) -> io::Result<u32> {
    get::<u32, 1>(socket, libc::TCP_TIMESTAMP).map(|[timestamp]| timestamp)
}

pub(super) fn set_timestamp(socket: BorrowedFd<'_>, timestamp: u32) -> io::Result<()> {
    set(socket, libc::TCP_TIMESTAMP, &[timestamp])
}

pub(super) fn window(socket: BorrowedFd<'_>) -> io::Result<[u8; WINDOW]> {
    get(socket, TCP_REPAIR_WINDOW)
}

pub(super) fn set_window(socket: BorrowedFd<'_>, window: &[u8; WINDOW]) -> io::Result<()> {
    set(socket, TCP_REPAIR_WINDOW, window)
}

/// In repair mode: what the peer accepts at most.
pub(super) fn segment_size(socket: BorrowedFd<'_>) -> io::Result<u32> {
    get::<u32, 1>(socket, libc::TCP_MAXSEG).map(|[mss]| mss)
}

pub(super) fn set_options(socket: BorrowedFd<'_>, options: &[RepairOption]) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR_OPTIONS, options)
}

/// The head of `struct tcp_info`: state, …, options (6th byte), and both window scales (7th).
pub(super) fn info(socket: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    get(socket, libc::TCP_INFO)
}

/// Of `struct tcp_info`, its numbers of 32 bits: snd_wnd (since Linux 5.4) and rcv_wnd (6.2); 0 where the kernel does not tell them.
pub(super) fn windows(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    const SEND_WINDOW: usize = 57;
    let numbers: [u32; SEND_WINDOW + 2] = get(socket, libc::TCP_INFO)?;
    Ok((numbers[SEND_WINDOW], numbers[SEND_WINDOW + 1]))
}

/// Bytes not yet acknowledged by the peer, and bytes received and not yet read.
pub(super) fn queued(socket: BorrowedFd<'_>) -> io::Result<(usize, usize)> {
    Ok((ioctl(socket, libc::TIOCOUTQ)?, ioctl(socket, libc::FIONREAD)?))
}

/// CLOCK_BOOTTIME, milliseconds.
pub(super) fn boot_ms() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that outlives the call, which fills it in.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let number = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
    number(time.tv_sec) * 1000 + number(time.tv_nsec) / 1_000_000
}

fn ioctl(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<usize> {
    let mut value: libc::c_int = 0;
    // SAFETY: the descriptor is open while borrowed; both requests write one int, to which the pointer leads.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut value) };
    if done == 0 { usize::try_from(value).map_err(io::Error::other) } else { Err(io::Error::last_os_error()) }
}

fn get<T: Copy + Default, const N: usize>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<[T; N]> {
    let mut value = [T::default(); N];
    let mut len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; pointer and length are those of `value`, of which the kernel fills no more
    // than `len` bytes. T is an integer in all uses: any bytes are one.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, value.as_mut_ptr().cast(), &raw mut len) };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set<T>(socket: BorrowedFd<'_>, name: libc::c_int, value: &[T]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; pointer and length are those of `value`, which outlives the call, and all
    // callers give the type that the kernel wants for the option.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, value.as_ptr().cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
