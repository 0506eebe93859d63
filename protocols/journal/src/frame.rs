//! Records as frames: in the file, to a standby and in a checkpoint.
//!
//! ```text
//!   file   "EPXJRNL\n" │ format u16 │ frame │ frame │ …          all numbers big-endian
//!   frame  length u32 │ CRC-32C u32 │ format u8 │ kind u8 │ …    length and CRC cover what follows the CRC
//! ```
//! Decoding is total. What ends in the middle of a frame ends before it: a process was killed while it wrote. Everything else that
//! is wrong is an error. Kinds from 128 on may be skipped by who does not know them.

use crate::{Opened, Record, SessionId};
use crc32c::crc32c;

/// Formats that this side writes and reads; the last one is written.
pub const FORMATS: [u8; 1] = [FORMAT];
pub(crate) const FORMAT: u8 = 1;
pub(crate) const MAGIC: [u8; 8] = *b"EPXJRNL\n";
/// Magic and format, at the beginning of a file.
pub const FILE_HEADER: usize = 10;
/// Length and CRC.
const HEAD: usize = 8;
/// Bytes of a frame behind its CRC, at most.
pub const MAX_BODY: usize = 1 << 20;
/// Bytes of a stream that one frame holds, at most; more are split.
pub const MAX_CHUNK: usize = 256 << 10;
/// Bytes of a name, at most, and of a value.
pub const MAX_NAME: usize = 1024;
pub const MAX_VALUE: usize = MAX_BODY - MAX_NAME - 64;
/// Kinds from here on may be skipped.
const OPTIONAL: u8 = 128;

mod kind {
    pub(super) const OPEN: u8 = 1;
    pub(super) const RECEIVED: u8 = 2;
    pub(super) const SENT: u8 = 3;
    pub(super) const ACKED: u8 = 4;
    pub(super) const CLOSE: u8 = 5;
    pub(super) const PUT: u8 = 6;
    pub(super) const DELETE: u8 = 7;
    pub(super) const BEGIN: u8 = 16;
    pub(super) const FOLLOWED: u8 = 17;
    pub(super) const BEAT: u8 = 32;
}

/// What stands behind it continues this journal at this position; what stands before is the state until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Names a journal as long as one process after the other appends to it; who takes over from a leader begins another.
    pub journal: u128,
    /// Bytes of frames since the journal began.
    pub position: u64,
    /// Names below this one have been used.
    pub next_session: u64,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Record(Record),
    Begin(Begin),
    /// From here on commits wait for a follower, or no longer.
    Followed(bool),
    /// Leader to follower, never in a file: the leader lives and has this acknowledgement; whether the follower is in sync.
    Beat {
        ack: u64,
        in_sync: bool,
    },
    /// Of a later format, and not needed.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("is no journal")]
    Magic,
    #[error("has format {got}; known are 1 to {FORMAT}")]
    Format { got: u16 },
    #[error("frame of {got} bytes at byte {at}")]
    Length { at: u64, got: usize },
    #[error("wrong checksum at byte {at}")]
    Checksum { at: u64 },
    #[error("frame of kind {kind} at byte {at}: {cause}")]
    Body { at: u64, kind: u8, cause: &'static str },
    #[error("{what} of {got} bytes is too long")]
    TooLong { what: &'static str, got: usize },
}

pub fn write_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&u16::from(FORMAT).to_be_bytes());
}

/// Where in a file, and what, one byte tells in place that frames of sessions are missing from it.
pub const HOLES: (u64, u8) = (8, 0x80);

/// Whether the file was marked with [`HOLES`]: its values count, its sessions do not.
pub fn has_holes(file: &[u8]) -> bool {
    file.starts_with(&MAGIC) && file.get(MAGIC.len()) == Some(&HOLES.1)
}

/// What stands behind the header of a file.
pub fn read_header(file: &[u8]) -> Result<&[u8], FrameError> {
    let rest = file.strip_prefix(&MAGIC).ok_or(FrameError::Magic)?;
    let (format, rest) = rest.split_first_chunk::<2>().ok_or(FrameError::Magic)?;
    match u16::from_be_bytes(*format) & !(u16::from(HOLES.1) << 8) {
        got if FORMATS.iter().any(|f| u16::from(*f) == got) => Ok(rest),
        got => Err(FrameError::Format { got }),
    }
}

/// Appends a frame of this kind whose payload `write` appends.
fn frame(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let base = out.len();
    out.extend_from_slice(&[0; HEAD]);
    out.extend_from_slice(&[FORMAT, kind]);
    write(out);
    let body = out.get(base + HEAD..).unwrap_or_default();
    // Every writer keeps below MAX_BODY.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let head = [length, crc32c(body).to_be_bytes()].concat();
    if let Some(slot) = out.get_mut(base..base + HEAD) {
        slot.copy_from_slice(&head);
    }
}

/// Appends bytes that were received, or sent, as one frame or several.
pub fn write_stream(out: &mut Vec<u8>, session: SessionId, sent: bool, bytes: &[u8]) {
    for chunk in bytes.chunks(MAX_CHUNK) {
        frame(out, if sent { kind::SENT } else { kind::RECEIVED }, |o| {
            o.extend_from_slice(&session.0.to_be_bytes());
            o.extend_from_slice(chunk);
        });
    }
}

/// Appends a record; an error leaves `out` as it was.
pub fn write_record(out: &mut Vec<u8>, record: &Record) -> Result<(), FrameError> {
    let fits =
        |what, bytes: &[u8], max: usize| if bytes.len() > max { Err(FrameError::TooLong { what, got: bytes.len() }) } else { Ok(()) };
    match record {
        Record::Open(id, opened) => {
            let json = serde_json::to_vec(opened).map_err(|_| FrameError::TooLong { what: "open", got: 0 })?;
            fits("open", &json, MAX_VALUE)?;
            frame(out, kind::OPEN, |o| {
                o.extend_from_slice(&id.0.to_be_bytes());
                o.extend_from_slice(&json);
            });
        }
        Record::Received(id, bytes) => write_stream(out, *id, false, bytes),
        Record::Sent(id, bytes) => write_stream(out, *id, true, bytes),
        Record::Acked { session, sent, window, timestamp, at_ms } => {
            fits("window", window, MAX_NAME)?;
            frame(out, kind::ACKED, |o| {
                o.extend_from_slice(&session.0.to_be_bytes());
                o.extend_from_slice(&sent.to_be_bytes());
                o.extend_from_slice(&timestamp.to_be_bytes());
                o.extend_from_slice(&at_ms.to_be_bytes());
                o.extend_from_slice(window);
            });
        }
        Record::Close(id) => frame(out, kind::CLOSE, |o| o.extend_from_slice(&id.0.to_be_bytes())),
        Record::Put { name, value } => {
            fits("name", name.as_bytes(), MAX_NAME)?;
            fits("value", value, MAX_VALUE)?;
            frame(out, kind::PUT, |o| {
                o.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
                o.extend_from_slice(name.as_bytes());
                o.extend_from_slice(value);
            });
        }
        Record::Delete { name } => {
            fits("name", name.as_bytes(), MAX_NAME)?;
            frame(out, kind::DELETE, |o| o.extend_from_slice(name.as_bytes()));
        }
    }
    Ok(())
}

pub fn write_begin(out: &mut Vec<u8>, begin: &Begin) {
    frame(out, kind::BEGIN, |o| {
        o.extend_from_slice(&begin.journal.to_be_bytes());
        o.extend_from_slice(&begin.position.to_be_bytes());
        o.extend_from_slice(&begin.next_session.to_be_bytes());
    });
}

pub fn write_followed(out: &mut Vec<u8>, followed: bool) {
    frame(out, kind::FOLLOWED, |o| o.push(u8::from(followed)));
}

pub fn write_beat(out: &mut Vec<u8>, ack: u64, in_sync: bool) {
    frame(out, kind::BEAT, |o| {
        o.extend_from_slice(&ack.to_be_bytes());
        o.push(u8::from(in_sync));
    });
}

/// The first frame and how many bytes it takes; `None` until it is whole. `at` is where `bytes` begin, for errors.
pub fn read(bytes: &[u8], at: u64) -> Result<Option<(Entry, usize)>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    // Refused before it is whole, so that nobody waits, or keeps room, for it.
    if !(2..=MAX_BODY).contains(&length) {
        return Err(FrameError::Length { at, got: length });
    }
    let Some((crc, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let Some(body) = rest.get(..length) else { return Ok(None) };
    if crc32c(body) != u32::from_be_bytes(*crc) {
        return Err(FrameError::Checksum { at });
    }
    let [format, kind, payload @ ..] = body else { return Ok(None) };
    let entry = if FORMATS.contains(format) {
        read_body(*kind, payload).map_err(|cause| FrameError::Body { at, kind: *kind, cause })?
    } else if *kind >= OPTIONAL {
        Entry::Skipped
    } else {
        return Err(FrameError::Format { got: u16::from(*format) });
    };
    Ok(Some((entry, HEAD + length)))
}

/// Cuts numbers off the front of a payload.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or("is cut off")?;
        self.0 = rest;
        Ok(*first)
    }
    fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64::from_be_bytes(self.take()?))
    }
    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("is too long") }
    }
}

fn name(bytes: &[u8]) -> Result<String, &'static str> {
    if bytes.len() > MAX_NAME {
        return Err("has too long a name");
    }
    Ok(std::str::from_utf8(bytes).map_err(|_| "has a name that is not UTF-8")?.to_owned())
}

fn read_body(kind: u8, payload: &[u8]) -> Result<Entry, &'static str> {
    let mut fields = Fields(payload);
    let record = match kind {
        kind::OPEN => {
            let id = SessionId(fields.u64()?);
            let opened: Opened = serde_json::from_slice(fields.0).map_err(|_| "does not decode")?;
            if opened.tcp.window.len() > MAX_NAME {
                return Err("has too long a window");
            }
            Record::Open(id, Box::new(opened))
        }
        kind::RECEIVED => Record::Received(SessionId(fields.u64()?), fields.0.to_vec()),
        kind::SENT => Record::Sent(SessionId(fields.u64()?), fields.0.to_vec()),
        kind::ACKED => {
            let (session, sent) = (SessionId(fields.u64()?), fields.u64()?);
            let timestamp = u32::from_be_bytes(fields.take()?);
            let at_ms = fields.u64()?;
            if fields.0.len() > MAX_NAME {
                return Err("has too long a window");
            }
            Record::Acked { session, sent, window: fields.0.to_vec(), timestamp, at_ms }
        }
        kind::CLOSE => {
            let id = SessionId(fields.u64()?);
            fields.end()?;
            Record::Close(id)
        }
        kind::PUT => {
            let length = usize::from(u16::from_be_bytes(fields.take()?));
            let (first, value) = fields.0.split_at_checked(length).ok_or("is cut off")?;
            Record::Put { name: name(first)?, value: value.to_vec() }
        }
        kind::DELETE => Record::Delete { name: name(payload)? },
        kind::BEGIN => {
            let begin = Begin { journal: u128::from_be_bytes(fields.take()?), position: fields.u64()?, next_session: fields.u64()? };
            fields.end()?;
            return Ok(Entry::Begin(begin));
        }
        kind::FOLLOWED => {
            let [flag] = fields.take()?;
            fields.end()?;
            return Ok(Entry::Followed(flag != 0));
        }
        kind::BEAT => {
            let ack = fields.u64()?;
            let [flag] = fields.take()?;
            fields.end()?;
            return Ok(Entry::Beat { ack, in_sync: flag != 0 });
        }
        OPTIONAL.. => return Ok(Entry::Skipped),
        _ => return Err("is unknown"),
    };
    Ok(Entry::Record(record))
}

/// The frames of a file or of a part of one, until it ends or one is torn.
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    failed: bool,
}

impl<'a> Frames<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, failed: false }
    }

    /// Where the last whole frame ends.
    pub fn valid(&self) -> usize {
        self.at
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Entry, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match read(self.bytes.get(self.at..).unwrap_or_default(), self.at as u64) {
            Ok(Some((entry, length))) => {
                self.at += length;
                Some(Ok(entry))
            }
            Ok(None) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}
