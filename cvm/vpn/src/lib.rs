//! The VPN of one provider edge (RFC 4364): what the control VM knows and decides, without a socket or a clock.
//!
//! ```text
//!   route reflectors ──► adj-RIB-in ─┐                                ┌─► VRF acme/denver-1 ─► feed ─► PVM
//!                                    ├─► best path per (RD, prefix) ──┤   import by route target
//!   PVMs ──► customer routes ────────┘        usable tunnel only      └─► VRF beta/denver-1 ─► feed ─► PVM
//!              │ sanitize, RD, RTs, label
//!              └──► Action::Advertise ──► route reflectors
//! ```
//!
//! [`Vpn`] takes events and a time, and gives [`Action`]s and messages. Whatever may touch many routes is queued and
//! done by [`Vpn::work`] in slices, so that no event blocks the task that owns the state.

mod attachment;
mod config;
mod core_net;
mod customer;
mod engine;
mod feed;
mod labels;
mod rib;
mod sessions;
mod show;

pub use config::{AttachmentConfig, Config, CoreInterface, CoreRoute};
pub use core_net::Neighbor;
pub use customer::{ExportError, MAX_ATTRIBUTE_BYTES, MAX_ROUTES};
pub use engine::{Action, Start, Vpn};
pub use labels::{LabelError, LabelSpace, LabelState};
pub use rib::{Key, Learned, Path};
pub use show::{AttachmentView, LabelView, RouteView, TunnelView};
