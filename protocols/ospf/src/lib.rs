//! Sans-IO OSPFv2 engine.

mod config;
mod events;
pub mod packet;
mod show;

pub use config::{Algorithm, Authentication, Config, InterfaceConfig, Limits, Network, Timing};
pub use events::{ALL_ROUTERS, Action, DESIGNATED_ROUTERS, Event, Route, RouteKind, Start, Time};
pub use show::{InterfaceView, LsaView, NeighborView};
