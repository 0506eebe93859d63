//! `lab/vpns`: what a BGP/MPLS VPN can be, on three PEs, one P and a reflector: IPv6, hub and spoke, extranet, dual-homed sites,
//! labels per CE, watched static routes, the Internet in a VPN, the features of a customer's BGP session, and the operator's view.
//! Everything is provisioned through the CLI and judged by packets and by other people's routers.

mod dual;
mod internet;
mod operator;
mod policy;
mod session;
mod shapes;
mod six;
mod world;

use crate::{
    demo::{self, Ledger, Options},
    lab::{Lab, down},
    leftovers, say,
    scenarios::Evidence,
    state::LabDir,
};
use anyhow::{Result, ensure};
use std::{path::Path, thread, time::Instant};
use world::{PES, PLATFORMS, World};

struct Proof {
    name: &'static str,
    run: fn(&World<'_>) -> Result<Evidence>,
}

/// In the order in which they run: what disturbs most comes last.
const ALL: &[Proof] = &[
    Proof { name: "6VPE: hosts reach each other, both families", run: six::reach },
    Proof { name: "6VPE: CEs' tables", run: six::tables },
    Proof { name: "6VPE: traceroute", run: six::traceroute },
    Proof { name: "6VPE: packet too big", run: six::too_big },
    Proof { name: "hub and spoke: through the hub's CE", run: shapes::hub },
    Proof { name: "extranet: a and b meet in shared alone", run: shapes::extranet },
    Proof { name: "two attachments of a VPN on one PE", run: shapes::one_pe },
    Proof { name: "a label for each CE", run: shapes::label_per_ce },
    Proof { name: "Internet from a named VPN", run: internet::surf },
    Proof { name: "static route goes and comes with BFD", run: session::watched_static },
    Proof { name: "BGP: AS numbers and roles", run: policy::as_numbers },
    Proof { name: "BGP: site of origin", run: policy::site_of_origin },
    Proof { name: "BGP: import and export policy, default", run: policy::rules },
    Proof { name: "BGP: max-prefix warns only", run: session::warning_only },
    Proof { name: "BGP: GTSM", run: session::gtsm },
    Proof { name: "BGP: BFD sees a silent CE", run: session::silent },
    Proof { name: "BGP: shutdown communication", run: session::shutdown },
    Proof { name: "operator: show, in three formats", run: operator::show },
    Proof { name: "operator: ping and traceroute of a VPN", run: operator::vpn },
    Proof { name: "operator: LSP ping and traceroute", run: operator::lsp },
    Proof { name: "dual-homed: ECMP and no ECMP", run: dual::spread },
    Proof { name: "dual-homed: a CE session goes", run: dual::session_down },
    Proof { name: "dual-homed: an access link is cut", run: dual::link_cut },
    Proof { name: "dual-homed: a PVM is killed", run: dual::pvm_killed },
    Proof { name: "dual-homed: a PE is cut off (PIC)", run: dual::pe_cut_off },
];

fn wanted(only: Option<&str>) -> impl Iterator<Item = &'static Proof> {
    ALL.iter().filter(move |p| only.is_none_or(|o| p.name.contains(o)))
}

/// `--only` that leaves nothing is known to be wrong before anything runs.
pub fn check(only: Option<&str>) -> Result<()> {
    let names = || ALL.iter().map(|p| format!("`{}`", p.name)).collect::<Vec<_>>().join(", ");
    ensure!(wanted(only).next().is_some(), "--only {}: no proof has that in its name; there are {}", only.unwrap_or_default(), names());
    Ok(())
}

/// Runs the proofs; true if all was proven.
pub fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let name = options.name.clone().unwrap_or_else(|| "vpns".into());
    std::fs::create_dir_all(&options.out)?;
    let mut ledger = Ledger::new(wanted(options.only.as_deref()).count() + if options.keep { 2 } else { 3 });
    prove(&mut ledger, options, &name);
    if !options.keep {
        ledger.step("nothing is left behind", || {
            down(&LabDir::of(&name)?)?;
            let found = leftovers::of(&name, &PLATFORMS);
            ensure!(found.is_empty(), "left behind: {}", found.join(", "));
            Ok(((), Evidence::new("no namespace, process, mount, cgroup or directory")))
        });
    }
    let seconds = started.elapsed().as_secs_f64();
    say!("{}", ledger.table());
    say!("{} of {} proven in {seconds:.0} s", ledger.proofs.len() - ledger.failed(), ledger.proofs.len());
    if let Some(file) = &options.json {
        demo::write_report(file, &name, seconds, &ledger.proofs)?;
    }
    Ok(ledger.failed() == 0)
}

fn prove(ledger: &mut Ledger, options: &Options, name: &str) {
    let up = ledger.step("the lab comes up", || {
        let lab = Lab::up(&options.topology, Some(name))?;
        let evidence = Evidence::new(format!("{} nodes, {} links", lab.nodes.len(), lab.topology.links.len()));
        Ok((lab, evidence))
    });
    let Some(lab) = up else { return };
    let world = ledger.step("provisioned, converged", || {
        let world = World::new(&lab, options.out.clone())?;
        provision(&lab)?;
        let attachments = world.converged()?;
        Ok((world, Evidence::new(format!("{attachments} attachments ready, every CE's session is up, tables are full"))))
    });
    let Some(world) = world else { return };
    for proof in wanted(options.only.as_deref()) {
        ledger.step(proof.name, || Ok(((), (proof.run)(&world)?)));
    }
}

/// Where the documents of a platform lie.
fn document(lab: &Lab, node: &str, file: &str) -> String {
    let path: &Path = &lab.topology.directory.join("vpns").join(node).join(file);
    path.to_string_lossy().into_owned()
}

/// Platforms come up side by side, as they would when a NOC's tool does it.
fn provision(lab: &Lab) -> Result<()> {
    let apply = |node: &'static str| {
        move || -> Result<()> {
            let pe = lab.node(node)?;
            pe.run(&["edgeplex", "apply", "-f", &document(lab, node, "platform.yaml")])?;
            if PES.contains(&node) {
                pe.run(&["edgeplex", "apply", "-f", &document(lab, node, "customers.yaml"), "--wait=120"])?;
            }
            Ok(())
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = PLATFORMS.into_iter().map(|node| scope.spawn(apply(node))).collect();
        running.into_iter().try_for_each(|r| r.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })
}
