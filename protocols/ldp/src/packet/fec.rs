//! FEC elements (RFC 5036 §3.4.1, RFC 5918 §3).

use super::{Error, Reader, Status};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

pub(super) const WILDCARD: u8 = 1;
pub(super) const PREFIX: u8 = 2;
pub(super) const TYPED_WILDCARD: u8 = 5;
/// Address family numbers.
pub(super) const IPV4: u16 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FecElement {
    /// All FECs.
    Wildcard,
    Prefix(Ipv4Net),
    /// All FECs of one kind (RFC 5918): the type of element and what it says more.
    TypedWildcard {
        element: u8,
        info: Vec<u8>,
    },
}

impl FecElement {
    /// All IPv4 prefixes.
    pub fn all_ipv4() -> Self {
        Self::TypedWildcard { element: PREFIX, info: IPV4.to_be_bytes().to_vec() }
    }

    /// The elements of a FEC TLV.
    pub(super) fn decode_all(mut value: Reader<'_>) -> Result<Vec<Self>, Error> {
        let at = value.offset();
        let mut elements = vec![];
        while !value.is_empty() {
            elements.push(Self::decode(&mut value)?);
        }
        match elements.as_slice() {
            [] => Err(Error::new(Status::MALFORMED_TLV_VALUE, at, "FEC", "has no element")),
            // RFC 5036 §3.4.1.1, RFC 5918 §4: it stands alone.
            [_, _, ..] if elements.iter().any(|e| !matches!(e, Self::Prefix(_))) => {
                Err(Error::new(Status::MALFORMED_TLV_VALUE, at, "FEC", "has a wildcard among other elements"))
            }
            _ => Ok(elements),
        }
    }

    fn decode(value: &mut Reader<'_>) -> Result<Self, Error> {
        let at = value.offset();
        match value.u8("FEC element")? {
            WILDCARD => Ok(Self::Wildcard),
            PREFIX => {
                let family = value.u16("address family")?;
                let length = value.u8("prefix length")?;
                if family != IPV4 {
                    return Err(Error::new(Status::UNSUPPORTED_ADDRESS_FAMILY, at, "FEC element", "is not IPv4"));
                }
                if length > 32 {
                    return Err(Error::new(Status::MALFORMED_TLV_VALUE, at, "prefix length", "is above 32"));
                }
                let given = value.take(usize::from(length).div_ceil(8), "prefix")?;
                let mut octets = [0; 4];
                octets.iter_mut().zip(given.rest()).for_each(|(to, from)| *to = *from);
                let malformed = |_| Error::new(Status::MALFORMED_TLV_VALUE, at, "prefix length", "is above 32");
                Ok(Self::Prefix(Ipv4Net::new(Ipv4Addr::from(octets), length).map_err(malformed)?.trunc()))
            }
            TYPED_WILDCARD => {
                let element = value.u8("typed wildcard")?;
                let length = value.u8("typed wildcard length")?;
                Ok(Self::TypedWildcard { element, info: value.take(length.into(), "typed wildcard")?.rest().to_vec() })
            }
            _ => Err(Error::new(Status::UNKNOWN_FEC, at, "FEC element", "is of an unknown type")),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Wildcard => out.push(WILDCARD),
            Self::Prefix(prefix) => {
                out.push(PREFIX);
                out.extend(IPV4.to_be_bytes());
                out.push(prefix.prefix_len());
                out.extend(prefix.network().octets().iter().take(usize::from(prefix.prefix_len()).div_ceil(8)));
            }
            Self::TypedWildcard { element, info } => {
                let info = info.get(..usize::from(u8::MAX).min(info.len())).unwrap_or_default();
                out.extend([TYPED_WILDCARD, *element, u8::try_from(info.len()).unwrap_or(u8::MAX)]);
                out.extend(info);
            }
        }
    }
}
