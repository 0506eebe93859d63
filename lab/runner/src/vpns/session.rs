//! What happens to a customer's sessions and watched routes, as the CE and the far side see it.

use super::world::{CONVERGE, World};
use crate::{
    scenarios::{Capture, Evidence, tshark},
    wait,
};
use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{fs, time::Instant};

/// Daemons of a node held still: they say nothing more, and their sockets stay open. They go on when this ends.
pub(super) struct Silence(Vec<Pid>);

impl Silence {
    pub(super) fn of(w: &World<'_>, node: &str, daemons: &[&str]) -> Result<Self> {
        let node = w.node(node)?;
        let pids: Vec<Pid> = daemons.iter().flat_map(|d| node.processes(d)).map(Pid::from_raw).collect();
        ensure!(pids.len() == daemons.len(), "{}: {} processes of {daemons:?}", node.name, pids.len());
        for pid in &pids {
            kill(*pid, Signal::SIGSTOP)?;
        }
        Ok(Self(pids))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// Waits until the reflector has a prefix or has not; gives milliseconds since `start`.
fn reflected(w: &World<'_>, prefix: &str, present: bool, start: Instant) -> Result<u128> {
    wait::until(&format!("the reflector {} {prefix}", if present { "has" } else { "has no" }), CONVERGE, || {
        let paths = w.reflected(prefix)?;
        Ok(if paths.is_empty() == present { Err(format!("{paths:?}")) } else { Ok(()) })
    })?;
    Ok(start.elapsed().as_millis())
}

/// While `daemons` of a CE are still, the prefix is gone; it comes back with them. Gives the milliseconds of both.
fn goes_and_comes(w: &World<'_>, ce: &str, daemons: &[&str], prefix: &str) -> Result<(u128, u128)> {
    ensure!(!w.reflected(prefix)?.is_empty(), "the reflector has no {prefix} beforehand");
    let start = Instant::now();
    let silence = Silence::of(w, ce, daemons)?;
    let gone = reflected(w, prefix, false, start)?;
    let start = Instant::now();
    drop(silence);
    Ok((gone, reflected(w, prefix, true, start)?))
}

pub(super) fn watched_static(w: &World<'_>) -> Result<Evidence> {
    w.ping_all("stat-far", "172.16.60.10", &[])?;
    let (gone, back) = goes_and_comes(w, "stat", &["bfdd"], "172.16.60.0/24")?;
    ensure!(gone < 5_000, "gone after {gone} ms, detection is 300 ms");
    w.wait_ping("stat-far", "172.16.60.10")?;
    Ok(Evidence::new(format!("bfdd of the CE held: gone at the reflector after {gone} ms; let go: back after {back} ms, pings answered"))
        .figure("gone_ms", gone)
        .figure("back_ms", back))
}

/// bgpd and bfdd of the CE fall silent, its TCP connection stays: hold time is 90 s, BFD's detection 300 ms.
pub(super) fn silent(w: &World<'_>) -> Result<Evidence> {
    let (gone, back) = goes_and_comes(w, "feat-frr", &["bgpd", "bfdd"], "10.80.1.0/24")?;
    ensure!(gone < 5_000, "gone after {gone} ms, detection is 300 ms");
    w.wait_route("feat-bird", "10.80.1.0/24", true)?;
    Ok(Evidence::new(format!("CE silent, link up: gone at the reflector after {gone} ms (hold time 90 s); back after {back} ms"))
        .figure("gone_ms", gone)
        .figure("back_ms", back))
}

fn established(w: &World<'_>) -> Result<(bool, Value)> {
    let neighbor = w.vtysh("feat-frr", "show bgp neighbors 192.168.80.1 json")?;
    let neighbor = neighbor.get("192.168.80.1").cloned().context("feat-frr's neighbour")?;
    Ok((neighbor.get("bgpState").and_then(Value::as_str) == Some("Established"), neighbor))
}

/// The NOC takes a session down with a reason; FRR at the CE writes it into its log (RFC 9003).
pub(super) fn shutdown(w: &World<'_>) -> Result<Evidence> {
    const WORDS: &str = "fibre works until noon";
    w.apply_edited("denver", "        role: provider\n", &format!("        role: provider\n        shutdown: {WORDS}\n"))?;
    let log = w.node("feat-frr")?.log("bgpd");
    let told = wait::until("the CE's log has the reason", CONVERGE, || {
        let text = fs::read_to_string(&log)?;
        Ok(text.lines().find(|l| l.contains(WORDS)).map(str::to_owned).ok_or_else(|| "not in its log".to_owned()))
    });
    let down = established(w)?;
    w.apply_again("denver")?;
    told?;
    ensure!(!down.0, "the session is up in spite of the shutdown");
    w.wait_route("feat-bird", "10.80.1.0/24", true)?;
    Ok(Evidence::new(format!("FRR's log: {WORDS}; session back with the intent")))
}

/// Six prefixes where four are the limit: a warning, and everything stays.
pub(super) fn warning_only(w: &World<'_>) -> Result<Evidence> {
    let (up, neighbor) = established(w)?;
    let sent = neighbor.pointer("/addressFamilyInfo/ipv4Unicast/sentPrefixCounter").cloned().unwrap_or_default();
    ensure!(up && sent.as_u64().is_some_and(|s| s > 4), "FRR: established {up}, {sent} prefixes sent");
    let dir = w.node("denver")?.dir.join("edgeplex/vms/pvm-feat-main-g1/log");
    let mut warning = None;
    for entry in fs::read_dir(&dir)? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        warning = warning.or_else(|| text.lines().find(|l| l.contains("WARN") && l.contains("the limit is 4")).map(str::to_owned));
    }
    let warning = warning.context("the PVM's log has no warning")?;
    Ok(Evidence::new(format!(
        "FRR sends {sent}, the limit is 4, the session stays; logged: {}",
        warning.split("WARN").last().unwrap_or_default().trim()
    )))
}

/// BIRD's `ttl security` takes nothing of ours below TTL 255. And we read nothing below it: rubbish sent with 254 goes without the
/// NOTIFICATION that the same earns with 255.
pub(super) fn gtsm(w: &World<'_>) -> Result<Evidence> {
    let file = w.out.join("gtsm.pcap");
    let capture = Capture::start(w.node("feat-bird")?, "eth1", "tcp port 179", &file)?;
    w.birdc("feat-bird", "disable edgeplex")?;
    let (from_afar, from_near) = (knock(w, 254), knock(w, 255));
    w.birdc("feat-bird", "enable edgeplex")?;
    let (from_afar, from_near) = (from_afar?, from_near?);
    w.wait_route("feat-bird", "10.80.1.0/24", true)?;
    let ttls = tshark(&capture.finish()?, &["ip.src", "ip.ttl"])?;
    let ours: Vec<&str> = ttls.iter().filter(|r| r[0] == "192.168.81.1").map(|r| r[1].as_str()).collect();
    ensure!(!ours.is_empty() && ours.iter().all(|t| *t == "255"), "TTLs of ours: {ours:?}");
    ensure!(!from_afar.contains('3') && from_near.contains('3'), "messages after rubbish with TTL 254: {from_afar}, with 255: {from_near}");
    Ok(Evidence::new(format!(
        "{} segments of ours, all with TTL 255, as BIRD demands; rubbish with TTL 254 is not read, with 255 it is",
        ours.len()
    )))
}

/// Sends rubbish to port 179 with a TTL; gives the types of the BGP messages that come back.
fn knock(w: &World<'_>, ttl: u8) -> Result<String> {
    const SCRIPT: &str = "import socket, sys
s = socket.socket()
s.settimeout(1)
got = b''
try:
    s.connect(('192.168.81.1', 179))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(sys.argv[1]))
    s.send(bytes(19))
    while more := s.recv(4096): got += more
except OSError: pass
while len(got) > 18:
    print(got[18], end=' ')
    got = got[max(19, got[16] << 8 | got[17]):]";
    w.node("feat-bird")?.run(&["python3", "-c", SCRIPT, &ttl.to_string()])
}
