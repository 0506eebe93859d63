//! Ethernet II frames (IEEE 802.3 clause 3) with at most one 802.1Q tag made visible.

use crate::{Fault, Malformed, array, be16};
use edgeplex_types::MacAddr;

pub const HEADER_LEN: usize = 14;
pub const TAG_LEN: usize = 4;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const VLAN: u16 = 0x8100;
pub const MPLS: u16 = 0x8847;
pub const IPV6: u16 = 0x86dd;

/// A frame without FCS.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a>(&'a [u8]);

impl<'a> Frame<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER_LEN {
            return Err(Malformed::new("Ethernet", bytes.len(), Fault::Truncated));
        }
        let frame = Self(bytes);
        if frame.outer_type() == VLAN && bytes.len() < HEADER_LEN + TAG_LEN {
            return Err(Malformed::new("802.1Q", bytes.len(), Fault::Truncated));
        }
        Ok(frame)
    }
    #[inline]
    pub fn destination(&self) -> MacAddr {
        MacAddr(array(self.0, 0))
    }
    #[inline]
    pub fn source(&self) -> MacAddr {
        MacAddr(array(self.0, 6))
    }
    #[inline]
    fn outer_type(&self) -> u16 {
        be16(self.0, 12)
    }
    /// The tag control information (PCP, DEI, VLAN id) if the frame is tagged.
    #[inline]
    pub fn tag(&self) -> Option<u16> {
        (self.outer_type() == VLAN).then(|| be16(self.0, 14))
    }
    #[inline]
    pub fn header_len(&self) -> usize {
        if self.outer_type() == VLAN { HEADER_LEN + TAG_LEN } else { HEADER_LEN }
    }
    /// The EtherType, behind the tag if there is one.
    #[inline]
    pub fn ether_type(&self) -> u16 {
        be16(self.0, self.header_len() - 2)
    }
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[self.header_len()..]
    }
}

/// An untagged header, ready to stand in front of a payload.
#[inline]
pub fn header(destination: MacAddr, source: MacAddr, ether_type: u16) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..6].copy_from_slice(&destination.0);
    out[6..12].copy_from_slice(&source.0);
    out[12..].copy_from_slice(&ether_type.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_visible_and_skipped() {
        let mut bytes = header(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), VLAN).to_vec();
        bytes.extend([0x20, 100, 0x08, 0x06, 9]);
        let f = Frame::new(&bytes).unwrap();
        assert_eq!((f.tag(), f.ether_type(), f.payload()), (Some(0x2064), ARP, &[9u8][..]));
        for n in 0..18 {
            assert!(Frame::new(&bytes[..n]).is_err(), "{n}");
        }
        let plain = header(MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 2]), IPV4);
        let f = Frame::new(&plain).unwrap();
        assert_eq!((f.destination(), f.tag(), f.ether_type(), f.payload().len()), (MacAddr::BROADCAST, None, IPV4, 0));
    }
}
