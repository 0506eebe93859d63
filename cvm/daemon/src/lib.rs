//! cvmd, the control VM daemon: sockets, timers and netlink around [`edgeplex_cvm_vpn::Vpn`] and [`edgeplex_cvm_core::Core`].
//!
//! ```text
//!   route reflectors ◄─► Reflectors ─┐            ┌─ Relay ◄─► PVMs
//!   OSPF, LDP, BFD ◄─┐               ├─► Control ─┤     one task owns the VPN and the core
//!   kernel ◄─────────┴─ CoreSide ────┘            ├─ MgmtServer ◄─► controller
//!                                                 └─ fib-client ──► label-switching router
//! ```

mod config;
mod control;
mod core_io;
mod instance;
mod management;
mod network;
mod protocols;
mod show;
mod state;

pub use config::{ConfigError, load, relay_keys, vpn_config};
pub use control::{Control, Exit, Paths, Timing};
pub use core_io::{CoreCommand, CoreEvent, CoreIo, Part};
pub use instance::Origin;
pub use network::{KernelRoutes, Network, NetworkEvent};
pub use protocols::Protocols;
pub use state::Bindings;
