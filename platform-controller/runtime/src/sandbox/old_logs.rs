//! Logs of VMs that were stopped: `<identity>/<id>/`. An identity has one VM after another, so only the last of them are kept.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::SystemTime,
};

/// Of an identity.
const KEPT: usize = 16;

/// Puts a stopped VM's logs aside, in place of those of the same id, and removes what is older than the last [`KEPT`].
pub(super) fn keep(log: &Path, old: &Path, id: &str) -> io::Result<()> {
    fs::create_dir_all(old)?;
    let kept = old.join(id);
    super::remove_all(&kept)?;
    fs::rename(log, &kept)?;
    // Its age is that of its end.
    File::open(&kept)?.set_modified(SystemTime::now())?;
    let age = |entry: io::Result<fs::DirEntry>| entry.and_then(|e| Ok((e.metadata()?.modified()?, e.path())));
    let mut all = fs::read_dir(old)?.map(age).collect::<io::Result<Vec<_>>>()?;
    all.sort();
    let gone = all.len().saturating_sub(KEPT);
    all.iter().take(gone).try_for_each(|(_, path)| super::remove_all(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_whatever_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let (log, old) = (dir.path().join("log"), dir.path().join("old"));
        let stop = |id: &str| {
            fs::create_dir(&log).unwrap();
            fs::write(log.join("pvmd.log"), id).unwrap();
            keep(&log, &old, id).unwrap();
        };
        (0..KEPT + 3).for_each(|n| stop(&format!("pvm-a-g{}", 99 - n)));
        stop("pvm-a-g90");
        let mut names: Vec<_> = fs::read_dir(&old).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!((names.len(), &*names[0], &*names[KEPT - 1]), (KEPT, "pvm-a-g81", "pvm-a-g96"));
        assert_eq!(fs::read_to_string(old.join("pvm-a-g90/pvmd.log")).unwrap(), "pvm-a-g90");
    }
}
