//! Neighbour solicitations and advertisements (RFC 4861 §4.3, §4.4), checked as §7.1 demands.

use crate::{Fault, Malformed, array, icmpv6, ipv6};
use edgeplex_types::MacAddr;
use std::net::Ipv6Addr;

pub const SOLICITATION: u8 = 135;
pub const ADVERTISEMENT: u8 = 136;
/// Router solicitation is the first type of neighbour discovery, redirect the last.
pub const TYPES: std::ops::RangeInclusive<u8> = 133..=137;
/// A message of ours as a whole packet: IPv6 header, message, one link-layer address option.
pub const LEN: usize = ipv6::HEADER_LEN + MESSAGE + OPTION;

const MESSAGE: usize = 24;
const OPTION: usize = 8;
const MESSAGE_AND_OPTION: u16 = 32;
const _: () = assert!(MESSAGE_AND_OPTION as usize == MESSAGE + OPTION);
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A message with every field that varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nd {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub target: Ipv6Addr,
    /// Link-layer address of the source of a solicitation, of the target of an advertisement.
    pub mac: Option<MacAddr>,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Solicitation,
    Advertisement { router: bool, solicited: bool, replaces: bool },
}

/// RFC 4291 §2.7.1.
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let [high, low] = [0xff00 | u16::from(a), u16::from_be_bytes([b, c])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

/// RFC 2464 §7: the Ethernet address of an IPv6 multicast group.
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

impl Nd {
    /// Reads a packet whose next header is ICMPv6; other messages than the two are [`Fault::Version`].
    pub fn parse(ip: ipv6::Packet) -> Result<Self, Malformed> {
        let bad = |offset, fault| Err(Malformed::new("ND", offset, fault));
        let m = ip.payload();
        if !matches!(m, [SOLICITATION | ADVERTISEMENT, 0, ..]) {
            return bad(0, Fault::Version);
        }
        if m.len() < MESSAGE {
            return bad(m.len(), Fault::Truncated);
        }
        let (source, destination) = (ip.source(), ip.destination());
        let has = |flag| m[4] & flag != 0;
        let kind = match m[0] {
            SOLICITATION => Kind::Solicitation,
            _ => Kind::Advertisement { router: has(ROUTER), solicited: has(SOLICITED), replaces: has(OVERRIDE) },
        };
        // RFC 4861 §11.2: it cannot have come from beyond the link.
        if ip.hop_limit() != 255 {
            return bad(7, Fault::Value);
        }
        if icmpv6::checksum(source, destination, m) != 0 {
            return bad(2, Fault::Checksum);
        }
        let target = Ipv6Addr::from(array::<16>(m, 8));
        if target.is_multicast() {
            return bad(8, Fault::Value);
        }
        let wanted = if kind == Kind::Solicitation { SOURCE_ADDRESS } else { TARGET_ADDRESS };
        let (mut mac, mut at) = (None, MESSAGE);
        while at < m.len() {
            let [option, words, rest @ ..] = &m[at..] else { return bad(at, Fault::Truncated) };
            let len = usize::from(*words) * 8;
            if len == 0 || m.len() - at < len {
                return bad(at + 1, Fault::TotalLength);
            }
            if *option == wanted && len == OPTION {
                mac = Some(MacAddr(array(rest, 0)));
            }
            at += len;
        }
        let allowed = match kind {
            // An address that is only being tried has no link-layer address yet.
            Kind::Solicitation => !source.is_unspecified() || (mac.is_none() && destination == solicited_node(target)),
            Kind::Advertisement { solicited, .. } => !(source.is_unspecified() || destination.is_multicast() && solicited),
        };
        if allowed { Ok(Self { source, destination, target, mac, kind }) } else { bad(4, Fault::Value) }
    }

    /// The whole packet, with its option even if `mac` is `None`: it then says zeros.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let ip = ipv6::Header {
            traffic_class: 0xc0,
            payload_len: MESSAGE_AND_OPTION,
            next_header: ipv6::ICMP,
            hop_limit: 255,
            source: self.source,
            destination: self.destination,
        };
        out[..ipv6::HEADER_LEN].copy_from_slice(&ip.to_bytes());
        let m = &mut out[ipv6::HEADER_LEN..];
        m[8..24].copy_from_slice(&self.target.octets());
        match self.kind {
            Kind::Solicitation => (m[0], m[24]) = (SOLICITATION, SOURCE_ADDRESS),
            Kind::Advertisement { router, solicited, replaces } => {
                let flag = |set, flag| if set { flag } else { 0 };
                (m[0], m[24]) = (ADVERTISEMENT, TARGET_ADDRESS);
                m[4] = flag(router, ROUTER) | flag(solicited, SOLICITED) | flag(replaces, OVERRIDE);
            }
        }
        m[25] = 1;
        m[26..].copy_from_slice(&self.mac.unwrap_or(MacAddr([0; 6])).0);
        let sum = icmpv6::checksum(self.source, self.destination, m);
        m[2..4].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CE: &str = "fe80::2";
    const OURS: &str = "fe80::1";

    fn solicitation() -> Nd {
        let target = OURS.parse().unwrap();
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
        Nd { source: CE.parse().unwrap(), destination: solicited_node(target), target, mac, kind: Kind::Solicitation }
    }

    fn parse(bytes: &[u8]) -> Result<Nd, Malformed> {
        Nd::parse(ipv6::Packet::new(bytes).unwrap())
    }

    /// With the checksum made right again.
    fn fixed(mut bytes: Vec<u8>) -> Vec<u8> {
        let p = ipv6::Packet::new(&bytes).unwrap();
        let (s, d) = (p.source(), p.destination());
        bytes[42..44].fill(0);
        let sum = icmpv6::checksum(s, d, &bytes[40..]);
        bytes[42..44].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn a_solicitation_reads_as_written() {
        let nd = solicitation();
        assert_eq!(nd.destination, "ff02::1:ff00:1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac(nd.destination), MacAddr([0x33, 0x33, 0xff, 0, 0, 1]));
        let bytes = nd.to_bytes();
        assert_eq!((bytes[6], bytes[7], bytes[40], &bytes[64..66]), (58, 255, 135, &[1, 1][..]));
        assert_eq!(parse(&bytes), Ok(nd));
        let kind = Kind::Advertisement { router: true, solicited: true, replaces: true };
        let answer = Nd { source: nd.target, destination: nd.source, kind, ..nd };
        assert_eq!((answer.to_bytes()[44], parse(&answer.to_bytes())), (0xe0, Ok(answer)));
    }

    #[test]
    fn rfc_4861_7_1_what_must_be_discarded() {
        let good = solicitation().to_bytes().to_vec();
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            parse(&fixed(bytes)).unwrap_err()
        };
        assert_eq!(refused(&|b| b[7] = 254), Malformed::new("ND", 7, Fault::Value));
        assert_eq!(refused(&|b| b[41] = 1), Malformed::new("ND", 0, Fault::Version));
        assert_eq!(refused(&|b| b[40] = 134), Malformed::new("ND", 0, Fault::Version));
        assert_eq!(refused(&|b| b[48] = 0xff), Malformed::new("ND", 8, Fault::Value));
        assert_eq!(refused(&|b| b[65] = 0), Malformed::new("ND", 25, Fault::TotalLength));
        assert_eq!(refused(&|b| b[65] = 2), Malformed::new("ND", 25, Fault::TotalLength));
        // From the unspecified address with an option, or to the address itself.
        assert_eq!(refused(&|b| b[8..24].fill(0)), Malformed::new("ND", 4, Fault::Value));
        let mut wrong = good.clone();
        wrong[43] ^= 1;
        assert_eq!(parse(&wrong), Err(Malformed::new("ND", 2, Fault::Checksum)));
        // An advertisement to all that claims to be solicited.
        let kind = Kind::Advertisement { router: false, solicited: true, replaces: true };
        let to_all = Nd { destination: "ff02::1".parse().unwrap(), kind, ..solicitation() };
        assert_eq!(parse(&to_all.to_bytes()), Err(Malformed::new("ND", 4, Fault::Value)));
        for len in 0..32u8 {
            let mut short = good[..40 + usize::from(len)].to_vec();
            short[5] = len;
            let parsed = if len < 4 { parse(&short) } else { parse(&fixed(short)) };
            assert!(if len == 24 { parsed.is_ok() } else { parsed.is_err() }, "{len}: {parsed:?}");
        }
    }

    #[test]
    fn a_probe_has_no_address() {
        let mut probe = solicitation().to_bytes()[..64].to_vec();
        probe[5] = 24;
        probe[8..24].fill(0);
        let nd = parse(&fixed(probe)).unwrap();
        assert!(nd.source.is_unspecified() && nd.mac.is_none());
    }

    proptest! {
        #[test]
        fn any_message(mut m in proptest::collection::vec(any::<u8>(), 0..100), kind in 134u8..=137) {
            if let Some(first) = m.first_mut() {
                *first = kind;
            }
            let h = ipv6::Header {
                traffic_class: 0, payload_len: m.len().try_into().unwrap(), next_header: ipv6::ICMP, hop_limit: 255,
                source: CE.parse().unwrap(), destination: OURS.parse().unwrap(),
            };
            let mut bytes = [&h.to_bytes()[..], &m].concat();
            if m.len() >= 4 {
                bytes = fixed(bytes);
            }
            if let Ok(nd) = parse(&bytes) {
                prop_assert_eq!(parse(&nd.to_bytes()).map(|n| (n.target, n.kind)), Ok((nd.target, nd.kind)));
            }
        }
    }
}
