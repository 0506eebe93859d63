//! The VM's root: a small tmpfs with what the recipe names mounted in it.

use anyhow::Context;
use edgeplex_recipes::{BIN_DIR, Entry, VmDir, boot::BootSpec};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{chdir, pivot_root},
};
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const NONE: Option<&str> = None;
/// What the daemons may keep in their run directory: sockets, and little else.
const RUN_KB: u32 = 4096;
const RUN_FILES: u32 = 256;

/// Builds the root over `spec.root` and moves into it. Nothing of the host remains in sight.
pub(crate) fn build(spec: &BootSpec) -> anyhow::Result<()> {
    // What is mounted from here on is seen in this namespace only.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("private mounts")?;
    let root = &spec.root;
    tmpfs(root, 1024, 0o755)?;
    for entry in &spec.entries {
        place(spec, entry).with_context(|| format!("{entry:?}"))?;
    }
    for dir in &spec.shared {
        // A read-only mount does not keep a VM from connecting to the socket in it.
        let access = if dir.writable { Access::Write } else { Access::Read };
        bind(&dir.host, &inside(root, &dir.path), access).with_context(|| dir.path.clone())?;
    }
    for (name, file) in &spec.binaries {
        let to = inside(root, &format!("{BIN_DIR}/{name}"));
        bind(file, &to, Access::Read).with_context(|| format!("program {name}"))?;
    }
    let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    chdir(root).context("the new root")?;
    // pivot_root(2): with both paths the same, the old root ends on top of the new one, and is taken off.
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("the host's root")?;
    chdir("/")?;
    mount(NONE, "/", NONE, again, NONE).context("read-only root")
}

#[derive(Clone, Copy, PartialEq)]
enum Access {
    Read,
    Write,
    Device,
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn place(spec: &BootSpec, entry: &Entry) -> anyhow::Result<()> {
    let to = |path: &str| inside(&spec.root, path);
    match entry {
        Entry::Host { path } => match fs::symlink_metadata(path) {
            // As on the host: /lib is a link to usr/lib, or a directory.
            Ok(m) if m.is_symlink() => link(&fs::read_link(path)?, &to(path)),
            Ok(_) => bind(Path::new(path), &to(path), Access::Read),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e.into()),
        },
        Entry::Tmpfs { path, size_kb, mode } => {
            fs::create_dir_all(to(path))?;
            tmpfs(&to(path), *size_kb, *mode)
        }
        Entry::Memory { path, size_kb, files } => {
            fs::create_dir_all(to(path))?;
            tmpfs_with(&to(path), &private(spec, *size_kb, *files))
        }
        Entry::Link { path, to: target } => link(Path::new(target), &to(path)),
        Entry::Device { path } => bind(Path::new(path), &to(path), Access::Device),
        Entry::Proc { path } => {
            fs::create_dir_all(to(path))?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            Ok(mount(Some("proc"), &to(path), Some("proc"), flags, NONE)?)
        }
        Entry::Vm { what, path } => match what {
            VmDir::Config => bind(&spec.config_dir, &to(path), Access::Read),
            VmDir::Run => {
                fs::create_dir_all(to(path))?;
                tmpfs_with(&to(path), &private(spec, RUN_KB, RUN_FILES))
            }
            VmDir::State => spec.state_dir.as_deref().map_or(Ok(()), |dir| bind(dir, &to(path), Access::Write)),
        },
    }
}

/// Options of a tmpfs for the VM's root alone.
fn private(spec: &BootSpec, size_kb: u32, files: u32) -> String {
    format!("size={size_kb}k,nr_inodes={files},mode=700,uid={0},gid={0}", spec.uid_base)
}

fn link(target: &Path, at: &Path) -> anyhow::Result<()> {
    parent(at)?;
    Ok(symlink(target, at)?)
}

fn parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn tmpfs(at: &Path, size_kb: u32, mode: u32) -> anyhow::Result<()> {
    tmpfs_with(at, &format!("size={size_kb}k,mode={mode:o}"))
}

fn tmpfs_with(at: &Path, options: &str) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options)).with_context(|| format!("tmpfs {}", at.display()))
}

/// Binds a directory, file or device; what may be mounted below it on the host does not come along.
fn bind(from: &Path, to: &Path, access: Access) -> anyhow::Result<()> {
    let meta = fs::metadata(from).with_context(|| from.display().to_string())?;
    if meta.is_dir() {
        fs::create_dir_all(to)?;
    } else {
        parent(to)?;
        fs::write(to, "")?;
    }
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).with_context(|| format!("bind {}", from.display()))?;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID;
    if access != Access::Device {
        flags |= MsFlags::MS_NODEV;
    }
    if access == Access::Read {
        flags |= MsFlags::MS_RDONLY;
    }
    mount(NONE, to, NONE, flags, NONE).with_context(|| format!("flags of {}", to.display()))
}
