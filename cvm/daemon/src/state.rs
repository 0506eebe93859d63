//! What outlives the making of the VM: labels that other routers may still use, and when we were last alive.

mod bindings;
mod labels;

pub use bindings::Bindings;
pub(crate) use bindings::BindingsFile;
pub(crate) use labels::LabelsFile;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tracing::{debug, warn};

/// A file that is replaced at once and whole.
#[derive(Debug)]
struct StateFile(PathBuf);

impl StateFile {
    /// `None` if there is none, or none that can be read.
    fn read(&self) -> Option<Vec<u8>> {
        match fs::read(&self.0) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(%error, file = %self.0.display(), "the past cannot be read");
                None
            }
        }
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.0.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)
    }

    /// It makes no sense: to be looked at by a person, not by the next process.
    fn set_aside(&self, error: &dyn std::fmt::Display) {
        warn!(%error, file = %self.0.display(), "the past cannot be read");
        let _ = fs::rename(&self.0, self.0.with_extension("bad"));
    }
}

/// When a process was last alive: the time of a file without contents. What neighbours were asked to wait for has a limit.
#[derive(Debug)]
pub(crate) struct Alive(PathBuf);

impl Alive {
    /// How often to say so.
    pub(crate) const PACE: Duration = Duration::from_secs(2);

    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.join("alive"))
    }

    /// How long ago; `None` if never, or if the clock was set back since.
    pub(crate) fn ago(&self) -> Option<Duration> {
        SystemTime::now().duration_since(fs::metadata(&self.0).ok()?.modified().ok()?).ok()
    }

    pub(crate) fn now(&self) {
        self.was(Duration::ZERO);
    }

    /// Says that it was so long ago.
    pub(crate) fn was(&self, ago: Duration) {
        let then = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let touched = fs::File::create(&self.0).and_then(|f| f.set_modified(then));
        if let Err(error) = touched {
            debug!(%error, "not written that we are alive");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_alive_lately_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let alive = Alive::new(dir.path());
        assert_eq!(alive.ago(), None);
        alive.now();
        assert!(alive.ago().unwrap() < Duration::from_secs(60));
        let file = fs::File::options().write(true).open(dir.path().join("alive")).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(500)).unwrap();
        assert!(alive.ago().unwrap() >= Duration::from_secs(499));
        file.set_modified(SystemTime::now() + Duration::from_secs(500)).unwrap();
        assert_eq!(alive.ago(), None);
    }
}
