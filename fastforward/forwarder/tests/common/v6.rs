//! IPv6 frames, by hand.

use super::{CE, OURS, P, PE, VRF, checksum, eth};
use std::net::Ipv6Addr;

pub(crate) const NEAR6: &str = "2001:db8:1::9";
pub(crate) const FAR6: &str = "2001:db8:2::9";
pub(crate) const CE6: &str = "2001:db8:f::2";
pub(crate) const OUR6: &str = "2001:db8:f::1";
pub(crate) const CE_LINK: &str = "fe80::2";
pub(crate) const OUR_LINK: &str = "fe80::1";

#[derive(Clone)]
pub(crate) struct Ip6 {
    pub(crate) class: u8,
    pub(crate) flow: u32,
    pub(crate) hops: u8,
    pub(crate) next: u8,
    pub(crate) src: String,
    pub(crate) dst: String,
    pub(crate) payload: Vec<u8>,
}

/// A UDP packet with hop limit 64 and 16 bytes behind the header.
pub(crate) fn udp6(src: &str, dst: &str) -> Ip6 {
    let payload = vec![0x30, 0x39, 0, 9, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    Ip6 { class: 0, flow: 0, hops: 64, next: 17, src: src.into(), dst: dst.into(), payload }
}

pub(crate) fn octets(a: &str) -> [u8; 16] {
    a.parse::<Ipv6Addr>().unwrap().octets()
}

/// An ICMPv6 message with its checksum.
pub(crate) fn icmp6(src: &str, dst: &str, hops: u8, class: u8, mut message: Vec<u8>) -> Ip6 {
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    let sum = checksum(&[&octets(src)[..], &octets(dst), &len, &[0, 0, 0, 58], &message].concat());
    message[2..4].copy_from_slice(&sum);
    Ip6 { class, flow: 0, hops, next: 58, src: src.into(), dst: dst.into(), payload: message }
}

/// The error of type, code and second word, from our global address.
pub(crate) fn error6(kind: u8, code: u8, word: u32, about: &[u8], to: &str) -> Ip6 {
    let quote = &about[..about.len().min(1232)];
    icmp6(OUR6, to, 64, 0xc0, [&[kind, code, 0, 0][..], &word.to_be_bytes(), quote].concat())
}

/// The same about a packet that came under labels, from whom it is.
pub(crate) fn labelled6(from: &str, kind: u8, code: u8, about: &[u8], stack: &[[u8; 4]], to: &str) -> Ip6 {
    icmp6(from, to, 64, 0xc0, [&[kind, code, 0, 0, 128 / 8, 0, 0, 0][..], &super::quote_and_stack(about, stack)].concat())
}

/// A neighbour solicitation or advertisement with its option.
pub(crate) fn nd(kind: u8, flags: u8, src: &str, dst: &str, target: &str, mac: [u8; 6]) -> Ip6 {
    let option = if kind == 135 { 1 } else { 2 };
    icmp6(src, dst, 255, 0xc0, [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &octets(target), &[option, 1], &mac].concat())
}

impl Ip6 {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let first = 6 << 28 | u32::from(self.class) << 20 | self.flow;
        let len = u16::try_from(self.payload.len()).unwrap().to_be_bytes();
        [&first.to_be_bytes()[..], &len, &[self.next, self.hops], &octets(&self.src), &octets(&self.dst), &self.payload].concat()
    }
    pub(crate) fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }
    pub(crate) fn class(mut self, class: u8) -> Self {
        self.class = class;
        self
    }
    pub(crate) fn flow(mut self, flow: u32) -> Self {
        self.flow = flow;
        self
    }
    pub(crate) fn len(mut self, total: usize) -> Self {
        self.payload = (0..total - 40).map(|i| u8::try_from(i % 251).unwrap()).collect();
        self
    }
    pub(crate) fn ce_sends(&self) -> Vec<u8> {
        eth(OURS, CE, 0x86dd, &self.bytes())
    }
    pub(crate) fn to_ce(&self) -> Vec<u8> {
        eth(CE, OURS, 0x86dd, &self.bytes())
    }
    /// To the Ethernet group of its destination.
    pub(crate) fn to_group(&self, from: [u8; 6]) -> Vec<u8> {
        let [.., a, b, c, d] = octets(&self.dst);
        eth([0x33, 0x33, a, b, c, d], from, 0x86dd, &self.bytes())
    }
    pub(crate) fn kernel_sends(&self) -> Vec<u8> {
        eth(VRF, OURS, 0x86dd, &self.bytes())
    }
    pub(crate) fn to_kernel(&self) -> Vec<u8> {
        eth(OURS, VRF, 0x86dd, &self.bytes())
    }
    pub(crate) fn p_sends(&self, stack: &[[u8; 4]]) -> Vec<u8> {
        eth(PE, P, 0x8847, &[stack.concat(), self.bytes()].concat())
    }
    pub(crate) fn to_p(&self, stack: &[[u8; 4]]) -> Vec<u8> {
        eth(P, PE, 0x8847, &[stack.concat(), self.bytes()].concat())
    }
}
