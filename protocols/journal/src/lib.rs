//! A daemon's state as records: what a successor needs to go on where the daemon was, so that no neighbour notices.
//!
//! ```text
//!   daemon ── Record, Record… ──► journal (a file in memory that outlives the process) ──► standby's journal
//!                                   │ compacted from time to time: same state, fewer records
//!                                   └──► checkpoint file      all three hold the same frames
//! ```
//! A session over TCP is two streams of bytes, from its first to its last: replayed into a fresh engine they make the same
//! session. Everything else is a named value. Nothing here knows BGP, LDP or OSPF beyond how a stream may be shortened.

mod compact;
mod frame;
mod hello;
mod progress;
mod record;
mod state;

pub use frame::{
    Begin, Entry, FILE_HEADER, FORMATS, FrameError, Frames, HOLES, MAX_BODY, MAX_CHUNK, MAX_NAME, MAX_VALUE, has_holes, read, read_header,
    write_beat, write_begin, write_followed, write_header, write_record, write_stream,
};
pub use hello::{Ack, Hello, HelloError, MAX_EXTENSION, Welcome, common};
pub use progress::{MAX_UNACKNOWLEDGED, Progress, ProgressError, seq};
pub use record::{Opened, Protocol, Record, SessionId, TcpOpened};
pub use state::{Acked, Read, Session, State, StateError};
