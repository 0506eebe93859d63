//! DPDK ports on kernel interfaces, by the af_packet driver.
//!
//! A polling driver knows no interrupts, and thousands of idle instances must not eat a core each. But the driver's
//! own socket can be waited for: the kernel calls it readable exactly while its receive ring holds a frame that was
//! not taken, whichever side looked first. So there is no moment in which a wake-up could be lost, and nothing to
//! switch on or off. The driver does not show its socket; we find it among our file descriptors.
#![allow(unsafe_code)]

use crate::eal::{self, ETHERNET, Pool};
use crate::netdev::{NetDev, OURS};
use crate::{DpdkConfig, Mbuf, PacketBuf, Phy, PhyError};
use edgeplex_ff_dpdk_sys as sys;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// Frames moved per call of the driver.
const BURST: usize = 32;

/// One DPDK port. It stays open until the process ends: af_packet cannot be stopped and started again.
#[derive(Debug)]
pub struct DpdkPort {
    port: u16,
    pool: Pool,
    device: NetDev,
    /// Index of the interface that the driver is bound to.
    index: u32,
    /// The driver's socket.
    doorbell: BorrowedFd<'static>,
    max_frame: usize,
    /// As of the last look: an interface that is down takes nothing.
    up: bool,
    dropped: u64,
    burst: Vec<*mut sys::rte_mbuf>,
}

/// Starts DPDK in this process and opens a port on each of the interfaces, which are brought up for it. Once only.
pub fn open_ports(interfaces: &[&str], config: &DpdkConfig) -> Result<Vec<DpdkPort>, PhyError> {
    let mut devices = Vec::with_capacity(interfaces.len());
    for name in interfaces {
        let device = NetDev::new(name)?;
        let index = device.index().ok_or_else(|| PhyError::NoInterface((*name).to_owned()))?;
        device.silence_ipv6();
        device.add_flags(OURS)?;
        devices.push((device, index));
    }
    let pool = eal::start(interfaces, config)?;
    let open = |(i, (device, index))| DpdkPort::open(&format!("net_af_packet{i}"), device, index, pool, config);
    devices.into_iter().enumerate().map(open).collect()
}

impl DpdkPort {
    fn open(vdev: &str, device: NetDev, index: u32, pool: Pool, config: &DpdkConfig) -> Result<Self, PhyError> {
        let done = |what: &str, r: i32| if r == 0 { Ok(()) } else { Err(eal::failure(&format!("{what} {}", device.name()), r)) };
        let vdev = CString::new(vdev).map_err(|_| PhyError::Name(vdev.to_owned()))?;
        let mut port = 0;
        // SAFETY: EAL is up; both pointers are valid for the call.
        done("finding the port on", unsafe { sys::rte_eth_dev_get_port_by_name(vdev.as_ptr(), &raw mut port) })?;
        let conf = sys::rte_eth_conf::default();
        // The driver takes the number of descriptors from the device arguments and ignores it here.
        // SAFETY: `port` exists and is not started; the configuration is copied; null means defaults.
        unsafe {
            done("configuring the port on", sys::rte_eth_dev_configure(port, 1, 1, &raw const conf))?;
            done("preparing to receive on", sys::rte_eth_rx_queue_setup(port, 0, 64, 0, std::ptr::null(), pool.as_ptr()))?;
            done("preparing to send on", sys::rte_eth_tx_queue_setup(port, 0, 64, 0, std::ptr::null()))?;
            done("starting the port on", sys::rte_eth_dev_start(port))?;
        }
        let doorbell = packet_socket_of(index).ok_or_else(|| PhyError::NoInterface(device.name().to_owned()))?;
        // What the VM's kernel sends on this interface was not received from it.
        set_packet_option(doorbell, libc::PACKET_IGNORE_OUTGOING, 1)
            .map_err(|e| PhyError::os("ignoring outgoing frames on", device.name(), e))?;
        let max_frame = config.mtu + ETHERNET;
        let mut me = Self { port, pool, device, index, doorbell, max_frame, up: true, dropped: 0, burst: Vec::with_capacity(BURST) };
        // Until the driver had bound its socket, frames of any interface may have come in.
        let mut stray = vec![];
        for _ in 0..=config.ring / BURST {
            me.receive(&mut stray, BURST);
            stray.clear();
        }
        Ok(me)
    }

    /// Looks whether the interface is still the one that was opened, and whether it is up. To be called when waiting
    /// reports an error on the port, and now and then. An error is final: the port is dead.
    pub fn inspect(&mut self) -> Result<(), PhyError> {
        if self.device.index() != Some(self.index) {
            return Err(PhyError::Gone(self.device.name().to_owned()));
        }
        // Going down leaves an error on the socket, which would keep waking us.
        let _ = nix::sys::socket::getsockopt(&self.doorbell, nix::sys::socket::sockopt::SocketError);
        self.up = self.device.flags()? & libc::IFF_UP != 0;
        Ok(())
    }

    pub fn is_up(&self) -> bool {
        self.up
    }

    pub fn name(&self) -> &str {
        self.device.name()
    }
}

impl Phy for DpdkPort {
    type Buf = Mbuf;

    fn receive(&mut self, out: &mut Vec<Mbuf>, max: usize) -> usize {
        let want = max.min(BURST);
        self.burst.clear();
        // BURST fits.
        let n = u16::try_from(want).unwrap_or(0);
        // SAFETY: the port is started, and `burst` has room for BURST pointers, of which the driver writes at most n.
        let got = unsafe {
            let got = sys::ff_rx_burst(self.port, 0, self.burst.as_mut_ptr(), n);
            self.burst.set_len(usize::from(got));
            got
        };
        // SAFETY: the driver gives each mbuf away.
        out.extend(self.burst.drain(..).filter_map(|m| unsafe { Mbuf::from_raw(m) }));
        usize::from(got)
    }

    fn transmit(&mut self, bufs: &mut Vec<Mbuf>) {
        let before = bufs.len();
        // A frame that does not fit would be dropped by the driver without a word; and what is put into the ring of an
        // interface that is down would leave it, stale, when it is up again.
        let (up, max) = (self.up, self.max_frame);
        bufs.retain(|b| up && b.len() <= max);
        self.dropped += (before - bufs.len()) as u64;
        while !bufs.is_empty() {
            let chunk = bufs.len().min(BURST);
            self.burst.clear();
            self.burst.extend(bufs.drain(..chunk).map(Mbuf::into_raw));
            let n = u16::try_from(chunk).unwrap_or(0);
            // SAFETY: the port is started; `burst` holds n mbufs that are ours to give away. The driver frees those it takes.
            let sent = unsafe { sys::ff_tx_burst(self.port, 0, self.burst.as_mut_ptr(), n) };
            for m in self.burst.drain(..).skip(usize::from(sent)) {
                self.dropped += 1;
                // SAFETY: the driver did not take this one, so it is ours still.
                drop(unsafe { Mbuf::from_raw(m) });
            }
        }
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as the process; the fresh mbuf is ours alone.
        unsafe { Mbuf::from_raw(sys::ff_pktmbuf_alloc(self.pool.as_ptr())) }
    }

    fn max_frame(&self) -> usize {
        self.max_frame
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl AsFd for DpdkPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.doorbell
    }
}

/// Finds the packet socket of this process that is bound to the interface.
fn packet_socket_of(index: u32) -> Option<BorrowedFd<'static>> {
    (3..1024).find_map(|fd: RawFd| {
        // SAFETY: the number may name no descriptor; the calls below then fail with EBADF. If it is the one sought,
        // the driver keeps it open as long as the process lives, since ports are never stopped.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        (bound_to(socket)? == index).then_some(socket)
    })
}

/// The interface index that a packet socket is bound to; `None` for any other descriptor.
fn bound_to(socket: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: sockaddr_ll is plain integers; zeros are a value of it.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).ok()?;
    // SAFETY: the kernel writes at most `len` bytes to `addr`, even if the address is of another family.
    let r = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut addr).cast(), &raw mut len) };
    (r == 0 && i32::from(addr.sll_family) == libc::AF_PACKET).then(|| addr.sll_ifindex.cast_unsigned())
}

fn set_packet_option(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> Result<(), std::io::Error> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the option's value is one int, which outlives the call.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const value).cast(), len) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
