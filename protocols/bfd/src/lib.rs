//! Sans-IO BFD engine: asynchronous mode, single hop and multihop (RFC 5880, 5881, 5883, 5882 for its clients).
//!
//! ```text
//!   add(key, client, parameters) ─┐                      ┌─► Send(key, packet)
//!   control packets, time ────────┴─► Bfd: one session ──┼─► Up(key)
//!                                     a key, any number  └─► Down{key, why}
//!                                     of clients
//! ```
//! A successor goes on where another engine was: `changes` of the one are values that `restore` brings to the other, until it is
//! promoted. No authentication, no echo, no demand mode of our own; a neighbour's demand mode is honoured (RFC 5880 §6.6).

mod config;
mod db;
mod events;
mod fsm;
pub mod packet;
mod stored;
mod view;

pub use config::{Key, Parameters, ParametersError};
pub use db::Bfd;
pub use events::{Action, Time, Why};
pub use stored::{PREFIX, ValueError};
pub use view::SessionView;
