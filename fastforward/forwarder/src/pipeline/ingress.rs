//! What a frame must be on each port before its packet is routed.

use super::egress::{Origin, Packet};
use super::{Drop, Forwarder, Port, Sink};
use edgeplex_ff_fib::api::{Interface, VRF_MAC};
use edgeplex_ff_packet::arp::{self, Arp};
use edgeplex_ff_packet::{ethernet, ipv4, mpls};
use edgeplex_ff_phy::PacketBuf;
use edgeplex_types::{Label, MacAddr};
use std::net::Ipv4Addr;
use std::time::Instant;

/// Label stack entries looked at, at most.
const MAX_STACK: usize = 16;

pub(super) fn is_own(i: &Interface, a: Ipv4Addr) -> bool {
    i.addresses.iter().any(|n| n.addr() == a)
}

/// Network or broadcast address of one of the attachment's subnets; /31 and /32 have none (RFC 3021).
pub(super) fn is_subnet_broadcast(i: &Interface, a: Ipv4Addr) -> bool {
    i.addresses.iter().any(|n| n.prefix_len() < 31 && (n.broadcast() == a || n.network() == a))
}

/// RFC 1812 §5.3.7: addresses that no packet to be forwarded may have.
fn is_martian(a: Ipv4Addr) -> bool {
    matches!(a.octets()[0], 0 | 127)
}

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
        match frame.ether_type() {
            ethernet::ARP if to_us || destination == MacAddr::BROADCAST => {
                let arp = Arp::parse(frame.payload()).map_err(|_| Drop::ArpMalformed)?;
                self.arp(now, arp, buf, sink)
            }
            ethernet::IPV4 if to_us => {
                let ip = ipv4::Packet::new(frame.payload()).map_err(|e| Drop::ipv4(e.fault))?;
                check(interface, ip)?;
                let len = ethernet::HEADER_LEN + ip.total_len();
                if is_own(interface, ip.destination()) {
                    let routing = is_routing(ip);
                    buf.set_len(len);
                    return self.punt(now, buf, routing, sink);
                }
                let packet = Packet::of(ip, ip.ttl());
                strip(&mut buf, ethernet::HEADER_LEN, len)?;
                self.forward(now, buf, packet, Origin::Customer, sink)
            }
            ethernet::IPV4 if !destination.is_unicast() => Err(Drop::NotUnicast),
            ethernet::ARP | ethernet::IPV4 => Err(Drop::MacNotOurs),
            _ => Err(Drop::EthertypeUnknown),
        }
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
        let (labels, ttl) = self.own_stack(frame.payload())?;
        let ip = ipv4::Packet::new(&frame.payload()[labels..]).map_err(|e| Drop::ipv4(e.fault))?;
        check(interface, ip)?;
        // RFC 3443 §3.5, uniform model: the TTL of the label goes on in the packet. Taking the lower of the two
        // keeps a loop finite whatever the ingress did.
        let packet = Packet::of(ip, ttl.min(ip.ttl()));
        let header = ethernet::HEADER_LEN + labels;
        let len = header + ip.total_len();
        strip(&mut buf, header, len)?;
        self.forward(now, buf, packet, Origin::Core, sink)
    }

    /// Length of the label stack and its TTL: our label, last in the stack, behind nothing but explicit nulls.
    fn own_stack(&self, bytes: &[u8]) -> Result<(usize, u8), Drop> {
        let mut ttl = u8::MAX;
        for i in 0..MAX_STACK {
            let at = i * mpls::LEN;
            let entry = bytes.get(at..).and_then(|b| mpls::Entry::parse(b).ok()).ok_or(Drop::MplsMalformed)?;
            ttl = ttl.min(entry.ttl);
            // RFC 4182 §2: explicit null may stand anywhere in the stack; it is popped and the next entry counts.
            // At the bottom it names no VRF, and falls through to be unknown.
            if entry.label == Label::IPV4_EXPLICIT_NULL && !entry.bottom {
                continue;
            }
            if !self.fib.is_own_label(entry.label) {
                return Err(Drop::LabelUnknown);
            }
            return if entry.bottom { Ok((at + mpls::LEN, ttl)) } else { Err(Drop::LabelNotBottom) };
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
        if frame.ether_type() != ethernet::IPV4 {
            return Err(Drop::EthertypeUnknown);
        }
        let ip = ipv4::Packet::new(frame.payload()).map_err(|e| Drop::ipv4(e.fault))?;
        if ip.destination().octets()[0] >= 224 {
            return Err(Drop::NotUnicast);
        }
        let packet = Packet::of(ip, ip.ttl());
        let len = ethernet::HEADER_LEN + ip.total_len();
        strip(&mut buf, ethernet::HEADER_LEN, len)?;
        self.forward(now, buf, packet, Origin::Tap, sink)
    }

    /// ARP on the customer side (RFC 826; gratuitous and probe packets: RFC 5227).
    fn arp(&mut self, now: Instant, arp: Arp, mut buf: B, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let interface = self.fib.interface().ok_or(Drop::NotReady)?;
        let mac = interface.mac;
        if !arp.sender_mac.is_unicast() {
            return Err(Drop::ArpMalformed);
        }
        if is_own(interface, arp.sender) || arp.sender_mac == mac {
            return Err(Drop::ArpConflict);
        }
        let for_us = is_own(interface, arp.target);
        let probe = arp.sender.is_unspecified() && arp.operation == arp::REQUEST;
        if !probe {
            let on_subnet = interface.addresses.iter().any(|n| n.contains(&arp.sender)) && !is_subnet_broadcast(interface, arp.sender);
            if !on_subnet {
                return Err(Drop::ArpForeign);
            }
            if let Some(waiting) = self.neighbours.learn(now, arp.sender, arp.sender_mac, for_us) {
                for packet in waiting.into_iter().flatten() {
                    self.send_framed(arp.sender_mac, packet, sink);
                }
            }
        }
        if for_us && arp.operation == arp::REQUEST {
            let reply = Arp { operation: arp::REPLY, sender_mac: mac, sender: arp.target, target_mac: arp.sender_mac, target: arp.sender };
            let fits = buf.set_len(ethernet::HEADER_LEN + arp::LEN);
            let (Some((header, body)), true) = (buf.data_mut().split_at_mut_checked(ethernet::HEADER_LEN), fits) else {
                return Err(Drop::NoBuffer);
            };
            header.copy_from_slice(&ethernet::header(arp.sender_mac, mac, ethernet::ARP));
            body.copy_from_slice(&reply.to_bytes());
            self.send(Port::Customer, buf, sink);
            return Ok(());
        }
        // The VM's kernel keeps neighbours of its own: it needs answers, and to hear of a neighbour that moved.
        if for_us && arp.operation == arp::REPLY || arp.sender == arp.target && !probe {
            return self.punt(now, buf, true, sink);
        }
        Err(Drop::ArpNotForUs)
    }
}

/// Leaves the bytes from `front` to `len`: the IPv4 packet without what stood around it.
fn strip(buf: &mut impl PacketBuf, front: usize, len: usize) -> Result<(), Drop> {
    // The views have seen these bytes; a buffer that refuses is broken.
    if buf.set_len(len) && buf.pull_front(front) { Ok(()) } else { Err(Drop::NoBuffer) }
}

/// Addresses a packet from outside must not have.
fn check(interface: &Interface, ip: ipv4::Packet) -> Result<(), Drop> {
    let (source, destination) = (ip.source(), ip.destination());
    if is_own(interface, source) {
        return Err(Drop::SourceOwnAddress);
    }
    if is_martian(source) || source.octets()[0] >= 224 || is_subnet_broadcast(interface, source) {
        return Err(Drop::MartianSource);
    }
    // RFC 1812 §5.3.4, §5.3.5: no multicast routing here, and broadcasts, directed ones too, end at the router.
    if destination.octets()[0] >= 224 || is_subnet_broadcast(interface, destination) {
        return Err(Drop::NotUnicast);
    }
    if is_martian(destination) {
        return Err(Drop::MartianDestination);
    }
    Ok(())
}

/// What keeps a routing session alive: BGP.
pub(super) fn is_routing(ip: ipv4::Packet) -> bool {
    const BGP: u16 = 179;
    ip.protocol() == ipv4::TCP && ip.ports().is_some_and(|(s, d)| s == BGP || d == BGP)
}
