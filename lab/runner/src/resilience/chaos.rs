//! `lab/chaos`: one trouble after the other for as long as asked, chosen by a seed, while customers' routers and hosts look on. After
//! each, all must be whole and protected again before the next one comes; a failing seed can be run again.

use super::{
    Options,
    cases::ACME,
    chance::Chance,
    faults::{self, Fault},
    judge::{Seat, Sitting},
    ready,
    world::{CONVERGE, HOST, PE, World},
};
use crate::{
    complain,
    lab::{Lab, down},
    leftovers, say,
    state::{self, LabDir},
    streams::{Direction, Streams, now},
    wait,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

const PPS: u32 = 1000;
const CUSTOMERS: [&str; 2] = ["acme", "beta"];

/// Runs for `seconds`; true if nobody noticed anything beyond its bound.
pub fn run(options: &Options, seconds: u64) -> Result<bool> {
    std::fs::create_dir_all(&options.out)?;
    let name = options.name.clone().unwrap_or_else(|| "resilience".into());
    let lab = Lab::up(&options.topology, Some(&name))?;
    let world = World::new(&lab, options.out.clone());
    let outcome = strike(&world, options, seconds);
    drop(world);
    let mut left = vec![];
    if !options.keep {
        down(&LabDir::of(&name)?)?;
        left = leftovers::of(&name, &[super::PLATFORMS[0], super::PLATFORMS[1], HOST]);
    }
    let only = options.only.as_ref().map(|only| format!(" --only '{only}'")).unwrap_or_default();
    let again = format!("lab/chaos --seconds {seconds} --seed {}{only}", options.seed);
    let (n, mut broken) = outcome?;
    broken.extend(left.iter().map(|what| format!("left behind: {what}")));
    broken.iter().for_each(|why| complain!("{why}"));
    match &broken[..] {
        [] => say!("{n} troubles, and nobody noticed more than was promised; again with: {again}"),
        _ => say!("{n} troubles, {} not as promised; again with: {again}", broken.len()),
    }
    Ok(broken.is_empty())
}

/// What must be as it was when all is over.
#[derive(Debug, PartialEq)]
struct Inventory {
    labels: Vec<Value>,
    vms: usize,
    /// Of both hosts together: OpenFlow rules, interfaces, cgroups of VMs, first processes of VMs.
    rules: usize,
    interfaces: usize,
    cgroups: usize,
    processes: usize,
}

fn inventory(world: &World<'_>) -> Result<Inventory> {
    let labels = world.edgeplex_json(&["show", "labels"])?;
    let labels = labels.as_array().into_iter().flatten().map(|r| serde_json::json!([r["attachment"], r["label"], r["state"]])).collect();
    let vms = world.edgeplex_json(&["show", "instances"])?.as_array().map_or(0, Vec::len);
    let mut all = Inventory { labels, vms, rules: 0, interfaces: 0, cgroups: 0, processes: 0 };
    for host in [PE, HOST] {
        let node = world.node(host)?;
        all.rules += node.run(&["ovs-ofctl", "-O", "OpenFlow13", "dump-flows", "fabric"])?.lines().count();
        all.interfaces += node.run(&["ip", "-o", "link"])?.lines().count();
        let groups = state::edgeplexd_cgroups(&format!("/run/pe/{}-{host}", world.lab.dir.name()));
        let within = groups.iter().filter_map(|g| std::fs::read_dir(g).ok()).flatten().flatten();
        all.cgroups += within.filter(|e| e.path().is_dir()).count();
        all.processes += node.processes("edgeplex-init").len();
    }
    Ok(all)
}

/// Trouble after trouble; gives how many there were, and what was not as promised.
fn strike(world: &World<'_>, options: &Options, seconds: u64) -> Result<(usize, Vec<String>)> {
    let wanted = |f: &&Fault| options.only.as_ref().map_or(!f.name.starts_with(faults::LAST), |o| f.name.contains(o.as_str()));
    let possible: Vec<&Fault> = faults::ALL.iter().filter(wanted).collect();
    ensure!(!possible.is_empty(), "no trouble has that in its name");
    let _servers = ready(world)?;
    world.start_churn()?;
    world.wait_all_protected()?;
    let (before, home) = (inventory(world)?, world.instance(ACME, "active")?.host);
    let mut sitting = Sitting::open(world.lab, Seat::all(), CONVERGE)?;
    let (mut chance, started) = (Chance::new(options.seed), Instant::now());
    let (mut n, mut sent, mut broken) = (0, [0, 0], vec![]);
    while started.elapsed() < Duration::from_secs(seconds) {
        let fault = chance.pick(&possible).context("no trouble")?;
        n += 1;
        let (at, host) = (Instant::now(), world.instance(ACME, "active")?.host);
        // Of its own: what one trouble draws does not depend on how the one before it ended.
        let mut details = Chance::new(chance.below(u64::MAX));
        let cost = one(world, fault, &mut details, &sitting);
        let seconds = at.elapsed().as_secs_f64();
        match cost {
            Ok(cost) => {
                // acme's come first.
                sent.iter_mut().zip(&cost).for_each(|(sum, d)| *sum += d.sent);
                let lost: usize = cost.iter().map(|d| d.lost.len()).sum();
                say!("{n:4} {:<42} acme on {host:<9} {lost:4} lost, {seconds:.1} s", fault.name);
            }
            Err(e) => {
                let why = format!("{n:4} {:<42} acme on {host:<9} NOT AS PROMISED after {seconds:.1} s: {e:#}", fault.name);
                say!("{why}");
                broken.push(why);
                // The next one needs a platform that is whole.
                let whole = || -> Result<Sitting> {
                    world.wait_all_protected()?;
                    CUSTOMERS.iter().try_for_each(|c| world.wait_datagrams(c))?;
                    Sitting::open(world.lab, Seat::all(), CONVERGE)
                };
                match whole() {
                    Ok(anew) => sitting = anew,
                    Err(e) => {
                        broken.push(format!("and it did not recover: {e:#}"));
                        return Ok((n, broken));
                    }
                }
            }
        }
    }
    let at_the_end = || -> Result<()> {
        if world.instance(ACME, "active")?.host != home {
            world.edgeplex(&["migrate", "acme", "--to", &home])?;
            world.wait_all_protected()?;
        }
        let same = || -> Result<Result<(), String>> {
            let after = inventory(world)?;
            Ok(if after == before { Ok(()) } else { Err(format!("{before:?} is {after:?} now")) })
        };
        wait::until("labels, VMs, rules and interfaces are as they were", CONVERGE, same)?;
        // What was sent during a trouble that was not as promised is not known.
        if broken.is_empty() { billed(world, sent, n as u64) } else { Ok(()) }
    };
    if let Err(e) = at_the_end() {
        broken.push(format!("at the end: {e:#}"));
    }
    Ok((n, broken))
}

fn one(world: &World<'_>, fault: &Fault, chance: &mut Chance, sitting: &Sitting) -> Result<Vec<Direction>> {
    let streams = CUSTOMERS.iter().map(|c| world.streams(c, PPS)).collect::<Result<Vec<Streams>>>()?;
    let at = now();
    (fault.strike)(world, chance)?;
    world.wait_all_protected()?;
    CUSTOMERS.iter().try_for_each(|c| world.wait_datagrams(c))?;
    CUSTOMERS.iter().try_for_each(|c| world.calm(c))?;
    let mut directions = vec![];
    for stream in streams {
        directions.extend(stream.stop()?);
    }
    sitting.insist(world.lab)?;
    let wrong = world.wrong_routes()?;
    ensure!(wrong == 0, "{wrong} routes are lost or left over at customers' routers");
    let most = u64::try_from(fault.bound.as_millis())? * u64::from(PPS) / 1000;
    for d in &directions {
        // Those that are not acme have nothing to do with it.
        let most = if d.name.starts_with("acme") { most } else { 0 };
        if d.lost.len() as u64 > most || d.duplicates > 0 {
            let gap = d.gap_within(at, u64::MAX).as_millis();
            bail!(
                "{}: {} of {} lost, {} twice, {gap} ms of silence: at most {most} may be lost",
                d.name,
                d.lost.len(),
                d.sent,
                d.duplicates
            );
        }
    }
    Ok(directions)
}

/// acme is billed for what its hosts sent, in either direction: once.
fn billed(world: &World<'_>, sent: [u64; 2], troubles: u64) -> Result<()> {
    let rows = world.edgeplex_json(&["show", "counters", "acme"])?;
    for (what, sent) in ["from_customer", "to_customer"].into_iter().zip(sent) {
        let billed = rows.pointer(&format!("/0/{what}/packets")).and_then(Value::as_u64).context("no counters")?;
        // Beside the streams: datagrams that ask whether all is calm, their answers, BGP. A forwarder that dies takes its last second along.
        let (least, most) = (sent.saturating_sub(troubles * u64::from(PPS) * 3 / 2), sent + sent / 3 + troubles * 1000 + 2000);
        ensure!((least..=most).contains(&billed), "{what}: {billed} packets are billed, the streams had {sent}");
    }
    Ok(())
}
