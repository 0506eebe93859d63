//! The relay between CVM and PVMs, driven over ZeroMQ with CURVE (messages and session rules: `edgeplex-relay`).
//!
//! ```text
//!   RelayClient (DEALER) ── ipc, CURVE ──► RelayServer (ROUTER) ──► (peer, attachment, message)
//!                                             ▲ who may connect, and for which attachment
//!                                          Keys ◄── zap (inproc://zeromq.zap.01, RFC 27 of ZeroMQ)
//! ```
//!
//! The public key is what a connection is known by: the ZAP handler lets it in if the key table has it, and the
//! server looks the key up again for every message, so a key taken from the table loses its rights at once.
//! Both ends are cancel-safe in `recv`, and neither ever waits in `send`.

mod client;
mod keys;
mod server;
mod socket;
mod zap;

pub use client::RelayClient;
pub use keys::{KeyPair, Keys, PublicKey, generate_keypair};
pub use server::{Peer, Refusals, RelayServer};

use std::io;

/// What became of a message given to `send`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a dropped message breaks the stream: the session has to start again"]
pub enum Delivery {
    Queued,
    /// No such peer now, or it takes nothing: the session's stream has a hole and must be opened anew.
    Dropped,
}

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("relay endpoint {endpoint}: {source}")]
    Endpoint { endpoint: String, source: zmq::Error },
    #[error("relay socket: {0}")]
    Socket(#[from] zmq::Error),
    #[error("relay socket: {0}")]
    Io(#[from] io::Error),
    #[error("CURVE key `{0}`: must be 40 characters of Z85")]
    Key(String),
    #[error("CURVE key of {0} is also that of {1}: every attachment needs its own")]
    SharedKey(edgeplex_types::AttachmentId, edgeplex_types::AttachmentId),
    #[error(transparent)]
    Message(#[from] edgeplex_relay::RelayError),
}

/// Largest ZeroMQ frame taken in at all, bytes: what is longer ends the connection inside ZeroMQ. Twice the
/// message limit, so that a message somewhat too long is still seen here, counted and logged.
const MAX_FRAME: i64 = 2 << 20;
/// Messages queued towards or from one peer, at most. Credits keep a well-behaved session far below.
const HIGH_WATER: i32 = 64;
/// What a CURVE handshake may take, milliseconds; one that hangs, because the key is unknown, is then tried anew.
const HANDSHAKE_MS: i32 = 1000;

const _: () = assert!(edgeplex_relay::WINDOW < 32 && edgeplex_types::wire::MAX_MESSAGE < 2 << 20);

#[cfg(test)]
mod tests;
