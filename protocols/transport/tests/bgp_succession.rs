//! Speakers on one host that make room for one another, before a neighbour that does not notice: over the loopback interface, where
//! whoever leaves is gone before its successor comes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{Attributes, Family, Nlri};
use edgeplex_journal::{Record, State};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use edgeplex_transport::{Mode, Promoted, journal::Journal, tcp::boot_ms};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

const LIMIT: Duration = Duration::from_secs(20);
const F: Family = Family::Ipv4Unicast;
const PORT: u16 = 21791;

/// Of this test alone.
fn address(net: u8, host: u8) -> Ipv4Addr {
    let [_, _, a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 128 | (a & 31), b, net << 4 | host)
}

fn start(address: Ipv4Addr, asn: u32, mode: Mode) -> (Speaker, Receiver<Event>) {
    Speaker::start(SpeakerConfig { local_as: asn, router_id: address, listen: vec![SocketAddr::from((address, PORT))] }, mode)
}

fn config(local: Ipv4Addr, remote: Ipv4Addr, remote_as: u32) -> PeerConfig {
    let graceful_restart = Some(GracefulRestart { restart_time_s: 60, restarting: false });
    PeerConfig { port: PORT, local_address: Some(local.into()), graceful_restart, ..PeerConfig::new(remote, remote_as) }
}

fn nlri(n: u8) -> Nlri {
    Nlri::Unicast(ipnet::IpNet::new(Ipv4Addr::new(10, n, 0, 0).into(), 16).unwrap())
}

fn tell(speaker: &Speaker, peer: Ipv4Addr, routes: &[u8]) {
    for n in routes {
        speaker.advertise(peer.into(), nlri(*n), Arc::new(Attributes::default()), IpAddr::from([192, 0, 2, 1]));
    }
    speaker.release(peer.into(), F);
}

async fn event(events: &mut Receiver<Event>) -> Event {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("an event in time").expect("the speaker lives")
}

/// Reads until these routes and no others are known; a session that goes down is an error.
async fn knows(events: &mut Receiver<Event>, known: &mut BTreeSet<Nlri>, wanted: &[u8]) {
    let wanted: BTreeSet<Nlri> = wanted.iter().map(|n| nlri(*n)).collect();
    while *known != wanted {
        match event(events).await {
            Event::Update { reach, unreach, .. } => {
                known.retain(|n| !unreach.iter().any(|u| u.key == n.key()));
                known.extend(reach.iter().map(|r| r.nlri));
            }
            Event::Down { reason, .. } => panic!("down: {reason}"),
            _ => {}
        }
    }
}

async fn down(events: &mut Receiver<Event>) -> (String, bool) {
    loop {
        if let Event::Down { reason, graceful, .. } = event(events).await {
            return (reason, graceful.is_some());
        }
    }
}

/// The neighbour, a first life of ours that has exchanged routes with it and left, and what that life has written down.
struct Left {
    neighbor: (Speaker, Receiver<Event>),
    known: BTreeSet<Nlri>,
    a: Ipv4Addr,
    b: Ipv4Addr,
    dir: tempfile::TempDir,
}

async fn left(net: u8) -> Left {
    let (a, b) = (address(net, 1), address(net, 2));
    let dir = tempfile::tempdir().unwrap();
    let mut neighbor = start(b, 65101, Mode::Live(Journal::none()));
    neighbor.0.set_peer(config(b, a, 65000));
    tell(&neighbor.0, a, &[1, 2, 3]);
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let (speaker, mut events) = start(a, 65000, Mode::Live(journal));
    speaker.set_peer(PeerConfig { passive: true, ..config(a, b, 65101) });
    tell(&speaker, b, &[7, 8]);
    let mut known = BTreeSet::new();
    knows(&mut neighbor.1, &mut known, &[7, 8]).await;
    knows(&mut events, &mut BTreeSet::new(), &[1, 2, 3]).await;

    // Standing still, it neither hears nor says anything, and goes on as if nothing had been.
    speaker.fence().await;
    neighbor.0.withdraw(a.into(), nlri(3).key());
    tell(&speaker, b, &[9]);
    // Time enough for it to arrive, were it read.
    let heard = async { while !matches!(event(&mut events).await, Event::Update { .. }) {} };
    assert!(tokio::time::timeout(Duration::from_millis(300), heard).await.is_err());
    speaker.unfence();
    knows(&mut neighbor.1, &mut known, &[7, 8, 9]).await;
    while !matches!(event(&mut events).await, Event::Update { unreach, .. } if !unreach.is_empty()) {}

    let fenced_ms = boot_ms();
    speaker.fence().await;
    assert!(acked_ms(dir.path()) >= fenced_ms, "nothing was sent meanwhile; where our clock towards the neighbour stands is new");
    speaker.leave().await;
    Left { neighbor, known, a, b, dir }
}

/// When the last word of the one session came on what the neighbour has acknowledged, by the clock of who wrote it.
fn acked_ms(dir: &Path) -> u64 {
    let state = State::from_file(&std::fs::read(dir.join("journal")).unwrap(), 1 << 20).unwrap();
    state.sessions().values().next().unwrap().acked.as_ref().unwrap().at_ms
}

/// The next life, once it has heard all that was written down.
async fn next(dir: &Path, address: Ipv4Addr, config: Option<PeerConfig>, change: impl Fn(&mut Record)) -> Next {
    let (journal, mut records) = Journal::open(dir).unwrap();
    records.iter_mut().for_each(change);
    let (speaker, events) = start(address, 65000, Mode::Following);
    // Half of it comes before the neighbour is known.
    let (before, after) = records.split_at(records.len() / 2);
    before.iter().for_each(|r| speaker.replay(r));
    let peer = config.as_ref().map(|c| c.address);
    config.into_iter().for_each(|c| speaker.set_peer(c));
    after.iter().for_each(|r| speaker.replay(r));
    if let Some(IpAddr::V4(peer)) = peer {
        tell(&speaker, peer, &[7, 9, 10]);
    }
    let promoted = speaker.promote(journal).await;
    Next { speaker, events, promoted }
}

struct Next {
    speaker: Speaker,
    events: Receiver<Event>,
    promoted: Promoted,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
async fn a_successor_goes_on_where_the_first_life_left() {
    let mut left = left(1).await;
    let before_ms = boot_ms();
    let mut next = next(left.dir.path(), left.a, Some(config(left.a, left.b, 65101)), |_| {}).await;
    assert_eq!(next.promoted, Promoted { sessions: 1, lost: 0 });
    assert!(acked_ms(left.dir.path()) >= before_ms, "its own clock counts from now on");
    assert!(matches!(event(&mut next.events).await, Event::Up { taken_over: true, .. }));
    let mut known = BTreeSet::new();
    knows(&mut next.events, &mut known, &[1, 2]).await;
    // Only what differs is sent.
    knows(&mut left.neighbor.1, &mut left.known, &[7, 9, 10]).await;
    let shown = next.speaker.neighbors().remove(0);
    assert_eq!((shown.state.as_str(), shown.resets, shown.prefixes_sent), ("established", 0, 3));
    tell(&left.neighbor.0, left.a, &[4]);
    knows(&mut next.events, &mut known, &[1, 2, 4]).await;
    // It ends as any other session.
    next.speaker.shutdown(false).await;
    assert!(down(&mut left.neighbor.1).await.0.contains("administrative shutdown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
async fn a_session_that_is_no_longer_wanted_ends_in_order() {
    let mut left = left(2).await;
    let other = PeerConfig { hold_time: 30, ..config(left.a, left.b, 65101) };
    let mut next = next(left.dir.path(), left.a, Some(other), |_| {}).await;
    assert!(down(&mut left.neighbor.1).await.0.contains("configuration"));
    assert!(down(&mut next.events).await.0.contains("configuration"));
    left.known.clear();
    knows(&mut left.neighbor.1, &mut left.known, &[7, 9, 10]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
async fn a_neighbour_that_is_configured_no_more_is_told_so() {
    let mut left = left(3).await;
    let next = next(left.dir.path(), left.a, None, |_| {}).await;
    assert_eq!(next.promoted, Promoted::default());
    let (reason, _) = down(&mut left.neighbor.1).await;
    assert!(reason.contains("configured"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root (CAP_NET_ADMIN); the lab's test command runs it"]
async fn a_session_that_cannot_be_taken_over_comes_back_with_graceful_restart() {
    let mut left = left(4).await;
    // An address that this host does not have.
    let elsewhere = |record: &mut Record| {
        if let Record::Open(_, opened) = record {
            opened.local.set_ip([192, 0, 2, 77].into());
        }
    };
    let mut next = next(left.dir.path(), left.a, Some(config(left.a, left.b, 65101)), elsewhere).await;
    assert_eq!(next.promoted, Promoted { sessions: 0, lost: 1 });
    let (reason, graceful) = down(&mut next.events).await;
    assert!(reason.contains("cannot be taken over") && graceful, "{reason}");
    // A new session of ours tells the neighbour that the old one is gone: its routes stay until they are told again.
    assert!(down(&mut left.neighbor.1).await.1);
    knows(&mut left.neighbor.1, &mut left.known, &[7, 8, 9, 10]).await;
}
