//! The two things about an interface that have no message in rtnetlink here: its offloads, and coming up in a thread
//! that has just changed namespace, without a netlink connection of its own. And the handle on a process.
#![allow(unsafe_code)]

use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// ETHTOOL_S*: transmit checksums, scatter-gather, TSO, GSO, GRO (linux/ethtool.h).
const OFFLOADS: [u32; 5] = [0x17, 0x19, 0x1f, 0x24, 0x2c];

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

fn control_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut r: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the name ends there.
    if name.is_empty() || name.len() >= r.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("interface name `{name}`")));
    }
    for (to, from) in r.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(r)
}

fn failed(name: &str, e: Errno) -> io::Error {
    io::Error::new(io::Error::from(e).kind(), format!("interface {name}: {e}"))
}

/// Turns segmentation and checksum offload off: a userspace switch sees the frames as they are, and would pass on
/// checksums that nobody has filled in.
pub(super) fn offloads_off(name: &str) -> io::Result<()> {
    let s = control_socket()?;
    for cmd in OFFLOADS {
        let mut value = EthtoolValue { cmd, data: 0 };
        let mut r = request(name)?;
        r.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request points to `value`, which outlives the call; SIOCETHTOOL reads and writes no more of it
        // than an ethtool_value for these commands.
        match Errno::result(unsafe { libc::ioctl(s.as_raw_fd(), libc::SIOCETHTOOL, &raw mut r) }) {
            // A driver that does not have the feature has nothing to turn off.
            Ok(_) | Err(Errno::EOPNOTSUPP) => {}
            Err(e) => return Err(failed(name, e)),
        }
    }
    Ok(())
}

/// Brings the interface up, with or without ARP.
pub(super) fn up(name: &str, arp: bool) -> io::Result<()> {
    let s = control_socket()?;
    let mut r = request(name)?;
    // SAFETY: the request is an ifreq, which SIOCGIFFLAGS fills in.
    Errno::result(unsafe { libc::ioctl(s.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut r) }).map_err(|e| failed(name, e))?;
    // SAFETY: SIOCGIFFLAGS has set this member of the union, and any bits are a value of it.
    let mut flags = i32::from(unsafe { r.ifr_ifru.ifru_flags }) | libc::IFF_UP;
    if !arp {
        flags |= libc::IFF_NOARP;
    }
    // The kernel's flags here are 16 bits wide; IFF_UP and IFF_NOARP are among them.
    let [a, b, ..] = flags.to_le_bytes();
    r.ifr_ifru.ifru_flags = i16::from_le_bytes([a, b]);
    // SAFETY: the request is an ifreq, which SIOCSIFFLAGS reads.
    Errno::result(unsafe { libc::ioctl(s.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut r) }).map_err(|e| failed(name, e))?;
    Ok(())
}

/// Of the process that has this number now: becomes readable when it has ended, with all its threads.
pub(super) fn watch_end(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: pidfd_open(2) takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the call has succeeded: this is a new descriptor, close-on-exec, that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the descriptor is valid, belongs to what is made here, and stays open and the same until that is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_or_missing_name_is_an_error_that_names_it() {
        assert!(up("", true).is_err());
        assert!(up("much-too-long-a-name", true).unwrap_err().to_string().contains("much-too-long-a-name"));
        assert!(offloads_off("no-such-nic").unwrap_err().to_string().contains("no-such-nic"));
    }
}
