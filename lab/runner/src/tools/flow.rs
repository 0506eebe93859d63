//! One end of a stream of numbered datagrams in each direction: sends its own, notes the other end's. When each left and arrived
//! is kept by the wall clock, which all nodes of a machine share: losses can be laid beside what daemons have logged.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Both ends' port.
pub const PORT: u16 = 7008;
const HEADER: usize = 16;
/// Number of a datagram that only says that somebody is there.
const HELLO: u64 = u64::MAX;
const HELLO_PACE: Duration = Duration::from_millis(5);
/// After the last of its own an end listens until nothing has come for so long.
const STRAGGLERS: Duration = Duration::from_millis(600);

#[derive(Debug, Clone)]
pub struct Options {
    pub to: Ipv4Addr,
    /// Tells this stream from those before it.
    pub id: u64,
    pub pps: u32,
    /// Bytes of UDP payload.
    pub size: usize,
}

/// Times are microseconds since 1970.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// When each left, by number.
    pub sent: Vec<u64>,
    /// What arrived from the other end, in this order: number and time.
    pub received: Vec<(u64, u64)>,
}

pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Until standard input closes.
pub fn run(options: &Options) -> Result<Report> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("binding")?;
    both_ways(&socket, SocketAddr::from((options.to, PORT)), options, || {
        let _ = std::io::stdin().read_to_end(&mut vec![]);
    })
}

fn both_ways(socket: &UdpSocket, to: SocketAddr, options: &Options, until: impl FnOnce() + Send) -> Result<Report> {
    let (stop, met) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            until();
            stop.store(true, Ordering::Relaxed);
        });
        let receiver = scope.spawn(|| receive(socket, options.id, &stop, &met));
        let sent = send(socket, to, options, &stop, &met);
        let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        Ok(Report { sent, received })
    })
}

/// Nothing counts before the other end has been heard: it may not be there yet.
fn send(socket: &UdpSocket, to: SocketAddr, options: &Options, stop: &AtomicBool, met: &AtomicBool) -> Vec<u64> {
    let interval = Duration::from_secs(1) / options.pps.max(1);
    let mut payload = vec![0x55; options.size.max(HEADER)];
    payload[..8].copy_from_slice(&options.id.to_be_bytes());
    payload[8..HEADER].copy_from_slice(&HELLO.to_be_bytes());
    // One more afterwards: the other end may have been heard before it could hear.
    while !stop.load(Ordering::Relaxed) {
        let heard = met.load(Ordering::Relaxed);
        let _ = socket.send_to(&payload, to);
        if heard {
            break;
        }
        thread::sleep(HELLO_PACE);
    }
    let started = Instant::now();
    let mut sent: Vec<u64> = vec![];
    while !stop.load(Ordering::Relaxed) {
        payload[8..HEADER].copy_from_slice(&(sent.len() as u64).to_be_bytes());
        sent.push(now_us());
        // ICMP errors for earlier datagrams surface here. What is refused again counts as lost.
        if socket.send_to(&payload, to).is_err() {
            let _ = socket.send_to(&payload, to);
        }
        let next = started + interval * u32::try_from(sent.len()).unwrap_or(u32::MAX);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    sent
}

fn receive(socket: &UdpSocket, id: u64, stop: &AtomicBool, met: &AtomicBool) -> Result<Vec<(u64, u64)>> {
    let (mut received, mut buffer) = (vec![], [0; 2048]);
    let mut quiet_since = Instant::now();
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    while !stop.load(Ordering::Relaxed) || quiet_since.elapsed() < STRAGGLERS {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                let now = now_us();
                let number = |at: usize| Some(u64::from_be_bytes(buffer[..n].get(at..at + 8)?.try_into().ok()?));
                if number(0) == Some(id)
                    && let Some(number) = number(8)
                {
                    met.store(true, Ordering::Relaxed);
                    quiet_since = Instant::now();
                    if number != HELLO {
                        received.push((number, now));
                    }
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused) => {
                if !stop.load(Ordering::Relaxed) {
                    quiet_since = Instant::now();
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn an_end_notes_what_it_sends_and_what_is_meant_for_it() {
        let (mine, theirs) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (to, me) = (theirs.local_addr().unwrap(), mine.local_addr().unwrap());
        let (done, wait) = mpsc::channel::<()>();
        let options = Options { to: Ipv4Addr::LOCALHOST, id: 7, pps: 1000, size: 64 };
        let end = thread::spawn(move || {
            both_ways(&mine, to, &options, move || {
                let _ = wait.recv();
            })
            .unwrap()
        });
        let mut buffer = [0; 100];
        let mut next = || {
            assert_eq!(theirs.recv(&mut buffer).unwrap(), 64);
            assert_eq!(buffer[..8], 7u64.to_be_bytes());
            u64::from_be_bytes(buffer[8..16].try_into().unwrap())
        };
        assert_eq!((next(), next()), (HELLO, HELLO), "nothing counts before we are heard");
        theirs.send_to(&[7u64.to_be_bytes(), HELLO.to_be_bytes()].concat(), me).unwrap();
        let numbers: Vec<u64> = std::iter::repeat_with(&mut next).skip_while(|n| *n == HELLO).take(5).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        for (id, number) in [(7u64, 3u64), (8, 4), (7, 9)] {
            theirs.send_to(&[id.to_be_bytes(), number.to_be_bytes()].concat(), me).unwrap();
        }
        drop(done);
        let report = end.join().unwrap();
        assert!(report.sent.len() >= 5 && report.sent.is_sorted());
        assert_eq!(report.received.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [3, 9], "that of another stream is not ours");
    }
}
