//! What the NOC sees: every table in every format, ping and traceroute through a VPN and through an LSP.

use super::world::{PES, World};
use crate::scenarios::Evidence;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const TABLES: [&[&str]; 14] = [
    &["ospf", "neighbors"],
    &["ospf", "interfaces"],
    &["ospf", "database"],
    &["ospf", "routes"],
    &["ldp", "neighbors"],
    &["ldp", "bindings"],
    &["forwarding"],
    &["tunnels"],
    &["bfd"],
    &["bgp"],
    &["routes"],
    &["labels"],
    &["fib"],
    &["counters"],
];

/// Three formats say the same: as many rows in each.
pub(super) fn show(w: &World<'_>) -> Result<Evidence> {
    let denver = w.node("denver")?;
    let mut rows = 0;
    for table in TABLES {
        let line = [&["edgeplex", "show"], table].concat();
        let json = w.rows("denver", &line[1..])?;
        let yaml: Vec<Value> =
            serde_saphyr::from_str(&denver.run(&[&line[..], &["-o", "yaml"]].concat())?).with_context(|| format!("{line:?}: YAML"))?;
        let text = denver.run(&line)?;
        ensure!(!json.is_empty() && json.len() == yaml.len(), "{line:?}: {} rows in JSON, {} in YAML", json.len(), yaml.len());
        // A table has a head, and may need more than one line for a row.
        ensure!(text.lines().count() > json.len(), "{line:?}: {} lines for {} rows", text.lines().count(), json.len());
        rows += json.len();
    }
    let one = |table: &[&str], key: &str, want: &str| -> Result<()> {
        let rows = w.rows("denver", &[&["show"], table].concat())?;
        ensure!(rows.iter().all(|r| r[key] == want), "show {}: {key} is not {want} everywhere: {rows:?}", table.join(" "));
        Ok(())
    };
    one(&["ospf", "neighbors"], "state", "full")?;
    one(&["ldp", "neighbors"], "state", "operational")?;
    one(&["bgp"], "state", "established")?;
    one(&["bfd"], "state", "up")?;
    let of_one = w.rows("denver", &["show", "bfd", "feat/main"])?;
    ensure!(of_one.len() == 1, "show bfd feat/main: {of_one:?}");
    Ok(Evidence::new(format!("{} tables, {rows} rows, as table, JSON and YAML; full, operational, established, up", TABLES.len()))
        .figure("rows", rows))
}

fn probes(value: &Value) -> Result<&Vec<Value>> {
    value.get("probes").and_then(Value::as_array).with_context(|| format!("no probes: {value}"))
}

pub(super) fn vpn(w: &World<'_>) -> Result<Evidence> {
    let mut shown = vec![];
    for to in ["172.16.2.10", "2001:db8:a2::10"] {
        let ping = w.edgeplex("denver", &["ping", "six/main", to, "--count", "5", "--interval", "20"])?;
        ensure!(ping["sent"] == 5 && ping["received"] == 5, "ping {to}: {ping}");
        let trace = w.edgeplex("denver", &["traceroute", "six/main", to])?;
        let hops = probes(&trace)?;
        let outcomes: Vec<&str> = hops.iter().filter_map(|h| h["outcome"].as_str()).collect();
        ensure!(outcomes == ["ttl-exceeded", "ttl-exceeded", "ttl-exceeded", "echo-reply"], "traceroute {to}: {trace}");
        let labels: Vec<usize> = hops.iter().map(|h| h["labels"].as_array().map_or(0, Vec::len)).collect();
        ensure!(labels == [2, 1, 0, 0], "traceroute {to}: {labels:?} labels in {trace}");
        shown.push(format!("{to} 5 of 5, hop 1 {} under {}", hops[0]["from"].as_str().unwrap_or_default(), hops[0]["labels"]));
    }
    let nobody = w.node("denver")?.output(&[
        "edgeplex",
        "ping",
        "a/main",
        "192.168.31.2",
        "--count",
        "2",
        "--interval",
        "20",
        "--timeout",
        "300",
    ])?;
    ensure!(nobody.status.code() == Some(1), "ping to another VPN ended with {}", nobody.status);
    Ok(Evidence::new(format!("{}; into another VPN: exit code 1", shown.join("; "))))
}

pub(super) fn lsp(w: &World<'_>) -> Result<Evidence> {
    let loopback = |pe: &str| match pe {
        "denver" => "10.255.0.1",
        "boston" => "10.255.0.2",
        _ => "10.255.0.4",
    };
    let mut shown = vec![];
    for from in PES {
        for to in PES.into_iter().filter(|to| *to != from) {
            let prefix = format!("{}/32", loopback(to));
            let ping = w.edgeplex(from, &["lsp", "ping", &prefix, "--count", "3", "--interval", "20"])?;
            ensure!(ping["received"] == 3, "{from}: lsp ping {prefix}: {ping}");
            let trace = w.edgeplex(from, &["lsp", "traceroute", &prefix])?;
            let [transit, egress] = probes(&trace)?.as_slice() else { anyhow::bail!("{from} to {to}: not two hops: {trace}") };
            ensure!(transit["from"] == "10.255.0.3" && transit["outcome"] == "label switched", "{from} to {to}: {transit}");
            // The label is p1's own for the prefix.
            let forwarding = w.rows("p1", &["show", "forwarding"])?;
            let label = forwarding.iter().find(|r| r["prefix"] == prefix.as_str()).map(|r| r["label"].clone()).context("p1's label")?;
            ensure!(transit["labels"][0] == label, "{from} to {to}: p1 answers {transit}, its label is {label}");
            let right = egress["from"] == loopback(to) && egress["outcome"] == "replying router is an egress for the FEC";
            ensure!(right && egress["last"] == true, "{from} to {to}: {egress}");
            shown.push(format!("{from}-{to} {label}"));
        }
    }
    let nobody = w.node("denver")?.output(&["edgeplex", "lsp", "ping", "10.255.0.77/32"])?;
    ensure!(nobody.status.code() != Some(0), "an LSP that is not there is said to work");
    Ok(Evidence::new(format!("3 of 3 each way; label switched at p1 ({}), egress at the end", shown.join(", "))))
}
