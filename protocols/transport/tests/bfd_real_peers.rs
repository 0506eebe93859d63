//! BFD against FRR and BIRD, in network namespaces: up, paced as agreed, down when the peer dies, down when it says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use edgeplex_transport::{
    Mode,
    bfd::{self, Event, Key, Parameters, Why},
    journal::Journal,
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedReceiver;
use wire::{LIMIT, PEER, WE, Wire, ask, sh, until};

async fn next(events: &mut UnboundedReceiver<Event>) -> Event {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("an event in time").expect("the task lives")
}

fn key(peer: IpAddr, local: IpAddr, interface: Option<&str>) -> Key {
    Key { peer, local, interface: interface.map(Into::into) }
}

fn parameters() -> Parameters {
    Parameters::new(Duration::from_millis(100), 3).unwrap()
}

fn start_frr(wire: &mut Wire, bfd: &str) {
    let dir = wire.path().display().to_string();
    std::fs::write(wire.path().join("bfdd.conf"), format!("bfd\n{bfd}\n")).unwrap();
    std::fs::write(wire.path().join("zebra.conf"), "").unwrap();
    sh(&format!("chown -R frr:frr {dir}"));
    let common = format!("-u frr -g frr -z {dir}/z.api --vty_socket {dir} -A 127.0.0.1 -P 0");
    wire.start(&format!("/usr/lib/frr/zebra {common} -f {dir}/zebra.conf -i {dir}/zebra.pid"));
    let start = Instant::now();
    while !wire.path().join("z.api").exists() {
        assert!(start.elapsed() < LIMIT, "zebra does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    wire.start(&format!("/usr/lib/frr/bfdd {common} --bfdctl {dir}/bfdd.sock -f {dir}/bfdd.conf -i {dir}/bfdd.pid"));
}

fn start_bird(wire: &mut Wire, bfd: &str) {
    let conf = wire.path().join("bird.conf");
    std::fs::write(&conf, format!("router id {PEER};\nprotocol device {{}}\nprotocol bfd {{\n{bfd}\n}}\n")).unwrap();
    wire.start(&format!("bird -f -c {} -s {}", conf.display(), wire.path().join("bird.ctl").display()));
}

fn bird(wire: &Wire) -> String {
    ask("birdc", &["-s", wire.path().join("bird.ctl").to_str().unwrap(), "show", "bfd", "sessions"])
}

/// Up; then the peer is killed, and that is noticed in about the detection time of 300 ms.
fn up_then_dead(mut wire: Wire, key: Key) {
    let pace = parameters();
    let (to_killer, killed) = std::sync::mpsc::channel();
    let (up, is_up) = std::sync::mpsc::channel();
    // The wire belongs to this thread, which kills; the session runs on another one in our namespace.
    let namespace = format!("/run/netns/{}", wire.ours);
    let session = std::thread::spawn(move || {
        let file = std::fs::File::open(namespace).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let (handle, mut events) = bfd::start(Mode::Live(Journal::none()));
            handle.add(key.clone(), "test", pace);
            assert_eq!(next(&mut events).await, Event::Up(key.clone()));
            // Both ends have agreed on the pace once our detection time is three of its intervals.
            let start = Instant::now();
            while handle.show().await[0].detection_us != 300_000 {
                assert!(start.elapsed() < LIMIT, "{:?}", handle.show().await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(handle.show().await[0].transmit_us, 100_000);
            up.send(()).unwrap();
            let dead: Instant = tokio::task::spawn_blocking(move || killed.recv().unwrap()).await.unwrap();
            assert_eq!(next(&mut events).await, Event::Down(key.clone(), Why::Expired));
            let noticed = dead.elapsed();
            assert!(noticed < Duration::from_secs(2), "noticed only after {noticed:?}");
            assert_eq!(handle.show().await[0].downs, 1);
        });
    });
    is_up.recv_timeout(LIMIT).expect("up, and at the agreed pace");
    wire.kill();
    to_killer.send(Instant::now()).unwrap();
    session.join().unwrap();
}

#[test]
#[ignore = "needs root, network namespaces and FRR"]
fn frr_single_hop() {
    let mut wire = Wire::new();
    start_frr(
        &mut wire,
        " peer 10.0.0.1 local-address 10.0.0.2 interface v0\n  receive-interval 100\n  transmit-interval 100\n  detect-multiplier 3",
    );
    up_then_dead(wire, key(PEER.into(), WE.into(), Some("v0")));
}

#[test]
#[ignore = "needs root, network namespaces and FRR"]
fn frr_single_hop_ipv6() {
    let mut wire = Wire::new();
    start_frr(
        &mut wire,
        " peer 2001:db8::1 local-address 2001:db8::2 interface v0\n  receive-interval 100\n  transmit-interval 100\n  detect-multiplier 3",
    );
    up_then_dead(wire, key("2001:db8::2".parse().unwrap(), "2001:db8::1".parse().unwrap(), Some("v0")));
}

#[test]
#[ignore = "needs root, network namespaces and FRR"]
fn frr_multihop() {
    let mut wire = Wire::new();
    sh(&format!(
        "ip -n {a} addr add 10.255.0.1/32 dev lo && ip -n {a} route add 10.255.0.2/32 via {PEER} &&
         ip -n {b} addr add 10.255.0.2/32 dev lo && ip -n {b} route add 10.255.0.1/32 via {WE}",
        a = wire.ours,
        b = wire.theirs
    ));
    start_frr(
        &mut wire,
        " peer 10.255.0.1 multihop local-address 10.255.0.2\n  receive-interval 100\n  transmit-interval 100\n  detect-multiplier 3",
    );
    up_then_dead(wire, key([10, 255, 0, 2].into(), [10, 255, 0, 1].into(), None));
}

#[test]
#[ignore = "needs root, network namespaces and BIRD"]
fn bird_single_hop() {
    let mut wire = Wire::new();
    start_bird(&mut wire, "interface \"v0\" { interval 100 ms; multiplier 3; };\nneighbor 10.0.0.1 dev \"v0\" local 10.0.0.2;");
    up_then_dead(wire, key(PEER.into(), WE.into(), Some("v0")));
}

#[test]
#[ignore = "needs root, network namespaces and BIRD"]
fn what_the_operator_ends_the_peer_hears_of() {
    let mut wire = Wire::new();
    start_bird(&mut wire, "interface \"v0\" { interval 100 ms; multiplier 3; };\nneighbor 10.0.0.1 dev \"v0\" local 10.0.0.2;");
    let wire = &wire;
    wire.run(|| async {
        let (handle, mut events) = bfd::start(Mode::Live(Journal::none()));
        let key = key(PEER.into(), WE.into(), Some("v0"));
        handle.add(key.clone(), "bgp", parameters());
        handle.add(key.clone(), "static", Parameters::new(Duration::from_millis(300), 3).unwrap());
        assert_eq!(next(&mut events).await, Event::Up(key.clone()));
        until("BIRD has it up", || bird(wire), |a| a.contains("Up")).await;
        // One of two clients goes: nothing happens to the session. It is told apart from a new one by its discriminator.
        let discriminator = handle.show().await[0].local_discriminator;
        handle.remove(key.clone(), "bgp");
        let row = handle.show().await.remove(0);
        assert_eq!((row.state.as_str(), row.clients, row.local_discriminator), ("up", vec!["static".to_owned()], discriminator));
        handle.remove(key.clone(), "static");
        until("BIRD hears AdminDown", || bird(wire), |a| a.contains("Down")).await;
        let start = Instant::now();
        while !handle.show().await.is_empty() {
            assert!(start.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        handle.add(key.clone(), "bgp", parameters());
        assert_eq!(next(&mut events).await, Event::Up(key));
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_packet_from_further_away_than_the_link_is_dropped() {
    // RFC 5881 §5: TTL 255 or nothing.
    let wire = Wire::new();
    let wire = &wire;
    wire.run(|| async {
        let (handle, mut events) = bfd::start(Mode::Live(Journal::none()));
        let key = key(PEER.into(), WE.into(), Some("v0"));
        handle.add(key.clone(), "test", parameters());
        // The sender's socket is made in the other namespace, on a thread that stays there.
        let theirs = format!("/run/netns/{}", wire.theirs);
        let (send, packets) = std::sync::mpsc::channel::<(u32, [u8; 24])>();
        std::thread::spawn(move || {
            let file = std::fs::File::open(theirs).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let socket = std::net::UdpSocket::bind((PEER, 50000)).unwrap();
            for (ttl, packet) in packets {
                socket.set_ttl(ttl).unwrap();
                socket.send_to(&packet, (WE, 3784)).unwrap();
            }
        });
        let ours = handle.show().await[0].local_discriminator;
        let packet = |state: u8, yours: u32| {
            let mut p = [0; 24];
            p[..8].copy_from_slice(&[0x20, state << 6, 3, 24, 0, 0, 0, 9]);
            p[8..12].copy_from_slice(&yours.to_be_bytes());
            p[12..16].copy_from_slice(&1_000_000u32.to_be_bytes());
            p[16..20].copy_from_slice(&1_000_000u32.to_be_bytes());
            p
        };
        // What is to be dropped comes first, and counts as nothing: only the last one, from one hop, brings it to Init.
        for ttl in [1, 64, 254] {
            send.send((ttl, packet(2, ours))).unwrap();
        }
        send.send((255, packet(1, 0))).unwrap();
        let start = Instant::now();
        while handle.show().await[0].packets_received == 0 {
            assert!(start.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let row = handle.show().await.remove(0);
        assert_eq!((row.packets_received, row.state.as_str()), (1, "init"));
        send.send((255, packet(2, ours))).unwrap();
        assert_eq!(next(&mut events).await, Event::Up(key));
    });
}
