//! What a journal amounts to: its open sessions and its values.

use crate::frame::{self, Begin, Entry, FrameError, Frames, MAX_CHUNK, MAX_NAME};
use crate::{Opened, Record, SessionId};
use std::collections::BTreeMap;

/// What bookkeeping is counted for a session, a value and a change of direction, so that small ones are not free.
const SESSION: usize = 1024;
const VALUE: usize = 128;
const TURN: usize = 32;

/// Bytes of one direction, in the order in which the directions took turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) sent: bool,
    pub(crate) bytes: usize,
}

/// The neighbour's latest acknowledgement, as in [`Record::Acked`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acked {
    pub sent: u64,
    pub window: Vec<u8>,
    pub timestamp: u32,
    pub at_ms: u64,
}

/// A session with both of its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub opened: Opened,
    pub received: Vec<u8>,
    pub sent: Vec<u8>,
    pub acked: Option<Acked>,
    pub(crate) turns: Vec<Turn>,
}

impl Session {
    pub(crate) fn new(opened: Opened) -> Self {
        Self { opened, received: Vec::new(), sent: Vec::new(), acked: None, turns: Vec::new() }
    }

    pub(crate) fn push(&mut self, sent: bool, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if sent { &mut self.sent } else { &mut self.received }.extend_from_slice(bytes);
        match self.turns.last_mut() {
            Some(turn) if turn.sent == sent => turn.bytes += bytes.len(),
            _ => self.turns.push(Turn { sent, bytes: bytes.len() }),
        }
    }

    /// The streams' parts in the order in which they came.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (bool, &[u8])> {
        let (mut received, mut sent) = (0, 0);
        self.turns.iter().map(move |turn| {
            let (stream, at) = if turn.sent { (&self.sent, &mut sent) } else { (&self.received, &mut received) };
            let part = stream.get(*at..*at + turn.bytes).unwrap_or_default();
            *at += turn.bytes;
            (turn.sent, part)
        })
    }

    /// Of [`Session::sent`], the bytes that the neighbour has acknowledged.
    pub(crate) fn acked_len(&self) -> usize {
        let acked = self.acked.as_ref().map_or(0, |a| a.sent.saturating_sub(self.opened.tcp.sent_skipped));
        usize::try_from(acked).unwrap_or(usize::MAX).min(self.sent.len())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    #[error("session {} does not exist", .0.0)]
    NoSession(SessionId),
    #[error("session {} is open already", .0.0)]
    Open(SessionId),
    #[error("more bytes of session {} are acknowledged than were sent", .0.0)]
    Acked(SessionId),
    #[error("more than {0} bytes")]
    Full(usize),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("ends before its state is whole")]
    Cut,
}

/// All open sessions and values of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    sessions: BTreeMap<SessionId, Session>,
    values: BTreeMap<String, Vec<u8>>,
    next_session: u64,
    bytes: usize,
    limit: usize,
}

impl State {
    /// Of at most so many bytes, bookkeeping counted.
    pub fn new(limit: usize) -> Self {
        Self { sessions: BTreeMap::new(), values: BTreeMap::new(), next_session: 1, bytes: 0, limit }
    }

    pub fn sessions(&self) -> &BTreeMap<SessionId, Session> {
        &self.sessions
    }

    pub fn values(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.values
    }

    /// Names of sessions below this one have been used.
    pub fn next_session(&self) -> u64 {
        self.next_session
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn grow(&mut self, by: usize) -> Result<(), StateError> {
        let bytes = self.bytes.saturating_add(by);
        if bytes > self.limit {
            return Err(StateError::Full(self.limit));
        }
        self.bytes = bytes;
        Ok(())
    }

    pub fn apply(&mut self, record: &Record) -> Result<(), StateError> {
        match record {
            Record::Open(id, opened) => {
                if self.sessions.contains_key(id) {
                    return Err(StateError::Open(*id));
                }
                self.grow(SESSION + opened.tcp.window.len())?;
                self.next_session = self.next_session.max(id.0.saturating_add(1));
                self.sessions.insert(*id, Session::new((**opened).clone()));
            }
            Record::Received(id, bytes) => self.stream(*id, false, bytes)?,
            Record::Sent(id, bytes) => self.stream(*id, true, bytes)?,
            Record::Acked { session, sent, window, timestamp, at_ms } => {
                let s = self.sessions.get_mut(session).ok_or(StateError::NoSession(*session))?;
                let end = s.opened.tcp.sent_skipped.saturating_add(s.sent.len() as u64);
                if *sent > end || window.len() > MAX_NAME {
                    return Err(StateError::Acked(*session));
                }
                s.acked = Some(Acked { sent: *sent, window: window.clone(), timestamp: *timestamp, at_ms: *at_ms });
            }
            Record::Close(id) => {
                if let Some(s) = self.sessions.remove(id) {
                    self.bytes = self.bytes.saturating_sub(weight(&s));
                }
            }
            Record::Put { name, value } => {
                self.grow(VALUE + name.len() + value.len())?;
                if let Some(old) = self.values.insert(name.clone(), value.clone()) {
                    self.bytes = self.bytes.saturating_sub(VALUE + name.len() + old.len());
                }
            }
            Record::Delete { name } => {
                if let Some(old) = self.values.remove(name) {
                    self.bytes = self.bytes.saturating_sub(VALUE + name.len() + old.len());
                }
            }
        }
        Ok(())
    }

    fn stream(&mut self, id: SessionId, sent: bool, bytes: &[u8]) -> Result<(), StateError> {
        let turns = self.sessions.get(&id).ok_or(StateError::NoSession(id))?.turns.len();
        self.grow(bytes.len())?;
        let session = self.sessions.get_mut(&id).ok_or(StateError::NoSession(id))?;
        session.push(sent, bytes);
        let turns = session.turns.len() - turns;
        self.grow(turns * TURN)
    }

    /// What leads to this state, in an order in which it can be replayed.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let sessions = self.sessions.iter().flat_map(|(id, s)| session_records(*id, s));
        sessions.chain(self.values.iter().map(|(name, value)| Record::Put { name: name.clone(), value: value.clone() }))
    }

    /// The same state in fewer bytes: of sessions only what their engines still need.
    pub fn shorten(&mut self) {
        for session in self.sessions.values_mut() {
            let before = weight(session);
            if let Some(shorter) = crate::compact::shorten(session) {
                self.bytes = (self.bytes + weight(&shorter)).saturating_sub(before);
                *session = shorter;
            }
        }
    }

    /// Applies frames up to where they end, or a torn one begins, and says where that is and what the last [`Begin`] was, with
    /// its place behind it.
    pub fn read(&mut self, frames: &[u8]) -> Result<Read, StateError> {
        let mut reader = Frames::new(frames);
        let mut read = Read { valid: 0, begin: None, followed: None };
        while let Some(entry) = reader.next() {
            match entry? {
                Entry::Record(record) => self.apply(&record)?,
                Entry::Begin(begin) => {
                    read.begin = Some((begin, reader.valid()));
                    self.next_session = self.next_session.max(begin.next_session);
                }
                Entry::Followed(on) => read.followed = Some(on),
                Entry::Beat { .. } | Entry::Skipped => {}
            }
        }
        read.valid = reader.valid();
        Ok(read)
    }

    /// A whole file of this state; what is appended later continues the journal `begin` tells of. `followed`: a follower is waited for.
    pub fn write_file(&self, out: &mut Vec<u8>, followed: bool, begin: &Begin) -> Result<(), FrameError> {
        frame::write_header(out);
        self.records().try_for_each(|record| frame::write_record(out, &record))?;
        frame::write_followed(out, followed);
        frame::write_begin(out, begin);
        Ok(())
    }

    /// A checkpoint file: this state, shortened, for another time or another host.
    pub fn checkpoint(mut self) -> Result<Vec<u8>, FrameError> {
        self.shorten();
        let mut out = Vec::with_capacity(self.bytes);
        self.write_file(&mut out, false, &Begin { journal: 0, position: 0, next_session: self.next_session })?;
        Ok(out)
    }

    /// Reads a checkpoint file, or any journal file, of at most `limit` bytes of state.
    pub fn from_file(file: &[u8], limit: usize) -> Result<Self, StateError> {
        let mut state = Self::new(limit);
        let read = state.read(frame::read_header(file)?)?;
        // The state stands before the first of them; without it something is missing.
        read.begin.map(|_| state).ok_or(StateError::Cut)
    }
}

/// What [`State::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Where the last whole frame ends.
    pub valid: usize,
    pub begin: Option<(Begin, usize)>,
    /// The last word on whether the process waited for a follower.
    pub followed: Option<bool>,
}

fn weight(s: &Session) -> usize {
    SESSION + s.opened.tcp.window.len() + s.received.len() + s.sent.len() + s.turns.len() * TURN
}

/// One session's records. Of what was sent and acknowledged the acknowledgement follows at once, so that who counts along never
/// holds more than what is in flight.
fn session_records(id: SessionId, s: &Session) -> impl Iterator<Item = Record> {
    let acked = s.acked.clone().unwrap_or_default();
    let mut sent = s.opened.tcp.sent_skipped;
    let chunks = s.parts().flat_map(|(sent, part)| part.chunks(MAX_CHUNK).map(move |chunk| (sent, chunk)));
    let records = chunks.flat_map(move |(is_sent, chunk)| {
        if !is_sent {
            return [Some(Record::Received(id, chunk.to_vec())), None];
        }
        sent += chunk.len() as u64;
        let ack = (sent <= acked.sent).then(|| Record::Acked {
            session: id,
            sent,
            window: acked.window.clone(),
            timestamp: acked.timestamp,
            at_ms: acked.at_ms,
        });
        [Some(Record::Sent(id, chunk.to_vec())), ack]
    });
    let last =
        s.acked.clone().map(|a| Record::Acked { session: id, sent: a.sent, window: a.window, timestamp: a.timestamp, at_ms: a.at_ms });
    [Record::Open(id, Box::new(s.opened.clone()))].into_iter().chain(records.flatten()).chain(last)
}
