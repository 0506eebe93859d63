//! A CE that speaks BGP badly harms itself only.

use super::{
    Evidence,
    site::{CITIES, CONVERGE, Ctx, ce_address, other, pe_address, result, stop_all},
};
use crate::{launch, process::Process, tools::badbgp, wait};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

pub(super) fn bad_bgp(ctx: &Ctx<'_>) -> Result<Evidence> {
    let (customer, bystander, city) = ("acme", "beta", CITIES[0]);
    let streams = ctx.streams(bystander)?;
    let sessions = |ctx: &Ctx<'_>| -> Result<Vec<(String, u64)>> {
        Ok(vec![ctx.bgp_resets(bystander, CITIES[0])?, ctx.bgp_resets(bystander, CITIES[1])?, ctx.bgp_resets(customer, other(city))?])
    };
    let before = sessions(ctx)?;
    let ce = ctx.ce(customer, city)?;
    for pid in ce.processes("bird") {
        Process::find(pid).context("bird")?.kill();
    }
    wait::until_true("bird ends", Duration::from_secs(5), || Ok(ce.processes("bird").is_empty()))?;
    ce.run(&["rm", "-f", "/run/bird/bird.ctl"])?;
    let outcome = misbehave(ctx, city);
    // Whatever came of it, the customer's own router comes back.
    launch::bird(ce)?;
    let evidence = outcome?;
    ctx.wait_established(customer, city)?;
    ctx.wait_for_traffic(customer)?;
    let (sent, gap) = stop_all(streams)?;
    let after = sessions(ctx)?;
    ensure!(before == after, "other sessions were disturbed: {before:?} then {after:?}");
    let text = format!("{}; {bystander} lost 0 of {sent}, 3 other sessions untouched", evidence.text);
    Ok(Evidence { text, ..evidence }.figure("bystander_sent", sent).figure("bystander_gap_ms", gap))
}

fn misbehave(ctx: &Ctx<'_>, city: &str) -> Result<Evidence> {
    let ce = ctx.ce("acme", city)?;
    let asn = format!("6510{}", super::site::number(city));
    let run = |kind: &str| -> Result<badbgp::Report> {
        let arguments = ["badbgp", "--peer", &pe_address(city), "--asn", &asn, "--router-id", &ce_address(city), "--kind", kind];
        result(ce.tool(&arguments)?).with_context(|| format!("badbgp {kind}"))
    };
    // RFC 7606: the session survives, the good route is taken, the bad one is not.
    let child = {
        let arguments = ["badbgp", "--peer", &pe_address(city), "--asn", &asn, "--router-id", &ce_address(city), "--kind", "attributes"];
        ce.tool(&arguments)?
    };
    let far = other(city);
    wait::until_true("the good route among malformed ones arrives", CONVERGE, || ctx.ce_has("acme", far, badbgp::GOOD_PREFIX))?;
    ensure!(!ctx.ce_has("acme", far, badbgp::BAD_PREFIX)?, "a route with malformed attributes was taken");
    let report: badbgp::Report = result(child).context("badbgp attributes")?;
    ensure!(!report.closed && report.notification.is_none(), "malformed attributes ended the session: {report:?}");

    let mut shown = vec!["attributes: session kept".to_owned()];
    // RFC 4271 §6.1: 1/1 and 1/2; RFC 4486 §4: 6/1.
    for (kind, want) in [("marker", (1, 1)), ("length", (1, 2)), ("flood", (6, 1))] {
        let report = run(kind)?;
        ensure!(report.closed, "{kind}: the session was not ended: {report:?}");
        ensure!(report.notification == Some(want), "{kind}: NOTIFICATION {:?}, expected {want:?}", report.notification);
        shown.push(format!("{kind}: {}/{}", want.0, want.1));
    }
    Ok(Evidence::new(shown.join(", ")))
}
