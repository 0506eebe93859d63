//! The customer RIB of one attachment: every route the port VM knows, the best one per prefix, and what follows
//! from it for those who must hear of it. Pure: no socket, no clock; time and input are arguments.
//!
//! ```text
//!   interface, static ──────────►┐                    ┌──► FIB ops    (FastForward)        fib_ops()
//!   CEs (eBGP) ─ checks, policy ►│ best per prefix ───┼──► exports    (CVM, never VPN's)   relay_ops()
//!   CVM (VPN routes) ───────────►┘                    └──► adj-RIB-out of each CE: policy  ce_ops()
//! ```
//!
//! Each output is a set of prefixes that differ from what was last sent. A reader takes at most as many
//! operations as it can carry; whatever changes meanwhile coalesces in the set, so memory is bounded by the table
//! and never by the rate of change or the slowness of a reader.

mod attributes;
mod best;
mod config;
mod import;
mod neighbors;
mod outputs;
mod restart;
mod show;
mod stale;
mod vpn;
mod vrf;

pub use best::Source;
pub use config::{Neighbor, StaticRoute, VrfConfig};
pub use import::Rejected;
pub use outputs::CeOp;
pub use restart::{Restart, Verdict};
pub use show::RouteView;
pub use stale::StaleRoutes;
pub use vrf::{Counts, Vrf};
