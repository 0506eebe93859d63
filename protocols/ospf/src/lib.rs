//! Sans-IO OSPFv2 engine (RFC 2328): one router in one area, with point-to-point and broadcast interfaces.
//!
//! ```text
//!   packets, time, BFD, configuration ─► Ospf::handle ─► Actions: Send; NeighborUp, NeighborDown; RoutesChanged; Log
//!
//!   packet/      bytes ↔ values, authentication (RFC 5709), opaque LSAs (RFC 5250)
//!   fsm/         interfaces, Hellos, designated routers, database exchange
//!   db, flood    LSAs of a scope, their age; who must have them and has acknowledged them
//!   originate    our own LSAs: wanted against present (RFC 6987, RFC 5443)
//!   restart      graceful restart, ours and neighbours' (RFC 3623)
//!   spf/         tree, routes, loop-free alternates (RFC 5286)
//!   successor    the same router in another process: what it is told (stored), and how it goes on
//! ```
//! Nothing here reads a clock or owns a socket: time is an argument, counted from any fixed moment.

mod config;
mod db;
mod engine;
mod events;
mod flood;
mod fsm;
mod originate;
pub mod packet;
mod restart;
mod show;
mod spf;
mod stored;
mod successor;

pub use config::{Algorithm, Authentication, Config, InterfaceConfig, Limits, Network, Timing};
pub use engine::Ospf;
pub use events::{ALL_ROUTERS, Action, DESIGNATED_ROUTERS, Event, Route, RouteKind, Start, Time};
pub use show::{InterfaceView, LsaView, NeighborView};
pub use stored::{PREFIX, ValueError};
pub use successor::Change;
