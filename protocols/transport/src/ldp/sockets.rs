//! Hellos over UDP, one socket an interface; and the listener for sessions.

use super::{PORT, connection::TOS};
use crate::sockopt::set_md5;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
    task::JoinHandle,
};
use tracing::{debug, info, warn};

/// RFC 5036 §2.4.1: all routers on this subnet.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// Longest Hello that is looked at, bytes.
const MAX_HELLO: usize = 1500;

/// A datagram that came to the Hello port of an interface.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) interface: Arc<str>,
    pub(super) source: Ipv4Addr,
    pub(super) packet: Vec<u8>,
}

#[derive(Debug)]
struct Ear {
    socket: Arc<UdpSocket>,
    task: JoinHandle<()>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The Hello sockets by interface.
#[derive(Debug)]
pub(super) struct Hellos {
    ears: BTreeMap<Arc<str>, Ear>,
    addresses: BTreeMap<Arc<str>, Ipv4Addr>,
    heard: mpsc::Sender<Heard>,
    /// The log has been told that a socket cannot be made.
    complained: bool,
}

impl Hellos {
    pub(super) fn new(heard: mpsc::Sender<Heard>) -> Self {
        Self { ears: BTreeMap::new(), addresses: BTreeMap::new(), heard, complained: false }
    }

    /// The interface is up with this address, or down. Its socket is made with the first Hello.
    pub(super) fn interface(&mut self, name: &Arc<str>, address: Option<Ipv4Addr>) {
        if self.addresses.get(name).copied() == address {
            return;
        }
        self.ears.remove(name);
        match address {
            Some(address) => drop(self.addresses.insert(Arc::clone(name), address)),
            None => drop(self.addresses.remove(name)),
        }
    }

    /// Closes what is no longer configured.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Arc<str>) -> bool) {
        self.ears.retain(|name, _| wanted(name));
    }

    pub(super) fn send(&mut self, interface: &Arc<str>, packet: &[u8]) {
        let Some(&address) = self.addresses.get(interface) else { return };
        if !self.ears.contains_key(interface) {
            match open(interface, address) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let task = tokio::spawn(hear(Arc::clone(&socket), Arc::clone(interface), self.heard.clone()));
                    self.ears.insert(Arc::clone(interface), Ear { socket, task });
                    self.complained = false;
                }
                Err(error) => {
                    if !self.complained {
                        warn!(%interface, %error, "cannot open the LDP Hello socket yet, trying on");
                        self.complained = true;
                    }
                    return;
                }
            }
        }
        let Some(ear) = self.ears.get(interface) else { return };
        // Not by tokio: it does not know yet that a new socket is writable, and the first Hello, a successor's, would wait for the second.
        if let Err(error) = SockRef::from(&*ear.socket).send_to(packet, &SocketAddr::from((GROUP, PORT)).into()) {
            debug!(%interface, %error, "LDP Hello not sent");
            // An interface that was made anew has another index: a socket bound to the old one is of no more use.
            if error.kind() != io::ErrorKind::WouldBlock {
                self.ears.remove(interface);
            }
        }
    }
}

/// Bound to the group: what was sent to our own address (a targeted Hello) does not come here.
fn open(interface: &str, address: Ipv4Addr) -> io::Result<UdpSocket> {
    let index = std::fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"));
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((GROUP, PORT)).into())?;
    let on = match index.ok().and_then(|text| text.trim().parse().ok()) {
        Some(index) => InterfaceIndexOrAddress::Index(index),
        None => InterfaceIndexOrAddress::Address(address),
    };
    socket.join_multicast_v4_n(&GROUP, &on)?;
    socket.set_multicast_if_v4(&address)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_tos_v4(TOS)?;
    UdpSocket::from_std(socket.into())
}

async fn hear(socket: Arc<UdpSocket>, interface: Arc<str>, heard: mpsc::Sender<Heard>) {
    let mut buffer = [0; MAX_HELLO];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, SocketAddr::V4(from))) => {
                let packet = buffer.get(..len).unwrap_or_default().to_vec();
                // A full queue: lost, like on the wire.
                let _ = heard.try_send(Heard { interface: Arc::clone(&interface), source: *from.ip(), packet });
            }
            Ok(_) => {}
            Err(error) => {
                // The interface is down or gone; the next Hello opens another socket if need be.
                debug!(%interface, %error, "LDP Hello socket");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Accepts sessions at the loopback, which may not be there yet.
#[derive(Debug)]
pub(super) struct Listener {
    address: Ipv4Addr,
    socket: Option<TcpListener>,
    keys: BTreeMap<Ipv4Addr, String>,
    /// Addresses whose key could not be set: nothing is accepted from there.
    unkeyed: BTreeSet<Ipv4Addr>,
    complained: bool,
}

impl Listener {
    pub(super) fn new(address: Ipv4Addr) -> Self {
        Self { address, socket: None, keys: BTreeMap::new(), unkeyed: BTreeSet::new(), complained: false }
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// What is accepted from now on has been signed with the key.
    pub(super) fn set_key(&mut self, remote: Ipv4Addr, password: Option<String>) {
        match password {
            Some(password) => drop(self.keys.insert(remote, password)),
            None => drop(self.keys.remove(&remote)),
        }
        self.apply_key(remote);
    }

    fn apply_key(&mut self, remote: Ipv4Addr) {
        let Some(socket) = &self.socket else { return };
        let password = self.keys.get(&remote);
        let set = set_md5(socket.as_fd(), remote.into(), password.map(String::as_str));
        // Whoever came before the key is in the queue without it.
        let set = if password.is_some() { set.and_then(|()| drop_waiting(socket)) } else { set };
        match set {
            Ok(()) => drop(self.unkeyed.remove(&remote)),
            Err(error) if self.unkeyed.insert(remote) => warn!(%remote, %error, "cannot set the TCP MD5 key: no LDP sessions from there"),
            Err(_) => {}
        }
    }

    /// Whether a connection from there is what its key asks for. A key that could not be set is tried again.
    pub(super) fn admits(&mut self, remote: Ipv4Addr) -> bool {
        let unkeyed = self.unkeyed.contains(&remote);
        if unkeyed {
            self.apply_key(remote);
        }
        !unkeyed
    }

    /// Tries to listen if it does not yet.
    pub(super) fn try_open(&mut self) {
        if self.socket.is_some() {
            return;
        }
        match listen(self.address) {
            Ok(socket) => {
                info!(address = %self.address, "listening for LDP");
                self.socket = Some(socket);
                self.complained = false;
                let keyed: Vec<_> = self.keys.keys().copied().collect();
                keyed.into_iter().for_each(|remote| self.apply_key(remote));
            }
            Err(error) if !self.complained => {
                warn!(address = %self.address, %error, "cannot listen for LDP yet, trying on");
                self.complained = true;
            }
            Err(_) => {}
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Never without a socket.
    pub(super) async fn accept(&self) -> io::Result<(tokio::net::TcpStream, IpAddr)> {
        match &self.socket {
            Some(socket) => socket.accept().await.map(|(stream, from)| (stream, from.ip())),
            None => std::future::pending().await,
        }
    }
}

fn listen(address: Ipv4Addr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // After a restart, connections of the former process may still be about to close.
    socket.set_reuse_address(true)?;
    // RFC 6720 §2; the connections accepted inherit it.
    socket.set_ttl_v4(255)?;
    socket.set_tos_v4(TOS)?;
    socket.bind(&SocketAddr::from((address, PORT)).into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Closes the connections that wait to be accepted; those who made them try again.
fn drop_waiting(listener: &TcpListener) -> io::Result<()> {
    loop {
        match SockRef::from(listener).accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted) => return Err(error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our listener, but not at its port.
    async fn listener() -> Listener {
        let mut listener = Listener::new(Ipv4Addr::LOCALHOST);
        listener.socket = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
        listener
    }

    #[tokio::test]
    async fn what_came_before_its_key_is_not_accepted() {
        let mut listener = listener().await;
        let socket = listener.socket.as_ref().unwrap();
        let mut early = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        listener.set_key(Ipv4Addr::LOCALHOST, Some("not a word".to_owned()));
        assert!(listener.admits(Ipv4Addr::LOCALHOST));
        let closed = tokio::task::spawn_blocking(move || std::io::Read::read(&mut early, &mut [0]));
        assert!(!matches!(closed.await.unwrap(), Ok(1..)));
        let waiting = SockRef::from(listener.socket.as_ref().unwrap()).accept();
        assert_eq!(waiting.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn without_its_key_nothing_is_accepted() {
        let mut listener = listener().await;
        listener.set_key(Ipv4Addr::LOCALHOST, Some("x".repeat(81)));
        assert!(!listener.admits(Ipv4Addr::LOCALHOST));
        assert!(!listener.admits(Ipv4Addr::LOCALHOST), "it still cannot be set");
        listener.set_key(Ipv4Addr::LOCALHOST, None);
        assert!(listener.admits(Ipv4Addr::LOCALHOST));
    }
}
