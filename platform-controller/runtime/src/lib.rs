//! VM runtimes: sandbox.
//!
//! A runtime starts, freezes and stops VMs and finds them again after the controller has been restarted. [`Sandbox`]
//! makes a VM of namespaces and a cgroup; [`FakeRuntime`] remembers what it was asked, for tests.

mod fake;
mod sandbox;
mod spec;

pub use fake::FakeRuntime;
pub use sandbox::{Sandbox, SandboxConfig};
pub use spec::{Nic, Process, Share, SharedDir, VmId, VmInfo, VmKind, VmSpec, VmState, host_nic_name};

use futures::future::BoxFuture;
use std::path::PathBuf;

/// A boxed answer, so that a runtime can stand behind `dyn`.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, RuntimeError>>;

pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// Creates the VM and starts its processes. Fails with [`RuntimeError::Exists`] if it runs already; leaves nothing behind if it fails.
    fn start<'a>(&'a self, spec: &'a VmSpec) -> Answer<'a, VmInfo>;
    /// Stops all of the VM's processes where they are, until [`Runtime::thaw`].
    fn freeze<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()>;
    fn thaw<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()>;
    /// Stops the VM, asking it first, and removes all it had on the host but what it is to find again when it is made
    /// anew (see [`Runtime::forget`]). Nothing happens if there is none.
    fn stop<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()>;
    /// Removes what a stopped VM has kept: it will not come back. Fails with [`RuntimeError::Exists`] if it runs.
    fn forget<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()>;
    /// What is known of the VM, also if it has died; `None` if it was never started or has been stopped.
    fn inspect<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<VmInfo>>;
    /// All VMs of this runtime, in order of their ids.
    fn list(&self) -> Answer<'_, Vec<VmInfo>>;
    /// Replaces the VM's configuration file, atomically. The daemon in it must be told to reload.
    fn rewrite_config<'a>(&'a self, id: &'a VmId, config: &'a [u8]) -> Answer<'a, ()>;
    /// The VM's run directory as the host sees it. What is in it belongs to the VM: hostile.
    fn vm_run_dir(&self, id: &VmId) -> PathBuf;
    /// Where the VM's logs are, one file a process.
    fn vm_log_dir(&self, id: &VmId) -> PathBuf;
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("VM {0} is running already")]
    Exists(VmId),
    #[error("no VM {0}")]
    Unknown(VmId),
    #[error("VM {id}: {what}: {error}")]
    Io { id: VmId, what: String, error: std::io::Error },
    #[error("VM {id}: {what}")]
    Failed { id: VmId, what: String },
    #[error("VM specification: {0}")]
    Invalid(String),
    #[error("template: {0}")]
    Template(#[from] edgeplex_recipes::RecipeError),
}
