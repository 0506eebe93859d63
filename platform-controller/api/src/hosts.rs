//! Hosts, and the images on them.

use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf};

/// A host on which VMs run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// `local` is the controller's own.
    pub name: String,
    /// Of its agent.
    #[serde(default)]
    pub address: Option<SocketAddr>,
    /// The fabric's port to it.
    #[serde(default)]
    pub port: Option<String>,
    /// `up`; `broken`: its agent has just gone; `lost`.
    pub reach: String,
    /// When that became so, milliseconds since 1970.
    pub since_ms: u64,
    /// Nothing new is placed there.
    pub drained: bool,
    /// VMs that run there.
    pub vms: usize,
    /// Units whose active instance is there, and those that have their standby there.
    pub active: usize,
    pub standby: usize,
    /// Of the programs beside its agent.
    pub version: String,
    pub images: Vec<ImageAt>,
    /// What is the matter with it; empty if nothing is.
    pub problem: String,
}

/// An image, as it is on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAt {
    pub host: String,
    pub image: String,
    /// VMs can be made of it there.
    pub there: bool,
    /// It could not be copied; it is tried again.
    pub failed: bool,
    /// The host cannot be reached: it is copied when it can.
    pub away: bool,
    /// Why it is not there, or how far it is.
    pub note: String,
}

impl ImageAt {
    /// It will be there soon.
    pub fn is_coming(&self) -> bool {
        !self.there && !self.failed && !self.away
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddImage {
    pub name: String,
    /// On the controller's host: holds the programs.
    pub dir: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// `default` is what lies beside the controller.
    pub name: String,
    pub version: String,
    /// Of all its programs' contents.
    pub hash: String,
    /// Instances made of it.
    pub instances: usize,
    /// Each host of the platform.
    #[serde(default)]
    pub hosts: Vec<ImageAt>,
}
