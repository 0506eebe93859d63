//! What chaos may do, and what each may cost.

use super::{
    cases::ACME,
    chance::Chance,
    world::{CONVERGE, HOST, LOCAL, PE, World},
};
use crate::{
    launch,
    process::{self, Process},
    wait,
};
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
/// The forwarder stands still, or its only way is cut, for at most [`LONGEST`].
const STANDSTILL: Duration = Duration::from_secs(3);
/// A host is gone: its silence must first be told from a delay.
const HOST_GONE: Duration = Duration::from_secs(5);
/// After it nobody is protected any more until a session ends: drawn only if its name is asked for.
pub(super) const LAST: &str = "the journal has a hole: ";
/// The longest of those troubles that last, ms.
const LONGEST: u64 = 2500;

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
    Fault { name: "edgeplexd stands still", bound: NONE, strike: |w, c| pause_all(w, PE, "edgeplexd", c) },
    Fault { name: "the agent stands still", bound: FORWARDER, strike: |w, c| pause_all(w, HOST, "edgeplex-agent", c) },
    Fault { name: "the whole PVM stands still", bound: STANDSTILL, strike: |w, c| freeze(w, ACME, "pvmd", c) },
    Fault { name: "the whole CVM stands still", bound: NONE, strike: |w, c| freeze(w, "cvm", "cvmd", c) },
    Fault { name: "everything on the other host dies", bound: HOST_GONE, strike: |w, _| other_host(w) },
    Fault { name: "the link to the other host is cut", bound: STANDSTILL, strike: |w, c| cut(w, "eth3", c) },
    Fault { name: "the controller's way to the agent is cut", bound: FORWARDER, strike: |w, c| cut(w, "mgmt0", c) },
    Fault { name: "the journal has a hole: PVM's disk full", bound: NONE, strike: |w, c| full(w, ACME, "active", "pvmd", c) },
    Fault { name: "the standby's journal's disk is full", bound: NONE, strike: |w, c| full(w, ACME, "standby", "pvmd", c) },
    Fault { name: "the journal has a hole: CVM's disk full", bound: NONE, strike: |w, c| full(w, "cvm", "active", "cvmd", c) },
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

/// From 100 ms to [`LONGEST`].
fn a_while(chance: &mut Chance) {
    thread::sleep(Duration::from_millis(100 + chance.below(LONGEST - 100)));
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

fn pause_all(world: &World<'_>, node: &str, program: &str, chance: &mut Chance) -> Result<()> {
    let _stopped = all_of(world, node, program)?.into_iter().map(Stopped::new).collect::<Result<Vec<_>>>()?;
    a_while(chance);
    Ok(())
}

/// Everything in a VM stands still at once. When it goes on, all its clocks have jumped, between one instruction and the next.
fn freeze(world: &World<'_>, owner: &str, program: &str, chance: &mut Chance) -> Result<()> {
    let first = world.first_process(&world.instance(owner, "active")?, program)?;
    // The first process of a VM comes first, and starts nobody in the place of one that ends meanwhile.
    let _stopped: Vec<Stopped> =
        process::tree(first.pid).into_iter().filter_map(Process::find).filter_map(|p| Stopped::new(p).ok()).collect();
    a_while(chance);
    Ok(())
}

/// Its agent and all its VMs. The host itself, its switch and its links stay.
fn other_host(world: &World<'_>) -> Result<()> {
    for program in ["edgeplex-agent", "edgeplex-init"] {
        kill_all(world, HOST, program)?;
    }
    world.start_agent()
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

fn full(world: &World<'_>, owner: &str, place: &str, program: &str, chance: &mut Chance) -> Result<()> {
    let daemon = world.process(&world.instance(owner, place)?, program)?;
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
