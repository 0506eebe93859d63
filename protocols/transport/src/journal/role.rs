//! What an instance has become since it was configured: a file beside the journal, which outlives the process like that.

use crate::tcp::boot_ms;
use edgeplex_mgmt::config::Instance;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tracing::warn;

const NAME: &str = "role";
/// Of the file.
const VERSION: u8 = 1;
/// Longest file that is read, bytes.
const MAX: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u8,
    instance: Instance,
    /// The journal's sessions are not to be taken over.
    #[serde(default)]
    cold: bool,
    /// It is fenced until then: CLOCK_BOOTTIME, milliseconds, which goes on from process to process and is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fenced_until_ms: Option<u64>,
}

/// Where it stands; without a directory nothing is kept.
#[derive(Debug, Clone)]
pub struct RoleFile(Option<PathBuf>);

impl RoleFile {
    /// In the journal's directory.
    pub fn new(dir: &Path) -> Self {
        Self(Some(dir.to_owned()))
    }

    /// For a daemon that keeps nothing.
    pub fn nowhere() -> Self {
        Self(None)
    }

    /// Whether there is anything that outlives the process.
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    fn load(&self) -> Option<Stored> {
        let path = self.0.as_ref()?.join(NAME);
        let read = || -> io::Result<Stored> {
            let mut text = vec![];
            fs::File::open(&path)?.take(MAX).read_to_end(&mut text)?;
            Ok(serde_json::from_slice(&text)?)
        };
        match read() {
            Ok(stored) if stored.version == VERSION => Some(stored),
            Ok(stored) => {
                warn!(path = %path.display(), version = stored.version, "is of another version; going on as configured");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot be read; going on as configured");
                None
            }
        }
    }

    /// Who was promoted goes on as that, whatever older generation the configuration tells.
    pub fn instance(&self, configured: Instance) -> Instance {
        self.load().map(|s| s.instance).filter(|i| i.generation >= configured.generation).unwrap_or(configured)
    }

    /// The next process begins without the journal's sessions.
    pub fn is_cold(&self) -> bool {
        self.load().is_some_and(|s| s.cold)
    }

    /// `cold`: whatever the journal holds then is not gone on from. A fence stays.
    pub fn save(&self, instance: Instance, cold: bool) -> io::Result<()> {
        let fenced_until_ms = self.load().and_then(|s| s.fenced_until_ms);
        self.write(&Stored { version: VERSION, instance, cold, fenced_until_ms })
    }

    /// Sets until when the instance stands still; `None`: it speaks. The next process goes by it.
    pub fn fence(&self, instance: Instance, until: Option<Instant>) -> io::Result<()> {
        let stored = self.load();
        let before = stored.as_ref().and_then(|s| s.fenced_until_ms);
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let fenced_until_ms = until.map(|u| boot_ms().saturating_add(u64::try_from(left(u).as_millis()).unwrap_or(u64::MAX)));
        if before.is_none() && fenced_until_ms.is_none() {
            return Ok(());
        }
        self.write(&Stored { version: VERSION, instance, cold: stored.is_some_and(|s| s.cold), fenced_until_ms })
    }

    /// Until when a past process was to stand still, if that is not over. A newer configuration says otherwise.
    pub fn fenced(&self, configured: Instance) -> Option<Instant> {
        let stored = self.load().filter(|s| s.instance.generation >= configured.generation)?;
        let left = stored.fenced_until_ms?.checked_sub(boot_ms()).filter(|ms| *ms > 0)?;
        Instant::now().checked_add(Duration::from_millis(left))
    }

    /// In one step: a crash leaves the former file or this one.
    fn write(&self, stored: &Stored) -> io::Result<()> {
        let Some(dir) = &self.0 else { return Ok(()) };
        let new = dir.join("role.new");
        fs::write(&new, serde_json::to_vec(stored)?)?;
        fs::rename(new, dir.join(NAME))
    }

    /// Everything beside this file goes.
    pub fn forget_journal(&self) -> io::Result<()> {
        let Some(dir) = &self.0 else { return Ok(()) };
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name != NAME) && path.is_file() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_mgmt::config::InstanceRole;

    fn instance(generation: u64, role: InstanceRole) -> Instance {
        Instance { generation, role }
    }

    #[test]
    fn who_was_promoted_stays_so_until_a_newer_configuration_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let file = RoleFile::new(dir.path());
        let (standby, promoted) = (instance(5, InstanceRole::Standby), instance(7, InstanceRole::Active));
        assert_eq!(file.instance(standby), standby);
        file.save(promoted, true).unwrap();
        assert_eq!((file.instance(standby), file.is_cold()), (promoted, true));
        assert_eq!(file.instance(instance(8, InstanceRole::Standby)).generation, 8);
        fs::write(dir.path().join("journal"), "x").unwrap();
        file.forget_journal().unwrap();
        file.save(promoted, false).unwrap();
        assert_eq!((file.instance(standby), file.is_cold(), dir.path().join("journal").exists()), (promoted, false, false));
    }

    #[test]
    fn a_fence_lasts_as_long_as_its_lease_whoever_looks() {
        let dir = tempfile::tempdir().unwrap();
        let file = RoleFile::new(dir.path());
        let (configured, promoted) = (instance(5, InstanceRole::Active), instance(7, InstanceRole::Active));
        assert_eq!(file.fenced(configured), None);
        let until = Instant::now() + Duration::from_secs(60);
        file.fence(promoted, Some(until)).unwrap();
        let next = RoleFile::new(dir.path());
        let seen = next.fenced(configured).unwrap();
        assert!(until - Duration::from_secs(1) < seen && seen < until + Duration::from_secs(1));
        // Another generation is no end of it, but a newer configuration is.
        file.save(instance(8, InstanceRole::Active), false).unwrap();
        assert!(next.fenced(configured).is_some());
        assert_eq!((next.instance(configured).generation, next.fenced(instance(9, InstanceRole::Active))), (8, None));
        file.fence(promoted, None).unwrap();
        assert_eq!(next.fenced(configured), None);
        // One whose lease is over.
        file.fence(promoted, Some(Instant::now())).unwrap();
        assert_eq!(next.fenced(configured), None);
        // Of a process that did not write it down.
        fs::write(dir.path().join(NAME), r#"{"version":1,"instance":{"generation":7,"role":"active"},"cold":false}"#).unwrap();
        assert_eq!((next.fenced(configured), next.instance(configured)), (None, promoted));
    }

    #[test]
    fn the_bytes_of_version_1_are_still_read_and_rubbish_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = RoleFile::new(dir.path());
        let configured = instance(1, InstanceRole::Standby);
        fs::write(dir.path().join(NAME), r#"{"version":1,"instance":{"generation":7,"role":"active"},"cold":false}"#).unwrap();
        assert_eq!(file.instance(configured), instance(7, InstanceRole::Active));
        for rubbish in ["", "{", r#"{"version":9,"instance":{"generation":7,"role":"active"}}"#, &"x".repeat(5000)] {
            fs::write(dir.path().join(NAME), rubbish).unwrap();
            assert_eq!((file.instance(configured), file.is_cold()), (configured, false), "{rubbish:.20}");
        }
    }
}
