//! `lab/demo` and the lab part of `lab/test`: up, provision, converge, prove, table, down. Everything is a [`Proof`],
//! the steps before and after the scenarios too.

use crate::{
    complain,
    lab::{Lab, down},
    leftovers, say,
    scenarios::{ALL, CITIES, CUSTOMERS, Ctx, Evidence, P_ROUTER, PLATFORMS, Proof, Scenario},
    state::LabDir,
};
use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Cell, ContentArrangement, Table, presets};
use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

#[derive(Debug, Clone)]
pub struct Options {
    pub topology: PathBuf,
    pub name: Option<String>,
    pub keep: bool,
    pub json: Option<PathBuf>,
    /// Where captures are kept.
    pub out: PathBuf,
    /// Only the scenarios whose name contains this.
    pub only: Option<String>,
}

/// What is proven, step by step, with a progress line.
#[derive(Debug)]
pub struct Ledger {
    pub proofs: Vec<Proof>,
    total: usize,
}

impl Ledger {
    pub fn new(total: usize) -> Self {
        Self { proofs: vec![], total }
    }

    /// Does one step and notes what came of it; gives its value if it passed.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, Evidence)>) -> Option<T> {
        self.progress(name);
        let started = Instant::now();
        let outcome = work();
        let seconds = started.elapsed().as_secs_f64();
        let (value, passed, evidence) = match outcome {
            Ok((value, evidence)) => (Some(value), true, evidence),
            Err(e) => (None, false, Evidence::new(format!("{e:#}"))),
        };
        self.note(Proof { name: name.to_owned(), passed, evidence: evidence.text, figures: evidence.figures, seconds });
        value
    }

    pub fn progress(&self, name: &str) {
        let line = format!("[{:2}/{}] {name} …", self.proofs.len() + 1, self.total);
        if std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}").and_then(|()| std::io::stderr().flush());
        }
    }

    pub fn note(&mut self, proof: Proof) {
        let terminal = std::io::stderr().is_terminal();
        let sign = if proof.passed { "ok" } else { "FAILED" };
        let clear = if terminal { "\r\x1b[K" } else { "" };
        complain!("{clear}[{:2}/{}] {} {sign} ({:.1} s)", self.proofs.len() + 1, self.total, proof.name, proof.seconds);
        if !proof.passed {
            complain!("        {}", proof.evidence);
        }
        self.proofs.push(proof);
    }

    pub fn failed(&self) -> usize {
        self.proofs.iter().filter(|p| !p.passed).count()
    }

    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        if table.width().is_none() {
            table.set_width(140);
        }
        table.set_header(["", "what", "evidence", "s"]);
        for p in &self.proofs {
            let sign = if p.passed { "ok" } else { "FAIL" };
            table.add_row([Cell::new(sign), Cell::new(&p.name), Cell::new(&p.evidence), Cell::new(format!("{:.1}", p.seconds))]);
        }
        table.to_string()
    }
}

fn wanted(only: Option<&str>) -> impl Iterator<Item = &'static Scenario> {
    ALL.iter().filter(move |s| only.is_none_or(|o| s.name.contains(o)))
}

/// What can be known to be wrong before anything runs: `--only` that leaves nothing, a report that cannot be written.
pub fn check(only: Option<&str>, json: Option<&Path>) -> Result<()> {
    let names = || ALL.iter().map(|s| format!("`{}`", s.name)).collect::<Vec<_>>().join(", ");
    ensure!(wanted(only).next().is_some(), "--only {}: no scenario has that in its name; there are {}", only.unwrap_or_default(), names());
    if let Some(file) = json {
        fs::File::options().create(true).append(true).open(file).with_context(|| format!("--json {}", file.display()))?;
    }
    Ok(())
}

/// Runs the demo; true if everything was proven.
pub fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let mut name = crate::topology::Topology::load(&options.topology)?.name;
    if let Some(other) = &options.name {
        name.clone_from(other);
    }
    let dir = LabDir::of(&name)?;
    if dir.is_up() {
        bail!("lab {name} is already up: take it down first with lab/down");
    }
    let mut ledger = Ledger::new(wanted(options.only.as_deref()).count() + if options.keep { 3 } else { 4 });
    prove(&mut ledger, options, &name);
    if options.keep {
        complain!("the lab stays up: try lab/exec denver edgeplex status; take it down with lab/down");
    } else {
        ledger.step("nothing is left behind", || {
            down(&dir)?;
            let found = leftovers::of(&name, &PLATFORMS);
            ensure!(found.is_empty(), "left behind: {}", found.join(", "));
            Ok(((), Evidence::new("no namespace, process, mount, cgroup or directory")))
        });
    }
    let seconds = started.elapsed().as_secs_f64();
    say!("{}", ledger.table());
    say!(
        "{} of {} proven in {seconds:.0} s; captures in {}",
        ledger.proofs.len() - ledger.failed(),
        ledger.proofs.len(),
        options.out.display()
    );
    if let Some(file) = &options.json {
        write_report(file, &name, seconds, &ledger.proofs)?;
    }
    Ok(ledger.failed() == 0)
}

/// Up to the last scenario; stops early only where nothing further could work.
pub fn prove(ledger: &mut Ledger, options: &Options, name: &str) {
    let Some(lab) = ledger.step("the lab comes up", || {
        let lab = Lab::up(&options.topology, Some(name))?;
        let evidence = Evidence::new(format!("{} nodes, {} links", lab.nodes.len(), lab.topology.links.len()));
        Ok((lab, evidence))
    }) else {
        return;
    };
    let ctx = ledger.step("core and customers provisioned", || {
        let ctx = Ctx::new(&lab, options.out.clone())?;
        provision(&ctx)?;
        Ok((ctx, Evidence::new("edgeplex apply -f platform.yaml, acme.yaml, beta.yaml; dry run first, no difference afterwards")))
    });
    let Some(ctx) = ctx else { return };
    let converged = ledger.step("routes converge, traffic flows", || {
        let started = Instant::now();
        converge(&ctx)?;
        Ok(((), Evidence::new(format!("all CE sessions established, all 4 pairs answer after {:.1} s", started.elapsed().as_secs_f64()))))
    });
    if converged.is_none() {
        return;
    }
    for scenario in wanted(options.only.as_deref()) {
        ledger.progress(scenario.name);
        let proof = scenario.prove(&ctx);
        ledger.note(proof);
    }
}

/// Everything through the NOC's CLI.
pub fn provision(ctx: &Ctx<'_>) -> Result<()> {
    let customers = CITIES.iter().flat_map(|c| ["acme.yaml", "beta.yaml"].map(|file| (*c, file)));
    for (node, file) in [P_ROUTER].iter().chain(&CITIES).map(|n| (*n, "platform.yaml")).chain(customers) {
        let yaml = ctx.yaml(node, file);
        ctx.lab.node(node)?.run(&["edgeplex", "apply", "-f", &yaml, "--dry-run"])?;
        ctx.apply(node, file)?;
        // What was applied is what is desired: the same again changes nothing.
        ctx.lab.node(node)?.run(&["edgeplex", "diff", "-f", &yaml])?;
    }
    Ok(())
}

pub fn converge(ctx: &Ctx<'_>) -> Result<()> {
    for customer in CUSTOMERS {
        for city in CITIES {
            ctx.wait_established(customer, city)?;
        }
        ctx.wait_for_traffic(customer)?;
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Report<'a> {
    version: u8,
    lab: &'a str,
    passed: bool,
    seconds: f64,
    machine: BTreeMap<&'static str, String>,
    proofs: &'a [Proof],
}

pub fn write_report(file: &Path, lab: &str, seconds: f64, proofs: &[Proof]) -> Result<()> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_start_matches([' ', '\t', ':']).to_owned());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let machine = BTreeMap::from([("kernel", kernel), ("cpu", model.unwrap_or_default()), ("cores", cores.to_string())]);
    let report = Report { version: 1, lab, passed: proofs.iter().all(|p| p.passed), seconds, machine, proofs };
    fs::write(file, serde_json::to_vec_pretty(&report)?).with_context(|| format!("{}", file.display()))
}
