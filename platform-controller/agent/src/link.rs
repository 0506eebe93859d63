//! The way to an agent: connections, and the one that is kept for questions and for knowing that the host is there.

use crate::{
    AgentConfig, AgentError, Identity, carry,
    server::tune,
    tls,
    wire::{Failure, FromAgent, FromController, Greeting, Hello, Purpose, Question, Reply, VERSION, frame, receive, send},
};
use edgeplex_runtime::{Patience, Reach, RuntimeError};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncWriteExt, split},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
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
    /// Why there is no connection, where there is none.
    trouble: watch::Sender<String>,
    /// The host is none of ours any more.
    released: watch::Sender<bool>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Dialer {
    pub(crate) fn new(config: AgentConfig, identity: &Identity) -> Result<Self, AgentError> {
        let trouble = watch::Sender::new("it was not reached yet".to_owned());
        Ok(Self {
            connector: tls::connector(identity, config.key)?,
            config: Arc::new(config),
            trouble,
            released: watch::Sender::new(false),
        })
    }

    /// A connection for that purpose, not greeted yet.
    pub(crate) async fn dial(&self, purpose: Purpose) -> Result<TlsStream<TcpStream>, AgentError> {
        let address = self.config.address;
        let dial = async {
            let stream = TcpStream::connect(address).await.map_err(AgentError::io(address.to_string()))?;
            tune(&stream).map_err(AgentError::io("socket"))?;
            let name = ServerName::IpAddress(address.ip().into());
            let mut stream = self.connector.connect(name, stream).await.map_err(tls::told)?;
            send(&mut stream, &Hello { version: VERSION, purpose }).await?;
            Ok(stream)
        };
        timeout(CONNECT, dial).await.unwrap_or_else(|_| Err(AgentError::Refused(format!("{address}: no connection within {CONNECT:?}"))))
    }

    /// The same, greeted. An agent that does not know our certificate hangs up instead.
    pub(crate) async fn welcome(&self, purpose: Purpose) -> Result<TlsStream<TcpStream>, AgentError> {
        let mut stream = self.dial(purpose).await?;
        let greeting =
            timeout(CONNECT, receive(&mut stream)).await.unwrap_or_else(|_| Err(AgentError::Refused("it does not greet".into())));
        match greeting.map_err(|e| if let AgentError::Io { error, .. } = e { tls::told(error) } else { e })? {
            Greeting::Welcome => Ok(stream),
            Greeting::Refused(why) => Err(AgentError::Refused(why)),
            Greeting::Absent(why) => Err(AgentError::Absent(why)),
        }
    }

    pub(crate) fn unreachable(&self, what: impl ToString) -> RuntimeError {
        RuntimeError::Unreachable { host: self.config.host.clone(), what: what.to_string() }
    }

    pub(crate) fn is_in_trouble(&self, why: &str) {
        self.trouble.send_replace(why.into());
    }

    pub(crate) fn release(&self) {
        self.is_in_trouble("it is no longer one of the platform's");
        self.released.send_replace(true);
    }

    pub(crate) async fn released(&self) {
        // The sender is our own.
        let _ = self.released.subscribe().wait_for(|released| *released).await;
    }

    pub(crate) fn is_released(&self) -> bool {
        *self.released.borrow()
    }

    /// There is nobody to ask; why.
    pub(crate) fn gone(&self) -> RuntimeError {
        self.unreachable(self.trouble.borrow().as_str())
    }
}

#[derive(Debug)]
pub(crate) enum Order {
    Ask { id: u64, question: Question, answer: oneshot::Sender<Result<Reply, Failure>> },
    Cancel(u64),
}

/// Keeps the control connection, and tells how the host is.
pub(crate) async fn keep(dialer: Dialer, mut orders: mpsc::Receiver<Order>, reach: watch::Sender<Reach>) {
    let host = dialer.config.host.clone();
    // Ends when nothing was heard for as long as is allowed, with a connection or without.
    let mut patience = Patience::new(dialer.config.silence);
    let mut last = String::new();
    loop {
        let Some(dialled) = alone(dialer.welcome(Purpose::Control), &mut orders, &reach, &mut patience).await else { return };
        let why = match dialled {
            Ok(stream) => {
                patience.renew();
                dialer.is_in_trouble("the connection has ended");
                reach.send_replace(Reach::Up);
                tracing::info!("host {host} is there");
                // Parked connections end with the control connection.
                let carried = carry::start(&dialer);
                let why = control(stream, &mut orders, &mut patience).await;
                drop(carried);
                reach.send_replace(if patience.is_over() { Reach::Lost } else { Reach::Broken });
                why
            }
            Err(e) => e,
        };
        let why = why.to_string();
        if why != last {
            tracing::warn!("host {host}: {why}");
        }
        dialer.is_in_trouble(&why);
        last = why;
        if alone(sleep(RETRY), &mut orders, &reach, &mut patience).await.is_none() {
            return;
        }
    }
}

/// Waits for `f` while there is no connection: the host is lost when patience ends, and what is asked is not answered. `None` when
/// nobody can ask any more.
async fn alone<T>(
    f: impl Future<Output = T>,
    orders: &mut mpsc::Receiver<Order>,
    reach: &watch::Sender<Reach>,
    patience: &mut Patience,
) -> Option<T> {
    let mut f = std::pin::pin!(f);
    loop {
        tokio::select! {
            biased;
            done = &mut f => return Some(done),
            () = patience.ends(), if *reach.borrow() != Reach::Lost => drop(reach.send_replace(Reach::Lost)),
            // Dropping the question answers it: nobody is there.
            order = orders.recv() => drop(order?),
        }
    }
}

/// Serves a control connection until it ends; why. What was asked and not answered is dropped, and so is known to be unanswered.
async fn control(stream: TlsStream<TcpStream>, orders: &mut mpsc::Receiver<Order>, patience: &mut Patience) -> AgentError {
    let (mut reader, mut writer) = split(stream);
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
    let ended = || AgentError::Refused("it ended".into());
    let silent = || AgentError::Refused("nothing is heard any more".into());
    let served = async {
        loop {
            tokio::select! {
                biased;
                got = arrived.recv() => {
                    let frame = got.ok_or_else(ended)??;
                    patience.renew();
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
                    let send = async { writer.write_all(&bytes).await?; writer.flush().await };
                    tokio::select! {
                        biased;
                        sent = send => sent.map_err(AgentError::io("connection"))?,
                        () = patience.ends() => return Err(silent()),
                    }
                }
                () = patience.ends() => return Err(silent()),
            }
        }
    };
    let why: Result<(), AgentError> = served.await;
    reading.abort();
    why.err().unwrap_or_else(ended)
}
