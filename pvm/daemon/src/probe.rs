//! Ping and traceroute in the customer's VRF: echo requests leave by the TAP, FastForward routes them like anyone's.
//!
//! Each run has a raw socket and an identifier of its own, so that several do not see one another's answers. A traceroute
//! is echo requests of growing TTL; a label-switching router that answers one tells the label stack it saw (RFC 4950).

use crate::tap::Tap;
use edgeplex_mgmt::show::{PingOptions, PingReport, Probe};
use edgeplex_pvm_ping::{self as packet, Echo, ErrorKind, Heard};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};

/// Runs at once, at most: each is a socket that sees every ICMP message of the VM.
const AT_ONCE: usize = 4;
/// How long one run may last.
const LONGEST: Duration = Duration::from_secs(900);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("{0}: `{1}`: {2}")]
    Options(&'static str, u64, &'static str),
    #[error("it could last {0:?}: must be at most {LONGEST:?}")]
    Long(Duration),
    #[error("{0}: must be a unicast address beyond the link")]
    Destination(IpAddr),
    #[error("the attachment has no address of the family of {0}")]
    Family(IpAddr),
    #[error("{AT_ONCE} pings and traceroutes run here already; try again later")]
    Busy,
    #[error("no socket for it: {0}")]
    Socket(#[from] io::Error),
}

#[derive(Debug)]
pub(crate) struct Prober {
    places: Semaphore,
    /// The attachment's addresses as they are now.
    tap: watch::Receiver<Tap>,
}

impl Prober {
    pub(crate) fn new(tap: watch::Receiver<Tap>) -> Self {
        Self { places: Semaphore::new(AT_ONCE), tap }
    }

    fn run(&self, to: IpAddr, options: &PingOptions, longest: Duration) -> Result<Run, ProbeError> {
        if longest > LONGEST {
            return Err(ProbeError::Long(longest));
        }
        options.check().map_err(|(option, given, right)| ProbeError::Options(option, given, right))?;
        let on_link = matches!(to, IpAddr::V6(a) if a.is_unicast_link_local()) || to == IpAddr::from([255; 4]);
        if to.is_unspecified() || to.is_multicast() || to.is_loopback() || on_link {
            return Err(ProbeError::Destination(to));
        }
        let from = self.tap.borrow().addresses.iter().map(ipnet::IpNet::addr).find(|a| a.is_ipv4() == to.is_ipv4());
        Run::new(from.ok_or(ProbeError::Family(to))?, to, Duration::from_millis(options.timeout_ms.into()))
    }

    /// Sends a request each interval, whatever comes back; ends when all are answered or too late to be.
    pub(crate) async fn ping(&self, to: IpAddr, options: &PingOptions) -> Result<PingReport, ProbeError> {
        let _place = self.places.try_acquire().map_err(|_| ProbeError::Busy)?;
        let run = self.run(to, options, options.longest_ping())?;
        let interval = Duration::from_millis(options.interval_ms.into());
        let mut probes: Vec<Probe> = vec![];
        let mut sent: Vec<Instant> = vec![];
        let mut next = Instant::now();
        loop {
            let all_sent = probes.len() == usize::from(options.count);
            if all_sent && !probes.iter().any(open) {
                break;
            }
            let until = if all_sent { sent.last().map_or(next, |t| *t + run.patience) } else { next };
            tokio::select! {
                heard = run.hear() => {
                    let (from, heard) = heard?;
                    let number = run.about(from, &heard).and_then(|echo| usize::from(echo.sequence).checked_sub(1));
                    let Some((probe, at)) = number.and_then(|n| Some((probes.get_mut(n)?, sent.get(n)?))) else { continue };
                    if open(probe) && at.elapsed() <= run.patience {
                        answered(probe, from, heard, *at);
                    }
                }
                () = sleep_until(until) => {
                    if all_sent {
                        break;
                    }
                    let number = u16::try_from(probes.len() + 1).unwrap_or(u16::MAX);
                    sent.push(Instant::now());
                    probes.push(run.send(number).await);
                    next += interval;
                }
            }
        }
        Ok(report(probes))
    }

    /// One request for each TTL, until the end answers.
    pub(crate) async fn traceroute(&self, to: IpAddr, options: &PingOptions) -> Result<PingReport, ProbeError> {
        let _place = self.places.try_acquire().map_err(|_| ProbeError::Busy)?;
        let run = self.run(to, options, options.longest_traceroute())?;
        let mut probes: Vec<Probe> = vec![];
        for ttl in 1..=options.max_hops {
            run.set_ttl(ttl)?;
            let at = Instant::now();
            let mut probe = run.send(ttl.into()).await;
            while open(&probe)
                && let Ok(heard) = timeout_at(at + run.patience, run.hear()).await
            {
                let (from, heard) = heard?;
                if run.about(from, &heard).is_some_and(|echo| echo.sequence == u16::from(ttl)) {
                    answered(&mut probe, from, heard, at);
                }
            }
            let last = probe.last || !(open(&probe) || probe.outcome == TTL_EXCEEDED);
            probes.push(probe);
            if last {
                break;
            }
        }
        Ok(report(probes))
    }
}

const TIMEOUT: &str = "timeout";
const TTL_EXCEEDED: &str = "ttl-exceeded";
const UNREACHABLE: &str = "unreachable";

/// It was sent, and nobody has answered it.
fn open(probe: &Probe) -> bool {
    probe.outcome == TIMEOUT
}

fn answered(probe: &mut Probe, from: IpAddr, heard: Heard, sent: Instant) {
    probe.from = Some(from);
    probe.rtt_us = u64::try_from(sent.elapsed().as_micros()).ok();
    match heard {
        Heard::Reply(_) => {
            probe.outcome = "echo-reply".into();
            probe.last = true;
        }
        Heard::Error { kind, labels, .. } => {
            probe.outcome = if kind == ErrorKind::TtlExceeded { TTL_EXCEEDED } else { UNREACHABLE }.into();
            probe.labels = labels;
        }
    }
}

fn report(probes: Vec<Probe>) -> PingReport {
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let received = probes.iter().filter(|p| p.from.is_some()).count();
    PingReport { sent: count(probes.len()), received: count(received), probes }
}

/// One ping or traceroute.
#[derive(Debug)]
struct Run {
    /// A raw socket; the calls are those of any datagram socket.
    socket: UdpSocket,
    to: IpAddr,
    id: u16,
    patience: Duration,
}

impl Run {
    fn new(from: IpAddr, to: IpAddr, patience: Duration) -> Result<Self, ProbeError> {
        let (domain, protocol) = if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        let [a, b, ..] = RandomState::new().hash_one(std::process::id()).to_be_bytes();
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, to, id: u16::from_be_bytes([a, b]), patience })
    }

    fn set_ttl(&self, ttl: u8) -> io::Result<()> {
        let socket = socket2::SockRef::from(&self.socket);
        if self.to.is_ipv4() { socket.set_ttl_v4(ttl.into()) } else { socket.set_unicast_hops_v6(ttl.into()) }
    }

    /// A probe without an answer yet.
    async fn send(&self, number: u16) -> Probe {
        let message = packet::request(self.to.is_ipv4(), Echo { id: self.id, sequence: number });
        let sent = self.socket.send_to(&message, SocketAddr::new(self.to, 0)).await;
        let outcome = sent.map_or_else(|e| format!("not sent: {e}"), |_| TIMEOUT.into());
        Probe { number, from: None, rtt_us: None, outcome, labels: vec![], last: false }
    }

    /// The next message about a ping, anyone's. Cancel-safe.
    async fn hear(&self) -> io::Result<(IpAddr, Heard)> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            if let Some(heard) = packet::decode(self.to.is_ipv4(), buffer.get(..length).unwrap_or_default()) {
                return Ok((from.ip(), heard));
            }
        }
    }

    /// Which of our requests it is about.
    fn about(&self, from: IpAddr, heard: &Heard) -> Option<Echo> {
        let (echo, to) = match heard {
            Heard::Reply(echo) => (*echo, from),
            Heard::Error { echo, to, .. } => (*echo, *to),
        };
        (echo.id == self.id && to == self.to).then_some(echo)
    }
}
