//! Socket options that no crate of ours offers: TCP MD5 signatures (RFC 2385), the least TTL that is accepted (RFC 5082), the TTL that
//! a datagram came with.
#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest key, bytes (Linux `TCP_MD5SIG_MAXKEYLEN`).
const MAX_KEY: usize = 80;
/// `struct sockaddr_storage`
const ADDRESS: usize = 128;

/// `struct tcp_md5sig` of linux/tcp.h. Its first field is a `sockaddr_storage`: 128 bytes, aligned like a long.
#[repr(C, align(8))]
struct Md5Signature {
    address: [u8; ADDRESS],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: u32,
    key: [u8; MAX_KEY],
}

const _: () = assert!(size_of::<Md5Signature>() == 216 && size_of::<libc::sockaddr_storage>() == ADDRESS);

/// A `sockaddr_in` or `sockaddr_in6` without a port: family in the machine's order, then port, then (IPv6) flow, then address.
fn socket_address(peer: IpAddr) -> [u8; ADDRESS] {
    let mut out = [0; ADDRESS];
    let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    out[..2].copy_from_slice(&libc::sa_family_t::try_from(family).unwrap_or_default().to_ne_bytes());
    match peer {
        IpAddr::V4(a) => out[4..8].copy_from_slice(&a.octets()),
        IpAddr::V6(a) => out[8..24].copy_from_slice(&a.octets()),
    }
    out
}

/// Requires the signature with `key` on what comes from and goes to `peer`; `None` takes the requirement back.
/// On a listener it holds for the connections it accepts.
pub(crate) fn set_md5(socket: BorrowedFd<'_>, peer: IpAddr, key: Option<&str>) -> io::Result<()> {
    let given = key.unwrap_or_default().as_bytes();
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "TCP MD5 password is longer than 80 bytes");
    let mut key = [0; MAX_KEY];
    key.get_mut(..given.len()).ok_or_else(too_long)?.copy_from_slice(given);
    let option = Md5Signature {
        address: socket_address(peer),
        flags: 0,
        prefix_length: 0,
        key_length: u16::try_from(given.len()).map_err(|_| too_long())?,
        interface: 0,
        key,
    };
    match set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option) {
        // Taking back a key that was never set is no error.
        Err(error) if given.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// What comes over TCP with a smaller TTL (hop limit) than `least` is dropped by the kernel; 0 takes it back. Linux does not look at
/// it for UDP.
pub(crate) fn set_min_ttl(socket: BorrowedFd<'_>, peer: IpAddr, least: u8) -> io::Result<()> {
    let least = libc::c_int::from(least);
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &least),
    }
}

/// The TTL or hop limit of a datagram comes with it, as a control message.
pub(crate) fn receive_ttl(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, name) = if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT) } else { (libc::IPPROTO_IP, libc::IP_RECVTTL) };
    let yes: libc::c_int = 1;
    set(socket, level, name, &yes)
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; pointer and length are those of `value`, which outlives the call. All
    // callers give the type that the kernel wants for the option: `tcp_md5sig` (its size is checked above) and an int.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn both_families_take_keys_and_a_least_ttl() {
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let listener = std::net::TcpListener::bind((address, 0)).unwrap();
            set_min_ttl(listener.as_fd(), address, 255).unwrap();
            set_md5(listener.as_fd(), address, None).unwrap();
            set_md5(listener.as_fd(), address, Some("not a word")).unwrap();
            set_md5(listener.as_fd(), address, None).unwrap();
            assert!(set_md5(listener.as_fd(), address, Some(&"x".repeat(81))).is_err());
        }
    }
}
