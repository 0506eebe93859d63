//! The controller's end: a [`Runtime`] whose VMs are on another host.

use crate::{
    AgentError, Fingerprint, Identity, SILENCE, image,
    link::{Dialer, Order, keep},
    wire::{Failure, Purpose, Question, Reply, Spec, text},
};
use edgeplex_runtime::{Answer, Image, Reach, Runtime, RuntimeError, Stream, Told, VmId, VmInfo, VmSpec};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};

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
        let dialer = Dialer::new(config, identity)?;
        let (orders, received) = mpsc::channel(256);
        let (reached, reach) = watch::channel(Reach::Broken);
        let task = tokio::spawn(keep(dialer.clone(), received, reached)).abort_handle();
        Ok(Self { dialer, orders, ids: AtomicU64::new(0), reach, task })
    }

    async fn ask(&self, question: Question, limit: Option<Duration>) -> Result<Reply, RuntimeError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let vm = subject(&question);
        self.orders.send(Order::Ask { id, question, answer }).await.map_err(|_| self.dialer.gone())?;
        let mut asked = Asked { orders: &self.orders, id: Some(id) };
        let got = match limit {
            Some(limit) => timeout(limit, answered).await.map_err(|_| self.dialer.unreachable("it does not answer"))?,
            None => answered.await,
        };
        asked.id = None;
        got.map_err(|_| self.dialer.gone())?.map_err(|failure| match (failure, vm) {
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
            if self.dialer.is_released() {
                return Err(self.dialer.gone());
            }
            let purpose = Purpose::Connect { vm: id.clone(), socket: socket.to_owned() };
            let absent = |why| io::Error::new(io::ErrorKind::ConnectionRefused, why);
            let stream = self.dialer.welcome(purpose).await.map_err(|e| match e {
                AgentError::Absent(why) => RuntimeError::Io { id: id.clone(), what: socket.to_owned(), error: absent(why) },
                e => self.dialer.unreachable(e),
            })?;
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

    fn ship_image<'a>(&'a self, name: &'a str, from: &'a Path, told: &'a Told<'a>) -> Answer<'a, ()> {
        Box::pin(async move { image::ship(&self.dialer, name, from, told).await.map_err(|e| self.dialer.unreachable(e)) })
    }

    fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.clone()
    }

    fn release(&self) {
        self.dialer.release();
        self.task.abort();
    }
}
