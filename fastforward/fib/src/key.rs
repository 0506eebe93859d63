//! What a lookup is keyed by: 32 or 128 bits, most significant first.

use std::fmt::Debug;
use std::ops::BitAnd;

pub trait Key: Copy + Ord + Default + Debug + BitAnd<Output = Self> {
    /// Length, at most 128.
    const BITS: u8;
    /// The first `len` bits set, the others not.
    fn mask(len: u8) -> Self;
    /// How many bits two keys share, from the first on.
    fn shared(self, other: Self) -> u8;
    /// The eight bits behind the first `depth`, which is a multiple of 8 below [`Key::BITS`].
    fn octet(self, depth: u8) -> u8;
    /// 64 bits that depend on all of the key and, in a way one cannot tell without it, on the seed.
    fn fold(self, seed: u64) -> u64;
}

impl Key for u32 {
    const BITS: u8 = 32;
    fn mask(len: u8) -> Self {
        Self::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
    }
    fn shared(self, other: Self) -> u8 {
        // At most 32.
        u8::try_from((self ^ other).leading_zeros()).unwrap_or(0)
    }
    #[inline]
    fn octet(self, depth: u8) -> u8 {
        self.wrapping_shl(u32::from(depth)).to_be_bytes()[0]
    }
    #[inline]
    fn fold(self, seed: u64) -> u64 {
        (u64::from(self) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Key for u128 {
    const BITS: u8 = 128;
    fn mask(len: u8) -> Self {
        Self::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
    }
    fn shared(self, other: Self) -> u8 {
        // At most 128.
        u8::try_from((self ^ other).leading_zeros()).unwrap_or(0)
    }
    #[inline]
    fn octet(self, depth: u8) -> u8 {
        self.wrapping_shl(u32::from(depth)).to_be_bytes()[0]
    }
    fn fold(self, seed: u64) -> u64 {
        let [high, low] = [self >> 64, self & u128::from(u64::MAX)].map(|h| u64::try_from(h).unwrap_or(0));
        let h = (low ^ seed).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (h ^ h >> 32 ^ high).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_are_counted_from_the_first(a: u128, b: u128, len in 0u8..=128) {
            let (a4, b4) = ((a >> 96) as u32, (b >> 96) as u32);
            let model = |n: u8| (0..n).take_while(|i| a >> (127 - i) & 1 == b >> (127 - i) & 1).count();
            prop_assert_eq!(usize::from(a.shared(b)), model(128));
            prop_assert_eq!(usize::from(a4.shared(b4)), model(32));
            prop_assert_eq!(u128::mask(len).leading_ones() + u128::mask(len).trailing_zeros(), 128);
            prop_assert_eq!(u128::mask(len).count_ones(), u32::from(len));
            for depth in (0..128).step_by(8) {
                prop_assert_eq!(a.octet(depth), a.to_be_bytes()[usize::from(depth / 8)]);
                if depth < 32 {
                    prop_assert_eq!(a4.octet(depth), a.octet(depth));
                }
            }
        }
    }
}
