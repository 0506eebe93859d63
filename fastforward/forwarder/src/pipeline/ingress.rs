//! What a frame must be on each port before its packet is routed.

use super::egress::Origin;
use super::ip::{Ip, is_own, strip};
use super::{Drop, Forwarder, Port, Punt, Sink};
use edgeplex_ff_fib::Incoming;
use edgeplex_ff_fib::api::VRF_MAC;
use edgeplex_ff_packet::{arp::Arp, ethernet, ipv6, mpls, nd};
use edgeplex_ff_phy::PacketBuf;
use edgeplex_types::MacAddr;
use std::time::Instant;

/// Label stack entries looked at, at most.
pub(super) const MAX_STACK: usize = 16;

impl<B: PacketBuf> Forwarder<B> {
    pub(super) fn customer(&mut self, now: Instant, mut buf: B, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let frame = ethernet::Frame::new(buf.data()).map_err(|_| Drop::EthernetMalformed)?;
        let (destination, source) = (frame.destination(), frame.source());
        let interface = self.fib.interface().ok_or(Drop::NotReady)?;
        if frame.tag().is_some() {
            return Err(Drop::VlanUnexpected);
        }
        if !source.is_unicast() || source == interface.mac || source == VRF_MAC {
            return Err(Drop::SourceMac);
        }
        let to_us = destination == interface.mac;
        let ip = match frame.ether_type() {
            ethernet::ARP if to_us || destination == MacAddr::BROADCAST => {
                let arp = Arp::parse(frame.payload()).map_err(|_| Drop::ArpMalformed)?;
                return self.arp(now, arp, buf, sink);
            }
            ethernet::IPV4 if to_us => Ip::v4(frame.payload())?,
            // RFC 2464 §7: to us, or to a group.
            ethernet::IPV6 if to_us || destination.0.starts_with(&[0x33, 0x33]) => {
                let ip = ipv6::Packet::new(frame.payload()).map_err(|e| Drop::ip(e.fault))?;
                if ip.next_header() == ipv6::ICMP && ip.payload().first().is_some_and(|kind| nd::TYPES.contains(kind)) {
                    return self.neighbour_discovery(now, ip.total_len(), buf, sink);
                }
                if !to_us {
                    return Err(Drop::NotUnicast);
                }
                Ip::V6(ip)
            }
            ethernet::IPV4 | ethernet::IPV6 if !destination.is_unicast() => return Err(Drop::NotUnicast),
            ethernet::ARP | ethernet::IPV4 | ethernet::IPV6 => return Err(Drop::MacNotOurs),
            _ => return Err(Drop::EthertypeUnknown),
        };
        ip.check(interface)?;
        let len = ethernet::HEADER_LEN + ip.total_len();
        if is_own(interface, ip.destination()) {
            let class = if ip.is_routing() { Punt::Routing } else { Punt::Other };
            buf.set_len(len);
            return self.punt(now, buf, class, sink);
        }
        let packet = ip.facts(self.seed, ip.ttl(), 0);
        strip(&mut buf, ethernet::HEADER_LEN, len)?;
        self.route(now, buf, &packet, Origin::Customer, sink)
    }

    pub(super) fn core(&mut self, now: Instant, mut buf: B, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let frame = ethernet::Frame::new(buf.data()).map_err(|_| Drop::EthernetMalformed)?;
        let interface = self.fib.interface().ok_or(Drop::NotReady)?;
        if frame.tag().is_some() {
            return Err(Drop::VlanUnexpected);
        }
        if frame.ether_type() != ethernet::MPLS {
            return Err(Drop::EthertypeUnknown);
        }
        if !frame.destination().is_unicast() {
            return Err(Drop::MacNotOurs);
        }
        let (stack, ttl, meaning) = self.own_stack(frame.payload())?;
        let ip = Ip::parse(&frame.payload()[stack..])?;
        ip.check(interface)?;
        // RFC 3443 §3.5, uniform model: the TTL of the label goes on in the packet. Taking the lower of the two
        // keeps a loop finite whatever the ingress did.
        let packet = ip.facts(self.seed, ttl.min(ip.ttl()), stack);
        let header = ethernet::HEADER_LEN + stack;
        let len = header + ip.total_len();
        strip(&mut buf, header, len)?;
        match meaning {
            Incoming::Vrf => self.route(now, buf, &packet, Origin::Core, sink),
            Incoming::NextHop(ce) => self.send_to_ce(now, buf, &packet, ce, sink),
            // Neither is programmed into a port VM.
            Incoming::Tunnel(_) | Incoming::Pop => Err(Drop::LabelUnknown),
        }
    }

    /// Length of the label stack, its TTL, and what our label means: it is the last, behind nothing but explicit nulls.
    fn own_stack(&self, bytes: &[u8]) -> Result<(usize, u8, Incoming), Drop> {
        let mut ttl = u8::MAX;
        for i in 0..MAX_STACK {
            let at = i * mpls::LEN;
            let entry = bytes.get(at..).and_then(|b| mpls::Entry::parse(b).ok()).ok_or(Drop::MplsMalformed)?;
            ttl = ttl.min(entry.ttl);
            // RFC 4182 §2: explicit null may stand anywhere in the stack; it is popped and the next entry counts.
            // At the bottom it names no VRF, and falls through to be unknown.
            if matches!(entry.label.get(), mpls::IPV4_EXPLICIT_NULL | mpls::IPV6_EXPLICIT_NULL) && !entry.bottom {
                continue;
            }
            let meaning = self.fib.label(entry.label).ok_or(Drop::LabelUnknown)?;
            return if entry.bottom { Ok((at + mpls::LEN, ttl, meaning)) } else { Err(Drop::LabelNotBottom) };
        }
        Err(Drop::LabelStackDepth)
    }

    pub(super) fn tap(&mut self, now: Instant, mut buf: B, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let frame = ethernet::Frame::new(buf.data()).map_err(|_| Drop::EthernetMalformed)?;
        if frame.destination() != VRF_MAC {
            self.send(Port::Customer, buf, sink);
            return Ok(());
        }
        self.fib.interface().ok_or(Drop::NotReady)?;
        if frame.tag().is_some() {
            return Err(Drop::VlanUnexpected);
        }
        let ip = match frame.ether_type() {
            ethernet::IPV4 => Ip::v4(frame.payload())?,
            ethernet::IPV6 => Ip::v6(frame.payload())?,
            _ => return Err(Drop::EthertypeUnknown),
        };
        match ip {
            Ip::V4(p) if p.destination().octets()[0] >= 224 => return Err(Drop::NotUnicast),
            Ip::V6(p) if p.destination().is_multicast() => return Err(Drop::NotUnicast),
            // The kernel sends it on the link itself.
            Ip::V6(p) if p.destination().is_unicast_link_local() => return Err(Drop::LinkLocal),
            _ => {}
        }
        let packet = ip.facts(self.seed, ip.ttl(), 0);
        let len = ethernet::HEADER_LEN + ip.total_len();
        strip(&mut buf, ethernet::HEADER_LEN, len)?;
        self.route(now, buf, &packet, Origin::Tap, sink)
    }
}
