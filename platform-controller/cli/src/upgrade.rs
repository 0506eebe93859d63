//! Upgrades.

use crate::{
    error::Stop,
    output::{Printer, Progress, time},
};
use edgeplex_api::{Client, UpgradeOrder, UpgradeReport, UpgradeState};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(100);
/// A controller that is away for longer is not waited for.
const AWAY: Duration = Duration::from_secs(60);

fn word(state: UpgradeState) -> &'static str {
    match state {
        UpgradeState::Running => "under way",
        UpgradeState::Done => "done",
        UpgradeState::RollingBack => "goes back",
        UpgradeState::RolledBack => "taken back",
    }
}

fn text(r: &UpgradeReport) -> String {
    let all = r.gone.len() + r.left.len();
    let line = |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name:<10}{value}\n") };
    let before = r.before.as_deref().unwrap_or("default");
    format!("Upgrade:  to {}, from {before}, {}\nBegan:    {}\n", r.order.to, word(r.state), time(r.started_ms))
        + &line("Gone:", &format!("{} of {all}", r.gone.len()))
        + &line("Now:", &r.doing)
        + &line("Why:", &r.why)
        + &line("Stuck:", &r.stuck.join(", "))
}

pub(crate) async fn show(client: &Client, out: Printer) -> Result<(), Stop> {
    let report: Option<UpgradeReport> = client.get("/v1/upgrade").await?;
    out.print(&report, |r| r.as_ref().map_or_else(|| "there was none\n".into(), text))
}

pub(crate) async fn upgrade(client: &Client, out: Printer, order: &UpgradeOrder, wait: bool) -> Result<ExitCode, Stop> {
    let begun: UpgradeReport = client.post("/v1/upgrade", order).await?;
    if !wait {
        out.print(&begun, text)?;
        return Ok(ExitCode::SUCCESS);
    }
    follow(client, out, UpgradeState::Done).await
}

pub(crate) async fn rollback(client: &Client, out: Printer) -> Result<ExitCode, Stop> {
    client.post::<_, UpgradeReport>("/v1/rollback", &()).await?;
    follow(client, out, UpgradeState::RolledBack).await
}

/// Waits for its end; whether that is the one that was hoped for.
async fn follow(client: &Client, out: Printer, hoped: UpgradeState) -> Result<ExitCode, Stop> {
    let mut heard = Instant::now();
    let mut progress = Progress::new();
    let report = loop {
        match client.get::<Option<UpgradeReport>>("/v1/upgrade").await {
            Ok(None) => return Err(Stop::Failed("the controller knows of no upgrade".into())),
            Ok(Some(r)) if matches!(r.state, UpgradeState::Done | UpgradeState::RolledBack) => break r,
            Ok(Some(r)) => {
                heard = Instant::now();
                let doing = if r.doing.is_empty() { &r.why } else { &r.doing };
                let line = format!("{}: {} gone, {} left; {doing}", word(r.state), r.gone.len(), r.left.len());
                progress.now(&line);
                progress.happened(&line);
            }
            Err(e) if heard.elapsed() > AWAY => return Err(e.into()),
            Err(e) => {
                progress.now(&e.to_string());
                progress.happened(&e.to_string());
            }
        }
        tokio::time::sleep(INTERVAL).await;
    };
    progress.now("");
    progress.happened(&format!("upgrade to {}: {}", report.order.to, word(report.state)));
    out.print(&report, text)?;
    Ok(if report.state == hoped && report.stuck.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
