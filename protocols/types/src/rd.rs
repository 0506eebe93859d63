//! Route distinguishers (RFC 4364 §4.2) and route targets (RFC 4360 §4, RFC 4364 §4.3.1).
//!
//! Both hold an administrator and a number in one of three layouts:
//! type 0 `AS2:n32`, type 1 `IPv4:n16`, type 2 `AS4:n16`. An RD keeps the type in two bytes, a route
//! target in one (with subtype 2).

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, str::FromStr};

/// A route distinguisher as it stands on the wire, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rd(pub [u8; 8]);

/// A route-target extended community as it stands on the wire, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteTarget(pub [u8; 8]);

const RT_SUBTYPE: u8 = 2;

/// Type and the six value bytes of `administrator:number`.
fn parse_admin(what: &'static str, s: &str) -> Result<(u8, [u8; 6]), InvalidValue> {
    let bad = || {
        InvalidValue::new(
            what,
            s,
            "must look like 65000:100, 4200000000:100 or 10.255.0.1:100 (the number fits 32 bits after a 2-octet AS, else 16)",
        )
    };
    let (admin, number) = s.split_once(':').ok_or_else(bad)?;
    let mut v = [0; 6];
    if let Ok(ip) = admin.parse::<Ipv4Addr>() {
        v[..4].copy_from_slice(&ip.octets());
        v[4..].copy_from_slice(&number.parse::<u16>().map_err(|_| bad())?.to_be_bytes());
        return Ok((1, v));
    }
    let asn = admin.parse::<u32>().map_err(|_| bad())?;
    if let Ok(as2) = u16::try_from(asn) {
        v[..2].copy_from_slice(&as2.to_be_bytes());
        v[2..].copy_from_slice(&number.parse::<u32>().map_err(|_| bad())?.to_be_bytes());
        Ok((0, v))
    } else {
        v[..4].copy_from_slice(&asn.to_be_bytes());
        v[4..].copy_from_slice(&number.parse::<u16>().map_err(|_| bad())?.to_be_bytes());
        Ok((2, v))
    }
}

fn write_admin(f: &mut fmt::Formatter<'_>, kind: u8, v: [u8; 6]) -> fmt::Result {
    let [a, b, c, d, e, g] = v;
    match kind {
        0 => write!(f, "{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g])),
        1 => write!(f, "{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, g])),
        _ => write!(f, "{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g])),
    }
}

impl FromStr for Rd {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        let (kind, [a, b, c, d, e, f]) = parse_admin("route distinguisher", s)?;
        Ok(Self([0, kind, a, b, c, d, e, f]))
    }
}

impl fmt::Display for Rd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [hi, kind, a, b, c, d, e, g] = self.0;
        if hi == 0 && kind <= 2 {
            write_admin(f, kind, [a, b, c, d, e, g])
        } else {
            // A peer may send a type we do not know (RFC 4364 §4.2 leaves them open): show it whole.
            write!(f, "0x{:016x}", u64::from_be_bytes(self.0))
        }
    }
}

impl FromStr for RouteTarget {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        let (kind, [a, b, c, d, e, f]) = parse_admin("route target", s)?;
        Ok(Self([kind, RT_SUBTYPE, a, b, c, d, e, f]))
    }
}

impl RouteTarget {
    /// The route target in an extended community, if it is one (types 0, 1, 2, transitive, subtype 2).
    pub fn from_extended_community(bytes: [u8; 8]) -> Option<Self> {
        (bytes[0] <= 2 && bytes[1] == RT_SUBTYPE).then_some(Self(bytes))
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, _, a, b, c, d, e, g] = self.0;
        write_admin(f, kind, [a, b, c, d, e, g])
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
as_text!(Rd);
as_text!(RouteTarget);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_types_read_back_as_written() {
        for (text, bytes) in [
            ("65000:100", [0, 0, 0xfd, 0xe8, 0, 0, 0, 100]),
            ("10.255.0.1:7", [0, 1, 10, 255, 0, 1, 0, 7]),
            ("4200000000:9", [0, 2, 0xfa, 0x56, 0xea, 0, 0, 9]),
        ] {
            let rd: Rd = text.parse().unwrap();
            assert_eq!(rd.0, bytes);
            assert_eq!(rd.to_string(), text);
            let rt: RouteTarget = text.parse().unwrap();
            assert_eq!(rt.to_string(), text);
            assert_eq!(RouteTarget::from_extended_community(rt.0), Some(rt));
        }
    }

    #[test]
    fn a_number_too_large_for_its_type_is_refused() {
        for text in ["10.0.0.1:65536", "4200000000:65536", "65000", "65000:", ":1", "x:1", "65000:4294967296"] {
            assert!(text.parse::<Rd>().is_err(), "{text}");
        }
    }

    #[test]
    fn other_extended_communities_are_not_route_targets() {
        assert_eq!(RouteTarget::from_extended_community([0, 3, 0, 1, 0, 0, 0, 1]), None);
        assert_eq!(RouteTarget::from_extended_community([0x40, 2, 0, 1, 0, 0, 0, 1]), None);
    }
}
