//! Does traffic get through, whole and to the right host?

use super::{
    Evidence,
    site::{CITIES, CUSTOMERS, Ctx, ce_address, host_address, other, pe_address},
};
use crate::tools::{PORT, tcp};
use crate::traffic::result;
use anyhow::{Context, Result, ensure};

/// Runs ping and gives (sent, received).
fn ping_counts(ctx: &Ctx<'_>, customer: &str, from: &str, extra: &[&str]) -> Result<(u64, u64)> {
    let to = host_address(other(from));
    let out = ctx.host(customer, from)?.output(&[&["ping", "-n", "-q", "-W", "1"], extra, &[&to]].concat())?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = said.lines().find(|l| l.contains("packets transmitted")).with_context(|| format!("ping said: {said}"))?;
    let mut numbers = line.split([' ', ',']).filter_map(|w| w.parse::<u64>().ok());
    numbers.next().zip(numbers.next()).with_context(|| line.to_owned())
}

fn all_pairs(ctx: &Ctx<'_>, extra: &[&str]) -> Result<Evidence> {
    let (mut sent, mut received) = (0, 0);
    for customer in CUSTOMERS {
        for city in CITIES {
            let (s, r) = ping_counts(ctx, customer, city, extra)?;
            ensure!(s == r && s > 0, "{customer} from {city}: {r} of {s} answered");
            sent += s;
            received += r;
        }
    }
    Ok(Evidence::new(format!("{received} of {sent} answered, 4 pairs")).figure("sent", sent).figure("received", received))
}

pub(super) fn ping(ctx: &Ctx<'_>) -> Result<Evidence> {
    all_pairs(ctx, &["-c", "20", "-i", "0.02"])
}

pub(super) fn ping_df(ctx: &Ctx<'_>) -> Result<Evidence> {
    // 1,372 bytes of data, 8 of ICMP, 20 of IP.
    all_pairs(ctx, &["-c", "10", "-i", "0.02", "-M", "do", "-s", "1372"])
}

pub(super) fn udp(ctx: &Ctx<'_>) -> Result<Evidence> {
    let mut sent = 0;
    let mut median = 0;
    for customer in CUSTOMERS {
        for city in CITIES {
            let report = ctx.udp(customer, city, 200, 100, 512)?;
            ensure!(report.lost == 0, "{customer} from {city}: {} of {} lost", report.lost, report.sent);
            let want = format!("{customer}-{}", other(city));
            ensure!(report.answered_by.iter().eq([&want]), "{customer} from {city} was answered by {:?}", report.answered_by);
            sent += report.sent;
            median = median.max(report.rtt_median_us);
        }
    }
    Ok(Evidence::new(format!("{sent} of {sent} answered, median RTT at most {median} us"))
        .figure("sent", sent)
        .figure("rtt_median_us", median))
}

pub(super) fn tcp(ctx: &Ctx<'_>) -> Result<Evidence> {
    const BYTES: u64 = 50_000_000;
    let mut rates = vec![];
    for (customer, from) in CUSTOMERS.iter().zip(CITIES) {
        let to = format!("{}:{PORT}", host_address(other(from)));
        let report: tcp::Report = result(ctx.host(customer, from)?.tool(&["tcp-send", "--to", &to, "--bytes", &BYTES.to_string()])?)
            .with_context(|| format!("{customer} from {from}"))?;
        let want = format!("{customer}-{}", other(from));
        ensure!(report.answered_by == want, "{customer} from {from} was answered by {}", report.answered_by);
        rates.push((*customer, report.mbit_per_second));
    }
    let text = rates.iter().map(|(c, r)| format!("{c} {r:.0} Mbit/s")).collect::<Vec<_>>().join(", ");
    let mut evidence = Evidence::new(format!("SHA-256 equal at both ends; {text}")).figure("bytes", BYTES);
    for (customer, rate) in rates {
        evidence = evidence.figure(&format!("{customer}_mbit_per_second"), rate.round());
    }
    Ok(evidence)
}

pub(super) fn traceroute(ctx: &Ctx<'_>) -> Result<Evidence> {
    let mut shown = String::new();
    for customer in CUSTOMERS {
        let (from, to) = (CITIES[0], CITIES[1]);
        let said = ctx.host(customer, from)?.run(&["traceroute", "-n", "-q", "1", "-w", "1", "-m", "8", &host_address(to)])?;
        let hops: Vec<&str> = said.lines().skip(1).filter_map(|l| l.split_whitespace().nth(1)).collect();
        // p1 counts as a hop (RFC 3443 §2.2: uniform model) and answers along the LSP, from its address on Denver's link.
        let want = ["172.16.1.1".to_owned(), pe_address(from), "10.0.1.2".into(), pe_address(to), ce_address(to), host_address(to)];
        // The far CE may answer from either of its addresses.
        let same =
            hops.len() == want.len() && hops.iter().zip(&want).enumerate().all(|(i, (h, w))| h == w || (i == 4 && *h == "172.16.2.1"));
        ensure!(same, "{customer}: hops {hops:?}, expected {want:?}");
        shown = hops.join(" > ");
    }
    Ok(Evidence::new(shown.clone()).figure("hops", shown))
}
