//! Processes named by pid and start time, so that a reused pid is never mistaken for what we started.

use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    pub start_time: u64,
}

/// What /proc/PID/stat says after the command name: state, parent, process group, start time.
struct Stat {
    state: char,
    parent: i32,
    group: i32,
    start_time: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may hold anything.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let start_time = fields.nth(16)?.parse().ok()?;
    Some(Stat { state, parent, group, start_time })
}

impl Process {
    pub fn find(pid: i32) -> Option<Self> {
        stat(pid).map(|s| Self { pid, start_time: s.start_time })
    }

    /// Whether this very process still runs (a zombie does not).
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|s| s.start_time == self.start_time && s.state != 'Z')
    }

    pub fn kill(self) {
        if self.alive() {
            // It may have ended in between: then there is nothing to do.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Every process of this pid namespace.
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

pub fn command(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

pub fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|s| s.parent)
}

pub fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
}

/// All descendants of `root`, itself included.
pub fn tree(root: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = all().into_iter().filter_map(|p| Some((p, stat(p)?.parent))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(p, up)| *up == parent && *p != parent).map(|(p, _)| *p));
        next += 1;
    }
    found
}

/// What still runs in a process group.
pub fn group(id: i32) -> Vec<i32> {
    all().into_iter().filter(|p| stat(*p).is_some_and(|s| s.group == id && s.state != 'Z')).collect()
}

/// The file as the process sees it.
pub fn file_of(pid: i32, path: &str) -> Option<String> {
    fs::read_to_string(Path::new(&format!("/proc/{pid}/root")).join(path.trim_start_matches('/'))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_pid() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::find(pid).unwrap();
        assert!(process.alive());
        assert!(tree(i32::try_from(std::process::id()).unwrap()).contains(&pid));
        let other = Process { start_time: process.start_time + 1, ..process };
        assert!(!other.alive());
        other.kill();
        assert!(process.alive(), "a stale record kills nobody");
        process.kill();
        child.wait().unwrap();
        assert!(!process.alive());
    }
}
