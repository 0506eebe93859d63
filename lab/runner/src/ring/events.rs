//! What happens to the core, one event after another, and what each may cost.

use super::{
    flow::{self, Direction, Flows},
    world::{CONVERGE, Log, P_ROUTERS, P2, PES, Way, World},
};
use crate::{
    launch,
    process::Process,
    resilience::judge::{Seat, Sitting},
    scenarios::Evidence,
    wait,
};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) name: &'static str,
    pub(super) run: fn(&World<'_>) -> Result<Evidence>,
}

/// Each begins with a core that is whole, and ends with one; packets go the way where the last one left them.
pub(super) const ALL: &[Event] = &[
    Event { name: "denver-p2 cut, in silence", run: |w| silent_cut(w, &TO_P2, &|| w.wait_way_from(0, Way::Long, false)) },
    Event { name: "denver-p2 restored", run: |w| restore(w, &TO_P2, Way::Short) },
    Event { name: "p2 (FRR) drained", run: |w| frr_drain(w, true) },
    Event { name: "p2 (FRR) back in service", run: |w| frr_drain(w, false) },
    Event { name: "costs raised by intent", run: |w| costs(w, true) },
    Event { name: "p1-p3 cut, in silence", run: |w| silent_cut(w, &P1_P3, &|| w.wait_way(Way::Long, false)) },
    Event { name: "p1-p3 restored", run: |w| restore(w, &P1_P3, Way::Long) },
    Event { name: "kill -9 cvmd on p1", run: |w| kill_cvmd(w, "p1", "10.255.0.3") },
    Event { name: "kill -9 cvmd on denver", run: |w| kill_cvmd(w, "denver", "10.255.0.1") },
    Event { name: "p1 drained by intent", run: |w| drain(w, true) },
    Event { name: "p1 back in service", run: |w| drain(w, false) },
    Event { name: "costs lowered by intent", run: |w| costs(w, false) },
    Event { name: "kill -9 ospfd on p2 (FRR)", run: |w| kill_frr(w, "ospfd", "OSPF adjacency is down") },
    Event { name: "kill -9 ldpd on p2 (FRR)", run: |w| kill_frr(w, "ldpd", "LDP session is down") },
];

/// The promise is one packet at most; on two cores with other work, between BFD's word and the new tunnel in every forwarder lie
/// four processes that have to get their turn. What it really was is printed.
const AFTER_DETECTION: u64 = 20;
/// Three times 100 ms, and what a machine with better things to do adds.
const DETECTION: Duration = Duration::from_millis(500);
/// Without a backup: detection, OSPF, and the time FRR takes to program labels.
const UNPROTECTED: Duration = Duration::from_secs(4);

/// FRR's OSPF neighbours wait for the dead interval, 4 s, unless the new daemon is faster.
const FRR_GONE: Duration = Duration::from_secs(6);

/// A link, and who repairs each direction when it is cut.
struct Cut {
    ends: [(&'static str, &'static str); 2],
    /// By direction: the platform before the link with a backup over another, and the neighbour it loses.
    repaired_by: [Option<(&'static str, &'static str)>; 2],
}

/// FRR has no loop-free alternates for labels: towards denver p2 converges.
const TO_P2: Cut = Cut { ends: [("denver", "eth2"), ("p2", "eth1")], repaired_by: [Some(("denver", "10.0.2.2")), None] };
const P1_P3: Cut = Cut { ends: [("p1", "eth2"), ("p3", "eth2")], repaired_by: [Some(("p1", "10.0.3.2")), Some(("p3", "10.0.3.1"))] };

/// Streams both ways while something is done and until its effects are over.
fn measured(world: &World<'_>, work: impl FnOnce() -> Result<()>, settled: impl FnOnce() -> Result<()>) -> Result<[Direction; 2]> {
    let flows = Flows::start(world)?;
    work()?;
    settled()?;
    flows.calm()?;
    flows.stop()
}

fn figures(evidence: Evidence, directions: &[Direction]) -> Evidence {
    directions.iter().fold(evidence, |e, d| {
        let figures = serde_json::json!({"sent": d.sent, "lost": d.lost.len(), "duplicates": d.duplicates,
            "longest_gap_ms": millis(d.gap), "delay_ms": millis(d.delay)});
        e.figure(&d.name, figures)
    })
}

fn millis(d: Duration) -> f64 {
    (d.as_secs_f64() * 10_000.0).round() / 10.0
}

fn sentence(d: &Direction) -> String {
    format!("{}: {} of {} lost, gap {:.0} ms", d.name, d.lost.len(), d.sent, millis(d.gap))
}

/// What was announced must cost nothing.
fn without_loss(directions: &[Direction; 2], more: &str) -> Result<Evidence> {
    let text = directions.iter().map(sentence).collect::<Vec<_>>().join("; ");
    ensure!(directions.iter().all(|d| d.lost.is_empty() && d.duplicates == 0), "{text}: nothing may be lost{more}");
    Ok(figures(Evidence::new(format!("{text}{more}")), directions))
}

/// What was not announced costs what it costs, within a bound, and is over.
fn with_loss(directions: &[Direction; 2], bound: Duration, more: &str) -> Result<Evidence> {
    let text = directions.iter().map(sentence).collect::<Vec<_>>().join("; ");
    let most = u64::try_from(bound.as_millis())? * u64::from(flow::PPS) / 1000;
    ensure!(directions.iter().all(|d| d.lost.len() as u64 <= most), "{text}: more than {most} in one direction");
    Ok(figures(Evidence::new(format!("{text}{more}")), directions))
}

/// Frames that either end would send are dropped: carrier and interfaces stay, and only BFD finds out.
fn silent_cut(world: &World<'_>, cut: &Cut, settled: &dyn Fn() -> Result<()>) -> Result<Evidence> {
    let logs = cut.repaired_by.iter().map(|by| by.map(|(node, _)| world.log(node)).transpose()).collect::<Result<Vec<_>>>()?;
    let down = |neighbor: &str| ["BFD session down".to_owned(), format!("peer={neighbor} ")];
    let silence = || {
        let drop_all = |interface: &str| {
            format!(
                "nft 'add table netdev cut; add chain netdev cut silence {{ type filter hook egress device {interface} priority 0; policy drop; }}'"
            )
        };
        cut.ends.iter().try_for_each(|(node, interface)| world.node(node)?.shell(&drop_all(interface)).map(drop))
    };
    let directions = measured(world, silence, || {
        for ((node, neighbor), log) in cut.repaired_by.iter().flatten().zip(logs.iter().flatten()) {
            wait::until_true(&format!("{node} loses {neighbor}"), CONVERGE, || Ok(log.when(&down(neighbor))?.is_some()))?;
        }
        settled()?;
        world.wait_datagrams()
    })?;
    let mut parts = vec![];
    let mut evidence = figures(Evidence::default(), &directions);
    for ((direction, by), log) in directions.iter().zip(&cut.repaired_by).zip(&logs) {
        let (Some((node, neighbor)), Some(log)) = (by, log) else {
            ensure!(direction.gap < UNPROTECTED, "{}: no datagram for {:.0} ms", direction.name, millis(direction.gap));
            parts.push(format!("{}, no backup there", sentence(direction)));
            continue;
        };
        let seen = log.when(&down(neighbor))?.with_context(|| format!("{node} lost {neighbor} without a word"))?;
        // The ends are cut one after the other: this direction's silence began with its first loss.
        let began = direction.lost.first().copied().unwrap_or(seen);
        let detection = Duration::from_micros(seen.saturating_sub(began));
        // What came to the middle of the way after the detection.
        let after = direction.lost_after(seen.saturating_sub(u64::try_from(direction.delay.as_micros())? / 2));
        parts.push(format!("{} = {:.0} ms until {node} knew, then {after} more lost", sentence(direction), millis(detection)));
        evidence = evidence
            .figure(&format!("{} detection_ms", direction.name), millis(detection))
            .figure(&format!("{} lost_after_detection", direction.name), after);
        ensure!(detection < DETECTION, "{}: BFD took its time", parts.join("; "));
        ensure!(after <= AFTER_DETECTION, "{}: at most {AFTER_DETECTION} may be lost after detection", parts.join("; "));
    }
    evidence.text = parts.join("; ");
    Ok(evidence)
}

fn restore(world: &World<'_>, cut: &Cut, way: Way) -> Result<Evidence> {
    let mend = || cut.ends.iter().try_for_each(|(node, _)| world.node(node)?.run(&["nft", "delete", "table", "netdev", "cut"]).map(drop));
    let directions = measured(world, mend, || {
        world.wait_whole()?;
        world.wait_way(way, true)
    })?;
    without_loss(&directions, "")
}

/// RFC 6987 on either kind of router.
fn frr_drain(world: &World<'_>, drained: bool) -> Result<Evidence> {
    let line = if drained { "max-metric router-lsa administrative" } else { "no max-metric router-lsa administrative" };
    let work = || world.node(P2)?.run(&["vtysh", "-c", "configure terminal", "-c", "router ospf", "-c", line]).map(drop);
    let directions = measured(world, work, || world.wait_way(if drained { Way::Long } else { Way::Short }, !drained))?;
    without_loss(&directions, "")
}

/// p1 is in use while the costs are raised. boston's way round it goes by p3 too, and then by p2.
fn drain(world: &World<'_>, drained: bool) -> Result<Evidence> {
    let changes: &[(&str, &str)] = if drained { &[("area: 0.0.0.0,", "area: 0.0.0.0, stubRouter: true,")] } else { &[] };
    let way = if drained { Way::Short } else { Way::Long };
    let directions = measured(
        world,
        || world.apply("p1", changes),
        || {
            world.wait_way_from(0, way, !drained)?;
            world.wait_way_from(1, Way::Long, !drained)
        },
    )?;
    without_loss(&directions, "")
}

/// The costs of the PEs' links to p2: the long way becomes the best, or no longer.
fn costs(world: &World<'_>, raised: bool) -> Result<Evidence> {
    let change = |pe: &str| {
        let (address, cost) = if pe == PES[0] { ("10.0.2.1/30", "10") } else { ("10.0.6.1/30", "10") };
        let line = |cost: &str| format!("{address}, mtu: 1600, ospf: {{network: point-to-point, cost: {cost},");
        let to = if raised { line("100") } else { line(cost) };
        world.apply(pe, &[(&line(cost), &to)])
    };
    let way = if raised { Way::Long } else { Way::Short };
    let directions = measured(world, || PES.iter().try_for_each(|pe| change(pe)), || world.wait_way(way, true))?;
    without_loss(&directions, "")
}

/// A daemon with all its processes: ldpd has three.
fn kill(world: &World<'_>, node: &str, daemon: &str) -> Result<()> {
    let running: Vec<Process> = world.node(node)?.processes(daemon).into_iter().filter_map(Process::find).collect();
    ensure!(!running.is_empty(), "{node} runs no {daemon}");
    running.iter().for_each(|process| process.kill());
    wait::until_true(&format!("{daemon} on {node} ends"), Duration::from_secs(5), || Ok(!running.iter().any(|p| p.alive())))
}

/// The label-switching router and the PVMs forward by what they have, and the new cvmd goes on where the killed one was: BFD, OSPF, LDP
/// and BGP stay up. Nothing may be lost, and neither ours nor FRR nor BIRD may notice.
fn kill_cvmd(world: &World<'_>, node: &'static str, loopback: &'static str) -> Result<Evidence> {
    let others: Vec<(&str, Log)> = [PES, P_ROUTERS]
        .concat()
        .into_iter()
        .filter(|other| *other != node)
        .map(|other| Ok((other, world.log(other)?)))
        .collect::<Result<_>>()?;
    let reflector = PES.contains(&node).then_some(Seat::BirdBgp("rr", node));
    let seats = [Seat::FrrOspf(P2, loopback), Seat::FrrLdp(P2, loopback)].into_iter().chain(reflector);
    let sitting = Sitting::open(world.lab, seats, CONVERGE)?;
    let mut back = Duration::ZERO;
    let directions = measured(
        world,
        || {
            let started = Instant::now();
            kill(world, node, "cvmd")?;
            world.wait_whole()?;
            back = started.elapsed();
            Ok(())
        },
        || {
            if PES.contains(&node) {
                world.wait_reflector(node)?;
            }
            world.wait_way(Way::Long, true)
        },
    )?;
    sitting.insist(world.lab)?;
    for (other, log) in &others {
        for words in ["OSPF adjacency is down", "LDP session is down"] {
            ensure!(log.when(&[words, loopback])?.is_none(), "{other} noticed: {words}");
        }
    }
    without_loss(&directions, &format!("; nobody noticed, and it answers as before after {:.1} s", back.as_secs_f64()))
}

/// FRR takes its routes and labels out of the kernel with the daemon: those around it have to find out and go another way.
fn kill_frr(world: &World<'_>, daemon: &str, seen: &str) -> Result<Evidence> {
    let log = world.log(PES[0])?;
    let work = || {
        kill(world, P2, daemon)?;
        launch::frr_daemon(world.node(P2)?, daemon)?;
        launch::frr_configure(world.node(P2)?)
    };
    let directions = measured(world, work, || {
        wait::until_true(&format!("{} notices", PES[0]), CONVERGE, || Ok(log.when(&[seen])?.is_some()))?;
        world.wait_datagrams()?;
        world.wait_whole()?;
        world.wait_way(Way::Short, true)?;
        // FRR is adjacent again before it has programmed its labels.
        world.wait_datagrams()
    })?;
    with_loss(&directions, FRR_GONE, "")
}
