//! BFD over UDP (RFC 5881 single hop, RFC 5883 multihop): one task owns the engine, a socket for each session sends, a
//! socket for each interface and family receives.

mod sockets;

pub use edgeplex_bfd::{Key, Parameters, ParametersError, SessionView, Why};

use edgeplex_bfd::{Action, Bfd, packet::Control};
use edgeplex_mgmt::show::BfdRow;
use sockets::{Heard, Sockets};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{debug, info};

/// Packets that wait for the task at most; what comes beyond is lost, as on the wire.
const QUEUE: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Also said in answer to an `add` of a session that is up already.
    Up(Key),
    /// It left Up.
    Down(Key, Why),
}

#[derive(Debug)]
enum Command {
    Add(Key, String, Parameters),
    Remove(Key, String),
    Show(oneshot::Sender<Vec<SessionView>>),
}

/// Speaks to the task; the task ends with the last of them.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::UnboundedSender<Command>);

/// Starts the task. Events must be taken: they are few, and kept until they are.
pub fn start() -> (Handle, mpsc::UnboundedReceiver<Event>) {
    let (commands, from_handles) = mpsc::unbounded_channel();
    let (events, to_owner) = mpsc::unbounded_channel();
    let (heard, packets) = mpsc::channel(QUEUE);
    tokio::spawn(run(from_handles, events, packets, Sockets::new(heard)));
    (Handle(commands), to_owner)
}

impl Handle {
    /// `client` wants the session at this pace; the same again changes the pace. The fastest of several clients counts.
    pub fn add(&self, key: Key, client: &str, parameters: Parameters) {
        let _ = self.0.send(Command::Add(key, client.to_owned(), parameters));
    }

    /// `client` does not want the session any more.
    pub fn remove(&self, key: Key, client: &str) {
        let _ = self.0.send(Command::Remove(key, client.to_owned()));
    }

    /// All sessions, in a stable order.
    pub async fn show(&self) -> Vec<BfdRow> {
        let (answer, views) = oneshot::channel();
        let _ = self.0.send(Command::Show(answer));
        views.await.unwrap_or_default().iter().map(row).collect()
    }
}

fn row(v: &SessionView) -> BfdRow {
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    BfdRow {
        address: v.key.peer,
        interface: v.key.interface.as_deref().map(str::to_owned),
        state: v.state.name().into(),
        up_s: v.up.map(|d| d.as_secs()),
        clients: v.clients.clone(),
        transmit_us: micros(v.transmit),
        detection_us: micros(v.detection),
        local_discriminator: v.local_discriminator,
        remote_discriminator: v.remote_discriminator,
        diagnostic: v.diagnostic.to_string(),
        remote_diagnostic: v.remote_diagnostic.to_string(),
        downs: v.downs,
        packets_received: v.packets_received,
        packets_sent: v.packets_sent,
    }
}

/// Differs between processes: discriminators of a past one mean nothing now.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos() & u128::from(u64::MAX)).unwrap_or(1) ^ (u64::from(std::process::id()) << 40)
}

async fn run(
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<Event>,
    mut packets: mpsc::Receiver<Heard>,
    mut sockets: Sockets,
) {
    let start = Instant::now();
    let mut bfd = Bfd::new(seed());
    // Packets since timers were looked at.
    let mut in_a_row = 0;
    loop {
        let deadline = bfd.deadline().map(|t| start + t);
        let timer = async {
            match deadline {
                Some(t) => tokio::time::sleep_until(t).await,
                None => std::future::pending().await,
            }
        };
        // Packets come before timers: what has arrived in time must not count as late because we were. What was in the queue when a
        // timer fell due has had its turn after so many; a flood must not keep sessions from sending and from expiring.
        let overdue = in_a_row >= QUEUE && deadline.is_some_and(|t| t <= Instant::now());
        let actions = tokio::select! {
            biased;
            command = commands.recv() => match command {
                None => return,
                Some(Command::Add(key, client, parameters)) => {
                    if bfd.add(start.elapsed(), &key, &client, parameters) {
                        let _ = events.send(Event::Up(key.clone()));
                    }
                    sockets.listen(&key);
                    vec![]
                }
                Some(Command::Remove(key, client)) => {
                    bfd.remove(start.elapsed(), &key, &client);
                    vec![]
                }
                Some(Command::Show(answer)) => {
                    let _ = answer.send(bfd.views(start.elapsed()));
                    vec![]
                }
            },
            Some(Heard { from, to, interface, bytes }) = packets.recv(), if !overdue => {
                in_a_row += 1;
                match Control::decode(&bytes) {
                    Ok(packet) => bfd.receive(start.elapsed(), from, to, interface.as_deref(), &packet),
                    Err(error) => {
                        debug!(%from, %error, "BFD packet dropped");
                        vec![]
                    }
                }
            }
            () = timer => {
                in_a_row = 0;
                bfd.timer(start.elapsed())
            }
        };
        for action in actions {
            match action {
                Action::Send(key, packet) => sockets.send(&key, &packet.encode()),
                Action::Up(key) => {
                    info!(peer = %key.peer, "BFD session up");
                    let _ = events.send(Event::Up(key));
                }
                Action::Down(key, why) => {
                    info!(peer = %key.peer, %why, "BFD session down");
                    let _ = events.send(Event::Down(key, why));
                }
                Action::Removed(key) => sockets.close(&key, bfd.views(start.elapsed()).iter().map(|v| &v.key)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    #[tokio::test]
    async fn sessions_go_on_under_a_flood() {
        let (peer, local) = (Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4));
        let ear = tokio::net::UdpSocket::bind((peer, 4784)).await.unwrap();
        let (commands, from_handle) = mpsc::unbounded_channel();
        let (events, _to_owner) = mpsc::unbounded_channel();
        let (heard, packets) = mpsc::channel(QUEUE);
        tokio::spawn(run(from_handle, events, packets, Sockets::new(heard.clone())));
        // The queue is never empty.
        for _ in 0..2 * QUEUE {
            let heard = heard.clone();
            tokio::spawn(async move {
                let stranger = IpAddr::from([127, 0, 0, 9]);
                while heard.send(Heard { from: stranger, to: stranger, interface: None, bytes: vec![] }).await.is_ok() {}
            });
        }
        let handle = Handle(commands);
        let key = Key { peer: peer.into(), local: local.into(), interface: None };
        handle.add(key, "test", Parameters::new(Duration::from_millis(50), 3).unwrap());
        let mut buffer = [0; 64];
        for _ in 0..2 {
            tokio::time::timeout(Duration::from_secs(10), ear.recv(&mut buffer)).await.expect("in time").unwrap();
        }
    }
}
