//! What the runtime and `edgeplex-init` say to each other while a VM is made.
//!
//! ```text
//!  runtime                                     edgeplex-init (stage 1, then stage 2 = PID 1 of the VM)
//!    spawn ------------------------------------> new session; new mount and PID namespaces; starts stage 2
//!      <------------------------------ {"pid"} -- stage 1, and ends
//!    put the pid into its cgroup
//!    BootSpec ---------------------------------> mounts the root, moves into it; new user, network, IPC, UTS and
//!      <------------------------------ "ready" -- cgroup namespaces
//!    uid map; vNICs; state on disk
//!    "go" -------------------------------------> becomes root of the VM, drops what it does not need, starts processes
//!      <---------------------------- "running" --
//! ```
//! One JSON value a line. When the runtime dies before `go`, the VM ends by the end of its input.

use crate::Entry;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, path::PathBuf};

/// Longest line, bytes.
pub const MAX_LINE: usize = 1 << 20;
/// Version of [`BootSpec`].
pub const VERSION: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSpec {
    pub version: u8,
    pub hostname: String,
    /// An empty directory of the host, over which the VM's root is mounted.
    pub root: PathBuf,
    pub entries: Vec<Entry>,
    /// Where the host has the directories that are this VM's own.
    pub config_dir: PathBuf,
    pub state_dir: Option<PathBuf>,
    /// Directories that other VMs see too.
    pub shared: Vec<SharedMount>,
    /// The VM's root as the host counts users.
    pub uid_base: u32,
    /// Programs to stand in [`crate::BIN_DIR`]: name, and the host's file.
    pub binaries: BTreeMap<String, PathBuf>,
    pub log_dir: PathBuf,
    /// A log longer than this is moved aside, once; bytes.
    pub log_max: u64,
    pub processes: Vec<BootProcess>,
    pub umask: u32,
    /// Interfaces that the forwarder alone serves: the kernel's IP stays off them. Those that have one ([`crate::tap_of`]) get a
    /// TAP, which keeps its carrier as long as the VM lives.
    pub raw_nics: Vec<String>,
}

/// A directory of the host in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedMount {
    pub host: PathBuf,
    /// Absolute, inside the VM.
    pub path: String,
    pub writable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootProcess {
    pub name: String,
    /// A program without a slash is one of [`BootSpec::binaries`].
    pub argv: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// Stage 2 exists; its process id as the host counts.
    Pid(u32),
    Ready,
    Running,
    Failed(String),
}

/// What the runtime says after [`Report::Ready`].
pub const GO: &str = "go";

/// Reads one line without reading past it: the next reader of the same pipe may be another process.
pub fn read_line(input: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let (mut line, mut byte) = (vec![], [0]);
    loop {
        if input.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match byte {
            [b'\n'] => return Ok(line),
            [b] if line.len() < MAX_LINE => line.push(b),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_one_at_a_time_and_bounded() {
        let mut input = &b"one\ntwo\nthree"[..];
        assert_eq!(read_line(&mut input).unwrap(), b"one");
        assert_eq!(input, b"two\nthree");
        assert_eq!(read_line(&mut input).unwrap(), b"two");
        assert_eq!(read_line(&mut input).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let long = vec![b'x'; MAX_LINE + 1];
        assert_eq!(read_line(&mut &long[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// The runtime and the init of one release speak to each other only, but both must know this form.
    #[test]
    fn a_specification_of_version_4_reads() {
        let text = r#"{"version":4,"hostname":"pvm-a","root":"/r","entries":[{"host":{"path":"/usr"}},{"vm":{"what":"run","path":"/run/edgeplex"}},
            {"memory":{"path":"/run/journal","size_kb":1024,"files":8}}],
            "config_dir":"/c","state_dir":null,"shared":[{"host":"/d/relay","path":"/run/relay","writable":false}],"uid_base":100000,"binaries":{"pvmd":"/b/pvmd"},"log_dir":"/l","log_max":1024,
            "processes":[{"name":"pvmd","argv":["pvmd","--run","/run/edgeplex"]}],"umask":63,"raw_nics":["cust"]}"#;
        let spec: BootSpec = serde_json::from_str(text).unwrap();
        assert_eq!((spec.version, spec.entries.len(), spec.umask), (VERSION, 3, 0o077));
        assert_eq!(serde_json::to_string(&Report::Pid(7)).unwrap(), r#"{"pid":7}"#);
    }
}
