//! Where a packet goes: VRF lookup, TTL, MTU, labels and rewrite; or to the VM's kernel; or back as an ICMP error.
//!
//! From here on a buffer begins with its IPv4 header and ends with its packet; what it needs in front is pushed on
//! the way out.

use super::ingress::{is_own, is_routing, is_subnet_broadcast};
use super::neighbour::Sent;
use super::{Drop, Forwarder, Port, Sink, counters};
use edgeplex_ff_fib::api::VRF_MAC;
use edgeplex_ff_fib::{Forward, Rewrite};
use edgeplex_ff_packet::arp::{self, Arp};
use edgeplex_ff_packet::icmpv4::{self, Error};
use edgeplex_ff_packet::{ethernet, ipv4, mpls};
use edgeplex_ff_phy::PacketBuf;
use edgeplex_types::{Label, MacAddr};
use std::net::Ipv4Addr;
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Customer,
    Core,
    Tap,
    /// An ICMP error of ours.
    Own,
}

impl Origin {
    /// A router decrements what it forwards, not what its own host sends.
    fn decrements(self) -> bool {
        matches!(self, Self::Customer | Self::Core)
    }
}

/// What forwarding needs to know of a packet, read once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    destination: Ipv4Addr,
    tos: u8,
    /// The TTL it arrived with, label stack considered.
    ttl: u8,
    header_ttl: u8,
    dont_fragment: bool,
    len: usize,
    flow: u32,
}

impl Packet {
    pub(super) fn of(ip: ipv4::Packet, ttl: u8) -> Self {
        Self {
            destination: ip.destination(),
            tos: ip.tos(),
            ttl,
            header_ttl: ip.ttl(),
            dont_fragment: ip.dont_fragment(),
            len: ip.total_len(),
            flow: flow(ip),
        }
    }
}

/// A hash of the flow: equal for all packets of one, spread over 32 bits.
fn flow(ip: ipv4::Packet) -> u32 {
    let (s, d) = ip.ports().unwrap_or((0, 0));
    let addresses = u64::from(u32::from(ip.source())) << 32 | u64::from(u32::from(ip.destination()));
    let rest = u64::from(s) << 32 | u64::from(d) << 8 | u64::from(ip.protocol());
    let h = (addresses ^ rest.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let [a, b, c, e, ..] = (h ^ h >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    u32::from_be_bytes([a, b, c, e])
}

/// The way out, copied from the FIB.
#[derive(Debug, Clone, Copy)]
enum Exit {
    Core(Label, Rewrite),
    Neighbour(Ipv4Addr),
}

impl<B: PacketBuf> Forwarder<B> {
    /// Routes a packet by the VRF.
    pub(super) fn forward(&mut self, now: Instant, buf: B, p: Packet, origin: Origin, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let interface = self.fib.interface().ok_or(Drop::NotReady)?;
        let route = self.fib.route(p.destination);
        if matches!(route, Some(Forward::Local)) || is_own(interface, p.destination) {
            return self.deliver(now, buf, p, origin, sink);
        }
        let exit = match route {
            // RFC 1812 §5.3.1: a packet whose TTL would become zero is not forwarded, whatever its route.
            _ if origin.decrements() && p.ttl <= 1 => Err((Drop::TtlExpired, Some(Error::TimeExceeded))),
            None => Err((Drop::NoRoute, Some(Error::NetUnreachable))),
            Some(Forward::Unreachable) => Err((Drop::RouteUnreachable, Some(Error::NetUnreachable))),
            Some(Forward::Connected) => Ok(Exit::Neighbour(p.destination)),
            Some(Forward::Customer(next_hop)) => Ok(Exit::Neighbour(*next_hop)),
            // A tunnel comes back or the route goes; meanwhile nobody is told that the net is unreachable.
            Some(vpn) => self.fib.path(vpn, p.flow).map(|(path, r)| Exit::Core(path.label, *r)).ok_or((Drop::TunnelDown, None)),
            // `Local` was taken above.
        };
        match exit {
            Ok(exit) => self.leave(now, buf, p, origin, exit, sink),
            Err((reason, error)) => {
                if let Some(error) = error
                    && origin != Origin::Own
                {
                    self.tell(now, error, &buf, sink);
                }
                Err(reason)
            }
        }
    }

    fn mtu(&self, exit: &Exit) -> usize {
        let Some(i) = self.fib.interface() else { return 0 };
        match exit {
            Exit::Neighbour(_) => usize::from(i.customer_mtu),
            Exit::Core(_, r) => usize::from(i.core_mtu).saturating_sub(mpls::LEN * (1 + r.transport().len())),
        }
    }

    /// TTL and MTU, then out; in pieces if it must be.
    fn leave(&mut self, now: Instant, mut buf: B, p: Packet, origin: Origin, exit: Exit, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let ttl = if origin.decrements() { p.ttl.saturating_sub(1) } else { p.ttl };
        let mtu = self.mtu(&exit);
        if p.len > mtu && p.dont_fragment {
            if origin != Origin::Own {
                // RFC 1191 §4: the MTU of the next hop, labels already taken off.
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                self.tell(now, Error::FragmentationNeeded { mtu }, &buf, sink);
            }
            return Err(Drop::MtuExceeded);
        }
        if ttl != p.header_ttl {
            ipv4::set_ttl(buf.data_mut(), ttl);
        }
        if p.len <= mtu {
            return self.out(now, buf, p.tos, ttl, exit, sink);
        }
        let whole = ipv4::Packet::new(buf.data()).map_err(|e| Drop::ipv4(e.fault))?;
        for fragment in ipv4::fragments(whole, mtu) {
            let mut piece = sink.alloc().ok_or(Drop::NoBuffer)?;
            let header = fragment.header().len();
            if !piece.set_len(header + fragment.payload.len()) {
                return Err(Drop::NoBuffer);
            }
            let (to_header, to_payload) = piece.data_mut().split_at_mut(header);
            to_header.copy_from_slice(fragment.header());
            to_payload.copy_from_slice(&whole.payload()[fragment.payload.clone()]);
            self.out(now, piece, p.tos, ttl, exit, sink)?;
        }
        Ok(())
    }

    fn out(&mut self, now: Instant, buf: B, tos: u8, ttl: u8, exit: Exit, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        match exit {
            Exit::Core(label, rewrite) => self.send_labelled(buf, tos, ttl, label, &rewrite, sink),
            Exit::Neighbour(address) => match self.neighbours.send(now, address, buf) {
                Sent::Ready(mac, buf) => {
                    self.send_framed(mac, buf, sink);
                    Ok(())
                }
                Sent::Waits { ask, displaced } => {
                    if ask {
                        self.ask(address, None, sink);
                    }
                    if displaced.is_some() {
                        self.counts.drop(Drop::NeighbourQueueFull);
                    }
                    Ok(())
                }
                Sent::Refused => Err(Drop::NeighbourTableFull),
            },
        }
    }

    /// Pushes the VPN label, the transport labels and the Ethernet header.
    fn send_labelled(&mut self, mut buf: B, tos: u8, ttl: u8, label: Label, r: &Rewrite, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let transport = r.transport();
        let front = ethernet::HEADER_LEN + mpls::LEN * (transport.len() + 1);
        let bytes = buf.push_front(front).ok_or(Drop::NoHeadroom)?;
        let (header, stack) = bytes.split_at_mut(ethernet::HEADER_LEN);
        header.copy_from_slice(&ethernet::header(r.destination, r.source, ethernet::MPLS));
        // RFC 3443 §3.1, uniform model: every pushed label carries the TTL of the packet.
        // RFC 5462: TC is the IP precedence bits, the top three of the DSCP.
        let tc = tos >> 5;
        let labels = transport.iter().map(|l| (*l, false)).chain([(label, true)]);
        for (place, (label, bottom)) in stack.chunks_exact_mut(mpls::LEN).zip(labels) {
            place.copy_from_slice(&mpls::Entry { label, tc, bottom, ttl }.to_bytes());
        }
        self.send(Port::Core, buf, sink);
        Ok(())
    }

    pub(super) fn send_framed(&mut self, mac: MacAddr, mut buf: B, sink: &mut impl Sink<B>) {
        let Some(own) = self.fib.interface().map(|i| i.mac) else { return self.counts.drop(Drop::NotReady) };
        let Some(header) = buf.push_front(ethernet::HEADER_LEN).and_then(|b| b.first_chunk_mut()) else {
            return self.counts.drop(Drop::NoHeadroom);
        };
        *header = ethernet::header(mac, own, ethernet::IPV4);
        self.send(Port::Customer, buf, sink);
    }

    /// To the VM's own kernel, under a header as if its gateway had sent it.
    fn deliver(&mut self, now: Instant, mut buf: B, p: Packet, origin: Origin, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        if origin == Origin::Tap {
            return Err(Drop::TapLoop);
        }
        let mac = self.fib.interface().ok_or(Drop::NotReady)?.mac;
        if p.ttl != p.header_ttl {
            ipv4::set_ttl(buf.data_mut(), p.ttl);
        }
        let routing = ipv4::Packet::new(buf.data()).is_ok_and(is_routing);
        let header = buf.push_front(ethernet::HEADER_LEN).and_then(|b| b.first_chunk_mut()).ok_or(Drop::NoHeadroom)?;
        *header = ethernet::header(mac, VRF_MAC, ethernet::IPV4);
        self.punt(now, buf, routing, sink)
    }

    /// Hands a frame to the VM's own kernel if the policer lets it.
    pub(super) fn punt(&mut self, now: Instant, frame: B, routing: bool, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let bucket = if routing { &mut self.punt_routing } else { &mut self.punt_other };
        if !bucket.take(now) {
            return Err(Drop::PuntPoliced);
        }
        self.send(Port::Tap, frame, sink);
        Ok(())
    }

    /// Sends an ARP request, to one MAC address or to all.
    pub(super) fn ask(&mut self, address: Ipv4Addr, unicast: Option<MacAddr>, sink: &mut impl Sink<B>) {
        let Some(i) = self.fib.interface() else { return };
        // The address of ours that shares the neighbour's subnet, else the first.
        let ours = i.addresses.iter().find(|n| n.contains(&address)).or(i.addresses.first());
        let Some(ours) = ours else { return };
        let request = Arp { operation: arp::REQUEST, sender_mac: i.mac, sender: ours.addr(), target_mac: MacAddr([0; 6]), target: address };
        let header = ethernet::header(unicast.unwrap_or(MacAddr::BROADCAST), i.mac, ethernet::ARP);
        let Some(mut buf) = sink.alloc() else { return self.counts.drop(Drop::NoBuffer) };
        if !buf.set_len(header.len() + arp::LEN) {
            return self.counts.drop(Drop::NoBuffer);
        }
        let (to_header, to_body) = buf.data_mut().split_at_mut(header.len());
        to_header.copy_from_slice(&header);
        to_body.copy_from_slice(&request.to_bytes());
        self.send(Port::Customer, buf, sink);
    }

    /// Tells the sender of a packet by ICMP, routed by the VRF, unless RFC 1812 forbids it or the limit is reached.
    pub(super) fn tell(&mut self, now: Instant, error: Error, about: &B, sink: &mut impl Sink<B>) {
        let (Ok(ip), Some(i)) = (ipv4::Packet::new(about.data()), self.fib.interface()) else { return };
        let Some(source) = i.addresses.first().map(|n| n.addr()) else { return };
        if !icmpv4::may_be_told(ip) || is_subnet_broadcast(i, ip.source()) {
            return;
        }
        if !self.icmp.take(now) {
            return self.counts.drop(Drop::IcmpRateLimited);
        }
        self.identification = self.identification.wrapping_add(1);
        let buf = sink.alloc().and_then(|mut b| {
            let ok = b.set_len(icmpv4::datagram_len(ip)) && icmpv4::write(b.data_mut(), error, source, self.identification, ip);
            ok.then_some(b)
        });
        let Some(buf) = buf else { return self.counts.drop(Drop::NoBuffer) };
        let Ok(made) = ipv4::Packet::new(buf.data()) else { return };
        let packet = Packet::of(made, made.ttl());
        if let Err(reason) = self.forward(now, buf, packet, Origin::Own, sink) {
            self.counts.drop(reason);
        }
    }

    pub(super) fn send(&mut self, port: Port, buf: B, sink: &mut impl Sink<B>) {
        let count = match port {
            Port::Customer => &mut self.counts.to_customer,
            Port::Core => &mut self.counts.to_core,
            Port::Tap => &mut self.counts.punted,
        };
        counters::add(count, buf.data().len());
        sink.send(port, buf);
    }
}
