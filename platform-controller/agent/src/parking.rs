//! The relay's socket as the VMs of this host see it. The relay itself is on the controller's host, which parks connections here;
//! a VM that connects is given one of them, and what they say to each other (CURVE) is nobody's business here.

use crate::{
    AgentError,
    wire::{Greeting, send},
};
use edgeplex_runtime::vm_of_user;
use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_rustls::server::TlsStream;

/// Where the relay is, below a host's directory.
pub(crate) const RELAY: &str = "relay/relay.sock";
/// VMs that wait at a time, and how long one does; ZeroMQ comes again.
const WAITING: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections of one VM at a time, those that wait and those that are joined: a PVM needs one, and one more while it changes over.
const OF_ONE: usize = 8;
/// Both ends of the relay speak several times in this time, or have no use for the connection.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes on the way in one direction.
const CHUNK: usize = 16 << 10;
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
    let (mut streams, mut waiting) = (VecDeque::new(), VecDeque::<(Guest, Instant)>::new());
    let guests = Guests::default();
    let mut joined = JoinSet::new();
    loop {
        let patience = waiting.front().map_or_else(|| Instant::now() + PATIENCE, |(_, until)| *until);
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((vm, _)) => {
                    if waiting.len() < WAITING
                        && let Some(guest) = admit(vm, &guests)
                    {
                        waiting.push_back((guest, Instant::now() + PATIENCE));
                    }
                }
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

/// Connections by the VM that has them; users of the host count as one.
type Guests = Arc<Mutex<BTreeMap<Option<u32>, usize>>>;

/// A VM's connection, which counts until it is dropped.
struct Guest {
    stream: UnixStream,
    vm: Option<u32>,
    guests: Guests,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = guests.entry(self.vm) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// `None` where its VM has enough. The kernel says whose it is.
fn admit(stream: UnixStream, guests: &Guests) -> Option<Guest> {
    let vm = vm_of_user(stream.peer_cred().ok()?.uid());
    let mut all = guests.lock().unwrap_or_else(PoisonError::into_inner);
    let own = all.entry(vm).or_default();
    if *own >= OF_ONE {
        return None;
    }
    *own += 1;
    Some(Guest { stream, vm, guests: guests.clone() })
}

/// Carries bytes both ways until one side closes, or says nothing for so long.
async fn carry(a: &mut (impl AsyncRead + AsyncWrite + Unpin), b: &mut (impl AsyncRead + AsyncWrite + Unpin), idle: Duration) {
    let ((from_a, to_a), (from_b, to_b)) = (split(a), split(b));
    let (heard, mut last) = watch::channel(Instant::now());
    let silent = async {
        loop {
            let until = *last.borrow_and_update() + idle;
            if timeout_at(until, last.changed()).await.is_err() {
                return;
            }
        }
    };
    // However it ends, both ends see it.
    tokio::select! {
        _ = async { tokio::try_join!(pump(from_a, to_b, &heard), pump(from_b, to_a, &heard)) } => {}
        () = silent => {}
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, heard: &watch::Sender<Instant>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        heard.send_replace(Instant::now());
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
    }
}

async fn join(mut vm: Guest, mut stream: TlsStream<TcpStream>) {
    let greeted = tokio::time::timeout(GREETING, send(&mut stream, &Greeting::Welcome)).await;
    if matches!(greeted, Ok(Ok(()))) {
        carry(&mut vm.stream, &mut stream, IDLE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vm_has_so_many_connections_and_no_more() {
        let guests = Guests::default();
        let one = || admit(UnixStream::pair().unwrap().0, &guests);
        let mut all: Vec<Guest> = (0..OF_ONE).map(|_| one().unwrap()).collect();
        assert!(one().is_none());
        all.pop();
        assert!(one().is_some());
        all.clear();
        assert!(guests.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_ends_and_one_that_speaks_does_not() {
        let idle = Duration::from_millis(600);
        let ((mut vm, mut here), (mut relay, mut there)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let carried = tokio::spawn(async move { carry(&mut here, &mut there, idle).await });
        for _ in 0..5 {
            tokio::time::sleep(idle / 3).await;
            vm.write_all(b"x").await.unwrap();
            assert_eq!(relay.read_u8().await.unwrap(), b'x');
        }
        tokio::time::timeout(GREETING + idle, carried).await.unwrap().unwrap();
        assert_eq!(vm.read(&mut [0]).await.unwrap(), 0);
    }
}
