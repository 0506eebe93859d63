//! The task that owns the engine and the sockets.
//!
//! A packet that says something new leaves when the journal holds it: a successor that knew less would take it back. One that only
//! repeats waits for nothing, so that a slow standby costs no session.

use super::sockets::{Heard, Sockets};
use super::{Command, Event, QUEUE};
use crate::{Mode, Promoted, journal::Journal, mode::is_committed};
use edgeplex_bfd::{Action, Bfd, Key, packet::Control};
use edgeplex_journal::Record;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, info, warn};

struct Task {
    bfd: Bfd,
    /// Moment zero of the engine's time.
    zero: Instant,
    sockets: Sockets,
    events: mpsc::UnboundedSender<Event>,
    /// None yet while we follow.
    journal: Option<Journal>,
    /// Where in the journal the last news of a session end that may not be committed yet, and its last packet since.
    waiting: BTreeMap<Key, (u64, Option<Control>)>,
    fenced: bool,
    /// Packets since timers were looked at.
    in_a_row: usize,
}

/// Differs between processes: discriminators of a past one mean nothing now.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos() & u128::from(u64::MAX)).unwrap_or(1) ^ (u64::from(std::process::id()) << 40)
}

pub(super) async fn run(
    mode: Mode,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<Event>,
    mut packets: mpsc::Receiver<Heard>,
    sockets: Sockets,
) {
    let (bfd, journal) = match mode {
        Mode::Live(journal) => (Bfd::new(seed()), Some(journal)),
        Mode::Following => (Bfd::following(seed()), None),
    };
    let (zero, waiting) = (Instant::now(), BTreeMap::new());
    let mut task = Task { bfd, zero, sockets, events, journal, waiting, fenced: false, in_a_row: 0 };
    loop {
        let deadline = task.bfd.deadline().filter(|_| !task.fenced).map(|t| task.zero + t);
        let timer = async {
            match deadline {
                Some(t) => tokio::time::sleep_until(t).await,
                None => std::future::pending().await,
            }
        };
        let first = task.waiting.values().map(|(end, _)| *end).min();
        let journal = task.journal.clone();
        let committed = async {
            match (&journal, first) {
                (Some(journal), Some(end)) => journal.committed(end).await,
                _ => std::future::pending().await,
            }
        };
        // Packets come before timers: what has arrived in time must not count as late because we were. What was in the queue when a
        // timer fell due has had its turn after so many; a flood must not keep sessions from sending and from expiring.
        let overdue = task.in_a_row >= QUEUE && deadline.is_some_and(|t| t <= Instant::now());
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                None => return,
                Some(Command::Leave(done)) => {
                    drop(task);
                    let _ = done.send(());
                    return;
                }
                Some(command) => task.command(command),
            },
            () = committed => task.let_go(),
            Some(heard) = packets.recv(), if !overdue => task.heard(&heard),
            () = timer => {
                task.in_a_row = 0;
                let actions = task.bfd.timer(task.now());
                task.act(actions);
            }
        }
    }
}

impl Task {
    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Add(key, client, parameters) => {
                if self.bfd.add(now, &key, &client, parameters) {
                    let _ = self.events.send(Event::Up(key.clone()));
                }
                // Who follows must not take packets from whoever speaks.
                if self.journal.is_some() {
                    self.sockets.listen(&key);
                }
            }
            Command::Remove(key, client) => self.bfd.remove(now, &key, &client),
            Command::Show(answer) => drop(answer.send(self.bfd.views(now))),
            Command::Replay(name, value) => {
                if let Err(error) = self.bfd.restore(now, &name, value.as_deref()) {
                    warn!(%error, "a stored BFD session is lost");
                }
            }
            Command::Forget => self.bfd.forget_all(now),
            Command::Promote(journal, done) => {
                self.journal = Some(journal);
                let actions = self.bfd.promote(now);
                let ups = actions.iter().filter(|a| matches!(a, Action::Up(_))).count();
                self.act(actions);
                let _ = done.send(Promoted { sessions: u32::try_from(ups).unwrap_or(u32::MAX), lost: 0 });
            }
            Command::Fence(done) => {
                // What was to be said the successor says.
                self.waiting.clear();
                self.fenced = true;
                let journal = self.journal.clone();
                tokio::spawn(async move {
                    if let Some(journal) = journal {
                        journal.committed_all().await;
                    }
                    let _ = done.send(());
                });
            }
            Command::Unfence => {
                if std::mem::take(&mut self.fenced) {
                    let actions = self.bfd.resume(now);
                    self.act(actions);
                }
            }
            Command::Leave(_) => {}
        }
    }

    fn heard(&mut self, heard: &Heard) {
        self.in_a_row += 1;
        if self.fenced {
            return;
        }
        match Control::decode(&heard.bytes) {
            Ok(packet) => {
                let actions = self.bfd.receive(self.now(), heard.from, heard.to, heard.interface.as_deref(), &packet);
                self.act(actions);
            }
            Err(error) => debug!(from = %heard.from, %error, "BFD packet dropped"),
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in &actions {
            // The port is part of what is written down.
            if let Action::Send(key, _) = action {
                let wanted = self.bfd.source_port(key);
                let port = self.sockets.prepare(key, wanted);
                if let Some(port) = port.filter(|_| port != wanted) {
                    self.bfd.set_source_port(key, port);
                }
            }
        }
        self.write_down();
        for action in actions {
            match action {
                Action::Send(key, packet) => match self.waiting.get_mut(&key) {
                    Some((_, waits)) => *waits = Some(packet),
                    None => self.sockets.send(&key, &packet.encode()),
                },
                Action::Up(key) => {
                    info!(peer = %key.peer, "BFD session up");
                    let _ = self.events.send(Event::Up(key));
                }
                Action::Down(key, why) => {
                    info!(peer = %key.peer, %why, "BFD session down");
                    let _ = self.events.send(Event::Down(key, why));
                }
                Action::Removed(key) => {
                    self.waiting.remove(&key);
                    self.sockets.close(&key, self.bfd.views(self.now()).iter().map(|v| &v.key));
                }
            }
        }
    }

    /// Tells the journal what is new.
    fn write_down(&mut self) {
        let Some(journal) = self.journal.as_ref().filter(|_| !self.fenced) else { return };
        for (key, name, value) in self.bfd.changes() {
            journal.append(&match value {
                Some(value) => Record::Put { name, value },
                None => Record::Delete { name },
            });
            let end = journal.end();
            if !is_committed(journal, end) {
                self.waiting.entry(key).or_insert((end, None)).0 = end;
            }
        }
    }

    /// Sends what has waited for the journal.
    fn let_go(&mut self) {
        let Some(journal) = &self.journal else { return };
        let ready: Vec<_> = self.waiting.extract_if(.., |_, (end, _)| is_committed(journal, *end)).collect();
        for (key, (_, packet)) in ready {
            if let Some(packet) = packet {
                self.sockets.send(&key, &packet.encode());
            }
        }
    }
}
