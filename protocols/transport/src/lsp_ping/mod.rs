//! LSP ping and traceroute over the core ports (RFC 8029): answers other routers' requests, and asks.
//!
//! Requests travel inside labels and towards 127.0.0.1, which no kernel socket would take: they are sent and received by
//! packet sockets. Answers are plain UDP.

mod ask;
mod sockopt;

pub use ask::AskError;
pub use edgeplex_lsp_ping::{Known, KnownLabel, frame::Way};

use edgeplex_lsp_ping::{Message, PORT, frame, respond};
use socket2::Socket;
use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::unix::AsyncFd,
    net::UdpSocket,
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use tracing::{debug, warn};

/// Seconds from the NTP epoch to Unix's.
const NTP: u64 = 2_208_988_800;
/// Requests answered a second at a port, and in one go (RFC 8029 §5 wants a limit).
const ANSWERS: f64 = 100.0;
/// Questions of our own at once.
const QUESTIONS: usize = 4;
/// Longest frame looked at.
const FRAME: usize = 9216;
/// An interface that is not there yet is tried again after this.
const RETRY: Duration = Duration::from_millis(500);

/// A core port: requests come in and go out here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: Arc<str>,
    pub address: Ipv4Addr,
}

/// Speaks to the tasks, which end with the last of these.
#[derive(Debug, Clone)]
pub struct Handle {
    ports: watch::Sender<Vec<Port>>,
    source: Ipv4Addr,
    questions: Arc<Semaphore>,
}

/// Answers from now on. `source`: our loopback, source of requests and replies; `known`: what answers are made of.
pub fn start(source: Ipv4Addr, ports: Vec<Port>, known: watch::Receiver<Arc<Known>>) -> Handle {
    let (ports, wanted) = watch::channel(ports);
    tokio::spawn(answer(source, wanted, known));
    Handle { ports, source, questions: Arc::new(Semaphore::new(QUESTIONS)) }
}

impl Handle {
    pub fn configure(&self, ports: Vec<Port>) {
        self.ports.send_if_modified(|old| std::mem::replace(old, ports.clone()) != ports);
    }
}

/// Answers that may still be given: a port of which too much is asked takes nothing from others.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { tokens: ANSWERS, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.tokens = (self.tokens + now.duration_since(self.filled).as_secs_f64() * ANSWERS).min(ANSWERS);
        self.filled = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// A request on its way from a port to the task that answers.
struct Heard {
    port: Port,
    index: u32,
    frame: Vec<u8>,
}

async fn answer(source: Ipv4Addr, mut wanted: watch::Receiver<Vec<Port>>, known: watch::Receiver<Arc<Known>>) {
    let (heard, mut requests) = mpsc::channel::<Heard>(64);
    let mut ears: BTreeMap<Arc<str>, (Port, tokio::task::JoinHandle<()>)> = BTreeMap::new();
    let mut replies: Option<UdpSocket> = None;
    let mut buckets: BTreeMap<Arc<str>, Bucket> = BTreeMap::new();
    wanted.mark_changed();
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    ears.into_values().for_each(|(_, ear)| ear.abort());
                    return;
                }
                let ports = wanted.borrow_and_update().clone();
                ears.retain(|_, (port, ear)| {
                    let stays = ports.contains(port);
                    if !stays {
                        ear.abort();
                    }
                    stays
                });
                buckets.retain(|name, _| ears.contains_key(name));
                for port in ports {
                    ears.entry(port.name.clone()).or_insert_with(|| (port.clone(), tokio::spawn(hear(port, heard.clone()))));
                }
            }
            Some(request) = requests.recv() => {
                let now = Instant::now();
                if !buckets.entry(request.port.name.clone()).or_insert_with(|| Bucket::new(now)).take(now) {
                    continue;
                }
                let known = known.borrow().clone();
                if let Some((to, reply)) = reply_to(&request, &known) {
                    if replies.is_none() {
                        // The loopback address may have come later than we.
                        replies = reply_socket(source).await;
                    }
                    if let Some(socket) = &replies
                        && let Err(error) = socket.send_to(&reply, to).await
                    {
                        debug!(?to, %error, "LSP ping reply not sent");
                        replies = None;
                    }
                }
            }
        }
    }
}

fn reply_to(request: &Heard, known: &Known) -> Option<((Ipv4Addr, u16), Vec<u8>)> {
    let received = frame::parse(&request.frame)?;
    match Message::decode(received.payload) {
        Ok(message) => {
            let interface = (request.port.address, request.index);
            let reply = respond(&message, &received.labels, known, interface, ntp_now())?;
            Some(((received.source, received.source_port), reply.encode()))
        }
        Err(error) => {
            debug!(from = %received.source, %error, "LSP ping request dropped");
            None
        }
    }
}

async fn reply_socket(source: Ipv4Addr) -> Option<UdpSocket> {
    let socket = UdpSocket::bind((source, PORT)).await.and_then(|s| s.set_ttl(255).map(|()| s));
    socket.inspect_err(|error| warn!(%source, %error, "cannot open the socket for LSP ping replies")).ok()
}

fn ntp_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    (since.as_secs().wrapping_add(NTP) << 32) | fraction
}

fn open(port: &Port) -> io::Result<(AsyncFd<Socket>, u32)> {
    let index = nix::net::if_::if_nametoindex(&*port.name).map_err(io::Error::from)?;
    Ok((sockopt::listen(index)?, index))
}

/// Hands on what comes in at a port, for as long as the task lives; opens the socket again when the interface was made anew.
async fn hear(port: Port, heard: mpsc::Sender<Heard>) {
    let mut buffer = vec![0; FRAME];
    loop {
        if let Ok((socket, index)) = open(&port) {
            let read = |socket: &AsyncFd<Socket>, buffer: &mut [u8]| io::Read::read(&mut socket.get_ref(), buffer);
            while let Ok(mut guard) = socket.readable().await {
                match guard.try_io(|socket| read(socket, &mut buffer)) {
                    Ok(Ok(length)) => {
                        let frame = buffer.get(..length).unwrap_or_default().to_vec();
                        // A full queue: lost, like on the wire.
                        let _ = heard.try_send(Heard { port: port.clone(), index, frame });
                    }
                    Ok(Err(error)) => {
                        debug!(port = %port.name, %error, "packet socket closed");
                        break;
                    }
                    Err(_would_block) => {}
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_so_many_at_once_and_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!((0..300).filter(|_| bucket.take(start)).count(), 100);
        let half = start + Duration::from_millis(505);
        assert_eq!((0..300).filter(|_| bucket.take(half)).count(), 50);
    }
}
