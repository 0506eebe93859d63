//! LSP ping between two routers of ours, in network namespaces; tshark says whether it is RFC 8029 that they speak.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use edgeplex_mgmt::show::PingOptions;
use edgeplex_transport::lsp_ping::{self, Known, KnownLabel, Port, Way};
use edgeplex_types::{Label, MacAddr};
use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use wire::{LIMIT, PEER, WE, Wire, ask, sh};

const OUR_LOOPBACK: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const THEIR_LOOPBACK: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

fn label(n: u32) -> Label {
    Label::try_from(n).unwrap()
}

fn mac(namespace: &str) -> MacAddr {
    let text = sh(&format!("ip netns exec {namespace} cat /sys/class/net/v0/address"));
    let bytes: Vec<u8> = text.trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    MacAddr(bytes.try_into().unwrap())
}

/// The other router: the egress of 10.255.0.2/32, and on the way to 10.255.0.3/32 with label 500001.
fn responder(namespace: String, stop: tokio::sync::oneshot::Receiver<()>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let known = Known {
                egress: ["10.255.0.2/32".parse().unwrap()].into(),
                labels: [(label(500_001), KnownLabel { fec: "10.255.0.3/32".parse().unwrap(), forwards: true })].into(),
            };
            let (_keep, known) = tokio::sync::watch::channel(Arc::new(known));
            let _handle = lsp_ping::start(THEIR_LOOPBACK, vec![Port { name: "v0".into(), address: PEER }], known);
            let _ = stop.await;
        });
    })
}

#[test]
#[ignore = "needs root, network namespaces and tshark"]
fn the_egress_and_the_transit_router_answer() {
    let wire = Wire::new();
    let (a, b) = (wire.ours.clone(), wire.theirs.clone());
    sh(&format!(
        "ip -n {a} addr add {OUR_LOOPBACK}/32 dev lo && ip -n {a} route add {THEIR_LOOPBACK} via {PEER} &&
         ip -n {b} addr add {THEIR_LOOPBACK}/32 dev lo && ip -n {b} route add {OUR_LOOPBACK} via {WE}"
    ));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let other = responder(b.clone(), stopped);
    let pcap = wire.path().join("echo.pcap");
    let filter = ["netns", "exec", &b, "tcpdump", "-i", "v0", "-U", "--immediate-mode", "-Z", "root", "-w", pcap.to_str().unwrap()];
    let mut tcpdump = Command::new("ip").args(filter).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while std::fs::metadata(&pcap).map_or(0, |m| m.len()) < 24 {
        assert!(start.elapsed() < LIMIT, "tcpdump does not start");
        std::thread::sleep(Duration::from_millis(20));
    }

    let way = |labels: &[u32]| Way { source_mac: mac(&a), destination_mac: mac(&b), labels: labels.iter().map(|l| label(*l)).collect() };
    let (plain, labelled) = (way(&[]), way(&[500_001]));
    let wire = &wire;
    wire.run(|| async {
        let (_keep, known) = tokio::sync::watch::channel(Arc::new(Known::default()));
        let us = lsp_ping::start(OUR_LOOPBACK, vec![Port { name: "v0".into(), address: WE }], known);
        let options = PingOptions { count: 3, interval_ms: 10, timeout_ms: 1000, max_hops: 3 };
        // The other router's packet socket may not stand yet.
        let start = Instant::now();
        let report = loop {
            let report = us.ping("10.255.0.2/32".parse().unwrap(), "v0", &plain, &options).await.unwrap();
            if report.received == 3 {
                break report;
            }
            assert!(start.elapsed() < LIMIT, "{report:?}");
        };
        assert!(report.probes.iter().all(|p| p.last && p.from == Some(THEIR_LOOPBACK.into()) && p.rtt_us.is_some()), "{report:?}");

        let trace = us.traceroute("10.255.0.3/32".parse().unwrap(), "v0", &labelled, &options).await.unwrap();
        assert_eq!((trace.sent, trace.received), (3, 3));
        let first = &trace.probes[0];
        assert_eq!((first.outcome.as_str(), first.labels.as_slice(), first.last), ("label switched", &[label(500_001)][..], false));

        // A label that leads elsewhere, and one that nobody gave.
        let wrong = us.ping("10.255.0.2/32".parse().unwrap(), "v0", &labelled, &options).await.unwrap();
        assert_eq!((wrong.received, wrong.probes[0].outcome.as_str()), (0, "mapping for this FEC is not the given label"));
        let nobody = us.ping("10.255.0.3/32".parse().unwrap(), "v0", &way(&[17]), &options).await.unwrap();
        assert_eq!(nobody.probes[0].outcome, "no label entry");
        // A FEC that ends elsewhere.
        let astray = us.ping("10.255.0.3/32".parse().unwrap(), "v0", &plain, &options).await.unwrap();
        assert_eq!(astray.probes[0].outcome, "replying router has no mapping for the FEC");
    });
    let _ = stop.send(());
    other.join().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(tcpdump.id().cast_signed()), nix::sys::signal::Signal::SIGINT).unwrap();
    tcpdump.wait().unwrap();

    let file = pcap.to_str().unwrap();
    let fields = [
        "-n",
        "-r",
        file,
        "-T",
        "fields",
        "-e",
        "mpls_echo.msg_type",
        "-e",
        "mpls_echo.return_code",
        "-e",
        "mpls_echo.tlv.fec.ldp_ipv4",
        "-e",
        "_ws.malformed",
    ];
    let shown = ask("tshark", &[&fields[..], &["-Y", "mpls-echo"]].concat());
    let rows: Vec<Vec<&str>> = shown.lines().map(|l| l.split('\t').collect()).collect();
    let has = |kind: &str, code: &str| rows.iter().any(|r| r[0] == kind && r[1] == code);
    assert!(has("1", "0") && has("2", "3") && has("2", "8") && has("2", "10") && has("2", "11") && has("2", "4"), "{shown}");
    assert!(rows.iter().all(|r| r[3].is_empty()), "malformed in tshark's eyes:\n{shown}");
    assert!(rows.iter().any(|r| r[2] == "10.255.0.2"), "{shown}");
}
