//! What the runtime keeps on disk of each VM, so that a later daemon finds it.

use super::proc::ProcessId;
use crate::{VmId, VmKind};
use edgeplex_types::VlanId;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::Path,
    time::Duration,
};

const VERSION: u8 = 1;
const FILE: &str = "state.json";
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) version: u8,
    pub(super) id: VmId,
    pub(super) kind: VmKind,
    pub(super) init: ProcessId,
    /// First of the VM's 65536 user and group ids.
    pub(super) uid_base: u32,
    pub(super) spec_hash: String,
    pub(super) template: String,
    pub(super) host_nics: Vec<String>,
    pub(super) timings: Vec<(String, Duration)>,
    /// [`crate::Nic::tag`] by the host's names.
    #[serde(default)]
    pub(super) tags: BTreeMap<String, VlanId>,
    #[serde(default)]
    pub(super) image: Option<String>,
    /// [`crate::VmSpec::identity`].
    #[serde(default)]
    pub(super) identity: Option<VmId>,
}

impl State {
    pub(super) const VERSION: u8 = VERSION;

    /// What it is an instance of.
    pub(super) fn identity(&self) -> VmId {
        self.identity.as_ref().unwrap_or(&self.id).clone()
    }

    /// Reads the state in a VM's directory; `None` if there is none that this version understands.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let mut bytes = vec![];
        match fs::File::open(dir.join(FILE)) {
            Ok(f) => f.take(MAX_BYTES).read_to_end(&mut bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(s) if s.version == VERSION => Ok(Some(s)),
            Ok(s) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} of version {}, want {VERSION}", s.version))),
            Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{FILE}: {e}"))),
        }
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        replace(&dir.join(FILE), &serde_json::to_vec_pretty(self)?, 0o600, None)
    }
}

/// Writes a file so that a reader sees the old one or the new one, whole, also after the host has lost power.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32, owner: Option<u32>) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // `create_new` is O_EXCL: neither what somebody else has put there nor what a link there leads to is written.
    let mut f = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    f.write_all(bytes)?;
    if owner.is_some() {
        std::os::unix::fs::fchown(&f, owner, owner)?;
    }
    f.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_way_of_a_new_file_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("config.json"), dir.path().join("victim"));
        fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("config.new")).unwrap();
        replace(&path, b"new", 0o600, None).unwrap();
        assert_eq!((fs::read(&victim).unwrap(), fs::read(&path).unwrap()), (b"untouched".to_vec(), b"new".to_vec()));
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn a_state_of_version_1_reads_and_a_later_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
        let text = r#"{"version":1,"id":"cvm","kind":"cvm","init":{"pid":7,"start_time":99},"uid_base":165536,"spec_hash":"ab",
            "template":"cd","host_nics":["ep0"],"timings":[["root",{"secs":0,"nanos":5}]]}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        let s = State::read(dir.path()).unwrap().unwrap();
        assert_eq!((s.init.pid, s.uid_base, s.host_nics.len()), (7, 165_536, 1));
        s.write(dir.path()).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), Some(s));
        for bad in [text.replace("\"version\":1", "\"version\":2"), "{".into()] {
            fs::write(dir.path().join(FILE), bad).unwrap();
            assert!(State::read(dir.path()).is_err());
        }
    }
}
