//! The order of descriptors, which is the order in which the kernel takes them from a process that dies.
#![allow(unsafe_code)]

use nix::fcntl::{FcntlArg, fcntl};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Moves a descriptor to the first free number from `lowest` on; leaves it where it is if there is none.
///
/// When a process dies, the kernel lets go of its files from the highest number down (`close_files` queues them in order, and
/// `task_work_run` takes the last first; Linux 4.3 and later). A packet socket with its ring waits several times until all
/// processors have passed a quiet point, tens of milliseconds each. What is to end at once must stand above it.
pub fn moved_up(fd: OwnedFd, lowest: RawFd) -> OwnedFd {
    match fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(lowest)) {
        // SAFETY: the call has just made this descriptor, and nobody else knows of it.
        Ok(up) => unsafe { OwnedFd::from_raw_fd(up) },
        // The limit of open files is lower.
        Err(_) => fd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_descriptor_moves_up_and_is_the_same_file() {
        let (mut far, near) = std::os::unix::net::UnixStream::pair().unwrap();
        let old = near.as_raw_fd();
        let mut near = std::os::unix::net::UnixStream::from(moved_up(near.into(), 400));
        assert!(near.as_raw_fd() >= 400 && old < 400);
        near.write_all(b"x").unwrap();
        drop(near);
        let mut all = vec![];
        std::io::Read::read_to_end(&mut far, &mut all).unwrap();
        assert_eq!(all, b"x", "there is no other that keeps it open");
        let stays = moved_up(far.into(), RawFd::MAX);
        assert!(stays.as_raw_fd() < 400);
    }
}
