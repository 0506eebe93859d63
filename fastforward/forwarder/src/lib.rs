//! FastForward, the forwarding process of a port VM, of a platform's label-switching router, or on a CVM's wires: its pure
//! part.
//!
//! [`Forwarder`], [`Lsr`] and [`Wires`] are functions of (state, frame or request, now): they own no device, no socket and no clock.
//! The binary beside them polls the devices and the control socket and calls one of them.
//!
//! ```text
//!              Customer                                   Core
//!   ARP, ND ◄──► neighbours                    label = own, S=1
//!   IP ────► checks ──► VRF lookup ──► VPN: TTL, labels, rewrite ──►
//!   ◄── adjacency ◄──────── VRF lookup ◄── pop, TTL ◄─────────────── MPLS
//!                    own addresses │ ▲
//!                                  ▼ │  Tap: the VM's own kernel
//! ```

pub mod hold;
pub mod pipeline;

pub use hold::Holds;
pub use pipeline::{Forwarder, Lsr, Port, Side, Sink, Wires};
