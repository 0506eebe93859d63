//! Templates: a recipe and the programs it names, found by the hash of their contents.

use crate::{Recipe, RecipeError, VERSION};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// PID 1 of every VM; it comes from the host and is not visible in the VM, but belongs to what a template is.
const INIT: &str = "edgeplex-init";

/// A recipe with its programs in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// SHA-256 over the recipe and its programs, 64 hexadecimal digits.
    pub id: String,
    pub recipe: Recipe,
    pub manifest: Manifest,
}

/// What a template was made of, as kept in `<dir>/<id>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub version: u8,
    pub id: String,
    pub recipe: Recipe,
    pub binaries: BTreeMap<String, BinaryStamp>,
}

/// A program's contents, and the marks by which it is known not to have changed since they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinaryStamp {
    pub path: PathBuf,
    pub sha256: String,
    pub bytes: u64,
    pub inode: u64,
    pub modified_ns: i128,
}

/// The templates known on this host.
#[derive(Debug)]
pub struct Templates {
    dir: PathBuf,
    bin_dir: PathBuf,
    known: Mutex<BTreeMap<PathBuf, BinaryStamp>>,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RecipeError {
    let path = path.display().to_string();
    move |error| RecipeError::Io { path, error }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Templates {
    /// Keeps manifests in `dir`, and takes programs from `bin_dir`.
    pub fn open(dir: &Path, bin_dir: &Path) -> Result<Self, RecipeError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(io_error(dir))?.flatten() {
            // A manifest of another version, or a damaged one, only costs reading the programs again.
            let manifest = fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice::<Manifest>(&b).ok());
            for stamp in manifest.filter(|m| m.version == VERSION).into_iter().flat_map(|m| m.binaries.into_values()) {
                known.insert(stamp.path.clone(), stamp);
            }
        }
        Ok(Self { dir: dir.into(), bin_dir: bin_dir.into(), known: Mutex::new(known) })
    }

    /// The template that `recipe` makes with the programs as they are now. Reads those that have changed.
    pub fn resolve(&self, recipe: Recipe) -> Result<Template, RecipeError> {
        let mut binaries = BTreeMap::new();
        for name in recipe.binaries.iter().map(String::as_str).chain([INIT]) {
            binaries.insert(name.to_owned(), self.stamp(&self.bin_dir.join(name))?);
        }
        let hashes: BTreeMap<_, _> = binaries.iter().map(|(n, s)| (n, &s.sha256)).collect();
        let text = serde_json::json!([VERSION, &recipe, hashes]).to_string();
        let id = hex(&Sha256::digest(text));
        let manifest = Manifest { version: VERSION, id: id.clone(), recipe: recipe.clone(), binaries };
        self.write(&manifest)?;
        Ok(Template { id, recipe, manifest })
    }

    fn write(&self, manifest: &Manifest) -> Result<(), RecipeError> {
        let path = self.dir.join(format!("{}.json", manifest.id));
        let bytes =
            serde_json::to_vec_pretty(manifest).map_err(|error| RecipeError::Manifest { path: path.display().to_string(), error })?;
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let new = path.with_extension("new");
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, &path)).map_err(io_error(&path))
    }

    fn stamp(&self, path: &Path) -> Result<BinaryStamp, RecipeError> {
        let mut file = fs::File::open(path).map_err(io_error(path))?;
        let meta = file.metadata().map_err(io_error(path))?;
        let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let same = |s: &BinaryStamp| (s.bytes, s.inode, s.modified_ns) == (meta.len(), meta.ino(), modified_ns);
        let known =
            |f: &mut dyn FnMut(&mut BTreeMap<PathBuf, BinaryStamp>)| f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
        let mut found = None;
        known(&mut |k| found = k.get(path).filter(|s| same(s)).cloned());
        if let Some(stamp) = found {
            return Ok(stamp);
        }
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut chunk).map_err(io_error(path))? {
                0 => break,
                n => hash.update(&chunk[..n]),
            }
        }
        let stamp = BinaryStamp { path: path.into(), sha256: hex(&hash.finalize()), bytes: meta.len(), inode: meta.ino(), modified_ns };
        known(&mut |k| drop(k.insert(path.into(), stamp.clone())));
        Ok(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_follows_the_contents() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["cvmd", "pvmd", "fastforward", INIT] {
            fs::write(bin.join(name), name).unwrap();
        }
        let open = || Templates::open(&dir.path().join("templates"), &bin).unwrap();
        let first = open().resolve(Recipe::pvm()).unwrap();
        assert_eq!(open().resolve(Recipe::pvm()).unwrap(), first);
        assert_ne!(open().resolve(Recipe::cvm()).unwrap().id, first.id);
        fs::write(bin.join("pvmd"), "another").unwrap();
        let second = open().resolve(Recipe::pvm()).unwrap();
        assert_ne!(second.id, first.id);
        let kept: Manifest = serde_json::from_slice(&fs::read(dir.path().join(format!("templates/{}.json", first.id))).unwrap()).unwrap();
        assert_eq!(kept, first.manifest);
        fs::remove_file(bin.join("pvmd")).unwrap();
        assert!(open().resolve(Recipe::pvm()).unwrap_err().to_string().contains("bin/pvmd"));
    }
}
