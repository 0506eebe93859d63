//! What a successor tells of itself, and connections that change hands.

use super::*;
use edgeplex_journal::{Opened, Protocol, Record, SessionId};
use std::{
    io::{Read, Write},
    net::TcpListener,
};

fn progress(tcp: TcpOpened) -> Progress {
    let local = "10.0.0.1:179".parse().unwrap();
    let remote = "10.0.0.2:40000".parse().unwrap();
    Progress::new(&Opened { protocol: Protocol::Bgp, local, remote, passive: true, tcp })
}

#[test]
fn timestamps_never_go_back_whatever_the_clocks_say() {
    let at = |timestamp, at_ms| progress(TcpOpened { timestamp, at_ms, ..TcpOpened::default() });
    // The same clock: what has passed, and a second.
    assert_eq!(timestamp(&at(100, 5000), 8000, Duration::ZERO), 4100);
    // Another host's: what passed since we heard of it.
    assert_eq!(timestamp(&at(100, 5000), 2000, Duration::from_secs(7)), 8100);
    assert_eq!(timestamp(&at(100, 5000), 5000 + SAME_CLOCK_MS, Duration::ZERO), 1100);
    // It wraps, and its lowest bit is a unit.
    assert_eq!(timestamp(&at(u32::MAX - 1, 0), 1, Duration::ZERO), 998);
    assert_eq!(timestamp(&at(1, 0), 0, Duration::ZERO), 1_000_001);
}

#[test]
fn the_peer_is_asked_for_its_window_anew() {
    let told: Vec<u8> = [7u32, 1000, 2000, 3000, 9].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let mut p = progress(TcpOpened { received_base: 50, window: told, ..TcpOpened::default() });
    p.received = 25;
    let numbers: Vec<u32> = window(&p).chunks(4).map(|c| u32::from_ne_bytes(c.try_into().unwrap())).collect();
    assert_eq!(numbers, [74, 1000, 2000, 3000, 75]);
    p.window.clear();
    assert_eq!(window(&p)[4..16], [0; 12], "a journal that says nothing of it breaks nothing");
}

/// Both families: read, write, let go, and go on; what was not acknowledged is sent again, and no byte is lost or comes twice.
#[test]
#[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
fn a_connection_changes_hands() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, remote) = listener.accept().unwrap();
        theirs.write_all(b"early").unwrap();
        let tcp = opened(&ours).unwrap();
        let local = ours.local_addr().unwrap();
        let mut progress = Progress::new(&Opened { protocol: Protocol::Bgp, local, remote, passive: true, tcp });
        let id = SessionId(1);
        for round in 0..3u8 {
            let mut read = [0; 5];
            ours.read_exact(&mut read).unwrap();
            assert_eq!(&read, b"early");
            progress.apply(&Record::Received(id, read.to_vec())).unwrap();
            ours.write_all(&[round; 100]).unwrap();
            progress.apply(&Record::Sent(id, vec![round; 100])).unwrap();
            if round == 1 {
                let now = acked(&ours).unwrap();
                let sent = progress.sent - now.unacknowledged as u64;
                let window = progress.window.clone();
                progress.apply(&Record::Acked { session: id, sent, window, timestamp: now.timestamp, at_ms: now.at_ms }).unwrap();
            }
            // Written down, and never given to the socket.
            progress.apply(&Record::Sent(id, vec![100 + round; 50])).unwrap();
            abandon(&ours).unwrap();
            drop(ours);
            // The listener has the port, and goes on having it.
            let restore = Restore { progress: &progress, age: Duration::ZERO, password: None, ttl: Some(255), least_ttl: None };
            let (stream, taken) = restore_at_once(&restore);
            assert_eq!(taken, progress.unacknowledged.len());
            ours = stream;
            let mut got = [0; 150];
            theirs.read_exact(&mut got).unwrap();
            assert_eq!(got[..], [vec![round; 100], vec![100 + round; 50]].concat());
            theirs.write_all(b"early").unwrap();
        }
        // The end of it is as of any other.
        expose(&ours).unwrap();
        let mut read = [0; 5];
        ours.read_exact(&mut read).unwrap();
        drop(ours);
        assert_eq!(theirs.read(&mut [0; 10]).unwrap(), 0, "in order");
    }
}

fn restore_at_once(how: &Restore<'_>) -> (TcpStream, usize) {
    let (stream, taken) = restore(how).unwrap();
    stream.set_nonblocking(false).unwrap();
    (stream, taken)
}

#[test]
#[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
fn an_address_that_is_not_ours_is_no_connection() {
    let how = Restore { progress: &progress(TcpOpened::default()), age: Duration::ZERO, password: None, ttl: None, least_ttl: None };
    assert_eq!(restore(&how).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
}
