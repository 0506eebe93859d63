//! What chaos may do, and what each may cost.

use super::{
    cases::ACME,
    chance::Chance,
    world::{CONVERGE, HOST, LOCAL, PE, World},
};
use crate::{launch, process::Process, wait};
use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{thread, time::Duration};

/// One kind of trouble.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// For how long packets may be missing, at most; zero: none may be lost.
    pub(super) bound: Duration,
    pub(super) strike: fn(&World<'_>, &mut Chance) -> Result<()>,
}

const NONE: Duration = Duration::ZERO;
/// The forwarder itself is gone: what the promise of 50 ms is on a machine of which half is busy with judging.
const FORWARDER: Duration = Duration::from_millis(500);

pub(super) const ALL: &[Fault] = &[
    Fault { name: "kill -9 pvmd", bound: NONE, strike: |w, _| end(w, ACME, "pvmd") },
    Fault { name: "kill -9 FastForward", bound: FORWARDER, strike: |w, _| end(w, ACME, "fastforward") },
    Fault { name: "kill -9 the PVM", bound: FORWARDER, strike: |w, _| end_vm(w, ACME, "pvmd") },
    Fault { name: "kill -9 the standby PVM", bound: NONE, strike: |w, _| end_standby(w, ACME, "pvmd") },
    Fault { name: "kill -9 cvmd", bound: NONE, strike: |w, _| end(w, "cvm", "cvmd") },
    Fault { name: "kill -9 the CVM", bound: NONE, strike: |w, _| end_vm(w, "cvm", "cvmd") },
    Fault { name: "kill -9 the standby CVM", bound: NONE, strike: |w, _| end_standby(w, "cvm", "cvmd") },
    Fault { name: "kill -9 edgeplexd", bound: NONE, strike: |w, _| controller(w) },
    Fault { name: "kill -9 the agent", bound: NONE, strike: |w, _| agent(w) },
    Fault { name: "pvmd stands still", bound: NONE, strike: |w, c| pause(w, ACME, "pvmd", c) },
    Fault { name: "cvmd stands still", bound: NONE, strike: |w, c| pause(w, "cvm", "cvmd", c) },
    Fault { name: "the standby stands still", bound: NONE, strike: |w, c| pause_standby(w, c) },
    Fault { name: "the link to the other host is cut", bound: Duration::from_secs(5), strike: |w, c| cut(w, "eth3", c) },
    Fault { name: "the controller's way to the agent is cut", bound: FORWARDER, strike: |w, c| cut(w, "mgmt0", c) },
    Fault { name: "the journal's disk is full", bound: NONE, strike: |w, c| full(w, c) },
    Fault { name: "acme's router stands still", bound: NONE, strike: |w, c| slow_peer(w, c) },
    Fault { name: "acme moves", bound: NONE, strike: |w, _| migrate(w) },
    Fault { name: "the other host is drained", bound: NONE, strike: |w, _| drain(w) },
];

fn end(world: &World<'_>, owner: &str, program: &str) -> Result<()> {
    world.process(&world.instance(owner, "active")?, program)?.kill();
    Ok(())
}

fn end_vm(world: &World<'_>, owner: &str, program: &str) -> Result<()> {
    world.first_process(&world.instance(owner, "active")?, program)?.kill();
    Ok(())
}

fn end_standby(world: &World<'_>, owner: &str, program: &str) -> Result<()> {
    world.first_process(&world.instance(owner, "standby")?, program)?.kill();
    Ok(())
}

fn all_of(world: &World<'_>, node: &str, program: &str) -> Result<Vec<Process>> {
    Ok(world.node(node)?.processes(program).into_iter().filter_map(Process::find).collect())
}

fn kill_all(world: &World<'_>, node: &str, program: &str) -> Result<()> {
    let old = all_of(world, node, program)?;
    old.iter().for_each(|p| p.kill());
    wait::until_true(&format!("{program} ends"), CONVERGE, || Ok(!old.iter().any(|p| p.alive())))
}

fn controller(world: &World<'_>) -> Result<()> {
    kill_all(world, PE, "edgeplexd")?;
    launch::edgeplexd(world.node(PE)?)
}

fn agent(world: &World<'_>) -> Result<()> {
    // The kernel's name of a process has 15 characters.
    kill_all(world, HOST, "edgeplex-agent")?;
    world.start_agent()
}

/// Continues when the value goes, whatever happens meanwhile.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Process) -> Result<Self> {
        let pid = Pid::from_raw(process.pid);
        kill(pid, Signal::SIGSTOP).context("SIGSTOP")?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been ended meanwhile: then it needs nothing.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// 100 ms to 2.5 s.
fn a_while(chance: &mut Chance) {
    thread::sleep(Duration::from_millis(100 + chance.below(2400)));
}

fn pause(world: &World<'_>, owner: &str, program: &str, chance: &mut Chance) -> Result<()> {
    let _stopped = Stopped::new(world.process(&world.instance(owner, "active")?, program)?)?;
    a_while(chance);
    Ok(())
}

fn pause_standby(world: &World<'_>, chance: &mut Chance) -> Result<()> {
    let _stopped = Stopped::new(world.process(&world.instance(ACME, "standby")?, "pvmd")?)?;
    a_while(chance);
    Ok(())
}

/// What the node would send there is dropped, and what comes from there.
fn cut(world: &World<'_>, interface: &str, chance: &mut Chance) -> Result<()> {
    let node = world.node(PE)?;
    node.shell(&format!(
        "nft 'add table netdev cut; add chain netdev cut out {{ type filter hook egress device {interface} priority 0; policy drop; }}; \
         add chain netdev cut in {{ type filter hook ingress device {interface} priority 0; policy drop; }}'"
    ))?;
    a_while(chance);
    node.run(&["nft", "delete", "table", "netdev", "cut"]).map(drop)
}

fn full(world: &World<'_>, chance: &mut Chance) -> Result<()> {
    let daemon = world.process(&world.instance(ACME, "active")?, "pvmd")?;
    let fill = format!("/proc/{}/root/run/journal/fill", daemon.pid);
    // Until there is no room any more.
    let written = std::fs::File::create(&fill).and_then(|mut f| std::io::copy(&mut std::io::repeat(0), &mut f));
    a_while(chance);
    std::fs::remove_file(&fill).context("the filling")?;
    match written {
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull => Ok(()),
        other => other.map(drop).context("filling the journal's disk"),
    }
}

fn slow_peer(world: &World<'_>, chance: &mut Chance) -> Result<()> {
    let router = *all_of(world, "acme-denver", "bgpd")?.first().context("acme's router runs no bgpd")?;
    let _stopped = Stopped::new(router)?;
    a_while(chance);
    Ok(())
}

fn migrate(world: &World<'_>) -> Result<()> {
    let to = if world.instance(ACME, "active")?.host == LOCAL { HOST } else { LOCAL };
    world.edgeplex(&["migrate", "acme", "--to", to]).map(drop)
}

fn drain(world: &World<'_>) -> Result<()> {
    world.edgeplex(&["drain", HOST])?;
    let left = wait::until("nobody is active on the drained host", CONVERGE, || {
        let rows = world.edgeplex_json(&["show", "instances"])?;
        let there = |r: &&serde_json::Value| r["host"] == HOST;
        let n = rows.as_array().into_iter().flatten().filter(there).count();
        Ok(if n == 0 { Ok(()) } else { Err(format!("{n} instances")) })
    });
    world.edgeplex(&["undrain", HOST])?;
    left
}
