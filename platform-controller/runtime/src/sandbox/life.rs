//! Of a VM that runs: its end, and the way to its sockets.

use super::{Sandbox, failed, proc::ProcessId, sockopt};
use crate::{RuntimeError, Stream, VmId, open_socket};
use nix::sys::signal::Signal;
use std::{io, time::Duration};
use tokio::time::timeout;

/// What the kernel may take to end a VM that was killed.
const DEATH: Duration = Duration::from_secs(5);

/// Waits until the process is dead. Not fooled by another that got its number.
async fn ended(init: ProcessId) -> io::Result<()> {
    let end = match sockopt::watch_end(init.pid) {
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(()),
        other => other?,
    };
    // Looked at after it was opened: if it lives, the descriptor is its own.
    if !init.is_alive() {
        return Ok(());
    }
    // Of a PID namespace the first process ends last.
    end.readable().await.map(drop)
}

impl Sandbox {
    pub(super) async fn exited_vm(&self, id: &VmId) -> Result<(), RuntimeError> {
        match self.state(id)? {
            Some(state) => ended(state.init).await.map_err(failed(id, "watching its init")),
            None => Ok(()),
        }
    }

    pub(super) async fn kill_vm(&self, id: &VmId) -> Result<(), RuntimeError> {
        let Some(state) = self.state(id)? else { return Ok(()) };
        // The kernel ends a PID namespace together with its PID 1, also one that is frozen.
        state.init.signal(Signal::SIGKILL).map_err(failed(id, "kill"))?;
        self.cgroups.kill(id.as_str());
        let dead = timeout(DEATH, ended(state.init)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        dead.map_err(failed(id, "its processes do not end"))
    }

    pub(super) async fn connect_to(&self, id: &VmId, socket: &str) -> Result<Stream, RuntimeError> {
        // The way there leads through the number of its init, which may be another VM's once that one has died.
        self.require(id)?;
        let stream = open_socket(&self.vm_run_dir(id), socket).await.map_err(failed(id, "socket"))?;
        self.require(id)?;
        Ok(Box::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_that_of_another_is_not_taken_for_it() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let init = ProcessId::of(child.id()).unwrap();
        let earlier = ProcessId { start_time: init.start_time - 1, ..init };
        timeout(DEATH, ended(earlier)).await.unwrap().unwrap();
        let mut end = std::pin::pin!(ended(init));
        assert!(timeout(Duration::from_millis(50), &mut end).await.is_err());
        child.kill().unwrap();
        timeout(DEATH, &mut end).await.unwrap().unwrap();
        child.wait().unwrap();
        timeout(DEATH, ended(init)).await.unwrap().unwrap();
    }
}
