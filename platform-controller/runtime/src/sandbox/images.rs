//! The programs that VMs are made of, by name: those beside the daemon, and those in `<dir>/images/<name>/`.

use super::{Sandbox, boot};
use crate::{DEFAULT_IMAGE, Image, RuntimeError, VmKind, is_file_name, spec::hex};
use edgeplex_recipes::{RecipeError, Template, Templates};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

/// What a program may take to say its version, and how much of what it says is taken, bytes.
const PATIENCE: Duration = Duration::from_secs(5);
const VERSION_MAX: u64 = 200;

/// Where programs are found.
#[derive(Debug)]
pub(super) struct Images {
    dir: PathBuf,
    bin_dir: PathBuf,
    templates: PathBuf,
    open: Mutex<BTreeMap<PathBuf, Arc<Templates>>>,
}

impl Images {
    pub(super) fn open(dir: &Path, bin_dir: &Path) -> Result<Self, RecipeError> {
        let s = Self { dir: dir.join("images"), bin_dir: bin_dir.into(), templates: dir.join("templates"), open: Mutex::default() };
        s.templates(bin_dir)?;
        Ok(s)
    }

    /// Where the programs of an image are.
    pub(super) fn bin_dir(&self, image: Option<&str>) -> PathBuf {
        image.filter(|i| *i != DEFAULT_IMAGE).map_or_else(|| self.bin_dir.clone(), |i| self.dir.join(i))
    }

    fn templates(&self, bin_dir: &Path) -> Result<Arc<Templates>, RecipeError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(t) = open.get(bin_dir) {
            return Ok(t.clone());
        }
        let t = Arc::new(Templates::open(&self.templates, bin_dir)?);
        open.insert(bin_dir.into(), t.clone());
        Ok(t)
    }

    /// The template of that kind and image as the programs are now. Reads those that have changed since the last time.
    pub(super) fn template(&self, kind: VmKind, image: Option<&str>) -> Result<Template, RecipeError> {
        self.templates(&self.bin_dir(image))?.resolve(boot::recipe(kind))
    }

    /// Content hash of an image: of the templates that it makes.
    fn hash(&self, image: &str) -> Result<String, RecipeError> {
        let mut h = Sha256::new();
        for kind in [VmKind::Cvm, VmKind::Pvm, VmKind::Lsr] {
            h.update(self.template(kind, Some(image))?.id);
        }
        Ok(hex(&h.finalize(), 64))
    }

    fn names(&self) -> Vec<String> {
        let found = fs::read_dir(&self.dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
        let mut names: Vec<String> =
            found.filter_map(|e| e.file_name().into_string().ok()).filter(|n| is_file_name(n) && n != DEFAULT_IMAGE).collect();
        names.sort();
        names.insert(0, DEFAULT_IMAGE.into());
        names
    }
}

impl Sandbox {
    /// An image that lacks a program is none; the log says so.
    pub(super) async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        let images = self.images.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            let names = images.names();
            let one = |name: String| match images.hash(&name) {
                Ok(hash) => Some((images.bin_dir(Some(&name)), name, hash)),
                Err(e) => {
                    tracing::warn!("image {name}: {e}");
                    None
                }
            };
            names.into_iter().filter_map(one).collect::<Vec<_>>()
        });
        let mut out = vec![];
        for (dir, name, hash) in hashed.await.map_err(|e| RuntimeError::Invalid(format!("images: {e}")))? {
            out.push(Image { name, hash, version: version(&dir.join("pvmd")).await });
        }
        Ok(out)
    }
}

/// What a program says of itself, without its name; nothing if it does not say.
async fn version(program: &Path) -> String {
    let said = async {
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().ok()?;
        let mut text = vec![];
        child.stdout.take()?.take(VERSION_MAX).read_to_end(&mut text).await.ok()?;
        child.wait().await.ok()?;
        String::from_utf8(text).ok()
    };
    let text = timeout(PATIENCE, said).await.ok().flatten().unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.split_once(' ').map_or(line, |(_, version)| version).chars().filter(|c| !c.is_control()).collect()
}
