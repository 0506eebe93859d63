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
    // One that is not known: what passed since we heard of it.
    assert_eq!(timestamp(&at(100, 5000), 2000, Duration::from_secs(7)), 8100);
    assert_eq!(timestamp(&at(100, 5000), 5000 + PLAUSIBLE_MS, Duration::ZERO), 1100);
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

#[test]
fn windows_are_brought_up_to_date() {
    let bytes = |numbers: [u32; 5]| numbers.map(u32::to_ne_bytes).as_flattened().to_vec();
    let mut now = bytes([7, 1000, 2000, 3000, 9]);
    renew(&mut now, 500, 70_000);
    assert_eq!(now, bytes([7, 500, 2000, 70_000, 9]));
    renew(&mut now, 5000, 0);
    assert_eq!(now, bytes([7, 5000, 5000, 70_000, 9]));
    renew(&mut [0; 7], 1, 1);
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
                let mut window = progress.window.clone();
                let now = acked(&ours, &mut window).unwrap();
                let sent = progress.sent - now.unacknowledged as u64;
                progress.apply(&Record::Acked { session: id, sent, window, timestamp: now.timestamp, at_ms: now.at_ms }).unwrap();
            }
            // Written down, and never given to the socket.
            progress.apply(&Record::Sent(id, vec![100 + round; 50])).unwrap();
            abandon(&ours).unwrap();
            drop(ours);
            // The listener has the port, and goes on having it.
            let restore =
                Restore { progress: &progress, now_ms: boot_ms(), age: Duration::ZERO, password: None, ttl: Some(255), least_ttl: None };
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

/// Its successor's host is up for much longer or shorter, and the journal's last word is seconds old: the peer would take segments
/// with older timestamps for old ones (RFC 7323 §5), and wait.
#[test]
#[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
fn timestamps_go_on_by_another_hosts_clock() {
    const FAR: u64 = 100 * PLAUSIBLE_MS;
    for ahead in [FAR, FAR.wrapping_neg(), 3_600_000] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, remote) = listener.accept().unwrap();
        let mut tcp = opened(&ours).unwrap();
        tcp.at_ms = tcp.at_ms.wrapping_add(ahead);
        let local = ours.local_addr().unwrap();
        let progress = Progress::new(&Opened { protocol: Protocol::Bgp, local, remote, passive: true, tcp });
        std::thread::sleep(Duration::from_millis(TIMESTAMP_SLACK_MS * 5 / 2));
        let before = sockopt::timestamp(ours.as_fd()).unwrap();
        abandon(&ours).unwrap();
        drop(ours);
        let now_ms = boot_ms().wrapping_add(ahead);
        let restore = Restore { progress: &progress, now_ms, age: Duration::ZERO, password: None, ttl: None, least_ttl: None };
        let (mut ours, _) = restore_at_once(&restore);
        let forward = sockopt::timestamp(ours.as_fd()).unwrap().wrapping_sub(before);
        assert!(u64::from(forward) < 2 * TIMESTAMP_SLACK_MS, "{forward} ms forward, or back, with {ahead}");
        ours.write_all(b"hello").unwrap();
        theirs.read_exact(&mut [0; 5]).unwrap();
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
    let progress = progress(TcpOpened::default());
    let how = Restore { progress: &progress, now_ms: boot_ms(), age: Duration::ZERO, password: None, ttl: None, least_ttl: None };
    assert_eq!(restore(&how).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
}
