//! The hash that keeps the packets of one flow on one path, and spreads flows over paths.
//!
//! 64 bits: a choice among paths takes the upper half, one among legs the lower ([`edgeplex_ff_fib::Fib::path`]). The seed
//! is the process's own, so that two routers in a row do not choose alike.

use edgeplex_ff_packet::{ipv4, ipv6, mpls};
use std::net::Ipv6Addr;

/// Label stack entries hashed, at most.
const MAX_STACK: usize = 16;

fn mix(h: u64, word: u64) -> u64 {
    let h = (h ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    h ^ h >> 32
}

/// So that every bit of the input has touched every bit of both halves.
fn finish(h: u64) -> u64 {
    let h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (h ^ h >> 29).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

fn last(h: u64, protocol: u8, ports: Option<(u16, u16)>) -> u64 {
    let (s, d) = ports.unwrap_or((0, 0));
    finish(mix(h, u64::from(s) << 32 | u64::from(d) << 8 | u64::from(protocol)))
}

pub(super) fn of_ipv4(seed: u64, ip: ipv4::Packet) -> u64 {
    let addresses = u64::from(u32::from(ip.source())) << 32 | u64::from(u32::from(ip.destination()));
    last(mix(seed, addresses), ip.protocol(), ip.ports())
}

pub(super) fn of_ipv6(seed: u64, ip: ipv6::Packet) -> u64 {
    let half = |a: Ipv6Addr| {
        let [high, low] = [a.to_bits() >> 64, a.to_bits() & u128::from(u64::MAX)].map(|h| u64::try_from(h).unwrap_or(0));
        mix(high, low)
    };
    let h = mix(mix(seed, half(ip.source())), half(ip.destination()));
    // RFC 6438 §3: with a flow label, addresses and label are the flow; fragments and what is encrypted then keep to it.
    match ip.flow_label() {
        0 => {
            let whole = ip.upper().filter(|u| !u.is_fragment);
            last(h, whole.map_or(0, |u| u.protocol), ip.ports())
        }
        label => finish(mix(h, u64::from(label))),
    }
}

/// Of a labelled packet: `bytes` begins with its label stack.
pub(super) fn of_labelled(seed: u64, bytes: &[u8]) -> u64 {
    let (mut h, mut at, mut extended, mut entropy) = (seed, 0, false, false);
    for _ in 0..MAX_STACK {
        let Some(entry) = bytes.get(at..).and_then(|b| mpls::Entry::parse(b).ok()) else { return finish(h) };
        at += mpls::LEN;
        let label = entry.label.get();
        // RFC 7274 §3.1, RFC 6790 §4.3: special-purpose labels tell no flows apart, nor does one of the extended range.
        if !entry.label.is_reserved() && !extended {
            h = mix(h, u64::from(label));
        }
        if entry.bottom {
            return if entropy { finish(h) } else { below(h, bytes.get(at..).unwrap_or_default()) };
        }
        extended = label == mpls::EXTENSION;
        // RFC 6790 §4.3: the ingress has said with the entropy label what the flow is.
        entropy |= label == mpls::ENTROPY_INDICATOR;
    }
    finish(h)
}

/// RFC 4928 §2: what begins with 4 or 6 below the stack is taken for IP, and nothing else is looked at.
fn below(h: u64, payload: &[u8]) -> u64 {
    if let Ok(ip) = ipv6::Packet::new(payload) {
        return of_ipv6(h, ip);
    }
    // The checksum is not ours to check here.
    match ipv4::Packet::trusted(payload) {
        Ok(ip) => of_ipv4(h, ip),
        Err(_) => finish(h),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_types::Label;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(label: u32, bottom: bool, ttl: u8) -> [u8; 4] {
        mpls::Entry { label: Label::try_from(label).unwrap(), tc: 0, bottom, ttl }.to_bytes()
    }

    fn v4(id: u16, port: u16) -> Vec<u8> {
        let h = ipv4::Header {
            tos: 0,
            total_len: 28,
            identification: id,
            ttl: 9,
            protocol: ipv4::UDP,
            source: [10, 1, 0, 9].into(),
            destination: [10, 2, 0, 9].into(),
        };
        [&h.to_bytes()[..], &port.to_be_bytes(), &[0, 53, 0, 8, 0, 0]].concat()
    }

    fn v6(flow_label: u32, port: u16) -> Vec<u8> {
        let h = ipv6::Header {
            traffic_class: 0,
            payload_len: 8,
            next_header: ipv4::UDP,
            hop_limit: 9,
            source: "2001:db8:1::9".parse().unwrap(),
            destination: "2001:db8:2::9".parse().unwrap(),
        };
        let mut b = [&h.to_bytes()[..], &port.to_be_bytes(), &[0, 53, 0, 8, 0, 0]].concat();
        b[1..4].copy_from_slice(&flow_label.to_be_bytes()[1..]);
        b
    }

    fn labelled(stack: &[[u8; 4]], payload: &[u8]) -> u64 {
        of_labelled(7, &[stack.concat(), payload.to_vec()].concat())
    }

    #[test]
    fn ports_and_flow_labels_tell_flows_apart_and_ttl_and_checksum_do_not() {
        let stack = [entry(100, false, 9), entry(200, true, 9)];
        assert_ne!(labelled(&stack, &v4(1, 1000)), labelled(&stack, &v4(1, 1001)));
        let mut other = v4(2, 1000);
        (other[8], other[10]) = (3, !other[10]);
        assert_eq!(labelled(&stack, &v4(1, 1000)), labelled(&[entry(100, false, 3), entry(200, true, 255)], &other));
        assert_ne!(labelled(&stack, &v6(0, 1000)), labelled(&stack, &v6(0, 1001)));
        // RFC 6438: with a flow label, ports are not looked at.
        assert_eq!(labelled(&stack, &v6(5, 1000)), labelled(&stack, &v6(5, 1001)));
        assert_ne!(labelled(&stack, &v6(5, 1000)), labelled(&stack, &v6(6, 1000)));
    }

    #[test]
    fn special_labels_do_not_count_and_entropy_does() {
        let with = |special: u32| labelled(&[entry(100, false, 9), entry(special, false, 9), entry(200, true, 9)], &v4(1, 1));
        let without = labelled(&[entry(100, false, 9), entry(200, true, 9)], &v4(1, 1));
        for special in [0, 1, 2, 3, 13, 14] {
            assert_eq!(with(special), without, "{special}");
        }
        let extended = |n: u32| labelled(&[entry(100, false, 9), entry(15, false, 9), entry(n, false, 9), entry(200, true, 9)], &v4(1, 1));
        assert_eq!((extended(20), extended(21)), (without, without));
        let entropy = |n: u32, port| labelled(&[entry(100, false, 9), entry(7, false, 9), entry(n, true, 0)], &v4(1, port));
        assert_ne!(entropy(5000, 1), entropy(5001, 1));
        assert_eq!(entropy(5000, 1), entropy(5000, 2), "the ingress has hashed the ports");
    }

    #[test]
    fn rfc_4928_what_is_not_ip_is_one_flow() {
        let stack = [entry(100, true, 9)];
        for first in (0..=255u8).filter(|b| !matches!(b >> 4, 4 | 6)) {
            assert_eq!(labelled(&stack, &[&[first][..], &[1; 60]].concat()), labelled(&stack, &[&[first][..], &[2; 60]].concat()));
        }
    }

    /// Both halves spread, and among the flows of one path the legs are spread again; whatever the seed.
    #[test]
    fn the_halves_are_even_and_independent() {
        for seed in [0, 1, u64::MAX] {
            let mut seen: BTreeMap<(u64, u64), u32> = BTreeMap::new();
            for port in 0..9000u16 {
                let h = of_ipv4(seed, ipv4::Packet::new(&v4(1, port)).unwrap());
                *seen.entry((((h >> 32) * 3) >> 32, ((h & 0xffff_ffff) * 3) >> 32)).or_default() += 1;
            }
            assert!(seen.len() == 9 && seen.values().all(|n| (850..1150).contains(n)), "{seen:?}");
        }
    }

    /// A router behind another sees only the flows that the first one chose, and must spread them all the same.
    #[test]
    fn routers_in_a_row_do_not_choose_alike() {
        let flows: Vec<_> = (0..8000u16).map(|p| v4(1, p)).collect();
        let choose = |seed, b: &[u8]| of_ipv4(seed, ipv4::Packet::new(b).unwrap()) >> 63;
        let second: Vec<_> = flows.iter().filter(|b| choose(1, b) == 0).map(|b| choose(2, b)).collect();
        let share = second.iter().filter(|c| **c == 0).count() * 100 / second.len();
        assert!((45..55).contains(&share), "{share} %");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>, stack in proptest::collection::vec(any::<u32>(), 0..20)) {
            let stack: Vec<u8> = stack.iter().flat_map(|w| w.to_be_bytes()).collect();
            of_labelled(1, &[stack, bytes.clone()].concat());
            of_labelled(1, &bytes);
        }
    }
}
