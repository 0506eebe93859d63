//! VM runtimes: sandbox.
//!
//! A runtime starts, freezes and stops VMs and finds them again after the controller has been restarted. [`Sandbox`]
//! makes a VM of namespaces and a cgroup; [`FakeRuntime`] remembers what it was asked, for tests.

mod fake;
mod patience;
mod sandbox;
mod socket;
mod spec;

pub use fake::FakeRuntime;
pub use patience::{Patience, patiently};
pub use sandbox::{Sandbox, SandboxConfig, vm_of_user};
pub use socket::{Channel, Stream, is_file_name, open_socket};
pub use spec::{Image, Nic, Process, Share, SharedDir, VmId, VmInfo, VmKind, VmNic, VmSpec, VmState, host_nic_name};

use futures::future::BoxFuture;
use std::{future::ready, path::Path};
use tokio::sync::watch;

/// Name of the image that [`VmSpec::image`] `None` stands for.
pub const DEFAULT_IMAGE: &str = "default";

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
    /// The configuration file as it is; `None` if there is no such VM.
    fn config<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<Vec<u8>>>;
    /// Ends all of the VM's processes without asking, and returns when they are dead. It is known, as dead, until
    /// [`Runtime::stop`]. Nothing happens if there is none.
    fn kill<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()>;
    /// Resolves when the VM's init, and so all of the VM, is dead; at once if there is none. An error says nothing about the VM.
    fn exited<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()>;
    /// A connection to a socket in the run directory of a VM that runs. What answers is the VM: hostile.
    fn connect<'a>(&'a self, id: &'a VmId, socket: &'a str) -> Answer<'a, Stream>;
    /// What VMs can be made of on this host, by name.
    fn images(&self) -> Answer<'_, Vec<Image>>;
    /// Copies an image to the runtime's host: the files of `from`, a directory of this process's host. It is there whole or not at
    /// all; one that was cut short goes on where it was. `told` hears how many bytes, of how many, are there. A runtime of this
    /// process's own host has it already.
    fn ship_image<'a>(&'a self, name: &'a str, from: &'a Path, told: &'a Told<'a>) -> Answer<'a, ()> {
        let _ = (name, from, told);
        Box::pin(ready(Ok(())))
    }
    /// Whether the host is there.
    fn reach(&self) -> watch::Receiver<Reach>;
    /// The host is none of ours any more: whatever is asked from now on fails, also by those who have this runtime still, and no
    /// connection is kept. VMs stay as they are.
    fn release(&self) {}
}

/// Hears of progress: so much, of so much.
pub type Told<'a> = dyn Fn(u64, u64) + Send + Sync + 'a;

/// What is known of a runtime's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    #[default]
    Up,
    /// Its agent has gone, and the host perhaps with it; it is not back within the time allowed only when [`Reach::Lost`] follows.
    Broken,
    /// Nothing was heard for longer than allowed.
    Lost,
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
    #[error("host {host}: {what}")]
    Unreachable { host: String, what: String },
    #[error("VM specification: {0}")]
    Invalid(String),
    #[error("template: {0}")]
    Template(#[from] edgeplex_recipes::RecipeError),
}

impl RuntimeError {
    /// Whether [`Runtime::connect`] found nobody: the VM does not run, or its socket is not there or nobody's. Any other error says
    /// nothing about the VM.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Io { error, .. } => matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound),
            _ => false,
        }
    }
}
