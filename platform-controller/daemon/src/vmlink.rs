//! Asking the daemons inside VMs, on whichever host. A VM is hostile: its answers may be huge, slow or never come.

use crate::hosts::Place;
use anyhow::{Context, bail, ensure};
use edgeplex_ff_fib_api::{Reply, Request, VERSION, encode_request};
use edgeplex_mgmt::{FIB_SOCKET, SOCKET};
use edgeplex_runtime::{RuntimeError, Stream, VmId, open_socket};
use edgeplex_types::wire::Deframer;
use serde::{Serialize, de::DeserializeOwned};
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// What an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
#[error("VM {0} does not run")]
struct NotRunning(VmId);

async fn dial(at: &Place, socket: &str) -> anyhow::Result<Stream> {
    at.runtime.connect(&at.vm, socket).await.map_err(|e| match e {
        RuntimeError::Unknown(vm) => NotRunning(vm).into(),
        e => e.into(),
    })
}

/// Whether there was nobody to listen: its VM is dead, or the socket is not there or nobody's. Of a host that cannot be reached, or
/// has troubles of its own, nothing is known.
pub fn is_refusal(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| cause.is::<NotRunning>() || cause.downcast_ref::<RuntimeError>().is_some_and(RuntimeError::is_refusal))
}

/// Asks cvmd or pvmd.
pub async fn ask<Q: Serialize + Sync, T: DeserializeOwned>(at: &Place, question: &Q, limit: Duration) -> anyhow::Result<T> {
    let exchange = async {
        let stream = dial(at, SOCKET).await?;
        let name = Path::new(at.vm.as_str()).join(SOCKET);
        edgeplex_transport::mgmt::ask_over(stream, &name, question, limit).await.context("asking the VM's daemon")
    };
    timeout(limit, exchange).await.context("the VM's daemon did not answer")?
}

/// A connection to FastForward.
#[derive(Debug)]
pub struct FibLink {
    stream: Stream,
    answers: Deframer,
}

impl FibLink {
    pub async fn open(at: &Place) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, dial(at, FIB_SOCKET)).await?.context("connecting to FastForward")?;
        Ok(Self { stream, answers: Deframer::default() })
    }

    /// Of one whose socket is in a directory of this host.
    pub async fn open_in(dir: &Path) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, open_socket(dir, FIB_SOCKET)).await?.context("connecting to FastForward")?;
        Ok(Self { stream: Box::new(stream), answers: Deframer::default() })
    }

    pub async fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        timeout(PATIENCE, self.exchange(request)).await.context("FastForward did not answer")?
    }

    /// Resolves when FastForward has closed the connection, or says what nobody asked.
    pub async fn closed(&mut self) {
        let _ = self.stream.read(&mut [0; 1]).await;
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
    use edgeplex_runtime::{FakeRuntime, Runtime, VmKind, VmSpec};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_vm_that_says_nothing_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Arc::new(FakeRuntime::new(dir.path()));
        let vm: VmId = "pvm-a".parse().unwrap();
        let spec = VmSpec {
            id: vm.clone(),
            kind: VmKind::Pvm,
            nics: vec![],
            config: vec![],
            processes: vec![],
            memory_max: None,
            shared: vec![],
            image: None,
            identity: None,
        };
        let at = Place { runtime: runtime.clone(), vm: vm.clone() };
        let asked = async || ask::<_, serde_json::Value>(&at, &PvmQuery::Status, Duration::from_millis(50)).await.unwrap_err();
        let gone = asked().await;
        assert!(format!("{gone:#}").contains("VM pvm-a does not run") && is_refusal(&gone));
        runtime.start(&spec).await.unwrap();
        let run = runtime.vm_run_dir(&vm);
        std::fs::create_dir_all(&run).unwrap();
        assert!(is_refusal(&asked().await), "there is no socket");
        let far = RuntimeError::Unreachable { host: "west".into(), what: "connection refused".into() };
        assert!(!is_refusal(&anyhow::Error::from(far).context("connecting to FastForward")), "that says nothing about the VM");
        let _listener = std::os::unix::net::UnixListener::bind(run.join(SOCKET)).unwrap();
        let silent = asked().await;
        assert!(!format!("{silent:#}").contains("does not run") && !is_refusal(&silent));
    }
}
