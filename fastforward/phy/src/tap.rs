//! The TAP by which the VM's own kernel sees and sends frames. It is persistent: it keeps its address, routes and
//! neighbours while FastForward restarts, and FastForward finds it again.
#![allow(unsafe_code)]

use crate::netdev::{NetDev, low16, request};
use crate::{PacketBuf, PhyError};
use edgeplex_types::MacAddr;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

#[derive(Debug)]
pub struct Tap {
    file: OwnedFd,
    device: NetDev,
    dropped: u64,
}

impl Tap {
    /// Opens the TAP `name`, which is created if it is not there. Fails if another process holds it.
    pub fn open(name: &str) -> Result<Self, PhyError> {
        Self::with(name, 0)
    }

    /// Opens a TAP that stands for the interface `nic` in the kernel's eyes: it gets that one's MAC address and MTU. It is
    /// of the kind with several queues, so that somebody else may keep one, switched off: then it has a carrier while we are
    /// not there.
    pub fn in_place_of(nic: &str, name: &str) -> Result<Self, PhyError> {
        let tap = Self::with(name, libc::IFF_MULTI_QUEUE)?;
        let nic = NetDev::new(nic)?;
        tap.device.silence_ipv6();
        tap.set_mac(nic.mac()?)?;
        if tap.device.mtu()? != nic.mtu()? {
            tap.device.set_mtu(nic.mtu()?)?;
        }
        Ok(tap)
    }

    fn with(name: &str, kind: i32) -> Result<Self, PhyError> {
        let device = NetDev::new(name)?;
        let file = open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| PhyError::os("opening /dev/net/tun for", name, e.into()))?;
        let mut r = request(name)?;
        r.ifr_ifru.ifru_flags = low16(libc::IFF_TAP | libc::IFF_NO_PI | kind);
        // SAFETY: TUNSETIFF reads and writes one ifreq.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut r) } != 0 {
            return Err(PhyError::os("attaching to the TAP", name, std::io::Error::last_os_error()));
        }
        let persist: libc::c_ulong = 1;
        // SAFETY: TUNSETPERSIST takes a number, no pointer.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, persist) } != 0 {
            return Err(PhyError::os("keeping the TAP", name, std::io::Error::last_os_error()));
        }
        Ok(Self { file, device, dropped: 0 })
    }

    pub fn mac(&self) -> Result<MacAddr, PhyError> {
        self.device.mac()
    }

    /// Gives the TAP this address, if it has another.
    pub fn set_mac(&self, mac: MacAddr) -> Result<(), PhyError> {
        if self.device.mac()? == mac { Ok(()) } else { self.device.set_mac(mac) }
    }

    /// Whether the kernel sees a carrier on it.
    pub fn set_carrier(&self, on: bool) -> Result<(), PhyError> {
        let on = libc::c_int::from(on);
        // SAFETY: TUNSETCARRIER reads one int, which outlives the call.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETCARRIER, &raw const on) } {
            0 => Ok(()),
            _ => Err(PhyError::os("setting the carrier of", self.device.name(), std::io::Error::last_os_error())),
        }
    }

    /// Reads one frame into `buf`, using whatever room it has up to `room` bytes; `false` if none is waiting.
    /// A frame longer than the room is cut by the kernel: the caller gives room for the largest MTU.
    pub fn read(&mut self, buf: &mut impl PacketBuf, room: usize) -> bool {
        if !buf.set_len(room) {
            return false;
        }
        loop {
            match nix::unistd::read(&self.file, buf.data_mut()) {
                Ok(n) if n > 0 => return buf.set_len(n),
                Err(Errno::EINTR) => {}
                // EAGAIN: nothing there. EIO and the like: the TAP is down; the kernel wakes us when it is not.
                _ => return false,
            }
        }
    }

    /// Hands one frame to the kernel. What it does not take (the TAP is down, its queue full) is a counted drop.
    pub fn write(&mut self, frame: &[u8]) {
        loop {
            match nix::unistd::write(&self.file, frame) {
                Err(Errno::EINTR) => {}
                Ok(n) if n == frame.len() => return,
                _ => {
                    self.dropped += 1;
                    return;
                }
            }
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
