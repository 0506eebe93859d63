//! OSPF, LDP and BFD of one process that is killed (SIGKILL) over and over; its next life goes on with what was written down, behind
//! a gate. FRR and BIRD never notice: no adjacency, session or label changes, and what changes afterwards reaches both sides.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bgp_common;
mod gate;
mod lives;

use bgp_common::*;
use edgeplex_ldp::{Routes, Start};
use edgeplex_ospf::{Algorithm, Authentication, InterfaceConfig, Network};
use edgeplex_transport::{
    Mode, bfd,
    journal::{Followed, Follower, Journal},
    ldp, ospf,
};
use edgeplex_types::{Label, LabelRange};
use gate::{Gate, Tell};
use lives::Lives;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::{net::UnixStream, sync::watch};

const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
/// Below FRR's: it connects. Above: we do.
const LOWER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const HIGHER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 3);
const KILLS: usize = 8;
/// Three of them are longer than it takes to start a process on a busy machine.
const BFD_INTERVAL: Duration = Duration::from_millis(600);

fn loopback(kind: &str) -> Ipv4Addr {
    if kind.contains("active") { HIGHER } else { LOWER }
}

fn ospf_config(kind: &str) -> ospf::Config {
    let network = if kind.contains("segment") { Network::Broadcast } else { Network::PointToPoint };
    let mut interface =
        InterfaceConfig { hello_s: 1, dead_s: 4, retransmit_s: 2, ..InterfaceConfig::new("10.0.0.1/24".parse().unwrap(), network) };
    if kind.contains("md5") {
        interface.authentication = Authentication::Cryptographic { algorithm: Algorithm::Md5, key_id: 7, key: "notaword".into() };
    }
    let us = loopback(kind);
    ospf::Config { hosts: vec![us], interfaces: [("v0".into(), interface)].into(), ..ospf::Config::new(us, Ipv4Addr::UNSPECIFIED) }
}

fn ldp_config(kind: &str) -> edgeplex_ldp::Config {
    let label = |l| Label::try_from(l).unwrap();
    let mut config = edgeplex_ldp::Config::new(loopback(kind), LabelRange::new(label(500_000), label(500_999)).unwrap());
    config.interfaces = ["v0".into()].into();
    if kind.contains("md5") {
        config.passwords = BTreeMap::from([(THEIRS, "not-a-word".to_owned())]);
    }
    config
}

/// What a life tells: taken over, lost, adjacencies lost since, routes, FECs with a label, BFD sessions up.
const NUMBERS: usize = 6;

/// One life. It writes into its directory what it sees: sessions taken over, adjacencies lost, routes and labels.
#[test]
#[ignore = "the other half of the tests here, which start it and kill it"]
fn life() {
    let Some((kind, dir)) = lives::orders() else { return };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(live(&kind, &dir));
}

async fn live(kind: &str, dir: &Path) {
    let (journal, records) = Journal::open(&dir.join("journal")).unwrap();
    journal.set_gate(Tell::new(&dir.join("gate.sock")));
    let (ospf, mut ospf_events) = ospf::start(ospf_config(kind), false, Mode::Following);
    let (ldp, mut ldp_events) = ldp::start(ldp_config(kind), Start::default(), Mode::Following);
    let (bfd, mut bfd_events) = bfd::start(Mode::Following);
    for record in &records {
        ospf.replay(record);
        ldp.replay(record);
        bfd.replay(record);
    }
    let sessions = [bfd.promote(journal.clone()).await, ospf.promote(journal.clone()).await, ldp.promote(journal.clone()).await];
    ospf.interface("v0", true);
    ldp.interface("v0".into(), WE, true);
    let (mut downs, mut routed, mut labelled, mut ups) = (0, 0, 0, 0);
    loop {
        tokio::select! {
            Some(event) = ospf_events.recv() => match event {
                ospf::Event::Routes(routes) => {
                    routed = routes.len();
                    ldp.routes(Arc::new(routes.iter().map(|(p, r)| (*p, r.next_hops.iter().cloned().collect())).collect::<Routes>()));
                }
                ospf::Event::NeighborUp { address, .. } => {
                    let key = bfd::Key { peer: address.into(), local: WE.into(), interface: Some("v0".into()) };
                    bfd.add(key, "ospf", bfd::Parameters::new(BFD_INTERVAL, 3).unwrap());
                }
                ospf::Event::NeighborDown { .. } => downs += 1,
            },
            Some(event) = ldp_events.recv() => match event {
                ldp::Event::Forwarding(forwarding) => labelled = forwarding.values().filter(|f| f.local.is_some()).count(),
                ldp::Event::SessionDown { .. } => downs += 1,
                _ => {}
            },
            Some(event) = bfd_events.recv() => match event {
                bfd::Event::Up(_) => ups += 1,
                bfd::Event::Down(..) => downs += 1,
            },
        }
        let taken = sessions.iter().map(|s| s.sessions).sum::<u32>();
        let lost = sessions.iter().map(|s| s.lost).sum::<u32>();
        lives::tell::<NUMBERS>(dir, [taken as usize, lost as usize, downs, routed, labelled, ups]);
    }
}

/// Waits until the answer is as wanted.
fn wait(what: &str, ask: impl Fn() -> String, wanted: impl Fn(&str) -> bool) -> String {
    let start = Instant::now();
    loop {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        assert!(start.elapsed() < LIMIT, "never: {what}; last answer:\n{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn prepare(wire: &Wire, us: Ipv4Addr) {
    sh(&format!(
        "ip -n {a} addr add {us}/32 dev lo && ip -n {b} addr add {THEIRS}/32 dev lo && ip -n {b} addr add 10.77.0.1/32 dev lo",
        a = wire.ours,
        b = wire.theirs
    ));
}

fn start_frr(wire: &mut Wire, kind: &str) {
    let us = loopback(kind);
    let dir = wire.path().display().to_string();
    let md5 = kind.contains("md5");
    let network = if kind.contains("segment") { "broadcast" } else { "point-to-point" };
    let auth = if md5 { " ip ospf authentication message-digest\n ip ospf message-digest-key 7 md5 notaword\n" } else { "" };
    let password = if md5 { format!(" neighbor {us} password not-a-word\n") } else { String::new() };
    let ospfd = format!(
        "interface v0\n ip ospf network {network}\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n ip ospf bfd\n{auth}router ospf\n \
         ospf router-id {THEIRS}\n log-adjacency-changes detail\n network 10.0.0.0/8 area 0\n"
    );
    let ldpd = format!(
        "mpls ldp\n router-id {THEIRS}\n{password} address-family ipv4\n  discovery transport-address {THEIRS}\n  interface v0\n  exit\n exit-address-family\n"
    );
    for (daemon, text) in [("zebra", ""), ("ospfd", &*ospfd), ("ldpd", &*ldpd), ("bfdd", "")] {
        std::fs::write(wire.path().join(format!("{daemon}.conf")), text).unwrap();
    }
    sh(&format!("chown -R frr:frr {dir} && chmod 755 {dir}"));
    let common = |daemon: &str| {
        format!(
            "/usr/lib/frr/{daemon} -z {dir}/z.api --vty_socket {dir} -A 127.0.0.1 -P 0 -f {dir}/{daemon}.conf -i {dir}/{daemon}.pid --log \
             file:{dir}/{daemon}.log"
        )
    };
    wire.start(&common("zebra"));
    let start = Instant::now();
    while !wire.path().join("z.api").exists() {
        assert!(start.elapsed() < LIMIT, "zebra does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    wire.start(&format!("{} --bfdctl {dir}/bfdd.sock", common("bfdd")));
    wire.start(&format!("{} --ctl_socket {dir}", common("ldpd")));
    wire.start(&common("ospfd"));
}

fn vtysh(wire: &Wire, line: &str) -> String {
    let dir = wire.path().to_str().unwrap();
    ask("vtysh", &["--vty_socket", dir, "--config_dir", dir, "-c", line])
}

/// What FRR counts, and must not change: state changes of the OSPF neighbour and bindings; BFD's down events.
fn counted(wire: &Wire) -> [String; 3] {
    let lines = |question: &str, with: &[&str]| -> String {
        let answer = vtysh(wire, question);
        let mut lines: Vec<_> = answer.lines().filter(|l| with.iter().any(|w| l.contains(w))).map(str::trim).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    [
        lines("show ip ospf neighbor detail", &["state changes", "DR is"]),
        lines("show mpls ldp binding", &["10."]),
        lines("show bfd peers counters", &["Session up events", "Session down events"]),
    ]
}

/// Seconds that FRR's LDP session is up.
fn ldp_up(wire: &Wire) -> u64 {
    let answer = vtysh(wire, "show mpls ldp neighbor");
    let time = answer.lines().find(|l| l.contains("OPERATIONAL")).and_then(|l| l.split_whitespace().last()).unwrap_or_default();
    time.split(':').filter_map(|n| n.parse::<u64>().ok()).fold(0, |sum, n| sum * 60 + n)
}

fn killed_before_frr(kind: &str) {
    let mut wire = Wire::new();
    prepare(&wire, loopback(kind));
    let gate = Gate::between(&wire);
    sh(&format!("ip -n {} route add {THEIRS}/32 via {PEER}", wire.ours));
    start_frr(&mut wire, kind);
    let mut lives = Lives::<NUMBERS>::begin(&wire, kind);
    // FRR needs our loopback for its end of the session, and we its labels.
    lives.until("all is up", |[.., routes, labels, bfd]| routes >= 4 && labels >= 4 && bfd == 1);
    wait("LDP at FRR", || vtysh(&wire, "show mpls ldp neighbor"), |a| a.contains("OPERATIONAL"));
    wait("BFD at FRR", || vtysh(&wire, "show bfd peers"), |a| a.contains("Status: up"));
    wait(
        "our labels at FRR",
        || vtysh(&wire, "show mpls ldp binding"),
        |a| a.lines().any(|l| l.contains("10.77.0.1/32") && l.contains("5000")),
    );
    // Everything is quiet: no poll sequence, no acknowledgement that waits.
    std::thread::sleep(Duration::from_secs(3));
    let (before, up, since) = (counted(&wire), ldp_up(&wire), Instant::now());
    for kill in 0..KILLS {
        lives.kill();
        lives.until("taken over", |[taken, ..]| taken == 3);
        let [_, lost, downs, ..] = lives.status();
        assert_eq!((lost, downs), (0, 0), "kill {kill}");
        std::thread::sleep(Duration::from_millis(300 * (kill as u64 % 4)));
    }
    // Longer than any detection time and dead interval.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(counted(&wire), before, "{}", std::fs::read_to_string(wire.path().join("life.log")).unwrap());
    let grown = ldp_up(&wire).saturating_sub(up);
    assert!(grown + 2 >= since.elapsed().as_secs(), "LDP's uptime has grown by {grown} s of {:?}", since.elapsed());
    assert_eq!(lives.status()[2], 0, "nothing was lost");
    eprintln!(
        "{kind}: {KILLS} kills, {} segments held, {} silenced",
        gate.counts.held.load(Ordering::Relaxed),
        gate.counts.silenced.load(Ordering::Relaxed)
    );

    // Both ways it goes on: a new network of FRR's, and a withdrawal.
    let routes = lives.status()[3];
    sh(&format!("ip -n {} addr add 10.78.0.1/32 dev lo", wire.theirs));
    lives.until("a new route and its label", |[.., r, labels, _]| r == routes + 1 && labels > routes);
    wait(
        "our label for it",
        || vtysh(&wire, "show mpls ldp binding"),
        |a| a.lines().any(|l| l.contains("10.78.0.1/32") && l.contains("5000")),
    );
    lives.kill();
    lives.until("taken over", |[taken, ..]| taken == 3);
    sh(&format!("ip -n {} addr del 10.78.0.1/32 dev lo", wire.theirs));
    lives.until("it is gone again", |[.., r, _, _]| r == routes);
    wait("withdrawn", || vtysh(&wire, "show mpls ldp binding"), |a| !a.lines().any(|l| l.contains("10.78.0.1/32") && l.contains("5000")));
}

/// The three protocols of one instance.
struct Instance {
    ospf: ospf::Handle,
    ldp: ldp::Handle,
    bfd: bfd::Handle,
    /// Adjacencies that it saw go.
    downs: Arc<AtomicU64>,
    /// FECs with a label.
    labels: Arc<AtomicU64>,
    /// As OSPF told them last.
    routes: watch::Receiver<Arc<Routes>>,
}

impl Instance {
    fn new(kind: &str, mode: &Mode) -> Self {
        let (ospf, mut ospf_events) = ospf::start(ospf_config(kind), false, mode.clone());
        let (ldp, mut ldp_events) = ldp::start(ldp_config(kind), Start::default(), mode.clone());
        let (bfd, mut bfd_events) = bfd::start(mode.clone());
        ospf.interface("v0", true);
        ldp.interface("v0".into(), WE, true);
        let (downs, labels) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (newest, routes) = watch::channel(Arc::new(Routes::new()));
        let (lost, labelled, to_ldp, to_bfd) = (downs.clone(), labels.clone(), ldp.clone(), bfd.clone());
        tokio::spawn(async move {
            loop {
                let down = tokio::select! {
                    Some(event) = ospf_events.recv() => match event {
                        ospf::Event::Routes(routes) => {
                            let hops = |r: &ospf::Route| r.next_hops.iter().cloned().collect();
                            let routes = Arc::new(routes.iter().map(|(p, r)| (*p, hops(r))).collect::<Routes>());
                            newest.send_replace(routes.clone());
                            to_ldp.routes(routes);
                            false
                        }
                        ospf::Event::NeighborUp { address, .. } => {
                            let key = bfd::Key { peer: address.into(), local: WE.into(), interface: Some("v0".into()) };
                            to_bfd.add(key, "ospf", bfd::Parameters::new(BFD_INTERVAL, 3).unwrap());
                            false
                        }
                        ospf::Event::NeighborDown { .. } => true,
                    },
                    Some(event) = ldp_events.recv() => {
                        if let ldp::Event::Forwarding(forwarding) = &event {
                            labelled.store(forwarding.values().filter(|f| f.local.is_some()).count() as u64, Ordering::Relaxed);
                        }
                        matches!(event, ldp::Event::SessionDown { .. })
                    }
                    Some(event) = bfd_events.recv() => matches!(event, bfd::Event::Down(..)),
                    else => return,
                };
                lost.fetch_add(u64::from(down), Ordering::Relaxed);
            }
        });
        Self { ospf, ldp, bfd, downs, labels, routes }
    }

    fn follow(&self, followed: Followed) {
        match followed {
            Followed::Record(record) => {
                self.ospf.replay(&record);
                self.ldp.replay(&record);
                self.bfd.replay(&record);
            }
            Followed::Reset => {
                self.ospf.forget();
                self.ldp.forget();
                self.bfd.forget();
            }
            Followed::CaughtUp | Followed::LeaderLost => {}
        }
    }

    async fn fence(&self) {
        tokio::join!(self.ospf.fence(), self.ldp.fence(), self.bfd.fence());
    }

    fn unfence(&self) {
        self.ospf.unfence();
        self.ldp.unfence();
        self.bfd.unfence();
    }

    async fn leave(&self) {
        tokio::join!(self.ospf.leave(), self.ldp.leave(), self.bfd.leave());
    }

    /// Sessions that went on: BFD's, OSPF's, LDP's.
    async fn promote(&self, journal: &Journal) -> [u32; 3] {
        let bfd = self.bfd.promote(journal.clone()).await;
        let ospf = self.ospf.promote(journal.clone()).await;
        let ldp = self.ldp.promote(journal.clone()).await;
        assert_eq!(bfd.lost + ospf.lost + ldp.lost, 0);
        // Labels wait until routes are told.
        self.ldp.routes(self.routes.borrow().clone());
        [bfd.sessions, ospf.sessions, ldp.sessions]
    }
}

/// They mostly wait: `lab/test` runs several of them at once.
mod at_leisure {
    use super::*;

    /// A planned move, and one that is called off: a standby that has followed all the time takes over from one that stands still.
    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn frr_does_not_notice_planned_moves() {
        let kind = "passive";
        let mut wire = Wire::new();
        prepare(&wire, loopback(kind));
        let _gate = Gate::between(&wire);
        sh(&format!("ip -n {} route add {THEIRS}/32 via {PEER}", wire.ours));
        start_frr(&mut wire, kind);
        let (wire, dir) = (&wire, wire.path());
        wire.run(|| async move {
            let (mut journal, _) = Journal::open(&dir.join("journal0")).unwrap();
            journal.set_gate(Tell::new(&dir.join("gate.sock")));
            let mut active = Instance::new(kind, &Mode::Live(journal.clone()));
            until("LDP at FRR", || vtysh(wire, "show mpls ldp neighbor"), |a| a.contains("OPERATIONAL")).await;
            until("BFD at FRR", || vtysh(wire, "show bfd peers"), |a| a.contains("Status: up")).await;
            let ours = |a: &str| a.lines().any(|l| l.contains("10.77.0.1/32") && l.contains("5000"));
            until("our labels at FRR", || vtysh(wire, "show mpls ldp binding"), ours).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let (before, labels) = (counted(wire), active.labels.load(Ordering::Relaxed));
            for n in 1..=4 {
                // The platform joins the leader's socket and the follower's.
                let sockets = [dir.join(format!("journal{n}.sock")), dir.join(format!("follow{n}.sock"))];
                journal.serve(sockets[0].clone()).unwrap();
                let (mut follower, past) = Follower::listen(sockets[1].clone(), &dir.join(format!("journal{n}"))).unwrap();
                assert!(past.is_empty());
                let joined = tokio::spawn(async move {
                    let [mut leader, mut follower] =
                        [UnixStream::connect(&sockets[0]).await.unwrap(), UnixStream::connect(&sockets[1]).await.unwrap()];
                    let _ = tokio::io::copy_bidirectional(&mut leader, &mut follower).await;
                });
                let standby = Instance::new(kind, &Mode::Following);
                loop {
                    let followed = tokio::time::timeout(LIMIT, follower.next()).await.expect("the leader is there");
                    let caught_up = followed == Followed::CaughtUp;
                    standby.follow(followed);
                    if caught_up {
                        break;
                    }
                }
                // It goes on following while time passes, and knows the same routes and labels.
                let passed = tokio::time::sleep(Duration::from_secs(2));
                tokio::pin!(passed);
                loop {
                    tokio::select! {
                        followed = follower.next() => standby.follow(followed),
                        () = &mut passed => break,
                    }
                }
                assert_eq!(standby.labels.load(Ordering::Relaxed), labels, "the standby's labels are hot");
                active.fence().await;
                if n % 2 == 0 {
                    // Called off.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    active.unfence();
                    joined.abort();
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    continue;
                }
                active.leave().await;
                let (next, rest) = follower.into_journal().unwrap();
                rest.into_iter().for_each(|followed| standby.follow(followed));
                next.set_gate(Tell::new(&dir.join("gate.sock")));
                assert_eq!(standby.promote(&next).await, [1; 3], "move {n}");
                assert_eq!(active.downs.load(Ordering::Relaxed), 0);
                (active, journal) = (standby, next);
                joined.abort();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(counted(wire), before);
            assert_eq!((active.downs.load(Ordering::Relaxed), active.labels.load(Ordering::Relaxed)), (0, labels));
            sh(&format!("ip -n {} addr add 10.78.0.1/32 dev lo", wire.theirs));
            let ours = |a: &str| a.lines().any(|l| l.contains("10.78.0.1/32") && l.contains("5000"));
            until("a label for a new route", || vtysh(wire, "show mpls ldp binding"), ours).await;
        });
    }

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn frr_that_connects_never_notices() {
        killed_before_frr("passive");
    }

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn frr_on_a_segment_with_md5_never_notices() {
        killed_before_frr("active-segment-md5");
    }

    #[test]
    #[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
    fn bird_never_notices() {
        let mut wire = Wire::new();
        prepare(&wire, LOWER);
        let gate = Gate::between(&wire);
        let dir = wire.path().display().to_string();
        let conf = format!(
            r#"router id {THEIRS}; log "{dir}/bird.log" all; debug protocols {{ events, states }};
            protocol device {{ }}
            protocol direct {{ ipv4; interface "lo"; }}
            protocol bfd {{ interface "v0" {{ min rx interval 600 ms; min tx interval 600 ms; multiplier 3; }}; }}
            protocol ospf v2 core {{ ipv4 {{ import all; }}; area 0 {{ interface "lo" {{ stub; }};
              interface "v0" {{ type ptp; hello 1; dead 4; bfd yes; }}; }}; }}"#
        );
        std::fs::write(wire.path().join("bird.conf"), conf).unwrap();
        wire.start(&format!("bird -f -c {dir}/bird.conf -s {dir}/bird.ctl -P {dir}/bird.pid"));
        let birdc = |words: &[&str]| ask("birdc", &[&["-s", &format!("{dir}/bird.ctl")], words].concat());
        let mut lives = Lives::<NUMBERS>::begin(&wire, "passive");
        lives.until("all is up", |[.., routes, _, bfd]| routes >= 3 && bfd == 1);
        wait("OSPF at BIRD", || birdc(&["show", "ospf", "neighbors"]), |a| a.contains("Full"));
        wait("BFD at BIRD", || birdc(&["show", "bfd", "sessions"]), |a| a.contains("Up"));
        let log = || std::fs::read_to_string(format!("{dir}/bird.log")).unwrap();
        let read = log().len();
        for kill in 0..KILLS {
            lives.kill();
            lives.until("taken over", |[taken, ..]| taken == 2);
            std::thread::sleep(Duration::from_millis(300 * (kill as u64 % 4)));
        }
        std::thread::sleep(Duration::from_secs(6));
        let said: Vec<_> = log()[read..].lines().filter(|l| l.contains("changed state") || l.contains("Bad")).map(str::to_owned).collect();
        assert_eq!(said, Vec::<String>::new());
        assert!(birdc(&["show", "ospf", "neighbors"]).contains("Full") && birdc(&["show", "bfd", "sessions"]).contains("Up"));
        drop(gate);
    }
}
