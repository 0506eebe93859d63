//! The sockets of BFD: what is received is handed on with the interface it came in by.

use crate::sockopt::receive_ttl;
use edgeplex_bfd::Key;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};
use tokio::{io::Interest, sync::mpsc, task::JoinHandle};
use tracing::{debug, warn};

/// RFC 5881 §4.
const SINGLE_HOP: u16 = 3784;
/// RFC 5883 §5.
const MULTIHOP: u16 = 4784;
/// RFC 5881 §5: what a router has passed on is not of our link.
const SINGLE_HOP_TTL: u8 = 255;
/// RFC 5883 §2 leaves open how far away a neighbour may be; packets of whoever is further than ten routers are dropped.
const MULTIHOP_TTL: u8 = 245;
/// RFC 5881 §4: the source port is one of these.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// A UDP payload that came to a BFD port.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) interface: Option<Arc<str>>,
    pub(super) bytes: Vec<u8>,
}

/// A receiving socket: interface (none: multihop), and whether it is of IPv6.
type Ear = (Option<Arc<str>>, bool);

#[derive(Debug)]
pub(super) struct Sockets {
    senders: BTreeMap<Key, UdpSocket>,
    ears: BTreeMap<Ear, JoinHandle<()>>,
    heard: mpsc::Sender<Heard>,
    next_port: u16,
    /// The log has been told that a socket cannot be made.
    complained: bool,
}

fn ear(key: &Key) -> Ear {
    (key.interface.clone(), key.peer.is_ipv6())
}

impl Sockets {
    pub(super) fn new(heard: mpsc::Sender<Heard>) -> Self {
        let offset = u16::try_from(std::process::id() % 16384).unwrap_or(0);
        Self { senders: BTreeMap::new(), ears: BTreeMap::new(), heard, next_port: SOURCE_PORTS.start() + offset, complained: false }
    }

    /// Makes the session's sockets, if need be: the interface may not have been there before. Its packets come from port `wanted`, if
    /// that is free; gives the port.
    pub(super) fn prepare(&mut self, key: &Key, wanted: Option<u16>) -> Option<u16> {
        self.listen(key);
        if !self.senders.contains_key(key) {
            match self.sender(key, wanted) {
                Ok(socket) => drop(self.senders.insert(key.clone(), socket)),
                Err(error) => self.complain(key, &error),
            }
        }
        self.senders.get(key)?.local_addr().ok().map(|a| a.port())
    }

    pub(super) fn send(&mut self, key: &Key, packet: &[u8]) {
        let port = if key.interface.is_some() { SINGLE_HOP } else { MULTIHOP };
        let Some(socket) = self.senders.get(key) else { return };
        if let Err(error) = socket.send_to(packet, SocketAddr::new(key.peer, port)) {
            debug!(peer = %key.peer, %error, "BFD packet not sent");
            // An interface that was made anew has another index: sockets bound to the old one are of no more use.
            if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::EINVAL | libc::ENETUNREACH)) {
                self.senders.remove(key);
                self.deafen(&ear(key));
            }
        }
    }

    pub(super) fn listen(&mut self, key: &Key) {
        let ear = ear(key);
        if self.ears.get(&ear).is_some_and(|task| !task.is_finished()) {
            return;
        }
        match receiver(&ear) {
            Ok(socket) => {
                let task = tokio::spawn(hear(socket, ear.0.clone(), self.heard.clone()));
                self.ears.insert(ear, task);
                self.complained = false;
            }
            Err(error) => self.complain(key, &error),
        }
    }

    /// The session is gone; `left` are those that are not.
    pub(super) fn close<'a>(&mut self, key: &Key, mut left: impl Iterator<Item = &'a Key>) {
        self.senders.remove(key);
        let gone = ear(key);
        if left.all(|k| ear(k) != gone) {
            self.deafen(&gone);
        }
    }

    fn deafen(&mut self, ear: &Ear) {
        if let Some(task) = self.ears.remove(ear) {
            task.abort();
        }
    }

    fn complain(&mut self, key: &Key, error: &io::Error) {
        if !self.complained {
            warn!(peer = %key.peer, interface = ?key.interface, %error, "cannot open a BFD socket yet, trying on");
            self.complained = true;
        }
    }

    /// RFC 5881 §4, §5: a source port of its own, TTL 255.
    fn sender(&mut self, key: &Key, wanted: Option<u16>) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(SocketAddr::new(key.peer, 0)), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if key.peer.is_ipv6() {
            socket.set_unicast_hops_v6(255)?;
            socket.set_tclass_v6(0xc0)?;
        } else {
            socket.set_ttl_v4(255)?;
            // Internetwork control: ahead of customers' packets where there is a queue.
            socket.set_tos_v4(0xc0)?;
        }
        if let Some(interface) = &key.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        let own = std::iter::repeat_with(|| {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(*SOURCE_PORTS.start());
            port
        });
        for port in wanted.into_iter().chain(own.take(SOURCE_PORTS.len())) {
            match socket.bind(&SocketAddr::new(key.local, port).into()) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
                other => return other.map(|()| socket.into()),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.ears.values().for_each(JoinHandle::abort);
    }
}

fn receiver((interface, ipv6): &Ear) -> io::Result<UdpSocket> {
    let any: IpAddr = if *ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = Socket::new(Domain::for_address(SocketAddr::new(any, 0)), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if *ipv6 {
        socket.set_only_v6(true)?;
    }
    receive_ttl(socket.as_fd(), *ipv6)?;
    if *ipv6 {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    let port = match interface {
        Some(name) => {
            socket.bind_device(Some(name.as_bytes()))?;
            SINGLE_HOP
        }
        None => MULTIHOP,
    };
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket.into())
}

async fn hear(socket: UdpSocket, interface: Option<Arc<str>>, heard: mpsc::Sender<Heard>) {
    let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else { return };
    let least = if interface.is_some() { SINGLE_HOP_TTL } else { MULTIHOP_TTL };
    loop {
        match socket.async_io(Interest::READABLE, || receive(&socket)).await {
            Ok(Datagram { from, to: Some(to), ttl: Some(ttl), bytes }) if ttl >= least => {
                // A full queue: lost, like on the wire.
                let _ = heard.try_send(Heard { from, to, interface: interface.clone(), bytes });
            }
            Ok(Datagram { from, to, ttl, .. }) => debug!(%from, ?to, ?interface, ?ttl, "BFD packet from afar dropped"),
            Err(error) => {
                debug!(?interface, %error, "BFD socket closed");
                return;
            }
        }
    }
}

/// As it came in, with its TTL or hop limit.
struct Datagram {
    from: IpAddr,
    to: Option<IpAddr>,
    ttl: Option<u8>,
    bytes: Vec<u8>,
}

fn receive(socket: &tokio::net::UdpSocket) -> io::Result<Datagram> {
    // Longer ones are no BFD packets; what is cut off is not looked at.
    let mut buffer = [0; 64];
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(libc::c_int, libc::in6_pktinfo);
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let (mut ttl, mut to) = (None, None);
    for control in got.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => ttl = u8::try_from(value).ok(),
            ControlMessageOwned::Ipv4PacketInfo(info) => to = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into()),
            ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
            _ => {}
        }
    }
    let v4 = got.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(|a| IpAddr::from(a.ip()));
    let v6 = got.address.as_ref().and_then(|a| a.as_sockaddr_in6()).map(|a| IpAddr::from(a.ip()));
    let from = v4.or(v6).ok_or(io::ErrorKind::InvalidData)?;
    let length = got.bytes;
    Ok(Datagram { from, to, ttl, bytes: buffer.get(..length).unwrap_or_default().to_vec() })
}
