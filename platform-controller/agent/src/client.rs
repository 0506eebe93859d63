//! The controller's end: a [`Runtime`] whose VMs are on another host.

use crate::{
    AgentError, Fingerprint, Identity, SILENCE, carry,
    server::tune,
    tls,
    wire::{Failure, FromAgent, FromController, Greeting, Hello, Purpose, Question, Reply, Spec, VERSION, frame, receive, send, text},
};
use edgeplex_runtime::{Answer, Image, Reach, Runtime, RuntimeError, Stream, VmId, VmInfo, VmSpec};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, split},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

/// What it may take to connect and be greeted. More than a silence: a host under load is slow, and still there.
const CONNECT: Duration = Duration::from_secs(3);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);
/// What an answer may take; starting or stopping a VM waits for several steps of seconds each.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The host's name, for messages.
    pub host: String,
    pub address: SocketAddr,
    /// The agent's certificate.
    pub key: Fingerprint,
    /// How long a silence means that the host is lost; [`SILENCE`] by default.
    pub silence: Duration,
    /// The controller's host's own directory: where the relay's socket is to which VMs of the other host are connected.
    pub dir: PathBuf,
}

impl AgentConfig {
    pub fn new(host: impl Into<String>, address: SocketAddr, key: Fingerprint, dir: impl Into<PathBuf>) -> Self {
        Self { host: host.into(), address, key, silence: SILENCE, dir: dir.into() }
    }
}

/// See the module. It is not asked any more when it is dropped; the VMs, and their connections to the relay, go on.
#[derive(Debug)]
pub struct AgentRuntime {
    dialer: Dialer,
    orders: mpsc::Sender<Order>,
    ids: AtomicU64,
    reach: watch::Receiver<Reach>,
    task: AbortHandle,
}

/// Makes connections to one agent.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) config: Arc<AgentConfig>,
    connector: TlsConnector,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Dialer {
    /// A connection for that purpose, not greeted yet.
    pub(crate) async fn dial(&self, purpose: Purpose) -> Result<TlsStream<TcpStream>, AgentError> {
        let address = self.config.address;
        let dial = async {
            let stream = TcpStream::connect(address).await.map_err(AgentError::io(address.to_string()))?;
            tune(&stream).map_err(AgentError::io("socket"))?;
            let name = ServerName::IpAddress(address.ip().into());
            let mut stream = self.connector.connect(name, stream).await.map_err(AgentError::io("TLS"))?;
            send(&mut stream, &Hello { version: VERSION, purpose }).await?;
            Ok(stream)
        };
        timeout(CONNECT, dial).await.unwrap_or_else(|_| Err(AgentError::Refused(format!("{address}: no connection within {CONNECT:?}"))))
    }

    /// The same, greeted. An agent that does not know our certificate hangs up instead.
    async fn welcome(&self, purpose: Purpose) -> Result<TlsStream<TcpStream>, AgentError> {
        let mut stream = self.dial(purpose).await?;
        let greeting = timeout(CONNECT, receive(&mut stream)).await;
        match greeting.unwrap_or_else(|_| Err(AgentError::Refused("it does not greet".into())))? {
            Greeting::Welcome => Ok(stream),
            Greeting::Refused(why) => Err(AgentError::Refused(why)),
        }
    }

    fn unreachable(&self, what: impl ToString) -> RuntimeError {
        RuntimeError::Unreachable { host: self.config.host.clone(), what: what.to_string() }
    }
}

#[derive(Debug)]
enum Order {
    Ask { id: u64, question: Question, answer: oneshot::Sender<Result<Reply, Failure>> },
    Cancel(u64),
}

/// A question whose asker has gone is taken back.
struct Asked<'a> {
    orders: &'a mpsc::Sender<Order>,
    /// Until it is answered.
    id: Option<u64>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // Where it cannot be said, the agent answers once for nobody.
            let _ = self.orders.try_send(Order::Cancel(id));
        }
    }
}

impl AgentRuntime {
    /// Connects, and connects again whenever that is needed, until it is dropped.
    pub fn start(config: AgentConfig, identity: &Identity) -> Result<Self, AgentError> {
        let dialer = Dialer { connector: tls::connector(identity, config.key)?, config: Arc::new(config) };
        let (orders, received) = mpsc::channel(256);
        let (reached, reach) = watch::channel(Reach::Broken);
        let task = tokio::spawn(keep(dialer.clone(), received, reached)).abort_handle();
        Ok(Self { dialer, orders, ids: AtomicU64::new(0), reach, task })
    }

    async fn ask(&self, question: Question, limit: Option<Duration>) -> Result<Reply, RuntimeError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let gone = || self.dialer.unreachable("it is not there");
        let vm = subject(&question);
        self.orders.send(Order::Ask { id, question, answer }).await.map_err(|_| gone())?;
        let mut asked = Asked { orders: &self.orders, id: Some(id) };
        let got = match limit {
            Some(limit) => timeout(limit, answered).await.map_err(|_| self.dialer.unreachable("it does not answer"))?,
            None => answered.await,
        };
        asked.id = None;
        got.map_err(|_| gone())?.map_err(|failure| match (failure, vm) {
            (Failure::Exists(id), _) => RuntimeError::Exists(id),
            (Failure::Unknown(id), _) => RuntimeError::Unknown(id),
            (Failure::Other(what), Some(id)) => RuntimeError::Failed { id, what: format!("on host {}: {what}", self.dialer.config.host) },
            (Failure::Other(what), None) => self.dialer.unreachable(what),
        })
    }

    fn confused<T>(&self) -> Result<T, RuntimeError> {
        Err(self.dialer.unreachable("it answers another question"))
    }

    async fn order(&self, question: Question, limit: Option<Duration>) -> Result<(), RuntimeError> {
        match self.ask(question, limit).await? {
            Reply::Done => Ok(()),
            _ => self.confused(),
        }
    }
}

impl Drop for AgentRuntime {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The VM that a question is about.
fn subject(question: &Question) -> Option<VmId> {
    match question {
        Question::Start(spec) => Some(spec.id().clone()),
        Question::Freeze(id)
        | Question::Thaw(id)
        | Question::Stop(id)
        | Question::Forget(id)
        | Question::Inspect(id)
        | Question::RewriteConfig { vm: id, .. }
        | Question::Config(id)
        | Question::Kill(id)
        | Question::Exited(id) => Some(id.clone()),
        Question::List | Question::Images => None,
    }
}

/// Keeps the control connection, and tells how the host is.
async fn keep(dialer: Dialer, mut orders: mpsc::Receiver<Order>, reach: watch::Sender<Reach>) {
    let (silence, host) = (dialer.config.silence, dialer.config.host.clone());
    let mut heard = Instant::now();
    let mut last = String::new();
    loop {
        let Some(dialled) = alone(dialer.welcome(Purpose::Control), &mut orders, &reach, heard + silence).await else { return };
        let why = match dialled {
            Ok(stream) => {
                heard = Instant::now();
                reach.send_replace(Reach::Up);
                tracing::info!("host {host} is there");
                // Parked connections end with the control connection.
                let carried = carry::start(&dialer);
                let why = Control::new(stream, silence).run(&mut orders, &mut heard).await;
                drop(carried);
                reach.send_replace(if Instant::now() < heard + silence { Reach::Broken } else { Reach::Lost });
                why
            }
            Err(e) => e,
        };
        let why = why.to_string();
        if why != last {
            tracing::warn!("host {host}: {why}");
        }
        last = why;
        if alone(sleep(RETRY), &mut orders, &reach, heard + silence).await.is_none() {
            return;
        }
    }
}

/// Waits for `f` while there is no connection: the host is lost at its time, and what is asked is not answered. `None` when nobody
/// can ask any more.
async fn alone<T>(
    f: impl Future<Output = T>,
    orders: &mut mpsc::Receiver<Order>,
    reach: &watch::Sender<Reach>,
    lost: Instant,
) -> Option<T> {
    let mut f = std::pin::pin!(f);
    loop {
        tokio::select! {
            biased;
            () = sleep_until(lost), if *reach.borrow() != Reach::Lost => drop(reach.send_replace(Reach::Lost)),
            done = &mut f => return Some(done),
            // Dropping the question answers it: nobody is there.
            order = orders.recv() => drop(order?),
        }
    }
}

/// One control connection.
struct Control {
    stream: TlsStream<TcpStream>,
    silence: Duration,
}

impl Control {
    fn new(stream: TlsStream<TcpStream>, silence: Duration) -> Self {
        Self { stream, silence }
    }

    /// Until it ends; why. What was asked and not answered is dropped, and so is known to be unanswered.
    async fn run(self, orders: &mut mpsc::Receiver<Order>, heard: &mut Instant) -> AgentError {
        let (mut reader, mut writer) = split(self.stream);
        let mut waiting: BTreeMap<u64, oneshot::Sender<Result<Reply, Failure>>> = BTreeMap::new();
        let (frames, mut arrived) = mpsc::channel(64);
        // In a task of its own: a frame that has come half-way must not be forgotten for the sake of an order.
        let reading = tokio::spawn(async move {
            loop {
                let got = receive::<FromAgent>(&mut reader).await;
                let last = got.is_err();
                if frames.send(got).await.is_err() || last {
                    return;
                }
            }
        });
        let ended = async {
            loop {
                tokio::select! {
                    got = timeout_at(*heard + self.silence, arrived.recv()) => {
                        let silent = || AgentError::Refused(format!("nothing was heard for {:?}", self.silence));
                        let frame = got.map_err(|_| silent())?.ok_or_else(silent)??;
                        *heard = Instant::now();
                        if let FromAgent::Answer { id, answer } = frame
                            && let Some(asker) = waiting.remove(&id)
                        {
                            // It may have gone.
                            let _ = asker.send(answer);
                        }
                    }
                    order = orders.recv() => {
                        let message = match order {
                            Some(Order::Ask { id, question, answer }) => {
                                waiting.insert(id, answer);
                                FromController::Ask { id, question }
                            }
                            Some(Order::Cancel(id)) => {
                                waiting.remove(&id);
                                FromController::Cancel { id }
                            }
                            None => return Err(AgentError::Refused("the controller ends".into())),
                        };
                        let bytes = frame(&message)?;
                        let sent = timeout_at(*heard + self.silence, async { writer.write_all(&bytes).await?; writer.flush().await });
                        let stuck = |_| Err(std::io::ErrorKind::TimedOut.into());
                        sent.await.unwrap_or_else(stuck).map_err(AgentError::io("connection"))?;
                    }
                }
            }
        };
        let why: Result<(), AgentError> = ended.await;
        reading.abort();
        why.err().unwrap_or_else(|| AgentError::Refused("it ended".into()))
    }
}

impl Runtime for AgentRuntime {
    fn start<'a>(&'a self, spec: &'a VmSpec) -> Answer<'a, VmInfo> {
        Box::pin(async move {
            spec.check()?;
            match self.ask(Question::Start(Box::new(Spec::of(spec)?)), Some(PATIENCE)).await? {
                Reply::Vm(Some(vm)) => Ok(vm),
                _ => self.confused(),
            }
        })
    }

    fn freeze<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.order(Question::Freeze(id.clone()), Some(PATIENCE)))
    }

    fn thaw<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.order(Question::Thaw(id.clone()), Some(PATIENCE)))
    }

    fn stop<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.order(Question::Stop(id.clone()), Some(PATIENCE)))
    }

    fn forget<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.order(Question::Forget(id.clone()), Some(PATIENCE)))
    }

    fn inspect<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<VmInfo>> {
        Box::pin(async move {
            match self.ask(Question::Inspect(id.clone()), Some(PATIENCE)).await? {
                Reply::Vm(vm) => Ok(vm),
                _ => self.confused(),
            }
        })
    }

    fn list(&self) -> Answer<'_, Vec<VmInfo>> {
        Box::pin(async move {
            match self.ask(Question::List, Some(PATIENCE)).await? {
                Reply::Vms(vms) => Ok(vms),
                _ => self.confused(),
            }
        })
    }

    fn rewrite_config<'a>(&'a self, id: &'a VmId, config: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let question = Question::RewriteConfig { vm: id.clone(), config: text(config)? };
            self.order(question, Some(PATIENCE)).await
        })
    }

    fn config<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            match self.ask(Question::Config(id.clone()), Some(PATIENCE)).await? {
                Reply::Config(config) => Ok(config.map(String::into_bytes)),
                _ => self.confused(),
            }
        })
    }

    fn kill<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.order(Question::Kill(id.clone()), Some(PATIENCE)))
    }

    fn exited<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.order(Question::Exited(id.clone()), None))
    }

    fn connect<'a>(&'a self, id: &'a VmId, socket: &'a str) -> Answer<'a, Stream> {
        Box::pin(async move {
            let purpose = Purpose::Connect { vm: id.clone(), socket: socket.to_owned() };
            let stream = self.dialer.welcome(purpose).await.map_err(|e| self.dialer.unreachable(e))?;
            Ok(Box::new(stream) as Stream)
        })
    }

    fn images(&self) -> Answer<'_, Vec<Image>> {
        Box::pin(async move {
            match self.ask(Question::Images, Some(PATIENCE)).await? {
                Reply::Images(images) => Ok(images),
                _ => self.confused(),
            }
        })
    }

    fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.clone()
    }
}
