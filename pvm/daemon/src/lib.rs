//! pvmd, the daemon of one port VM: the customer's BGP sessions and static routes on one side, the CVM's relay on the
//! other, FastForward's FIB below.
//!
//! ```text
//!     CEs ◄─ BGP ─► customer ───►┐             ┌──► relay ◄─ ZeroMQ ─► CVM
//!         ◄─ BFD ─► bfd ────────►│  vrf::Vrf   │
//!   edgeplexd ─► mgmt ──────────►│ (one task)  ├──► fib-client ◄─ fib.sock ─► FastForward
//!                 └► probe       └──────┬──────┘
//!   rtnetlink ◄─ tap                    └────────► instance: journal ─► this daemon's next life, or a standby
//! ```
//!
//! [`Pvmd`] is the one task that owns the routes. Everything else is at the end of a channel or a socket, and when it
//! is slow, what it has to hear coalesces in the RIB.

mod bfd;
pub mod config;
mod customer;
mod forwarder;
mod instance;
mod mgmt;
mod probe;
mod pvmd;
mod relay;
mod tap;
mod values;

pub use pvmd::Pvmd;

use std::{net::SocketAddr, path::PathBuf};

/// Where the daemon finds its surroundings.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Directory of `mgmt.sock`, `fib.sock` and the sockets between instances.
    pub run: PathBuf,
    /// Directory of the journal, in memory that outlives the process; `None`: nothing is kept.
    pub journal: Option<PathBuf>,
    /// FastForward's TAP; `None` if someone else sees to the interface.
    pub tap: Option<String>,
    pub ports: Ports,
}

/// BGP's ports.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Where the CEs may connect to.
    pub listen: Vec<SocketAddr>,
    /// Where the CEs listen.
    pub neighbor: u16,
}
