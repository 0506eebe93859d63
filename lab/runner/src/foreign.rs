//! `lab/foreign-pe`: a site of acme hangs on a PE that is not ours, FRR with the kernel's MPLS and VRFs in a QEMU guest. Packets
//! cross both ways under two labels, and both ends' routers know each other's prefixes.

use crate::{
    demo::{Ledger, Options},
    guest,
    lab::{Lab, down},
    leftovers, say,
    scenarios::{Capture, Evidence, tshark},
    state::LabDir,
    traffic::{self, Servers, Way},
    wait,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

const PLATFORMS: [&str; 2] = ["p1", "denver"];
/// Site, and the address of its host.
const SITES: [(&str, &str); 2] = [("acme-denver", "172.16.1.10"), ("acme-third", "172.16.3.10")];
const CONVERGE: Duration = Duration::from_secs(90);
const COUNT: u64 = 200;

/// Runs the steps; true if all was proven.
pub fn run(options: &Options) -> Result<bool> {
    let name = options.name.clone().unwrap_or_else(|| "foreign-pe".into());
    std::fs::create_dir_all(&options.out)?;
    let mut ledger = Ledger::new(6);
    prove(&mut ledger, options, &name);
    if !options.keep {
        ledger.step("nothing is left behind", || {
            down(&LabDir::of(&name)?)?;
            let found = leftovers::of(&name, &PLATFORMS);
            ensure!(found.is_empty(), "left behind: {}", found.join(", "));
            Ok(((), Evidence::new("no namespace, process, mount, cgroup or directory")))
        });
    }
    say!("{}", ledger.table());
    say!("{} passed, {} failed", ledger.proofs.len() - ledger.failed(), ledger.failed());
    Ok(ledger.failed() == 0)
}

fn prove(ledger: &mut Ledger, options: &Options, name: &str) {
    let up = ledger.step("the lab comes up, the guest boots", || {
        let lab = Lab::up(&options.topology, Some(name))?;
        let kernel = guest::ask(lab.node("guest")?, "uname -r")?;
        Ok((lab, Evidence::new(format!("FRR on Linux {}", kernel.lines().last().unwrap_or_default().trim()))))
    });
    let Some(lab) = up else { return };
    let provisioned = ledger.step("P and PE of ours provisioned", || {
        let file = |node: &str, file: &str| lab.topology.directory.join("foreign-pe").join(node).join(file).to_string_lossy().into_owned();
        for (node, yaml) in [("p1", "platform.yaml"), ("denver", "platform.yaml"), ("denver", "acme.yaml")] {
            lab.node(node)?.run(&["edgeplex", "apply", "-f", &file(node, yaml)])?;
        }
        let servers = Servers::start(&lab, SITES.iter().map(|(site, _)| (format!("{site}-host"), (*site).to_owned())))?;
        Ok((servers, Evidence::new("edgeplex apply")))
    });
    let Some(_servers) = provisioned else { return };
    let converged = ledger.step("routes cross in both directions", || {
        for ((site, _), (_, other)) in SITES.iter().zip(SITES.iter().rev()) {
            let prefix = other.replace(".10", ".0/24");
            let ask = || {
                let out = lab.node(site)?.output(&["birdc", "show", "route", &prefix])?;
                let said = String::from_utf8_lossy(&out.stdout).into_owned();
                Ok(if said.contains(&format!("{prefix} ")) && said.contains("[edgeplex") { Ok(()) } else { Err(said) })
            };
            wait::until(&format!("{site} knows {prefix}"), CONVERGE, ask)?;
        }
        Ok(((), Evidence::new("each CE's BIRD has the other's LAN from its PE")))
    });
    if converged.is_none() {
        return;
    }
    ledger.step("hosts reach each other both ways", || traffic_both_ways(&lab));
    ledger.step("two labels both ways (tshark)", || labels(&lab, options));
}

fn datagrams(lab: &Lab, from: usize, count: u64, source_port: u16) -> Result<()> {
    let ((site, _), (other, to)) = (SITES[from], SITES[1 - from]);
    let report = traffic::send(lab.node(&format!("{site}-host"))?, &Way { to, pps: 100, size: 64, source_port }, count)?;
    ensure!(report.lost == 0, "{site}: {} of {} lost", report.lost, report.sent);
    ensure!(report.answered_by.iter().eq([other]), "{site} was answered by {:?}", report.answered_by);
    Ok(())
}

fn traffic_both_ways(lab: &Lab) -> Result<((), Evidence)> {
    for (from, (site, _)) in SITES.iter().enumerate() {
        wait::until(&format!("the first answers to {site}"), CONVERGE, || Ok(datagrams(lab, from, 3, 0).map_err(|e| format!("{e:#}"))))?;
        datagrams(lab, from, COUNT, 0)?;
    }
    Ok(((), Evidence::new(format!("{} of {} datagrams answered by the right host", 2 * COUNT, 2 * COUNT)).figure("sent", 2 * COUNT)))
}

/// Both PEs push two labels: what p1 receives on either side carries p1's own label over the other PE's.
fn labels(lab: &Lab, options: &Options) -> Result<((), Evidence)> {
    let p1 = lab.node("p1")?;
    let forwarding: Value = serde_json::from_str(&p1.run(&["edgeplex", "show", "forwarding", "-o", "json"])?)?;
    let mut shown = vec![];
    for (from, interface, loopback) in [(0, "eth1", "10.255.0.7/32"), (1, "eth2", "10.255.0.1/32")] {
        let rows = forwarding.as_array().into_iter().flatten();
        let row =
            rows.into_iter().find(|r| r["prefix"] == loopback).with_context(|| format!("p1 has no label for {loopback}: {forwarding}"))?;
        let transit = row["label"].as_u64().context("label")?.to_string();
        let file = options.out.join(format!("{interface}.pcap"));
        let capture = Capture::start(p1, interface, "mpls", &file)?;
        let port = 42001 + u16::try_from(from)?;
        datagrams(lab, from, 50, port)?;
        let seen = tshark(&capture.finish()?, &["mpls.label", "udp.srcport"])?;
        let stacks: Vec<&str> = seen.iter().filter(|r| r[1] == port.to_string()).map(|r| r[0].as_str()).collect();
        let good = stacks.iter().filter(|s| s.split(',').count() == 2 && s.starts_with(&format!("{transit},"))).count();
        ensure!(stacks.len() == 50 && good == 50, "{interface}: expected 50 stacks {transit},VPN; saw {stacks:?}");
        shown.push(format!("{} {}", SITES[from].0, stacks[0]));
    }
    Ok(((), Evidence::new(shown.join("; "))))
}
