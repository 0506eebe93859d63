//! A PVM is hostile until its key says otherwise, and then may speak for its own attachment only.

use super::{
    Evidence,
    site::{CITIES, Ctx, find_object, other, result},
};
use crate::tools::rogue::Report;
use anyhow::{Context, Result, ensure};
use edgeplex_mgmt::config::PvmConfig;
use serde_json::Value;
use std::fs;

fn refusals(ctx: &Ctx<'_>, city: &str) -> Result<u64> {
    let status = ctx.edgeplex_json(city, &["status"])?;
    find_object(&status, &|o| o.get("refused").is_some_and(Value::is_u64))
        .and_then(|o| o.get("refused")?.as_u64())
        .with_context(|| format!("edgeplex status does not say how many were refused: {status}"))
}

pub(super) fn refused(ctx: &Ctx<'_>) -> Result<Evidence> {
    let city = CITIES[0];
    let node = ctx.pe(city)?;
    let config = node.run(&["cat", "/run/edgeplex/vms/pvm-acme-denver-1/etc/config.json"])?;
    let config: PvmConfig = serde_json::from_str(&config).context("acme's PVM configuration")?;
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
    let log = log_lines(ctx, city, "refus")?;
    ensure!(log > 0, "the CVM's log does not speak of it");
    Ok(Evidence::new(format!(
        "wrong key: no answer; acme's key for beta: {}; refused {before} > {after_foreign}",
        foreign.answers.first().map_or("", String::as_str)
    ))
    .figure("refused_before", before)
    .figure("refused_after", after_foreign)
    .figure("log_lines", log))
}

/// Lines of the CVM's logs that contain the word.
fn log_lines(ctx: &Ctx<'_>, city: &str, word: &str) -> Result<usize> {
    let dir = ctx.pe(city)?.dir.join("edgeplex/vms/cvm/log");
    let mut lines = 0;
    for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        lines += text.lines().filter(|l| l.to_lowercase().contains(word)).count();
    }
    Ok(lines)
}
