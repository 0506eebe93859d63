//! Hosts, and the images on them.

use crate::{
    error::Stop,
    output::{Printer, Progress, note, or_none, table, time},
};
use edgeplex_api::{AddImage, Client, HostRow, ImageAt, ImageRow, plain};
use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

/// How often to ask how far an image is.
const INTERVAL: Duration = Duration::from_millis(200);
/// Programs are copied and tried.
const ADDING: Duration = Duration::from_secs(120);
/// An image of which nothing new arrives for so long is not waited for.
const STANDSTILL: Duration = Duration::from_secs(30);

pub(crate) async fn show(client: &Client, out: Printer) -> Result<(), Stop> {
    out.print(&client.get::<Vec<HostRow>>("/v1/hosts").await?, |rows| hosts_text(rows))
}

fn hosts_text(rows: &[HostRow]) -> String {
    let row = |r: &HostRow| {
        vec![
            r.name.clone(),
            or_none(r.address),
            or_none(r.port.clone()),
            r.reach.clone(),
            time(r.since_ms),
            r.vms.to_string(),
            r.active.to_string(),
            r.standby.to_string(),
            if r.drained { "yes" } else { "no" }.into(),
            r.version.clone(),
            r.images.iter().map(|i| place(&i.image, i)).collect::<Vec<_>>().join(","),
            r.problem.clone(),
        ]
    };
    const HEADER: [&str; 12] =
        ["HOST", "ADDRESS", "PORT", "REACH", "SINCE", "VMS", "ACTIVE", "STANDBY", "DRAINED", "VERSION", "IMAGES", "PROBLEM"];
    table(&HEADER, rows.iter().map(row))
}

/// `v2`, or `v2 (why it is not there)`.
fn place(name: &str, at: &ImageAt) -> String {
    match (at.there, at.note.is_empty()) {
        (true, _) => name.to_owned(),
        (false, true) => format!("{name} (not there)"),
        (false, false) => format!("{name} ({})", at.note),
    }
}

pub(crate) async fn images(client: &Client, out: Printer) -> Result<(), Stop> {
    out.print(&client.get::<Vec<ImageRow>>("/v1/images").await?, |rows| images_text(rows))
}

fn images_text(rows: &[ImageRow]) -> String {
    let row = |r: &ImageRow| {
        let hosts: Vec<String> = r.hosts.iter().map(|at| place(&at.host, at)).collect();
        vec![r.name.clone(), r.version.clone(), r.hash.chars().take(12).collect(), r.instances.to_string(), hosts.join(",")]
    };
    table(&["NAME", "VERSION", "HASH", "INSTANCES", "HOSTS"], rows.iter().map(row))
}

/// Adds it, and waits until each host that is there has it.
pub(crate) async fn add(client: &Client, out: Printer, name: String, dir: &Path) -> Result<ExitCode, Stop> {
    let dir = dir.canonicalize().map_err(|e| Stop::Refused(format!("{}: {}", dir.display(), plain(&e))))?;
    let add = AddImage { name: name.clone(), dir };
    let mut rows: Vec<ImageRow> = client.patient(ADDING).post("/v1/images", &add).await?;
    let mut progress = Progress::new();
    let (mut seen, mut since) = (String::new(), Instant::now());
    let lacking = loop {
        let at: Vec<&ImageAt> = rows.iter().filter(|r| r.name == name).flat_map(|r| &r.hosts).filter(|at| !at.there).collect();
        let line = at.iter().map(|at| format!("{}: {}", at.host, at.note)).collect::<Vec<_>>().join("; ");
        if !at.iter().any(|at| at.is_coming()) || since.elapsed() > STANDSTILL {
            break at.into_iter().cloned().collect::<Vec<_>>();
        }
        progress.now(&line);
        progress.happened(&line);
        if seen != line {
            (seen, since) = (line, Instant::now());
        }
        tokio::time::sleep(INTERVAL).await;
        rows = client.get("/v1/images").await?;
    };
    progress.now("");
    for at in &lacking {
        note(&format!(
            "warning: image {name} is not on host {}: {}; it goes on in the background, see `edgeplex show hosts`",
            at.host, at.note
        ));
    }
    out.print(&rows, |rows| images_text(rows))?;
    // A host that is away gets it when it comes back: that is as it should be.
    Ok(if lacking.iter().all(|at| at.away) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
