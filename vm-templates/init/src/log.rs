//! Log files: one a process, on the host, out of the VM's sight.
//!
//! They are opened before the VM's root exists. The VM's processes hold them for appending, so a log that has grown
//! too long is copied to `<name>.log.1` and cut, never replaced.

use anyhow::Context;
use edgeplex_recipes::boot::BootSpec;
use nix::libc::O_NOFOLLOW;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// One process's log.
#[derive(Debug)]
pub(crate) struct Log {
    current: File,
    previous: File,
}

pub(crate) fn open_all(spec: &BootSpec) -> anyhow::Result<Vec<Log>> {
    spec.processes.iter().map(|p| Log::open(&spec.log_dir, &p.name)).collect()
}

impl Log {
    pub(crate) fn open(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let open = |append: bool, name: String| {
            let path = dir.join(name);
            let mut how = OpenOptions::new();
            how.read(true).create(true).mode(0o640).custom_flags(O_NOFOLLOW);
            if append {
                how.append(true)
            } else {
                how.write(true).truncate(false)
            };
            how.open(&path).with_context(|| path.display().to_string())
        };
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        Ok(Self { current: open(true, format!("{name}.log"))?, previous: open(false, format!("{name}.log.1"))? })
    }

    /// Standard output and standard error for one process.
    pub(crate) fn outputs(&self) -> io::Result<(File, File)> {
        Ok((self.current.try_clone()?, self.current.try_clone()?))
    }

    /// Moves the contents aside once they are longer than `max` bytes. What is written meanwhile may be lost.
    pub(crate) fn rotate(&mut self, max: u64) -> io::Result<()> {
        if self.current.metadata()?.len() <= max {
            return Ok(());
        }
        self.previous.set_len(0)?;
        self.previous.seek(SeekFrom::Start(0))?;
        self.current.seek(SeekFrom::Start(0))?;
        // Bounded even if the process writes faster than this copies.
        io::copy(&mut io::Read::take(&self.current, max.saturating_mul(2)), &mut self.previous)?;
        self.current.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_long_log_is_moved_aside_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let read = |n: &str| fs::read_to_string(dir.path().join(n)).unwrap();
        let mut log = Log::open(dir.path(), "p").unwrap();
        let (mut out, _) = log.outputs().unwrap();
        out.write_all(b"short").unwrap();
        log.rotate(10).unwrap();
        assert_eq!(read("p.log"), "short");
        out.write_all(b" and longer").unwrap();
        log.rotate(10).unwrap();
        assert_eq!((read("p.log").as_str(), read("p.log.1").as_str()), ("", "short and longer"));
        out.write_all(b"next").unwrap();
        assert_eq!(read("p.log"), "next");
    }

    #[test]
    fn a_log_that_is_a_symlink_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("p.log")).unwrap();
        assert!(Log::open(dir.path(), "p").is_err());
    }
}
