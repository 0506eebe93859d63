//! The platform's part: joins the leader's socket with the standby's, and can be cut or made to stall.

use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

pub(crate) struct Pump {
    tasks: [JoinHandle<()>; 2],
    pub(crate) to_follower: Arc<watch::Sender<bool>>,
    pub(crate) to_leader: Arc<watch::Sender<bool>>,
}

impl Pump {
    pub(crate) async fn join(leader: &Path, standby: &Path) -> Self {
        let (leader_read, leader_write) = dial(leader).await.into_split();
        let (standby_read, standby_write) = dial(standby).await.into_split();
        let (to_follower, to_leader) = (Arc::new(watch::Sender::new(true)), Arc::new(watch::Sender::new(true)));
        let down = tokio::spawn(carry(leader_read, standby_write, to_follower.subscribe()));
        let up = tokio::spawn(carry(standby_read, leader_write, to_leader.subscribe()));
        Self { tasks: [down, up], to_follower, to_leader }
    }

    /// Both ends see the connection end.
    pub(crate) fn cut(self) {
        drop(self);
    }

    /// Both ways, or none of them, without a word to the ends.
    pub(crate) fn run(&self, runs: bool) {
        self.to_follower.send_replace(runs);
        self.to_leader.send_replace(runs);
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn dial(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut runs: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        if runs.wait_for(|runs| *runs).await.is_err() {
            return;
        }
        let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
        if runs.wait_for(|runs| *runs).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
