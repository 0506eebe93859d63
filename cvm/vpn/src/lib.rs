//! The VPN of one provider edge (RFC 4364): what the control VM knows and decides, without a socket or a clock.
//!
//! ```text
//!   route reflectors ──► table of (RD, prefix) ─┐ import by route target    ┌─► VRF acme/denver-1 ─► feed ─► PVM
//!                          paths of all of them ├───────────────────────────┤      ECMP set, backups: when it is said
//!   PVMs ──► customer routes ───────────────────┘                           └─► VRF beta/denver-1 ─► feed ─► PVM
//!              │ sanitize, RD, RTs, label (VRF or CE)
//!              └──► Action::Advertise ──► route reflectors
//!   core ──► Vpn::tunnel ──► one operation to each PVM that uses it; then decisions, in slices
//!        ◄── Action::Endpoints (wanted_endpoints)
//! ```
//!
//! [`Vpn`] takes events and a time, and gives [`Action`]s and messages. Whatever may touch many routes is queued and
//! done by [`Vpn::work`] in slices, so that no event blocks the task that owns the state.
//!
//! What the owner calls, and what of it is new since tunnels come from the core:
//! ```text
//!   Vpn::tunnel(now, endpoint: Ipv4Addr, Option<TunnelState>)      wanted_endpoints() -> impl Iterator<Item = Ipv4Addr>
//!   reflector_up(now, rr, families, preserved: &[Family], sends_end_of_rib)  reflector_down(now, rr, Option<edgeplex_bgp::Graceful>)
//!   update(now, rr, &Arc<Attributes>, next_hop: IpAddr, &[Reach], &[Unreach])          end_of_rib(rr, Family)
//!   Action::Advertise(Nlri, …) and Withdraw(NlriKey) are of any family: Vpn and RouteTarget
//! ```

mod attachment;
mod config;
mod customer;
mod endpoints;
mod engine;
mod feed;
mod labels;
mod paths;
mod reflector;
mod rib;
mod sessions;
mod show;

pub use attachment::MAX_CES;
pub use config::{AttachmentConfig, Config, Leak, TunnelState};
pub use customer::{ExportError, MAX_ATTRIBUTE_BYTES, MAX_ROUTES};
pub use endpoints::tunnel_id;
pub use engine::{Action, Start, Vpn};
pub use labels::{LabelError, LabelSpace, LabelState, Owner};
pub use rib::{Key, MAX_OWN_AS};
pub use show::{AttachmentView, LabelView, Learned, RouteView, TunnelView};
