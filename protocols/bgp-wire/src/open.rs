//! OPEN (RFC 4271 §4.2) and its capabilities (RFC 5492).

use crate::{AS_TRANS, Cause, Code, DecodeError, Family, FamilySet, Fatal, HEADER_LEN, MessageType, Notification, finish, start};
use std::net::Ipv4Addr;

/// The Graceful Restart capability (RFC 4724 §3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// The R bit: the sender has restarted.
    pub restarted: bool,
    /// The N bit (RFC 8538 §2).
    pub notification: bool,
    /// Seconds, 0 to 4095.
    pub restart_time: u16,
    /// AFI, SAFI, and the F bit: forwarding state was kept.
    pub families: Vec<(u16, u8, bool)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// RFC 4760 §8: AFI, SAFI.
    MultiProtocol(u16, u8),
    /// RFC 2918.
    RouteRefresh,
    GracefulRestart(GracefulRestart),
    /// RFC 6793.
    FourOctetAs(u32),
    Unknown {
        code: u8,
        value: Vec<u8>,
    },
}

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
const CAP_MP: u8 = 1;
const CAP_REFRESH: u8 = 2;
const CAP_GR: u8 = 64;
const CAP_AS4: u8 = 65;

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

    pub fn route_refresh(&self) -> bool {
        self.capabilities.contains(&Capability::RouteRefresh)
    }

    /// The last one counts (RFC 4724 §3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|c| if let Capability::GracefulRestart(g) = c { Some(g) } else { None })
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
            read_capabilities(value, value_at, &mut open.capabilities)?;
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
            write_capability(&mut capabilities, c);
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

fn read_capabilities(bytes: &[u8], offset: usize, out: &mut Vec<Capability>) -> Result<(), Fatal> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = HEADER_LEN + offset + bytes.len() - rest.len();
        let cut = || fatal(0, &[], at, "capability", Cause::Malformed("runs past the end"));
        let ([code, len], tail) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (value, tail) = tail.split_at_checked((*len).into()).ok_or_else(cut)?;
        let length = |want| fatal(0, &[], at, "capability", Cause::Length { got: value.len(), want });
        out.push(match (*code, value) {
            (CAP_MP, [hi, lo, _, safi]) => Capability::MultiProtocol(u16::from_be_bytes([*hi, *lo]), *safi),
            (CAP_MP, _) => return Err(length("4")),
            (CAP_REFRESH, []) => Capability::RouteRefresh,
            (CAP_AS4, [a, b, c, d]) => Capability::FourOctetAs(u32::from_be_bytes([*a, *b, *c, *d])),
            (CAP_AS4, _) => return Err(length("4")),
            (CAP_GR, [hi, lo, families @ ..]) if families.len() % 4 == 0 => Capability::GracefulRestart(GracefulRestart {
                restarted: hi & 0x80 != 0,
                notification: hi & 0x40 != 0,
                restart_time: u16::from_be_bytes([hi & 0x0f, *lo]),
                families: families
                    .chunks_exact(4)
                    .filter_map(|c| <[u8; 4]>::try_from(c).ok())
                    .map(|[a, b, safi, flags]| (u16::from_be_bytes([a, b]), safi, flags & 0x80 != 0))
                    .collect(),
            }),
            // RFC 5492 §3: what we do not understand does not hinder the session.
            (code, value) => Capability::Unknown { code, value: value.to_vec() },
        });
        rest = tail;
    }
    Ok(())
}

fn write_capability(out: &mut Vec<u8>, capability: &Capability) {
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    let code = match capability {
        Capability::MultiProtocol(afi, safi) => {
            let [hi, lo] = afi.to_be_bytes();
            out.extend_from_slice(&[hi, lo, 0, *safi]);
            CAP_MP
        }
        Capability::RouteRefresh => CAP_REFRESH,
        Capability::FourOctetAs(asn) => {
            out.extend_from_slice(&asn.to_be_bytes());
            CAP_AS4
        }
        Capability::GracefulRestart(g) => {
            let [hi, lo] = g.restart_time.min(0xfff).to_be_bytes();
            out.extend_from_slice(&[hi | u8::from(g.restarted) << 7 | u8::from(g.notification) << 6, lo]);
            for (afi, safi, forwarding) in &g.families {
                let [hi, lo] = afi.to_be_bytes();
                out.extend_from_slice(&[hi, lo, *safi, u8::from(*forwarding) << 7]);
            }
            CAP_GR
        }
        Capability::Unknown { code, value } => {
            out.extend_from_slice(value);
            *code
        }
    };
    match u8::try_from(out.len() - at - 2) {
        Ok(len) => out[at..at + 2].copy_from_slice(&[code, len]),
        Err(_) => out.truncate(at),
    }
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
        assert!(open.route_refresh() && open.families().contains(Family::Ipv4Unicast));
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
