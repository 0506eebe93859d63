//! FastForward, the forwarding process of a port VM: its pure part.
//!
//! [`Forwarder`] is a function of (state, frame or request, now): it owns no device, no socket and no clock. The
//! binary beside it polls the devices and the control socket and calls it.
//!
//! ```text
//!              Customer                                   Core
//!   ARP ◄──► neighbours                        label = own, S=1
//!   IPv4 ──► checks ──► VRF lookup ──► VPN: TTL, labels, rewrite ──►
//!   ◄── adjacency ◄──────── VRF lookup ◄── pop, TTL ◄─────────────── MPLS
//!                    own addresses │ ▲
//!                                  ▼ │  Tap: the VM's own kernel
//! ```

pub mod pipeline;

pub use pipeline::{Forwarder, Port, Sink};
