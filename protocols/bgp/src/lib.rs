//! Sans-IO BGP engine: session FSM, adj-RIB-out, decision process (RFC 4271, 4456, 4724, 7606).
//!
//! ```text
//!   bytes, connections, time ─► Peer::handle ─► Actions: connect, send, close; Up, Down, Update, EndOfRib
//!   desired routes ─► AdjRibOut ─► packed UPDATEs, as fast as the connection takes them
//!   candidates ─► decision::best
//! ```
//! Nothing here reads a clock or owns a socket: time is an argument, counted from any fixed moment.

mod config;
pub mod decision;

pub use config::{Backoff, GracefulRestart, PeerConfig};
pub use decision::{Candidate, best, better};
