//! Where a packet goes: VRF lookup, TTL, MTU, labels and rewrite; or to the VM's kernel; or back as an ICMP error.
//!
//! From here on a buffer begins with its IP header and ends with its packet; what it needs in front is pushed on
//! the way out.

use super::icmp::Error;
use super::ip::{Packet, ether_type, is_own, set_ttl};
use super::neighbour::Sent;
use super::{Drop, Forwarder, Port, Punt, Sink, counters};
use edgeplex_ff_fib::api::VRF_MAC;
use edgeplex_ff_fib::{Forward, Way};
use edgeplex_ff_packet::{ethernet, ipv4, mpls};
use edgeplex_ff_phy::PacketBuf;
use edgeplex_types::{Label, MacAddr};
use std::net::IpAddr;
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

/// The way out.
#[derive(Debug, Clone, Copy)]
enum Exit {
    Core(Label, Way),
    Neighbour(IpAddr),
}

/// Why there is none, and what the source is told.
type NoExit = (Drop, Option<Error>);

impl<B: PacketBuf> Forwarder<B> {
    /// Routes a packet by the VRF.
    pub(super) fn route(&mut self, now: Instant, buf: B, p: &Packet, origin: Origin, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let interface = self.fib.interface().ok_or(Drop::NotReady)?;
        let route = match p.destination {
            IpAddr::V4(a) => self.fib.route(a),
            IpAddr::V6(a) => self.fib.route6(a),
        };
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
            Some(vpn) => self.fib.path(vpn, p.flow).map(|(label, way)| Exit::Core(label, way)).ok_or((Drop::TunnelDown, None)),
            // `Local` was taken above.
        };
        self.depart(now, buf, p, origin, exit, sink)
    }

    /// Sends a packet that came with a CE's own label to that CE, without a lookup.
    pub(super) fn send_to_ce(&mut self, now: Instant, buf: B, p: &Packet, ce: IpAddr, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let expired = p.ttl <= 1;
        let exit = if expired { Err((Drop::TtlExpired, Some(Error::TimeExceeded))) } else { Ok(Exit::Neighbour(ce)) };
        self.depart(now, buf, p, Origin::Core, exit, sink)
    }

    fn depart(
        &mut self,
        now: Instant,
        buf: B,
        p: &Packet,
        origin: Origin,
        exit: Result<Exit, NoExit>,
        sink: &mut impl Sink<B>,
    ) -> Result<(), Drop> {
        match exit {
            Ok(exit) => self.leave(now, buf, p, origin, exit, sink),
            Err((reason, error)) => {
                if let Some(error) = error
                    && origin != Origin::Own
                {
                    self.tell(now, error, &buf, p.stack, sink);
                }
                Err(reason)
            }
        }
    }

    fn mtu(&self, exit: &Exit) -> usize {
        let Some(i) = self.fib.interface() else { return 0 };
        match exit {
            Exit::Neighbour(_) => usize::from(i.customer_mtu),
            Exit::Core(_, way) => {
                let transport = self.fib.leg(*way).map_or(0, |l| l.transport().len());
                usize::from(i.core_mtu).saturating_sub(mpls::LEN * (1 + transport))
            }
        }
    }

    /// TTL and MTU, then out; in pieces if it must be.
    fn leave(&mut self, now: Instant, mut buf: B, p: &Packet, origin: Origin, exit: Exit, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let ttl = if origin.decrements() { p.ttl.saturating_sub(1) } else { p.ttl };
        let mtu = self.mtu(&exit);
        if p.len > mtu && !p.may_fragment {
            if origin != Origin::Own {
                // RFC 1191 §4, RFC 4443 §3.2: the MTU of the next hop, labels already taken off.
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                self.tell(now, Error::TooBig { mtu }, &buf, p.stack, sink);
            }
            return Err(Drop::MtuExceeded);
        }
        if ttl != p.header_ttl {
            set_ttl(buf.data_mut(), ttl);
        }
        if p.len <= mtu {
            return self.out(now, buf, p.tos, ttl, exit, sink);
        }
        let whole = ipv4::Packet::new(buf.data()).map_err(|e| Drop::ip(e.fault))?;
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
            Exit::Core(label, way) => self.send_labelled(buf, tos, ttl, label, way, sink),
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
    fn send_labelled(&mut self, mut buf: B, tos: u8, ttl: u8, label: Label, way: Way, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let leg = self.fib.leg_mut(way).ok_or(Drop::TunnelDown)?;
        let transport = leg.transport();
        let front = ethernet::HEADER_LEN + mpls::LEN * (transport.len() + 1);
        let bytes = buf.push_front(front).ok_or(Drop::NoHeadroom)?;
        let (header, stack) = bytes.split_at_mut(ethernet::HEADER_LEN);
        header.copy_from_slice(&ethernet::header(leg.destination, leg.source, ethernet::MPLS));
        // RFC 3443 §3.1, uniform model: every pushed label carries the TTL of the packet.
        // RFC 5462: TC is the IP precedence bits, the top three of the DSCP.
        let tc = tos >> 5;
        let labels = transport.iter().map(|l| (*l, false)).chain([(label, true)]);
        for (place, (label, bottom)) in stack.chunks_exact_mut(mpls::LEN).zip(labels) {
            place.copy_from_slice(&mpls::Entry { label, tc, bottom, ttl }.to_bytes());
        }
        counters::add(&mut leg.count, buf.len());
        self.send(Port::Core, buf, sink);
        Ok(())
    }

    pub(super) fn send_framed(&mut self, mac: MacAddr, mut buf: B, sink: &mut impl Sink<B>) {
        let Some(own) = self.fib.interface().map(|i| i.mac) else { return self.counts.drop(Drop::NotReady) };
        let kind = ether_type(buf.data());
        let Some(header) = buf.push_front(ethernet::HEADER_LEN).and_then(|b| b.first_chunk_mut()) else {
            return self.counts.drop(Drop::NoHeadroom);
        };
        *header = ethernet::header(mac, own, kind);
        self.send(Port::Customer, buf, sink);
    }

    /// To the VM's own kernel, under a header as if its gateway had sent it.
    fn deliver(&mut self, now: Instant, mut buf: B, p: &Packet, origin: Origin, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        if origin == Origin::Tap {
            return Err(Drop::TapLoop);
        }
        let mac = self.fib.interface().ok_or(Drop::NotReady)?.mac;
        if p.ttl != p.header_ttl {
            set_ttl(buf.data_mut(), p.ttl);
        }
        let kind = ether_type(buf.data());
        let header = buf.push_front(ethernet::HEADER_LEN).and_then(|b| b.first_chunk_mut()).ok_or(Drop::NoHeadroom)?;
        *header = ethernet::header(mac, VRF_MAC, kind);
        // No session of the attachment's is spoken from elsewhere in the VPN, whoever the source says it is.
        self.punt(now, buf, Punt::Other, sink)
    }

    /// Hands a frame to the VM's own kernel if the policer lets it.
    pub(super) fn punt(&mut self, now: Instant, frame: B, class: Punt, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let bucket = match class {
            Punt::Routing => &mut self.punt_routing,
            Punt::Resolution => &mut self.punt_resolution,
            Punt::Other => &mut self.punt_other,
        };
        if !bucket.take(now) {
            return Err(Drop::PuntPoliced);
        }
        self.holds.incoming(frame.data())?;
        self.send(Port::Tap, frame, sink);
        Ok(())
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
