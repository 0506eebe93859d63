//! What goes into the root of a VM, named by content.
//!
//! A [`Recipe`] is data: which parts of the host a VM sees, and which of our programs. Together with the programs'
//! contents it makes a [`Template`], whose name is the SHA-256 over all of that; two VMs of the same template run
//! the same thing. [`boot`] is what the runtime says to `edgeplex-init` when it makes a VM of one.

pub mod boot;
mod template;

pub use template::{BinaryStamp, Manifest, Template, Templates};

use serde::{Deserialize, Serialize};

/// Version of recipes and manifests as they are written.
pub const VERSION: u8 = 3;
/// Where our programs stand in a VM.
pub const BIN_DIR: &str = "/opt/edgeplex";
/// Where the recipes have [`VmDir::Run`].
pub const RUN_DIR: &str = "/run/edgeplex";
/// What a CVM shall find again is here in it.
pub const STATE_DIR: &str = "/var/lib/edgeplex";
/// Where a daemon writes what its successor needs: outlives the process, not the VM.
pub const JOURNAL_DIR: &str = "/run/journal";
/// What may be in it, KiB, of a customer's and of all.
const PVM_JOURNAL_KB: u32 = 1 << 20;
const CVM_JOURNAL_KB: u32 = 2 << 20;
const JOURNAL_FILES: u32 = 64;

/// The TAP of a CVM's kernel that FastForward joins with this vNIC: `core0` with `wire0`. `None` for a vNIC of another name.
pub fn tap_of(nic: &str) -> Option<String> {
    let number = nic.strip_prefix("wire")?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| format!("core{number}"))
}

/// One thing in a VM's root; paths are absolute and inside the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Entry {
    /// The host's directory or file of that path, read-only; its symlink, if it is one; nothing, if it is not there.
    Host {
        path: String,
    },
    Tmpfs {
        path: String,
        size_kb: u32,
        mode: u32,
    },
    /// A tmpfs for the VM's root alone; counted to the VM's memory, like all that is in memory.
    Memory {
        path: String,
        size_kb: u32,
        files: u32,
    },
    /// A symbolic link.
    Link {
        path: String,
        to: String,
    },
    /// The host's device node.
    Device {
        path: String,
    },
    /// A procfs of the VM's own processes.
    Proc {
        path: String,
    },
    /// A directory that is this VM's own.
    Vm {
        what: VmDir,
        path: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmDir {
    /// Configuration: read-only.
    Config,
    /// Sockets that the host connects to: writable, in memory and small, since a VM may want to fill the host's disk.
    Run,
    /// What is found again when the VM is made anew: writable.
    State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub version: u8,
    pub name: String,
    /// In the order in which they are mounted.
    pub root: Vec<Entry>,
    /// Our programs, to be found in [`BIN_DIR`].
    pub binaries: Vec<String>,
    /// File mode creation mask of the VM's processes.
    pub umask: u32,
    /// The vNICs belong to the forwarder; the VM's kernel is kept from speaking on them.
    pub raw_nics: bool,
}

impl Recipe {
    /// The control VM.
    pub fn cvm() -> Self {
        // PVMs, whose root is another user of the host, must be able to connect to the CVM's relay socket; CURVE
        // decides who may speak there. Hence no umask.
        let mut recipe = Self::common("cvm", &["fastforward", "cvmd"], 0, true);
        // It keeps the label assignment there. A PVM has nothing to keep, and shall have no place on the host's disk.
        recipe.root.push(Entry::Vm { what: VmDir::State, path: STATE_DIR.into() });
        recipe.with_journal(CVM_JOURNAL_KB)
    }

    /// A port VM.
    pub fn pvm() -> Self {
        Self::common("pvm", &["fastforward", "pvmd"], 0o077, true).with_journal(PVM_JOURNAL_KB)
    }

    /// A label-switching router: the forwarder alone.
    pub fn lsr() -> Self {
        Self::common("lsr", &["fastforward"], 0o077, true)
    }

    fn with_journal(mut self, size_kb: u32) -> Self {
        self.root.push(Entry::Memory { path: JOURNAL_DIR.into(), size_kb, files: JOURNAL_FILES });
        self
    }

    fn common(name: &str, binaries: &[&str], umask: u32, raw_nics: bool) -> Self {
        // Compiled in and read by a test: it parses.
        let root = serde_json::from_str(include_str!("../data/common.json")).unwrap_or_default();
        let binaries = binaries.iter().map(|b| (*b).to_owned()).collect();
        Self { version: VERSION, name: name.into(), root, binaries, umask, raw_nics }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{path}: {error}")]
    Manifest { path: String, error: serde_json::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_have_what_a_vm_cannot_do_without() {
        for recipe in [Recipe::cvm(), Recipe::pvm(), Recipe::lsr()] {
            let has = |what| recipe.root.iter().any(|e| matches!(e, Entry::Vm { what: w, .. } if *w == what));
            assert!(recipe.root.contains(&Entry::Vm { what: VmDir::Run, path: RUN_DIR.into() }));
            assert!(has(VmDir::Config));
            assert_eq!(recipe.raw_nics, recipe.binaries.contains(&"fastforward".to_owned()), "its kernel would speak beside it");
            assert_eq!(has(VmDir::State), recipe.name == "cvm");
            let journal = recipe.root.iter().any(|e| matches!(e, Entry::Memory { path, .. } if path == JOURNAL_DIR));
            assert_eq!(journal, recipe.name != "lsr", "it has no sessions");
            assert!(recipe.root.contains(&Entry::Host { path: "/usr".into() }));
            assert!(recipe.root.contains(&Entry::Proc { path: "/proc".into() }));
            for e in &recipe.root {
                let (Entry::Host { path }
                | Entry::Tmpfs { path, .. }
                | Entry::Memory { path, .. }
                | Entry::Link { path, .. }
                | Entry::Device { path }
                | Entry::Proc { path }
                | Entry::Vm { path, .. }) = e;
                assert!(path.starts_with('/') && !path.contains(".."), "{path}");
            }
            let text = serde_json::to_string(&recipe).unwrap();
            assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        }
    }

    #[test]
    fn a_wire_has_the_tap_of_its_number() {
        assert_eq!((tap_of("wire0"), tap_of("wire17")), (Some("core0".into()), Some("core17".into())));
        assert_eq!((tap_of("wire"), tap_of("core0"), tap_of("wire/1")), (None, None, None));
    }
}
