//! The VPN label assignment (format: `LabelSpace::save`).

use super::StateFile;
use edgeplex_cvm_vpn::LabelSpace;
use std::{path::Path, time::Instant};

#[derive(Debug)]
pub(crate) struct LabelsFile(StateFile);

impl LabelsFile {
    /// `dir` outlives the making of the VM: while other routers may still use a label, no other customer gets it.
    pub(crate) fn new(dir: &Path) -> Self {
        Self(StateFile(dir.join("labels")))
    }

    /// Fills `space`; true if a past process had given labels. A file that cannot be read is set aside: new labels are
    /// better than none.
    pub(crate) fn load(&self, now: Instant, space: &mut LabelSpace) -> bool {
        let Some(bytes) = self.0.read() else { return false };
        match space.load(now, &bytes) {
            Ok(()) => space.iter().next().is_some(),
            Err(error) => {
                self.0.set_aside(&error);
                false
            }
        }
    }

    pub(crate) fn save(&self, space: &LabelSpace) -> anyhow::Result<()> {
        Ok(self.0.replace(&space.save()?)?)
    }
}
