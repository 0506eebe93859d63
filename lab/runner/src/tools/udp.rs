//! A pinger over UDP that counts exactly: every datagram has a number, every answer is matched, and nothing is
//! called lost before a second has passed. It stops when its input closes or after `count`.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const STRAGGLERS: Duration = Duration::from_secs(1);
const HEADER: usize = 16;

#[derive(Debug, Clone)]
pub struct Options {
    pub to: SocketAddr,
    pub source_port: u16,
    pub pps: u32,
    /// Without it, until standard input closes.
    pub count: Option<u64>,
    /// Bytes of UDP payload.
    pub size: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicates: u64,
    /// Names of those that answered.
    pub answered_by: BTreeSet<String>,
    /// The first numbers that got no answer.
    pub lost_numbers: Vec<u64>,
    /// Longest time between two answers, milliseconds.
    pub longest_gap_ms: f64,
    pub rtt_median_us: u64,
    pub rtt_max_us: u64,
    /// Datagrams the local stack refused, e.g. for want of a route.
    pub send_errors: u64,
}

struct Run {
    started: Instant,
    id: u64,
    sent_at: Vec<Duration>,
    answered: Vec<bool>,
    rtts: Vec<Duration>,
    answered_by: BTreeSet<String>,
    duplicates: u64,
    last_answer: Option<Instant>,
    longest_gap: Duration,
    send_errors: u64,
}

pub fn run(options: &Options) -> Result<Report> {
    let any: IpAddr = if options.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, options.source_port)).context("binding")?;
    socket.connect(options.to)?;
    let stop = Arc::new(AtomicBool::new(false));
    if options.count.is_none() {
        let stop = stop.clone();
        thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut vec![]);
            stop.store(true, Ordering::Relaxed);
        });
    }
    let started = Instant::now();
    let mut run = Run {
        started,
        id: u64::from(std::process::id()) << 32 | u64::from(options.source_port),
        sent_at: vec![],
        answered: vec![],
        rtts: vec![],
        answered_by: BTreeSet::new(),
        duplicates: 0,
        last_answer: None,
        longest_gap: Duration::ZERO,
        send_errors: 0,
    };
    let interval = Duration::from_secs(1) / options.pps.max(1);
    let mut payload = vec![0x55; options.size.max(HEADER)];
    loop {
        let number = run.sent_at.len() as u64;
        if options.count.is_some_and(|c| number >= c) || stop.load(Ordering::Relaxed) {
            break;
        }
        payload[..8].copy_from_slice(&run.id.to_be_bytes());
        payload[8..HEADER].copy_from_slice(&number.to_be_bytes());
        run.sent_at.push(started.elapsed());
        run.answered.push(false);
        // ICMP errors for earlier datagrams surface here too; the datagram then has not been sent.
        if socket.send(&payload).is_err() && socket.send(&payload).is_err() {
            run.send_errors += 1;
        }
        let next = started + interval * u32::try_from(run.sent_at.len()).unwrap_or(u32::MAX);
        run.receive_until(&socket, next)?;
    }
    let end = Instant::now() + STRAGGLERS;
    while run.answered.contains(&false) && Instant::now() < end {
        let step = (Instant::now() + Duration::from_millis(20)).min(end);
        run.receive_until(&socket, step)?;
    }
    Ok(run.report())
}

impl Run {
    fn receive_until(&mut self, socket: &UdpSocket, until: Instant) -> Result<()> {
        let mut buffer = [0; 65536];
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            if let Ok(n) = socket.recv(&mut buffer) {
                self.take(&buffer[..n]);
            }
        }
        Ok(())
    }

    fn take(&mut self, answer: &[u8]) {
        let Some((head, rest)) = answer.split_first_chunk::<8>() else { return };
        let Some((number, rest)) = rest.split_first_chunk::<8>() else { return };
        if u64::from_be_bytes(*head) != self.id {
            return;
        }
        let Ok(number) = usize::try_from(u64::from_be_bytes(*number)) else { return };
        let Some(answered) = self.answered.get_mut(number) else { return };
        let name: Vec<u8> = rest.iter().copied().skip_while(|b| *b == 0x55).collect();
        self.answered_by.insert(String::from_utf8_lossy(&name).into_owned());
        if std::mem::replace(answered, true) {
            self.duplicates += 1;
            return;
        }
        let now = Instant::now();
        self.rtts.push((now - self.started).saturating_sub(self.sent_at[number]));
        let before = self.last_answer.replace(now).unwrap_or(self.started);
        self.longest_gap = self.longest_gap.max(now - before);
    }

    fn report(mut self) -> Report {
        self.rtts.sort();
        let micros = |d: Option<&Duration>| d.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        let received = self.rtts.len() as u64;
        let sent = self.sent_at.len() as u64;
        let lost_numbers = (0u64..).zip(&self.answered).filter(|(_, a)| !**a).map(|(n, _)| n).take(10).collect();
        Report {
            sent,
            received,
            lost: sent - received,
            duplicates: self.duplicates,
            answered_by: self.answered_by,
            lost_numbers,
            longest_gap_ms: self.longest_gap.as_secs_f64() * 1000.0,
            rtt_median_us: micros(self.rtts.get(self.rtts.len() / 2)),
            rtt_max_us: micros(self.rtts.last()),
            send_errors: self.send_errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_duplicates_and_the_answerer_are_counted() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            let mut n = 0;
            while let Ok((len, from)) = server.recv_from(&mut buffer) {
                n += 1;
                let answer = [&buffer[..len], b"me"].concat();
                // The third is lost, the fifth comes twice.
                for _ in 0..[1, 1, 0, 1, 2].get(n - 1).copied().unwrap_or(1) {
                    server.send_to(&answer, from).unwrap();
                }
            }
        });
        let report = run(&Options { to, source_port: 0, pps: 500, count: Some(10), size: 100 }).unwrap();
        assert_eq!((report.sent, report.received, report.lost, report.duplicates), (10, 9, 1, 1));
        assert_eq!(report.lost_numbers, [2]);
        assert_eq!(report.answered_by, BTreeSet::from(["me".to_owned()]));
    }
}
