//! TCP MD5 signatures (RFC 2385): the one socket option that no crate of ours offers.
#![allow(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest key, bytes (Linux `TCP_MD5SIG_MAXKEYLEN`).
const MAX_KEY: usize = 80;

/// `struct tcp_md5sig` of linux/tcp.h, for an IPv4 peer. Its first field is a `sockaddr_storage`: 128 bytes, aligned
/// like a long.
#[repr(C, align(8))]
struct Md5Signature {
    address: libc::sockaddr_in,
    address_rest: [u8; 112],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: u32,
    key: [u8; MAX_KEY],
}

const _: () = assert!(size_of::<Md5Signature>() == 216 && size_of::<libc::sockaddr_in>() + 112 == size_of::<libc::sockaddr_storage>());

/// Requires the signature with `key` on what comes from and goes to `peer`; `None` takes the requirement back.
/// On a listener it holds for the connections it accepts.
pub(crate) fn set_md5(socket: BorrowedFd<'_>, peer: IpAddr, key: Option<&str>) -> io::Result<()> {
    let IpAddr::V4(address) = peer else { return Err(io::Error::from(io::ErrorKind::Unsupported)) };
    let given = key.unwrap_or_default().as_bytes();
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "TCP MD5 password is longer than 80 bytes");
    let mut key = [0; MAX_KEY];
    key.get_mut(..given.len()).ok_or_else(too_long)?.copy_from_slice(given);
    let option = Md5Signature {
        address: libc::sockaddr_in {
            sin_family: libc::sa_family_t::try_from(libc::AF_INET).map_err(io::Error::other)?,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            sin_zero: [0; 8],
        },
        address_rest: [0; 112],
        flags: 0,
        prefix_length: 0,
        key_length: u16::try_from(given.len()).map_err(|_| too_long())?,
        interface: 0,
        key,
    };
    let len = libc::socklen_t::try_from(size_of::<Md5Signature>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; pointer and length are those of `option`, which outlives the
    // call and is laid out as the kernel's structure (checked above).
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MD5SIG, std::ptr::from_ref(&option).cast(), len) };
    let error = io::Error::last_os_error();
    match done {
        0 => Ok(()),
        // Taking back a key that was never set is no error.
        _ if given.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        _ => Err(error),
    }
}
