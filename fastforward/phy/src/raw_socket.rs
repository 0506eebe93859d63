//! A plain packet socket as a device: how tests and lab tools put frames on an interface and see what leaves it,
//! beside and independent of DPDK.
#![allow(unsafe_code)]

use crate::netdev::NetDev;
use crate::{PacketBuf, Phy, PhyError, VecBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longest frame received, bytes.
const MAX_FRAME: usize = 9234;

#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
    dropped: u64,
}

impl RawSocket {
    /// Opens a socket that sees every frame that comes in on the interface, which should be up.
    pub fn open(interface: &str) -> Result<Self, PhyError> {
        let failed = |e: std::io::Error| PhyError::os("opening a packet socket on", interface, e);
        let device = NetDev::new(interface)?;
        let index = device.index().ok_or_else(|| PhyError::NoInterface(interface.to_owned()))?;
        device.add_flags(libc::IFF_PROMISC)?;
        // Without a protocol it receives nothing until it is bound.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(|e| failed(e.into()))?;
        // SAFETY: sockaddr_ll is plain integers; zeros are a value of it.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        addr.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        addr.sll_ifindex = index.cast_signed();
        let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
        let ignore: libc::c_int = 1;
        let int_len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
        // SAFETY: both pointers are to values of the given lengths that outlive the calls.
        let ok = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, (&raw const ignore).cast(), int_len) == 0
                && libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), len) == 0
        };
        if ok { Ok(Self { socket, dropped: 0 }) } else { Err(failed(std::io::Error::last_os_error())) }
    }

    /// Waits until a frame is there, at most `ms` milliseconds; false if none came.
    pub fn wait(&self, ms: u16) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(ms)).is_ok_and(|n| n > 0)
    }
}

impl Phy for RawSocket {
    type Buf = VecBuf;

    fn receive(&mut self, out: &mut Vec<VecBuf>, max: usize) -> usize {
        let mut n = 0;
        while n < max {
            let mut b = VecBuf::with_room(MAX_FRAME);
            b.set_len(MAX_FRAME);
            let Ok(len) = recv(self.socket.as_raw_fd(), b.data_mut(), MsgFlags::empty()) else { break };
            b.set_len(len);
            out.push(b);
            n += 1;
        }
        n
    }

    fn transmit(&mut self, bufs: &mut Vec<VecBuf>) {
        for b in bufs.drain(..) {
            if send(self.socket.as_raw_fd(), b.data(), MsgFlags::empty()).is_err() {
                self.dropped += 1;
            }
        }
    }

    fn alloc(&mut self) -> Option<VecBuf> {
        Some(VecBuf::with_room(MAX_FRAME))
    }

    fn max_frame(&self) -> usize {
        MAX_FRAME
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
