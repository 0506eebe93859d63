//! Instances and their moves: orders, and what is told of them.

use edgeplex_mgmt::show::InstanceStatus;
use edgeplex_types::{AttachmentId, Name};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// Whose instances: all of a customer's, one attachment's, or the control plane's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whose {
    Customer(Name),
    Attachment(AttachmentId),
    Cvm,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    pub whose: Whose,
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    pub whose: Whose,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    pub host: String,
    /// VMs may be placed there again.
    #[serde(default)]
    pub undo: bool,
}

/// What an order has set going.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub moves: Vec<Started>,
    /// What was ordered and does not move.
    #[serde(default)]
    pub stay: Vec<Stays>,
}

/// A move that has begun; `GET /v1/moves` tells how it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// An attachment, or `cvm`.
    pub unit: String,
    pub id: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stays {
    /// An attachment, or `cvm`.
    pub unit: String,
    pub why: String,
    /// It never moves: that is no failure.
    pub by_design: bool,
}

/// The move last begun of a unit, or one before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitMove {
    pub unit: String,
    /// From its beginning to the successor's first word, milliseconds.
    pub took_ms: f64,
    #[serde(flatten)]
    pub report: MoveReport,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveReport {
    pub id: u64,
    pub kind: MoveKind,
    /// Numbers of the two instances: the ends of their VMs' names.
    pub from: u64,
    pub to: u64,
    pub from_host: String,
    pub to_host: String,
    #[serde(default)]
    pub image: Option<String>,
    pub phase: Phase,
    pub outcome: Outcome,
    /// What caused it, and what became of it.
    pub why: String,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    pub times: Vec<PhaseTime>,
}

impl MoveReport {
    /// From its beginning to the successor's first word, milliseconds: all phases to the promotion.
    pub fn until_promoted_ms(&self) -> f64 {
        let us: u64 = self.times.iter().filter(|t| t.phase <= Phase::Promote).map(|t| t.microseconds).sum();
        // Whole microseconds; a double holds them exactly for three centuries.
        (std::time::Duration::from_micros(us).as_secs_f64() * 1e6).round() / 1000.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveKind {
    Move,
    Drain,
    Upgrade,
    Rollback,
    Failover,
    /// To an instance that begins with the state of a file.
    Restore,
}

/// In their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The successor is made.
    Prepare,
    /// It takes over the state, and programs its forwarder.
    Sync,
    /// The old one stands still; its journal is complete.
    Fence,
    /// The rules lead to the successor. From here on there is no way back, unless it dies before it has spoken.
    Switch,
    /// It takes over the sessions.
    Promote,
    /// What the old one still holds leaves.
    Drain,
    /// Its counters have been taken; it ends.
    Retire,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    UnderWay,
    Done,
    /// Nothing has changed; somebody wanted it so.
    Aborted,
    /// It could not be done; the unit has an owner all the same, which `why` tells.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    pub phase: Phase,
    pub microseconds: u64,
}

macro_rules! words {
    ($type:ty: $($variant:ident $word:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(Phase: Prepare "prepare", Sync "sync", Fence "fence", Switch "switch", Promote "promote", Drain "drain", Retire "retire");
words!(MoveKind: Move "move", Drain "drain", Upgrade "upgrade", Rollback "rollback", Failover "failover", Restore "restore");
words!(Outcome: UnderWay "under way", Done "done", Aborted "aborted", Failed "failed");

/// One instance, as the controller has placed it, and what it says of itself while it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// An attachment, or `cvm`.
    pub unit: String,
    pub vm: String,
    /// `active`, `standby`, `successor` or `leaving`.
    pub place: String,
    pub host: String,
    #[serde(default)]
    pub image: Option<String>,
    pub generation: u64,
    /// Of its VM: `running`, `frozen`, `dead` or `absent`.
    pub state: String,
    #[serde(default)]
    pub said: Option<InstanceStatus>,
    /// Why it has no standby on another host, where one is wanted.
    #[serde(default)]
    pub note: String,
    /// The active one took over from one that had died: so long after that was known, milliseconds.
    #[serde(default)]
    pub failover_ms: Option<f64>,
}

/// A checkpoint of `unit` in `file`, an absolute path on the controller's host; also for `restore`. Where `file` is a directory, a
/// checkpoint is a new file in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// An attachment, or `cvm`.
    pub unit: String,
    pub file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpointed {
    pub unit: String,
    pub file: PathBuf,
    pub bytes: u64,
    pub sessions: u64,
    pub values: u64,
}
