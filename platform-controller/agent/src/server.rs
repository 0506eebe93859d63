//! The agent's end: lets the controller in, and does what it asks.

use crate::{
    AgentError, BEAT, Fingerprint, Host, Identity, image,
    parking::{self, Parking},
    tls,
    wire::{Failure, FromAgent, FromController, Greeting, Hello, Purpose, Question, Reply, VERSION, frame, receive, send, text},
};
use edgeplex_runtime::Runtime;
use socket2::{SockRef, TcpKeepalive};
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional, split},
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Strangers at the door at a time, and what one may take to show who it is.
const DOOR: usize = 64;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Questions under way at a time: two of each VM, and more than any host has.
const QUESTIONS: usize = 4096;

/// See the module.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    host: Arc<Host>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).field("host", &self.host).finish_non_exhaustive()
    }
}

/// What all connections have in common.
struct Shared {
    host: Arc<Host>,
    parking: mpsc::Sender<Parking>,
    /// Counts control connections: all but the latest end.
    controllers: watch::Sender<u64>,
    /// Held while an image comes.
    image: Mutex<()>,
}

/// Small frames go at once, and a peer that has vanished without a word is noticed.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let second = Duration::from_secs(1);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(2))?;
    socket.set_tcp_user_timeout(Some(2 * second))
}

impl Server {
    /// Serves `host` at `listener` to the controller that has this certificate, and to nobody else.
    pub fn new(listener: TcpListener, identity: &Identity, controller: Fingerprint, host: Host) -> Result<Self, AgentError> {
        Ok(Self { listener, acceptor: tls::acceptor(identity, controller)?, host: Arc::new(host) })
    }

    /// Runs until the relay's socket cannot be served.
    pub async fn run(self) -> Result<(), AgentError> {
        let (parking, parked) = mpsc::channel(64);
        let shared = Arc::new(Shared { host: self.host.clone(), parking, controllers: watch::Sender::default(), image: Mutex::default() });
        let relay = parking::serve(self.host.dir().to_owned(), parked);
        tokio::select! {
            ended = relay => ended,
            () = Self::accept(self.listener, self.acceptor, shared) => Ok(()),
        }
    }

    async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
        let door = Arc::new(Semaphore::new(DOOR));
        // They end with the server.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            // Closed never.
            let Ok(place) = door.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (acceptor, shared) = (acceptor.clone(), shared.clone());
                    connections.spawn(async move {
                        match timeout(HANDSHAKE, admit(stream, &acceptor)).await.unwrap_or(Err(refused("nothing came"))) {
                            Ok((stream, purpose)) => {
                                drop(place);
                                serve(stream, purpose, &shared).await;
                            }
                            // Who gave up half-way is the controller more often than not, which had no use for it any more.
                            Err(AgentError::Io { what, error }) if error.kind() != io::ErrorKind::InvalidData => {
                                tracing::debug!("{peer}: {what}: {error}");
                            }
                            Err(e) => tracing::warn!("{peer}: {e}"),
                        }
                    });
                }
                Err(e) => {
                    tracing::warn!("accept: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn refused(why: &str) -> AgentError {
    AgentError::Refused(why.to_owned())
}

async fn admit(stream: TcpStream, acceptor: &TlsAcceptor) -> Result<(TlsStream<TcpStream>, Purpose), AgentError> {
    tune(&stream).map_err(AgentError::io("socket"))?;
    let mut stream = acceptor.accept(stream).await.map_err(AgentError::io("TLS"))?;
    let hello: Hello = receive(&mut stream).await?;
    if hello.version != VERSION {
        let why = format!("version {}: this agent speaks version {VERSION}", hello.version);
        send(&mut stream, &Greeting::Refused(why.clone())).await?;
        return Err(AgentError::Refused(why));
    }
    Ok((stream, hello.purpose))
}

async fn serve(mut stream: TlsStream<TcpStream>, purpose: Purpose, shared: &Arc<Shared>) {
    match purpose {
        Purpose::Control => {
            tracing::info!("the controller is here");
            let why = control(stream, shared).await;
            tracing::info!("the controller has gone: {why}");
        }
        Purpose::Connect { vm, socket } => match shared.host.sandbox().connect(&vm, &socket).await {
            Ok(mut to) => {
                if send(&mut stream, &Greeting::Welcome).await.is_ok() {
                    // However it ends, both ends see it.
                    let _ = copy_bidirectional(&mut stream, &mut to).await;
                }
            }
            Err(e) => {
                let greeting = if e.is_refusal() { Greeting::Absent } else { Greeting::Refused };
                let _ = send(&mut stream, &greeting(e.to_string())).await;
            }
        },
        Purpose::Park => drop(shared.parking.send(Parking::Park(Box::new(stream))).await),
        Purpose::Image { name, programs } => match image::take(stream, shared.host.dir(), &name, programs, &shared.image).await {
            Ok(()) => tracing::info!("image {name} is here"),
            Err(e) => tracing::warn!("image {name}: {e}"),
        },
    }
}

/// Answers questions until the connection ends or another takes its place; why it ended.
async fn control(stream: TlsStream<TcpStream>, shared: &Arc<Shared>) -> AgentError {
    let mut mine = 0;
    shared.controllers.send_modify(|n| {
        *n += 1;
        mine = *n;
    });
    let mut latest = shared.controllers.subscribe();
    // What the last one has parked leads to it, not to this one.
    let _ = shared.parking.send(Parking::Clear).await;
    let (mut reader, mut writer) = split(stream);
    let (answers, mut answered) = mpsc::channel::<Vec<u8>>(64);
    let write = async {
        send(&mut writer, &Greeting::Welcome).await?;
        let beat = frame(&FromAgent::Beat)?;
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let bytes = tokio::select! {
                _ = beats.tick() => beat.clone(),
                // This function holds a sender.
                bytes = answered.recv() => bytes.unwrap_or_default(),
            };
            writer.write_all(&bytes).await.map_err(AgentError::io("connection"))?;
            writer.flush().await.map_err(AgentError::io("connection"))?;
        }
    };
    let read = async {
        let mut tasks = Tasks::default();
        loop {
            match receive::<FromController>(&mut reader).await? {
                FromController::Ask { id, question } => tasks.start(id, question, shared.host.clone(), answers.clone())?,
                FromController::Cancel { id } => tasks.cancel(id),
            }
        }
    };
    let why: Result<(), AgentError> = tokio::select! {
        ended = write => ended,
        ended = read => ended,
        _ = latest.wait_for(|n| *n > mine) => Err(refused("another has come")),
    };
    why.err().unwrap_or_else(|| refused("it ended"))
}

/// Questions under way; they end with their connection, what they have begun does not.
#[derive(Default)]
struct Tasks {
    set: JoinSet<u64>,
    by_id: BTreeMap<u64, AbortHandle>,
}

impl Tasks {
    fn start(&mut self, id: u64, question: Question, host: Arc<Host>, answers: mpsc::Sender<Vec<u8>>) -> Result<(), AgentError> {
        while let Some(done) = self.set.try_join_next() {
            done.ok().and_then(|id| self.by_id.remove(&id));
        }
        if self.set.len() >= QUESTIONS {
            return Err(refused("too many questions at a time"));
        }
        let waits = matches!(question, Question::Exited(_));
        let work = async move {
            let answer = answer(&host, question).await;
            let sent = frame(&FromAgent::Answer { id, answer });
            let bytes = match sent {
                Err(e) => frame(&FromAgent::Answer { id, answer: Err(Failure::Other(e.to_string())) }),
                ok => ok,
            };
            if let Ok(bytes) = bytes {
                let _ = answers.send(bytes).await;
            }
        };
        let handle = if waits {
            self.set.spawn(async move {
                work.await;
                id
            })
        } else {
            // Half a start or stop would leave half a VM: it goes on to its end whoever waits for it.
            let whole = tokio::spawn(work);
            self.set.spawn(async move {
                let _ = whole.await;
                id
            })
        };
        self.by_id.insert(id, handle);
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        if let Some(task) = self.by_id.remove(&id) {
            task.abort();
        }
    }
}

fn failure(e: AgentError) -> Failure {
    match e {
        AgentError::Runtime(e) => e.into(),
        e => Failure::Other(e.to_string()),
    }
}

async fn answer(host: &Host, question: Question) -> Result<Reply, Failure> {
    let vms = host.sandbox();
    let done = |()| Reply::Done;
    Ok(match question {
        Question::Start(spec) => Reply::Vm(Some(host.start(*spec).await.map_err(failure)?)),
        Question::Stop(id) => host.stop(&id).await.map(done).map_err(failure)?,
        Question::Freeze(id) => vms.freeze(&id).await.map(done)?,
        Question::Thaw(id) => vms.thaw(&id).await.map(done)?,
        Question::Forget(id) => vms.forget(&id).await.map(done)?,
        Question::Inspect(id) => Reply::Vm(vms.inspect(&id).await?),
        Question::List => Reply::Vms(vms.list().await?),
        Question::RewriteConfig { vm, config } => vms.rewrite_config(&vm, config.as_bytes()).await.map(done)?,
        Question::Config(id) => Reply::Config(vms.config(&id).await?.map(|c| text(&c)).transpose()?),
        Question::Kill(id) => vms.kill(&id).await.map(done)?,
        Question::Exited(id) => vms.exited(&id).await.map(done)?,
        Question::Images => Reply::Images(vms.images().await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the agent makes of a connection whose first bytes these are; and what it says.
    async fn met(first: &[u8]) -> (Result<Purpose, AgentError>, Option<Greeting>) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [agent, controller] = [0, 1].map(|n: usize| Identity::open(dirs[n].path()).unwrap());
        let acceptor = tls::acceptor(&agent, controller.fingerprint()).unwrap();
        let connector = tls::connector(&controller, agent.fingerprint()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let met = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            admit(stream, &acceptor).await.map(|(_, purpose)| purpose)
        });
        let name = tokio_rustls::rustls::pki_types::ServerName::IpAddress(address.ip().into());
        let mut stream = connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream.shutdown().await.unwrap();
        let said = receive(&mut stream).await.ok();
        (met.await.unwrap(), said)
    }

    #[tokio::test]
    async fn another_version_is_told_so_and_nonsense_is_refused() {
        let hello = |version| frame(&Hello { version, purpose: Purpose::Park }).unwrap();
        assert_eq!(met(&hello(VERSION)).await.0.unwrap(), Purpose::Park);
        let (refused, said) = met(&hello(VERSION + 1)).await;
        let why = format!("version {}: this agent speaks version {VERSION}", VERSION + 1);
        assert_eq!((refused.unwrap_err().to_string(), said), (why.clone(), Some(Greeting::Refused(why))));
        for nonsense in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02{}", b"\0\0\0\x09", b"", b"GET / HTTP/1.1\r\n\r\n"] {
            let (refused, said) = met(nonsense).await;
            assert!(refused.is_err() && said.is_none());
        }
    }
}
