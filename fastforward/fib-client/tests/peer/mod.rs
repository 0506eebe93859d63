//! FastForward as a test plays it.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use edgeplex_ff_fib_api::{Reply, Request, Status, VERSION, encode_reply};
use edgeplex_types::{Epoch, wire::Deframer};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// FastForward's end of one connection.
pub(crate) struct Peer {
    stream: UnixStream,
    frames: Deframer,
}

impl Peer {
    /// Takes the connection and tells what is held.
    pub(crate) async fn accept(listener: &UnixListener, epoch: Option<Epoch>) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut peer = Self { stream, frames: Deframer::default() };
        assert_eq!(peer.next().await, Request::Status);
        let status = Status { uptime_ms: 0, epoch, routes: 0, tunnels: 0, fib_bytes: 0, labels: 0 };
        peer.answer(Reply::Status(status)).await;
        peer
    }

    pub(crate) async fn next(&mut self) -> Request {
        let mut buffer = [0; 4096];
        loop {
            if let Some(request) = self.frames.next(VERSION).unwrap() {
                return request;
            }
            let n = self.stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the client went away");
            self.frames.push(&buffer[..n]);
        }
    }

    pub(crate) async fn answer(&mut self, reply: Reply) {
        self.stream.write_all(&encode_reply(&reply).unwrap()).await.unwrap();
    }

    pub(crate) async fn take(&mut self) -> Request {
        let request = self.next().await;
        self.answer(Reply::Done).await;
        request
    }

    /// When the client hangs up.
    pub(crate) async fn gone(&mut self) {
        assert_eq!(self.stream.read(&mut [0]).await.unwrap(), 0);
    }
}
