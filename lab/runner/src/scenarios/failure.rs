//! Processes die; packets do not.

use super::{
    Evidence,
    site::{CITIES, CONVERGE, CUSTOMERS, Ctx, extra_prefix, other},
};
use crate::traffic::stop_all;
use crate::{launch, process::Process, wait};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

fn all_streams(ctx: &Ctx<'_>) -> Result<Vec<crate::traffic::Stream>> {
    Ok(CUSTOMERS.iter().map(|c| ctx.streams(c)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

pub(super) fn pvmd(ctx: &Ctx<'_>) -> Result<Evidence> {
    let (customer, city) = ("acme", CITIES[0]);
    let streams = all_streams(ctx)?;
    let old = ctx.pid_in_pvm(customer, city, "pvmd")?;
    let forwarder = ctx.pid_in_pvm(customer, city, "fastforward")?;
    let started = Instant::now();
    Process::find(old).context("pvmd")?.kill();
    wait::until_true("pvmd is started again", CONVERGE, || Ok(ctx.pid_in_pvm(customer, city, "pvmd").is_ok_and(|p| p != old)))?;
    let restarted = started.elapsed().as_secs_f64();
    // The new pvmd has learnt everything again: its session is up, and it knows both its own and the VPN's routes.
    wait::until_true("the new pvmd has its session and its routes", CONVERGE, || {
        let established = ctx.bgp_resets(customer, city).is_ok_and(|(state, _)| state.eq_ignore_ascii_case("established"));
        Ok(established && ctx.ce_established(customer, city)?)
    })?;
    let whole = started.elapsed().as_secs_f64();
    // And a route that the CE changes now goes all the way, so the machinery is alive, not merely the FIB.
    let ce = ctx.ce(customer, city)?;
    let (far, prefix) = (other(city), extra_prefix(city));
    let present =
        |want: bool| wait::until_true("a change of the CE goes through", CONVERGE, || Ok(ctx.ce_has(customer, far, &prefix)? == want));
    present(true)?;
    ce.run(&["birdc", "disable", "extra"])?;
    let gone = present(false);
    ce.run(&["birdc", "enable", "extra"])?;
    gone?;
    present(true)?;
    // Long enough that a loss after the restart would be seen too.
    let report = ctx.udp("beta", city, 100, 200, 64)?;
    ensure!(report.lost == 0, "beta lost {} of {} after pvmd's restart: {:?}", report.lost, report.sent, report.lost_numbers);
    let (sent, gap) = stop_all(streams)?;
    ensure!(ctx.pid_in_pvm(customer, city, "fastforward")? == forwarder, "FastForward was restarted too");
    Ok(Evidence::new(format!(
        "0 of {sent} lost by acme and beta; pvmd back in {restarted:.2} s, session in {whole:.1} s, longest gap {gap:.0} ms"
    ))
    .figure("sent", sent)
    .figure("lost", 0)
    .figure("pvmd_back_s", restarted)
    .figure("session_back_s", whole))
}

pub(super) fn edgeplexd(ctx: &Ctx<'_>) -> Result<Evidence> {
    let city = CITIES[0];
    let node = ctx.pe(city)?;
    let before = (ctx.flows(city)?, ctx.vm_processes(city)?);
    let streams = all_streams(ctx)?;
    let old = node.processes("edgeplexd");
    ensure!(old.len() == 1, "{city} runs {} edgeplexd", old.len());
    for pid in &old {
        Process::find(*pid).context("edgeplexd")?.kill();
    }
    wait::until_true("edgeplexd ends", Duration::from_secs(5), || Ok(node.processes("edgeplexd").is_empty()))?;
    // While it is gone: traffic, rules and VMs as before.
    for customer in CUSTOMERS {
        let report = ctx.udp(customer, city, 100, 100, 64)?;
        ensure!(report.lost == 0, "{customer} lost {} while edgeplexd was down", report.lost);
    }
    ensure!(before == (ctx.flows(city)?, ctx.vm_processes(city)?), "rules or VMs changed when edgeplexd died");
    let started = Instant::now();
    launch::edgeplexd(node)?;
    let changes = wait::until("edgeplexd has reconciled", CONVERGE, || {
        let status = ctx.edgeplex_json(city, &["status"])?;
        let of = |k: &str| status.pointer(&format!("/reconciler/{k}")).cloned().unwrap_or_default();
        let settled = of("settled") == true && of("passes").as_u64().is_some_and(|p| p > 0);
        Ok(if settled { Ok(of("changes").as_u64()) } else { Err(status.to_string()) })
    })?;
    ensure!(changes == Some(0), "after its restart edgeplexd made {changes:?} changes where none was due");
    let seconds = started.elapsed().as_secs_f64();
    let after = (ctx.flows(city)?, ctx.vm_processes(city)?);
    ensure!(before.0 == after.0, "the switch rules changed: {:?}", difference(&before.0, &after.0));
    ensure!(before.1 == after.1, "the VMs changed: {:?}", difference(&before.1, &after.1));
    let (sent, _) = stop_all(streams)?;
    Ok(Evidence::new(format!(
        "0 of {sent} lost; {} rules and {} VM processes unchanged, back in {seconds:.1} s",
        after.0.len(),
        after.1.len()
    ))
    .figure("sent", sent)
    .figure("lost", 0)
    .figure("rules", after.0.len())
    .figure("vm_processes", after.1.len()))
}

/// Where the label-switching router sends what the CVM is to look at (`fib_api::PUNT_MAC`).
const PUNT_MAC: &str = "02:00:5e:00:00:fd";
/// A customer without routers.
const LATE: &str = "apiVersion: edgeplex/v1
kind: Customer
metadata: {name: aardvark}
spec:
  vpn: {import: ['65000:300'], export: ['65000:300']}
  attachments:
    - {name: denver-1, port: eth2, vlan: 399, address: 192.168.1.1/30}
";

/// The whole CVM, not merely its daemon. Labels must be the same afterwards although a CVM that knows only the attachments, in the
/// order of the alphabet, would give others: a customer comes late whose name is before the others'.
pub(super) fn cvm(ctx: &Ctx<'_>) -> Result<Evidence> {
    let (city, far) = (CITIES[0], other(CITIES[0]));
    let node = ctx.pe(city)?;
    let late = ctx.out.join("aardvark.yaml");
    std::fs::write(&late, LATE)?;
    node.run(&["edgeplex", "apply", "-f", &late.to_string_lossy()])?;
    let labels = wait::until("the switch knows the late customer's label", CONVERGE, || {
        let (now, rules) = (ctx.labels(city)?, ctx.flows(city)?);
        let known = |label: &u64| rules.iter().any(|r| r.contains(&format!("mpls_label={label} ")));
        Ok(if now.len() > CUSTOMERS.len() && now.values().all(known) { Ok(now) } else { Err(format!("{now:?}")) })
    })?;
    ensure!(!labels.values().is_sorted(), "labels are in the order of the names, nothing would be proven: {labels:?}");
    let forwarders = || CUSTOMERS.map(|c| ctx.pid_in_pvm(c, city, "fastforward").ok());
    // All but those between the CVM itself, whose port is a new one, and the core port or the label-switching router.
    let of_the_cvm = ["priority=100,in_port", "priority=150,in_port", &format!("dl_dst={PUNT_MAC}")];
    let rules = || -> Result<Vec<String>> {
        Ok(ctx.flows(city)?.into_iter().filter(|r| !of_the_cvm.iter().any(|part| r.contains(part))).collect())
    };
    let before = (rules()?, forwarders());
    ensure!(!before.0.is_empty(), "{city} has no rules");
    let streams = all_streams(ctx)?;
    let daemon = *node.processes("cvmd").first().context("no cvmd runs")?;
    let old = Process::find(crate::process::parent(daemon).context("cvmd has no parent")?).context("the CVM's first process")?;
    ensure!(ctx.vm_processes(city)?.iter().any(|(_, pid)| *pid == old.pid), "cvmd's parent is not the CVM's first process");
    let started = Instant::now();
    old.kill();
    wait::until_true("the CVM ends", Duration::from_secs(5), || Ok(!old.alive() && !node.processes("cvmd").contains(&daemon)))?;
    wait::until_true("the CVM is started again", CONVERGE, || Ok(!node.processes("cvmd").is_empty()))?;
    let back = started.elapsed().as_secs_f64();
    wait::until("the new CVM has its session with the core", CONVERGE, || {
        Ok(match ctx.core_resets(city) {
            Ok((state, _)) if state.eq_ignore_ascii_case("established") => Ok(()),
            Ok((state, _)) => Err(state),
            // Its management socket is not there yet.
            Err(e) => Err(format!("{e:#}")),
        })
    })?;
    let whole = started.elapsed().as_secs_f64();
    let after = wait::until("every attachment has a label", CONVERGE, || {
        let now = ctx.labels(city)?;
        Ok(if now.len() == labels.len() { Ok(now) } else { Err(format!("{now:?}")) })
    })?;
    ensure!(after == labels, "labels were {labels:?} and are {after:?}");
    // The machinery lives: a change of the CE goes through the new CVM, both ways.
    for (from, to) in [(city, far), (far, city)] {
        super::churn::withdraw_and_announce(ctx, "acme", from, to)?;
    }
    for customer in CUSTOMERS {
        let report = ctx.udp(customer, city, 100, 100, 64)?;
        ensure!(report.lost == 0, "{customer} lost {} after the CVM's return: {:?}", report.lost, report.lost_numbers);
    }
    let (sent, gap) = stop_all(streams)?;
    ensure!(ctx.labels(city)? == labels, "labels were {labels:?} and are {:?}", ctx.labels(city)?);
    let flows = rules()?;
    ensure!(before.0 == flows, "the switch rules changed: {:?}", difference(&before.0, &flows));
    ensure!(before.1 == forwarders() && before.1.iter().all(Option::is_some), "a PVM was restarted too");
    node.run(&["edgeplex", "customer", "delete", "aardvark"])?;
    Ok(Evidence::new(format!(
        "0 of {sent} lost; CVM back in {back:.2} s, session in {whole:.1} s, {} labels and {} rules unchanged, longest gap {gap:.0} ms",
        labels.len(),
        flows.len()
    ))
    .figure("sent", sent)
    .figure("lost", 0)
    .figure("cvm_back_s", back)
    .figure("session_back_s", whole))
}

fn difference<T: PartialEq + Clone>(a: &[T], b: &[T]) -> (Vec<T>, Vec<T>) {
    let only = |x: &[T], y: &[T]| x.iter().filter(|v| !y.contains(v)).cloned().collect();
    (only(a, b), only(b, a))
}
