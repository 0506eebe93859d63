//! A PVM is hostile until its key says otherwise, and then may speak for its own attachment only.

use super::{
    Evidence,
    site::{CITIES, Ctx, find_object, other},
};
use crate::tools::rogue::Report;
use crate::traffic::result;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{collections::BTreeSet, fs};

fn refusals(ctx: &Ctx<'_>, city: &str) -> Result<u64> {
    let status = ctx.edgeplex_json(city, &["status"])?;
    find_object(&status, &|o| o.get("refused").is_some_and(Value::is_u64))
        .and_then(|o| o.get("refused")?.as_u64())
        .with_context(|| format!("edgeplex status does not say how many were refused: {status}"))
}

pub(super) fn refused(ctx: &Ctx<'_>) -> Result<Evidence> {
    let city = CITIES[0];
    let node = ctx.pe(city)?;
    let config = ctx.pvm_config("acme", city)?;
    let old_lines = log_lines(ctx, city)?;
    // A prefix that, if it were taken, would draw beta's traffic of the other city here.
    let prefix = "172.16.77.0/24";
    let common =
        ["rogue", "--endpoint", "ipc:///run/edgeplex/relay/relay.sock", "--server-key", &config.relay.server_key, "--prefix", prefix];
    let before = refusals(ctx, city)?;

    let wrong_key: Report = result(node.tool(&[&common[..], &["--attachment", "acme/denver-1"]].concat())?).context("wrong key")?;
    ensure!(!wrong_key.welcomed && wrong_key.answers.is_empty(), "a wrong key was answered: {:?}", wrong_key.answers);
    let after_key = refusals(ctx, city)?;
    ensure!(after_key > before, "the wrong key does not show in edgeplex status: refused {before}, then {after_key}");

    let keys = ["--public-key", &config.relay.public_key, "--secret-key", &config.relay.secret_key, "--attachment", "beta/denver-1"];
    let foreign: Report = result(node.tool(&[&common[..], &keys].concat())?).context("foreign attachment")?;
    ensure!(!foreign.welcomed && foreign.refused, "acme's key speaking for beta was not refused: {:?}", foreign.answers);
    let after_foreign = refusals(ctx, city)?;
    ensure!(
        after_foreign > after_key,
        "the foreign attachment does not show in edgeplex status: refused {after_key}, then {after_foreign}"
    );

    for customer in super::CUSTOMERS {
        ensure!(!ctx.ce_has(customer, other(city), prefix)?, "{customer}'s CE in {} has the rogue's prefix", other(city));
    }
    // Of each kind the CVM logs the 1st, 2nd, 4th, 8th … refusal: knock until it is due.
    let due = |told: &dyn Fn(&str) -> bool, arguments: &[&str]| -> Result<String> {
        for _ in 0..8 {
            if let Some(line) = log_lines(ctx, city)?.difference(&old_lines).find(|l| told(l)) {
                return Ok(line.clone());
            }
            result::<Report>(node.tool(&[&common[..], arguments].concat())?)?;
        }
        bail!("the CVM's log says nothing new of {}", arguments.join(" "))
    };
    due(&|l| l.contains("unknown key is refused"), &["--attachment", "acme/denver-1"])?;
    let claim = |l: &str| l.contains("another attachment's name, refused") && l.contains("claimed=beta/denver-1");
    due(&|l| claim(l) && l.contains("attachment=acme/denver-1"), &keys)?;
    Ok(Evidence::new(format!(
        "wrong key: no answer; acme's key for beta: {}; both logged; refused {before} > {after_foreign}",
        foreign.answers.first().map_or("", String::as_str)
    ))
    .figure("refused_before", before)
    .figure("refused_after", after_foreign))
}

/// The lines of the CVM's logs; each begins with its time, so none is like an earlier one.
fn log_lines(ctx: &Ctx<'_>, city: &str) -> Result<BTreeSet<String>> {
    let dir = ctx.pe(city)?.dir.join("edgeplex/vms/cvm-g1/log");
    let mut lines = BTreeSet::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        lines.extend(text.lines().map(str::to_owned));
    }
    Ok(lines)
}
