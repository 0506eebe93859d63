//! `lab/bench resilience`: a PE on two hosts, with two customers' traffic through it, is moved, killed, upgraded and broken; FRR, BIRD
//! and GoBGP on every side say whether they noticed, and every packet is counted. Beside it FRR and BIRD themselves are killed and
//! started again with graceful restart, for comparison.

mod cases;
mod chance;
pub mod chaos;
mod churn;
mod faults;
pub(crate) mod judge;
mod outcome;
mod rival;
mod world;

use crate::{
    bench::{self, Panel, Row},
    complain,
    demo::Ledger,
    lab::{Lab, down},
    launch, leftovers, say,
    scenarios::Evidence,
    state::LabDir,
    traffic::Servers,
};
use anyhow::{Result, ensure};
use cases::Case;
use chance::Chance;
use outcome::Outcome;
use std::{path::PathBuf, thread};
use world::{CUSTOMERS, FAR, PE, PLATFORMS, World};

#[derive(Debug, Clone)]
pub struct Options {
    pub topology: PathBuf,
    /// The rivals' topology.
    pub rivals: PathBuf,
    pub name: Option<String>,
    pub keep: bool,
    pub json: Option<PathBuf>,
    pub out: PathBuf,
    /// Only the cases whose name contains this.
    pub only: Option<String>,
    /// Trials of each kind of kill; the others take a fifth of it.
    pub kills: usize,
    pub seed: u64,
    /// Packets a second each way beside planned moves and upgrades.
    pub pps: u32,
}

/// Cases at the asked rate.
const FAST: [&str; 2] = ["planned move", "upgrade"];
/// Names of what is not a case.
const RIVALS: &str = "rivals";
const SHIPPED: &str = "shipped";

type Run = Box<dyn Fn(&World<'_>, &Options, &mut Chance) -> Result<Case>>;

fn cases() -> Vec<(&'static str, Run)> {
    let few = |o: &Options| (o.kills / 5).max(2);
    vec![
        ("planned move", Box::new(move |w, o, _| cases::planned_move(w, few(o), o.pps))),
        ("kill pvmd", Box::new(|w, o, c| cases::kill_pvmd(w, o.kills, c))),
        ("kill FastForward", Box::new(move |w, o, c| cases::kill_forwarder(w, few(o), c))),
        ("kill PVM", Box::new(move |w, o, c| cases::kill_pvm(w, few(o), c))),
        ("kill cvmd", Box::new(move |w, o, c| cases::kill_cvmd(w, few(o), c))),
        ("kill CVM", Box::new(|w, o, c| cases::kill_cvm(w, o.kills, c))),
        ("kill edgeplexd", Box::new(move |w, o, c| cases::kill_controller(w, few(o), c))),
        ("upgrade", Box::new(|w, o, _| cases::upgrade(w, 6, o.pps))),
        ("bad version", Box::new(|w, _, _| cases::bad_version(w))),
        ("host dies", Box::new(|w, _, _| cases::host_dies(w))),
    ]
}

fn wanted(only: Option<&str>, name: &str) -> bool {
    only.is_none_or(|o| name.contains(o))
}

/// Runs the bench; true if every promise held.
pub fn run(options: &Options) -> Result<bool> {
    std::fs::create_dir_all(&options.out)?;
    let name = options.name.clone().unwrap_or_else(|| "resilience".into());
    let (mut rows, mut outcomes, mut panels) = (vec![], vec![], vec![]);
    let all = cases();
    let ours = all.iter().filter(|(case, _)| wanted(options.only.as_deref(), case)).count();
    let ours = ours + usize::from(wanted(options.only.as_deref(), SHIPPED));
    let mut ledger = Ledger::new(ours + 5);
    if ours > 0 {
        measure(&mut ledger, options, &name, &all, (&mut rows, &mut outcomes, &mut panels));
    }
    if ours > 0 && !options.keep {
        ledger.step("nothing is left behind", || {
            down(&LabDir::of(&name)?)?;
            let found = leftovers::of(&name, &[PLATFORMS[0], PLATFORMS[1], world::HOST]);
            ensure!(found.is_empty(), "left behind: {}", found.join(", "));
            Ok(((), Evidence::new("no namespace, process, mount, cgroup or directory")))
        });
    }
    if wanted(options.only.as_deref(), RIVALS) {
        ledger.step("FRR and BIRD with graceful restart", || {
            let found = rival::run(options)?;
            rows.extend(found.rows);
            panels.extend(found.panels);
            Ok(((), Evidence::new("killed and started again under the same traffic")))
        });
    }
    std::fs::write(options.out.join("outcomes.json"), serde_json::to_vec_pretty(&outcomes)?)?;
    let picture = options.out.join("goodput.svg");
    if !panels.is_empty() {
        bench::draw(&picture, "Datagrams that arrive, in bins of 10 ms", &panels, 10_000, 500_000, 4_500_000)?;
    }
    bench::report(&rows, options.json.as_deref())?;
    for failed in outcomes.iter().filter(|o: &&Outcome| o.failed()) {
        let routes = (failed.wrong_routes > 0).then(|| format!("{} routes are wrong", failed.wrong_routes));
        let why: Vec<&str> = failed.error.iter().chain(&failed.noticed).chain(&routes).map(String::as_str).collect();
        complain!("{} #{}: {}", failed.case, failed.trial, why.join("; "));
    }
    say!("every trial in {}, the picture is {}; seed {}", options.out.join("outcomes.json").display(), picture.display(), options.seed);
    let missed = rows.iter().filter(|r: &&Row| r.held == Some(false)).count();
    say!("{} of {} promises kept", rows.iter().filter(|r| r.held == Some(true)).count(), rows.iter().filter(|r| r.held.is_some()).count());
    Ok(missed == 0 && ledger.failed() == 0)
}

type Found<'a> = (&'a mut Vec<Row>, &'a mut Vec<Outcome>, &'a mut Vec<Panel>);

fn measure(ledger: &mut Ledger, options: &Options, name: &str, all: &[(&'static str, Run)], (rows, outcomes, panels): Found<'_>) {
    let up = ledger.step("the lab comes up", || {
        let lab = Lab::up(&options.topology, Some(name))?;
        let evidence = Evidence::new(format!("{} nodes, {} links", lab.nodes.len(), lab.topology.links.len()));
        Ok((lab, evidence))
    });
    let Some(lab) = up else { return };
    let world = World::new(&lab, options.out.clone());
    let servers = ledger.step("provisioned, converged", || Ok((ready(&world)?, Evidence::new("every session of every router is up"))));
    let Some(_servers) = servers else { return };
    let churn = ledger.step("200 updates a second", || Ok((world.start_churn()?, Evidence::default())));
    if churn.is_none() {
        return;
    }
    let mut chance = Chance::new(options.seed);
    if wanted(options.only.as_deref(), SHIPPED) {
        let shipped = ledger.step("bytes to the standby", || Ok((cases::shipped(&world, 10)?, Evidence::default())));
        rows.extend(shipped.unwrap_or_default());
    }
    for (case, run) in all.iter().filter(|(case, _)| wanted(options.only.as_deref(), case)) {
        let done = ledger.step(case, || {
            let done = run(&world, options, &mut chance)?;
            outcomes.extend(done.trials.outcomes.iter().cloned());
            let evidence = Evidence::new(done.trials.summary());
            Ok((done, evidence))
        });
        let Some(done) = done else { continue };
        say!("        {}", done.trials.summary());
        rows.extend(done.rows);
        // The first trial stands for the others.
        if let (Some(first), Some(direction)) = (done.trials.outcomes.first(), done.trials.directions.get(1)) {
            let rate = f64::from(if FAST.contains(case) { options.pps } else { 1000 });
            panels.push(Panel {
                title: format!("EdgePlex: {}", first.case),
                arrivals: direction.arrivals.clone(),
                event: first.at_us,
                rate,
            });
        }
    }
}

/// Provisions and waits until every router has its session and both customers' hosts answer each other.
fn ready(world: &World<'_>) -> Result<Servers> {
    let hosts = ["acme", "beta"].into_iter().flat_map(|c| [PE, FAR].map(|city| (format!("{c}-{city}-host"), format!("{c}-{city}"))));
    let servers = Servers::start(world.lab, hosts)?;
    provision(world)?;
    ["acme", "beta"].into_iter().try_for_each(|c| world.wait_datagrams(c))?;
    judge::Sitting::open(world.lab, judge::Seat::all(), world::CONVERGE)?;
    Ok(servers)
}

/// Both PEs side by side; the controller of denver is told of its second host.
fn provision(world: &World<'_>) -> Result<()> {
    let key = launch::fingerprint(world.node(world::HOST)?, "edgeplex-agent")?;
    world.start_agent()?;
    let key = &[("HOST-KEY", key.as_str())];
    thread::scope(|scope| {
        let running: Vec<_> = PLATFORMS
            .map(|city| {
                scope.spawn(move || -> Result<()> {
                    world.apply(city, "platform.yaml", if city == PE { key } else { &[] })?;
                    CUSTOMERS.iter().try_for_each(|c| world.apply(city, &format!("{c}.yaml"), &[]))
                })
            })
            .into_iter()
            .collect();
        running.into_iter().try_for_each(|r| r.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })
}
