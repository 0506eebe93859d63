//! ICMP errors: which message tells what, within the limits of the RFCs and of a token bucket.

use super::egress::Origin;
use super::ip::{Ip, is_subnet_broadcast};
use super::{Drop, Forwarder, Sink};
use edgeplex_ff_fib::api::Interface;
use edgeplex_ff_packet::{icmpv4, icmpv6};
use edgeplex_ff_phy::PacketBuf;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

/// What the source of a packet is told, whatever the version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    TimeExceeded,
    NetUnreachable,
    HostUnreachable,
    TooBig { mtu: u16 },
}

impl From<Error> for icmpv4::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::TimeExceeded => Self::TimeExceeded,
            Error::NetUnreachable => Self::NetUnreachable,
            Error::HostUnreachable => Self::HostUnreachable,
            Error::TooBig { mtu } => Self::FragmentationNeeded { mtu },
        }
    }
}

impl From<Error> for icmpv6::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::TimeExceeded => Self::TimeExceeded,
            Error::NetUnreachable => Self::NoRoute,
            Error::HostUnreachable => Self::AddressUnreachable,
            Error::TooBig { mtu } => Self::PacketTooBig { mtu: mtu.into() },
        }
    }
}

/// Whether any error may be sent about this packet.
pub(super) fn may_be_told(ip: Ip) -> bool {
    match ip {
        Ip::V4(p) => icmpv4::may_be_told(p),
        Ip::V6(p) => icmpv6::may_be_told(p),
    }
}

/// Sources of ICMP errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources {
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
}

/// A datagram in a new buffer about `ip`, which came under `stack`. `Err`: there was no buffer. `Ok(None)`: there is no
/// source of this version.
pub(super) fn datagram<B: PacketBuf>(
    buf: Option<B>,
    error: Error,
    from: Sources,
    identification: u16,
    ip: Ip,
    stack: &[u8],
) -> Result<Option<B>, Drop> {
    let mut buf = buf.ok_or(Drop::NoBuffer)?;
    let written = match (ip, from) {
        (Ip::V4(p), Sources { v4: Some(source), .. }) => {
            buf.set_len(icmpv4::datagram_len(p, stack.len()))
                && icmpv4::write(buf.data_mut(), error.into(), source, identification, p, stack)
        }
        (Ip::V6(p), Sources { v6: Some(source), .. }) => {
            let error = error.into();
            buf.set_len(icmpv6::datagram_len(error, p, stack.len())) && icmpv6::write(buf.data_mut(), error, source, p, stack)
        }
        _ => return Ok(None),
    };
    if written { Ok(Some(buf)) } else { Err(Drop::NoBuffer) }
}

/// The first address of each version; of IPv6 one that is known beyond the link, unless the packet is of the link.
fn sources(i: &Interface, about: Ip) -> Sources {
    let v4 = i.addresses.iter().find_map(|n| if let IpAddr::V4(a) = n.addr() { Some(a) } else { None });
    let link = matches!(about, Ip::V6(p) if p.source().is_unicast_link_local());
    let v6 = |n: &ipnet::IpNet| if let IpAddr::V6(a) = n.addr() { Some(a).filter(|a| link || !a.is_unicast_link_local()) } else { None };
    Sources { v4, v6: i.addresses.iter().find_map(v6) }
}

impl<B: PacketBuf> Forwarder<B> {
    /// Tells the source of a packet, by a datagram that is routed by the VRF, unless an RFC forbids it or the limit is
    /// reached. `stack`: bytes of the label stack that was pulled off in front of the packet.
    pub(super) fn tell(&mut self, now: Instant, error: Error, about: &B, stack: usize, sink: &mut impl Sink<B>) {
        let (Ok(ip), Some(i)) = (Ip::parse(about.data()), self.fib.interface()) else { return };
        let broadcast = matches!(ip, Ip::V4(p) if is_subnet_broadcast(i, p.source()));
        if !may_be_told(ip) || broadcast {
            return;
        }
        let from = sources(i, ip);
        if !self.icmp.take(now) {
            return self.counts.drop(Drop::IcmpRateLimited);
        }
        self.identification = self.identification.wrapping_add(1);
        let told = datagram(sink.alloc(), error, from, self.identification, ip, about.pulled(stack)).and_then(|made| {
            let Some(buf) = made else { return Ok(()) };
            let ip = Ip::parse(buf.data())?;
            let packet = ip.facts(self.seed, ip.ttl(), 0);
            self.route(now, buf, &packet, Origin::Own, sink)
        });
        if let Err(reason) = told {
            self.counts.drop(reason);
        }
    }
}
