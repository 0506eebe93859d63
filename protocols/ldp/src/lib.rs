//! Sans-IO LDP engine (RFC 5036): downstream unsolicited, liberal retention, ordered control.
//!
//! ```text
//!   Hellos ─► discovery: adjacencies ─► neighbour ─┬─ session (fsm): one TCP connection, Init, KeepAlive
//!                                                  └─ exchange: its addresses and labels, what it holds of ours
//!   routes ─► db: FEC by FEC: which next hop is whom, is there a label behind it, which label is ours
//!                    └─► mappings and withdrawals to neighbours; forwarding() to the daemon; bindings() to disk
//! ```
//! `successor`: the same speaker in another process, which goes on with sessions and labels.
//! Nothing here reads a clock or owns a socket: time is an argument, counted from any fixed moment.

mod config;
mod db;
mod discovery;
mod engine;
mod events;
mod exchange;
mod fsm;
mod labels;
mod neighbor;
pub mod packet;
mod session;
mod stored;
mod successor;

pub use config::{Config, Start};
pub use engine::Ldp;
pub use events::{Action, BindingView, ConnId, Event, Fec, Forwarding, NeighborView, RemoteView, Routes, Time};
pub use fsm::State;
pub use stored::{PREFIX, ValueError};
pub use successor::{Change, Inherited};
