//! Which of the instances of a VM a daemon is: each attachment, and the control plane, has one that is active, and may have a
//! standby that follows it.

use serde::{Deserialize, Serialize};

/// A daemon that was promoted goes on as that, whatever older generation its file still tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Each instance that is made, and each promotion, has a higher one. The highest speaks.
    pub generation: u64,
    #[serde(default)]
    pub role: InstanceRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceRole {
    /// Speaks to neighbours.
    #[default]
    Active,
    /// Follows the active one's journal, programs its own forwarder, and speaks to no neighbour.
    Standby,
}
