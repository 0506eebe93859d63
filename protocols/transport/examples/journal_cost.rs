//! What it costs to write a BGP session down: `cargo run --release -p edgeplex-transport --example journal_cost` as root.
//!
//! One speaker tells another a table over the loopback interface. Neither keeps a journal, or the one that hears, or the one that
//! tells; turn by turn, so that the machine's mood spreads over all three. Time counts from the release of the table to its
//! End-of-RIB at the other side: the clock's, and the processor's, which other work on the machine changes less. Medians with least
//! and most. The journal is in a tmpfs, as in a VM. Its file is compacted afterwards, when it is calm; what that takes is told too.

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

/// What this process has used of the processors, compactions of the journal included.
fn used() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let numbers = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    // In hundredths of a second.
    Duration::from_millis(10 * numbers.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>())
}

struct Took {
    time: Duration,
    processor: Duration,
    /// Compactions meanwhile.
    compactions: u64,
    /// What the processors spent on the compaction afterwards, and the file's size before and then.
    afterwards: Duration,
    file: [u64; 2],
}

async fn run(tells: bool, hears: bool) -> Result<Took, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let journal = |keeps: bool| if keeps { Journal::open(dir.path()).map(|(j, _)| j) } else { Ok(Journal::none()) };
    let (of_a, of_b) = (journal(tells)?, journal(hears)?);
    let (a, mut a_events) = speaker(A, 65000, B, 65101, of_a.clone());
    let (b, mut b_events) = speaker(B, 65101, A, 65000, of_b.clone());
    while !matches!(a_events.recv().await, Some(Event::Up { .. }) | None) {}
    tell(&a, B);
    // All of it is with the task before the clock starts.
    a.told().await;
    let (start, before) = (Instant::now(), used());
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
    let (time, processor) = (start.elapsed(), used().saturating_sub(before));
    assert_eq!(routes, usize::try_from(ROUTES)?);
    let journal = if tells { &of_a } else { &of_b };
    let compactions = journal.status().compactions;
    let (before, long) = (used(), journal.status().file);
    while journal.keeps() && journal.status().compactions == compactions {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (afterwards, file) = (used().saturating_sub(before), [long, journal.status().file]);
    a.shutdown(false).await;
    b.shutdown(false).await;
    Ok(Took { time, processor, compactions, afterwards, file })
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
    for ((name, ..), runs) in kinds.iter().zip(&times) {
        let spread = |of: fn(&Took) -> Duration| {
            let mut all: Vec<Duration> = runs.iter().map(of).collect();
            all.sort();
            (all[ROUNDS / 2], all[0], all[ROUNDS - 1])
        };
        let ((time, least, most), (processor, least_processor, most_processor)) = (spread(|t| t.time), spread(|t| t.processor));
        let (base, base_processor) = *without.get_or_insert((time, processor));
        let more = |now: Duration, before: Duration| (now.as_secs_f64() / before.as_secs_f64() - 1.0) * 100.0;
        println!(
            "{ROUTES} routes, {name:28} {time:.3?} ({least:.3?} to {most:.3?}) {:+.1} %, of processors {processor:.3?} ({:.3?} to {:.3?}) \
             {:+.1} %, {} compactions; afterwards one of {:.3?}, {:?} bytes",
            more(time, base),
            least_processor,
            most_processor,
            more(processor, base_processor),
            runs.iter().map(|t| t.compactions).max().unwrap_or(0),
            spread(|t| t.afterwards).0,
            runs.last().map_or([0; 2], |t| t.file),
        );
    }
    Ok(())
}
