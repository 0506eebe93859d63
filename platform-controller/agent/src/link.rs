//! The way to an agent: connections, and the one that is kept for questions and for knowing that the host is there.

use crate::{
    AgentConfig, AgentError, Identity, carry,
    server::tune,
    tls,
    wire::{Failure, FromAgent, FromController, Greeting, Hello, Purpose, Question, Reply, VERSION, frame, receive, send},
};
use edgeplex_runtime::{Reach, RuntimeError};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncWriteExt, split},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

/// What it may take to connect and be greeted. More than a silence: a host under load is slow, and still there.
const CONNECT: Duration = Duration::from_secs(3);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(50);
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
    pub(crate) fn new(config: AgentConfig, identity: &Identity) -> Result<Self, AgentError> {
        Ok(Self { connector: tls::connector(identity, config.key)?, config: Arc::new(config) })
    }

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
    pub(crate) async fn welcome(&self, purpose: Purpose) -> Result<TlsStream<TcpStream>, AgentError> {
        let mut stream = self.dial(purpose).await?;
        let greeting = timeout(CONNECT, receive(&mut stream)).await;
        match greeting.unwrap_or_else(|_| Err(AgentError::Refused("it does not greet".into())))? {
            Greeting::Welcome => Ok(stream),
            Greeting::Refused(why) => Err(AgentError::Refused(why)),
            Greeting::Absent(why) => Err(AgentError::Absent(why)),
        }
    }

    pub(crate) fn unreachable(&self, what: impl ToString) -> RuntimeError {
        RuntimeError::Unreachable { host: self.config.host.clone(), what: what.to_string() }
    }
}

#[derive(Debug)]
pub(crate) enum Order {
    Ask { id: u64, question: Question, answer: oneshot::Sender<Result<Reply, Failure>> },
    Cancel(u64),
}

/// Keeps the control connection, and tells how the host is.
pub(crate) async fn keep(dialer: Dialer, mut orders: mpsc::Receiver<Order>, reach: watch::Sender<Reach>) {
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
