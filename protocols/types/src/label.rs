//! MPLS labels (RFC 3032 §2.1).

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A 20-bit MPLS label, 0..=1048575. 0 to 15 are reserved (RFC 3032 §2.1, RFC 7274).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Label(u32);

impl Label {
    pub const IPV4_EXPLICIT_NULL: Self = Self(0);
    pub const IMPLICIT_NULL: Self = Self(3);
    pub const FIRST_UNRESERVED: Self = Self(16);
    pub const MAX: Self = Self(0xf_ffff);

    pub fn get(self) -> u32 {
        self.0
    }

    pub fn is_reserved(self) -> bool {
        self.0 < Self::FIRST_UNRESERVED.0
    }
}

impl TryFrom<u32> for Label {
    type Error = InvalidValue;
    fn try_from(v: u32) -> Result<Self, InvalidValue> {
        if v <= Self::MAX.0 { Ok(Self(v)) } else { Err(InvalidValue::new("label", v, "must be 0 to 1048575")) }
    }
}

impl From<Label> for u32 {
    fn from(l: Label) -> u32 {
        l.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An inclusive range of unreserved labels from which a label space allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRange", into = "RawRange")]
pub struct LabelRange {
    first: Label,
    last: Label,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange {
    first: Label,
    last: Label,
}

impl LabelRange {
    pub fn new(first: Label, last: Label) -> Result<Self, InvalidValue> {
        if first.is_reserved() {
            Err(InvalidValue::new("label range", format!("{first}-{last}"), "must start at 16 or above (0 to 15 are reserved)"))
        } else if first > last {
            Err(InvalidValue::new("label range", format!("{first}-{last}"), "`first` must not be above `last`"))
        } else {
            Ok(Self { first, last })
        }
    }
    pub fn first(&self) -> Label {
        self.first
    }
    pub fn last(&self) -> Label {
        self.last
    }
    pub fn contains(&self, l: Label) -> bool {
        self.first <= l && l <= self.last
    }
}

impl TryFrom<RawRange> for LabelRange {
    type Error = InvalidValue;
    fn try_from(r: RawRange) -> Result<Self, InvalidValue> {
        Self::new(r.first, r.last)
    }
}

impl From<LabelRange> for RawRange {
    fn from(r: LabelRange) -> Self {
        Self { first: r.first, last: r.last }
    }
}
