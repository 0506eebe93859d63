//! Instances and their moves.

use crate::{
    error::Stop,
    output::{Printer, list, note, or_none, progress, table, time},
};
use edgeplex_api::{
    Abort, Checkpoint, Checkpointed, Client, Drain, InstanceRow, Migrate, Outcome, Phase, Started, Status, UnitMove, Whose,
};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

/// How often to ask how it goes.
const INTERVAL: Duration = Duration::from_millis(20);
/// A controller that is away for longer is not waited for.
const AWAY: Duration = Duration::from_secs(60);
/// A whole state may be large.
const CHECKPOINT: Duration = Duration::from_secs(90);
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
    let started: Vec<Started> = match to {
        Some(to) => client.post("/v1/migrate", &Migrate { whose, to }).await?,
        None => {
            let ended = client.post("/v1/abort", &Abort { whose }).await?;
            follow(client, out, ended).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    follow(client, out, started).await
}

pub(crate) async fn drain(client: &Client, out: Printer, host: String) -> Result<ExitCode, Stop> {
    let started = client.post("/v1/drain", &Drain { host, undo: false }).await?;
    follow(client, out, started).await
}

pub(crate) async fn undrain(client: &Client, host: String) -> Result<(), Stop> {
    client.post::<_, Vec<Started>>("/v1/drain", &Drain { host, undo: true }).await?;
    Ok(())
}

/// Waits until all of these have come to their end, and prints what became of them. A controller that is away for a while, as when
/// it is restarted, is waited for.
async fn follow(client: &Client, out: Printer, started: Vec<Started>) -> Result<ExitCode, Stop> {
    let mut heard = Instant::now();
    let moves = loop {
        match client.get::<Vec<UnitMove>>("/v1/moves").await {
            Ok(all) => {
                heard = Instant::now();
                let ours = |m: &UnitMove| started.iter().any(|s| s.unit == m.unit && s.id == m.report.id);
                let ours: Vec<UnitMove> = all.into_iter().filter(ours).collect();
                let under_way: Vec<&UnitMove> = ours.iter().filter(|m| m.report.outcome == Outcome::UnderWay).collect();
                let Some(first) = under_way.first() else { break ours };
                progress(&bar(first, ours.len() - under_way.len(), started.len()));
            }
            Err(e) if heard.elapsed() > AWAY => return Err(e.into()),
            Err(e) => progress(&e.to_string()),
        }
        tokio::time::sleep(INTERVAL).await;
    };
    progress("");
    let all_done = moves.len() == started.len() && moves.iter().all(|m| m.report.outcome == Outcome::Done);
    out.print(&moves, |moves| moves_text(moves))?;
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
        let ms = |us: u64| format!("{:.1}", Duration::from_micros(us).as_secs_f64() * 1000.0);
        vec![
            m.unit.clone(),
            r.kind.to_string(),
            at(r.from, &r.from_host),
            at(r.to, &r.to_host),
            if r.outcome == Outcome::UnderWay { format!("at {}", r.phase) } else { r.outcome.to_string() },
            format!("{:.1} ms", m.took_ms),
            list(r.times.iter().map(|t| format!("{} {}", t.phase, ms(t.microseconds)))),
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
            said.map(|s| s.problems.join("; ")).unwrap_or_default(),
        ]
    };
    const HEADER: [&str; 12] =
        ["UNIT", "VM", "PLACE", "HOST", "IMAGE", "GENERATION", "STATE", "SAYS", "SESSIONS", "IN-SYNC", "FORWARDS", "PROBLEMS"];
    table(&HEADER, rows.iter().map(row))
}

/// The one attachment that is meant.
async fn unit(client: &Client, whose: &Whose) -> Result<String, Stop> {
    match whose {
        Whose::Cvm => Ok("cvm".into()),
        Whose::Attachment(id) => Ok(id.to_string()),
        Whose::Customer(name) => {
            let status: Status = client.get("/v1/status").await?;
            let all: Vec<String> =
                status.attachments.iter().filter(|a| a.attachment.customer == *name).map(|a| a.attachment.to_string()).collect();
            match all.as_slice() {
                [one] => Ok(one.clone()),
                [] => Err(Stop::Invalid(format!("there is no customer {name} with attachments"))),
                several => Err(Stop::Invalid(format!("{name} has several attachments; name one: {}", several.join(", ")))),
            }
        }
    }
}

fn absolute(file: &Path) -> Result<PathBuf, Stop> {
    std::path::absolute(file).map_err(|e| Stop::Invalid(format!("{}: {e}", file.display())))
}

pub(crate) async fn checkpoint(client: &Client, out: Printer, whose: &Whose, file: &Path) -> Result<(), Stop> {
    let body = Checkpoint { unit: unit(client, whose).await?, file: absolute(file)? };
    let done: Checkpointed = client.patient(CHECKPOINT).post("/v1/checkpoint", &body).await?;
    out.print(&done, |c| format!("{}: {} bytes, {} sessions, {} values\n", c.unit, c.bytes, c.sessions, c.values))
}

pub(crate) async fn restore(client: &Client, out: Printer, whose: &Whose, file: &Path) -> Result<ExitCode, Stop> {
    let body = Checkpoint { unit: unit(client, whose).await?, file: absolute(file)? };
    let started: Vec<Started> = client.patient(CHECKPOINT).post("/v1/restore", &body).await?;
    note("its sessions begin anew");
    follow(client, out, started).await
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
