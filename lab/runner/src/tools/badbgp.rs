//! A customer's router that speaks BGP badly. It opens a session like a good one, then does one bad thing and reports
//! what became of the session. The messages are written out byte by byte here: our own codec is what is on trial.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use serde::{Deserialize, Serialize};
use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// UPDATEs with malformed attributes (RFC 7606: the session survives), then a good one.
    Attributes,
    /// A header whose marker is not all ones (RFC 4271 §6.1: Message Header Error, Connection Not Synchronized).
    Marker,
    /// A header that claims 5,000 bytes (RFC 4271 §6.1: Bad Message Length).
    Length,
    /// 200,000 prefixes (RFC 4486: Cease, Maximum Number of Prefixes Reached).
    Flood,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub peer: Ipv4Addr,
    pub asn: u16,
    pub router_id: Ipv4Addr,
    pub kind: Kind,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Code and subcode of the NOTIFICATION received, if any.
    pub notification: Option<(u8, u8)>,
    pub closed: bool,
    /// Prefixes sent before the end.
    pub prefixes_sent: u32,
    /// Message types received after the bad thing, in order, at most 20.
    pub received: Vec<u8>,
}

pub(super) const OPEN: u8 = 1;
pub(super) const UPDATE: u8 = 2;
pub(super) const NOTIFICATION: u8 = 3;
pub(super) const KEEPALIVE: u8 = 4;
/// How long a session that should survive is watched.
const WATCH: Duration = Duration::from_millis(1500);

/// What a good route must be called by the one who asks afterwards.
pub const GOOD_PREFIX: &str = "172.16.67.0/24";
/// What the malformed UPDATEs announce.
pub const BAD_PREFIX: &str = "172.16.66.0/24";

pub fn run(options: &Options) -> Result<Report> {
    let mut session = Session::open(options)?;
    let mut report = Report { notification: None, closed: false, prefixes_sent: 0, received: vec![] };
    match options.kind {
        Kind::Attributes => {
            for attributes in malformed(options) {
                session.send(UPDATE, &update(&attributes, &[24, 172, 16, 66]))?;
            }
            session.send(UPDATE, &update(&good_attributes(options), &[24, 172, 16, 67]))?;
            report.prefixes_sent = 1;
        }
        Kind::Marker => session.raw(&[[0; 16].as_slice(), &[0, 19, KEEPALIVE]].concat())?,
        Kind::Length => session.raw(&[[0xff; 16].as_slice(), &[0x13, 0x88, UPDATE], &[0; 4981]].concat())?,
        Kind::Flood => flood(&mut session, options, &mut report),
    }
    session.watch(options.kind != Kind::Attributes, &mut report)?;
    Ok(report)
}

/// Sends until all is said or the peer has had enough.
fn flood(session: &mut Session, options: &Options, report: &mut Report) {
    let attributes = good_attributes(options);
    for batch in 0..200u32 {
        let mut nlri = vec![];
        for i in 0..1000 {
            let [_, a, b, c] = (batch * 1000 + i).to_be_bytes();
            // 20.0.0.0/6 and onwards in /24s: 200,000 of them.
            nlri.extend_from_slice(&[24, 20 + a, b, c]);
        }
        for part in nlri.chunks(4 * 900) {
            if session.send(UPDATE, &update(&attributes, part)).is_err() {
                return;
            }
        }
        report.prefixes_sent += 1000;
    }
}

fn good_attributes(options: &Options) -> Vec<u8> {
    let [hi, lo] = options.asn.to_be_bytes();
    // ORIGIN igp; AS_PATH one sequence of ourselves in 4 octets; NEXT_HOP ourselves.
    [&[0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, hi, lo, 0x40, 3, 4][..], &options.router_id.octets()].concat()
}

/// One attribute set per malformation of RFC 7606 §7 that must be answered by treat-as-withdraw.
fn malformed(options: &Options) -> Vec<Vec<u8>> {
    let [hi, lo] = options.asn.to_be_bytes();
    let path = [0x40, 2, 6, 2, 1, 0, 0, hi, lo];
    let next_hop = [&[0x40, 3, 4][..], &options.router_id.octets()].concat();
    let origin = [0x40, 1, 1, 0];
    let with = |extra: &[u8]| [&origin[..], &path, &next_hop, extra].concat();
    vec![
        // ORIGIN of two bytes, and of an undefined value.
        [&[0x40, 1, 2, 0, 0][..], &path, &next_hop].concat(),
        [&[0x40, 1, 1, 9][..], &path, &next_hop].concat(),
        // AS_PATH whose segment runs over its end.
        [&origin[..], &[0x40, 2, 6, 2, 9, 0, 0, hi, lo], &next_hop].concat(),
        // NEXT_HOP of three bytes; no NEXT_HOP at all.
        [&origin[..], &path, &[0x40, 3, 3, 1, 2, 3]].concat(),
        [&origin[..], &path].concat(),
        // MED of three bytes, COMMUNITIES of five, EXTENDED COMMUNITIES of seven.
        with(&[0x80, 4, 3, 0, 0, 1]),
        with(&[0xc0, 8, 5, 0, 1, 0, 2, 3]),
        with(&[0xc0, 16, 7, 0, 2, 0, 1, 0, 0, 0]),
        // Wrong flags on a well-known attribute.
        [&[0xc0, 1, 1, 0][..], &path, &next_hop].concat(),
    ]
}

fn update(attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0, 0][..], &length, attributes, nlri].concat()
}

/// Tries until it works.
pub(super) fn patiently<T>(work: impl Fn() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match work() {
            Err(e) if Instant::now() > end => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
            done => return done,
        }
    }
}

pub(super) struct Session {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Session {
    /// Connects until the peer takes us (it may still be closing our predecessor's session), up to Established.
    fn open(options: &Options) -> Result<Self> {
        patiently(|| Self::try_open(options))
    }

    fn try_open(options: &Options) -> Result<Self> {
        let mut session = Self::connect(options.peer.into(), None)?;
        let [hi, lo] = options.asn.to_be_bytes();
        // Version 4, hold time 90 s; capabilities: IPv4 unicast, 4-octet AS.
        let capabilities = [2, 6, 1, 4, 0, 1, 0, 1, 2, 6, 65, 4, 0, 0, hi, lo];
        let open = [&[4, hi, lo, 0, 90][..], &options.router_id.octets(), &[16], &capabilities].concat();
        session.send(OPEN, &open)?;
        let mut kinds = vec![];
        while kinds.last() != Some(&KEEPALIVE) {
            let (kind, body) = session.receive()?.context("closed during the handshake")?;
            if kind == NOTIFICATION {
                bail!("NOTIFICATION {body:?} during the handshake");
            }
            if kind == OPEN {
                session.send(KEEPALIVE, &[])?;
            }
            kinds.push(kind);
        }
        Ok(session)
    }

    /// Only the TCP connection.
    pub(super) fn connect(peer: IpAddr, local: Option<IpAddr>) -> Result<Self> {
        let to = SocketAddr::new(peer, 179);
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        if let Some(local) = local {
            socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(local, 0)))
                .with_context(|| format!("binding {local}"))?;
        }
        socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).with_context(|| format!("connecting to {to}"))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { stream, buffer: vec![] })
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    pub(super) fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let length = u16::try_from(body.len() + 19)?.to_be_bytes();
        self.raw(&[&[0xff; 16][..], &length, &[kind], body].concat())
    }

    /// The next message; `None` when the peer has closed. An error of kind timeout passes through.
    pub(super) fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some(length) = self.buffer.get(16..18).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])))
                && length >= 19
                && self.buffer.len() >= length
            {
                let message: Vec<u8> = self.buffer.drain(..length).collect();
                return Ok(Some((message[18], message[19..].to_vec())));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Watches what the peer does: to the end of the session if it should end, else for a while.
    fn watch(&mut self, to_the_end: bool, report: &mut Report) -> Result<()> {
        let patience = if to_the_end { Duration::from_secs(10) } else { WATCH };
        let end = Instant::now() + patience;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            self.stream.set_read_timeout(Some(left))?;
            match self.receive() {
                Ok(Some((NOTIFICATION, body))) => report.notification = body.first().copied().zip(body.get(1).copied()),
                Ok(Some((kind, _))) if report.received.len() < 20 => report.received.push(kind),
                Ok(Some(_)) => {}
                Ok(None) => {
                    report.closed = true;
                    break;
                }
                // The read timed out: the session lives.
                Err(_) => break,
            }
        }
        Ok(())
    }
}
