//! What is done to the PE `denver`, and what each may cost: the rows "Never losing a session" of the project's targets.

use super::{
    chance::Chance,
    outcome::{Trials, trials},
    world::{CONVERGE, HOST, Instance, LOCAL, PE, World},
};
use crate::{
    bench::{Peer, Row, quantile},
    launch, wait,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    thread,
    time::{Duration, Instant},
};

const BENCH: &str = "resilience";
pub(super) const ACME: &str = "acme/denver-1";
const CVM: &str = "cvm";
/// Of the streams beside a hundred kills; those beside planned moves are asked for by `--pps`.
const SLOW: u32 = 1_000;
const TARGET: &str = "target";
/// Before a planned move.
const CALM: Duration = Duration::from_millis(300);

/// What ran, and its rows.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) trials: Trials,
    pub(super) rows: Vec<Row>,
}

fn row(case: &str, metric: &str, unit: &str, values: &[f64], peer: Peer) -> Row {
    Row::new(BENCH, case, metric, unit, values, peer)
}

/// Rows that every case has: how many trials went as promised, who noticed, what was lost, what came twice.
fn common(case: &str, t: &Trials, lost: Peer) -> Vec<Row> {
    #[expect(clippy::cast_precision_loss, reason = "counts of trials")]
    let (good, asked) = ((t.outcomes.len() - t.failed()) as f64, t.asked as f64);
    vec![
        row(case, "trials as promised", "trials", &[good], Peer::AtLeast(asked, "asked for")),
        row(case, "routers that noticed", "sessions", &t.noticed(), Peer::Never(0.0, TARGET)),
        row(case, "routes lost or left over", "routes", &t.wrong_routes(), Peer::Never(0.0, TARGET)),
        row(case, "packets lost", "packets a trial", &t.lost(), lost),
        row(case, "packets twice", "packets in all", &t.duplicates(), Peer::Never(0.0, TARGET)),
        row(case, "longest silence", "ms", &t.gaps(), Peer::Nobody),
    ]
}

/// The figure of that name anywhere in an answer.
fn figure(answer: &Value, name: &str) -> Option<f64> {
    match answer {
        Value::Object(o) => o.get(name).and_then(Value::as_f64).or_else(|| o.values().find_map(|v| figure(v, name))),
        Value::Array(a) => a.iter().find_map(|v| figure(v, name)),
        _ => None,
    }
}

/// To and fro between the hosts, while the session carries 200 updates a second.
pub(super) fn planned_move(world: &World<'_>, n: usize, pps: u32) -> Result<Case> {
    let case = "planned move between hosts";
    world.wait_protected(ACME)?;
    let mut commands = vec![];
    let trials = trials(world, case, n, ("acme", pps), |_, moment| {
        let to = if world.instance(ACME, "active")?.host == LOCAL { HOST } else { LOCAL };
        // What the packets before the move are compared with: such a time in which nothing happens.
        thread::sleep(CALM);
        moment.is_now();
        let started = Instant::now();
        let said = world.edgeplex_json(&["migrate", "acme", "--to", to])?;
        commands.push(started.elapsed().as_secs_f64() * 1e3);
        let now = world.instance(ACME, "active")?;
        ensure!(now.host == to, "acme is on {}, not on {to}", now.host);
        world.wait_protected(ACME)?;
        Ok(Some(figure(&said, "took_ms").context("the command does not say how long it took")?))
    })?;
    let mut rows = common(case, &trials, Peer::Never(0.0, TARGET));
    let says: Vec<f64> = trials.outcomes.iter().filter_map(|o| o.says_ms).collect();
    rows.push(row(case, "extra delay of the slowest packet", "ms", &trials.extra_delays(), Peer::AtMost(1.0, TARGET)));
    rows.push(row(case, "command to done", "ms", &says, Peer::AtMost(50.0, TARGET)));
    rows.push(row(case, "start to end of the command line", "ms", &commands, Peer::Nobody));
    Ok(Case { trials, rows })
}

/// `kill -9` of one program of acme's PVM at random moments; it is to be there again, its session the same.
fn kill_within(world: &World<'_>, case: &str, n: usize, program: &str, chance: &mut Chance) -> Result<Trials> {
    world.wait_protected(ACME)?;
    trials(world, case, n, ("acme", SLOW), |_, moment| {
        thread::sleep(Duration::from_millis(chance.below(300)));
        let before = world.instance(ACME, "active")?;
        let victim = world.process(&before, program)?;
        moment.is_now();
        victim.kill();
        wait::until_true(&format!("a working {program} of acme"), CONVERGE, || {
            let now = world.instance(ACME, "active")?;
            let fresh = world.process(&now, program).is_ok_and(|p| p != victim && p.alive());
            Ok(fresh && speaks(world, &now))
        })?;
        Ok(None)
    })
}

/// Its daemon answers as active, and its customer's sessions are up.
fn speaks(world: &World<'_>, instance: &Instance) -> bool {
    let up = |rows: Value| rows.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(|r| r["state"] == "established"));
    instance.is_speaking() && world.edgeplex_json(&["show", "bgp", "acme/denver-1"]).is_ok_and(up)
}

pub(super) fn kill_pvmd(world: &World<'_>, n: usize, chance: &mut Chance) -> Result<Case> {
    let case = "kill -9 pvmd";
    let trials = kill_within(world, case, n, "pvmd", chance)?;
    let mut rows = common(case, &trials, Peer::Never(0.0, TARGET));
    rows.push(row(case, "back and whole", "ms", &trials.values(|o| o.took_ms), Peer::Nobody));
    Ok(Case { trials, rows })
}

pub(super) fn kill_forwarder(world: &World<'_>, n: usize, chance: &mut Chance) -> Result<Case> {
    let case = "kill -9 FastForward";
    let trials = kill_within(world, case, n, "fastforward", chance)?;
    let mut rows = common(case, &trials, Peer::Nobody);
    rows.push(row(case, "traffic gap", "ms", &trials.gaps(), Peer::AtMost(50.0, TARGET)));
    Ok(Case { trials, rows })
}

pub(super) fn kill_pvm(world: &World<'_>, n: usize, chance: &mut Chance) -> Result<Case> {
    let case = "kill -9 the whole PVM";
    world.wait_protected(ACME)?;
    let trials = trials(world, case, n, ("acme", SLOW), |_, moment| {
        thread::sleep(Duration::from_millis(chance.below(300)));
        let before = world.instance(ACME, "active")?;
        let victim = world.first_process(&before, "pvmd")?;
        moment.is_now();
        victim.kill();
        wait::until_true("another instance serves acme", CONVERGE, || {
            Ok(world.instance(ACME, "active").is_ok_and(|i| i.vm != before.vm && speaks(world, &i)))
        })?;
        world.wait_protected(ACME)?;
        Ok(None)
    })?;
    let mut rows = common(case, &trials, Peer::Nobody);
    rows.push(row(case, "traffic gap", "ms", &trials.gaps(), Peer::AtMost(50.0, TARGET)));
    Ok(Case { trials, rows })
}

/// `kill -9` of the active CVM under 200 updates a second.
pub(super) fn kill_cvm(world: &World<'_>, n: usize, chance: &mut Chance) -> Result<Case> {
    let case = "kill -9 the active CVM";
    world.wait_protected(CVM)?;
    let labels = labels(world)?;
    let mut speaks = vec![];
    let trials = trials(world, case, n, ("acme", SLOW), |_, moment| {
        thread::sleep(Duration::from_millis(chance.below(300)));
        let before = world.instance(CVM, "active")?;
        let victim = world.first_process(&before, "cvmd")?;
        moment.is_now();
        victim.kill();
        wait::until_true("another CVM is active", CONVERGE, || Ok(world.instance(CVM, "active").is_ok_and(|i| i.vm != before.vm)))?;
        world.wait_protected(CVM)?;
        let now = self::labels(world)?;
        ensure!(now == labels, "labels were {labels} and are {now}");
        let said = world.edgeplex_json(&["show", "instances"])?;
        let row = said.as_array().into_iter().flatten().find(|r| r["unit"] == CVM && r["place"] == "active").cloned();
        let took = row.as_ref().and_then(|r| figure(r, "failover_ms"));
        speaks.extend(took);
        Ok(took)
    })?;
    let mut rows = common(case, &trials, Peer::Never(0.0, TARGET));
    rows.push(row(case, "from detection to speaking", "ms", &speaks, Peer::Nobody));
    rows.push(row(case, "from detection to speaking, p99", "ms", &[quantile(&speaks, 0.99)], Peer::AtMost(50.0, TARGET)));
    Ok(Case { trials, rows })
}

fn labels(world: &World<'_>) -> Result<Value> {
    let rows = world.edgeplex_json(&["show", "labels"])?;
    Ok(rows.as_array().into_iter().flatten().map(|r| serde_json::json!([r["attachment"], r["label"]])).collect())
}

/// cvmd alone: it comes back from its own journal.
pub(super) fn kill_cvmd(world: &World<'_>, n: usize, chance: &mut Chance) -> Result<Case> {
    let case = "kill -9 cvmd alone";
    world.wait_protected(CVM)?;
    let trials = trials(world, case, n, ("acme", SLOW), |_, moment| {
        thread::sleep(Duration::from_millis(chance.below(300)));
        let before = world.instance(CVM, "active")?;
        let victim = world.process(&before, "cvmd")?;
        moment.is_now();
        victim.kill();
        wait::until_true("cvmd is back", CONVERGE, || {
            let now = world.instance(CVM, "active")?;
            Ok(world.process(&now, "cvmd").is_ok_and(|p| p != victim) && world.edgeplex(&["show", "bgp"]).is_ok())
        })?;
        world.wait_protected(CVM)?;
        Ok(None)
    })?;
    let rows = common(case, &trials, Peer::Never(0.0, TARGET));
    Ok(Case { trials, rows })
}

/// Onto another version of the software and back, canary first: acme is the canary.
pub(super) fn upgrade(world: &World<'_>, n: usize, pps: u32) -> Result<Case> {
    let case = "upgrade and rollback";
    other_version(world, "next")?;
    world.wait_protected(ACME)?;
    let trials = trials(world, case, n, ("acme", pps), |trial, moment| {
        thread::sleep(CALM);
        moment.is_now();
        if trial % 2 == 0 {
            world.edgeplex(&["upgrade", "--to", "next", "--canary", "1", "--then", "100%", "--soak", "1"])?;
        } else {
            world.edgeplex(&["rollback"])?;
        }
        let wanted = if trial % 2 == 0 { Some("next") } else { None };
        wait::until("every instance is of that version", CONVERGE, || {
            let now = world.instance(ACME, "active")?;
            let image = now.image.as_deref().filter(|i| *i != "default");
            Ok(if image == wanted { Ok(()) } else { Err(format!("{now:?}")) })
        })?;
        world.wait_protected(ACME)?;
        Ok(None)
    })?;
    let mut rows = common(case, &trials, Peer::Never(0.0, TARGET));
    rows.push(row(case, "extra delay of the slowest packet", "ms", &trials.extra_delays(), Peer::AtMost(1.0, TARGET)));
    Ok(Case { trials, rows })
}

/// A copy of our programs that is another version as far as anybody can tell: other bytes, another hash.
fn other_version(world: &World<'_>, name: &str) -> Result<()> {
    let dir = world.out.join(name);
    std::fs::create_dir_all(&dir)?;
    let from = crate::node::bin_dir()?;
    for program in ["pvmd", "cvmd", "fastforward", "edgeplex-init"] {
        let mut bytes = std::fs::read(from.join(program)).with_context(|| format!("{program} is missing: build it first"))?;
        // Behind the last section of an ELF file nothing is read.
        bytes.extend_from_slice(name.as_bytes());
        let to = dir.join(program);
        std::fs::write(&to, bytes)?;
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let dir = dir.canonicalize()?.to_string_lossy().into_owned();
    world.edgeplex(&["image", "add", name, &dir]).map(drop)
}

/// A version whose pvmd does not even start: its canary fails, and everything is as before without anybody's help.
pub(super) fn bad_version(world: &World<'_>) -> Result<Case> {
    let case = "upgrade to a version that does not work";
    let dir = world.out.join("broken");
    other_version(world, "broken-base")?;
    std::fs::create_dir_all(&dir)?;
    for program in ["cvmd", "fastforward", "edgeplex-init"] {
        std::fs::copy(world.out.join("broken-base").join(program), dir.join(program))?;
    }
    // It says its version, or no image would be made of it.
    std::fs::write(dir.join("pvmd"), "#!/bin/sh\n[ \"$1\" = --version ] && exec echo pvmd 0\nexit 1\n")?;
    std::fs::set_permissions(dir.join("pvmd"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let path = dir.canonicalize()?.to_string_lossy().into_owned();
    world.edgeplex(&["image", "add", "broken", &path])?;
    world.wait_protected(ACME)?;
    let trials = trials(world, case, 1, ("acme", SLOW), |_, _| {
        let out = world.node(PE)?.output(&["edgeplex", "upgrade", "--to", "broken", "--canary", "1", "--soak", "1"])?;
        ensure!(!out.status.success(), "the upgrade was promoted: {}", String::from_utf8_lossy(&out.stdout));
        let now = world.wait_protected(ACME).and_then(|_| world.instance(ACME, "active"))?;
        ensure!(now.image.as_deref() != Some("broken"), "acme is on {now:?}");
        Ok(None)
    })?;
    let rows = common(case, &trials, Peer::Never(0.0, TARGET));
    Ok(Case { trials, rows })
}

/// The controller is killed while it moves acme.
pub(super) fn kill_controller(world: &World<'_>, n: usize, chance: &mut Chance) -> Result<Case> {
    let case = "kill -9 edgeplexd during a move";
    world.wait_protected(ACME)?;
    let trials = trials(world, case, n, ("acme", SLOW), |_, moment| {
        let to = if world.instance(ACME, "active")?.host == LOCAL { HOST } else { LOCAL };
        let node = world.node(PE)?;
        let mut moving = node.command("edgeplex", &["migrate", "acme", "--to", to, "-o", "json"]);
        let mut moving = moving.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        thread::sleep(Duration::from_millis(chance.below(60)));
        let old: Vec<_> = node.processes("edgeplexd").into_iter().filter_map(crate::process::Process::find).collect();
        moment.is_now();
        old.iter().for_each(|p| p.kill());
        wait::until_true("edgeplexd ends", CONVERGE, || Ok(!old.iter().any(|p| p.alive())))?;
        // Beyond the lease of a fenced instance, too.
        thread::sleep(Duration::from_millis(chance.below(6000)));
        launch::edgeplexd(node)?;
        crate::traffic::stop(&mut moving);
        wait::until_true("exactly one instance of acme is active and speaks", CONVERGE, || {
            let active = world.instances(ACME)?.into_iter().filter(|i| i.place == "active").collect::<Vec<_>>();
            Ok(matches!(&active[..], [one] if speaks(world, one)))
        })?;
        world.wait_protected(ACME)?;
        Ok(None)
    })?;
    let rows = common(case, &trials, Peer::Never(0.0, TARGET));
    Ok(Case { trials, rows })
}

/// The second host dies, with acme on it. The last case: it does not come back.
pub(super) fn host_dies(world: &World<'_>) -> Result<Case> {
    let case = "a whole host dies";
    if world.instance(ACME, "active")?.host == LOCAL {
        world.edgeplex(&["migrate", "acme", "--to", HOST])?;
    }
    let standby = world.wait_protected(ACME)?;
    ensure!(standby.host == LOCAL, "the standby is on {}", standby.host);
    let trials = trials(world, case, 1, ("acme", SLOW), |_, _| {
        world.node(HOST)?.init.kill();
        wait::until_true("acme is served by the other host", CONVERGE, || {
            Ok(world.instance(ACME, "active").is_ok_and(|i| i.host == LOCAL && speaks(world, &i)))
        })?;
        Ok(None)
    })?;
    let mut rows = common(case, &trials, Peer::Nobody);
    rows.push(row(case, "traffic gap", "ms", &trials.gaps(), Peer::Nobody));
    Ok(Case { trials, rows })
}

/// What the standby CVM is sent, by the length of an interval: the paper's table 2.2 copies memory instead.
pub(super) fn shipped(world: &World<'_>, samples: usize) -> Result<Vec<Row>> {
    /// Interval, ms; what the paper's prototype sent in it, MB; that and the promise in words.
    const PAPER: [(u64, f64, &str); 4] = [
        (100, 7.47, "= 7.47 MB of the paper / 500"),
        (200, 7.92, "= 7.92 MB of the paper / 500"),
        (500, 16.6, "= 16.6 MB of the paper / 500"),
        (1000, 36.6, "= 36.6 MB of the paper / 500"),
    ];
    world.wait_protected(CVM)?;
    let read = || -> Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "bytes of minutes")]
        Ok(world.instance(CVM, "active")?.journaled() as f64)
    };
    let mut rows = vec![];
    for (interval, paper, words) in PAPER {
        let mut values = vec![];
        for _ in 0..samples {
            let (from, started) = (read()?, Instant::now());
            thread::sleep(Duration::from_millis(interval));
            let to = read()?;
            // Asking takes time of its own.
            let share = Duration::from_millis(interval).as_secs_f64() / started.elapsed().as_secs_f64();
            values.push((to - from) * share / 1e6);
        }
        let case = "standby CVM at 200 updates/s";
        rows.push(row(case, &format!("shipped in {interval} ms"), "MB", &values, Peer::AtMost(paper / 500.0, words)));
    }
    Ok(rows)
}
