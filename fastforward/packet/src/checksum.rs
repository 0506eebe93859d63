//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// One's complement sum of `bytes`, folded to 16 bits; an odd last byte is padded with zero.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut s: u64 = pairs.iter().map(|p| u64::from(u16::from_be_bytes(*p))).sum();
    if let [last] = rest {
        s += u64::from(*last) << 8;
    }
    fold(s)
}

/// The checksum to write over `bytes` whose checksum field is zero. Over bytes with a right checksum it is 0.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The checksum after one 16-bit word changed from `old` to `new`.
/// RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m').
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[inline]
fn fold(mut s: u64) -> u16 {
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    // The loop ends at 16 bits.
    u16::try_from(s).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    /// RFC 1624 §4: with HC = DD2F, m = 5555, m' = 3285 the result is 0000, where RFC 1141 gave FFFF.
    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut words in proptest::collection::vec(any::<u16>(), 2..20), i: usize, new: u16) {
            words[0] |= 1; // a header is never all zero
            let bytes = |w: &[u16]| w.iter().flat_map(|x| x.to_be_bytes()).collect::<Vec<u8>>();
            let before = checksum(&bytes(&words));
            let i = 1 + i % (words.len() - 1);
            let old = std::mem::replace(&mut words[i], new);
            prop_assert_eq!(update(before, old, new), checksum(&bytes(&words)));
        }
    }
}
