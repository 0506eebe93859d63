//! `lab/chaos`: one trouble after the other for as long as asked, chosen by a seed, while customers' routers and hosts look on. After
//! each, all must be whole and protected again before the next one comes; a failing seed can be run again.

use super::{
    Options,
    chance::Chance,
    churn::Churn,
    faults::{self, Fault},
    judge::Sitting,
    ready,
    world::{CONVERGE, PE, World},
};
use crate::{
    complain,
    lab::{Lab, down},
    leftovers, say,
    state::LabDir,
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
    let world = World { lab: &lab, out: options.out.clone() };
    let outcome = strike(&world, options, seconds);
    if !options.keep {
        down(&LabDir::of(&name)?)?;
        let found = leftovers::of(&name, &[super::PLATFORMS[0], super::PLATFORMS[1], super::world::HOST]);
        ensure!(found.is_empty(), "left behind: {}", found.join(", "));
    }
    let again = format!("lab/chaos --seconds {seconds} --seed {}", options.seed);
    match outcome {
        Ok(n) => {
            say!("{n} troubles, and nobody noticed more than was promised; again with: {again}");
            Ok(true)
        }
        Err(e) => {
            complain!("{e:#}");
            say!("not as promised; again with: {again}");
            Ok(false)
        }
    }
}

/// What must be as it was when all is over.
#[derive(Debug, PartialEq)]
struct Inventory {
    labels: Vec<Value>,
    vms: usize,
    rules: usize,
}

fn inventory(world: &World<'_>) -> Result<Inventory> {
    let labels = world.edgeplex_json(&["show", "labels"])?;
    let labels = labels.as_array().into_iter().flatten().map(|r| serde_json::json!([r["attachment"], r["label"], r["state"]])).collect();
    let vms = world.edgeplex_json(&["show", "instances"])?.as_array().map_or(0, Vec::len);
    let rules = world.node(PE)?.run(&["ovs-ofctl", "-O", "OpenFlow13", "dump-flows", "fabric"])?.lines().count();
    Ok(Inventory { labels, vms, rules })
}

fn strike(world: &World<'_>, options: &Options, seconds: u64) -> Result<usize> {
    let _servers = ready(world)?;
    let _churn = Churn::start(world)?;
    protected(world)?;
    let before = inventory(world)?;
    let sitting = Sitting::open(world, CONVERGE)?;
    let (mut chance, started) = (Chance::new(options.seed), Instant::now());
    let (mut n, mut sent) = (0, [0, 0]);
    while started.elapsed() < Duration::from_secs(seconds) {
        let possible: Vec<&Fault> =
            faults::ALL.iter().filter(|f| options.only.as_ref().is_none_or(|o| f.name.contains(o.as_str()))).collect();
        let fault = chance.pick(&possible).context("no trouble has that in its name")?;
        n += 1;
        let at = Instant::now();
        let cost = one(world, fault, &mut chance, &sitting).with_context(|| format!("trouble {n}, {}", fault.name))?;
        // acme's come first.
        sent.iter_mut().zip(&cost).for_each(|(sum, d)| *sum += d.sent);
        let lost: usize = cost.iter().map(|d| d.lost.len()).sum();
        say!("{n:4} {:<42} {lost:4} lost, {:.1} s", fault.name, at.elapsed().as_secs_f64());
    }
    sitting.insist(world)?;
    let same = || -> Result<Result<(), String>> {
        let after = inventory(world)?;
        Ok(if after == before { Ok(()) } else { Err(format!("{before:?} is {after:?} now")) })
    };
    wait::until("labels, VMs and rules are as they were", CONVERGE, same)?;
    billed(world, sent, n as u64)?;
    Ok(n)
}

fn protected(world: &World<'_>) -> Result<()> {
    ["acme/denver-1", "beta/denver-1", "gamma/denver-1", "cvm"].iter().try_for_each(|owner| world.wait_protected(owner).map(drop))
}

fn one(world: &World<'_>, fault: &Fault, chance: &mut Chance, sitting: &Sitting) -> Result<Vec<Direction>> {
    let streams = CUSTOMERS.iter().map(|c| world.streams(c, PPS)).collect::<Result<Vec<Streams>>>()?;
    let at = now();
    (fault.strike)(world, chance)?;
    protected(world)?;
    CUSTOMERS.iter().try_for_each(|c| world.wait_datagrams(c))?;
    CUSTOMERS.iter().try_for_each(|c| world.calm(c))?;
    let mut directions = vec![];
    for stream in streams {
        directions.extend(stream.stop()?);
    }
    sitting.insist(world)?;
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
