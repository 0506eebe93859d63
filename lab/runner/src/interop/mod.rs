//! `lab/interop`: one platform of ours among FRR, BIRD, GoBGP and OpenBGPD, and nothing of ours at the other end of
//! anything. A matrix of protocol and peer by what was tried; each cell is judged by the third party's view and ours.
//! `lab/interop --corpus`: malformed UPDATEs against us and, side by side, the four.

mod bgp;
mod cases;
mod corpus;
mod hostile;
mod igp;
mod matrix;
mod speaker;
mod world;

use crate::{
    complain,
    lab::{Lab, down},
    leftovers, say,
    state::LabDir,
    suite,
    topology::Topology,
};
use anyhow::{Context, Result, bail, ensure};
use bgp::Bgp;
use igp::Igp;
use matrix::{COLUMNS, Column, Line, Matrix, Verdict};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};
use world::{DUT, World};

#[derive(Debug, Clone)]
pub struct Options {
    pub corpus: bool,
    pub only: Option<String>,
    pub json: Option<PathBuf>,
    pub name: Option<String>,
    pub keep: bool,
}

pub fn topology(corpus: bool) -> PathBuf {
    suite::root().join("lab/topologies").join(if corpus { "interop-corpus.clab.yml" } else { "interop.clab.yml" })
}

fn cases_file() -> PathBuf {
    suite::root().join("lab/corpus/bgp-updates.yaml")
}

/// The columns that `--only` leaves. Up and routes are what all others stand on.
fn columns(only: Option<&str>) -> Vec<Column> {
    let wanted = |c: &(Column, &str)| only.is_none_or(|o| c.1.contains(o)) || matches!(c.0, Column::Up | Column::Routes);
    COLUMNS.iter().filter(|c| wanted(c)).map(|c| c.0).collect()
}

/// What can be known to be wrong before anything runs.
pub fn check(options: &Options) -> Result<()> {
    if !options.corpus {
        let only = options.only.as_deref().unwrap_or_default();
        let names = COLUMNS.iter().map(|c| format!("`{}`", c.1)).collect::<Vec<_>>().join(", ");
        ensure!(COLUMNS.iter().any(|c| c.1.contains(only)), "--only {only}: no column has that in its name; there are {names}");
    }
    Ok(())
}

/// True if no cell failed.
pub fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let file = topology(options.corpus);
    let name = match &options.name {
        Some(name) => name.clone(),
        None => Topology::load(&file)?.name,
    };
    let dir = LabDir::of(&name)?;
    if dir.is_up() {
        bail!("lab {name} is already up: take it down first with lab/down");
    }
    let report = options
        .json
        .clone()
        .unwrap_or_else(|| suite::root().join("lab/out").join(if options.corpus { "corpus.json" } else { "interop.json" }));
    if let Some(parent) = report.parent() {
        fs::create_dir_all(parent)?;
    }
    let cases = cases::load(&cases_file())?;
    let lab = Lab::up(&file, Some(&name))?;
    let outcome = if options.corpus {
        corpus::run(&lab, &cases, options.only.as_deref(), &report)
    } else {
        matrix(&lab, &cases, options.only.as_deref(), &report, started)
    };
    if options.keep {
        complain!("the lab stays up; take it down with lab/down --name {name}");
    } else {
        down(&dir)?;
        let found = leftovers::of(&name, &[DUT]);
        ensure!(found.is_empty(), "left behind: {}", found.join(", "));
    }
    say!("{:.0} s; kept in {}", started.elapsed().as_secs_f64(), report.display());
    outcome
}

#[derive(Serialize)]
struct Report<'a> {
    version: u8,
    passed: bool,
    seconds: f64,
    lines: &'a [Line],
}

fn matrix(lab: &Lab, cases: &[cases::Case], only: Option<&str>, report: &Path, started: Instant) -> Result<bool> {
    let world = World { lab };
    let wanted = columns(only);
    let has = |c: Column| wanted.contains(&c);
    let phase = |name: &str| complain!("[{:4.0} s] {name} …", started.elapsed().as_secs_f64());
    phase("provisioning");
    world.apply("platform.yaml")?;
    world.apply("inter.yaml")?;

    let mut m = Matrix::default();
    let igp = Igp::new(&world, &mut m)?;
    let bgp = Bgp { world: &world, peers: bgp::peers(&world, &mut m)? };
    phase("up");
    igp.up(&mut m);
    bgp.up(&mut m);
    phase("routes both ways");
    igp.routes(&mut m);
    bgp.routes(&mut m);
    if has(Column::Withdraw) {
        phase("withdraw");
        igp.withdraw(&mut m);
        bgp.withdraw(&mut m);
    }
    if has(Column::Refresh) {
        phase("refresh");
        igp.refresh(&mut m);
        bgp.refresh(&mut m);
    }
    if has(Column::BadInput) {
        phase("bad input");
        igp.bad_input(&mut m);
    }
    if has(Column::BadInput) || has(Column::RestartPeer) {
        phase("kill -9 peer; bad input from its place");
        bgp.restart_peers(&mut m, cases, &has);
    }
    if has(Column::RestartPeer) {
        igp.restart_peers(&mut m);
    }
    if has(Column::RestartOurs) {
        phase("kill -9 ours");
        bgp.restart_ours(&mut m);
        igp.after_restart_of_ours(&mut m);
    }
    if has(Column::Md5) {
        phase("MD5");
        let applied = world.apply("platform-md5.yaml").and_then(|()| world.apply("inter-md5.yaml")).map_err(|e| format!("{e:#}"));
        igp.md5(&mut m, &applied);
        bgp.md5(&mut m, &applied);
    }
    say!("{}", m.table());
    let (ok, failed, none) = (m.count(Verdict::Ok), m.count(Verdict::Failed), m.count(Verdict::NotApplicable));
    let missing = m.missing(&wanted);
    say!(
        "{ok} ok, {failed} failed, {none} n/a (why: in the JSON){}",
        if missing > 0 { format!(", {missing} missing") } else { String::new() }
    );
    let passed = failed == 0 && missing == 0;
    let seconds = started.elapsed().as_secs_f64();
    let text = serde_json::to_vec_pretty(&Report { version: 1, passed, seconds, lines: &m.lines })?;
    fs::write(report, text).with_context(|| report.display().to_string())?;
    Ok(passed)
}
