//! Instances and their moves.

use crate::{
    error::Stop,
    output::{Printer, Progress, list, note, or_none, table, time},
};
use edgeplex_api::{Abort, Begun, Client, Drain, InstanceRow, Migrate, MoveReport, Outcome, Phase, UnitMove, Whose};
use std::{
    collections::BTreeMap,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

/// How often to ask how it goes.
const INTERVAL: Duration = Duration::from_millis(20);
/// A controller that is away for longer is not waited for.
const AWAY: Duration = Duration::from_secs(60);
/// Phases, each a mark in the bar of progress.
const PHASES: [Phase; 7] = [Phase::Prepare, Phase::Sync, Phase::Fence, Phase::Switch, Phase::Promote, Phase::Drain, Phase::Retire];

/// `acme`, `acme/denver-1` or `cvm`.
#[derive(Debug, Clone)]
pub(crate) struct WhoseArg(pub(crate) Whose);

impl FromStr for WhoseArg {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let whose = match s {
            "cvm" => Whose::Cvm,
            _ if s.contains('/') => Whose::Attachment(s.parse().map_err(|e| format!("{e}"))?),
            _ => Whose::Customer(s.parse().map_err(|e| format!("{e}"))?),
        };
        Ok(Self(whose))
    }
}

/// `10%`; the sign may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Percent(pub(crate) u8);

impl FromStr for Percent {
    type Err = &'static str;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let n = s.strip_suffix('%').unwrap_or(s).parse().ok().filter(|n| (1..=100).contains(n));
        n.map(Self).ok_or("must be 1% to 100%")
    }
}

pub(crate) async fn migrate(client: &Client, out: Printer, whose: Whose, to: Option<String>) -> Result<ExitCode, Stop> {
    match to {
        Some(to) => follow(client, out, client.post("/v1/migrate", &Migrate { whose, to }).await?).await,
        None => {
            let begun: Begun = client.post("/v1/abort", &Abort { whose }).await?;
            let all = begun.stay.is_empty();
            follow(client, out, begun).await?;
            Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

pub(crate) async fn drain(client: &Client, out: Printer, host: String) -> Result<ExitCode, Stop> {
    let begun: Begun = client.post("/v1/drain", &Drain { host: host.clone(), undo: false }).await?;
    if begun.moves.is_empty() && begun.stay.is_empty() {
        note(&format!("nothing is active on {host}; nothing is placed there until `edgeplex undrain {host}`"));
    }
    follow(client, out, begun).await
}

pub(crate) async fn undrain(client: &Client, host: String) -> Result<(), Stop> {
    client.post::<_, Begun>("/v1/drain", &Drain { host: host.clone(), undo: true }).await?;
    note(&format!("VMs may be placed on {host} again"));
    Ok(())
}

/// Waits until all of these have come to their end, and prints what became of them. A controller that is away for a while, as when
/// it is restarted, is waited for.
pub(crate) async fn follow(client: &Client, out: Printer, Begun { moves: started, stay }: Begun) -> Result<ExitCode, Stop> {
    for s in &stay {
        note(&format!("{}: {}", if s.by_design { "note" } else { "warning" }, s.why));
    }
    let (mut heard, mut log) = (Instant::now(), Log::new());
    let moves = loop {
        match client.get::<Vec<UnitMove>>("/v1/moves").await {
            Ok(all) => {
                heard = Instant::now();
                let ours = |m: &UnitMove| started.iter().any(|s| s.unit == m.unit && s.id == m.report.id);
                let ours: Vec<UnitMove> = all.into_iter().filter(ours).collect();
                ours.iter().for_each(|m| log.tell(m));
                let under_way: Vec<&UnitMove> = ours.iter().filter(|m| m.report.outcome == Outcome::UnderWay).collect();
                let Some(first) = under_way.first() else { break ours };
                log.progress.now(&bar(first, ours.len() - under_way.len(), started.len()));
            }
            Err(e) if heard.elapsed() > AWAY => return Err(e.into()),
            Err(e) => {
                log.progress.now(&e.to_string());
                log.progress.happened(&e.to_string());
            }
        }
        tokio::time::sleep(INTERVAL).await;
    };
    log.progress.now("");
    let all_done = moves.len() == started.len() && moves.iter().all(|m| m.report.outcome == Outcome::Done);
    out.print(&moves, |moves| if moves.is_empty() { String::new() } else { moves_text(moves) })?;
    Ok(if all_done && stay.iter().all(|s| s.by_design) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line for each phase of each move, once it is over.
struct Log {
    progress: Progress,
    /// Lines that were told of each.
    told: BTreeMap<(String, u64), usize>,
}

impl Log {
    fn new() -> Self {
        Self { progress: Progress::new(), told: BTreeMap::new() }
    }

    fn tell(&mut self, m: &UnitMove) {
        let lines = phase_lines(m);
        let told = self.told.entry((m.unit.clone(), m.report.id)).or_default();
        lines.iter().skip(*told).for_each(|line| self.progress.happened(line));
        *told = lines.len();
    }
}

/// What has happened in a move so far; of one that goes on there will be more.
fn phase_lines(m: &UnitMove) -> Vec<String> {
    let MoveReport { id, kind, from_host, to_host, times, outcome, why, .. } = &m.report;
    let of = format!("{}: {kind} {id}", m.unit);
    let mut lines = vec![format!("{of}: from {from_host} to {to_host}")];
    lines.extend(times.iter().map(|t| format!("{of}: {} took {} ms", t.phase, milliseconds(t.microseconds))));
    match outcome {
        Outcome::UnderWay => {}
        Outcome::Done => lines.push(format!("{of}: done, promoted after {:.1} ms", m.took_ms)),
        Outcome::Aborted | Outcome::Failed => lines.push(format!("{of}: {outcome}: {why}")),
    }
    lines
}

fn milliseconds(us: u64) -> String {
    format!("{:.1}", Duration::from_micros(us).as_secs_f64() * 1000.0)
}

/// `[####...] acme/denver-1: promote, 12.3 ms; 1 of 4 done`.
fn bar(m: &UnitMove, done: usize, all: usize) -> String {
    let marks: String = PHASES.iter().map(|p| if *p < m.report.phase { '#' } else { '.' }).collect();
    format!("[{marks}] {}: {}, {:.1} ms; {done} of {all} done", m.unit, m.report.phase, m.took_ms)
}

fn moves_text(moves: &[UnitMove]) -> String {
    let row = |m: &UnitMove| {
        let r = &m.report;
        let at = |n: u64, host: &str| format!("g{n}@{host}");
        vec![
            m.unit.clone(),
            r.kind.to_string(),
            at(r.from, &r.from_host),
            at(r.to, &r.to_host),
            if r.outcome == Outcome::UnderWay { format!("at {}", r.phase) } else { r.outcome.to_string() },
            format!("{:.1} ms", m.took_ms),
            list(r.times.iter().map(|t| format!("{} {}", t.phase, milliseconds(t.microseconds)))),
            time(r.started_ms),
            r.why.clone(),
        ]
    };
    table(&["UNIT", "MOVE", "FROM", "TO", "OUTCOME", "PROMOTED-AFTER", "PHASES-MS", "BEGAN", "WHY"], moves.iter().map(row))
}

pub(crate) async fn show_moves(client: &Client, out: Printer) -> Result<(), Stop> {
    out.print(&client.get::<Vec<UnitMove>>("/v1/moves").await?, |moves| moves_text(moves))
}

pub(crate) async fn show_instances(client: &Client, out: Printer) -> Result<(), Stop> {
    out.print(&client.get::<Vec<InstanceRow>>("/v1/instances").await?, |rows| instances_text(rows))
}

fn instances_text(rows: &[InstanceRow]) -> String {
    let row = |r: &InstanceRow| {
        let said = r.said.as_ref();
        let yes = |b: bool| if b { "yes" } else { "no" };
        let problems = said.map(|s| s.problems.clone()).unwrap_or_default();
        let notes: Vec<String> = problems.into_iter().chain((!r.note.is_empty()).then(|| r.note.clone())).collect();
        vec![
            r.unit.clone(),
            r.vm.clone(),
            r.place.clone(),
            r.host.clone(),
            r.image.clone().unwrap_or_else(|| "default".into()),
            r.generation.to_string(),
            r.state.clone(),
            or_none(said.map(|s| format!("{:?}", s.state).to_lowercase())),
            or_none(said.map(|s| s.sessions)),
            or_none(said.map(|s| yes(s.in_sync))),
            or_none(said.map(|s| yes(s.forwards))),
            notes.join("; "),
        ]
    };
    const HEADER: [&str; 12] =
        ["UNIT", "VM", "PLACE", "HOST", "IMAGE", "GENERATION", "STATE", "SAYS", "SESSIONS", "IN-SYNC", "FORWARDS", "NOTES"];
    table(&HEADER, rows.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_and_how_many() {
        assert_eq!("cvm".parse::<WhoseArg>().unwrap().0, Whose::Cvm);
        assert_eq!("acme".parse::<WhoseArg>().unwrap().0, Whose::Customer("acme".parse().unwrap()));
        assert_eq!("acme/d1".parse::<WhoseArg>().unwrap().0, Whose::Attachment("acme/d1".parse().unwrap()));
        assert!("Acme!".parse::<WhoseArg>().is_err());
        assert_eq!(("7%".parse(), "100".parse()), (Ok(Percent(7)), Ok(Percent(100))));
        for wrong in ["0%", "101%", "%", "ten"] {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
        }
    }
}
