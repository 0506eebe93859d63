//! The AS_PATH attribute (RFC 4271 §4.3, §5.1.2; RFC 6793 for 2-octet peers).

use crate::error::Cause;
use std::fmt;

/// AS_TRANS stands for an AS number that does not fit 2 octets (RFC 6793 §9).
pub const AS_TRANS: u16 = 23456;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    Set,
    Sequence,
}

/// One segment, 1 to 255 AS numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    pub kind: SegmentKind,
    pub asns: Vec<u32>,
}

/// AS numbers a route has passed, nearest first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// A path of one sequence.
    pub fn sequence(asns: impl Into<Vec<u32>>) -> Self {
        let asns = asns.into();
        if asns.is_empty() { Self::default() } else { Self(vec![Segment { kind: SegmentKind::Sequence, asns }]) }
    }

    /// Length for the decision process: a set counts as one (RFC 4271 §9.1.2.2 a).
    pub fn length(&self) -> usize {
        self.0
            .iter()
            .map(|s| match s.kind {
                SegmentKind::Sequence => s.asns.len(),
                SegmentKind::Set => 1,
            })
            .sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, asn: u32) -> bool {
        self.iter().any(|a| a == asn)
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|s| s.asns.iter().copied())
    }

    /// The AS the route came from last, if the path starts with a sequence.
    pub fn first(&self) -> Option<u32> {
        self.0.first().filter(|s| s.kind == SegmentKind::Sequence).and_then(|s| s.asns.first().copied())
    }

    /// The AS that originated the route, if the path ends with a sequence.
    pub fn origin(&self) -> Option<u32> {
        self.0.last().filter(|s| s.kind == SegmentKind::Sequence).and_then(|s| s.asns.last().copied())
    }

    /// Puts `asn` in front (RFC 4271 §5.1.2 b).
    pub fn prepend(&mut self, asn: u32) {
        match self.0.first_mut() {
            Some(s) if s.kind == SegmentKind::Sequence && s.asns.len() < 255 => s.asns.insert(0, asn),
            _ => self.0.insert(0, Segment { kind: SegmentKind::Sequence, asns: vec![asn] }),
        }
    }

    /// How often `asn` stands in it.
    pub fn count(&self, asn: u32) -> usize {
        self.iter().filter(|a| *a == asn).count()
    }

    /// Puts `new` in the place of every `old` ("as-override").
    pub fn replace(&mut self, old: u32, new: u32) {
        self.0.iter_mut().flat_map(|s| &mut s.asns).filter(|a| **a == old).for_each(|a| *a = new);
    }

    /// Takes out private AS numbers (RFC 6996 §5) but `keep`, whose own AS must find itself in the path.
    pub fn remove_private(&mut self, keep: u32) {
        let private = |asn: u32| matches!(asn, 64512..=65534 | 4_200_000_000..=4_294_967_294);
        self.0.iter_mut().for_each(|s| s.asns.retain(|a| *a == keep || !private(*a)));
        self.0.retain(|s| !s.asns.is_empty());
    }

    /// Reads the attribute's value with AS numbers of 2 or 4 octets. Zero-length segments, unknown segment types
    /// and confederation segments (RFC 5065: no such neighbour is configured here) are malformed (RFC 7606 §7.2).
    pub(crate) fn read(mut bytes: &[u8], four_octet: bool) -> Result<Self, Cause> {
        let size = if four_octet { 4 } else { 2 };
        let mut segments = Vec::new();
        while !bytes.is_empty() {
            let ([kind, count], rest) = bytes.split_first_chunk::<2>().ok_or(Cause::Malformed("segment header is cut short"))?;
            let kind = match kind {
                1 => SegmentKind::Set,
                2 => SegmentKind::Sequence,
                _ => return Err(Cause::Malformed("unknown segment type")),
            };
            if *count == 0 {
                return Err(Cause::Malformed("segment without AS numbers"));
            }
            let (numbers, rest) = rest.split_at_checked(usize::from(*count) * size).ok_or(Cause::Malformed("segment runs past the end"))?;
            let asns: Vec<u32> = numbers.chunks_exact(size).map(|n| n.iter().fold(0, |asn, byte| asn << 8 | u32::from(*byte))).collect();
            // RFC 7607 §2
            if asns.contains(&0) {
                return Err(Cause::Malformed("AS number 0"));
            }
            segments.push(Segment { kind, asns });
            bytes = rest;
        }
        Ok(Self(segments))
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>, four_octet: bool) {
        for segment in &self.0 {
            let kind = match segment.kind {
                SegmentKind::Set => 1,
                SegmentKind::Sequence => 2,
            };
            for asns in segment.asns.chunks(255) {
                out.push(kind);
                out.push(u8::try_from(asns.len()).unwrap_or(u8::MAX));
                for asn in asns {
                    if four_octet {
                        out.extend_from_slice(&asn.to_be_bytes());
                    } else {
                        out.extend_from_slice(&u16::try_from(*asn).unwrap_or(AS_TRANS).to_be_bytes());
                    }
                }
            }
        }
    }

    /// Whether some AS number does not fit 2 octets, so that AS4_PATH must go along.
    pub(crate) fn needs_four_octets(&self) -> bool {
        self.iter().any(|a| a > u32::from(u16::MAX))
    }

    /// RFC 6793 §4.2.3: the leading part of the 2-octet path that AS4_PATH does not cover, then AS4_PATH.
    pub(crate) fn merge_as4(self, as4: Self) -> Self {
        let (have, newer) = (self.length(), as4.length());
        if have < newer {
            return self;
        }
        let mut keep = have - newer;
        let mut merged = Vec::new();
        for mut segment in self.0 {
            if keep == 0 {
                break;
            }
            match segment.kind {
                SegmentKind::Set => keep -= 1,
                SegmentKind::Sequence => {
                    segment.asns.truncate(keep);
                    keep -= segment.asns.len();
                }
            }
            merged.push(segment);
        }
        let mut newer = as4.0.into_iter().peekable();
        // Two sequences that meet become one, so that the path reads as it was sent.
        if let Some(last) = merged.last_mut().filter(|s| s.kind == SegmentKind::Sequence) {
            let fits = |s: &Segment| s.kind == SegmentKind::Sequence && last.asns.len() + s.asns.len() <= 255;
            if let Some(next) = newer.next_if(fits) {
                last.asns.extend(next.asns);
            }
        }
        merged.extend(newer);
        Self(merged)
    }
}

/// As a person writes it: `65101 65000 {65102 65103}`.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            let words: Vec<String> = segment.asns.iter().map(u32::to_string).collect();
            match segment.kind {
                SegmentKind::Sequence => write!(f, "{space}{}", words.join(" "))?,
                SegmentKind::Set => write!(f, "{space}{{{}}}", words.join(" "))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_two_octet_path_takes_its_tail_from_as4_path() {
        // RFC 6793 §4.2.3: what an old speaker put in front stays.
        let old = AsPath::sequence([65001, 23456, 23456]);
        let as4 = AsPath::sequence([4_200_000_001, 4_200_000_002]);
        assert_eq!(old.clone().merge_as4(as4).to_string(), "65001 4200000001 4200000002");
        // Longer than the path: ignored.
        assert_eq!(old.clone().merge_as4(AsPath::sequence([1, 2, 3, 4])), old);
    }

    #[test]
    fn prepending_opens_a_segment_before_a_set_and_when_full() {
        let mut p = AsPath(vec![Segment { kind: SegmentKind::Set, asns: vec![1, 2] }]);
        p.prepend(7);
        assert_eq!(p.to_string(), "7 {1 2}");
        assert_eq!(p.length(), 2);
        let mut p = AsPath::sequence(vec![9; 255]);
        p.prepend(8);
        assert_eq!((p.0.len(), p.length(), p.first(), p.origin()), (2, 256, Some(8), Some(9)));
    }

    #[test]
    fn private_numbers_go_and_a_number_is_replaced() {
        let mut p = AsPath(vec![
            Segment { kind: SegmentKind::Sequence, asns: vec![64512, 3356, 65534, 65101] },
            Segment { kind: SegmentKind::Set, asns: vec![4_200_000_000] },
        ]);
        p.remove_private(65101);
        assert_eq!(p.to_string(), "3356 65101");
        p.replace(65101, 65000);
        assert_eq!((p.to_string().as_str(), p.count(65000)), ("3356 65000", 1));
    }

    #[test]
    fn malformed_segments_are_refused() {
        for bytes in [&[2][..], &[2, 0], &[5, 1, 0, 0, 0, 1], &[3, 1, 0, 0, 0, 1], &[2, 2, 0, 0, 0, 1], &[2, 1, 0, 0, 0, 0]] {
            assert!(AsPath::read(bytes, true).is_err(), "{bytes:?}");
        }
    }
}
