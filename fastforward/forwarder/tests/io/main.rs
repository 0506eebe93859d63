//! The real `fastforward` with real interfaces: frames in at one veth, out at the other, by DPDK in a bare VM.
//! These tests need root (to enter the network of a user namespace) and run with `lab/test`, or
//! `cargo test -p edgeplex-forwarder --test io -- --ignored`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod session;
mod switch;
mod vm;

use edgeplex_ff_fib_api::{FibOp, Reply, Request, Target};
use edgeplex_ff_packet::arp::{self, Arp};
use edgeplex_ff_packet::{checksum, ethernet, ipv4, mpls};
use edgeplex_types::{Epoch, Label, MacAddr};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use vm::*;

const UDP: u8 = 17;
const ICMP: u8 = 1;
/// Programmed and swept under traffic.
const ROUTES: u32 = 100_000;

fn packet(source: &str, destination: &str, protocol: u8, ttl: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let h = ipv4::Header {
        tos: 0,
        total_len: (ipv4::MIN_HEADER_LEN + payload.len()).try_into().unwrap(),
        identification: id,
        ttl,
        protocol,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    };
    [&h.to_bytes(), payload].concat()
}

/// A frame of the CE to the far side.
fn outbound(id: u16, payload: &[u8]) -> Vec<u8> {
    [&ethernet::header(PE, CE, ethernet::IPV4)[..], &packet("10.1.0.5", "10.2.0.7", UDP, 64, id, payload)].concat()
}

/// A frame of the far PE to us.
fn inbound(id: u16, payload: &[u8]) -> Vec<u8> {
    let entry = mpls::Entry { label: Label::try_from(OWN_LABEL).unwrap(), tc: 0, bottom: true, ttl: 60 };
    let ip = packet("10.2.0.7", "10.1.0.5", UDP, 64, id, payload);
    [&ethernet::header(PE_CORE, FAR_PE, ethernet::MPLS)[..], &entry.to_bytes(), &ip].concat()
}

/// Identification of the IPv4 packet `at` bytes into a frame of this type.
fn id_of(frame: &[u8], ether_type: u16, at: usize) -> Option<u16> {
    let f = ethernet::Frame::new(frame).ok()?;
    (f.ether_type() == ether_type).then(|| u16::from_be_bytes([frame[at + 4], frame[at + 5]]))
}

fn on_core(frame: &[u8]) -> Option<u16> {
    id_of(frame, ethernet::MPLS, 18)
}

fn arp_frame(operation: u16, destination: MacAddr) -> Vec<u8> {
    let (sender, target) = (Ipv4Addr::new(192, 168, 1, 2), Ipv4Addr::new(192, 168, 1, 1));
    let a = Arp { operation, sender_mac: CE, sender, target_mac: MacAddr([0; 6]), target };
    [&ethernet::header(destination, CE, ethernet::ARP)[..], &a.to_bytes()].concat()
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn frames_are_forwarded_both_ways_and_the_kernel_answers_behind_the_tap() {
    let mut vm = Vm::start();
    vm.connect().program(1, []);

    // Customer to core: TTL, label, addresses; from the smallest to the largest packet.
    for (id, len) in [(1, 8), (2, 64), (3, 1480)] {
        let payload = vec![id; len];
        send(&mut vm.ce, &outbound(id.into(), &payload));
        let frame = receive(&mut vm.p, "the frame on the core", |f| on_core(f).map(|_| f.to_vec()));
        let f = ethernet::Frame::new(&frame).unwrap();
        assert_eq!((f.destination(), f.source()), (FAR_PE, PE_CORE));
        let e = mpls::Entry::parse(f.payload()).unwrap();
        assert_eq!((e.label.get(), e.bottom, e.ttl), (FAR_LABEL, true, 63));
        let ip = ipv4::Packet::new(&f.payload()[4..]).unwrap();
        assert_eq!((ip.ttl(), ip.payload()), (63, &payload[..]));
    }

    // Core to customer: the CE is asked for by ARP first, and the packet that waited is sent.
    send(&mut vm.p, &inbound(7, &[1; 100]));
    receive(&mut vm.ce, "an ARP request", |f| id_of(f, ethernet::ARP, 14));
    send(&mut vm.ce, &arp_frame(arp::REPLY, PE));
    let frame = receive(&mut vm.ce, "the frame to the CE", |f| (id_of(f, ethernet::IPV4, 14) == Some(7)).then(|| f.to_vec()));
    let f = ethernet::Frame::new(&frame).unwrap();
    assert_eq!((f.destination(), f.source()), (CE, PE));

    // To the VM itself, through the TAP, and back.
    vm.exec("ip addr add 192.168.1.1/30 dev pe0 && ip link set pe0 up && ip neigh replace 192.168.1.2 lladdr 02:00:00:00:01:02 dev pe0");
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1, 0xaa];
    let sum = checksum::checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let ping = [&ethernet::header(PE, CE, ethernet::IPV4)[..], &packet("192.168.1.2", "192.168.1.1", ICMP, 64, 9, &echo)].concat();
    send(&mut vm.ce, &ping);
    let reply = receive(&mut vm.ce, "an echo reply", |f| (id_of(f, ethernet::IPV4, 14).is_some() && f[34] == 0).then(|| f.to_vec()));
    assert_eq!(reply[..6], CE.0);
    assert_eq!(reply[42], 0xaa);

    let Reply::Counters(c) = vm.connect().ask(&Request::Counters) else { panic!("no counters") };
    assert_eq!((c.to_core.packets, c.from_core.packets, c.punted.packets >= 1, c.injected.packets >= 1), (3, 1, true, true), "{c:?}");
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn an_idle_instance_sleeps_and_wakes_at_once() {
    let mut vm = Vm::start();
    vm.connect().program(1, []);
    let load = vm.load(Duration::from_secs(1));
    let mut waits = vec![];
    for id in 0..200 {
        let began = Instant::now();
        send(&mut vm.ce, &outbound(id, &[0; 64]));
        receive(&mut vm.p, "the frame", |f| (on_core(f) == Some(id)).then_some(()));
        waits.push(began.elapsed());
        // Long enough for it to fall asleep again.
        std::thread::sleep(Duration::from_millis(2));
    }
    waits.sort();
    let after = vm.load(Duration::from_secs(1));
    println!("idle {:.4} % and {:.4} % of a core, RSS {} kB", load * 100.0, after * 100.0, vm.rss_kb());
    println!("asleep to forwarded: median {:?}, 95 % {:?}, worst {:?}", waits[100], waits[190], waits[199]);
    assert!(load < 0.02 && after < 0.02, "idle load {load}, after traffic {after}");
    assert!(waits[100] < Duration::from_millis(20), "median {:?}", waits[100]);
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn the_tap_keeps_its_index_and_addresses_over_a_restart() {
    let mut vm = Vm::start();
    vm.connect().program(1, []);
    vm.exec("ip addr add 192.168.1.1/30 dev pe0 && ip link set pe0 up");
    let show = "ip -o link show pe0 | cut -d: -f1,2; ip -o link show pe0 | grep -o 'ether [0-9a-f:]*'; ip -o -4 addr show pe0 | grep -o 'inet [^ ]*'";
    let before = vm.exec(show).stdout;
    assert!(String::from_utf8_lossy(&before).contains("ether 02:00:00:00:01:01"), "the TAP has the interface's address");
    vm.kill_and_restart();
    let Reply::Status(s) = vm.connect().ask(&Request::Status) else { panic!("no status") };
    assert_eq!(s.routes, 0, "a new process begins empty");
    assert_eq!(String::from_utf8_lossy(&vm.exec(show).stdout), String::from_utf8_lossy(&before));
    vm.connect().program(1, []);
    send(&mut vm.ce, &outbound(5, &[0; 64]));
    receive(&mut vm.p, "the frame after the restart", |f| (on_core(f) == Some(5)).then_some(()));
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn clients_that_die_or_misbehave_disturb_nothing() {
    let mut vm = Vm::start();
    vm.connect().program(1, []);
    // One dies in the middle of a message and of a snapshot, one talks nonsense, one never reads.
    let mut dies = vm.connect();
    dies.done(&Request::Begin { epoch: Epoch(2) });
    dies.stream.write_all(&[0, 0, 1, 0, 1, 2, 3]).unwrap();
    drop(dies);
    let mut nonsense = vm.connect();
    nonsense.stream.write_all(&[0xff; 64]).unwrap();
    let mut deaf = vm.connect();
    deaf.stream.set_nonblocking(true).unwrap();
    let request = edgeplex_ff_fib_api::encode_request(&Request::Routes { after: None, limit: 1000 }).unwrap();
    while deaf.stream.write(&request).is_ok_and(|n| n == request.len()) {}
    for id in 0..100 {
        send(&mut vm.ce, &outbound(id, &[0; 64]));
        receive(&mut vm.p, "the frame", |f| (on_core(f) == Some(id)).then_some(()));
    }
    let Reply::Status(s) = vm.connect().ask(&Request::Status) else { panic!("no status") };
    assert_eq!(s.epoch, Some(Epoch(1)), "the snapshot that was not completed swept nothing");
    let load = vm.load(Duration::from_millis(500));
    assert!(load < 0.05, "a client that does not read keeps it busy: {load}");
    drop(deaf);
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn an_interface_may_go_down_and_up_but_not_away() {
    let mut vm = Vm::start();
    vm.connect().program(1, []);
    for round in 0..3 {
        vm.exec("ip link set core down");
        for id in 0..50 {
            send(&mut vm.ce, &outbound(id, &[0; 64]));
        }
        let load = vm.load(Duration::from_millis(300));
        assert!(load < 0.05, "round {round}: load {load} with an interface down");
        vm.exec("ip link set core up");
        let back = 1000 + round;
        until("forwarding again", || {
            send(&mut vm.ce, &outbound(back, &[0; 64]));
            let mut seen = vec![];
            vm.p.wait(50);
            edgeplex_ff_phy::Phy::receive(&mut vm.p, &mut seen, 1000);
            seen.iter().any(|b| on_core(edgeplex_ff_phy::PacketBuf::data(b)) == Some(back)).then_some(())
        });
    }
    vm.exec("ip link del core");
    let status = until("the end of the process", || vm.process.try_wait().unwrap());
    assert!(!status.success(), "it must not go on without its interface");
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn programming_many_routes_stops_no_packet() {
    let mut vm = Vm::start();
    vm.connect().program(1, []);
    let mut client = vm.connect();
    let programmer = std::thread::spawn(move || {
        let began = Instant::now();
        // Across the whole table: the root widens and narrows, and the default route comes and goes over all of them.
        let prefix = |i: u32| format!("{}/24", Ipv4Addr::from((20 << 24) + (i << 8))).parse().unwrap();
        let default = || [FibOp::Route { prefix: "0.0.0.0/0".parse().unwrap(), target: Target::Unreachable }];
        let route = |i: u32| FibOp::Route { prefix: prefix(i), target: Target::Unreachable };
        client.program(2, (0..ROUTES / 500).map(|s| default().into_iter().chain((s * 500..(s + 1) * 500).map(route)).collect()));
        // A dump while they are there, then away with them.
        let (mut rows, mut after, mut more) = (0, None, true);
        while more {
            let Reply::Routes { rows: page, more: m } = client.ask(&Request::Routes { after, limit: 1000 }) else { panic!("no routes") };
            (rows, after, more) = (rows + page.len(), page.last().map(|r| r.0), m);
        }
        assert!(rows > 100_000);
        client.program(3, []);
        until("the end of the sweep", || {
            let Reply::Status(s) = client.ask(&Request::Status) else { panic!("no status") };
            (s.epoch == Some(Epoch(3))).then(|| assert_eq!(s.routes, 4))
        });
        began.elapsed()
    });
    let (mut sent, mut got, mut delays) = (0usize, 0usize, vec![]);
    let mut left = vec![Instant::now(); 1 << 16];
    let mut seen = vec![];
    let give_up = Instant::now() + Duration::from_secs(120);
    while !programmer.is_finished() || sent < 500 || got < sent {
        assert!(Instant::now() < give_up, "{got} frames of {sent} came through");
        if !programmer.is_finished() || sent < 500 {
            let id = u16::try_from(sent % left.len()).unwrap();
            left[usize::from(id)] = Instant::now();
            send(&mut vm.ce, &outbound(id, &[0; 64]));
            sent += 1;
        }
        vm.p.wait(1);
        edgeplex_ff_phy::Phy::receive(&mut vm.p, &mut seen, 1000);
        for id in seen.drain(..).filter_map(|b| on_core(edgeplex_ff_phy::PacketBuf::data(&b))) {
            delays.push(left[usize::from(id)].elapsed());
            got += 1;
        }
    }
    delays.sort_unstable();
    let took = programmer.join().unwrap();
    let (median, high, worst) = (delays[got / 2], delays[got * 999 / 1000], delays[got - 1]);
    println!("{ROUTES} routes came, were dumped and went in {took:?} while {sent} frames passed, none lost");
    println!("from one wire to the other: median {median:?}, 99.9 % {high:?}, worst {worst:?}");
}

/// A standby takes over when the connection ends and nobody listens: it must not have to wait until the rings are taken apart.
#[test]
#[ignore = "needs root; lab/test runs it"]
fn nobody_listens_any_more_when_a_connection_to_a_killed_one_ends() {
    let mut vm = Vm::start();
    for _ in 0..5 {
        let mut client = vm.connect();
        client.program(1, []);
        let killed = Instant::now();
        vm.process.kill().unwrap();
        assert_eq!(std::io::Read::read(&mut client.stream, &mut [0; 16]).unwrap_or(0), 0);
        let heard = killed.elapsed();
        let again = std::os::unix::net::UnixStream::connect(vm.socket());
        assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        vm.process.wait().unwrap();
        println!("killed: heard after {heard:?}, ended after {:?}", killed.elapsed());
        vm.kill_and_restart();
    }
}

#[test]
#[ignore = "needs root; lab/test runs it"]
fn it_stops_when_asked_to() {
    let mut vm = Vm::start();
    vm.signal(Signal::SIGTERM);
    assert!(until("the end of the process", || vm.process.try_wait().unwrap()).success());
    assert!(!vm.socket().exists(), "the socket is gone");
}
