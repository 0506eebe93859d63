//! OPEN (RFC 4271 §4.2) and its capabilities (RFC 5492).

mod capability;

pub use capability::{AddPath, Capability, GracefulRestart, LongLived, Role};

use crate::{AS_TRANS, Cause, Code, DecodeError, Family, FamilySet, Fatal, HEADER_LEN, MessageType, Notification, finish, start};
use std::net::Ipv4Addr;

/// An OPEN message. Whether it is acceptable the session decides (RFC 4271 §6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub version: u8,
    /// The 2-octet field; AS_TRANS if the number does not fit.
    pub my_as: u16,
    /// Seconds.
    pub hold_time: u16,
    pub identifier: Ipv4Addr,
    pub capabilities: Vec<Capability>,
}

const PARAMETER_CAPABILITIES: u8 = 2;

impl Open {
    /// An OPEN of `asn`, its 4-octet AS capability included.
    pub fn new(asn: u32, hold_time: u16, identifier: Ipv4Addr) -> Self {
        let my_as = u16::try_from(asn).unwrap_or(AS_TRANS);
        Self { version: 4, my_as, hold_time, identifier, capabilities: vec![Capability::FourOctetAs(asn)] }
    }

    /// The 4-octet AS number, if announced.
    pub fn four_octet_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|c| if let Capability::FourOctetAs(asn) = c { Some(*asn) } else { None })
    }

    /// The peer's AS number, whichever way it was told.
    pub fn asn(&self) -> u32 {
        self.four_octet_as().unwrap_or(self.my_as.into())
    }

    /// Families announced, as far as we know them; IPv4 unicast if none was announced at all (RFC 4760 §8).
    pub fn families(&self) -> FamilySet {
        let mut announced = self
            .capabilities
            .iter()
            .filter_map(|c| if let Capability::MultiProtocol(afi, safi) = c { Some(Family::from_afi_safi(*afi, *safi)) } else { None })
            .peekable();
        if announced.peek().is_none() { FamilySet::from_iter([Family::Ipv4Unicast]) } else { announced.flatten().collect() }
    }

    /// Whether a capability without a value is announced.
    pub fn has(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// The last one counts (RFC 4724 §3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|c| if let Capability::GracefulRestart(g) = c { Some(g) } else { None })
    }

    /// Families with their long-lived stale time, if they are not worthless for want of plain graceful restart (RFC 9494 §4.1).
    pub fn long_lived(&self) -> &[LongLived] {
        let found = self.capabilities.iter().rev().find_map(|c| if let Capability::LongLived(l) = c { Some(l.as_slice()) } else { None });
        found.filter(|_| self.graceful_restart().is_some()).unwrap_or_default()
    }

    /// Families of which the peer would send several paths, or receive them (RFC 7911).
    pub fn add_path(&self) -> impl Iterator<Item = AddPath> {
        self.capabilities.iter().flat_map(|c| if let Capability::AddPath(families) = c { families.as_slice() } else { &[] }).copied()
    }

    /// The roles announced: one if all is well (RFC 9234 §4.2).
    pub fn roles(&self) -> impl Iterator<Item = u8> {
        self.capabilities.iter().filter_map(|c| if let Capability::Role(role) = c { Some(*role) } else { None })
    }

    /// Reads the bytes behind the header.
    pub fn decode(body: &[u8]) -> Result<Self, Fatal> {
        let malformed = |offset: usize, field, what| fatal(0, &[], HEADER_LEN + offset, field, Cause::Malformed(what));
        let ([version, as1, as0, h1, h0, i3, i2, i1, i0, params_len], params) =
            body.split_first_chunk::<10>().ok_or_else(|| malformed(0, "OPEN", "cut short"))?;
        if *version != 4 {
            // RFC 4271 §6.2: the data is the largest version we speak.
            return Err(fatal(1, &[0, 4], HEADER_LEN, "version", Cause::Value((*version).into())));
        }
        let mut open = Self {
            version: 4,
            my_as: u16::from_be_bytes([*as1, *as0]),
            hold_time: u16::from_be_bytes([*h1, *h0]),
            identifier: Ipv4Addr::new(*i3, *i2, *i1, *i0),
            capabilities: Vec::new(),
        };
        // RFC 9072 §2: length and type 255 announce a 2-byte length, for the parameters and for each of them.
        let (extended, params) = match (params_len, params) {
            (255, [255, hi, lo, rest @ ..]) if rest.len() == usize::from(u16::from_be_bytes([*hi, *lo])) => (true, rest),
            (len, rest) if rest.len() == usize::from(*len) => (false, rest),
            _ => return Err(malformed(9, "optional parameters", "length does not match the message")),
        };
        let mut rest = params;
        while !rest.is_empty() {
            let at = body.len() - rest.len();
            let cut = || malformed(at, "optional parameter", "runs past the end");
            let (kind, value, tail) = if extended {
                let ([kind, hi, lo], tail) = rest.split_first_chunk::<3>().ok_or_else(cut)?;
                let (value, tail) = tail.split_at_checked(u16::from_be_bytes([*hi, *lo]).into()).ok_or_else(cut)?;
                (*kind, value, tail)
            } else {
                let ([kind, len], tail) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
                let (value, tail) = tail.split_at_checked((*len).into()).ok_or_else(cut)?;
                (*kind, value, tail)
            };
            if kind != PARAMETER_CAPABILITIES {
                return Err(fatal(4, &[], HEADER_LEN + at, "optional parameter type", Cause::Value(kind.into())));
            }
            let value_at = body.len() - tail.len() - value.len();
            capability::read(value, value_at, &mut open.capabilities)?;
            rest = tail;
        }
        Ok(open)
    }

    /// Composes the message. Capabilities that would not fit 255 bytes of optional parameters are left out.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        start(&mut out, MessageType::Open);
        out.push(self.version);
        out.extend_from_slice(&self.my_as.to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.identifier.octets());
        let mut capabilities = Vec::new();
        for c in &self.capabilities {
            let before = capabilities.len();
            capability::write(&mut capabilities, c);
            if capabilities.len() > 253 {
                capabilities.truncate(before);
            }
        }
        let len = u8::try_from(capabilities.len()).unwrap_or(0);
        if len == 0 {
            out.push(0);
        } else {
            out.extend_from_slice(&[len + 2, PARAMETER_CAPABILITIES, len]);
            out.extend_from_slice(&capabilities);
        }
        finish(&mut out, 0);
        out
    }
}

fn fatal(subcode: u8, data: &[u8], offset: usize, field: &'static str, cause: Cause) -> Fatal {
    Fatal { notification: Notification::new(Code::Open, subcode, data), error: DecodeError { offset, field, cause } }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As FRR 8.4 sends it, shortened: MP IPv4 unicast, both refresh codes, AS4, GR with R bit and one family kept.
    const FROM_FRR: &[u8] = &[
        4, 0xfd, 0xe9, 0, 180, 10, 0, 0, 2, 36, 2, 6, 1, 4, 0, 1, 0, 1, 2, 2, 128, 0, 2, 2, 2, 0, 2, 6, 65, 4, 0, 0, 0xfd, 0xe9, 2, 8, 64,
        6, 0x80, 120, 0, 1, 1, 0x80,
    ];

    #[test]
    fn a_real_open_and_what_it_offers() {
        let mut bytes = FROM_FRR.to_vec();
        bytes[9] = u8::try_from(bytes.len() - 10).unwrap();
        let open = Open::decode(&bytes).unwrap();
        assert_eq!((open.asn(), open.hold_time, open.identifier), (65001, 180, Ipv4Addr::new(10, 0, 0, 2)));
        assert!(open.has(&Capability::RouteRefresh) && open.families().contains(Family::Ipv4Unicast));
        let gr = open.graceful_restart().unwrap();
        assert_eq!((gr.restarted, gr.restart_time, &gr.families[..]), (true, 120, &[(1, 1, true)][..]));
        assert_eq!(open.capabilities[1], Capability::Unknown { code: 128, value: vec![] });
        assert_eq!(Open::decode(&open.encode()[HEADER_LEN..]).unwrap(), open);
    }

    fn error(body: &[u8]) -> (u8, Vec<u8>, usize) {
        let f = Open::decode(body).unwrap_err();
        assert_eq!(f.notification.code, Code::Open);
        (f.notification.subcode, f.notification.data, f.error.offset)
    }

    #[test]
    fn open_errors_of_rfc_4271_6_2() {
        let plain = [4, 0, 1, 0, 90, 1, 1, 1, 1];
        let with = |tail: &[u8]| [&plain[..], tail].concat();
        assert!(Open::decode(&with(&[0])).is_ok());
        assert_eq!(error(&[3, 0, 1, 0, 90, 1, 1, 1, 1, 0]), (1, vec![0, 4], 19));
        assert_eq!(error(&with(&[3, 2, 0])), (0, vec![], 28));
        assert_eq!(error(&with(&[3, 2, 9, 0])), (0, vec![], 29));
        assert_eq!(error(&with(&[2, 1, 0])), (4, vec![], 29));
        assert_eq!(error(&with(&[5, 2, 3, 65, 1, 0])), (0, vec![], 31));
    }

    #[test]
    fn extended_optional_parameters_of_rfc_9072() {
        let bytes = [4, 0, 1, 0, 90, 1, 1, 1, 1, 255, 255, 0, 9, 2, 0, 6, 65, 4, 0, 1, 0, 0];
        assert_eq!(Open::decode(&bytes).unwrap().asn(), 65536);
    }

    #[test]
    fn a_large_as_number_hides_behind_as_trans() {
        let open = Open::new(4_200_000_000, 90, Ipv4Addr::new(1, 1, 1, 1));
        assert_eq!((open.my_as, open.asn()), (AS_TRANS, 4_200_000_000));
    }
}
