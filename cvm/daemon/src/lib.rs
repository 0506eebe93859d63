//! cvmd, the control VM daemon: sockets, timers and netlink around [`edgeplex_cvm_vpn::Vpn`].
//!
//! ```text
//!   route reflectors ◄─► Speaker ─┐            ┌─ RelayServer ◄─► PVMs
//!                                 ├─► Control ─┤     one task owns the VPN
//!   kernel neighbours ─► network ─┘            └─ MgmtServer ◄─► controller
//! ```

mod config;
mod control;
mod labels_file;
mod management;
mod network;
mod show;

pub use config::{ConfigError, load, relay_keys, vpn_config};
pub use control::{Control, Exit, Paths, Timing};
pub use network::{NeighborEvent, Network};
