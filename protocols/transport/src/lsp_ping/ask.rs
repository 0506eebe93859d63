//! Questions of our own: ping to the end of an LSP, traceroute along it.

use super::{Handle, ntp_now, sockopt::packet_socket};
use edgeplex_lsp_ping::{
    Message, ReturnCode,
    frame::{self, Way},
    packet::{Kind, Tlv},
};
use edgeplex_mgmt::show::{PingOptions, PingReport, Probe};
use ipnet::Ipv4Net;
use socket2::Socket;
use std::{io, net::IpAddr, time::Duration};
use tokio::{net::UdpSocket, time::Instant};

/// TTL of the labels of a ping: to the very end.
const TO_THE_END: u8 = 255;
/// A trace ends after so many hops in a row that did not answer.
const SILENT_HOPS: u16 = 5;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("interface {0}: {1}")]
    Interface(String, io::Error),
    #[error("socket for replies: {0}")]
    Socket(#[from] io::Error),
    #[error("too many LSP pings at once: try again later")]
    Busy,
}

/// One run of questions about one FEC.
struct Question<'a> {
    fec: Ipv4Net,
    way: &'a Way,
    port: Socket,
    replies: UdpSocket,
    handle: u32,
    source_port: u16,
    source: std::net::Ipv4Addr,
}

impl Handle {
    /// `interface` and `way`: one leg of the FEC's LSP. Requests go out at their pace, whatever comes back.
    pub async fn ping(&self, fec: Ipv4Net, interface: &str, way: &Way, options: &PingOptions) -> Result<PingReport, AskError> {
        let _permit = self.questions.try_acquire().map_err(|_| AskError::Busy)?;
        let question = self.question(fec, interface, way).await?;
        let (interval, timeout) = (Duration::from_millis(options.interval_ms.into()), Duration::from_millis(options.timeout_ms.into()));
        let mut sent: Vec<Instant> = vec![];
        let mut report = PingReport { sent: 0, received: 0, probes: vec![] };
        let mut waiting = usize::from(options.count);
        while waiting > 0 {
            let last = sent.last().copied();
            let due = if report.sent < options.count { last.map(|t| t + interval) } else { last.map(|t| t + timeout) };
            tokio::select! {
                biased;
                answer = question.answer() => {
                    let (from, reply) = answer?;
                    let place = usize::try_from(reply.sequence).ok().and_then(|n| n.checked_sub(1));
                    if let Some(place) = place
                        && let Some((probe, at)) = report.probes.get_mut(place).zip(sent.get(place))
                        && probe.from.is_none()
                        && at.elapsed() <= timeout
                    {
                        *probe = answered(probe.number, from, &reply, *at);
                        report.received += u16::from(probe.last);
                        waiting -= 1;
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)) => {
                    if report.sent == options.count {
                        break;
                    }
                    report.sent += 1;
                    report.probes.push(unanswered(report.sent));
                    sent.push(Instant::now());
                    question.send(report.sent, TO_THE_END, false)?;
                }
            }
        }
        Ok(report)
    }

    /// Asks hop after hop until the egress answers.
    pub async fn traceroute(&self, fec: Ipv4Net, interface: &str, way: &Way, options: &PingOptions) -> Result<PingReport, AskError> {
        let _permit = self.questions.try_acquire().map_err(|_| AskError::Busy)?;
        let question = self.question(fec, interface, way).await?;
        let mut report = PingReport { sent: 0, received: 0, probes: vec![] };
        let mut silent = 0;
        for ttl in 1..=options.max_hops {
            let probe = question.probe(ttl, options).await?;
            let answered = probe.from.is_some();
            report.sent += 1;
            report.received += u16::from(answered);
            silent = if answered { 0 } else { silent + 1 };
            let done = probe.last || silent == SILENT_HOPS;
            report.probes.push(probe);
            if done {
                break;
            }
        }
        Ok(report)
    }

    async fn question<'a>(&self, fec: Ipv4Net, interface: &str, way: &'a Way) -> Result<Question<'a>, AskError> {
        let at = |e| AskError::Interface(interface.to_owned(), e);
        let index = nix::net::if_::if_nametoindex(interface).map_err(|e| at(e.into()))?;
        let port = packet_socket(index).map_err(at)?;
        let replies = UdpSocket::bind((self.source, 0)).await?;
        let source_port = replies.local_addr()?.port();
        let [.., a, b, c, d] = ntp_now().to_be_bytes();
        Ok(Question { fec, way, port, replies, handle: u32::from_be_bytes([a, b, c, d]), source_port, source: self.source })
    }
}

impl Question<'_> {
    /// One request and its answer.
    async fn probe(&self, ttl: u8, options: &PingOptions) -> io::Result<Probe> {
        let number = u16::from(ttl);
        let sent = Instant::now();
        self.send(number, ttl, true)?;
        let answer = async {
            loop {
                let (from, reply) = self.answer().await?;
                if reply.sequence == u32::from(number) {
                    return Ok(answered(number, from, &reply, sent));
                }
            }
        };
        let timeout = Duration::from_millis(options.timeout_ms.into());
        tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Ok(unanswered(number)))
    }

    fn send(&self, number: u16, ttl: u8, trace: bool) -> io::Result<()> {
        let request = Message::request(self.fec, self.handle, number.into(), ntp_now(), trace);
        let frame = frame::request(self.way, self.source, self.source_port, ttl, &request.encode());
        match self.port.send(&frame) {
            // A full queue of the interface is a lost packet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// The next reply to one of our requests; all else that comes is passed over.
    async fn answer(&self) -> io::Result<(IpAddr, Message)> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self.replies.recv_from(&mut buffer).await?;
            if let Ok(reply) = Message::decode(buffer.get(..length).unwrap_or_default())
                && reply.kind == Kind::Reply
                && reply.handle == self.handle
            {
                return Ok((from.ip(), reply));
            }
        }
    }
}

fn unanswered(number: u16) -> Probe {
    Probe { number, from: None, rtt_us: None, outcome: "timeout".into(), labels: vec![], last: false }
}

fn answered(number: u16, from: IpAddr, reply: &Message, sent: Instant) -> Probe {
    let stack = reply.tlvs.iter().find_map(|t| if let Tlv::InterfaceAndLabelStack(s) = t { Some(&s.stack) } else { None });
    Probe {
        number,
        from: Some(from),
        rtt_us: u64::try_from(sent.elapsed().as_micros()).ok(),
        outcome: reply.return_code.to_string(),
        labels: stack.into_iter().flatten().map(|e| e.label).collect(),
        last: reply.return_code == ReturnCode::EGRESS,
    }
}
