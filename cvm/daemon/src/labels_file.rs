//! The label assignment on disk, so that labels outlive the process (format: `LabelSpace::save`).

use edgeplex_cvm_vpn::LabelSpace;
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};
use tracing::warn;

const NAME: &str = "labels";

#[derive(Debug)]
pub(crate) struct LabelsFile(PathBuf);

impl LabelsFile {
    /// `dir` outlives the making of the VM: while other routers may still use a label, no other customer gets it.
    pub(crate) fn new(dir: &Path) -> Self {
        Self(dir.join(NAME))
    }

    /// Fills `space`; true if a past process had given labels. A file that cannot be read is set aside: new labels are
    /// better than none.
    pub(crate) fn load(&self, now: Instant, space: &mut LabelSpace) -> bool {
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => {
                warn!(%error, file = %self.0.display(), "labels of the past cannot be read");
                return false;
            }
        };
        match space.load(now, &bytes) {
            Ok(()) => space.iter().next().is_some(),
            Err(error) => {
                warn!(%error, file = %self.0.display(), "labels of the past cannot be read");
                let _ = fs::rename(&self.0, self.0.with_extension("bad"));
                false
            }
        }
    }

    /// Replaces the file at once and whole.
    pub(crate) fn save(&self, space: &LabelSpace) -> anyhow::Result<()> {
        let new = self.0.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&space.save()?)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        Ok(())
    }
}
