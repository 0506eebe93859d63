//! What a lab has made, on disk, so that any later call can take it away again: after a crash, after `kill -9` of the
//! runner, without knowing the topology.
//!
//! ```text
//!  /run/edgeplex-lab/            0700
//!    LAB/lab.json                name, prefix, topology file
//!    LAB/lock                    held while the lab is brought up or taken down
//!    LAB/NODE/init.json          the node's first process: pid and start time
//!    LAB/NODE/shared/            logs of its daemons; /run/lab in the node
//!    LAB/NODE/edgeplex/          edgeplexd's directory (PE nodes); /run/edgeplex in the node
//! ```
//! All that a node is hangs from its first process: killing it ends every process of the node, its network and its
//! mounts. Only the names in /run/netns and the cgroups remain to be removed by hand.

use crate::{process, process::Process, wait};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

pub const ROOT: &str = "/run/edgeplex-lab";
/// The hidden subcommand that is a node's first process.
pub const NODE_INIT: &str = "node-init";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabRecord {
    pub name: String,
    pub prefix: String,
    pub topology: PathBuf,
    pub runner: Option<Process>,
    /// The outermost supervisor above the runner: `lab/test`, say, whose tests bring up labs.
    #[serde(default)]
    pub run: Option<Process>,
}

#[derive(Debug, Clone)]
pub struct LabDir(pub PathBuf);

/// Keeps the lock file open; the lock ends with it.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] nix::fcntl::Flock<fs::File>);

impl LabDir {
    pub fn of(name: &str) -> Result<Self> {
        let ok = !name.is_empty()
            && name.len() <= 40
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        ensure!(ok, "lab name {name:?}: letters, digits, `-`, `_` and `.`, at most 40");
        Ok(Self(Path::new(ROOT).join(name)))
    }

    /// Makes the directory, owned by root and closed to others.
    pub fn create(&self) -> Result<()> {
        for dir in [Path::new(ROOT), &self.0] {
            match fs::DirBuilder::new().mode(0o700).create(dir) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other.with_context(|| format!("{}", dir.display()))?,
            }
            let meta = fs::symlink_metadata(dir)?;
            ensure!(meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw(), "{} is not our directory", dir.display());
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    pub fn lock(&self) -> Result<Lock> {
        self.hold(fs::File::create(self.0.join("lock"))?)
    }

    /// The lock of a lab that is to go; none where there is no lock file. It must not be made then: somebody else may
    /// be removing the directory.
    pub fn lock_if_there(&self) -> Result<Option<Lock>> {
        match fs::File::open(self.0.join("lock")) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            file => self.hold(file?).map(Some),
        }
    }

    fn hold(&self, file: fs::File) -> Result<Lock> {
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!("lab {} is being brought up or taken down by another runner", self.name()),
            Err((_, e)) => bail!("{}: {e}", self.0.display()),
        }
    }

    pub fn name(&self) -> String {
        self.0.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub fn node(&self, node: &str) -> PathBuf {
        self.0.join(node)
    }

    pub fn write(&self, record: &LabRecord) -> Result<()> {
        write_json(&self.0.join("lab.json"), record)
    }

    pub fn read(&self) -> Result<LabRecord> {
        read_json(&self.0.join("lab.json"))
    }

    pub fn nodes(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.0) else { return vec![] };
        let mut names: Vec<_> = entries.flatten().filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    pub fn init(&self, node: &str) -> Option<Process> {
        read_json(&self.node(node).join("init.json")).ok()
    }

    /// The first processes of this lab's nodes: those recorded, and those started by a runner that died before it
    /// could record them (they carry the node's directory as an argument).
    fn inits(&self) -> Vec<Process> {
        let mut found: Vec<Process> = self.nodes().iter().filter_map(|n| self.init(n)).collect();
        for pid in process::all() {
            let arguments = process::arguments(pid);
            let ours = arguments.get(1).is_some_and(|a| a == NODE_INIT)
                && arguments.get(2).is_some_and(|d| Path::new(d).parent() == Some(&self.0));
            if ours && let Some(p) = Process::find(pid) {
                found.push(p);
            }
        }
        found
    }

    pub fn is_up(&self) -> bool {
        self.inits().iter().any(|p| p.alive())
    }

    /// Removes all that the lab has made. Safe to repeat, and on a lab that was only half made. What cannot be removed
    /// does not keep the rest; it is told at the end, and the directory stays, so that this can be repeated.
    pub fn destroy(&self) -> Result<()> {
        let mut failed: Vec<String> = vec![];
        let mut note = |outcome: Result<()>| failed.extend(outcome.err().map(|e| format!("{e:#}")));
        let mut groups = self.cgroups();
        // One that is just being started by another shows up only in the next look.
        let mut quiet = 0;
        note(wait::until_true("the nodes' processes end", Duration::from_secs(20), || {
            let running: Vec<Process> = self.inits().into_iter().filter(|p| p.alive()).collect();
            running.iter().for_each(|p| p.kill());
            quiet = if running.is_empty() { quiet + 1 } else { 0 };
            Ok(quiet == 2)
        }));
        for path in self.namespaces() {
            let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
            note(unless_gone(fs::remove_file(&path)).with_context(|| path.display().to_string()));
        }
        // Again: an edgeplexd may have made one after the first look.
        groups.extend(self.cgroups());
        groups.sort();
        groups.dedup();
        for group in groups.iter().rev() {
            note(wait::until_true(&format!("{} empties", group.display()), Duration::from_secs(5), || Ok(remove_cgroup(group))));
        }
        ensure!(failed.is_empty(), "not all could be removed: {}", failed.join("; "));
        remove_tree(&self.0)?;
        // The last lab takes the root with it; others may still be there.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }

    /// The names that our nodes have in /run/netns.
    fn namespaces(&self) -> Vec<PathBuf> {
        let lab = self.name();
        let at = Path::new("/run/netns");
        let Ok(record) = self.read() else {
            // Without the prefix: what ends as our names do.
            let ends: Vec<String> = self.nodes().iter().map(|n| format!("-{lab}-{n}")).collect();
            let all = fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path());
            return all.filter(|p| ends.iter().any(|e| p.to_string_lossy().ends_with(e))).collect();
        };
        let paths = self.nodes().into_iter().map(|n| at.join(netns_name(&record.prefix, &lab, &n)));
        paths.filter(|p| fs::symlink_metadata(p).is_ok()).collect()
    }

    /// The cgroups that the lab's VMs live in and that nothing else uses, outermost first.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = vec![];
        for init in self.inits() {
            for pid in process::tree(init.pid) {
                found.extend(own_cgroups(pid));
            }
        }
        for node in self.nodes() {
            found.extend(edgeplexd_cgroups(&format!("/run/pe/{}-{node}", self.name())));
        }
        found.sort();
        found.dedup();
        found
    }
}

/// The cgroup directories of a process that EdgePlex made (they carry its name), with the parents that do.
fn own_cgroups(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut found = vec![];
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mounts = [
            format!("/sys/fs/cgroup/{}", controllers.trim_start_matches("name=")),
            "/sys/fs/cgroup/unified".into(),
            "/sys/fs/cgroup".into(),
        ];
        for mount in mounts {
            let mut dir = PathBuf::from(format!("{mount}{path}"));
            while dir.starts_with(&mount) && dir.strip_prefix(&mount).is_ok_and(|p| p.to_string_lossy().contains("edgeplex")) {
                if dir.join("cgroup.procs").exists() {
                    found.push(dir.clone());
                }
                if !dir.pop() {
                    break;
                }
            }
        }
    }
    found
}

/// The parent groups that an edgeplexd with this directory makes even when it has no VMs.
pub(crate) fn edgeplexd_cgroups(dir: &str) -> Vec<PathBuf> {
    use sha2::{Digest, Sha256};
    let hash: String = Sha256::digest(dir).iter().take(6).map(|b| format!("{b:02x}")).collect();
    hierarchies().into_iter().map(|t| t.join(format!("edgeplex-{hash}"))).filter(|g| g.is_dir()).collect()
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let mut found: Vec<PathBuf> = fs::read_dir(&root).into_iter().flatten().flatten().map(|e| e.path()).collect();
    found.push(root);
    found.retain(|t| t.join("cgroup.procs").is_file());
    found
}

/// Removes a cgroup and those inside it, innermost first; true once it is gone.
fn remove_cgroup(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    unless_gone(fs::remove_dir(dir)).is_ok()
}

fn unless_gone(outcome: std::io::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Removes a directory that holds no mounts of ours any more; a mount that is still there is detached first.
fn remove_tree(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut inside: Vec<&str> = mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| Path::new(m).starts_with(dir)).collect();
    inside.sort();
    for mount in inside.iter().rev() {
        match nix::mount::umount2(*mount, nix::mount::MntFlags::MNT_DETACH) {
            // Gone meanwhile.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e).with_context(|| (*mount).to_owned()),
        }
    }
    unless_gone(fs::remove_dir_all(dir)).with_context(|| format!("{}", dir.display()))
}

pub fn netns_name(prefix: &str, lab: &str, node: &str) -> String {
    // As containerlab names its containers; its `__lab-name` prefix means lab and node alone.
    match prefix {
        "" => node.to_owned(),
        "__lab-name" => format!("{lab}-{node}"),
        _ => format!("{prefix}-{lab}-{node}"),
    }
}

/// Every lab with a directory.
pub fn labs() -> Vec<LabDir> {
    let Ok(entries) = fs::read_dir(ROOT) else { return vec![] };
    let mut found: Vec<_> = entries.flatten().filter(|e| e.path().is_dir()).map(|e| LabDir(e.path())).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Which labs there are, for a message about one that is not.
pub fn others() -> String {
    match labs().iter().filter(|l| l.is_up()).map(LabDir::name).collect::<Vec<_>>().as_slice() {
        [] => "no lab is up".into(),
        [one] => format!("up is {one}"),
        many => format!("up are {}", many.join(", ")),
    }
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let staged = path.with_extension("new");
    fs::write(&staged, serde_json::to_vec_pretty(value)?).with_context(|| format!("{}", staged.display()))?;
    fs::rename(&staged, path)?;
    Ok(())
}

pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_name_is_never_a_path() {
        assert!(LabDir::of("two-cities.b").is_ok());
        for bad in ["", "..", ".", "a/b", "a b", &"x".repeat(41)] {
            assert!(LabDir::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn cgroups_that_hold_others_go_innermost_first_and_what_is_missing_is_no_error() {
        use sha2::{Digest, Sha256};
        let dir = LabDir::of(&format!("cgroups-{}", std::process::id())).unwrap();
        dir.create().unwrap();
        // A node of which only the directory and the cgroups are left: no process, no name in /run/netns.
        fs::create_dir(dir.node("pe")).unwrap();
        let record = LabRecord { name: dir.name(), prefix: "epx".into(), topology: "gone".into(), runner: None, run: None };
        dir.write(&record).unwrap();
        let own = format!("/run/pe/{}-pe", dir.name());
        let hash: String = Sha256::digest(&own).iter().take(6).map(|b| format!("{b:02x}")).collect();
        for tree in hierarchies() {
            fs::create_dir_all(tree.join(format!("edgeplex-{hash}/pvm-a/inner"))).unwrap();
            fs::create_dir_all(tree.join(format!("edgeplex-{hash}/cvm"))).unwrap();
        }
        assert!(!edgeplexd_cgroups(&own).is_empty());
        dir.destroy().unwrap();
        assert_eq!(edgeplexd_cgroups(&own), Vec::<PathBuf>::new());
        assert!(!dir.0.exists());
        // In a second time there is nothing to do, and that is no error either.
        dir.destroy().unwrap();
    }

    #[test]
    fn namespaces_are_named_as_containerlab_names_containers() {
        assert_eq!(netns_name("epx", "two", "a"), "epx-two-a");
        assert_eq!(netns_name("", "two", "a"), "a");
        assert_eq!(netns_name("__lab-name", "two", "a"), "two-a");
    }
}
