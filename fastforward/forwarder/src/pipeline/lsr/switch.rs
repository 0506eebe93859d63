//! One labelled packet: what its label says, TTL, MTU, out.
//!
//! From [`Lsr::switch`] on a buffer begins with its label stack.

use super::super::icmp::Error;
use super::super::ingress::MAX_STACK;
use super::super::ip::{Ip, ether_type, set_ttl};
use super::super::{Sink, counters, flow};
use super::tell::is_lsp_ping;
use super::{Drop, Lsr};
use edgeplex_ff_fib::api::{PUNT_MAC, Port};
use edgeplex_ff_fib::{Incoming, Way};
use edgeplex_ff_packet::{ethernet, ipv4, mpls};
use edgeplex_ff_phy::PacketBuf;
use edgeplex_types::MacAddr;
use std::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Wire,
    /// An ICMP error of ours, which goes on as its cause would have.
    Own,
}

/// What the stack says, from its first entry to the one that decides.
#[derive(Debug, Clone, Copy)]
struct Top {
    /// Bytes to be popped, the deciding entry's among them unless it is another's.
    pop: usize,
    /// The lowest TTL of what is popped.
    ttl: u8,
    tc: u8,
    /// Nothing is left of the stack.
    bottom: bool,
}

/// What became of a packet on its way out.
#[derive(Debug)]
enum Left<B> {
    Gone,
    /// It is whole still; so many bytes of it would fit.
    TooLong(B, u16),
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Tunnel(u32),
    /// The rest is for the platform itself.
    Home,
    Alert,
}

impl<B: PacketBuf> Lsr<B> {
    pub(super) fn frame(&mut self, now: Instant, port: u8, mut buf: B, sink: &mut impl Sink<B, u8>) -> Result<(), Drop> {
        let frame = ethernet::Frame::new(buf.data()).map_err(|_| Drop::EthernetMalformed)?;
        let here = self.port(port).ok_or(Drop::NotReady)?;
        if frame.tag().is_some() {
            return Err(Drop::VlanUnexpected);
        }
        if frame.ether_type() != ethernet::MPLS {
            return Err(Drop::EthertypeUnknown);
        }
        if frame.destination() != here.mac {
            return Err(Drop::MacNotOurs);
        }
        if !frame.source().is_unicast() || frame.source() == here.mac {
            return Err(Drop::SourceMac);
        }
        if !buf.pull_front(ethernet::HEADER_LEN) {
            return Err(Drop::NoBuffer);
        }
        self.switch(now, port, buf, Origin::Wire, sink)
    }

    pub(super) fn port(&self, n: u8) -> Option<&Port> {
        self.fib.ports().get(usize::from(n))
    }

    pub(super) fn switch(&mut self, now: Instant, port: u8, buf: B, origin: Origin, sink: &mut impl Sink<B, u8>) -> Result<(), Drop> {
        let (mut top, action) = self.read(buf.data())?;
        let tunnel = match action {
            Action::Tunnel(tunnel) => tunnel,
            Action::Home => return self.home(port, buf, top, sink),
            // RFC 3032 §2.1: as it came, under all its labels.
            Action::Alert => return self.punt(now, port, buf, sink),
        };
        if origin == Origin::Wire {
            if top.ttl <= 1 {
                // RFC 8029 §4.4: who traces an LSP is answered by the control plane.
                if is_lsp_ping(buf.data()) {
                    return self.punt(now, port, buf, sink);
                }
                self.tell(now, port, Error::TimeExceeded, &buf, sink);
                return Err(Drop::TtlExpired);
            }
            top.ttl -= 1;
        }
        let way = self.fib.switch(tunnel, || flow::of_labelled(self.seed, buf.data())).ok_or(Drop::TunnelDown)?;
        match self.leave(buf, top, way, sink)? {
            Left::Gone => Ok(()),
            Left::TooLong(buf, mtu) => {
                if origin == Origin::Wire {
                    self.tell(now, port, Error::TooBig { mtu }, &buf, sink);
                }
                Err(Drop::MtuExceeded)
            }
        }
    }

    fn read(&self, bytes: &[u8]) -> Result<(Top, Action), Drop> {
        let mut ttl = u8::MAX;
        for i in 0..MAX_STACK {
            let at = i * mpls::LEN;
            let entry = bytes.get(at..).and_then(|b| mpls::Entry::parse(b).ok()).ok_or(Drop::MplsMalformed)?;
            let top = Top { pop: at + mpls::LEN, ttl: ttl.min(entry.ttl), tc: entry.tc, bottom: entry.bottom };
            match (entry.label.get(), self.fib.label(entry.label)) {
                (mpls::ROUTER_ALERT, _) => return Ok((top, Action::Alert)),
                (_, Some(Incoming::Tunnel(tunnel))) => return Ok((top, Action::Tunnel(tunnel))),
                // RFC 3032 §2.1, RFC 4182 §2: explicit null is popped wherever it stands.
                (mpls::IPV4_EXPLICIT_NULL | mpls::IPV6_EXPLICIT_NULL, _) | (_, Some(Incoming::Pop)) => {
                    if top.bottom {
                        return Ok((top, Action::Home));
                    }
                    ttl = top.ttl;
                }
                // Behind what we popped it is another's of this platform.
                _ if at > 0 && !entry.label.is_reserved() => return Ok((Top { pop: at, ttl, bottom: false, ..top }, Action::Home)),
                _ => return Err(Drop::LabelUnknown),
            }
        }
        Err(Drop::LabelStackDepth)
    }

    /// Swaps, or pops before the last hop; in pieces if it must be.
    fn leave(&mut self, mut buf: B, top: Top, way: Way, sink: &mut impl Sink<B, u8>) -> Result<Left<B>, Drop> {
        let leg = self.fib.leg(way).ok_or(Drop::TunnelDown)?;
        let out = self.port(leg.port).ok_or(Drop::PortUnknown)?;
        let pushed = leg.transport().len() * mpls::LEN;
        let mtu = usize::from(out.mtu);
        // What was read of the stack is there.
        let mut cut = None;
        if buf.len() - top.pop + pushed > mtu {
            // RFC 3032 §3.4, §3.5: of what is no IP nobody can be told.
            let depth = mpls::depth(buf.data(), MAX_STACK).ok_or(Drop::MtuExceeded)? * mpls::LEN;
            let kept = depth - top.pop;
            let mtu = mtu.saturating_sub(pushed + kept);
            let ip = Ip::parse(buf.data().get(depth..).unwrap_or_default()).map_err(|_| Drop::MtuExceeded)?;
            let len = ip.total_len();
            if len <= mtu {
                // Only Ethernet padding was too long.
                buf.set_len(depth + len);
            } else if matches!(ip, Ip::V4(p) if !p.dont_fragment()) {
                cut = Some((kept, mtu));
            } else {
                return Ok(Left::TooLong(buf, u16::try_from(mtu).unwrap_or(u16::MAX)));
            }
        }
        if !buf.pull_front(top.pop) {
            return Err(Drop::MplsMalformed);
        }
        if pushed == 0 {
            inherit_ttl(&mut buf, top.bottom, top.ttl)?;
        }
        match cut {
            None => self.emit(buf, way, top, sink),
            Some((kept, mtu)) => self.fragments(&buf, kept, mtu, way, top, sink),
        }?;
        Ok(Left::Gone)
    }

    /// Sends an IPv4 packet, which begins behind `kept` bytes of label stack, in pieces of at most `mtu` bytes.
    fn fragments(&mut self, buf: &B, kept: usize, mtu: usize, way: Way, top: Top, sink: &mut impl Sink<B, u8>) -> Result<(), Drop> {
        let (inner, packet) = buf.data().split_at_checked(kept).ok_or(Drop::MplsMalformed)?;
        let whole = ipv4::Packet::new(packet).map_err(|e| Drop::ip(e.fault))?;
        for fragment in ipv4::fragments(whole, mtu) {
            let mut piece = sink.alloc().ok_or(Drop::NoBuffer)?;
            let front = kept + fragment.header().len();
            if !piece.set_len(front + fragment.payload.len()) {
                return Err(Drop::NoBuffer);
            }
            let (to_front, to_payload) = piece.data_mut().split_at_mut(front);
            let (to_inner, to_header) = to_front.split_at_mut(kept);
            to_inner.copy_from_slice(inner);
            to_header.copy_from_slice(fragment.header());
            to_payload.copy_from_slice(&whole.payload()[fragment.payload.clone()]);
            self.emit(piece, way, top, sink)?;
        }
        Ok(())
    }

    /// Pushes the labels of the leg and the Ethernet header.
    fn emit(&mut self, mut buf: B, way: Way, top: Top, sink: &mut impl Sink<B, u8>) -> Result<(), Drop> {
        let source = self.fib.leg(way).and_then(|l| self.port(l.port)).ok_or(Drop::PortUnknown)?.mac;
        let leg = self.fib.leg_mut(way).ok_or(Drop::TunnelDown)?;
        let labels = leg.transport();
        let Top { ttl, tc, bottom, .. } = top;
        let kind = if labels.is_empty() && bottom { ether_type(buf.data()) } else { ethernet::MPLS };
        let bytes = buf.push_front(ethernet::HEADER_LEN + mpls::LEN * labels.len()).ok_or(Drop::NoHeadroom)?;
        let (header, stack) = bytes.split_at_mut(ethernet::HEADER_LEN);
        header.copy_from_slice(&ethernet::header(leg.destination, source, kind));
        for (i, (place, label)) in stack.chunks_exact_mut(mpls::LEN).zip(labels).enumerate() {
            let last = i + 1 == labels.len();
            place.copy_from_slice(&mpls::Entry { label: *label, tc, bottom: bottom && last, ttl }.to_bytes());
        }
        counters::add(&mut leg.count, buf.len());
        let port = leg.port;
        self.send(port, buf, sink);
        Ok(())
    }

    /// What is below goes back to where it came from, addressed to ourselves.
    fn home(&mut self, port: u8, mut buf: B, top: Top, sink: &mut impl Sink<B, u8>) -> Result<(), Drop> {
        let mac = self.port(port).ok_or(Drop::NotReady)?.mac;
        if !buf.pull_front(top.pop) {
            return Err(Drop::MplsMalformed);
        }
        // RFC 3443 §3.5: whose the next label or the packet is counts this hop.
        inherit_ttl(&mut buf, top.bottom, top.ttl)?;
        let kind = if top.bottom {
            // The packet itself is ours. RFC 5082 §3: a TTL of 255 is proof of a neighbour on the link, which nobody gives who
            // comes under labels. It has arrived: 1 stays 1 (RFC 8029 §4.3: so LSP ping comes).
            let ttl = Ip::parse(buf.data())?.ttl();
            if ttl > 1 {
                set_ttl(buf.data_mut(), ttl - 1);
            }
            ether_type(buf.data())
        } else {
            ethernet::MPLS
        };
        frame(&mut buf, mac, mac, kind)?;
        self.send(port, buf, sink);
        Ok(())
    }

    /// To the control plane, under the labels it came with.
    fn punt(&mut self, now: Instant, port: u8, mut buf: B, sink: &mut impl Sink<B, u8>) -> Result<(), Drop> {
        if !self.punt.take(now) {
            return Err(Drop::PuntPoliced);
        }
        let mac = self.port(port).ok_or(Drop::NotReady)?.mac;
        frame(&mut buf, PUNT_MAC, mac, ethernet::MPLS)?;
        counters::add(&mut self.counts.punted, buf.len());
        sink.send(port, buf);
        Ok(())
    }

    fn send(&mut self, port: u8, buf: B, sink: &mut impl Sink<B, u8>) {
        counters::add(&mut self.counts.to_core, buf.len());
        sink.send(port, buf);
    }
}

/// RFC 3443 §3.5: the TTL of what was popped goes on below, if it is the lower one. Leaves no Ethernet padding behind a
/// packet without labels.
fn inherit_ttl(buf: &mut impl PacketBuf, bottom: bool, ttl: u8) -> Result<(), Drop> {
    if bottom {
        if !matches!(buf.data().first().map(|b| b >> 4), Some(4 | 6)) {
            return Err(Drop::PayloadUnknown);
        }
        let ip = Ip::parse(buf.data())?;
        let (len, header_ttl) = (ip.total_len(), ip.ttl());
        buf.set_len(len);
        if ttl < header_ttl {
            set_ttl(buf.data_mut(), ttl);
        }
    } else if let Some([.., next]) = buf.data_mut().first_chunk_mut::<{ mpls::LEN }>() {
        *next = ttl.min(*next);
    } else {
        return Err(Drop::MplsMalformed);
    }
    Ok(())
}

fn frame(buf: &mut impl PacketBuf, to: MacAddr, from: MacAddr, kind: u16) -> Result<(), Drop> {
    let header = buf.push_front(ethernet::HEADER_LEN).and_then(|b| b.first_chunk_mut()).ok_or(Drop::NoHeadroom)?;
    *header = ethernet::header(to, from, kind);
    Ok(())
}
