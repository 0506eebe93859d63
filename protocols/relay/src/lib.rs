//! The relay between the CVM (ZeroMQ ROUTER) and its PVMs (DEALER).
//!
//! Each direction is one stream of operations about a keyed table: routes towards the CVM; tunnels, VPN routes
//! and the attachment's own label towards the PVM. A stream opens with a snapshot (`Begin`, `Ops`…, `End`) and
//! goes on with deltas of the same epoch. The receiver keeps what it had across a reconnect and sweeps, at `End`,
//! what the snapshot did not renew ([`EpochMap`]): nothing is flushed that is still true.
//!
//! ```text
//!   PVM                                   CVM
//!    ── Hello{attachment, …} ──────────────►      the CURVE key already says which attachment may speak here
//!    ◄── Welcome{incarnation} ───────────       or Refused{reason}, and the log says who tried what
//!    ── Sync Begin/Ops/End ──────────────►  ◄── Sync Begin/Ops/End ──   (both at once)
//!    ── Grant{n} ─►  ◄─ Grant{n} ──             each Ops message spends one credit of the receiver's grants
//!    ── Keepalive ─► ◄─ Keepalive ─             at least every KEEPALIVE
//! ```
//!
//! The incarnation ties the two ends together: a message with another one belongs to a past session and is
//! answered by `Refused{Unknown}` (to a PVM, which then says Hello again) or ignored (by a PVM).

mod epoch_map;

pub use epoch_map::EpochMap;

use edgeplex_types::{AttachmentId, Epoch, Label, MacAddr, TunnelId, wire};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};

/// Version of the messages below; the first byte of every frame.
pub const VERSION: u8 = 3;
/// Operations in one `Ops` message, at most.
pub const MAX_OPS: usize = 512;
/// Path attributes of one route, encoded as in an UPDATE, in bytes (RFC 4271 §4: a message has 4096).
pub const MAX_ATTRIBUTES: usize = 4096;
/// Paths of one prefix, at most; as many again as backups.
pub const MAX_PATHS: usize = 64;
/// Equal-cost ways of one tunnel, at most.
pub const MAX_LEGS: usize = 16;
/// Labels outside the VPN label, at most.
pub const MAX_TRANSPORT_LABELS: usize = 8;
/// `Ops` messages a receiver allows at once; it grants more as it works them off.
pub const WINDOW: u32 = 16;
/// How often each side says something.
pub const KEEPALIVE: Duration = Duration::from_millis(500);
/// After this long without a word the other side is gone; what it said stays until swept or timed out.
pub const DEAD_AFTER: Duration = Duration::from_millis(2500);

/// A piece of a table's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sync<Op> {
    /// A snapshot of this epoch starts.
    Begin { epoch: Epoch },
    /// Part of the snapshot or, after `End`, a delta. At most [`MAX_OPS`].
    Ops { epoch: Epoch, ops: Vec<Op> },
    /// The snapshot is complete: what it did not renew is gone.
    End { epoch: Epoch },
}

/// PVM to CVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCvm {
    /// An attachment may have several instances: standbys are told the VPN's routes too, but only the one that is not a standby and
    /// has the highest generation speaks for the customer; another one that says Hello is refused as superseded, and so is one that
    /// spoke as soon as a higher one does. Whoever takes another role or generation begins another session: a Hello with another
    /// incarnation, on the same connection.
    Hello {
        attachment: AttachmentId,
        incarnation: u64,
        generation: u64,
        standby: bool,
    },
    Sync {
        incarnation: u64,
        sync: Sync<CustomerOp>,
    },
    Grant {
        incarnation: u64,
        credits: u32,
    },
    Keepalive {
        incarnation: u64,
    },
}

/// CVM to PVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPvm {
    Welcome { incarnation: u64 },
    Refused { incarnation: u64, reason: Refusal },
    Sync { incarnation: u64, sync: Sync<VpnOp> },
    Grant { incarnation: u64, credits: u32 },
    Keepalive { incarnation: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("this key may not speak for that attachment")]
    NotYours,
    #[error("no such session here: say Hello")]
    Unknown,
    #[error("message refused by the receiver's limits")]
    Limit,
    #[error("another instance of a higher generation speaks for that attachment")]
    Superseded,
}

/// One change to the customer's routes as the PVM exports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CustomerOp {
    /// `attributes`: path attributes in BGP's encoding with 4-octet AS numbers, without NEXT_HOP and MP_REACH_NLRI.
    /// `next_hop`: the CE it leads to; none for the attachment's own subnets and unreachable aggregates.
    Route {
        prefix: IpNet,
        next_hop: Option<IpAddr>,
        attributes: Vec<u8>,
    },
    Withdraw {
        prefix: IpNet,
    },
}

/// One change to what the CVM tells a PVM. A tunnel is always sent before the first path that uses it and
/// taken back after the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VpnOp {
    /// A label by which the core addresses this attachment: its VRF or, with `next_hop`, that CE without a lookup
    /// (a label per CE).
    OwnLabel {
        label: Label,
        next_hop: Option<IpAddr>,
    },
    OwnLabelGone {
        label: Label,
    },
    Tunnel(Tunnel),
    TunnelGone {
        id: TunnelId,
    },
    /// All paths of a prefix, best first, used together (ECMP); replaces what was said before. `backup` is used while no
    /// tunnel of `paths` has a leg: prefix-independent convergence, without a word from BGP.
    Route {
        prefix: IpNet,
        paths: Vec<VpnPath>,
        backup: Vec<VpnPath>,
    },
    Withdraw {
        prefix: IpNet,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnPath {
    /// VPN label given by the egress PE.
    pub label: Label,
    pub tunnel: TunnelId,
    /// As in [`CustomerOp::Route`].
    pub attributes: Vec<u8>,
}

/// How to reach one remote PE. The flow hash chooses one of the legs, which are of equal cost; without any the PE is
/// out of reach for now, and paths over it give way to their backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub id: TunnelId,
    /// BGP next hop this tunnel leads to.
    pub endpoint: IpAddr,
    pub legs: Vec<Leg>,
}

/// One way out of this PE: what goes outside the VPN label, and in front of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leg {
    /// Labels outside the VPN label, outermost first; empty after implicit null.
    pub transport: Vec<Label>,
    pub source_mac: MacAddr,
    pub destination_mac: MacAddr,
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error("{field} holds {got}: at most {max} are allowed")]
    Limit { field: &'static str, got: usize, max: usize },
}

/// A message of one direction.
pub trait Message: Serialize + serde::de::DeserializeOwned {
    /// Refuses what exceeds the limits above.
    fn check(&self) -> Result<(), RelayError>;
}

fn at_most(field: &'static str, got: usize, max: usize) -> Result<(), RelayError> {
    if got > max { Err(RelayError::Limit { field, got, max }) } else { Ok(()) }
}

impl Message for ToCvm {
    fn check(&self) -> Result<(), RelayError> {
        let Self::Sync { sync: Sync::Ops { ops, .. }, .. } = self else { return Ok(()) };
        at_most("ops", ops.len(), MAX_OPS)?;
        ops.iter().try_for_each(|op| match op {
            CustomerOp::Route { attributes, .. } => at_most("attributes", attributes.len(), MAX_ATTRIBUTES),
            CustomerOp::Withdraw { .. } => Ok(()),
        })
    }
}

impl Message for ToPvm {
    fn check(&self) -> Result<(), RelayError> {
        let Self::Sync { sync: Sync::Ops { ops, .. }, .. } = self else { return Ok(()) };
        at_most("ops", ops.len(), MAX_OPS)?;
        ops.iter().try_for_each(|op| match op {
            VpnOp::Route { paths, backup, .. } => {
                at_most("paths", paths.len(), MAX_PATHS)?;
                at_most("backup", backup.len(), MAX_PATHS)?;
                paths.iter().chain(backup).try_for_each(|p| at_most("attributes", p.attributes.len(), MAX_ATTRIBUTES))
            }
            VpnOp::Tunnel(t) => {
                at_most("legs", t.legs.len(), MAX_LEGS)?;
                t.legs.iter().try_for_each(|l| at_most("transport", l.transport.len(), MAX_TRANSPORT_LABELS))
            }
            _ => Ok(()),
        })
    }
}

pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, RelayError> {
    message.check()?;
    Ok(wire::encode(VERSION, message)?)
}

pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, RelayError> {
    let message: M = wire::decode(VERSION, bytes)?;
    message.check()?;
    Ok(message)
}
