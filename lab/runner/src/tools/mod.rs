//! Small programs that the scenarios run inside the nodes. Each prints one JSON object as its result.

pub mod badbgp;
pub mod buffers;
pub mod flow;
pub mod ovs_lsr;
pub mod rawbgp;
pub mod rogue;
pub mod serve;
pub mod tcp;
pub mod udp;

/// Port of the UDP echo and of the TCP sink, on every LAN host.
pub const PORT: u16 = 7007;
