//! A VM's control group: limits, freezing, and killing all of it at once.
//!
//! Only what is mounted is used. On a host with cgroup v2 alone every control is in one tree; on a mixed host the
//! v2 tree has freezing and killing, and the limits are set in the v1 trees of memory, pids and cpu. What is not
//! there is said once in the log and done without.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Most processes and threads a VM may have.
const PIDS_MAX: u32 = 512;
/// A VM's share of the processor against the host's other work (100 is par in cgroup v2, 1024 in v1).
const CPU_WEIGHT: (u32, u32) = (100, 1024);

/// Where this runtime's groups are.
#[derive(Debug, Clone, Default)]
pub(super) struct Cgroups {
    /// Parent group in the v2 tree.
    unified: Option<PathBuf>,
    /// Parent groups in the v1 trees, by controller.
    legacy: BTreeMap<&'static str, PathBuf>,
}

const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

impl Cgroups {
    /// Makes parent groups called `name`. Never fails: without cgroups VMs run unlimited.
    pub(super) fn open(name: &str) -> Self {
        let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        let mut out = Self::default();
        if let Some(root) = mounts.get("") {
            let parent = root.join(name);
            match fs::create_dir_all(&parent) {
                Ok(()) => {
                    for c in CONTROLLERS {
                        let enable = |dir: &Path| fs::write(dir.join("cgroup.subtree_control"), format!("+{c}"));
                        let _ = enable(root).and_then(|()| enable(&parent));
                    }
                    out.unified = Some(parent);
                }
                Err(e) => tracing::warn!("cgroup v2 at {}: {e}: VMs cannot be frozen", root.display()),
            }
        } else {
            tracing::warn!("cgroup v2 is not mounted: VMs cannot be frozen");
        }
        let enabled = out.unified.as_ref().and_then(|p| fs::read_to_string(p.join("cgroup.subtree_control")).ok()).unwrap_or_default();
        for c in CONTROLLERS {
            if enabled.split_whitespace().any(|e| e == c) {
                continue;
            }
            let made = mounts.get(c).map(|root| root.join(name)).map(|parent| fs::create_dir_all(&parent).map(|()| parent));
            match made {
                Some(Ok(parent)) => drop(out.legacy.insert(c, parent)),
                Some(Err(e)) => tracing::warn!("cgroup {c}: {e}: VMs run without limit of it"),
                None => tracing::warn!("no cgroup for {c}: VMs run without limit of it"),
            }
        }
        out
    }

    fn groups(&self, id: &str) -> Vec<PathBuf> {
        self.unified.iter().chain(self.legacy.values()).map(|p| p.join(id)).collect()
    }

    /// Makes the VM's groups, and puts `pid` into them.
    pub(super) fn create(&self, id: &str, pid: u32, memory_max: Option<u64>) -> io::Result<()> {
        let at = |dir: &Path, file: &str, value: String| {
            fs::write(dir.join(file), value).map_err(|e| io::Error::new(e.kind(), format!("{}/{file}: {e}", dir.display())))
        };
        for dir in self.groups(id) {
            fs::create_dir_all(&dir)?;
        }
        if let Some(dir) = self.unified.as_ref().map(|p| p.join(id)) {
            for (file, value) in [
                ("memory.max", memory_max.map(|m| m.to_string())),
                ("memory.swap.max", memory_max.map(|_| "0".to_owned())),
                ("pids.max", Some(PIDS_MAX.to_string())),
                ("cpu.weight", Some(CPU_WEIGHT.0.to_string())),
            ] {
                // Files of controllers that this tree does not have are not there.
                if let Some(value) = value.filter(|_| dir.join(file).exists()) {
                    at(&dir, file, value)?;
                }
            }
        }
        for (controller, parent) in &self.legacy {
            let dir = parent.join(id);
            let (file, value) = match *controller {
                "memory" => ("memory.limit_in_bytes", memory_max.map(|m| m.to_string())),
                "pids" => ("pids.max", Some(PIDS_MAX.to_string())),
                _ => ("cpu.shares", Some(CPU_WEIGHT.1.to_string())),
            };
            if let Some(value) = value {
                at(&dir, file, value)?;
            }
        }
        self.groups(id).iter().try_for_each(|dir| at(dir, "cgroup.procs", pid.to_string()))
    }

    /// Freezes or thaws, and waits until it is so.
    pub(super) fn freeze(&self, id: &str, frozen: bool) -> io::Result<()> {
        let none = || io::Error::new(io::ErrorKind::Unsupported, "freezing needs cgroup v2");
        let dir = self.unified.as_ref().ok_or_else(none)?.join(id);
        fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        wait_until(Duration::from_secs(1), || Ok(self.is_frozen(id) == frozen))
    }

    pub(super) fn is_frozen(&self, id: &str) -> bool {
        let events = self.unified.as_ref().and_then(|p| fs::read_to_string(p.join(id).join("cgroup.events")).ok());
        events.is_some_and(|e| e.lines().any(|l| l == "frozen 1"))
    }

    /// Kills every process of the VM.
    pub(super) fn kill(&self, id: &str) {
        if let Some(p) = &self.unified {
            let _ = fs::write(p.join(id).join("cgroup.kill"), "1");
        }
        // Before Linux 5.14, and in v1 trees, one by one. With its init the rest goes.
        for dir in self.groups(id) {
            let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|p| p.parse::<i32>().ok()).filter(|p| *p > 1) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Removes the VM's groups; its processes must be gone or going.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        for dir in self.groups(id) {
            wait_until(Duration::from_secs(2), || match fs::remove_dir(&dir) {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Ok(false),
                Err(e) => Err(e),
            })?;
        }
        Ok(())
    }

    /// Names of the VMs that have a group.
    pub(super) fn list(&self) -> Vec<String> {
        let all = self.unified.iter().chain(self.legacy.values()).filter_map(|p| fs::read_dir(p).ok()).flatten().flatten();
        let dirs = all.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        dirs.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// Removes the parent groups, if no VM is left in them.
    pub(super) fn close(&self) {
        for p in self.unified.iter().chain(self.legacy.values()) {
            let _ = fs::remove_dir(p);
        }
    }
}

/// Polls a condition that the kernel offers no descriptor for.
pub(super) fn wait_until(limit: Duration, mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    while !done()? {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Mount points of cgroup trees by v1 controller; the v2 tree's under the empty name.
fn mounts(mountinfo: &str) -> BTreeMap<String, PathBuf> {
    let mut out = BTreeMap::new();
    for line in mountinfo.lines() {
        // proc(5): fields to a lone hyphen, then type, source and options of the file system.
        let Some((mount, fs)) = line.split_once(" - ") else { continue };
        let (Some(point), mut fs) = (mount.split(' ').nth(4), fs.split(' ')) else { continue };
        match fs.next() {
            Some("cgroup2") => drop(out.entry(String::new()).or_insert_with(|| point.into())),
            Some("cgroup") => {
                for option in fs.nth(1).unwrap_or_default().split(',') {
                    out.entry(option.to_owned()).or_insert_with(|| point.into());
                }
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_found_in_the_mount_table() {
        let info = "30 25 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                    31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\nnonsense\n";
        let m = mounts(info);
        assert_eq!(m[""], Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(m["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(m["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert!(!m.contains_key("pids"));
    }
}
