//! Packet devices behind one seam: memory queues and pcap files for tests, the TAP to the VM's own kernel, and
//! DPDK ports for the wire. A device hands out and takes packet buffers; who forwards between devices knows nothing else.
//!
//! ```text
//!   DPDK port cust ─┐                    ┌─ DPDK port core
//!                   ├─ Forwarder (pure) ─┤
//!   TAP pe0 ────────┘                    └─ (memory and pcap devices in tests)
//! ```
//! All devices of one process share one buffer type, so a frame moves between them without a copy; the TAP, which
//! the kernel reads and writes, is generic over it.

mod buf;
mod descriptors;
mod dpdk;
mod eal;
mod error;
mod mbuf;
mod memory;
mod netdev;
mod pcap;
mod raw_socket;
mod tap;

pub use buf::{HEADROOM, PacketBuf, VecBuf};
pub use descriptors::moved_up;
pub use dpdk::{DpdkPort, open_ports};
pub use eal::DpdkConfig;
pub use error::PhyError;
pub use mbuf::Mbuf;
pub use memory::MemoryPhy;
pub use pcap::{PcapPhy, PcapReader, PcapWriter};
pub use raw_socket::RawSocket;
pub use tap::Tap;

/// A device that receives and sends whole Ethernet frames, without FCS. Nothing here blocks.
pub trait Phy {
    type Buf: PacketBuf;

    /// Appends at most `max` received frames to `out`; returns how many.
    fn receive(&mut self, out: &mut Vec<Self::Buf>, max: usize) -> usize;

    /// Sends all of `bufs` in order and leaves it empty. What the device cannot take is dropped and counted:
    /// a router's output never waits.
    fn transmit(&mut self, bufs: &mut Vec<Self::Buf>);

    /// An empty buffer with [`HEADROOM`] in front, or `None` when the pool is exhausted.
    fn alloc(&mut self) -> Option<Self::Buf>;

    /// The largest frame the device carries, bytes, Ethernet header included.
    fn max_frame(&self) -> usize;

    /// Frames that [`Phy::transmit`] had to drop since the device was opened.
    fn dropped(&self) -> u64;
}
