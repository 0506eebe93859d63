//! States of daemons as files. The controller reads and writes them; `-` is standard input and output here.

use crate::{
    error::Stop,
    moves::follow,
    output::{Printer, note},
};
use edgeplex_api::{Begun, Checkpoint, Checkpointed, Client, Status, Whose, plain};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, IsTerminal},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// A whole state may be large.
const PATIENCE: Duration = Duration::from_secs(90);

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
                [] => Err(Stop::Refused(format!("there is no customer {name} with attachments"))),
                several => Err(Stop::Refused(format!("{name} has several attachments; name one: {}", several.join(", ")))),
            }
        }
    }
}

/// A directory for root alone, beside the controller's socket, where both find it; gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(client: &Client) -> Result<Self, Stop> {
        let dir = client.socket().with_file_name(format!(".checkpoint-{}", std::process::id()));
        let dir = absolute(&dir)?;
        DirBuilder::new().mode(0o700).create(&dir).map_err(|e| failed(&dir, &e))?;
        Ok(Self(dir))
    }

    fn file(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn failed(path: &Path, e: &io::Error) -> Stop {
    Stop::Failed(format!("{}: {}", path.display(), plain(e)))
}

fn absolute(file: &Path) -> Result<PathBuf, Stop> {
    std::path::absolute(file).map_err(|e| Stop::Refused(format!("`{}`: {}", file.display(), plain(&e))))
}

fn is_dash(file: &Path) -> bool {
    file == Path::new("-")
}

fn text(c: &Checkpointed) -> String {
    format!("{}: {} bytes, {} sessions, {} values in {}\n", c.unit, c.bytes, c.sessions, c.values, c.file.display())
}

pub(crate) async fn checkpoint(client: &Client, out: Printer, whose: &Whose, file: &Path) -> Result<(), Stop> {
    let unit = unit(client, whose).await?;
    let write = async |file: PathBuf| client.patient(PATIENCE).post::<_, Checkpointed>("/v1/checkpoint", &Checkpoint { unit, file }).await;
    if !is_dash(file) {
        return out.print(&write(absolute(file)?).await?, text);
    }
    if io::stdout().is_terminal() {
        return Err(Stop::Refused("a checkpoint is nothing for a terminal: redirect the output, or name a file".into()));
    }
    let scratch = Scratch::new(client)?;
    let mut done = write(scratch.file()).await?;
    let mut state = File::open(&done.file).map_err(|e| failed(&done.file, &e))?;
    io::copy(&mut state, &mut io::stdout().lock())?;
    done.file = "standard output".into();
    note(text(&done).trim_end());
    Ok(())
}

pub(crate) async fn restore(client: &Client, out: Printer, whose: &Whose, file: &Path) -> Result<ExitCode, Stop> {
    let unit = unit(client, whose).await?;
    // Until the move is over, it is read.
    let mut scratch = None;
    let file = if is_dash(file) {
        if io::stdin().is_terminal() {
            return Err(Stop::Refused("a checkpoint does not come from a terminal: redirect the input, or name a file".into()));
        }
        let file = scratch.insert(Scratch::new(client)?).file();
        let written = File::create(&file).and_then(|mut to| io::copy(&mut io::stdin().lock(), &mut to));
        written.map_err(|e| failed(&file, &e))?;
        file
    } else {
        absolute(file)?
    };
    let begun: Begun = client.patient(PATIENCE).post("/v1/restore", &Checkpoint { unit, file }).await?;
    note("its sessions begin anew");
    follow(client, out, begun).await
}
