//! What the platform controller says to the daemons inside the VMs: their configuration ([`config`]), and the
//! questions behind `edgeplex show` ([`show`]).
//!
//! Configuration is a JSON file in the VM's read-only `/etc/edgeplex`; after rewriting it the controller asks the
//! daemon to `Reload`, and the daemon moves to it without disturbing what did not change. Questions and answers
//! are one JSON object a line over a Unix stream socket in the VM's `/run/edgeplex`.

pub mod config;
pub mod show;

/// Longest line either side accepts, bytes.
pub const MAX_LINE: usize = 64 << 20;
/// Name of cvmd's and pvmd's socket within the VM's run directory.
pub const SOCKET: &str = "mgmt.sock";
/// Name of FastForward's control socket within the VM's run directory.
pub const FIB_SOCKET: &str = "fib.sock";
/// Name of the configuration file within the VM's configuration directory.
pub const CONFIG_FILE: &str = "config.json";

use serde::{Deserialize, Serialize};

/// An answer on the management socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer<T> {
    Ok(T),
    Error(String),
}
