//! The relay's socket as the VMs of this host see it. The relay itself is on the controller's host, which parks connections here;
//! a VM that connects is given one of them, and what they say to each other (CURVE) is nobody's business here.

use crate::{
    AgentError,
    wire::{Greeting, send},
};
use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_rustls::server::TlsStream;

/// Where the relay is, below a host's directory.
pub(crate) const RELAY: &str = "relay/relay.sock";
/// VMs that wait at a time, and how long one does; ZeroMQ comes again.
const WAITING: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Parked connections kept.
const PARKED: usize = 64;
/// What the controller's end may take to be greeted.
const GREETING: Duration = Duration::from_secs(2);

pub(crate) enum Parking {
    Park(Box<TlsStream<TcpStream>>),
    /// The controller is another, or gone: what it has parked leads nowhere.
    Clear,
}

/// Listens in `dir` for ever.
pub(crate) async fn serve(dir: PathBuf, mut parked: mpsc::Receiver<Parking>) -> Result<(), AgentError> {
    let path = dir.join(RELAY);
    let listener = listen(&path).map_err(AgentError::io(path.display().to_string()))?;
    let (mut streams, mut waiting) = (VecDeque::new(), VecDeque::<(UnixStream, Instant)>::new());
    let mut joined = JoinSet::new();
    loop {
        let patience = waiting.front().map_or_else(|| Instant::now() + PATIENCE, |(_, until)| *until);
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((vm, _)) if waiting.len() < WAITING => waiting.push_back((vm, Instant::now() + PATIENCE)),
                Ok(_) => {}
                // Out of descriptors, say: it passes.
                Err(e) => {
                    tracing::warn!("{}: {e}", path.display());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            parking = parked.recv() => match parking {
                Some(Parking::Park(stream)) if streams.len() < PARKED => streams.push_back(stream),
                Some(Parking::Park(_)) => {}
                Some(Parking::Clear) => streams.clear(),
                None => return Ok(()),
            },
            () = sleep_until(patience) => drop(waiting.pop_front()),
        }
        while joined.try_join_next().is_some() {}
        while !streams.is_empty()
            && let Some((vm, _)) = waiting.pop_front()
            && let Some(stream) = streams.pop_front()
        {
            joined.spawn(join(vm, *stream));
        }
    }
}

/// A socket that every VM may connect to, as the CVM makes it on its host.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

async fn join(mut vm: UnixStream, mut stream: TlsStream<TcpStream>) {
    let greeted = tokio::time::timeout(GREETING, send(&mut stream, &Greeting::Welcome)).await;
    if matches!(greeted, Ok(Ok(()))) {
        // However it ends, both ends see it.
        let _ = copy_bidirectional(&mut vm, &mut stream).await;
    }
}
