//! ARP for IPv4 over Ethernet (RFC 826).

use crate::{Fault, Malformed, array, be16};
use edgeplex_types::MacAddr;
use std::net::Ipv4Addr;

pub const LEN: usize = 28;
pub const REQUEST: u16 = 1;
pub const REPLY: u16 = 2;

/// An ARP packet with every field that varies. Operations other than 1 and 2 are kept as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub operation: u16,
    pub sender_mac: MacAddr,
    pub sender: Ipv4Addr,
    pub target_mac: MacAddr,
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads the packet at the start of `bytes`; Ethernet padding may follow it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() < LEN {
            return Err(Malformed::new("ARP", bytes.len(), Fault::Truncated));
        }
        // RFC 826: hardware type 1 (Ethernet), protocol type 0x0800, address lengths 6 and 4.
        const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];
        if let Some(offset) = (0..6).find(|&i| bytes[i] != FIXED[i]) {
            return Err(Malformed::new("ARP", offset, Fault::Version));
        }
        Ok(Self {
            operation: be16(bytes, 6),
            sender_mac: MacAddr(array(bytes, 8)),
            sender: array::<4>(bytes, 14).into(),
            target_mac: MacAddr(array(bytes, 18)),
            target: array::<4>(bytes, 24).into(),
        })
    }

    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        out[6..8].copy_from_slice(&self.operation.to_be_bytes());
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..].copy_from_slice(&self.target.octets());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VECTOR: [u8; LEN] = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 192, 168, 1, 2, 0, 0, 0, 0, 0, 0, 192, 168, 1, 1];

    #[test]
    fn a_request_reads_as_written() {
        let arp = Arp::parse(&VECTOR).unwrap();
        assert_eq!((arp.operation, arp.sender), (REQUEST, Ipv4Addr::new(192, 168, 1, 2)));
        assert_eq!((arp.target, arp.target_mac), (Ipv4Addr::new(192, 168, 1, 1), MacAddr([0; 6])));
        assert_eq!(arp.to_bytes(), VECTOR);
    }

    #[test]
    fn short_or_foreign_packets_are_refused_with_their_offset() {
        for n in 0..LEN {
            assert_eq!(Arp::parse(&VECTOR[..n]), Err(Malformed::new("ARP", n, Fault::Truncated)));
        }
        for at in 0..6 {
            let mut v = VECTOR;
            v[at] ^= 0x40;
            assert_eq!(Arp::parse(&v), Err(Malformed::new("ARP", at, Fault::Version)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            if let Ok(arp) = Arp::parse(&bytes) {
                prop_assert_eq!(&arp.to_bytes()[..], &bytes[..LEN]);
            }
        }
    }
}
