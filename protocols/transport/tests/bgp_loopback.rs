//! Two speakers over the loopback interface, and a raw peer that misbehaves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri, NlriKey};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use edgeplex_transport::{Mode, journal::Journal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc::Receiver;

const LIMIT: Duration = Duration::from_secs(20);
const F: Family = Family::Ipv4Unicast;

struct Side {
    speaker: Speaker,
    events: Receiver<Event>,
    address: Ipv4Addr,
}

/// Below the range from which connections take their own ports.
const PORT: u16 = 21790;

/// A loopback address of this test alone: of the process, of the test within it, and of one side.
fn address(net: u8, host: u8) -> Ipv4Addr {
    let [_, _, a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (a & 31), b, net << 4 | host)
}

fn side(address: Ipv4Addr, asn: u32) -> Side {
    let listen = vec![SocketAddr::from((address, PORT))];
    let (speaker, events) = Speaker::start(SpeakerConfig { local_as: asn, router_id: address, listen }, Mode::Live(Journal::none()));
    Side { speaker, events, address }
}

fn config(local: Ipv4Addr, remote: Ipv4Addr, remote_as: u32) -> PeerConfig {
    let graceful_restart = Some(GracefulRestart { restart_time_s: 60, restarting: false });
    PeerConfig { port: PORT, local_address: Some(local.into()), graceful_restart, ..PeerConfig::new(remote, remote_as) }
}

impl Side {
    async fn event(&mut self) -> Event {
        tokio::time::timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("the speaker lives")
    }

    async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.event().await) {
                return found;
            }
        }
    }

    async fn up(&mut self) {
        self.until(|e| matches!(e, Event::Up { .. }).then_some(())).await;
    }

    async fn down(&mut self) -> (String, bool) {
        self.until(|e| if let Event::Down { reason, graceful, .. } = e { Some((reason, graceful.is_some())) } else { None }).await
    }

    async fn reach(&mut self) -> (Vec<Nlri>, Arc<Attributes>, IpAddr) {
        self.until(|e| match e {
            Event::Update { reach, attributes, next_hop, .. } if !reach.is_empty() => {
                Some((reach.iter().map(|r| r.nlri).collect(), attributes, next_hop))
            }
            _ => None,
        })
        .await
    }

    async fn unreach(&mut self) -> Vec<NlriKey> {
        self.until(|e| match e {
            Event::Update { unreach, .. } if !unreach.is_empty() => Some(unreach.iter().map(|u| u.key).collect()),
            _ => None,
        })
        .await
    }
}

fn nlri(text: &str) -> Nlri {
    Nlri::Unicast(text.parse().unwrap())
}

/// Two speakers that both listen and connect, at the same moment: their connections collide.
async fn pair(net: u8, password: Option<&str>) -> (Side, Side) {
    let (a, b) = (address(net, 1), address(net, 2));
    let (mut left, mut right) = (side(a, 65000), side(b, 65101));
    let password = password.map(str::to_owned);
    left.speaker.set_peer(PeerConfig { password: password.clone(), ..config(a, b, 65101) });
    right.speaker.set_peer(PeerConfig { password, ..config(b, a, 65000) });
    left.up().await;
    right.up().await;
    (left, right)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_go_both_ways_are_withdrawn_and_come_back_after_a_reset() {
    let (mut left, mut right) = pair(1, None).await;
    let attributes = Arc::new(Attributes { as_path: AsPath::default(), communities: vec![7], ..Attributes::default() });
    let next_hop = IpAddr::from(left.address);
    left.speaker.advertise(right.address.into(), nlri("10.1.0.0/16"), Arc::clone(&attributes), next_hop);
    left.speaker.release(right.address.into(), F);
    // Our own loopback address is no next hop of a host, so this one must not arrive as reachable.
    assert_eq!(right.unreach().await, [nlri("10.1.0.0/16").key()]);
    let hop = IpAddr::from([192, 0, 2, 1]);
    left.speaker.advertise(right.address.into(), nlri("10.2.0.0/16"), Arc::clone(&attributes), hop);
    let (reach, got, next_hop) = right.reach().await;
    assert_eq!((reach, next_hop), (vec![nlri("10.2.0.0/16")], hop));
    assert_eq!((got.as_path.to_string(), got.communities.as_slice()), ("65000".into(), &[7][..]));

    right.speaker.advertise(left.address.into(), nlri("10.3.0.0/16"), Arc::clone(&attributes), hop);
    right.speaker.release(left.address.into(), F);
    assert_eq!(left.reach().await.0, [nlri("10.3.0.0/16")]);

    left.speaker.withdraw(right.address.into(), nlri("10.2.0.0/16").key());
    assert_eq!(right.unreach().await, [nlri("10.2.0.0/16").key()]);

    left.speaker.reset(right.address.into());
    let (reason, graceful) = right.down().await;
    // RFC 8538: both sides take it for a restart.
    assert!(reason.contains("administrative reset") && graceful, "{reason}");
    left.down().await;
    left.up().await;
    assert_eq!(left.reach().await.0, [nlri("10.3.0.0/16")]);
    let shown = left.speaker.neighbors();
    assert_eq!((shown.len(), shown[0].resets, shown[0].state.as_str()), (1, 1, "established"));

    left.speaker.remove_peer(right.address.into());
    let (reason, graceful) = right.down().await;
    assert!(reason.contains("de-configured") && !graceful, "{reason}");
    assert!(left.speaker.neighbors().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_shutdown_leaves_the_routes_an_abrupt_end_too_and_an_orderly_one_does_not() {
    for (net, graceful) in [(2, true), (3, false)] {
        let (left, mut right) = pair(net, None).await;
        left.speaker.shutdown(graceful).await;
        let (reason, kept) = right.down().await;
        assert_eq!(kept, graceful, "{reason}");
    }
    let (left, mut right) = pair(4, None).await;
    drop(left);
    assert!(right.down().await.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn md5_passwords_that_agree_connect() {
    let (mut left, right) = pair(5, Some("a secret")).await;
    right.speaker.shutdown(false).await;
    assert!(left.down().await.0.contains("administrative shutdown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn md5_passwords_that_differ_do_not_connect() {
    let (a, b) = (address(6, 1), address(6, 2));
    let (mut left, right) = (side(a, 65000), side(b, 65101));
    left.speaker.set_peer(PeerConfig { password: Some("one".into()), ..config(a, b, 65101) });
    right.speaker.set_peer(PeerConfig { password: Some("another".into()), ..config(b, a, 65000) });
    assert!(tokio::time::timeout(Duration::from_secs(2), left.events.recv()).await.is_err());
    // The right key, and it comes up.
    right.speaker.set_peer(PeerConfig { password: Some("one".into()), ..config(b, a, 65000) });
    left.up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_does_not_listen_stops_the_neighbour_and_loses_nothing() {
    let (left, mut right) = pair(7, None).await;
    let hop = IpAddr::from([192, 0, 2, 1]);
    // Each with its own attributes, so one UPDATE each: far more than the event channel holds.
    let total = 20_000u32;
    for n in 0..total {
        let prefix = ipnet::Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap();
        let attributes = Arc::new(Attributes { communities: vec![n], ..Attributes::default() });
        left.speaker.advertise(right.address.into(), Nlri::Unicast(prefix.into()), attributes, hop);
    }
    left.speaker.release(right.address.into(), F);
    let mut got = 0;
    loop {
        match right.event().await {
            Event::Update { reach, .. } => got += reach.len(),
            Event::EndOfRib { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, usize::try_from(total).unwrap());
}

/// Connects from `from`, sends `bytes`, and returns all that comes back until the speaker closes.
async fn raw(from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let mut answer = vec![];
    // The speaker may have closed already; then there is nothing to read either.
    let _ = stream.write_all(bytes).await;
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("closed in time");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_bad_messages_answered_while_another_session_stands() {
    let (mut left, right) = pair(8, None).await;
    let bad = address(8, 6);
    let listen = SocketAddr::from((left.address, PORT));
    assert_eq!(raw(address(8, 9), listen, b"hello").await, b"");
    assert_eq!(left.speaker.refused(), 1);
    left.speaker.set_peer(PeerConfig { passive: true, ..config(left.address, bad, 65666) });
    // Wrong marker: our OPEN, then NOTIFICATION 1/1.
    let answer = raw(bad, listen, &[0; 19]).await;
    assert_eq!(answer[18], 1, "an OPEN comes first");
    assert_eq!(answer[answer.len() - 3..], [3, 1, 1]);
    let shown = left.speaker.neighbors();
    assert!(shown.iter().any(|n| n.address == IpAddr::from(bad) && n.last_error.as_ref().is_some_and(|e| e.contains("marker"))));
    assert!(shown.iter().any(|n| n.address == IpAddr::from(right.address) && n.state == "established"));
    assert!(left.events.try_recv().is_err(), "nobody heard of it");
}

#[tokio::test]
async fn the_listener_waits_for_its_address() {
    let address = address(9, 1);
    let taken = TcpListener::bind((address, PORT)).unwrap();
    let listen = taken.local_addr().unwrap();
    let (speaker, _events) =
        Speaker::start(SpeakerConfig { local_as: 1, router_id: address, listen: vec![listen] }, Mode::Live(Journal::none()));
    tokio::task::yield_now().await;
    drop(taken);
    let limit = tokio::time::Instant::now() + LIMIT;
    while speaker.refused() == 0 {
        assert!(tokio::time::Instant::now() < limit, "never listened");
        // Each attempt that connects is refused, as no neighbour is known.
        let _ = tokio::net::TcpStream::connect(listen).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_from_too_far_away_is_not_heard() {
    let (mut near, _right) = pair(10, None).await;
    let far = address(10, 6);
    near.speaker.set_peer(PeerConfig { passive: true, ttl_security_hops: Some(1), ..config(near.address, far, 65666) });
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((far, 0).into()).unwrap();
    let mut stream = socket.connect((near.address, PORT).into()).await.unwrap();
    // The OPEN that greets us; then garbage, which it must not hear: our packets leave with the system's TTL.
    let mut open = [0; 19];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut open)).await.unwrap().unwrap();
    stream.write_all(&[0; 19]).await.unwrap();
    let error = |side: &Side| side.speaker.neighbors().into_iter().find(|n| n.address == IpAddr::from(far)).unwrap().last_error;
    assert!(tokio::time::timeout(Duration::from_millis(500), near.events.recv()).await.is_err());
    assert_eq!(error(&near), None);
    // As from the next door it is heard.
    stream.set_ttl(255).unwrap();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut vec![])).await.expect("answered and closed").unwrap();
    assert!(error(&near).unwrap().contains("marker"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_words_reach_the_other_side_and_the_session_stays_away() {
    let (mut left, mut right) = pair(11, None).await;
    let peer = right.address;
    left.speaker.set_peer(PeerConfig { shutdown: Some("moving house".into()), ..config(left.address, peer, 65101) });
    let (reason, graceful) = right.down().await;
    assert!(reason.contains("\"moving house\"") && !graceful, "{reason}");
    left.down().await;
    assert!(tokio::time::timeout(Duration::from_secs(1), right.events.recv()).await.is_err());
    assert_eq!(left.speaker.neighbors()[0].state, "idle");
    left.speaker.set_peer(config(left.address, peer, 65101));
    left.up().await;
    right.up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_bfd_calls_broken_takes_the_routes_with_it() {
    let (mut left, mut right) = pair(12, None).await;
    left.speaker.bfd_down(right.address.into());
    assert_eq!(left.down().await, ("Cease: BFD down (6/10)".into(), false));
    let (reason, graceful) = right.down().await;
    assert!(reason.contains("BFD down") && !graceful, "{reason}");
    left.up().await;
}
