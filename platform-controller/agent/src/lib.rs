//! VMs on another host than the controller's.
//!
//! ```text
//!  controller's host                                   another host
//!  AgentRuntime ── control: questions, answers, beats ──► edgeplex-agent ── sandbox, Open vSwitch
//!               ── a connection to a VM's socket ───────►      └── run/<socket> of that VM
//!               ── an image, chunk by chunk ────────────►      images/<name>/
//!  relay.sock ◄─── parked until a PVM connects ─────────► relay.sock that the PVMs here see
//!  fabric ════════ link: one tag for each vNIC ═════════ bridge, a port extender
//! ```
//! Each line is one TLS connection of its own, dialled by the controller; both ends know the other's certificate by its
//! fingerprint. The agent decides nothing, and keeps nothing but its key: VMs live without it, and it finds them again.

mod carry;
mod client;
mod host;
mod image;
mod key;
mod link;
mod parking;
mod server;
mod tls;
mod wire;

pub use client::{AgentConfig, AgentRuntime};
pub use host::{Host, HostConfig};
pub use key::{Fingerprint, Identity};
pub use server::Server;

/// How often the agent says that it is there.
pub const BEAT: std::time::Duration = std::time::Duration::from_millis(50);
/// After how long a silence a host is lost, where nothing else is said.
pub const SILENCE: std::time::Duration = std::time::Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    #[error("key: {0}")]
    Key(String),
    #[error("{0}")]
    Refused(String),
    /// The VM's, where the agent and its host are in order.
    #[error("{0}")]
    Absent(String),
    #[error("message: {0}")]
    Wire(String),
    #[error(transparent)]
    Runtime(#[from] edgeplex_runtime::RuntimeError),
    #[error("switch: {0}")]
    Switch(#[from] edgeplex_switch::SwitchError),
}

impl AgentError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}
