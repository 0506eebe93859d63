//! Starts DPDK's environment in a VM that has no hugepages, no PCI, and perhaps no /sys.
#![allow(unsafe_code)]

use crate::{HEADROOM, PhyError};
use edgeplex_ff_dpdk_sys as sys;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// Size of the packet rings and buffers, all derived from the largest frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DpdkConfig {
    /// Bytes behind the Ethernet header in the largest frame, labels included: 576 to 9216.
    pub mtu: usize,
    /// Frames in each receive and each transmit ring, a power of two, 64 to 4096.
    pub ring: usize,
    /// Packet buffers in the pool, 127 to 65535; one less than a power of two wastes nothing.
    pub buffers: usize,
}

impl Default for DpdkConfig {
    fn default() -> Self {
        Self::of(1900, 2)
    }
}

/// Bytes of all rings, where nobody asks for another size. They are locked into memory, of which a process without
/// privileges in the host may lock 8 MB as a rule.
const RINGS_BYTES: usize = 4 << 20;

/// What the kernel and the driver put in front of a frame in a ring slot (tpacket2_hdr, sockaddr_ll, alignment):
/// 66 bytes to the MAC header at present. Rounded up.
const SLOT_OVERHEAD: usize = 96;
/// Ethernet header and one VLAN tag.
pub(crate) const ETHERNET: usize = 18;
const PAGE: usize = 4096;

impl DpdkConfig {
    /// The usual number of buffers, and rings that take the usual number of bytes together.
    pub fn of(mtu: usize, ports: usize) -> Self {
        let me = Self { mtu, ring: 512, buffers: 511 };
        let fits = RINGS_BYTES / me.slot() / (2 * ports.max(1));
        let power = fits.checked_ilog2().map_or(1, |n| 1 << n);
        Self { ring: power.clamp(64, 512), ..me }
    }

    pub fn check(&self) -> Result<(), PhyError> {
        let bad = |field, got, right| Err(PhyError::Config { field, got, right });
        if !(576..=9216).contains(&self.mtu) {
            bad("mtu", self.mtu, "576 to 9216")
        } else if !(64..=4096).contains(&self.ring) || !self.ring.is_power_of_two() {
            bad("ring", self.ring, "a power of two from 64 to 4096")
        } else if !(127..=65535).contains(&self.buffers) {
            bad("buffers", self.buffers, "127 to 65535")
        } else {
            Ok(())
        }
    }

    /// Bytes of one slot of a ring.
    pub(crate) fn slot(&self) -> usize {
        (self.mtu + ETHERNET + SLOT_OVERHEAD).next_power_of_two()
    }

    fn block(&self) -> usize {
        self.slot().max(PAGE)
    }

    /// Megabytes for EAL's heap: the pool, and two for everything else. What is not touched costs no memory.
    fn heap_megabytes(&self) -> usize {
        // rte_mbuf and mempool header: 192 bytes.
        let pool = self.buffers * (self.slot() + HEADROOM + 256);
        (pool >> 20) + 3
    }
}

/// EAL exists once per process, for ever.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The pool from which all ports take their buffers. Lives as long as the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool(NonNull<sys::rte_mempool>);

impl Pool {
    pub(crate) fn as_ptr(self) -> *mut sys::rte_mempool {
        self.0.as_ptr()
    }
}

pub(crate) fn failure(what: &str, code: i32) -> PhyError {
    // SAFETY: rte_strerror returns a C string that lives until the next call on this thread.
    let reason = unsafe { CStr::from_ptr(sys::rte_strerror(code.saturating_abs())) };
    PhyError::Dpdk { what: what.to_owned(), reason: reason.to_string_lossy().into_owned() }
}

/// The CPUs this process may use, as EAL writes a set.
fn cpus() -> String {
    let may = sched_getaffinity(Pid::from_raw(0)).unwrap_or_else(|_| CpuSet::new());
    let list: Vec<String> = (0..CpuSet::count()).filter(|c| may.is_set(*c).unwrap_or(false)).map(|c| c.to_string()).collect();
    if list.is_empty() { "0".to_owned() } else { list.join(",") }
}

fn arguments(interfaces: &[&str], config: &DpdkConfig) -> Vec<String> {
    let mut args: Vec<String> =
        ["fastforward", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "--iova-mode=va", "--log-level=*:error"]
            .map(String::from)
            .to_vec();
    args.push(format!("-m{}", config.heap_megabytes()));
    // One logical core that may run on every CPU the process may use: EAL would otherwise pin thousands of
    // instances to the first CPU.
    args.push(format!("--lcores=0@({})", cpus()));
    // Names a directory that EAL makes and, without shared configuration, puts nothing into.
    args.push("--file-prefix=fastforward".to_owned());
    for (i, name) in interfaces.iter().enumerate() {
        let (ring, slot, block) = (config.ring, config.slot(), config.block());
        args.push(format!("--vdev=net_af_packet{i},iface={name},qdisc_bypass=1,framecnt={ring},framesz={slot},blocksz={block}"));
    }
    args
}

/// Starts EAL with one af_packet device per interface, whose names must have been checked, and makes the pool.
pub(crate) fn start(interfaces: &[&str], config: &DpdkConfig) -> Result<Pool, PhyError> {
    config.check()?;
    if STARTED.swap(true, Ordering::SeqCst) {
        return Err(PhyError::Twice);
    }
    let args: Vec<CString> = arguments(interfaces, config).into_iter().flat_map(CString::new).collect();
    let mut argv: Vec<*mut std::ffi::c_char> = args.iter().map(|a| a.as_ptr().cast_mut()).collect();
    let argc = i32::try_from(argv.len()).map_err(|_| failure("starting DPDK", libc::E2BIG))?;
    // SAFETY: argv holds argc C strings. EAL permutes the array and may keep the strings: they are leaked below.
    let r = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
    std::mem::forget(args);
    if r < 0 {
        // SAFETY: reads a thread-local integer.
        return Err(failure("starting DPDK", unsafe { sys::ff_errno() }));
    }
    let room = u16::try_from(HEADROOM + config.slot()).map_err(|_| failure("sizing packet buffers", libc::EINVAL))?;
    let count = u32::try_from(config.buffers).map_err(|_| failure("sizing the packet pool", libc::EINVAL))?;
    // One thread takes and gives, since an `Mbuf` cannot leave it: no atomics are needed, and no caches, of which DPDK
    // would make one for each of 128 possible cores, a megabyte in all.
    // SAFETY: EAL is up; the names are C strings.
    let pool = unsafe { sys::rte_pktmbuf_pool_create_by_ops(c"frames".as_ptr(), count, 0, 0, room, 0, c"ring_sp_sc".as_ptr()) };
    // SAFETY: reads a thread-local integer.
    NonNull::new(pool).map(Pool).ok_or_else(|| failure("making the packet pool", unsafe { sys::ff_errno() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mtu_gets_slots_that_hold_its_frames_and_a_heap_that_holds_the_pool() {
        for mtu in [576, 1500, 1900, 1934, 1935, 4000, 9216] {
            let c = DpdkConfig::of(mtu, 2);
            assert!(4 * c.ring * c.slot() <= RINGS_BYTES, "{mtu}");
            c.check().unwrap();
            assert!(c.slot() >= mtu + ETHERNET + SLOT_OVERHEAD, "{mtu}");
            assert_eq!(c.block() % c.slot(), 0, "{mtu}");
            assert_eq!(c.block() % PAGE, 0, "{mtu}");
            assert!(c.heap_megabytes() << 20 > c.buffers * (c.slot() + HEADROOM + 192), "{mtu}");
        }
        assert_eq!((DpdkConfig::default().slot(), DpdkConfig::default().ring), (2048, 512));
        assert_eq!((DpdkConfig::of(9216, 1).slot(), DpdkConfig::of(9216, 1).ring), (16384, 128));
        assert_eq!([3, 8, 64].map(|ports| DpdkConfig::of(1600, ports).ring), [256, 128, 64]);
    }

    #[test]
    fn sizes_out_of_range_are_refused_by_name() {
        let d = DpdkConfig::default();
        for (c, field) in
            [(DpdkConfig { mtu: 9217, ..d }, "mtu"), (DpdkConfig { ring: 500, ..d }, "ring"), (DpdkConfig { buffers: 100, ..d }, "buffers")]
        {
            assert!(c.check().unwrap_err().to_string().starts_with(field));
        }
    }
}
