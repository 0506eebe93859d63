//! FRR and BIRD as the routers in the middle: killed under the same traffic, and started again with graceful restart, which is what
//! they have. Their neighbours do it too.

use super::Options;
use crate::{
    bench::{Panel, Peer, Row},
    lab::{Lab, down},
    launch,
    node::Node,
    process::Process,
    state::LabDir,
    streams::{Direction, End, Streams, now},
    traffic::{self, Way},
    wait,
};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const PPS: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(90);
const TRIALS: usize = 3;
/// Rows as in BIRD's table of protocols.
const NEIGHBORS: [&str; 2] = ["a", "b"];

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    pub(super) panels: Vec<Panel>,
}

/// One trial of one rival.
struct Trial {
    noticed: usize,
    took: Duration,
    directions: [Direction; 2],
    at: u64,
}

pub(super) fn run(options: &Options) -> Result<Found> {
    let name = format!("{}-rivals", options.name.as_deref().unwrap_or("resilience"));
    let lab = Lab::up(&options.rivals, Some(&name))?;
    let measured = [("frr", "FRR bgpd"), ("bird", "BIRD")].map(|(rival, called)| one(&lab, rival, called));
    if !options.keep {
        down(&LabDir::of(&name)?)?;
    }
    let mut found = Found::default();
    for part in measured {
        let part = part?;
        found.rows.extend(part.rows);
        found.panels.extend(part.panels);
    }
    Ok(found)
}

/// Since when both neighbours have their sessions.
fn sessions(lab: &Lab, rival: &str) -> Result<Vec<Option<String>>> {
    let session = |side: &&str| -> Result<Option<String>> {
        let said = lab.node(&format!("{rival}-{side}"))?.run(&["birdc", "show", "protocols", "provider"])?;
        let line = said.lines().find(|l| l.starts_with("provider")).unwrap_or_default().to_owned();
        Ok(line.contains("Established").then_some(line))
    };
    NEIGHBORS.iter().map(session).collect()
}

fn whole(lab: &Lab, rival: &str) -> Result<bool> {
    let host = lab.node(&format!("{rival}-a-host"))?;
    Ok(sessions(lab, rival)?.iter().all(Option::is_some)
        && traffic::send(host, &Way { to: "172.16.2.10", pps: 500, size: 64, source_port: 0 }, 20)?.lost == 0)
}

fn restart(node: &Node, rival: &str) -> Result<()> {
    let daemon = if rival == "frr" { "bgpd" } else { "bird" };
    let running: Vec<Process> = node.processes(daemon).into_iter().filter_map(Process::find).collect();
    ensure!(!running.is_empty(), "{} runs no {daemon}", node.name);
    running.iter().for_each(|p| p.kill());
    wait::until_true(&format!("{daemon} ends"), PATIENCE, || Ok(!running.iter().any(|p| p.alive())))?;
    if rival == "frr" {
        launch::frr_daemon(node, daemon)?;
        launch::frr_configure(node)
    } else {
        // -R: it recovers from a crash.
        node.daemon("bird", &["bird", "-f", "-R", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl"])
    }
}

fn trial(lab: &Lab, rival: &str) -> Result<Trial> {
    let (a, b) = (format!("{rival} a"), format!("{rival} b"));
    let ends = [
        End { node: lab.node(&format!("{rival}-a-host"))?, address: "172.16.1.10", name: &a },
        End { node: lab.node(&format!("{rival}-b-host"))?, address: "172.16.2.10", name: &b },
    ];
    wait::until_true(&format!("{rival} is whole"), PATIENCE, || whole(lab, rival))?;
    let streams = Streams::start(ends, PPS)?;
    ensure!(whole(lab, rival)?, "{rival} loses datagrams where nothing happens");
    let before = sessions(lab, rival)?;
    let (at, started) = (now(), Instant::now());
    restart(lab.node(&format!("{rival}-r"))?, rival)?;
    wait::until_true(&format!("{rival}'s sessions are new"), PATIENCE, || {
        let after = sessions(lab, rival)?;
        Ok(after.iter().zip(&before).all(|(a, b)| a.is_some() && a != b))
    })?;
    wait::until_true(&format!("{rival} is whole again"), PATIENCE, || whole(lab, rival))?;
    let took = started.elapsed();
    let noticed = sessions(lab, rival)?.iter().zip(&before).filter(|(a, b)| a != b).count();
    Ok(Trial { noticed, took, directions: streams.stop()?, at })
}

#[expect(clippy::cast_precision_loss, reason = "counts of packets")]
fn one(lab: &Lab, rival: &str, called: &str) -> Result<Found> {
    let _servers = traffic::Servers::start(lab, NEIGHBORS.iter().map(|s| (format!("{rival}-{s}-host"), format!("{rival}-{s}"))))?;
    let trials = (0..TRIALS).map(|_| trial(lab, rival)).collect::<Result<Vec<_>>>().with_context(|| called.to_owned())?;
    let case = format!("kill -9 of {called}, graceful restart");
    let row = |metric: &str, unit: &str, of: &dyn Fn(&Trial) -> f64| {
        Row::new("resilience", &case, metric, unit, &trials.iter().map(of).collect::<Vec<_>>(), Peer::Nobody)
    };
    let rows = vec![
        row("routers that noticed", "sessions", &|t| t.noticed as f64),
        row("packets lost", "packets a trial", &|t| t.directions.iter().map(|d| d.lost_after(t.at) as f64).sum()),
        row("back and whole", "ms", &|t| t.took.as_secs_f64() * 1e3),
    ];
    let picture = |t: &Trial| Panel { title: case.clone(), arrivals: t.directions[1].arrivals.clone(), event: t.at, rate: f64::from(PPS) };
    Ok(Found { rows, panels: trials.first().map(picture).into_iter().collect() })
}
