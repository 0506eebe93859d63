//! Room in front of Open vSwitch. It takes frames from raw sockets with the kernel's default of 208 KiB, some 250 small datagrams: on a
//! machine whose processors have something else to do for 25 ms, or while it is busy with a new port, it loses what a switch of silicon
//! would not, and every figure about loss would be one about that. So each of its sockets gets what it takes to wait for a second.
//!
//! ```text
//!   this tool ── pidfd_getfd ──► ovs-vswitchd's AF_PACKET sockets ── SO_RCVBUFFORCE
//! ```

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, setsockopt, sockopt::RcvBufForce};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    thread,
    time::Duration,
};

/// How often it is looked for new ones: a port comes with its VM, which needs longer to start.
const PACE: Duration = Duration::from_millis(100);
/// Bytes, as the kernel counts them: about 800 for a small datagram.
const ROOM: usize = 16 << 20;

/// Until that process ends.
pub fn run(pid: i32) -> Result<()> {
    let process = pidfd_open(Pid::from_raw(pid).context("not a process")?, PidfdFlags::empty()).context("pidfd_open")?;
    let mut seen = BTreeSet::new();
    loop {
        let Some(now) = sockets(pid) else { return Ok(()) };
        for (fd, _) in now.difference(&seen) {
            // It may be closed by now.
            if let Ok(socket) = pidfd_getfd(&process, *fd, PidfdGetfdFlags::empty()) {
                widen(&socket)?;
            }
        }
        seen = now;
        thread::sleep(PACE);
    }
}

/// Descriptor and name (`socket:[inode]`) of each socket.
fn sockets(pid: i32) -> Option<BTreeSet<(i32, PathBuf)>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let socket = |entry: fs::DirEntry| {
        let what = fs::read_link(entry.path()).ok().filter(|to| to.to_string_lossy().starts_with("socket:"))?;
        Some((entry.file_name().to_str()?.parse().ok()?, what))
    };
    Some(entries.flatten().filter_map(socket).collect())
}

fn widen(socket: &OwnedFd) -> Result<()> {
    let of: SockaddrStorage = getsockname(socket.as_raw_fd()).context("getsockname")?;
    if of.family() == Some(AddressFamily::Packet) {
        setsockopt(socket, RcvBufForce, &ROOM).context("SO_RCVBUFFORCE")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn sockets_of_a_process_are_found() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = sockets(pid).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let now = sockets(pid).unwrap();
        assert!(now.difference(&before).any(|(fd, _)| *fd == socket.as_raw_fd()));
        widen(&socket.into()).unwrap();
        assert!(sockets(i32::MAX).is_none());
    }
}
