//! The server on every LAN host: echoes datagrams and digests TCP streams, and always says whose it is. Hosts of
//! different customers have equal addresses, so its name is the only way to know which one was reached.

use super::{PORT, tcp};
use anyhow::{Context, Result};
use std::{
    net::{Ipv6Addr, TcpListener, UdpSocket},
    thread,
};

pub fn run(name: &str) -> Result<()> {
    // Sockets of both families: IPv4 arrives mapped (RFC 3493 §3.7).
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).context("UDP")?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).context("TCP")?;
    println!("serving");
    let udp_name = name.to_owned();
    thread::spawn(move || echo(&udp, &udp_name));
    for stream in listener.incoming() {
        let name = name.to_owned();
        let stream = stream?;
        thread::spawn(move || {
            if let Err(e) = tcp::digest(stream, &name) {
                eprintln!("TCP: {e:#}");
            }
        });
    }
    Ok(())
}

/// Sends every datagram back with our name behind it.
fn echo(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = buffer[..n].to_vec();
        answer.extend_from_slice(name.as_bytes());
        // An answer that cannot be sent is a lost one: the pinger counts it.
        let _ = socket.send_to(&answer, from);
    }
}
