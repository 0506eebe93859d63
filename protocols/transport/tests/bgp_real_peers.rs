//! The speaker against BIRD (IPv4, eBGP, TCP MD5, graceful restart) and FRR (VPNv4, iBGP), in network namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri, NlriKey, Origin};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use edgeplex_types::{Label, RouteTarget};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

const LIMIT: Duration = Duration::from_secs(30);
const WE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
static COUNT: AtomicU32 = AtomicU32::new(0);

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Our namespace and the peer's, joined by a veth pair; all of it goes with the value.
struct Wire {
    ours: String,
    theirs: String,
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Wire {
    fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = (format!("ept{}-{n}a", std::process::id()), format!("ept{}-{n}b", std::process::id()));
        let wire = Self { ours, theirs, dir: tempfile::tempdir().unwrap(), daemon: None };
        let (a, b) = (&wire.ours, &wire.theirs);
        sh(&format!(
            "ip netns add {a} && ip netns add {b} && ip link add v0 netns {a} type veth peer name v0 netns {b} &&
             ip -n {a} addr add {WE}/24 dev v0 && ip -n {b} addr add {PEER}/24 dev v0 &&
             ip -n {a} link set v0 up && ip -n {b} link set v0 up && ip -n {a} link set lo up && ip -n {b} link set lo up"
        ));
        wire
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn start(&mut self, command: &str) {
        // `ip netns exec` gives it a mount namespace of its own: what FRR leaves in /var/tmp goes with it.
        let line = format!("mount -t tmpfs tmpfs /var/tmp && exec {command}");
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &self.theirs, "sh", "-c", &line]);
        self.daemon = Some(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Runs `body` on a thread of its own in our namespace.
    fn run<F: Future<Output = ()>>(&self, body: impl FnOnce() -> F + Send) {
        let namespace = format!("/run/netns/{}", self.ours);
        std::thread::scope(|s| {
            let thread = s.spawn(|| {
                let file = std::fs::File::open(namespace).unwrap();
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body());
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for namespace in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Asks until the answer is as wanted.
async fn until(what: &str, ask: impl Fn() -> String, wanted: impl Fn(&str) -> bool) {
    let start = Instant::now();
    loop {
        let answer = ask();
        if wanted(&answer) {
            return;
        }
        assert!(start.elapsed() < LIMIT, "never: {what}; last answer:\n{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn ask(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

async fn next(events: &mut Receiver<Event>) -> Event {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("an event in time").expect("the speaker lives")
}

/// Reads events until these routes are reachable; gives their last attributes.
async fn learn(events: &mut Receiver<Event>, wanted: &[&str]) -> (Vec<Nlri>, Arc<Attributes>, IpAddr) {
    let mut have: Vec<Nlri> = vec![];
    loop {
        if let Event::Update { attributes, next_hop, reach, unreach, .. } = next(events).await {
            have.retain(|n| !unreach.contains(&n.key()));
            have.extend(&reach);
            have.sort();
            let names: Vec<String> = have.iter().map(|n| n.key().to_string()).collect();
            if names == wanted {
                return (have, attributes, next_hop);
            }
        }
    }
}

async fn lose(events: &mut Receiver<Event>) -> Vec<NlriKey> {
    loop {
        match next(events).await {
            Event::Update { unreach, .. } if !unreach.is_empty() => return unreach,
            _ => {}
        }
    }
}

async fn down(events: &mut Receiver<Event>) -> (String, bool) {
    loop {
        if let Event::Down { reason, graceful, .. } = next(events).await {
            return (reason, graceful);
        }
    }
}

fn speaker(asn: u32, peer: PeerConfig) -> (Speaker, Receiver<Event>) {
    let (speaker, events) = Speaker::start(SpeakerConfig { local_as: asn, router_id: WE, listen: Some(SocketAddr::from((WE, 179))) });
    speaker.set_peer(peer);
    (speaker, events)
}

#[test]
#[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
fn bird_as_a_customer_router() {
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let conf = format!(
        r#"router id {PEER};
        protocol device {{ }}
        protocol static blue {{ ipv4; route 10.1.0.0/16 blackhole; }}
        protocol static green {{ ipv4; route 10.2.0.0/16 blackhole; }}
        protocol bgp upstream {{ local {PEER} as 65101; neighbor {WE} as 65000; password "not a word"; connect delay time 1;
          error wait time 1,2; graceful restart on; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}"#
    );
    std::fs::write(format!("{dir}/bird.conf"), conf).unwrap();
    wire.start(&format!("bird -f -c {dir}/bird.conf -s {dir}/bird.ctl -P {dir}/bird.pid"));
    let birdc = |words: &str| ask("birdc", &[&["-s", &format!("{dir}/bird.ctl")][..], &words.split(' ').collect::<Vec<_>>()].concat());

    wire.run(|| async move {
        let graceful_restart = Some(GracefulRestart { restart_time_s: 30, restarting: false });
        let password = Some("not a word".to_owned());
        let config = PeerConfig { local_address: Some(WE.into()), password, graceful_restart, ..PeerConfig::new(PEER, 65101) };
        let (speaker, mut events) = speaker(65000, config.clone());
        let (_, attributes, hop) = learn(&mut events, &["10.1.0.0/16", "10.2.0.0/16"]).await;
        assert_eq!((attributes.as_path.to_string().as_str(), attributes.origin, hop), ("65101", Origin::Igp, IpAddr::from(PEER)));

        // Ours to BIRD, with everything a route may carry.
        let rich = Arc::new(Attributes {
            as_path: AsPath::sequence([4_200_000_001]),
            communities: vec![65000 << 16 | 7],
            large_communities: vec![[65000, 1, 2]],
            ..Attributes::default()
        });
        let nlri = Nlri::Ipv4("10.9.0.0/16".parse().unwrap());
        speaker.advertise(PEER.into(), nlri, Arc::clone(&rich), WE.into());
        until("not before release", || birdc("show protocols upstream"), |a| a.contains("Established")).await;
        assert!(!birdc("show route").contains("10.9.0.0/16"));
        speaker.release(PEER.into(), Family::Ipv4Unicast);
        let shown = |text: String| {
            let birdc = &birdc;
            async move { until(&text, || birdc("show route all for 10.9.0.1"), |a| a.contains(&text)).await }
        };
        shown("BGP.as_path: 65000 4200000001".into()).await;
        shown("BGP.community: (65000,7)".into()).await;
        shown("BGP.large_community: (65000, 1, 2)".into()).await;

        // Withdrawals, both ways.
        birdc("disable green");
        assert_eq!(lose(&mut events).await[0].to_string(), "10.2.0.0/16");
        speaker.withdraw(PEER.into(), nlri.key());
        until("withdrawn", || birdc("show route"), |a| !a.contains("10.9.0.0/16")).await;
        speaker.advertise(PEER.into(), nlri, Arc::clone(&rich), WE.into());
        shown("BGP.as_path: 65000 4200000001".into()).await;

        // Route refresh, both ways.
        speaker.refresh(PEER.into(), Family::Ipv4Unicast);
        learn(&mut events, &["10.1.0.0/16"]).await;
        birdc("reload in upstream");

        // BIRD resets the session; it and its routes come back.
        birdc("restart upstream");
        let (reason, graceful) = down(&mut events).await;
        assert!(reason.contains("administrative reset") && !graceful, "{reason}");
        learn(&mut events, &["10.1.0.0/16"]).await;
        shown("BGP.as_path: 65000 4200000001".into()).await;

        // We vanish as a killed process does: BIRD keeps the route until we are back.
        speaker.shutdown(true).await;
        until("helping", || birdc("show protocols all upstream"), |a| a.contains("graceful restart active")).await;
        assert!(birdc("show route").contains("10.9.0.0/16"), "kept while we are away");
        let graceful_restart = Some(GracefulRestart { restart_time_s: 30, restarting: true });
        let (speaker, mut events) = self::speaker(65000, PeerConfig { graceful_restart, ..config });
        learn(&mut events, &["10.1.0.0/16"]).await;
        loop {
            if let Event::EndOfRib { family, .. } = next(&mut events).await {
                assert_eq!(family, Family::Ipv4Unicast);
                break;
            }
        }
        assert!(birdc("show route").contains("10.9.0.0/16"), "kept until our End-of-RIB");
        speaker.release(PEER.into(), Family::Ipv4Unicast);
        until("swept", || birdc("show route"), |a| !a.contains("10.9.0.0/16")).await;
        speaker.shutdown(false).await;
        until("told so", || birdc("show protocols all upstream"), |a| a.contains("Administrative shutdown")).await;
    });
}

#[test]
#[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
fn frr_as_a_vpnv4_peer() {
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let conf = format!(
        "router bgp 65000
 bgp router-id {PEER}
 no bgp default ipv4-unicast
 neighbor {WE} remote-as 65000
 neighbor {WE} timers connect 1
 address-family ipv4 vpn
  neighbor {WE} activate
  network 10.8.0.0/24 rd 65000:8 label 1008
  network 10.8.0.0/24 rd 10.255.0.2:9 label 1009
 exit-address-family
"
    );
    std::fs::write(format!("{dir}/bgpd.conf"), conf).unwrap();
    sh(&format!("chown -R frr:frr {dir} && chmod 755 {dir}"));
    wire.start(&format!(
        "/usr/lib/frr/bgpd -Z -n -f {dir}/bgpd.conf -i {dir}/bgpd.pid --vty_socket {dir} -z {dir}/zserv.api -A 127.0.0.1 -P 0 --log file:{dir}/log"
    ));
    let vtysh = |lines: &[&str]| {
        let head = ["--vty_socket", &dir, "--config_dir", &dir];
        ask("vtysh", &head.into_iter().chain(lines.iter().flat_map(|l| ["-c", l])).collect::<Vec<_>>())
    };

    wire.run(|| async move {
        let config = PeerConfig { local_address: Some(WE.into()), families: vec![Family::Vpnv4], ..PeerConfig::new(PEER, 65000) };
        let (speaker, mut events) = speaker(65000, config);
        let both = ["65000:8 10.8.0.0/24", "10.255.0.2:9 10.8.0.0/24"];
        let (have, attributes, hop) = learn(&mut events, &both).await;
        assert_eq!(have.iter().map(|n| n.label().unwrap().get()).collect::<Vec<_>>(), [1008, 1009]);
        assert_eq!((attributes.local_pref, hop), (Some(100), IpAddr::from(PEER)));

        let target: RouteTarget = "65000:100".parse().unwrap();
        let attributes =
            Arc::new(Attributes { as_path: AsPath::sequence([65101]), ext_communities: vec![target.0], ..Attributes::default() });
        let (rd, prefix) = ("65000:7".parse().unwrap(), "10.7.0.0/22".parse().unwrap());
        let nlri = Nlri::Vpnv4 { rd, prefix, label: Label::try_from(0xf_fffe).unwrap() };
        speaker.advertise(PEER.into(), nlri, Arc::clone(&attributes), WE.into());
        speaker.release(PEER.into(), Family::Vpnv4);
        let route = || vtysh(&["show bgp ipv4 vpn 10.7.0.0/22"]);
        until("advertised", route, |a| {
            ["65000:7:10.7.0.0/22", "RT:65000:100", "Remote label: 1048574", "65101", "10.0.0.1"].iter().all(|t| a.contains(t))
        })
        .await;

        // Another label replaces the first.
        speaker.advertise(PEER.into(), Nlri::Vpnv4 { rd, prefix, label: Label::try_from(16).unwrap() }, attributes, WE.into());
        until("label changed", route, |a| a.contains("Remote label: 16\n")).await;
        speaker.withdraw(PEER.into(), nlri.key());
        until("withdrawn", route, |a| !a.contains("65101")).await;

        let gone = "no network 10.8.0.0/24 rd 65000:8 label 1008";
        vtysh(&["conf t", "router bgp 65000", "address-family ipv4 vpn", gone]);
        assert_eq!(lose(&mut events).await[0].to_string(), "65000:8 10.8.0.0/24");

        vtysh(&["clear bgp *"]);
        let (reason, graceful) = down(&mut events).await;
        assert!(reason.contains("Cease") && !graceful, "{reason}");
        learn(&mut events, &["10.255.0.2:9 10.8.0.0/24"]).await;
        speaker.shutdown(false).await;
    });
}
