//! Drivers shared by the daemons: BGP over TCP, relay over ZeroMQ, management socket

pub mod bfd;
pub mod bgp;
pub mod journal;
pub mod ldp;
pub mod lsp_ping;
pub mod mgmt;
mod mode;
pub mod ospf;
pub mod relay;
mod sockopt;
pub mod tcp;

pub use mode::{Mode, Promoted};
