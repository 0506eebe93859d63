//! Asking the daemons inside VMs. A VM is hostile: its run directory may hold a symlink or a pipe instead of a socket, its
//! answers may be huge, slow or never come.

use anyhow::{Context, bail, ensure};
use edgeplex_ff_fib_api::{Reply, Request, VERSION, encode_request};
use edgeplex_mgmt::{FIB_SOCKET, SOCKET};
use edgeplex_runtime::{Runtime, VmId, VmState};
use edgeplex_types::wire::Deframer;
use nix::{
    fcntl::{OFlag, open},
    sys::stat::{Mode, SFlag, fstat},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// What an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Where the sockets of a VM are that runs. The way there leads through the process number of its init, which may be another
/// process's, in another VM, once that one has died: so it is looked at each time.
pub async fn run_dir(runtime: &dyn Runtime, vm: &str) -> anyhow::Result<PathBuf> {
    let id: VmId = vm.parse()?;
    let alive = runtime.inspect(&id).await?.is_some_and(|i| i.state == VmState::Running);
    ensure!(alive, "VM {id} does not run");
    Ok(runtime.vm_run_dir(&id))
}

/// A handle on the socket itself, and a path that leads to it and nowhere else. Also beats the 108 bytes of sun_path.
fn socket(run_dir: &Path, name: &str) -> anyhow::Result<(OwnedFd, PathBuf)> {
    let path = run_dir.join(name);
    let fd =
        open(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).with_context(|| path.display().to_string())?;
    let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
    ensure!(kind == SFlag::S_IFSOCK, "{}: is no socket", path.display());
    let through = format!("/proc/self/fd/{}", fd.as_raw_fd()).into();
    Ok((fd, through))
}

/// Asks cvmd or pvmd.
pub async fn ask<Q: Serialize + Sync, T: DeserializeOwned>(run_dir: &Path, question: &Q, limit: Duration) -> anyhow::Result<T> {
    let (_held, path) = socket(run_dir, SOCKET)?;
    edgeplex_transport::mgmt::ask(&path, question, limit).await.context("asking the VM's daemon")
}

/// A connection to FastForward.
#[derive(Debug)]
pub struct FibLink {
    stream: UnixStream,
    answers: Deframer,
}

impl FibLink {
    pub async fn open(run_dir: &Path) -> anyhow::Result<Self> {
        let (_held, path) = socket(run_dir, FIB_SOCKET)?;
        let stream = tokio::time::timeout(PATIENCE, UnixStream::connect(path)).await?.context("connecting to FastForward")?;
        Ok(Self { stream, answers: Deframer::default() })
    }

    pub async fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        tokio::time::timeout(PATIENCE, self.exchange(request)).await.context("FastForward did not answer")?
    }

    async fn exchange(&mut self, request: &Request) -> anyhow::Result<Reply> {
        self.stream.write_all(&encode_request(request)?).await?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            // The deframer refuses any message longer than wire::MAX_MESSAGE, so this holds at most one of those.
            if let Some(reply) = self.answers.next(VERSION)? {
                match reply {
                    Reply::Refused { reason } => bail!("FastForward refused: {reason}"),
                    other => return Ok(other),
                }
            }
            let n = self.stream.read(&mut buffer).await?;
            ensure!(n > 0, "FastForward closed the connection");
            self.answers.push(&buffer[..n]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_mgmt::show::PvmQuery;

    #[tokio::test]
    async fn a_symlink_in_a_vm_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, run) = (dir.path().join("secret.sock"), dir.path().join("run"));
        std::fs::create_dir(&run).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&secret).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::os::unix::fs::symlink(&secret, run.join(SOCKET)).unwrap();
        let error = ask::<_, serde_json::Value>(&run, &PvmQuery::Status, PATIENCE).await.unwrap_err();
        assert!(format!("{error:#}").contains("is no socket"), "{error:#}");
        assert!(listener.accept().is_err(), "nobody came");
    }

    #[tokio::test]
    async fn a_vm_that_says_nothing_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let asked = ask::<_, serde_json::Value>(dir.path(), &PvmQuery::Status, Duration::from_millis(50));
        assert!(asked.await.is_err());
    }
}
