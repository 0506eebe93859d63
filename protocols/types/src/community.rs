//! BGP communities that an operator writes: standard (RFC 1997), large (RFC 8092), site of origin (RFC 4364 §7).

use crate::{InvalidValue, RouteTarget};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// `65000:100`, or one of the well-known names `no-export`, `no-advertise`, `no-export-subconfed`, `blackhole`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Community(pub u32);

/// RFC 1997, RFC 7999.
const WELL_KNOWN: [(&str, u32); 4] =
    [("no-export", 0xffff_ff01), ("no-advertise", 0xffff_ff02), ("no-export-subconfed", 0xffff_ff03), ("blackhole", 0xffff_029a)];

impl Community {
    /// RFC 1997: not to be told to other ASes.
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// RFC 1997: not to be told to any peer.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// RFC 1997.
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
}

impl FromStr for Community {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == s) {
            return Ok(Self(*value));
        }
        let halves = s.split_once(':').and_then(|(a, b)| Some((a.parse::<u16>().ok()?, b.parse::<u16>().ok()?)));
        let (high, low) = halves.ok_or_else(|| InvalidValue::new("community", s, "must be like 65000:100 or no-export"))?;
        Ok(Self(u32::from(high) << 16 | u32::from(low)))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

/// `65000:1:2`, each part 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LargeCommunity(pub [u32; 3]);

impl FromStr for LargeCommunity {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        let parts: Option<Vec<u32>> = s.split(':').map(|p| p.parse().ok()).collect();
        let parts = parts.and_then(|p| <[u32; 3]>::try_from(p).ok());
        parts.map(Self).ok_or_else(|| InvalidValue::new("large community", s, "must be like 65000:1:2"))
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.0;
        write!(f, "{a}:{b}:{c}")
    }
}

/// Written like a route target: `65000:77`, `10.0.0.1:7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteOfOrigin([u8; 8]);

impl SiteOfOrigin {
    /// Sub-type of extended communities of types 0, 1 and 2 (RFC 4360 §5).
    const SUBTYPE: u8 = 3;

    /// As an extended community (RFC 4360).
    pub fn to_extended_community(self) -> [u8; 8] {
        self.0
    }

    pub fn from_extended_community(bytes: [u8; 8]) -> Option<Self> {
        (bytes[0] <= 2 && bytes[1] == Self::SUBTYPE).then_some(Self(bytes))
    }
}

impl FromStr for SiteOfOrigin {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        let mut bytes = s.parse::<RouteTarget>().map_err(|e| InvalidValue { what: "site of origin", ..e })?.0;
        bytes[1] = Self::SUBTYPE;
        Ok(Self(bytes))
    }
}

impl fmt::Display for SiteOfOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RouteTarget(self.0).fmt(f)
    }
}

macro_rules! as_text {
    ($t:ty) => {
        impl TryFrom<String> for $t {
            type Error = InvalidValue;
            fn try_from(s: String) -> Result<Self, InvalidValue> {
                s.parse()
            }
        }
        impl From<$t> for String {
            fn from(v: $t) -> String {
                v.to_string()
            }
        }
    };
}
as_text!(Community);
as_text!(LargeCommunity);
as_text!(SiteOfOrigin);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_read_back_as_written() {
        for text in ["65000:100", "0:0", "65535:65535", "no-export", "blackhole"] {
            assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
        }
        for text in ["65000:1:2", "4294967295:0:4294967295"] {
            assert_eq!(text.parse::<LargeCommunity>().unwrap().to_string(), text);
        }
        for text in ["65000:77", "10.0.0.1:7", "4200000000:9"] {
            let site: SiteOfOrigin = text.parse().unwrap();
            assert_eq!(site.to_string(), text);
            assert_eq!(SiteOfOrigin::from_extended_community(site.to_extended_community()), Some(site));
            assert_eq!(RouteTarget::from_extended_community(site.to_extended_community()), None);
        }
    }

    #[test]
    fn what_is_not_one_is_refused() {
        for text in ["65536:1", "1:65536", "1", ":", "1:2:3", "no-such", "-1:1"] {
            assert!(text.parse::<Community>().is_err(), "{text}");
        }
        for text in ["1:2", "1:2:3:4", "1:2:4294967296", ""] {
            assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
        }
        let error = "x".parse::<SiteOfOrigin>().unwrap_err().to_string();
        assert!(error.contains("site of origin"), "{error}");
    }
}
