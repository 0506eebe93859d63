//! Ping and traceroute, in a VPN and through the core's LSPs.

use crate::{
    error::Stop,
    output::{Printer, list, or_none, table},
};
use edgeplex_api::{Client, LspProbe, PROBE_MARGIN, VpnProbe};
use edgeplex_mgmt::show::{PingOptions, PingReport, Probe};
use edgeplex_types::AttachmentId;
use ipnet::Ipv4Net;
use serde::Serialize;
use std::{net::IpAddr, process::ExitCode, time::Duration};

pub(crate) async fn ping(
    client: &Client,
    out: Printer,
    attachment: AttachmentId,
    to: IpAddr,
    options: PingOptions,
) -> Result<ExitCode, Stop> {
    let longest = options.longest_ping();
    let report = ask(client, "/v1/ping", longest, &VpnProbe { attachment, to, options }).await?;
    print_ping(out, &report)
}

pub(crate) async fn traceroute(
    client: &Client,
    out: Printer,
    attachment: AttachmentId,
    to: IpAddr,
    options: PingOptions,
) -> Result<ExitCode, Stop> {
    let longest = options.longest_traceroute();
    let report = ask(client, "/v1/traceroute", longest, &VpnProbe { attachment, to, options }).await?;
    print_traceroute(out, &report)
}

pub(crate) async fn lsp_ping(client: &Client, out: Printer, prefix: Ipv4Net, options: PingOptions) -> Result<ExitCode, Stop> {
    let longest = options.longest_ping();
    print_ping(out, &ask(client, "/v1/lsp/ping", longest, &LspProbe { prefix, options }).await?)
}

pub(crate) async fn lsp_traceroute(client: &Client, out: Printer, prefix: Ipv4Net, options: PingOptions) -> Result<ExitCode, Stop> {
    let longest = options.longest_traceroute();
    print_traceroute(out, &ask(client, "/v1/lsp/traceroute", longest, &LspProbe { prefix, options }).await?)
}

async fn ask<B: Serialize>(client: &Client, path: &str, longest: Duration, body: &B) -> Result<PingReport, Stop> {
    // The controller waits as long for the VM and one margin more; it shall be the one to give up.
    Ok(client.patient(longest + 2 * PROBE_MARGIN).post(path, body).await?)
}

fn print_ping(out: Printer, report: &PingReport) -> Result<ExitCode, Stop> {
    out.print(report, |r| format!("{}\n{}\n", probes_text(r, "REQUEST"), summary(r)))?;
    Ok(if report.received > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_traceroute(out: Printer, report: &PingReport) -> Result<ExitCode, Stop> {
    out.print(report, |r| probes_text(r, "HOP"))?;
    Ok(if report.probes.iter().any(|p| p.last) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn probes_text(report: &PingReport, number: &str) -> String {
    let row = |p: &Probe| {
        vec![p.number.to_string(), or_none(p.from), p.rtt_us.map(milliseconds).unwrap_or_default(), p.outcome.clone(), list(&p.labels)]
    };
    table(&[number, "FROM", "TIME", "OUTCOME", "LABELS"], report.probes.iter().map(row))
}

fn summary(r: &PingReport) -> String {
    let lost = r.sent.saturating_sub(r.received);
    let percent = if r.sent == 0 { 0 } else { u32::from(lost) * 100 / u32::from(r.sent) };
    let mut out = format!("{} sent, {} received, {percent} % lost", r.sent, r.received);
    let times: Vec<u64> = r.probes.iter().filter_map(|p| p.rtt_us).collect();
    if let (Some(least), Some(most)) = (times.iter().min(), times.iter().max()) {
        let sum = times.iter().fold(0_u64, |sum, t| sum.saturating_add(*t));
        let mean = sum / u64::try_from(times.len()).unwrap_or(1).max(1);
        let [least, mean, most] = [*least, mean, *most].map(milliseconds);
        out += &format!("; time {least} at least, {mean} on average, {most} at most");
    }
    out
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_is_a_table_and_a_summary() {
        let report: PingReport = serde_json::from_value(json!({"sent": 3, "received": 2, "probes": [
            {"number": 1, "from": "10.0.0.2", "rtt_us": 1234, "outcome": "echo-reply", "last": true},
            {"number": 2, "from": null, "rtt_us": null, "outcome": "timeout", "last": false},
            {"number": 3, "from": "10.0.0.2", "rtt_us": 2000, "outcome": "ttl-exceeded", "labels": [17, 1000], "last": false}]}))
        .unwrap();
        assert_eq!(summary(&report), "3 sent, 2 received, 33 % lost; time 1.234 ms at least, 1.617 ms on average, 2.000 ms at most");
        let text = probes_text(&report, "HOP");
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["1", "10.0.0.2", "1.234", "ms", "echo-reply", "-"]);
        assert_eq!(rows[2], ["2", "-", "-", "timeout", "-"]);
        assert_eq!(rows[3], ["3", "10.0.0.2", "2.000", "ms", "ttl-exceeded", "17,1000"]);
        assert_eq!(summary(&PingReport { sent: 0, received: 0, probes: vec![] }), "0 sent, 0 received, 0 % lost");
    }
}
