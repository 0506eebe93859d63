//! A packet socket on one interface: no crate of ours makes its address.
#![allow(unsafe_code)]

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use std::{io, mem, os::fd::AsRawFd};
use tokio::io::{Interest, unix::AsyncFd};

/// From linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const ETH_P_ALL: u16 = 3;

/// Classic BPF over an Ethernet frame: MPLS, or IPv4 UDP to 127.0.0.0/8. Everything else never wakes us.
const ECHO_REQUESTS: [(u16, u8, u8, u32); 9] = [
    (0x28, 0, 0, 12),     // ldh [12]
    (0x15, 5, 0, 0x8847), // jeq MPLS: take
    (0x15, 0, 5, 0x0800), // jeq IPv4
    (0x30, 0, 0, 23),     // ldb [23], the protocol
    (0x15, 0, 3, 17),     // jeq UDP
    (0x30, 0, 0, 30),     // ldb [30], the destination's first byte
    (0x15, 0, 1, 127),    // jeq 127
    (0x06, 0, 0, 0xffff), // take
    (0x06, 0, 0, 0),      // leave
];

/// A socket that sends whole frames out of the interface, and receives those that may hold an echo request.
pub(super) fn packet_socket(index: u32) -> io::Result<Socket> {
    // Protocol 0: deaf until it is bound to the interface.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    let filter = ECHO_REQUESTS.map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k));
    socket.attach_filter(&filter)?;
    let yes: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of_val(&yes)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; pointer and length are those of `yes`, which outlives the call.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, std::ptr::from_ref(&yes).cast(), len) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&address(index)?)?;
    Ok(socket)
}

/// The same, ready to be waited for.
pub(super) fn listen(index: u32) -> io::Result<AsyncFd<Socket>> {
    let socket = packet_socket(index)?;
    // SAFETY: the descriptor belongs to the socket, which the AsyncFd owns: it is open for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

fn address(index: u32) -> io::Result<SockAddr> {
    // SAFETY: sockaddr_ll is a C structure of integers, for which all zeroes are a value.
    let mut link: libc::sockaddr_ll = unsafe { mem::zeroed() };
    link.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    link.sll_protocol = ETH_P_ALL.to_be();
    link.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_storage is larger than any sockaddr and aligned for all of them.
    unsafe { *storage.view_as::<libc::sockaddr_ll>() = link };
    let len = libc::socklen_t::try_from(size_of_val(&link)).map_err(io::Error::other)?;
    // SAFETY: the storage holds a sockaddr_ll of that length, its family says so.
    Ok(unsafe { SockAddr::new(storage, len) })
}
