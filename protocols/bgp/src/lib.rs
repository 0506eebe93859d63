//! Sans-IO BGP engine of a provider edge: session FSM, adj-RIB-out, decision process
//! (RFC 4271, 4456, 4684, 4724, 6793, 7313, 7606, 7911, 8538, 8654, 9234, 9494).
//!
//! ```text
//!   connections, bytes, time ─► Peer::handle ─► Actions: connect, send, close; Up, Down, Update, EndOfRib
//!                                │ fsm: opening, ending   session: what two OPENs agree on   inbound: UPDATEs into routes
//!   desired routes ─► AdjRibOut ─► packed UPDATEs, as fast as the connection takes them
//!                       │ outbound: what the session makes of attributes   membership: what the peer wants to hear of
//!   candidates ─► decision::select: paths to share traffic, and a backup
//! ```
//! Nothing here reads a clock or owns a socket: time is an argument, counted from any fixed moment.

mod config;
mod connection;
pub mod decision;
mod events;
mod fsm;
mod inbound;
mod membership;
mod outbound;
mod rib_out;
mod session;

pub use config::{Backoff, GracefulRestart, MaxPrefix, PeerConfig};
pub use connection::State;
pub use decision::{Candidate, Selection, best, better, multipath, select};
pub use edgeplex_bgp_wire as packet;
pub use events::{Action, ConnId, Event, Graceful, Time};
pub use fsm::{Counters, Peer};
pub use outbound::SendContext;
pub use rib_out::AdjRibOut;
pub use session::Local;
