//! `lab/core-ring`: a core of four routers with redundant links, ours and other people's, to which things happen: links are cut,
//! costs change, daemons die, routers are drained. Numbered datagrams flow both ways at 1000 a second, and each event's loss is
//! counted, printed, and held to what was promised.

mod events;
mod flow;
mod world;

use crate::{
    demo::{self, Ledger, Options},
    lab::{Lab, down},
    leftovers, say,
    scenarios::Evidence,
    state::LabDir,
    traffic::Servers,
};
use anyhow::{Result, ensure};
use std::{thread, time::Instant};
use world::{HOSTS, P_ROUTERS, PES, Way, World};

/// Runs the events; true if all was as promised.
pub fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let name = options.name.clone().unwrap_or_else(|| "core-ring".into());
    std::fs::create_dir_all(&options.out)?;
    let mut ledger = Ledger::new(events::ALL.len() + if options.keep { 2 } else { 3 });
    prove(&mut ledger, options, &name);
    if !options.keep {
        ledger.step("nothing is left behind", || {
            down(&LabDir::of(&name)?)?;
            let found = leftovers::of(&name, &[PES, P_ROUTERS].concat());
            ensure!(found.is_empty(), "left behind: {}", found.join(", "));
            Ok(((), Evidence::new("no namespace, process, mount, cgroup or directory")))
        });
    }
    let seconds = started.elapsed().as_secs_f64();
    say!("{}", ledger.table());
    say!("{} of {} as promised in {seconds:.0} s", ledger.proofs.len() - ledger.failed(), ledger.proofs.len());
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
    let world = World { lab: &lab, out: options.out.clone() };
    let whole = ledger.step("provisioned, converged, whole", || {
        let servers = Servers::start(&lab, HOSTS.iter().zip(PES).map(|((host, _), pe)| ((*host).to_owned(), format!("acme-{pe}"))))?;
        provision(&world)?;
        let first = Instant::now();
        world.wait_datagrams()?;
        let first = first.elapsed().as_secs_f64();
        world.wait_whole()?;
        world.wait_way(Way::Short, true)?;
        Ok((servers, Evidence::new(format!("first datagrams {first:.1} s after the last edgeplex apply")).figure("first_s", first)))
    });
    let Some(_servers) = whole else { return };
    for event in events::ALL {
        // The next one would begin in a core that is not whole.
        if ledger.step(event.name, || Ok(((), (event.run)(&world)?))).is_none() && world.wait_datagrams().is_err() {
            return;
        }
    }
}

/// Platforms come up side by side, as they would when a NOC's tool does it.
fn provision(world: &World<'_>) -> Result<()> {
    thread::scope(|scope| {
        let apply = |node: &'static str| {
            move || -> Result<()> {
                world.apply(node, &[])?;
                if PES.contains(&node) {
                    let file = world.file(node, "acme.yaml");
                    world.node(node)?.run(&["edgeplex", "apply", "-f", &file.to_string_lossy()])?;
                }
                Ok(())
            }
        };
        let running: Vec<_> = [PES, P_ROUTERS].concat().into_iter().map(|node| scope.spawn(apply(node))).collect();
        running.into_iter().try_for_each(|r| r.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })
}
