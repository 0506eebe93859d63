//! Looks for what a lab should have taken with it.

use crate::{process, state};
use std::{fs, path::Path};

/// Everything of the lab of that name that is still there, in words. `platforms` are the nodes that ran edgeplexd.
pub fn of(lab: &str, platforms: &[&str]) -> Vec<String> {
    let dir = Path::new(state::ROOT).join(lab);
    let mut found = vec![];
    if dir.exists() {
        found.push(format!("directory {}", dir.display()));
    }
    let mark = format!("-{lab}-");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains(&mark) {
            found.push(format!("namespace {name}"));
        }
    }
    for node in platforms {
        let groups = state::edgeplexd_cgroups(&format!("/run/pe/{lab}-{node}"));
        found.extend(groups.iter().map(|g| format!("cgroup {}", g.display())));
    }
    let path = dir.to_string_lossy().into_owned();
    for pid in process::all() {
        if pid != std::process::id().cast_signed() && process::arguments(pid).iter().skip(1).any(|a| Path::new(a).starts_with(&dir)) {
            found.push(format!("process {pid} ({})", process::command(pid)));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(mounts.lines().filter(|l| l.contains(&path)).map(|l| format!("mount {l}")));
    found
}
