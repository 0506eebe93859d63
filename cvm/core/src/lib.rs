//! The core side of a platform: what routing, labels, neighbours and BFD say, joined into what forwards.
//!
//! ```text
//!   static routes ─┐                                  ┌─► tunnels to the endpoints the VPN wants ─► PVMs
//!   segments ──────┼─► RIB: prefix → ways, backups ─┐ ├─► incoming label map ─► label-switching router
//!   OSPF routes ───┘                                ├─┼─► routes of the kernel
//!   LDP: label of each way ─────────────────────────┤ ├─► FECs for LDP
//!   MAC addresses, BFD ─────────────────────────────┘ └─► neighbours to keep resolved
//! ```
//!
//! A way becomes a leg when the neighbour is alive, its MAC address is known and, unless it is itself the end, it gave a label.
//! A prefix without a leg over its ways has those over its loop-free alternates, before OSPF has looked at anything.

mod config;
mod engine;
mod lsr;
mod rib;
mod show;
mod ways;

pub use config::{Config, Interface, StaticRoute};
pub use engine::{Action, Core, TunnelState};
pub use rib::Source;
pub use show::{ForwardingView, LegView, TunnelView};
