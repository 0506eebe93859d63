//! Instances of a VM: orders to them, and what they tell of themselves. All orders may be given again.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "order", deny_unknown_fields)]
pub enum InstanceOrder {
    /// Only tell.
    Look,
    /// Tell as soon as something other than `end`, `committed` and `past` differs from `seen` (an answer's `revision`), or after some 20 s.
    Watch { seen: u64 },
    /// To the active one: its sessions stand still from now on, nothing of them leaves or enters, and the journal is complete
    /// and committed. Answered when that is so. Forwarding goes on. Without a [`InstanceOrder::Resume`] or its end it resumes by itself
    /// after `lease_ms`.
    Fence { lease_ms: u32 },
    /// To a fenced one: it goes on as if nothing had been.
    Resume,
    /// To a standby (its leader is fenced or dead, and the switch leads here): it takes over the sessions and speaks. Answered when
    /// it does. To an active one: it has this generation from now on.
    Promote { generation: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub generation: u64,
    pub state: InstanceState,
    /// Changes with all below but `end`, `committed` and `past`.
    pub revision: u64,
    /// Sessions in the journal that are open.
    pub sessions: u32,
    /// Bytes written to the journal since it began, and of those, held by whoever must hold them.
    pub end: u64,
    pub committed: u64,
    /// Active: a standby holds all that is committed. Standby: it has all that its leader had committed, or had until it was lost.
    pub in_sync: bool,
    /// Standby: the leader was lost so long ago, milliseconds. After [`STALE_MS`] it may have gone on without us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_lost_ms: Option<u64>,
    /// The forwarder is programmed to the end: traffic may come here.
    pub forwards: bool,
    /// The last promotion: sessions taken over, those that could not be, and how long it took, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Promoted>,
    /// Port VM: what generations before this one forwarded, as last told by them (each second): their own forwarders' totals, the
    /// newest generations, in their order. Nothing of it is in this instance's counters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<PastTraffic>,
    /// Why something is not as it should be, e.g. the journal is full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Active,
    Fenced,
    /// Follows, or waits for its leader.
    Standby,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    pub sessions: u32,
    pub lost: u32,
    pub took_us: u64,
}

/// What the forwarder of one generation counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastTraffic {
    pub generation: u64,
    pub from_customer: Traffic,
    pub to_customer: Traffic,
    pub from_core: Traffic,
    pub to_core: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

/// How long an active instance waits for a standby that is silent before it goes on alone, milliseconds; and so how long after
/// losing its leader a standby still knows all.
pub const STALE_MS: u64 = 1000;

/// Name of the socket, within an active VM's run directory, where followers of its journal connect.
pub const JOURNAL_SOCKET: &str = "journal.sock";
/// Name of the socket, within a standby VM's run directory, where the platform connects it to its leader's [`JOURNAL_SOCKET`].
pub const FOLLOW_SOCKET: &str = "follow.sock";
