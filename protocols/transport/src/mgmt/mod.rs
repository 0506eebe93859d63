//! The management socket: one JSON object a line over a Unix stream socket (types: `edgeplex-mgmt`).
//!
//! Every connection is its own task, so a long poll or a slow reader holds up nobody else. Lines are capped on both
//! sides and a connection that says nothing for a while is closed.

mod client;
mod server;

pub use client::{ask, ask_over};
pub use server::{Handler, MgmtServer};

use std::time::Duration;

/// Longest question, bytes. (An answer may have [`edgeplex_mgmt::MAX_LINE`].)
const MAX_QUESTION: usize = 64 << 10;
/// Connections served at once; more wait to be accepted.
const MAX_CLIENTS: usize = 64;
/// A connection without a question for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// A reader that takes nothing for this long loses its connection.
const SLOW: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum MgmtError {
    #[error("{path}: {source}")]
    Socket { path: std::path::PathBuf, source: std::io::Error },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the daemon closed the connection without an answer")]
    Closed,
    #[error("answer longer than {0} bytes")]
    TooLong(usize),
    #[error("answer does not decode: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests;
