//! Upgrades: all instances onto another image, some first.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeOrder {
    pub to: String,
    /// Attachments that go first.
    pub canary: u32,
    /// How many go together then, percent of all, 1 to 100.
    pub then_percent: u8,
    /// How long each group is watched before the next goes, seconds.
    pub soak_s: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeState {
    Running,
    /// All is on the new image, and new instances are made of it.
    Done,
    /// What had gone goes back.
    RollingBack,
    RolledBack,
}

/// The last upgrade, or the one under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeReport {
    pub order: UpgradeOrder,
    pub state: UpgradeState,
    /// What new instances were made of before.
    #[serde(default)]
    pub before: Option<String>,
    /// Units on the new image, in the order in which they went, each with the image that it had.
    pub gone: Vec<(String, Option<String>)>,
    /// Still to go.
    pub left: Vec<String>,
    /// Why it was rolled back.
    pub why: String,
    /// What it does just now.
    #[serde(default)]
    pub doing: String,
    /// What could not be taken back.
    #[serde(default)]
    pub stuck: Vec<String>,
    /// Milliseconds since 1970.
    pub started_ms: u64,
}
