//! MPLS label stack entries (RFC 3032 §2.1; traffic class after RFC 5462).

use crate::{Fault, Malformed};
use edgeplex_types::Label;

pub const LEN: usize = 4;

/// RFC 3032 §2.1: the packet below is IPv4, or it is the control plane's to look at, or IPv6.
pub const IPV4_EXPLICIT_NULL: u32 = 0;
pub const ROUTER_ALERT: u32 = 1;
pub const IPV6_EXPLICIT_NULL: u32 = 2;
/// RFC 6790 §3: the next entry is an entropy label.
pub const ENTROPY_INDICATOR: u32 = 7;
/// RFC 7274 §3.1: the next entry holds a special-purpose label of the extended range.
pub const EXTENSION: u32 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub label: Label,
    /// Traffic class, 3 bits.
    pub tc: u8,
    /// S: the last entry before the payload.
    pub bottom: bool,
    pub ttl: u8,
}

impl Entry {
    /// Reads the entry at the start of `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let Some((&[a, b, c, ttl], _)) = bytes.split_first_chunk::<LEN>() else {
            return Err(Malformed::new("MPLS", bytes.len(), Fault::Truncated));
        };
        let label = u32::from(a) << 12 | u32::from(b) << 4 | u32::from(c >> 4);
        // 20 bits always make a label.
        let label = Label::try_from(label).unwrap_or(Label::MAX);
        Ok(Self { label, tc: c >> 1 & 7, bottom: c & 1 == 1, ttl })
    }

    #[inline]
    pub fn to_bytes(self) -> [u8; LEN] {
        let word = self.label.get() << 12 | u32::from(self.tc & 7) << 9 | u32::from(self.bottom) << 8 | u32::from(self.ttl);
        word.to_be_bytes()
    }
}

/// Entries of the stack at the start of `bytes`, the bottom one among them; `None` if it is cut or deeper than `max`.
#[inline]
pub fn depth(bytes: &[u8], max: usize) -> Option<usize> {
    let bottom = |e: &[u8; LEN]| e[2] & 1 == 1;
    bytes.as_chunks::<LEN>().0.iter().take(max).position(bottom).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vector() {
        let e = Entry { label: Label::try_from(1001).unwrap(), tc: 5, bottom: true, ttl: 63 };
        assert_eq!(e.to_bytes(), [0x00, 0x3e, 0x9b, 63]);
        assert_eq!(Entry::parse(&[0x00, 0x3e, 0x9b, 63, 7]), Ok(e));
        for n in 0..LEN {
            assert_eq!(Entry::parse(&[0; LEN][..n]), Err(Malformed::new("MPLS", n, Fault::Truncated)));
        }
    }

    #[test]
    fn the_depth_ends_at_the_first_bottom() {
        let bytes = [0, 0, 0x10, 9, 0, 0, 0x11, 9, 0, 0, 0x11, 9, 7];
        assert_eq!((depth(&bytes, 16), depth(&bytes, 2), depth(&bytes, 1)), (Some(2), Some(2), None));
        assert_eq!((depth(&bytes[..7], 16), depth(&[], 16)), (None, None));
    }

    proptest! {
        #[test]
        fn every_word_round_trips(word: [u8; 4]) {
            prop_assert_eq!(Entry::parse(&word).unwrap().to_bytes(), word);
        }
    }
}
