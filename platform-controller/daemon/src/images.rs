//! Images: the programs of which VMs are made, by name.

use crate::{hosts::Fleet, placement::State};
use anyhow::{Context, ensure};
use edgeplex_api::ImageRow;
use edgeplex_runtime::{DEFAULT_IMAGE, is_file_name};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Debug)]
pub struct Images {
    /// The controller's; images are below `images/` there, and likewise on other hosts.
    pub dir: PathBuf,
    pub fleet: Arc<Fleet>,
}

impl Images {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("images").join(name)
    }

    /// Those of the controller's host.
    pub async fn list(&self, placed: &State) -> anyhow::Result<Vec<ImageRow>> {
        let images = self.fleet.own().images().await?;
        let made_of = |name: &str| {
            let of = |i: &&crate::placement::Instance| i.image.as_deref().unwrap_or(DEFAULT_IMAGE) == name;
            placed.units.values().map(|p| p.instances().into_iter().filter(of).count()).sum()
        };
        let row = |i: edgeplex_runtime::Image| ImageRow { instances: made_of(&i.name), version: i.version, hash: i.hash, name: i.name };
        Ok(images.into_iter().map(row).collect())
    }

    /// Copies the programs in `from`: what is added never changes afterwards, for VMs are made of it.
    pub async fn add(&self, name: &str, from: &Path) -> anyhow::Result<()> {
        ensure!(
            is_file_name(name) && name != DEFAULT_IMAGE,
            "image `{name}`: must be letters, digits, hyphens and dots, and not {DEFAULT_IMAGE}"
        );
        ensure!(from.is_absolute(), "{}: must be an absolute path", from.display());
        let to = self.path(name);
        ensure!(!to.exists(), "image {name} is there already; images do not change, give another name");
        let (from, part) = (from.to_owned(), self.path(&format!(".{name}.part")));
        let copied = tokio::task::spawn_blocking(move || {
            let done = copy(&from, &part).and_then(|()| Ok(fs::rename(&part, &to)?));
            if done.is_err() {
                let _ = fs::remove_dir_all(&part);
            }
            done
        });
        copied.await?
    }

    /// Whether the controller's host has that image, and those that are up either the same or none: a host without it takes no VM of it.
    pub async fn check(&self, name: &str) -> anyhow::Result<()> {
        let own = self.fleet.own().images().await?.into_iter().find(|i| i.name == name);
        let own = own.with_context(|| format!("there is no image {name}; see `edgeplex image list`"))?;
        for host in self.fleet.names().into_iter().filter(|h| self.fleet.is_up(h)) {
            // One that cannot say takes no VM now, and is asked again when it does.
            let Ok(there) = self.fleet.at(&host)?.images().await else { continue };
            let there = there.into_iter().find(|i| i.name == name);
            ensure!(there.is_none_or(|i| i.hash == own.hash), "image {name} is another on host {host}");
        }
        Ok(())
    }
}

/// Programs only: what is no file with the right to be run is left out.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match fs::remove_dir_all(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => fs::create_dir_all(to)?,
    }
    let mut programs = 0;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let meta = fs::metadata(entry.path())?;
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
            programs += 1;
        }
    }
    ensure!(programs > 0, "{}: there are no programs in it", from.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_runtime::FakeRuntime;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn an_image_is_copied_whole_and_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images { dir: dir.path().into(), fleet: Arc::new(Fleet::alone(Arc::new(FakeRuntime::new(dir.path())))) };
        let from = dir.path().join("build");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("notes.d"), "").unwrap();
        assert!(images.add("v2", &from).await.is_err(), "nothing to run");
        fs::write(from.join("pvmd"), "1").unwrap();
        fs::set_permissions(from.join("pvmd"), fs::Permissions::from_mode(0o755)).unwrap();
        images.add("v2", &from).await.unwrap();
        let names: Vec<_> = fs::read_dir(dir.path().join("images/v2")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["pvmd"]);
        assert!(images.add("v2", &from).await.unwrap_err().to_string().contains("is there already"));
        for bad in ["", "../x", "default", ".v"] {
            assert!(images.add(bad, &from).await.is_err(), "{bad}");
        }
    }
}
