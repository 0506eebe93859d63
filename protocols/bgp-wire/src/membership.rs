//! Route-target membership (RFC 4684 §4): what a peer wants to hear of, as a prefix over origin AS and route target.

use edgeplex_types::RouteTarget;
use std::fmt;

/// The first bits of an origin AS and a route target. All routes whose target starts so are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RtMembership {
    /// 0 (everything) or 32 to 96 bits; what is beyond is zero.
    bits: u8,
    value: [u8; 12],
}

const AS_BITS: u8 = 32;
const ALL_BITS: u8 = 96;

impl RtMembership {
    /// Every route target (RFC 4684 §4).
    pub const DEFAULT: Self = Self { bits: 0, value: [0; 12] };

    /// Exactly this target, wanted by `origin_as`.
    pub fn new(origin_as: u32, target: RouteTarget) -> Self {
        let mut value = [0; 12];
        value[..4].copy_from_slice(&origin_as.to_be_bytes());
        value[4..].copy_from_slice(&target.0);
        Self { bits: ALL_BITS, value }
    }

    /// Reads the bytes behind the length. `None`: longer than 96 bits, or an origin AS that is cut (RFC 4684 §4).
    pub(crate) fn read(bits: u8, bytes: &[u8]) -> Option<Self> {
        if bits != 0 && !(AS_BITS..=ALL_BITS).contains(&bits) {
            return None;
        }
        let mut value = [0; 12];
        value.get_mut(..bytes.len())?.copy_from_slice(bytes);
        // Bits behind the prefix mean nothing; cleared, equal memberships are equal.
        let keep = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0).to_be_bytes();
        value.iter_mut().zip(keep).for_each(|(byte, keep)| *byte &= keep);
        Some(Self { bits, value })
    }

    /// Appends length and prefix.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.bits);
        out.extend_from_slice(self.value.get(..usize::from(self.bits).div_ceil(8)).unwrap_or(&self.value));
    }

    /// Length in bits.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The AS that wants it; none for the default.
    pub fn origin_as(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.value;
        (self.bits != 0).then(|| u32::from_be_bytes([a, b, c, d]))
    }

    /// The one target it names, if it is not cut.
    pub fn target(&self) -> Option<RouteTarget> {
        let [_, _, _, _, target @ ..] = self.value;
        (self.bits == ALL_BITS).then_some(RouteTarget(target))
    }

    /// Whether a route with this extended community is wanted. The origin AS says only who asked.
    pub fn wants(&self, target: RouteTarget) -> bool {
        let bits = u32::from(self.bits.saturating_sub(AS_BITS));
        let [_, _, _, _, a, b, c, d, e, f, g, h] = self.value;
        let differ = u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_be_bytes(target.0);
        differ.checked_shr(64 - bits).unwrap_or(0) == 0
    }
}

/// `65000:65000:100`, `65000:*` for every target of an AS, `*` for the default, or with its length if it is cut within the target.
impl fmt::Display for RtMembership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(origin) = self.origin_as() else { return f.write_str("*") };
        let [_, _, _, _, rest @ ..] = self.value;
        match (self.bits, RouteTarget::from_extended_community(rest)) {
            (AS_BITS, _) => write!(f, "{origin}:*"),
            (ALL_BITS, Some(target)) => write!(f, "{origin}:{target}"),
            (bits, _) => write!(f, "{origin}:0x{:016x}/{bits}", u64::from_be_bytes(rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> RouteTarget {
        text.parse().unwrap()
    }

    #[test]
    fn the_default_wants_all_a_prefix_what_starts_so_a_whole_one_itself() {
        assert!(RtMembership::DEFAULT.wants(target("65000:1")));
        let whole = RtMembership::new(65000, target("65000:256"));
        assert!(whole.wants(target("65000:256")) && !whole.wants(target("65000:257")));
        assert_eq!((whole.to_string().as_str(), whole.origin_as()), ("65000:65000:256", Some(65000)));
        let mut bytes = vec![];
        whole.write(&mut bytes);
        let cut = RtMembership::read(88, &bytes[1..12]).unwrap();
        assert!(cut.wants(target("65000:511")) && !cut.wants(target("65000:512")));
        let by_as = RtMembership::read(32, &[0, 0, 0xfd, 0xe8]).unwrap();
        assert!(by_as.wants(target("1:1")));
        assert_eq!((by_as.to_string().as_str(), RtMembership::DEFAULT.to_string().as_str()), ("65000:*", "*"));
    }

    #[test]
    fn lengths_between_and_beyond_are_refused_and_bits_behind_are_cleared() {
        assert_eq!(RtMembership::read(31, &[0; 4]), None);
        assert_eq!(RtMembership::read(97, &[0; 13]), None);
        assert_eq!(RtMembership::read(33, &[0, 0, 0, 1, 0xff]), RtMembership::read(33, &[0, 0, 0, 1, 0x80]));
        assert_eq!(RtMembership::read(0, &[]), Some(RtMembership::DEFAULT));
    }
}
