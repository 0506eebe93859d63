//! Length-checked views of the headers FastForward meets: Ethernet II with 802.1Q, ARP, MPLS label stack entries,
//! IPv4 and IPv6, ICMP for both, neighbour discovery.
//!
//! A view wraps borrowed bytes; its checked constructor is the only place that looks at lengths, so an accessor
//! can never reach outside. Nothing here allocates, and every constructor takes any bytes without a panic.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod extension;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod mpls;
pub mod nd;

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Fewer bytes than the header, or than its length field promises.
    Truncated,
    /// A version or a hardware/protocol type that is not the expected one.
    Version,
    /// A header length below the minimum, or beyond the whole.
    HeaderLength,
    /// A total length below the header length.
    TotalLength,
    Checksum,
    /// A field with a value that its RFC forbids.
    Value,
}

/// A header that does not parse: which, at which byte from its start, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{header} header, byte {offset}: {fault:?}")]
pub struct Malformed {
    pub header: &'static str,
    pub offset: usize,
    pub fault: Fault,
}

impl Malformed {
    pub(crate) fn new(header: &'static str, offset: usize, fault: Fault) -> Self {
        Self { header, offset, fault }
    }
}

#[inline]
pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

#[inline]
pub(crate) fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&b[at..at + N]);
    out
}
