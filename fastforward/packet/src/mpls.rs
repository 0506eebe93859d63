//! MPLS label stack entries (RFC 3032 §2.1; traffic class after RFC 5462).

use crate::{Fault, Malformed};
use edgeplex_types::Label;

pub const LEN: usize = 4;

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
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let Some((&[a, b, c, ttl], _)) = bytes.split_first_chunk::<LEN>() else {
            return Err(Malformed::new("MPLS", bytes.len(), Fault::Truncated));
        };
        let label = u32::from(a) << 12 | u32::from(b) << 4 | u32::from(c >> 4);
        // 20 bits always make a label.
        let label = Label::try_from(label).unwrap_or(Label::MAX);
        Ok(Self { label, tc: c >> 1 & 7, bottom: c & 1 == 1, ttl })
    }

    pub fn to_bytes(self) -> [u8; LEN] {
        let word = self.label.get() << 12 | u32::from(self.tc & 7) << 9 | u32::from(self.bottom) << 8 | u32::from(self.ttl);
        word.to_be_bytes()
    }
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

    proptest! {
        #[test]
        fn every_word_round_trips(word: [u8; 4]) {
            prop_assert_eq!(Entry::parse(&word).unwrap().to_bytes(), word);
        }
    }
}
