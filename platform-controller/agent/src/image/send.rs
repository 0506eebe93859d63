//! The controller's end.

use super::{CHECK, CHUNK, PATIENCE, Program, Taken, at, blocking, hash};
use crate::{
    AgentError,
    link::Dialer,
    wire::{Purpose, receive},
};
use edgeplex_runtime::Told;
use std::{
    fs,
    io::SeekFrom,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// The files of `dir`.
fn programs(dir: &Path) -> Result<Vec<Program>, AgentError> {
    let mut out = vec![];
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|_| path.is_file()) {
            let (bytes, sha256) = hash(&path).map_err(at(&path))?;
            out.push(Program { name: name.to_owned(), bytes, sha256 });
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Copies the files of `dir` to the agent's host.
pub(crate) async fn ship(dialer: &Dialer, name: &str, dir: &Path, told: &Told<'_>) -> Result<(), AgentError> {
    let from: PathBuf = dir.to_owned();
    let programs = blocking(move || programs(&from)).await?;
    let mut stream = dialer.welcome(Purpose::Image { name: name.to_owned(), programs: programs.clone() }).await?;
    // It may have to read all that it has.
    let had = match answer(&mut stream, CHECK).await? {
        Taken::Whole => return Ok(()),
        Taken::From(had) if had.len() == programs.len() => had,
        other => return Err(unexpected(other)),
    };
    let all: u64 = programs.iter().map(|p| p.bytes).sum();
    let mut done: u64 = had.iter().sum();
    let mut chunk = vec![];
    for (program, had) in programs.iter().zip(had) {
        let path = dir.join(&program.name);
        let mut file = File::open(&path).await.map_err(at(&path))?;
        file.seek(SeekFrom::Start(had)).await.map_err(at(&path))?;
        let mut left = program.bytes.saturating_sub(had);
        while left > 0 {
            chunk.clear();
            let read = (&mut file).take(left.min(CHUNK)).read_to_end(&mut chunk).await.map_err(at(&path))? as u64;
            if read == 0 {
                return Err(AgentError::Refused(format!("{} has become shorter", path.display())));
            }
            let sent = timeout(PATIENCE, async {
                stream.write_all(&chunk).await?;
                stream.flush().await
            });
            sent.await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(AgentError::io("connection"))?;
            match answer(&mut stream, PATIENCE).await? {
                Taken::Chunk => {}
                other => return Err(unexpected(other)),
            }
            left -= read;
            done += read;
            told(done, all);
        }
    }
    match answer(&mut stream, CHECK).await? {
        Taken::Whole => Ok(()),
        other => Err(unexpected(other)),
    }
}

async fn answer(stream: &mut TlsStream<TcpStream>, limit: Duration) -> Result<Taken, AgentError> {
    let late = |_| Err(AgentError::Refused(format!("it took nothing for {} s", limit.as_secs())));
    timeout(limit, receive(stream)).await.unwrap_or_else(late)
}

fn unexpected(said: Taken) -> AgentError {
    match said {
        Taken::Failed(why) => AgentError::Refused(why),
        other => AgentError::Wire(format!("{other:?} was not to be said here")),
    }
}
