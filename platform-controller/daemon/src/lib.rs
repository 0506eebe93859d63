//! edgeplexd: the platform controller of one PE.
//!
//! ```text
//!   HTTP API --> desired (validated, on disk) --watch--> reconciler --> runtime (VMs), switch (ports, rules)
//!      |                                                    ^  |
//!      +--- show: asks the VMs, defensively                 |  +--> VM daemons: Reload
//!                                     CVM's Fabric (labels, neighbours)
//! ```
//! The API changes intent and nothing else. The reconciler is the only one that changes reality: it looks at what is, plans,
//! and acts, whenever it is woken and once a second anyway.

pub mod audit;
pub mod checkpoint;
pub mod counters;
pub mod desired;
pub mod fabric;
pub mod hosts;
pub mod http;
pub mod images;
pub mod links;
pub mod moves;
mod pauses;
pub mod placement;
pub mod reconcile;
pub mod retire;
pub mod show;
pub mod specs;
pub mod switching;
pub mod tending;
pub mod upgrade;
pub mod vmlink;
pub mod wiring;
