//! One interface's raw socket: IP protocol 89, multicast to the link alone.
//!
//! It goes by the type of a UDP socket, whose calls are the same: tokio has none for raw ones.

use edgeplex_ospf::{ALL_ROUTERS, DESIGNATED_ROUTERS};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::task::{Context, Poll};
use tokio::net::UdpSocket;

/// RFC 2328 appendix A.
const OSPF: i32 = 89;
/// Internetwork control (RFC 2328 §A.1).
const TOS: u32 = 0xc0;
/// Routers flood in bursts.
const RECEIVE_BUFFER: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Port {
    socket: UdpSocket,
    address: Ipv4Addr,
}

/// A received packet without its IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    ttl: u8,
    pub(super) packet: &'a [u8],
}

impl Datagram<'_> {
    /// Whether it comes from the link of an interface with this address, and is for us.
    pub(super) fn is_of_link(&self, address: Ipv4Addr) -> bool {
        // RFC 2328 §A.1: TTL 1, as there are no virtual links. 255 is what neighbours send that follow RFC 5082; no router has passed
        // that on.
        matches!(self.ttl, 1 | 255)
            // RFC 2328 §8.2
            && (self.destination == address || self.destination == ALL_ROUTERS || self.destination == DESIGNATED_ROUTERS)
    }
}

impl Port {
    /// Fails unless the interface is there with this address.
    pub(super) fn open(name: &str, address: Ipv4Addr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(OSPF)))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(name.as_bytes()))?;
        socket.set_multicast_if_v4(&address)?;
        socket.set_multicast_loop_v4(false)?;
        // RFC 2328 §A.1: never beyond the link.
        socket.set_multicast_ttl_v4(1)?;
        socket.set_ttl_v4(1)?;
        socket.set_tos_v4(TOS)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.join_multicast_v4(&ALL_ROUTERS, &address)?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, address })
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(super) fn listen_as_designated(&self, yes: bool) -> io::Result<()> {
        let join = if yes { UdpSocket::join_multicast_v4 } else { UdpSocket::leave_multicast_v4 };
        join(&self.socket, DESIGNATED_ROUTERS, self.address)
    }

    pub(super) fn send(&self, destination: Ipv4Addr, packet: &[u8]) -> io::Result<()> {
        // Not by way of tokio, which does not know of room before it has been waited for.
        SockRef::from(&self.socket).send_to(packet, &SocketAddrV4::new(destination, 0).into())?;
        Ok(())
    }

    /// Whether something may be read.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        matches!(self.socket.poll_recv_ready(cx), Poll::Ready(Ok(())))
    }

    /// The next packet into `buffer`; `None` when there is no more.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Datagram<'a>>> {
        match self.socket.try_recv(buffer) {
            Ok(length) => parse(&buffer[..length]).map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// A raw socket gives the IP header too.
fn parse(datagram: &[u8]) -> Option<Datagram<'_>> {
    let header = usize::from(datagram.first()? & 0x0f) * 4;
    let address = |at: usize| -> Option<Ipv4Addr> { Some(Ipv4Addr::from(<[u8; 4]>::try_from(datagram.get(at..at + 4)?).ok()?)) };
    let packet = datagram.get(header..).filter(|_| header >= 20)?;
    Some(Datagram { source: address(12)?, destination: address(16)?, ttl: *datagram.get(8)?, packet })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ip_header_is_taken_off_whatever_its_length() {
        let mut bytes = vec![0x46; 1];
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 7, 89, 0, 0]);
        bytes.extend([10, 0, 0, 1, 224, 0, 0, 5, 1, 2, 3, 4, 9, 9]);
        let want = Datagram { source: Ipv4Addr::new(10, 0, 0, 1), destination: ALL_ROUTERS, ttl: 7, packet: &[9, 9] };
        assert_eq!(parse(&bytes), Some(want));
        for length in 0..24 {
            assert_eq!(parse(&bytes[..length]), None);
        }
        bytes[0] = 0x44;
        assert_eq!(parse(&bytes), None, "a header of 16 bytes");
    }

    #[test]
    fn what_comes_from_afar_or_is_for_others_is_not_taken() {
        let (ours, theirs) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
        let taken = |ttl, destination| Datagram { source: theirs, destination, ttl, packet: &[] }.is_of_link(ours);
        for destination in [ours, ALL_ROUTERS, DESIGNATED_ROUTERS] {
            let ttls: Vec<u8> = (0..=255).filter(|ttl| taken(*ttl, destination)).collect();
            assert_eq!(ttls, [1, 255], "{destination}");
        }
        assert!(!taken(1, Ipv4Addr::new(10, 255, 0, 2)), "another address of this router");
    }
}
