//! The core side of the VM's network: addresses and routes as configured, and the kernel's neighbour table.

mod neighbors;
mod setup;

pub use neighbors::NeighborEvent;

use edgeplex_cvm_vpn::Neighbor;
use edgeplex_mgmt::config::CvmConfig;
use std::collections::BTreeSet;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// A handle to the namespace's network.
#[derive(Debug)]
pub struct Network {
    handle: rtnetlink::Handle,
    wanted: watch::Sender<BTreeSet<Neighbor>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Network {
    /// Brings the network to the configuration and starts to watch neighbours; those the kernel already knows are the
    /// first events, already waiting.
    pub async fn start(config: &CvmConfig) -> anyhow::Result<(Self, mpsc::Receiver<NeighborEvent>)> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        setup::apply(&handle, config).await?;
        let (wanted, wanted_now) = watch::channel(BTreeSet::new());
        let (monitor, events) = neighbors::start(handle.clone(), wanted_now).await?;
        Ok((Self { handle, wanted, tasks: vec![connection, monitor] }, events))
    }

    /// Moves to another configuration; what is right stays untouched.
    pub async fn apply(&self, config: &CvmConfig) -> anyhow::Result<()> {
        setup::apply(&self.handle, config).await
    }

    /// Sets which neighbours are kept resolved.
    pub fn want(&self, neighbors: BTreeSet<Neighbor>) {
        self.wanted.send_if_modified(|now| {
            let changed = *now != neighbors;
            *now = neighbors;
            changed
        });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
