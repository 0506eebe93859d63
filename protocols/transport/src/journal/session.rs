//! The log of one TCP session, and the gate that holds its segments until what they tell is committed.

use super::Journal;
use edgeplex_journal::{Opened, Progress, Record, SessionId, seq};
use std::{collections::VecDeque, fmt, net::SocketAddr};

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

/// What waits for its commit, of one session, at most; more is taken together.
const WAITING: usize = 256;
/// More than any window, and less than serial arithmetic can tell; bytes.
const LONG_AGO: u32 = 1 << 30;

/// Bounds of a session's segments: which hold once the journal is committed up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    end: u64,
    seq: u32,
    ack: u32,
}

/// How far a session may go.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) flow: Flow,
    waiting: VecDeque<Bounds>,
    /// The last ones that are committed.
    told: Option<Bounds>,
    fenced: bool,
    /// It is over once that is committed.
    over: Option<u64>,
    /// A part of it could not be written.
    pub(super) unprotected: bool,
}

impl Guarded {
    pub(super) fn new(flow: Flow) -> Self {
        Self { flow, waiting: VecDeque::new(), told: None, fenced: false, over: None, unprotected: false }
    }

    fn moves(&mut self, end: u64, seq: u32, ack: u32) {
        let bounds = Bounds { end, seq, ack };
        let full = self.waiting.len() >= WAITING;
        match self.waiting.back_mut() {
            Some(last) if last.end == end || full => *last = bounds,
            _ => self.waiting.push_back(bounds),
        }
    }

    /// Tells the gate what `committed` allows; `false`: the session is over.
    pub(super) fn settle(&mut self, committed: u64, gate: Option<&dyn Gate>) -> bool {
        // What is lost already waits for nothing.
        let committed = if self.unprotected { u64::MAX } else { committed };
        let done = self.waiting.partition_point(|b| b.end <= committed);
        let last = self.waiting.drain(..done).next_back();
        if let Some(bounds) = last {
            self.told = Some(bounds);
            self.tell(gate);
        }
        if self.over.is_some_and(|end| end <= committed) {
            gate.inspect(|g| g.over(self.flow));
            return false;
        }
        true
    }

    pub(super) fn tell(&self, gate: Option<&dyn Gate>) {
        let Some(gate) = gate else { return };
        if self.fenced {
            gate.fence(self.flow);
        } else if let Some(bounds) = self.told {
            gate.upto(self.flow, bounds.seq, bounds.ack);
        }
    }
}

/// Writes a session's bytes to the journal. Dropped without [`SessionLog::close`], the session stays open there for a successor.
#[derive(Debug)]
pub struct SessionLog {
    journal: Journal,
    id: SessionId,
    sent_base: u32,
    received_base: u32,
    received: u64,
    sent: u64,
}

impl SessionLog {
    pub(super) fn new(journal: Journal, id: SessionId, progress: &Progress) -> Self {
        let tcp = &progress.opened.tcp;
        Self { journal, id, sent_base: tcp.sent_base, received_base: tcp.received_base, received: progress.received, sent: progress.sent }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Bytes received and sent, counted from the connection's first.
    pub fn counts(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    fn bounds(&self) -> (u32, u32) {
        (seq(self.sent_base, self.sent), seq(self.received_base, self.received))
    }

    /// Bounds that let nothing go which the neighbour has not: what it has acknowledged, and an acknowledgement of long ago.
    pub(super) fn behind(&self, acked: u64) -> (u32, u32) {
        (seq(self.sent_base, acked), seq(self.received_base, self.received).wrapping_sub(LONG_AGO))
    }

    fn stream(&self, is_sent: bool, bytes: &[u8]) {
        let (seq, ack) = self.bounds();
        let frames = |out: &mut Vec<u8>| {
            edgeplex_journal::write_stream(out, self.id, is_sent, bytes);
            Ok(())
        };
        self.journal.write(Some(self.id), frames, None, |guarded, end| guarded.moves(end, seq, ack));
    }

    /// The gate may let go what is committed already.
    pub(super) fn moved(&self) {
        let (seq, ack) = self.bounds();
        self.journal.write(Some(self.id), |_| Ok(()), None, |guarded, end| guarded.moves(end, seq, ack));
    }

    /// To be called with what was read, before anything is made of it.
    pub fn received(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        self.stream(false, bytes);
    }

    /// To be called with whole messages, before they are given to the socket.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        self.stream(true, bytes);
    }

    /// The neighbour has acknowledged `sent` bytes of ours, counted from the connection's first; now and then. `window` and
    /// `timestamp` as the socket has them at `at_ms` (CLOCK_BOOTTIME).
    pub fn acked(&mut self, sent: u64, window: Vec<u8>, timestamp: u32, at_ms: u64) {
        self.journal.append(&Record::Acked { session: self.id, sent: sent.min(self.sent), window, timestamp, at_ms });
    }

    /// Nothing of the session leaves or enters, until [`SessionLog::unfence`].
    pub fn fence(&self) {
        self.set_fenced(true);
    }

    pub fn unfence(&self) {
        self.set_fenced(false);
    }

    fn set_fenced(&self, fenced: bool) {
        let mut core = self.journal.0.core();
        let gate = core.gate.clone();
        if let Some(guarded) = core.sessions.get_mut(&self.id) {
            guarded.fenced = fenced;
            guarded.tell(gate.as_deref());
        }
    }

    /// The connection is over. What is still held, FIN or RST too, may leave once that is committed.
    pub fn close(self) {
        let frames = |out: &mut Vec<u8>| edgeplex_journal::write_record(out, &Record::Close(self.id));
        self.journal.write(Some(self.id), frames, None, |guarded, end| guarded.over = Some(end));
        self.journal.0.changed();
    }
}
