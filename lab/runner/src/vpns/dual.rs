//! A site on two PEs, and a far PE that sends to it: dual-far by both (ECMP), dual-one by the best with a backup kept ready.
//! Then one way after the other fails, while numbered datagrams flow.

use super::{
    session::Silence,
    world::{CONVERGE, World},
};
use crate::{
    scenarios::{Capture, Evidence, tshark},
    wait,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    process::{Child, Stdio},
    time::Instant,
};

const SITE: &str = "172.16.44.10";
const PREFIX: &str = "172.16.44.0/24";
const PPS: u32 = 200;
/// The site's interface to a PE.
const DENVER: &str = "eth1";
const BOSTON: &str = "eth2";

/// By which interface of the site each flow comes in; a flow must keep to one.
fn ways(w: &World<'_>, from: &str, ports: std::ops::Range<u16>) -> Result<BTreeMap<u16, &'static str>> {
    let site = w.node("dual-site")?;
    let captures = [DENVER, BOSTON].map(|i| (i, Capture::start(site, i, "udp dst port 7007", &w.out.join(format!("{from}-{i}.pcap")))));
    for port in ports.clone() {
        w.datagrams(from, SITE, "dual-site", 4, port)?;
    }
    let mut seen: BTreeMap<u16, &'static str> = BTreeMap::new();
    for (interface, capture) in captures {
        for row in tshark(&capture?.finish()?, &["udp.srcport"])? {
            let before = seen.insert(row[0].parse()?, interface);
            ensure!(before.is_none_or(|b| b == interface), "flow {} is spread over both", row[0]);
        }
    }
    ensure!(ports.clone().all(|p| seen.contains_key(&p)), "not every flow was seen: {seen:?}");
    Ok(seen)
}

pub(super) fn spread(w: &World<'_>) -> Result<Evidence> {
    let count = |ways: &BTreeMap<u16, &str>, interface: &str| ways.values().filter(|i| **i == interface).count();
    let (far, one) = (ways(w, "dual-far", 44000..44024)?, ways(w, "dual-one", 44100..44108)?);
    let (denver, boston) = (count(&far, DENVER), count(&far, BOSTON));
    ensure!(denver >= 4 && boston >= 4, "ECMP: {denver} flows by denver, {boston} by boston");
    ensure!(count(&one, DENVER) == 8 || count(&one, BOSTON) == 8, "without ECMP: {one:?}");
    Ok(Evidence::new(format!("maxPaths 4: {denver} flows by denver, {boston} by boston, none split; without: 8 of 8 by one PE"))
        .figure("denver", denver)
        .figure("boston", boston))
}

/// Both ways are whole, and the far PE has both.
fn wait_whole(w: &World<'_>) -> Result<()> {
    wait::until("both ways to the site are whole", CONVERGE, || {
        let sessions = w.birdc("dual-site", "show protocols")?;
        let up = sessions.matches("Established").count();
        let rows = w.rows("austin", &["show", "routes", "-c", "dual"])?;
        let of = |attachment: &str| rows.iter().filter(|r| r["prefix"] == PREFIX && r["attachment"] == attachment).count();
        let whole = up == 2 && of("dual/far") == 2 && of("dual/one") == 2;
        Ok(if whole { Ok(()) } else { Err(format!("{up} sessions, {} and {} paths", of("dual/far"), of("dual/one"))) })
    })?;
    for from in ["dual-far", "dual-one"] {
        w.wait_ping(from, SITE)?;
    }
    Ok(())
}

/// Ends when ten datagrams of a flow have come in by an interface of the site.
fn watch(w: &World<'_>, interface: &str, port: u16) -> Result<Child> {
    let mut command = w.node("dual-site")?.command("tcpdump", &["-i", interface, "-c", "10", "-n", "-q", &format!("udp src port {port}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("tcpdump")
}

struct Failure<'a> {
    fail: &'a dyn Fn() -> Result<()>,
    /// Looked at as soon as the flows have gone over.
    meanwhile: &'a dyn Fn() -> Result<String>,
    mend: &'a dyn Fn() -> Result<()>,
    /// Milliseconds of datagrams that may be missing.
    limit: u64,
    /// The flows come in by boston's link while it lasts.
    goes_over: bool,
}

/// A flow of dual-far and one of dual-one, both by denver, while denver's way fails; then all is mended.
fn during(w: &World<'_>, failure: &Failure<'_>) -> Result<Evidence> {
    wait_whole(w)?;
    let mut flows = vec![];
    for (from, ports) in [("dual-far", 45000..45008), ("dual-one", 45100..45101)] {
        let by_denver = ways(w, from, ports)?.into_iter().find(|(_, i)| *i == DENVER);
        flows.push((from, by_denver.with_context(|| format!("no flow of {from} goes by denver"))?.0));
    }
    let mut watches = vec![];
    if failure.goes_over {
        for (_, port) in &flows {
            watches.push(watch(w, BOSTON, *port)?);
        }
    }
    let streams = flows.iter().map(|(from, port)| w.stream(from, SITE, PPS, *port)).collect::<Result<Vec<_>>>()?;
    let flowing = flows.iter().map(|(_, port)| watch(w, DENVER, *port)).collect::<Result<Vec<_>>>()?;
    for mut child in flowing {
        ended(&mut child, "the flows come by denver")?;
    }
    let start = Instant::now();
    let outcome = (|| -> Result<(u128, String)> {
        (failure.fail)()?;
        for child in &mut watches {
            ended(child, "the flows go over to boston")?;
        }
        let over = start.elapsed().as_millis();
        Ok((over, (failure.meanwhile)()?))
    })();
    for child in &mut watches {
        crate::traffic::stop(child);
    }
    if outcome.is_ok() {
        for (from, _) in &flows {
            w.wait_ping(from, SITE)?;
        }
    }
    let reports = streams.into_iter().map(crate::traffic::Stream::stop).collect::<Vec<_>>();
    (failure.mend)()?;
    let (over, noticed) = outcome?;
    wait_whole(w)?;
    let mut shown = vec![];
    let mut evidence = Evidence::default();
    for ((from, _), report) in flows.iter().zip(reports) {
        let report = report?;
        let missing = report.lost * 1000 / u64::from(PPS);
        ensure!(missing <= failure.limit, "{from}: {} of {} lost, {missing} ms of {}", report.lost, report.sent, failure.limit);
        shown.push(format!("{from} lost {} of {} ({missing} ms)", report.lost, report.sent));
        evidence = evidence.figure(&format!("{from}_lost"), report.lost).figure(&format!("{from}_sent"), report.sent);
    }
    let over = if failure.goes_over { format!("; by boston after {over} ms") } else { String::new() };
    evidence.text = format!("{}{over}{noticed}", shown.join(", "));
    Ok(evidence)
}

fn ended(child: &mut Child, what: &str) -> Result<()> {
    wait::until_true(what, CONVERGE, || Ok(child.try_wait()?.is_some()))
}

pub(super) fn session_down(w: &World<'_>) -> Result<Evidence> {
    during(
        w,
        &Failure {
            fail: &|| w.birdc("dual-site", "disable denver").map(drop),
            meanwhile: &|| Ok(String::new()),
            mend: &|| w.birdc("dual-site", "enable denver").map(drop),
            limit: 500,
            goes_over: true,
        },
    )
}

/// The CE's end goes down; denver's PVM hears nothing but BFD's silence.
pub(super) fn link_cut(w: &World<'_>) -> Result<Evidence> {
    let site = w.node("dual-site")?;
    during(
        w,
        &Failure {
            fail: &|| site.run(&["ip", "link", "set", DENVER, "down"]).map(drop),
            meanwhile: &|| Ok(String::new()),
            mend: &|| site.run(&["ip", "link", "set", DENVER, "up"]).map(drop),
            limit: 2_000,
            goes_over: true,
        },
    )
}

/// The whole VM, forwarder and all; edgeplexd starts another.
pub(super) fn pvm_killed(w: &World<'_>) -> Result<Evidence> {
    let pid = || -> Result<Option<u64>> {
        let status = w.edgeplex("denver", &["status"])?;
        let vms = status.get("vms").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(vms.iter().find(|v| v["id"] == "pvm-dual-main-g1").and_then(|v| v["pid"].as_u64()))
    };
    let old = pid()?.context("denver's status has no pvm-dual-main")?;
    let again = || -> Result<()> {
        wait::until("denver's PVM is there again", CONVERGE, || {
            Ok(match pid()? {
                Some(new) if new != old => Ok(()),
                other => Err(format!("pid {other:?}")),
            })
        })
    };
    during(
        w,
        &Failure {
            fail: &|| w.node("denver")?.run(&["kill", "-9", &old.to_string()]).map(drop),
            meanwhile: &|| again().map(|()| "; the VM was started again".to_owned()),
            mend: &again,
            limit: 15_000,
            goes_over: false,
        },
    )
}

/// Denver loses its core link while the reflector's bgpd is held still: no BGP message can tell the far PE. Its IGP takes the legs of the
/// tunnel, and the backups that were installed beforehand stand in.
pub(super) fn pe_cut_off(w: &World<'_>) -> Result<Evidence> {
    let denver = w.node("denver")?;
    let silence = RefCell::new(None);
    during(
        w,
        &Failure {
            fail: &|| {
                *silence.borrow_mut() = Some(Silence::of(w, "rr", &["bgpd"])?);
                denver.run(&["ip", "link", "set", "eth1", "down"]).map(drop)
            },
            meanwhile: &|| Ok("; the reflector's bgpd was held still all the time".to_owned()),
            mend: &|| {
                silence.borrow_mut().take();
                denver.run(&["ip", "link", "set", "eth1", "up"]).map(drop)
            },
            limit: 3_000,
            goes_over: true,
        },
    )
}
