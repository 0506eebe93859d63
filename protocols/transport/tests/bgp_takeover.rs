//! A speaker is killed (SIGKILL) over and over, in the middle of a table too, and its next life takes the session over from what was
//! written down, behind a gate: FRR, BIRD and GoBGP never notice, and in the end both sides have all routes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bgp_common;
mod gate;
mod lives;

use bgp_common::*;
use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{AsPath, Attributes, Nlri, NlriKey};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use edgeplex_transport::{Mode, journal::Journal};
use gate::{Gate, Tell};
use lives::Lives;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Routes that we tell the neighbour.
const OURS: u32 = 500;
const KILLS: usize = 10;

fn config(kind: &str) -> PeerConfig {
    let graceful_restart = Some(GracefulRestart { restart_time_s: 120, restarting: false });
    let ipv6 = kind.contains("ipv6");
    let (local, peer): (IpAddr, IpAddr) = if ipv6 { (WE6.into(), PEER6.into()) } else { (WE.into(), PEER.into()) };
    PeerConfig {
        local_address: Some(local),
        password: kind.contains("md5").then(|| "not-a-word".to_owned()),
        ttl_security_hops: kind.contains("gtsm").then_some(1),
        passive: kind.contains("passive"),
        graceful_restart,
        ..PeerConfig::new(peer, 65101)
    }
}

fn ours(n: u32, ipv6: bool) -> Nlri {
    let prefix = if ipv6 { format!("2001:db8:{n:x}::/48") } else { format!("172.{}.{}.0/24", 16 + n / 256, n % 256) };
    Nlri::Unicast(prefix.parse().unwrap())
}

/// What a life tells: routes known, sessions that came up anew, that went down, that were taken over, and that were lost.
const NUMBERS: usize = 5;

/// One life of the speaker. It writes into its directory what it knows: routes, sessions that came up anew, and that went down.
#[test]
#[ignore = "the other half of the tests here, which start it and kill it"]
fn life() {
    let Some((kind, dir)) = lives::orders() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(live(config(&kind), &dir));
}

async fn live(peer: PeerConfig, dir: &Path) {
    let (journal, records) = Journal::open(&dir.join("journal")).unwrap();
    journal.set_gate(Tell::new(&dir.join("gate.sock")));
    let listen = vec![SocketAddr::from((WE, 179)), SocketAddr::from((WE6, 179))];
    let (speaker, mut events) = Speaker::start(SpeakerConfig { local_as: 65000, router_id: WE, listen }, Mode::Following);
    let address = peer.address;
    let family = peer.families[0];
    speaker.set_peer(peer);
    records.iter().for_each(|r| speaker.replay(r));
    for n in 0..OURS {
        let attributes = Attributes { as_path: AsPath::default(), communities: vec![65000 << 16 | n], ..Attributes::default() };
        speaker.advertise(address, ours(n, address.is_ipv6()), Arc::new(attributes), None);
    }
    let promoted = speaker.promote(journal.clone()).await;
    speaker.release(address, family);
    let (mut routes, mut ups, mut downs): (BTreeSet<NlriKey>, usize, usize) = (BTreeSet::new(), 0, 0);
    let mut updates = 0;
    while let Some(event) = events.recv().await {
        match event {
            Event::Up { taken_over, .. } => ups += usize::from(!taken_over),
            Event::Down { .. } => {
                downs += 1;
                routes.clear();
            }
            Event::Update { reach, unreach, .. } => {
                // Ours that come back are unreachable.
                routes.retain(|key| !unreach.iter().any(|u| u.key == *key));
                routes.extend(reach.iter().map(|r| r.nlri.key()));
                // A daemon that has something to do, so that a table takes its time.
                updates += 1;
                if reach.len() > 100 || updates % 8 == 0 {
                    tokio::time::sleep(Duration::from_millis(if reach.len() > 100 { 20 } else { 1 })).await;
                }
            }
            Event::EndOfRib { .. } => {}
        }
        if !events.is_empty() && updates % 64 != 0 {
            continue;
        }
        let [sessions, lost] = [promoted.sessions, promoted.lost].map(|n| n as usize);
        lives::tell::<NUMBERS>(dir, [routes.len(), ups, downs, sessions, lost]);
    }
}

/// Kills the speaker while it learns `routes`, and when all is quiet. `has_ours`: what the neighbour has of us, as it tells it.
fn killed_over_and_over(wire: &Wire, kind: &str, routes: usize, has_ours: impl Fn() -> usize) -> Gate {
    let gate = Gate::between(wire);
    let start = std::time::Instant::now();
    let mut lives = Lives::<NUMBERS>::begin(wire, kind);
    for n in 1..=KILLS {
        // The last ones with the table complete.
        let part = (routes * n / (KILLS - 2)).min(routes);
        lives.until("a part of the table", |s| s[0] >= part);
        lives.kill();
        println!("{kind}: kill {n} at {part} of {routes} routes, {:.1?} after the start", start.elapsed());
    }
    lives.until("all routes", |s| s[0] == routes);
    let start = std::time::Instant::now();
    while has_ours() != OURS as usize {
        assert!(start.elapsed() < LIMIT, "the neighbour has {} of our routes", has_ours());
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = lives.status();
    assert_eq!(status[1..], [0, 0, 1, 0], "taken over, and nothing came up or went down");
    assert!(gate.counts.silenced.load(Ordering::Relaxed) > 0, "the deaths were silenced");
    println!(
        "{kind}: {} segments held, {} silenced",
        gate.counts.held.load(Ordering::Relaxed),
        gate.counts.silenced.load(Ordering::Relaxed)
    );
    gate
}

fn bird(kind: &str) {
    const ROUTES: usize = 6000;
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let ipv6 = kind.contains("ipv6");
    let (channel, local, neighbor) =
        if ipv6 { ("ipv6", PEER6.to_string(), WE6.to_string()) } else { ("ipv4", PEER.to_string(), WE.to_string()) };
    let prefix = |n: usize| if ipv6 { format!("2001:db9:{n:x}::/48") } else { format!("10.{}.{}.0/24", 100 + n / 256, n % 256) };
    let route = |n| format!("route {} blackhole {{ bgp_community.add((65101,{n})); }};\n", prefix(n));
    let routes: String = (0..ROUTES).map(route).collect();
    let password = if kind.contains("md5") { r#"password "not-a-word";"# } else { "" };
    let gtsm = if kind.contains("gtsm") { "ttl security on;" } else { "" };
    let passive = if kind.contains("passive") { "" } else { "passive on;" };
    let conf = format!(
        r#"log "{dir}/bird.log" all;
        router id {PEER};
        protocol device {{ }}
        protocol static blue {{ {channel}; {routes} }}
        protocol bgp upstream {{ debug {{ states, events }}; local {local} as 65101; neighbor {neighbor} as 65000; {password} {gtsm} {passive}
          connect delay time 1; error wait time 1,2; graceful restart on; {channel} {{ import all; export where source = RTS_STATIC; }}; }}"#
    );
    std::fs::write(format!("{dir}/bird.conf"), conf).unwrap();
    wire.start(&format!("bird -f -c {dir}/bird.conf -s {dir}/bird.ctl -P {dir}/bird.pid"));
    let birdc = |words: &str| ask("birdc", &[&["-s", &format!("{dir}/bird.ctl")][..], &words.split(' ').collect::<Vec<_>>()].concat());
    let has_ours = || birdc("show route protocol upstream").matches("[upstream").count();
    let _gate = killed_over_and_over(&wire, kind, ROUTES, has_ours);
    let log = std::fs::read_to_string(format!("{dir}/bird.log")).unwrap();
    assert_eq!(log.matches("BGP session established").count(), 1, "{log}");
    for bad in ["session closed", "Connection lost", "Connection closed", "Received: ", "Error: ", "graceful restart started"] {
        assert!(!log.contains(bad), "{bad}: {log}");
    }
}

fn frr(kind: &str) {
    const ROUTES: usize = 10_000;
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let network = |n: usize| format!("  network 10.{}.{}.0/24\n", 100 + n / 256, n % 256);
    let networks: String = (0..ROUTES).map(network).collect();
    let password = if kind.contains("md5") { format!(" neighbor {WE} password not-a-word\n") } else { String::new() };
    // Only one of us connects: of two connections at once one side may take the one to be up that the other closes.
    let passive = if kind.contains("passive") { String::new() } else { format!(" neighbor {WE} passive\n") };
    let conf = format!(
        "log file {dir}/frr.log\nlog timestamp precision 3\ndebug bgp neighbor-events\nrouter bgp 65101
 bgp router-id {PEER}
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 neighbor {WE} remote-as 65000
{password}{passive} neighbor {WE} timers connect 1
 address-family ipv4 unicast
{networks} exit-address-family
"
    );
    std::fs::write(format!("{dir}/bgpd.conf"), conf).unwrap();
    sh(&format!("chown -R frr:frr {dir} && chmod 755 {dir}"));
    wire.start(&format!(
        "/usr/lib/frr/bgpd -Z -n -f {dir}/bgpd.conf -i {dir}/bgpd.pid --vty_socket {dir} -z {dir}/zserv.api -A 127.0.0.1 -P 0"
    ));
    let vtysh = |line: &str| ask("vtysh", &["--vty_socket", &dir, "--config_dir", &dir, "-c", line]);
    let has_ours = || vtysh(&format!("show bgp ipv4 unicast neighbors {WE} routes")).matches(" 172.").count();
    let _gate = killed_over_and_over(&wire, kind, ROUTES, has_ours);
    let neighbor = vtysh(&format!("show bgp neighbors {WE}"));
    assert!(neighbor.contains("Connections established 1; dropped 0"), "{neighbor}");
    let log = std::fs::read_to_string(format!("{dir}/frr.log")).unwrap();
    assert!(log.contains(" Up") && !log.contains(" Down "), "{log}");
}

fn gobgp(kind: &str) {
    const ROUTES: usize = 150;
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let conf = format!(
        "[global.config]\n  as = 65101\n  router-id = \"{PEER}\"\n[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{WE}\"\n    peer-as = 65000\n  \
         [neighbors.transport.config]\n    passive-mode = true\n"
    );
    std::fs::write(format!("{dir}/gobgpd.toml"), conf).unwrap();
    wire.start(&format!("gobgpd -f {dir}/gobgpd.toml > {dir}/gobgp.log 2>&1"));
    // It learns its routes one by one, while we live and die.
    let add = format!("gobgp global rib add 10.100.$n.0/24 community 65101:$n nexthop {PEER}");
    wire.start(&format!("sh -c 'n=0; while [ $n -lt {ROUTES} ]; do {add} && n=$((n+1)) || sleep 0.1; done'"));
    let theirs = wire.theirs.clone();
    let gobgp = |words: &str| ask("ip", &[&["netns", "exec", &theirs, "gobgp"][..], &words.split(' ').collect::<Vec<_>>()].concat());
    let has_ours = || gobgp(&format!("neighbor {WE} adj-in")).matches(".0/24").count();
    let _gate = killed_over_and_over(&wire, kind, ROUTES, has_ours);
    let log = std::fs::read_to_string(format!("{dir}/gobgp.log")).unwrap();
    assert_eq!((log.matches("Peer Up").count(), log.matches("Peer Down").count()), (1, 0), "{log}");
}

#[test]
#[ignore = "needs root, GoBGP and network namespaces; the lab's test command runs it"]
fn gobgp_never_notices() {
    gobgp("gobgp");
}

#[test]
#[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
fn bird_never_notices() {
    bird("bird");
}

#[test]
#[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
fn bird_that_connects_over_ipv6_with_md5_and_gtsm_never_notices() {
    bird("bird-ipv6-md5-gtsm-passive");
}

#[test]
#[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
fn frr_never_notices() {
    frr("frr");
}

#[test]
#[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
fn frr_with_md5_never_notices() {
    frr("frr-md5-passive");
}
