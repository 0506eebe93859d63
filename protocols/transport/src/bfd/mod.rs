//! BFD over UDP (RFC 5881 single hop, RFC 5883 multihop): one task owns the engine, a socket for each session sends, a
//! socket for each interface and family receives. What a successor needs of a session goes to the journal as `bfd/…`.

mod sockets;
mod task;

pub use edgeplex_bfd::{Key, PREFIX, Parameters, ParametersError, SessionView, Why};

use crate::{Mode, Promoted, journal::Journal};
use edgeplex_journal::Record;
use edgeplex_mgmt::show::BfdRow;
use sockets::Sockets;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

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
    Replay(String, Option<Vec<u8>>),
    Forget,
    Promote(Journal, oneshot::Sender<Promoted>),
    Fence(oneshot::Sender<()>),
    Unfence,
    Leave(oneshot::Sender<()>),
}

/// Speaks to the task; the task ends with the last of them.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::UnboundedSender<Command>);

/// Starts the task. Events must be taken: they are few, and kept until they are.
pub fn start(mode: Mode) -> (Handle, mpsc::UnboundedReceiver<Event>) {
    let (commands, from_handles) = mpsc::unbounded_channel();
    let (events, to_owner) = mpsc::unbounded_channel();
    let (heard, packets) = mpsc::channel(QUEUE);
    tokio::spawn(task::run(mode, from_handles, events, packets, Sockets::new(heard)));
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

    /// To one that follows: a change that the active instance has written down. Those of others are let pass.
    pub fn replay(&self, record: &Record) {
        let (name, value) = match record {
            Record::Put { name, value } => (name, Some(value.clone())),
            Record::Delete { name } => (name, None),
            _ => return,
        };
        if name.starts_with(PREFIX) {
            let _ = self.0.send(Command::Replay(name.clone(), value));
        }
    }

    /// To one that follows: the journal begins anew, so what was replayed is forgotten.
    pub fn forget(&self) {
        let _ = self.0.send(Command::Forget);
    }

    /// To one that follows: everything has been replayed, and nobody else speaks. Its sessions go on here, with a packet at once;
    /// [`Event::Up`] is told of those that are up. Sessions that no client has wanted half a minute later end.
    pub async fn promote(&self, journal: Journal) -> Promoted {
        let (done, promoted) = oneshot::channel();
        let _ = self.0.send(Command::Promote(journal, done));
        promoted.await.unwrap_or_default()
    }

    /// Sessions stand still: nothing is said or heard. Returns when what was written down is committed.
    pub async fn fence(&self) {
        let (done, fenced) = oneshot::channel();
        let _ = self.0.send(Command::Fence(done));
        let _ = fenced.await;
    }

    /// Sessions go on after [`Handle::fence`].
    pub fn unfence(&self) {
        let _ = self.0.send(Command::Unfence);
    }

    /// Falls silent for good, without a word to the neighbours: a successor goes on. Where there will be none, `remove` ends
    /// sessions so that neighbours know. Returns when the sockets are closed.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        let _ = self.0.send(Command::Leave(done));
        let _ = left.await;
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

#[cfg(test)]
mod tests {
    use super::{sockets::Heard, *};
    use std::net::{IpAddr, Ipv4Addr};

    #[tokio::test]
    async fn sessions_go_on_under_a_flood() {
        let (peer, local) = (Ipv4Addr::new(127, 0, 0, 3), Ipv4Addr::new(127, 0, 0, 4));
        let ear = tokio::net::UdpSocket::bind((peer, 4784)).await.unwrap();
        let (commands, from_handle) = mpsc::unbounded_channel();
        let (events, _to_owner) = mpsc::unbounded_channel();
        let (heard, packets) = mpsc::channel(QUEUE);
        tokio::spawn(task::run(Mode::Live(Journal::none()), from_handle, events, packets, Sockets::new(heard.clone())));
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
