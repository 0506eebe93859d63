//! Two network namespaces joined by a veth pair: we in one, another people's daemons in the other. Needs root.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const WE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The same two in IPv6.
pub(crate) const WE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// All of it goes with the value.
pub(crate) struct Wire {
    pub(crate) ours: String,
    pub(crate) theirs: String,
    pub(crate) dir: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Wire {
    /// `v0` on both ends, 10.0.0.1 (2001:db8::1) ours and 10.0.0.2 (2001:db8::2) theirs.
    pub(crate) fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = (format!("epw{}-{n}a", std::process::id()), format!("epw{}-{n}b", std::process::id()));
        let wire = Self { ours, theirs, dir: tempfile::tempdir().unwrap(), daemons: vec![] };
        let (a, b) = (&wire.ours, &wire.theirs);
        sh(&format!(
            "ip netns add {a} && ip netns add {b} && ip link add v0 netns {a} type veth peer name v0 netns {b} &&
             ip -n {a} addr add {WE}/24 dev v0 && ip -n {b} addr add {PEER}/24 dev v0 &&
             ip -n {a} addr add {WE6}/64 dev v0 nodad && ip -n {b} addr add {PEER6}/64 dev v0 nodad &&
             ip -n {a} link set v0 up && ip -n {b} link set v0 up && ip -n {a} link set lo up && ip -n {b} link set lo up"
        ));
        wire
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a program at the other end; it is killed with the wire.
    pub(crate) fn start(&mut self, command: &str) {
        // `ip netns exec` gives it a mount namespace of its own: what FRR leaves in /var/tmp goes with it.
        let line = format!("mount -t tmpfs tmpfs /var/tmp && exec {command}");
        let mut run = Command::new("ip");
        run.args(["netns", "exec", &self.theirs, "sh", "-c", &line]);
        self.daemons.push(run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Kills what was started, as a crash would.
    pub(crate) fn kill(&mut self) {
        for mut daemon in self.daemons.drain(..) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Runs `body` on a thread of its own in our namespace.
    pub(crate) fn run<F: Future<Output = ()>>(&self, body: impl FnOnce() -> F + Send) {
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
        self.kill();
        for namespace in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Asks until the answer is as wanted.
pub(crate) async fn until(what: &str, ask: impl Fn() -> String, wanted: impl Fn(&str) -> bool) {
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

pub(crate) fn ask(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}
