//! What it costs to write a BGP session down: `cargo run --release -p edgeplex-transport --example journal_cost` as root.
//!
//! One speaker tells another a table over the loopback interface. Neither keeps a journal, or the one that hears, or the one that
//! tells; turn by turn, so that the machine's mood spreads over all three. Time counts from the release of the table to its
//! End-of-RIB at the other side; medians with least and most. The journal is in a tmpfs, as in a VM.

use edgeplex_bgp::PeerConfig;
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use edgeplex_transport::{Mode, journal::Journal};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::Receiver;

const ROUTES: u32 = 500_000;
const ROUNDS: usize = 7;
const PORT: u16 = 21792;
const A: Ipv4Addr = Ipv4Addr::new(127, 0, 99, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 99, 2);
const F: Family = Family::Ipv4Unicast;

fn speaker(own: Ipv4Addr, asn: u32, other: Ipv4Addr, other_as: u32, journal: Journal) -> (Speaker, Receiver<Event>) {
    let listen = vec![SocketAddr::from((own, PORT))];
    let (speaker, events) = Speaker::start(SpeakerConfig { local_as: asn, router_id: own, listen }, Mode::Live(journal));
    speaker.set_peer(PeerConfig { port: PORT, local_address: Some(own.into()), ..PeerConfig::new(other, other_as) });
    (speaker, events)
}

/// Six prefixes to a set of attributes.
fn tell(speaker: &Speaker, peer: Ipv4Addr) {
    let mut set = Arc::new(Attributes::default());
    for n in 0..ROUTES {
        if n % 6 == 0 {
            set = Arc::new(Attributes { as_path: AsPath::sequence([65000, 100_000 + n / 6, 3]), ..Attributes::default() });
        }
        if let Ok(prefix) = ipnet::Ipv4Net::new(Ipv4Addr::from(0x0100_0000 + (n << 8)), 24) {
            speaker.advertise(peer.into(), Nlri::Unicast(prefix.into()), Arc::clone(&set), IpAddr::from([192, 0, 2, 1]));
        }
    }
}

async fn run(tells: bool, hears: bool) -> Result<Duration, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let journal = |keeps: bool| if keeps { Journal::open(dir.path()).map(|(j, _)| j) } else { Ok(Journal::none()) };
    let (a, mut a_events) = speaker(A, 65000, B, 65101, journal(tells)?);
    let (b, mut b_events) = speaker(B, 65101, A, 65000, journal(hears)?);
    while !matches!(a_events.recv().await, Some(Event::Up { .. }) | None) {}
    tell(&a, B);
    // All of it is with the task before the clock starts.
    a.told().await;
    let start = Instant::now();
    a.release(B.into(), F);
    let mut routes = 0;
    while let Some(event) = b_events.recv().await {
        match event {
            Event::Update { reach, .. } => routes += reach.len(),
            Event::EndOfRib { .. } => break,
            Event::Down { reason, .. } => return Err(reason.into()),
            Event::Up { .. } => {}
        }
    }
    let took = start.elapsed();
    assert_eq!(routes, usize::try_from(ROUTES)?);
    a.shutdown(false).await;
    b.shutdown(false).await;
    Ok(took)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kinds = [("no journal", false, false), ("a journal where it is heard", false, true), ("a journal where it is told", true, false)];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for ((_, tells, hears), times) in kinds.iter().zip(&mut times) {
            times.push(run(*tells, *hears).await?);
        }
    }
    let mut without = None;
    for ((name, ..), times) in kinds.iter().zip(&mut times) {
        times.sort();
        let (least, median, most) = (times[0], times[ROUNDS / 2], times[ROUNDS - 1]);
        let base = *without.get_or_insert(median);
        let more = (median.as_secs_f64() / base.as_secs_f64() - 1.0) * 100.0;
        println!("{ROUTES} routes, {name:28} {median:7.3?} ({least:.3?} to {most:.3?}) {more:+.1} %");
    }
    Ok(())
}
