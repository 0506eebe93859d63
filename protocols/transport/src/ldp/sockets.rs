//! Hellos over UDP, one socket an interface; and the listener for sessions.

use super::{PORT, connection::TOS};
use crate::sockopt::set_md5;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::{
    collections::BTreeMap,
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
        if let Err(error) = ear.socket.try_send_to(packet, SocketAddr::from((GROUP, PORT))) {
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
    complained: bool,
}

impl Listener {
    pub(super) fn new(address: Ipv4Addr) -> Self {
        Self { address, socket: None, keys: BTreeMap::new(), complained: false }
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(super) fn set_key(&mut self, remote: Ipv4Addr, password: Option<String>) {
        if self.keys.get(&remote) == password.as_ref() {
            return;
        }
        if let Some(socket) = &self.socket {
            key(socket, remote, password.as_deref());
        }
        match password {
            Some(password) => drop(self.keys.insert(remote, password)),
            None => drop(self.keys.remove(&remote)),
        }
    }

    /// Tries to listen if it does not yet.
    pub(super) fn try_open(&mut self) {
        if self.socket.is_some() {
            return;
        }
        match listen(self.address) {
            Ok(socket) => {
                info!(address = %self.address, "listening for LDP");
                self.keys.iter().for_each(|(remote, password)| key(&socket, *remote, Some(password)));
                self.socket = Some(socket);
                self.complained = false;
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

fn key(listener: &TcpListener, remote: Ipv4Addr, password: Option<&str>) {
    if let Err(error) = set_md5(listener.as_fd(), remote.into(), password) {
        warn!(%remote, %error, "cannot set the TCP MD5 key");
    }
}
