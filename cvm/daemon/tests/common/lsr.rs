//! As much of a label-switching router as cvmd sees: its control socket.

use super::LIMIT;
use edgeplex_ff_fib_api::{FibOp, Reply, Request, Status, SwitchTarget, Tunnel, VERSION, encode_reply};
use edgeplex_types::{Epoch, Label, TunnelId, wire::Deframer};
use std::{collections::BTreeMap, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

pub(crate) struct Lsr {
    requests: mpsc::UnboundedReceiver<Request>,
    pub(crate) tunnels: BTreeMap<TunnelId, Tunnel>,
    pub(crate) labels: BTreeMap<Label, SwitchTarget>,
    pub(crate) begun: u32,
    pub(crate) ended: u32,
}

impl Lsr {
    pub(crate) fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (out, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, out.clone()));
            }
        });
        Self { requests, tunnels: BTreeMap::new(), labels: BTreeMap::new(), begun: 0, ended: 0 }
    }

    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let request = timeout(LIMIT, self.requests.recv()).await.unwrap_or_else(|_| panic!("in time: {what}")).unwrap();
            self.take(request);
        }
    }

    /// Takes what has come, without waiting.
    pub(crate) fn look(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.take(request);
        }
    }

    /// What it was asked next, if that is here already.
    pub(crate) fn next(&mut self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Begin { .. } => self.begun += 1,
            Request::End { .. } => self.ended += 1,
            Request::Program { ops, .. } => ops.into_iter().for_each(|op| match op {
                FibOp::Tunnel(t) => drop(self.tunnels.insert(t.id, t)),
                FibOp::TunnelGone { id } => drop(self.tunnels.remove(&id)),
                FibOp::Switch { label, target } => drop(self.labels.insert(label, target)),
                FibOp::SwitchGone { label } => drop(self.labels.remove(&label)),
                _ => {}
            }),
            _ => {}
        }
    }

    /// Port and labels of the legs behind a label.
    pub(crate) fn behind(&self, label: u32) -> Vec<(u8, Vec<u32>)> {
        let Some(tunnel) = self.tunnels.get(&TunnelId(label)) else { return vec![] };
        tunnel.legs.iter().map(|l| (l.port, l.transport.iter().map(|l| l.get()).collect())).collect()
    }
}

async fn serve(mut stream: UnixStream, out: mpsc::UnboundedSender<Request>) {
    let (mut frames, mut buffer) = (Deframer::default(), vec![0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        frames.push(&buffer[..n]);
        while let Some(request) = frames.next::<Request>(VERSION).unwrap() {
            let status = Status { uptime_ms: 0, epoch: Some(Epoch(1)), routes: 0, tunnels: 0, fib_bytes: 0, labels: 0 };
            let reply = if request == Request::Status { Reply::Status(status) } else { Reply::Done };
            // Whoever looks at it may be gone.
            let _ = out.send(request);
            stream.write_all(&encode_reply(&reply).unwrap()).await.unwrap();
        }
    }
}
