//! A CE that speaks BGP badly harms itself only.

use super::{
    Evidence,
    site::{CITIES, CONVERGE, Ctx, ce_address, number, other, pe_address},
};
use crate::traffic::{result, stop_all};
use crate::{launch, process::Process, tools::badbgp, wait};
use anyhow::{Context, Result, ensure};
use std::{process::Child, time::Duration};

const CUSTOMER: &str = "acme";
const BYSTANDER: &str = "beta";

/// The sessions that must not notice: the other customer's and the core's, in both cities.
fn other_sessions(ctx: &Ctx<'_>) -> Result<Vec<(String, u64)>> {
    CITIES.iter().flat_map(|city| [ctx.bgp_resets(BYSTANDER, city), ctx.core_resets(city)]).collect()
}

pub(super) fn bad_bgp(ctx: &Ctx<'_>) -> Result<Evidence> {
    let streams = ctx.streams(BYSTANDER)?;
    let before = other_sessions(ctx)?;
    for city in CITIES {
        let ce = ctx.ce(CUSTOMER, city)?;
        for pid in ce.processes("bird") {
            Process::find(pid).context("bird")?.kill();
        }
        wait::until_true("bird ends", Duration::from_secs(5), || Ok(ce.processes("bird").is_empty()))?;
        ce.run(&["rm", "-f", "/run/bird/bird.ctl"])?;
    }
    let outcome = misbehave(ctx);
    // Whatever came of it, the customer's own routers come back.
    for city in CITIES {
        launch::bird(ctx.ce(CUSTOMER, city)?)?;
    }
    let evidence = outcome?;
    let (sent, gap) = stop_all(streams)?;
    let after = other_sessions(ctx)?;
    ensure!(before == after, "other sessions were disturbed: {before:?} then {after:?}");
    let text = format!("{}; {BYSTANDER} lost 0 of {sent}, {} other sessions untouched", evidence.text, after.len());
    Ok(Evidence { text, ..evidence }.figure("bystander_sent", sent).figure("bystander_gap_ms", gap))
}

fn start(ctx: &Ctx<'_>, city: &str, kind: &str) -> Result<Child> {
    let asn = format!("6510{}", number(city));
    ctx.ce(CUSTOMER, city)?.tool(&["badbgp", "--peer", &pe_address(city), "--asn", &asn, "--router-id", &ce_address(city), "--kind", kind])
}

fn misbehave(ctx: &Ctx<'_>) -> Result<Evidence> {
    let [near, far] = CITIES;
    debug_assert_eq!(far, other(near));
    let mut shown = vec![];
    let mut ends = |city, kind: &str, what: &str, want: (u8, u8)| -> Result<()> {
        let report: badbgp::Report = result(start(ctx, city, kind)?).with_context(|| format!("badbgp {kind}"))?;
        ensure!(report.closed, "{kind}: the session was not ended: {report:?}");
        ensure!(report.notification == Some(want), "{kind}: NOTIFICATION {:?}, expected {want:?}", report.notification);
        shown.push(format!("{what}: {}/{}", want.0, want.1));
        Ok(())
    };
    // First, because its PE then leaves this neighbour alone for half a minute: see `recovered`.
    ends(far, "flood", "flood of 200,000 prefixes", (6, 1))?;

    // RFC 7606: the session survives, the good route is taken, the bad one is not.
    let keeps = start(ctx, near, "attributes")?;
    let sees = |prefix| -> Result<bool> {
        let rows = ctx.edgeplex_json(far, &["show", "routes", "-c", CUSTOMER])?.to_string();
        Ok(rows.contains(&format!("\"{prefix}\"")))
    };
    wait::until_true("the good route among malformed ones arrives", CONVERGE, || sees(badbgp::GOOD_PREFIX))?;
    ensure!(!sees(badbgp::BAD_PREFIX)?, "a route with malformed attributes was taken");
    let report: badbgp::Report = result(keeps).context("badbgp attributes")?;
    ensure!(!report.closed && report.notification.is_none(), "malformed attributes ended the session: {report:?}");

    // RFC 4271 §6.1 says how these end.
    ends(near, "length", "length", (1, 2))?;
    ends(near, "marker", "marker", (1, 1))?;
    Ok(Evidence::new(format!("malformed attributes: session kept; {}", shown.join(", "))))
}

/// Its sender is served again, once its own routers are back and the half minute has passed.
pub(super) fn recovered(ctx: &Ctx<'_>) -> Result<Evidence> {
    let mut lost = vec![];
    for city in CITIES {
        ctx.wait_established(CUSTOMER, city)?;
        let (state, resets) = ctx.bgp_resets(CUSTOMER, city)?;
        ensure!(resets > 0, "{CUSTOMER}'s session in {city} is {state} and was never lost: nothing to recover from");
        lost.push(resets);
    }
    ctx.wait_for_traffic(CUSTOMER)?;
    for city in CITIES {
        let report = ctx.udp(CUSTOMER, city, 100, 50, 64)?;
        ensure!(report.lost == 0, "{CUSTOMER} from {city} lost {} of {}", report.lost, report.sent);
        ensure!(!ctx.ce_has(CUSTOMER, city, badbgp::GOOD_PREFIX)?, "a route of the bad speaker in {city} outlives it");
    }
    Ok(Evidence::new(format!("{CUSTOMER} answers both ways again; its sessions were lost {lost:?} times before")))
}
