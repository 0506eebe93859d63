//! ARP (RFC 826) and neighbour discovery (RFC 4861) on the customer side: we answer for our own addresses, learn who our
//! neighbours are, and hand the VM's kernel what its own table of neighbours needs.

use super::ip::{is_on_link, is_own};
use super::{Drop, Forwarder, Port, Punt, Sink};
use edgeplex_ff_packet::arp::{self, Arp};
use edgeplex_ff_packet::nd::{self, Kind, Nd};
use edgeplex_ff_packet::{Fault, ethernet, ipv6};
use edgeplex_ff_phy::PacketBuf;
use edgeplex_types::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl<B: PacketBuf> Forwarder<B> {
    /// ARP on the customer side (gratuitous and probe packets: RFC 5227).
    pub(super) fn arp(&mut self, now: Instant, arp: Arp, buf: B, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let interface = self.fib.interface().ok_or(Drop::NotReady)?;
        let mac = interface.mac;
        if !arp.sender_mac.is_unicast() {
            return Err(Drop::ArpMalformed);
        }
        if is_own(interface, arp.sender.into()) || arp.sender_mac == mac {
            return Err(Drop::ArpConflict);
        }
        let for_us = is_own(interface, arp.target.into());
        let probe = arp.sender.is_unspecified() && arp.operation == arp::REQUEST;
        if !probe {
            if !is_on_link(interface, arp.sender.into()) {
                return Err(Drop::ArpForeign);
            }
            self.learn(now, arp.sender.into(), arp.sender_mac, for_us, sink);
        }
        if for_us && arp.operation == arp::REQUEST {
            let reply = Arp { operation: arp::REPLY, sender_mac: mac, sender: arp.target, target_mac: arp.sender_mac, target: arp.sender };
            return self.answer(buf, arp.sender_mac, ethernet::ARP, &reply.to_bytes(), sink);
        }
        // The VM's kernel keeps neighbours of its own: it needs answers, and to hear of a neighbour that moved.
        if for_us && arp.operation == arp::REPLY || arp.sender == arp.target && !probe {
            return self.punt(now, buf, Punt::Resolution, sink);
        }
        Err(Drop::ArpNotForUs)
    }

    /// A message of neighbour discovery, of so many bytes behind the Ethernet header.
    pub(super) fn neighbour_discovery(&mut self, now: Instant, len: usize, mut buf: B, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        buf.set_len(ethernet::HEADER_LEN + len);
        let frame = ethernet::Frame::new(buf.data()).map_err(|_| Drop::EthernetMalformed)?;
        let ip = ipv6::Packet::new(frame.payload()).map_err(|e| Drop::ip(e.fault))?;
        let m = Nd::parse(ip).map_err(|e| if e.fault == Fault::Version { Drop::NdNotForUs } else { Drop::NdMalformed })?;
        let interface = self.fib.interface().ok_or(Drop::NotReady)?;
        let own = interface.mac;
        // RFC 4861 §7.2.3: a unicast message may leave the option out; then it is the sender of the frame.
        let mac = m.mac.unwrap_or(frame.source());
        if !mac.is_unicast() {
            return Err(Drop::NdMalformed);
        }
        let neighbour = if m.kind == Kind::Solicitation { m.source } else { m.target };
        if is_own(interface, neighbour.into()) || mac == own {
            return Err(Drop::NdConflict);
        }
        let probe = neighbour.is_unspecified();
        if !probe && !is_on_link(interface, neighbour.into()) {
            return Err(Drop::NdForeign);
        }
        let (to_target, to_destination) = (is_own(interface, m.target.into()), is_own(interface, m.destination.into()));
        match m.kind {
            Kind::Solicitation => {
                if !probe {
                    self.learn(now, neighbour.into(), mac, to_target, sink);
                }
                if !to_target {
                    return Err(Drop::NdNotForUs);
                }
                // RFC 4861 §7.2.4: an answer to a probe goes to all, and is not solicited.
                let (destination, to) = if probe { (ALL_NODES, nd::multicast_mac(ALL_NODES)) } else { (m.source, mac) };
                let kind = Kind::Advertisement { router: true, solicited: !probe, replaces: true };
                let answer = Nd { source: m.target, destination, target: m.target, mac: Some(own), kind };
                self.answer(buf, to, ethernet::IPV6, &answer.to_bytes(), sink)
            }
            Kind::Advertisement { replaces, .. } => {
                // RFC 4861 §7.2.5: without the override flag it does not displace what is known.
                if replaces || self.neighbours.mac(neighbour.into()).is_none_or(|known| known == mac) {
                    self.learn(now, neighbour.into(), mac, false, sink);
                }
                if to_destination || m.destination.is_multicast() {
                    self.punt(now, buf, Punt::Resolution, sink)
                } else {
                    Err(Drop::NdNotForUs)
                }
            }
        }
    }

    /// Notes a neighbour, and sends what waited for it.
    pub(super) fn learn(&mut self, now: Instant, address: IpAddr, mac: MacAddr, create: bool, sink: &mut impl Sink<B>) {
        if let Some(waiting) = self.neighbours.learn(now, address, mac, create) {
            for packet in waiting.into_iter().flatten() {
                self.send_framed(mac, packet, sink);
            }
        }
    }

    /// Sends a message of ours to the customer in this buffer, whatever it holds.
    fn answer(&mut self, mut buf: B, to: MacAddr, kind: u16, body: &[u8], sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let mac = self.fib.interface().ok_or(Drop::NotReady)?.mac;
        let fits = buf.set_len(ethernet::HEADER_LEN + body.len());
        let (Some((header, to_body)), true) = (buf.data_mut().split_at_mut_checked(ethernet::HEADER_LEN), fits) else {
            return Err(Drop::NoBuffer);
        };
        header.copy_from_slice(&ethernet::header(to, mac, kind));
        to_body.copy_from_slice(body);
        self.send(Port::Customer, buf, sink);
        Ok(())
    }

    /// Asks for a neighbour, at one MAC address or at all.
    pub(super) fn ask(&mut self, address: IpAddr, unicast: Option<MacAddr>, sink: &mut impl Sink<B>) {
        let asked = match address {
            IpAddr::V4(a) => self.ask_arp(a, unicast, sink),
            IpAddr::V6(a) => self.ask_nd(a, unicast, sink),
        };
        if let Err(reason) = asked {
            self.counts.drop(reason);
        }
    }

    fn ask_arp(&mut self, target: Ipv4Addr, unicast: Option<MacAddr>, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let i = self.fib.interface().ok_or(Drop::NotReady)?;
        // The address of ours that shares the neighbour's subnet, else the first.
        let mut ours = i.addresses.iter().filter_map(|n| if let IpAddr::V4(a) = n.addr() { Some((n, a)) } else { None });
        let first = ours.clone().next();
        let Some((_, sender)) = ours.find(|(n, _)| n.contains(&IpAddr::V4(target))).or(first) else { return Ok(()) };
        let request = Arp { operation: arp::REQUEST, sender_mac: i.mac, sender, target_mac: MacAddr([0; 6]), target };
        let buf = sink.alloc().ok_or(Drop::NoBuffer)?;
        self.answer(buf, unicast.unwrap_or(MacAddr::BROADCAST), ethernet::ARP, &request.to_bytes(), sink)
    }

    fn ask_nd(&mut self, target: Ipv6Addr, unicast: Option<MacAddr>, sink: &mut impl Sink<B>) -> Result<(), Drop> {
        let i = self.fib.interface().ok_or(Drop::NotReady)?;
        let mut ours = i.addresses.iter().filter_map(|n| if let IpAddr::V6(a) = n.addr() { Some((n, a)) } else { None });
        let first = ours.clone().next();
        let Some((_, source)) = ours.find(|(n, _)| n.contains(&IpAddr::V6(target))).or(first) else { return Ok(()) };
        let destination = if unicast.is_some() { target } else { nd::solicited_node(target) };
        let question = Nd { source, destination, target, mac: Some(i.mac), kind: Kind::Solicitation };
        let buf = sink.alloc().ok_or(Drop::NoBuffer)?;
        let to = unicast.unwrap_or(nd::multicast_mac(destination));
        self.answer(buf, to, ethernet::IPV6, &question.to_bytes(), sink)
    }
}
