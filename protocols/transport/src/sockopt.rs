//! Socket options that no crate of ours offers.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// From linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// What comes over TCP with a lower TTL or hop limit than `ttl` is dropped by the kernel (RFC 5082). 0 takes that back. Linux does
/// not look at it for UDP.
pub(crate) fn set_min_ttl(socket: BorrowedFd<'_>, ipv6: bool, ttl: u8) -> io::Result<()> {
    let (level, name) = if ipv6 { (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT) } else { (libc::IPPROTO_IP, libc::IP_MINTTL) };
    set(socket, level, name, ttl.into())
}

/// The TTL or hop limit of a datagram comes with it, as a control message.
pub(crate) fn receive_ttl(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, name) = if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) } else { (libc::IPPROTO_IP, libc::IP_RECVTTL) };
    set(socket, level, name, 1)
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; pointer and length are those of `value`, which outlives the call.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
