//! Network namespaces with another daemon in one of them, and what a speaker of ours hears from it.
#![allow(dead_code, unreachable_pub)] // Each test uses its part.

use edgeplex_bgp::PeerConfig;
use edgeplex_bgp_wire::{Attributes, Nlri, NlriKey};
use edgeplex_transport::bgp::{Event, Speaker, SpeakerConfig};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

pub const LIMIT: Duration = Duration::from_secs(30);
pub const WE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The same two in IPv6.
pub const WE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
static COUNT: AtomicU32 = AtomicU32::new(0);

pub fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Our namespace and the peer's, joined by a veth pair; all of it goes with the value.
pub struct Wire {
    ours: String,
    theirs: String,
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Wire {
    pub fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = (format!("ept{}-{n}a", std::process::id()), format!("ept{}-{n}b", std::process::id()));
        let wire = Self { ours, theirs, dir: tempfile::tempdir().unwrap(), daemon: None };
        let (a, b) = (&wire.ours, &wire.theirs);
        sh(&format!(
            "ip netns add {a} && ip netns add {b} && ip link add v0 netns {a} type veth peer name v0 netns {b} &&
             ip -n {a} addr add {WE}/24 dev v0 && ip -n {b} addr add {PEER}/24 dev v0 &&
             ip -n {a} addr add {WE6}/64 dev v0 nodad && ip -n {b} addr add {PEER6}/64 dev v0 nodad &&
             ip -n {a} link set v0 up && ip -n {b} link set v0 up && ip -n {a} link set lo up && ip -n {b} link set lo up"
        ));
        wire
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The peer's.
    pub fn namespace(&self) -> &str {
        &self.theirs
    }

    pub fn start(&mut self, command: &str) {
        // `ip netns exec` gives it a mount namespace of its own: what FRR leaves in /var/tmp goes with it.
        let line = format!("mount -t tmpfs tmpfs /var/tmp && exec {command}");
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &self.theirs, "sh", "-c", &line]);
        self.daemon = Some(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Runs `body` on a thread of its own in our namespace.
    pub fn run<F: Future<Output = ()>>(&self, body: impl FnOnce() -> F + Send) {
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
pub async fn until(what: &str, ask: impl Fn() -> String, wanted: impl Fn(&str) -> bool) {
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

pub fn ask(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub async fn next(events: &mut Receiver<Event>) -> Event {
    tokio::time::timeout(LIMIT, events.recv()).await.expect("an event in time").expect("the speaker lives")
}

/// Reads events until these routes are reachable; gives their last attributes.
pub async fn learn(events: &mut Receiver<Event>, wanted: &[&str]) -> (Vec<Nlri>, Arc<Attributes>, IpAddr) {
    let mut have: Vec<Nlri> = vec![];
    loop {
        if let Event::Update { attributes, next_hop, reach, unreach, .. } = next(events).await {
            have.retain(|n| !unreach.iter().any(|u| u.key == n.key()) && !reach.iter().any(|r| r.nlri.key() == n.key()));
            have.extend(reach.iter().map(|r| r.nlri));
            have.sort();
            let names: Vec<String> = have.iter().map(|n| n.key().to_string()).collect();
            if names == wanted {
                return (have, attributes, next_hop);
            }
        }
    }
}

pub async fn lose(events: &mut Receiver<Event>) -> Vec<NlriKey> {
    loop {
        match next(events).await {
            Event::Update { unreach, .. } if !unreach.is_empty() => return unreach.iter().map(|u| u.key).collect(),
            _ => {}
        }
    }
}

pub async fn down(events: &mut Receiver<Event>) -> (String, bool) {
    loop {
        if let Event::Down { reason, graceful, .. } = next(events).await {
            return (reason, graceful.is_some());
        }
    }
}

pub fn speaker(asn: u32, peer: PeerConfig) -> (Speaker, Receiver<Event>) {
    let listen = vec![SocketAddr::from((WE, 179)), SocketAddr::from((WE6, 179))];
    let (speaker, events) = Speaker::start(SpeakerConfig { local_as: asn, router_id: WE, listen });
    speaker.set_peer(peer);
    (speaker, events)
}

pub async fn end_of_rib(events: &mut Receiver<Event>, wanted: edgeplex_bgp_wire::Family) {
    loop {
        if matches!(next(events).await, Event::EndOfRib { family, .. } if family == wanted) {
            return;
        }
    }
}
