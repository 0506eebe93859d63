//! Images and upgrades.

use crate::{
    error::Stop,
    output::{Printer, progress, table, time},
};
use edgeplex_api::{AddImage, Client, ImageRow, UpgradeOrder, UpgradeReport, UpgradeState};
use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(100);
/// A controller that is away for longer is not waited for.
const AWAY: Duration = Duration::from_secs(60);

pub(crate) async fn images(client: &Client, out: Printer) -> Result<(), Stop> {
    out.print(&client.get::<Vec<ImageRow>>("/v1/images").await?, |rows| images_text(rows))
}

pub(crate) async fn add_image(client: &Client, out: Printer, name: String, dir: &Path) -> Result<(), Stop> {
    let dir = dir.canonicalize().map_err(|e| Stop::Invalid(format!("{}: {e}", dir.display())))?;
    out.print(&client.post::<_, Vec<ImageRow>>("/v1/images", &AddImage { name, dir }).await?, |rows| images_text(rows))
}

fn images_text(rows: &[ImageRow]) -> String {
    let row = |r: &ImageRow| vec![r.name.clone(), r.version.clone(), r.hash.clone(), r.instances.to_string()];
    table(&["NAME", "VERSION", "HASH", "INSTANCES"], rows.iter().map(row))
}

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
    let why = if r.why.is_empty() { String::new() } else { format!("Why:      {}\n", r.why) };
    format!("Upgrade:  to {}, {}\nBegan:    {}\nGone:     {} of {all}\n{why}", r.order.to, word(r.state), time(r.started_ms), r.gone.len())
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
    let report = loop {
        match client.get::<Option<UpgradeReport>>("/v1/upgrade").await {
            Ok(None) => return Err(Stop::Failed("the controller knows of no upgrade".into())),
            Ok(Some(r)) if matches!(r.state, UpgradeState::Done | UpgradeState::RolledBack) => break r,
            Ok(Some(r)) => {
                heard = Instant::now();
                progress(&format!("{}: {} gone, {} left; {}", word(r.state), r.gone.len(), r.left.len(), r.why));
            }
            Err(e) if heard.elapsed() > AWAY => return Err(e.into()),
            Err(e) => progress(&e.to_string()),
        }
        tokio::time::sleep(INTERVAL).await;
    };
    progress("");
    out.print(&report, text)?;
    Ok(if report.state == hoped { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
