//! ICMP errors about labelled packets, and the packets whose errors are the control plane's to tell.

use super::super::icmp::{self, Error, Sources, may_be_told};
use super::super::ingress::MAX_STACK;
use super::super::{Sink, ip::Ip};
use super::switch::Origin;
use super::{Drop, Lsr};
use edgeplex_ff_packet::{ipv4, mpls};
use edgeplex_ff_phy::PacketBuf;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

/// RFC 8029 §4.3: UDP port of LSP ping.
const LSP_PING: u16 = 3503;
/// Traffic class of what we originate: internetwork control.
const TC: u8 = 6;

impl<B: PacketBuf> Lsr<B> {
    /// RFC 3032 §2.3: tells the source of the packet below the stack. We may know no way back to it, but the end of the
    /// LSP does: the error is switched on as the packet would have been, under the same labels with new TTLs.
    pub(super) fn tell(&mut self, now: Instant, port: u8, error: Error, about: &B, sink: &mut impl Sink<B, u8>) {
        let bytes = about.data();
        let Some(depth) = mpls::depth(bytes, MAX_STACK) else { return };
        let (stack, packet) = bytes.split_at(depth * mpls::LEN);
        let (Ok(ip), Some(here)) = (Ip::parse(packet), self.port(port)) else { return };
        if !may_be_told(ip) {
            return;
        }
        let from = sources(here.address);
        if !self.icmp.take(now) {
            return self.counts.drop(Drop::IcmpRateLimited);
        }
        self.identification = self.identification.wrapping_add(1);
        let told = icmp::datagram(sink.alloc(), error, from, self.identification, ip, stack).and_then(|made| {
            let Some(mut buf) = made else { return Ok(()) };
            let ttl = Ip::parse(buf.data())?.ttl();
            let room = buf.push_front(stack.len()).ok_or(Drop::NoHeadroom)?;
            let mut entropy = false;
            for (place, entry) in room.chunks_exact_mut(mpls::LEN).zip(stack.chunks_exact(mpls::LEN)) {
                let entry = mpls::Entry::parse(entry).map_err(|_| Drop::MplsMalformed)?;
                // RFC 6790 §4.2: an entropy label has no TTL.
                let ttl = if entropy { entry.ttl } else { ttl };
                entropy = entry.label.get() == mpls::ENTROPY_INDICATOR;
                place.copy_from_slice(&mpls::Entry { tc: TC, ttl, ..entry }.to_bytes());
            }
            self.switch(now, port, buf, Origin::Own, sink)
        });
        if let Err(reason) = told {
            self.counts.drop(reason);
        }
    }
}

/// We have IPv4 addresses only. In IPv6 they stand under the prefix of RFC 8215, which exists for that; from addresses
/// under ::ffff/96 hosts take nothing.
fn sources(address: Ipv4Addr) -> Sources {
    let [a, b, c, d] = address.octets();
    let v6 = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let known = !address.is_unspecified();
    Sources { v4: known.then_some(address), v6: known.then_some(v6) }
}

/// RFC 8029 §4.3: an echo request, which no router may forward by its address.
pub(super) fn is_lsp_ping(bytes: &[u8]) -> bool {
    let Some(depth) = mpls::depth(bytes, MAX_STACK) else { return false };
    let Ok(ip) = Ip::parse(bytes.get(depth * mpls::LEN..).unwrap_or_default()) else { return false };
    let loopback = match ip.destination() {
        IpAddr::V4(a) => a.is_loopback(),
        // ::ffff:127.0.0.0/104.
        IpAddr::V6(a) => a.to_ipv4_mapped().is_some_and(|a| a.is_loopback()),
    };
    let ports = match ip {
        Ip::V4(p) if p.protocol() == ipv4::UDP => p.ports(),
        Ip::V6(p) => p.upper().filter(|u| u.protocol == ipv4::UDP).and_then(|_| p.ports()),
        Ip::V4(_) => None,
    };
    loopback && ports.is_some_and(|(_, destination)| destination == LSP_PING)
}
