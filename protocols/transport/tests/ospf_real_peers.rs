//! Our OSPF router against FRR and BIRD, in network namespaces, over two wires.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_ospf::{Algorithm, Authentication, Config, InterfaceConfig, Network, RouteKind};
use edgeplex_transport::{
    Mode,
    journal::Journal,
    ospf::{self, Event, Handle, Route},
};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

const LIMIT: Duration = Duration::from_secs(40);
const WE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const THEIR_LOOPBACK: &str = "10.255.0.2/32";
static COUNT: AtomicU32 = AtomicU32::new(0);

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Our namespace and the peer's, joined by wires `v0` (10.0.0.0/24) and `v1` (10.0.1.0/24); all of it goes with the value.
struct Wires {
    ours: String,
    theirs: String,
    dir: tempfile::TempDir,
    daemons: BTreeMap<String, Child>,
}

impl Wires {
    fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = (format!("epo{}-{n}a", std::process::id()), format!("epo{}-{n}b", std::process::id()));
        let wires = Self { ours, theirs, dir: tempfile::tempdir().unwrap(), daemons: BTreeMap::new() };
        let (a, b) = (&wires.ours, &wires.theirs);
        sh(&format!("ip netns add {a} && ip netns add {b} && ip -n {a} link set lo up && ip -n {b} link set lo up"));
        sh(&format!("ip -n {b} addr add {THEIR_LOOPBACK} dev lo"));
        for i in 0..2 {
            sh(&format!(
                "ip link add v{i} netns {a} type veth peer name v{i} netns {b} &&
                 ip -n {a} addr add 10.0.{i}.1/24 dev v{i} && ip -n {b} addr add 10.0.{i}.2/24 dev v{i} &&
                 ip -n {a} link set v{i} up && ip -n {b} link set v{i} up"
            ));
        }
        wires
    }

    fn path(&self) -> String {
        self.dir.path().to_str().unwrap().to_owned()
    }

    fn start(&mut self, name: &str, command: &str) {
        // `ip netns exec` gives it a mount namespace of its own: what FRR leaves in /var/tmp goes with it.
        let line = format!("mount -t tmpfs tmpfs /var/tmp && exec {command}");
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &self.theirs, "sh", "-c", &line]);
        self.daemons.insert(name.into(), run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    fn kill(&mut self, name: &str) {
        let mut daemon = self.daemons.remove(name).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn start_frr(&mut self) {
        self.start_frr_daemon("zebra");
        let socket = format!("{}/zserv.api", self.path());
        let start = Instant::now();
        while !std::path::Path::new(&socket).exists() {
            assert!(start.elapsed() < LIMIT, "zebra does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.start_frr_daemon("ospfd");
    }

    fn start_frr_daemon(&mut self, daemon: &str) {
        let dir = self.path();
        self.start(
            daemon,
            &format!(
                "/usr/lib/frr/{daemon} -f {dir}/{daemon}.conf -i {dir}/{daemon}.pid --vty_socket {dir} -z {dir}/zserv.api -A 127.0.0.1 -P 0 --log file:{dir}/log"
            ),
        );
    }

    fn write_frr(&self, interface: &str, router: &str) {
        let dir = self.path();
        std::fs::write(format!("{dir}/zebra.conf"), "").unwrap();
        sh(&format!("ip -n {} route add blackhole 10.9.0.0/16", self.theirs));
        let ospfd = format!(
            "interface v0\n{interface}\ninterface v1\n{interface}\nrouter ospf\n ospf router-id 10.255.0.2\n timers throttle spf 1 10 100\n \
             network 10.0.0.0/8 area 0\n redistribute kernel metric-type 1 metric 20\n default-information originate always metric 10\n{router}\n"
        );
        std::fs::write(format!("{dir}/ospfd.conf"), ospfd).unwrap();
        sh(&format!("chown -R frr:frr {dir} && chmod 755 {dir}"));
    }

    fn write_bird(&self, interface: &str) {
        let conf = format!(
            r#"router id 10.255.0.2;
            protocol device {{ }}
            protocol direct {{ ipv4; interface "lo"; }}
            protocol static outside {{ ipv4; route 10.9.0.0/16 blackhole; route 0.0.0.0/0 blackhole; }}
            protocol ospf v2 core {{ ipv4 {{ import all; export filter {{
                if net = 10.9.0.0/16 then {{ ospf_metric1 = 20; accept; }}
                if net = 0.0.0.0/0 then {{ ospf_metric2 = 10; accept; }}
                reject; }}; }};
              area 0 {{ interface "lo" {{ stub; }}; interface "v0", "v1" {{ {interface} }}; }}; }}"#
        );
        std::fs::write(format!("{}/bird.conf", self.path()), conf).unwrap();
    }

    fn start_bird(&mut self) {
        let dir = self.path();
        self.start("bird", &format!("bird -f -c {dir}/bird.conf -s {dir}/bird.ctl -P {dir}/bird.pid"));
    }

    fn vtysh(&self, lines: &[&str]) -> String {
        let dir = self.path();
        let head = ["--vty_socket", &dir, "--config_dir", &dir];
        ask("vtysh", &head.into_iter().chain(lines.iter().flat_map(|l| ["-c", l])).collect::<Vec<_>>())
    }

    fn birdc(&self, words: &str) -> String {
        ask("birdc", &[&["-s", &format!("{}/bird.ctl", self.path())][..], &words.split(' ').collect::<Vec<_>>()].concat())
    }

    /// Runs `body` on a thread of its own in our namespace.
    fn run(&mut self, body: impl AsyncFnOnce(&mut Self) + Send) {
        let namespace = format!("/run/netns/{}", self.ours);
        std::thread::scope(|s| {
            let thread = s.spawn(|| {
                let file = std::fs::File::open(namespace).unwrap();
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body(self));
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for daemon in self.daemons.values_mut() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for namespace in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn ask(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
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

type Routes = Arc<BTreeMap<Ipv4Net, Route>>;

/// Reads events until the routes are as wanted.
async fn routes(events: &mut Receiver<Event>, handle: &Handle, what: &str, wanted: impl Fn(&BTreeMap<Ipv4Net, Route>) -> bool) -> Routes {
    let mut last = None;
    let read = async {
        loop {
            if let Event::Routes(routes) = events.recv().await.expect("the router lives") {
                if wanted(&routes) {
                    return routes;
                }
                last = Some(routes);
            }
        }
    };
    let result = tokio::time::timeout(LIMIT, read).await;
    match result {
        Ok(routes) => routes,
        Err(_) => panic!("never: {what}; last: {last:#?}\n{:#?}\n{:#?}", handle.show_neighbors().await, handle.show_interfaces().await),
    }
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn hops(routes: &BTreeMap<Ipv4Net, Route>, prefix: &str) -> Vec<String> {
    routes.get(&net(prefix)).map(|r| r.next_hops.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// Everything that a peer announces, over these interfaces.
fn complete(routes: &BTreeMap<Ipv4Net, Route>, interfaces: &[&str]) -> bool {
    let want: Vec<String> = interfaces.iter().map(|i| format!("10.0.{}.2 on {i}", &i[1..])).collect();
    [THEIR_LOOPBACK, "10.9.0.0/16", "0.0.0.0/0"].iter().all(|prefix| hops(routes, prefix) == want)
}

fn config(network: Network, authentication: &Authentication) -> Config {
    let interface = |i: u8| {
        let address = format!("10.0.{i}.1/24").parse().unwrap();
        let timers = InterfaceConfig { hello_s: 1, dead_s: 4, retransmit_s: 2, ..InterfaceConfig::new(address, network) };
        (Arc::from(format!("v{i}")), InterfaceConfig { authentication: authentication.clone(), ..timers })
    };
    Config { hosts: vec![WE], interfaces: (0..2).map(interface).collect(), ..Config::new(WE, Ipv4Addr::UNSPECIFIED) }
}

fn start(config: &Config, restarting: bool) -> (Handle, Receiver<Event>) {
    let (handle, events) = ospf::start(config.clone(), restarting, Mode::Live(Journal::none()));
    config.interfaces.keys().for_each(|name| handle.interface(name, true));
    (handle, events)
}

fn key(algorithm: Algorithm) -> Authentication {
    Authentication::Cryptographic { algorithm, key_id: 7, key: "not a word".into() }
}

/// What both peers are asked for, once they and we are complete.
async fn both_ways(handle: &Handle, routes: &BTreeMap<Ipv4Net, Route>, theirs: impl Fn() -> String) {
    let kind = |p: &str| (routes[&net(p)].kind, routes[&net(p)].cost);
    let loopback = kind(THEIR_LOOPBACK);
    assert!(loopback == (RouteKind::IntraArea, 10) || loopback == (RouteKind::IntraArea, 20), "{loopback:?}");
    assert_eq!((kind("10.9.0.0/16"), kind("0.0.0.0/0")), ((RouteKind::External1, 30), (RouteKind::External2, 10)));
    until("our loopback over both wires", theirs, |a| {
        let from = a.find("10.255.0.1").map(|at| a[at..].chars().take(300).collect::<String>()).unwrap_or_default();
        from.contains("10.0.0.1") && from.contains("10.0.1.1")
    })
    .await;
    let neighbors = handle.show_neighbors().await;
    assert!(
        neighbors.len() == 2 && neighbors.iter().all(|n| n.state == "full" && n.router_id.to_string() == "10.255.0.2"),
        "{neighbors:?}"
    );
    // To someone who has just been restarted neighbours may speak before it has heard their Hello.
    let interfaces = handle.show_interfaces().await;
    assert!(interfaces.iter().flat_map(|i| &i.refused).all(|(reason, _)| reason == "no neighbor"), "{interfaces:?}");
    let database = handle.show_database().await;
    assert!(database.iter().any(|l| l.kind == "external" && l.contents[0] == "prefix 10.9.0.0/16, type 1, cost 20"), "{database:#?}");
}

/// They mostly wait: `lab/test` runs several of them at once.
mod at_leisure {
    use super::*;

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn frr_on_wires_with_md5() {
        let mut wires = Wires::new();
        let interface = " ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n ip ospf retransmit-interval 2\n \
                         ip ospf authentication message-digest\n ip ospf message-digest-key 7 md5 not a word";
        // FRR takes a key without spaces.
        wires.write_frr(&interface.replace("not a word", "notaword"), " capability opaque\n graceful-restart helper enable");
        wires.start_frr();
        wires.run(async |wires| {
            let authentication = Authentication::Cryptographic { algorithm: Algorithm::Md5, key_id: 7, key: "notaword".into() };
            let config = config(Network::PointToPoint, &authentication);
            let (handle, mut events) = start(&config, false);
            let have = routes(&mut events, &handle, "all of FRR's, over both wires", |r| complete(r, &["v0", "v1"])).await;
            both_ways(&handle, &have, || wires.vtysh(&["show ip ospf route"])).await;

            // One wire less, and again both.
            sh(&format!("ip -n {} link set v1 down", wires.theirs));
            handle.interface("v1", false);
            routes(&mut events, &handle, "one wire", |r| complete(r, &["v0"])).await;
            sh(&format!("ip -n {} link set v1 up", wires.theirs));
            handle.interface("v1", true);
            routes(&mut events, &handle, "both wires again", |r| complete(r, &["v0", "v1"])).await;

            // Its cost, and ours.
            let mut dear = config.clone();
            dear.interfaces.get_mut("v1").unwrap().cost = 100;
            handle.configure(dear);
            routes(&mut events, &handle, "the cheaper wire", |r| complete(r, &["v0"])).await;
            handle.configure(config.clone());
            routes(&mut events, &handle, "equal again", |r| complete(r, &["v0", "v1"])).await;
            wires.vtysh(&["conf t", "router ospf", "no redistribute kernel"]);
            routes(&mut events, &handle, "withdrawn", |r| !r.contains_key(&net("10.9.0.0/16"))).await;
            wires.vtysh(&["conf t", "router ospf", "redistribute kernel metric-type 1 metric 20"]);
            routes(&mut events, &handle, "announced again", |r| complete(r, &["v0", "v1"])).await;

            // Drained: everything through us at the highest cost.
            handle.configure(Config { stub_router: true, ..config.clone() });
            until("drained", || wires.vtysh(&["show ip ospf database router 10.255.0.1"]), |a| a.contains("TOS 0 Metric: 65535")).await;
            handle.configure(config.clone());

            // FRR restarts.
            wires.kill("ospfd");
            routes(&mut events, &handle, "FRR is gone", |r| hops(r, THEIR_LOOPBACK).is_empty()).await;
            wires.start_frr_daemon("ospfd");
            routes(&mut events, &handle, "FRR is back", |r| complete(r, &["v0", "v1"])).await;

            // We restart, and FRR keeps our loopback all the time; over one wire, for FRR 8.4 helps one adjacency with a router alone.
            let one =
                Config { interfaces: config.interfaces.iter().take(1).map(|(n, i)| (n.clone(), i.clone())).collect(), ..config.clone() };
            handle.configure(one.clone());
            routes(&mut events, &handle, "one wire", |r| complete(r, &["v0"])).await;
            until("one wire", || wires.vtysh(&["show ip ospf neighbor"]), |a| !a.contains("10.0.1.1")).await;
            until("known", || wires.vtysh(&["show ip ospf route"]), |a| a.contains("10.255.0.1/32")).await;
            handle.shutdown(true).await;
            drop(events);
            let kept = async || {
                for _ in 0..30 {
                    assert!(
                        wires.vtysh(&["show ip ospf route"]).contains("10.255.0.1/32"),
                        "{}",
                        wires.vtysh(&["show ip ospf neighbor detail"])
                    );
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            };
            kept().await;
            let (handle, mut events) = start(&one, true);
            routes(&mut events, &handle, "complete after the restart", |r| complete(r, &["v0"])).await;
            kept().await;
            assert!(wires.vtysh(&["show ip ospf graceful-restart helper"]).contains("Successful"));
            handle.configure(config.clone());
            handle.interface("v1", true);
            let have = routes(&mut events, &handle, "both wires", |r| complete(r, &["v0", "v1"])).await;
            both_ways(&handle, &have, || wires.vtysh(&["show ip ospf route"])).await;

            // Another password.
            wires.vtysh(&["conf t", "interface v1", "no ip ospf message-digest-key 7", "ip ospf message-digest-key 7 md5 another"]);
            routes(&mut events, &handle, "one believed wire", |r| complete(r, &["v0"])).await;
            let refused = handle.show_interfaces().await.into_iter().find(|i| i.interface == "v1").unwrap().refused;
            assert!(refused.iter().any(|(reason, n)| reason == "authentication" && *n > 0), "{refused:?}");

            handle.shutdown(false).await;
            until("told so", || wires.vtysh(&["show ip ospf route"]), |a| !a.contains("10.255.0.1/32")).await;
        });
    }

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn frr_on_segments() {
        let mut wires = Wires::new();
        wires.write_frr(" ip ospf hello-interval 1\n ip ospf dead-interval 4\n ip ospf retransmit-interval 2\n ip ospf priority 3", "");
        wires.start_frr();
        wires.run(async |wires| {
            let config = config(Network::Broadcast, &Authentication::Null);
            let (handle, mut events) = start(&config, false);
            let have = routes(&mut events, &handle, "all of FRR's, over both segments", |r| complete(r, &["v0", "v1"])).await;
            both_ways(&handle, &have, || wires.vtysh(&["show ip ospf route"])).await;
            let roles = handle
                .show_interfaces()
                .await
                .into_iter()
                .map(|i| (i.state, i.designated.unwrap().octets()[3], i.backup.unwrap().octets()[3]));
            assert_eq!(
                roles.collect::<Vec<_>>(),
                [("backup".to_owned(), 2, 1), ("backup".to_owned(), 2, 1)],
                "FRR has the higher priority"
            );

            // The designated router goes: we are it, and it comes back as our backup.
            wires.kill("ospfd");
            routes(&mut events, &handle, "FRR is gone", |r| hops(r, THEIR_LOOPBACK).is_empty()).await;
            wires.start_frr_daemon("ospfd");
            let have = routes(&mut events, &handle, "FRR is back", |r| complete(r, &["v0", "v1"])).await;
            both_ways(&handle, &have, || wires.vtysh(&["show ip ospf route"])).await;
            assert!(handle.show_interfaces().await.iter().all(|i| i.state == "dr"), "{:?}", handle.show_interfaces().await);
            handle.shutdown(false).await;
        });
    }

    #[test]
    #[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
    fn bird_on_segments_with_hmac_sha() {
        for (algorithm, name) in
            [(Algorithm::HmacSha256, "hmac sha256"), (Algorithm::HmacSha384, "hmac sha384"), (Algorithm::HmacSha512, "hmac sha512")]
        {
            let mut wires = Wires::new();
            wires.write_bird(&format!(
                "type broadcast; hello 1; dead 4; retransmit 2; wait 4; authentication cryptographic; password \"not a word\" {{ id 7; algorithm {name}; }};"
            ));
            wires.start_bird();
            wires.run(async |wires| {
                let config = config(Network::Broadcast, &key(algorithm));
                let (handle, mut events) = start(&config, false);
                let have = routes(&mut events, &handle, "all of BIRD's, over both segments", |r| complete(r, &["v0", "v1"])).await;
                both_ways(&handle, &have, || wires.birdc("show route for 10.255.0.1")).await;
                handle.shutdown(false).await;
                until("told so", || wires.birdc("show route"), |a| !a.contains("10.255.0.1/32")).await;
            });
        }
    }

    #[test]
    #[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
    fn bird_on_wires_with_md5() {
        let mut wires = Wires::new();
        let interface = "type ptp; hello 1; dead 4; retransmit 2; authentication cryptographic; password \"not a word\" { id 7; algorithm keyed md5; };";
        wires.write_bird(interface);
        wires.start_bird();
        wires.run(async |wires| {
            let config = config(Network::PointToPoint, &key(Algorithm::Md5));
            let (handle, mut events) = start(&config, false);
            let have = routes(&mut events, &handle, "all of BIRD's, over both wires", |r| complete(r, &["v0", "v1"])).await;
            both_ways(&handle, &have, || wires.birdc("show route for 10.255.0.1")).await;

            // BIRD forgets something, and remembers.
            wires.birdc("disable outside");
            routes(&mut events, &handle, "withdrawn", |r| !r.contains_key(&net("10.9.0.0/16"))).await;
            wires.birdc("enable outside");
            routes(&mut events, &handle, "announced again", |r| complete(r, &["v0", "v1"])).await;

            // We restart, and BIRD keeps our loopback all the time.
            let kept = async || {
                for _ in 0..30 {
                    assert!(wires.birdc("show route for 10.255.0.1").contains("10.255.0.1/32"), "{}", wires.birdc("show ospf neighbors"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            };
            handle.shutdown(true).await;
            drop(events);
            kept().await;
            let (handle, mut events) = start(&config, true);
            routes(&mut events, &handle, "complete after the restart", |r| complete(r, &["v0", "v1"])).await;
            kept().await;

            // BIRD restarts, not gracefully, then with another password.
            wires.kill("bird");
            routes(&mut events, &handle, "BIRD is gone", |r| hops(r, THEIR_LOOPBACK).is_empty()).await;
            wires.start_bird();
            routes(&mut events, &handle, "BIRD is back", |r| complete(r, &["v0", "v1"])).await;
            wires.write_bird(&interface.replace("not a word", "another"));
            wires.birdc("configure");
            routes(&mut events, &handle, "nothing is believed", |r| hops(r, THEIR_LOOPBACK).is_empty()).await;
            assert!(handle.show_interfaces().await.iter().all(|i| i.refused.iter().any(|(reason, _)| reason == "authentication")));
            handle.shutdown(false).await;
        });
    }
}
