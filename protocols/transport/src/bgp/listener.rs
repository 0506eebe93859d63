//! Accepts BGP connections and hands each to its neighbour's task.

use super::{Doors, connection};
use crate::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, atomic::Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

/// Pause between attempts to bind to an address that is not there yet, and after accept() failed.
const RETRY: Duration = Duration::from_millis(250);
/// Refused connections are logged one by one at this pace; the rest are counted.
const LOG_PACE: Duration = Duration::from_secs(1);

/// A neighbour's TCP MD5 key, or none any more.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) peer: IpAddr,
    pub(super) password: Option<String>,
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // After a restart, connections of the former process may still be about to close.
    socket.set_reuse_address(true)?;
    // IPv4 has a listener of its own.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    connection::set_ttl(SockRef::from(&socket), address.ip())?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

fn set_key(listener: &TcpListener, peer: IpAddr, password: Option<&str>) {
    if let Err(error) = sockopt::set_md5(listener.as_fd(), peer, password) {
        warn!(%peer, %error, "cannot set the TCP MD5 key");
    }
}

/// Runs until every handle of the speaker is gone.
pub(super) async fn run(address: SocketAddr, doors: Arc<Doors>, mut keys: mpsc::UnboundedReceiver<Key>) {
    let mut known: HashMap<IpAddr, String> = HashMap::new();
    let mut listener: Option<TcpListener> = None;
    let mut complained = false;
    let mut logged: Option<Instant> = None;
    loop {
        if listener.is_none() {
            match bind(address) {
                Ok(l) => {
                    info!(%address, "listening for BGP");
                    known.iter().for_each(|(peer, password)| set_key(&l, *peer, Some(password)));
                    listener = Some(l);
                    complained = false;
                }
                Err(error) if !complained => {
                    warn!(%address, %error, "cannot listen for BGP yet, trying on");
                    complained = true;
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            key = keys.recv() => {
                let Some(Key { peer, password }) = key else { return };
                if let Some(l) = &listener {
                    set_key(l, peer, password.as_deref());
                }
                match password {
                    Some(password) => known.insert(peer, password),
                    None => known.remove(&peer),
                };
            }
            accepted = accept(listener.as_ref()) => match accepted {
                Ok(Some((stream, from))) => {
                    if doors.hand_over(from.ip(), stream).is_err() {
                        let refused = doors.refused.load(Ordering::Relaxed);
                        if logged.is_none_or(|at| at.elapsed() >= LOG_PACE) {
                            logged = Some(Instant::now());
                            warn!(from = %from.ip(), refused, "refused a BGP connection: no such neighbour, or too many at once");
                        }
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    // Out of descriptors, perhaps: the pause keeps this from spinning.
                    warn!(%address, %error, "cannot accept BGP connections");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Without a listener, `None` after a pause.
async fn accept(listener: Option<&TcpListener>) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    match listener {
        Some(l) => l.accept().await.map(Some),
        None => {
            tokio::time::sleep(RETRY).await;
            Ok(None)
        }
    }
}
