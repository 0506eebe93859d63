//! What a VM is to have, and what is known of one.

use crate::{RuntimeError, is_file_name};
use edgeplex_types::{MacAddr, VlanId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// Name of a VM, `cvm-g<generation>`, `lsr` or `pvm-<customer>-<attachment>-g<generation>`: 1 to 80 lower-case letters, digits and hyphens. It names a
/// directory and a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmId(String);

impl VmId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VmId {
    type Err = RuntimeError;
    fn from_str(s: &str) -> Result<Self, RuntimeError> {
        let ok = (1..=80).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok {
            Ok(Self(s.to_owned()))
        } else {
            Err(RuntimeError::Invalid(format!("VM id `{s}`: must be lower-case letters, digits and hyphens")))
        }
    }
}

impl TryFrom<String> for VmId {
    type Error = RuntimeError;
    fn try_from(s: String) -> Result<Self, RuntimeError> {
        s.parse()
    }
}

impl From<VmId> for String {
    fn from(v: VmId) -> String {
        v.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmKind {
    Cvm,
    Pvm,
    /// Label-switching router of the platform.
    Lsr,
}

/// One vNIC: a veth pair, `name` in the VM and `host_name` on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub name: String,
    /// Of the VM's end.
    pub mac: MacAddr,
    pub mtu: u16,
    /// Of the host's end; see [`host_nic_name`].
    pub host_name: String,
    /// On a host whose switch extends another's ports: the tag on the link between them that means this vNIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<VlanId>,
}

/// One program that runs in the VM, started again when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Names its log file.
    pub name: String,
    /// The program, one of the template's binaries such as `pvmd` or an absolute path, and its arguments.
    pub argv: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    pub id: VmId,
    pub kind: VmKind,
    pub nics: Vec<Nic>,
    /// Contents of `/etc/edgeplex/config.json`.
    pub config: Vec<u8>,
    pub processes: Vec<Process>,
    /// Bytes.
    pub memory_max: Option<u64>,
    pub shared: Vec<SharedDir>,
    /// Which of the host's images it is made of (see [`crate::Runtime::images`]); the default one if `None`.
    pub image: Option<String>,
    /// What it is an instance of; itself if `None`. Instances of one thing have the user ids on the host and the state directory in
    /// common, so that each can go on with the other's files.
    pub identity: Option<VmId>,
}

/// A directory of the host that appears in several VMs. It belongs to the one that may write; sockets made in it are for those
/// who can reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedDir {
    pub host: PathBuf,
    /// Absolute, inside the VM.
    pub path: String,
    pub role: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Makes sockets there to which every VM that has it may connect.
    OwnerForAll,
    /// Makes sockets there to which the one VM that is [`Share::Member`] may connect, and nobody else on the host.
    OwnerForMember,
    Member,
    /// May connect where [`Share::OwnerForAll`] listens.
    Guest,
}

impl VmSpec {
    /// Hash of all but the configuration: as long as it is the same, the VM need not be made anew.
    pub fn hash(&self) -> String {
        let Self { id, kind, nics, config: _, processes, memory_max, shared, image, identity } = self;
        // By name: the same VM on another host has the same hash.
        let shared: Vec<_> = shared.iter().map(|s| (s.host.file_name().map(|n| n.to_string_lossy()), &s.path, s.role)).collect();
        let text = serde_json::json!([3, id, kind, nics, processes, memory_max, shared, image, identity]).to_string();
        hex(&Sha256::digest(text), 32)
    }

    /// Refuses names that could not be interfaces or files.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let bad = |what: String| Err(RuntimeError::Invalid(what));
        let mut seen = BTreeSet::new();
        for n in self.nics.iter().flat_map(|n| [&n.name, &n.host_name]) {
            if n.is_empty() || n.len() > 15 || n.starts_with('.') || n.bytes().any(|b| !(b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
            {
                return bad(format!("interface name `{n}`: must be 1 to 15 letters, digits, hyphens"));
            }
            if !seen.insert(n) {
                return bad(format!("interface name `{n}` is given twice"));
            }
        }
        if let Some(image) = self.image.as_ref().filter(|i| !is_file_name(i)) {
            return bad(format!("image `{image}`: must be letters, digits, hyphens and dots"));
        }
        for d in &self.shared {
            if !d.path.starts_with('/') || d.path.contains("..") {
                return bad(format!("shared directory `{}`: must be an absolute path", d.path));
            }
        }
        let mut seen = BTreeSet::new();
        for p in &self.processes {
            if p.name.is_empty() || p.name.bytes().any(|b| !(b.is_ascii_alphanumeric() || b == b'-')) || !seen.insert(&p.name) {
                return bad(format!("process name `{}`: must be letters, digits and hyphens, and unique", p.name));
            }
            if p.argv.first().is_none_or(String::is_empty) {
                return bad(format!("process `{}` has no program", p.name));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    Running,
    Frozen,
    /// Its init is gone; [`crate::Runtime::stop`] clears what is left.
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    pub id: VmId,
    pub kind: VmKind,
    /// Of its init, as the host counts.
    pub pid: u32,
    pub state: VmState,
    /// [`VmSpec::hash`] of what it was made from.
    pub spec_hash: String,
    /// Content hash of its template (see `edgeplex-recipes`).
    pub template: String,
    /// [`VmSpec::image`].
    pub image: Option<String>,
    pub nics: Vec<VmNic>,
    /// How long each stage of its making took, in order.
    pub timings: Vec<(String, Duration)>,
}

/// What the host has of a VM's vNIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmNic {
    pub host_name: String,
    /// [`Nic::tag`].
    pub tag: Option<VlanId>,
}

/// Programs of which VMs can be made on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// [`crate::DEFAULT_IMAGE`], or as in [`VmSpec::image`].
    pub name: String,
    /// Of all its programs' contents: the same on every host that has the same programs.
    pub hash: String,
    /// What its pvmd says of itself, such as `0.1.0`.
    pub version: String,
}

/// Name of the host's end of a vNIC: at most 15 characters, the same each time, different for each (dir, VM, nic).
pub fn host_nic_name(dir: &Path, vm: &VmId, nic: &str) -> String {
    let mut h = Sha256::new();
    for part in [dir.as_os_str().as_encoded_bytes(), vm.as_str().as_bytes(), nic.as_bytes()] {
        h.update(part.len().to_be_bytes());
        h.update(part);
    }
    format!("ep{}", hex(&h.finalize(), 12))
}

/// The first `digits` hexadecimal digits.
pub(crate) fn hex(bytes: &[u8], digits: usize) -> String {
    let mut s: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    s.truncate(digits);
    s
}
