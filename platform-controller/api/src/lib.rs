//! HTTP API of the platform controller: its resources as types, and a client.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `POST /v1/apply` | [`Apply`] | [`Changed`] |
//! | `POST /v1/delete` | [`Delete`] | [`Changed`] |
//! | `GET /v1/documents` | | list of documents as an operator writes them, passwords hidden |
//! | `GET /v1/drift` | | [`Drift`] |
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/show/{bgp,routes,labels,fib,counters,bfd}?customer=NAME` | | [`Shown`] of the rows below |
//! | `GET /v1/show/{…}?attachment=CUSTOMER/ATTACHMENT` | | the same of one attachment |
//! | `GET /v1/show/{ospf-neighbors,ospf-interfaces,ospf-database,ospf-routes}` | | [`Shown`] of the rows of `edgeplex_mgmt::show` |
//! | `GET /v1/show/{ldp-neighbors,ldp-bindings,forwarding,tunnels}` | | likewise |
//! | `POST /v1/ping`, `POST /v1/traceroute` | [`VpnProbe`] | `PingReport` of the same |
//! | `POST /v1/lsp/ping`, `POST /v1/lsp/traceroute` | [`LspProbe`] | `PingReport` of the same |
//! | `GET /v1/audit` | | list of [`AuditEntry`] |
//! | `GET /v1/instances` | | list of [`InstanceRow`] |
//! | `GET /v1/moves` | | list of [`UnitMove`]: for each unit the last ones, oldest first |
//! | `GET /v1/hosts` | | list of [`HostRow`] |
//! | `POST /v1/migrate`, `POST /v1/drain` | [`Migrate`], [`Drain`] | [`Begun`] |
//! | `POST /v1/abort` | [`Abort`] | [`Begun`]: the moves that are being ended |
//! | `POST /v1/checkpoint`, `POST /v1/restore` | [`Checkpoint`] | [`Checkpointed`], [`Begun`] |
//! | `GET /v1/images`, `POST /v1/images` | [`AddImage`] | list of [`ImageRow`] |
//! | `GET /v1/upgrade`, `POST /v1/upgrade`, `POST /v1/rollback` | [`UpgradeOrder`] | [`UpgradeReport`], or null |
//!
//! An error is a [`Failure`]. With status 422 the input was invalid, with 409 it does not fit what there is: either way nothing was
//! changed. With 500 it was tried and failed.

mod client;
mod hosts;
mod moves;
mod upgrade;
mod words;

pub use client::{Client, ClientError};
pub use hosts::*;
pub use moves::*;
pub use upgrade::*;
pub use words::{plain, without_numbers};

use edgeplex_ff_fib_api::{Counters, Target};
use edgeplex_intent::{Change, IntentError};
use edgeplex_mgmt::show::{BfdRow, BgpNeighbor, CvmStatus, PingOptions, Route};
use edgeplex_types::{AttachmentId, Label, Name, Rd, VlanId};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};

/// Largest body of a request or an answer, bytes.
pub const MAX_BODY: usize = 64 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// YAML as the operator wrote it; the controller says what is wrong with it.
    pub text: String,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    pub customers: Vec<Name>,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub dry_run: bool,
    pub changes: Vec<Change>,
}

/// What the reconciler still has to do so that reality is as desired; empty when all is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub steps: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub platform: Option<Name>,
    pub version: String,
    pub uptime_s: u64,
    pub reconciler: Reconciler,
    pub vms: Vec<Vm>,
    pub attachments: Vec<AttachmentStatus>,
    /// What the CVM says of itself; absent while it does not answer.
    pub cvm: Option<CvmStatus>,
    /// The label-switching router; absent where the platform has none, or while it does not answer.
    #[serde(default)]
    pub lsr: Option<LsrStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LsrStatus {
    pub uptime_s: u64,
    /// The CVM has told it everything once.
    pub programmed: bool,
    pub labels: u64,
    pub tunnels: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciler {
    /// Times it looked since this daemon started, and changes it made then.
    pub passes: u64,
    pub changes: u64,
    /// Nothing is left to do.
    pub settled: bool,
    /// What it could not do at its last pass.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    pub id: String,
    pub state: String,
    pub pid: u32,
    /// Content hash of the template it was made from.
    pub template: String,
    /// How long each stage of its making took.
    pub timings: Vec<Timing>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub stage: String,
    pub microseconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentStatus {
    pub attachment: AttachmentId,
    pub port: String,
    pub vlan: Option<VlanId>,
    pub rd: Option<Rd>,
    pub label: Option<Label>,
    pub vm: String,
    pub relay_up: bool,
    pub fib_up: bool,
    /// State of the customer's session, or `none`.
    pub bgp: String,
    pub customer_routes: u64,
    pub vpn_routes: u64,
    /// VM, relay, FIB and switch rules are all in place.
    pub ready: bool,
}

/// Rows, and those who could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown<T> {
    pub rows: Vec<T>,
    pub unreachable: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpRow {
    /// An attachment, or `cvm` for sessions of the core.
    pub owner: String,
    #[serde(flatten)]
    pub neighbor: BgpNeighbor,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    pub attachment: AttachmentId,
    #[serde(flatten)]
    pub route: Route,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdSession {
    /// An attachment, or `cvm` for sessions of the core.
    pub owner: String,
    #[serde(flatten)]
    pub session: BfdRow,
}

/// Asks the VRF of an attachment for a ping or traceroute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VpnProbe {
    pub attachment: AttachmentId,
    pub to: IpAddr,
    #[serde(default)]
    pub options: PingOptions,
}

/// Asks the CVM for a ping or traceroute through the LSP of a FEC (RFC 8029).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LspProbe {
    pub prefix: Ipv4Net,
    #[serde(default)]
    pub options: PingOptions,
}

/// How long the controller waits for a report, beyond the time that the probes themselves may take.
pub const PROBE_MARGIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FibRow {
    pub attachment: AttachmentId,
    pub prefix: IpNet,
    pub target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    pub attachment: AttachmentId,
    #[serde(flatten)]
    pub counters: Counters,
}

/// Who wanted what, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Unix user id that asked; of the one who logged in, where the system knows.
    pub uid: u32,
    /// Of the desired state.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Any other order, as one would type it: `migrate acme/denver-1 --to denver-b`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub order: String,
    /// Of an order: `under way`, `done`, or what happened instead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// The moves that it has set going.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Started>,
    /// The upgrade that it began or took back, by when that began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<u64>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub message: String,
    /// What is wrong with the input, if it was the input.
    #[serde(default)]
    pub problem: Option<IntentError>,
}
