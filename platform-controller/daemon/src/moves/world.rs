//! What a move does to the world, and what it sees of it.

use crate::placement::{Instance, Placement, Unit};
use edgeplex_ff_fib_api::Counters;
use edgeplex_mgmt::show::{InstanceOrder, InstanceStatus};
use futures::future::BoxFuture;

/// Why an instance serves no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Death {
    /// Its VM, or all in it that forwards.
    Instance(String),
    /// Nothing was heard of it for long, and its host is there. It may be at work.
    Silence(String),
    /// Its whole host is gone, as far as can be seen.
    Host(String),
}

impl Death {
    pub fn why(&self) -> &str {
        match self {
            Self::Instance(why) | Self::Silence(why) | Self::Host(why) => why,
        }
    }
}

/// VMs, switch and counters as an engine needs them. Everything may be done twice.
pub trait World: Send + Sync + std::fmt::Debug {
    /// Its VM runs, and the switch has its ports.
    fn stands<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, bool>;
    /// Resolves when the instance can serve no more; at once where it cannot now.
    fn died<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, Death>;
    /// A second look at one that seems dead: whether nothing of it forwards, for certain.
    fn gone<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, bool>;
    /// Resolves when the host is gone.
    fn lost<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Death>;
    fn order<'a>(&'a self, unit: &'a Unit, i: &'a Instance, order: InstanceOrder) -> BoxFuture<'a, anyhow::Result<InstanceStatus>>;
    /// One bundle, after which the switch leads to the unit's active instance as `p` places it. The ways out of the one that it
    /// replaces stay where it lingers, and are cut otherwise.
    fn lead<'a>(&'a self, unit: &'a Unit, p: &'a Placement) -> BoxFuture<'a, anyhow::Result<()>>;
    /// What the instance's forwarder has counted; what was last read where it does not answer.
    fn counters<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, Counters>;
    /// Nothing of it runs afterwards.
    fn kill<'a>(&'a self, unit: &'a Unit, i: &'a Instance) -> BoxFuture<'a, anyhow::Result<()>>;
    /// Where a unit goes whose host is lost.
    fn refuge<'a>(&'a self, unit: &'a Unit, lost: &'a str) -> BoxFuture<'a, Option<String>>;
    /// vNICs of a VM of the unit.
    fn nics(&self, unit: &Unit) -> usize;
}
