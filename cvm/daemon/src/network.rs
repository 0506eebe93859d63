//! The core side of the VM's network: addresses as configured, routes as decided, and the kernel's neighbours and links.

mod monitor;
mod routes;
mod setup;

use edgeplex_mgmt::config::CvmConfig;
use edgeplex_types::{MacAddr, NextHop};
use ipnet::Ipv4Net;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// What the kernel has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A neighbour and its MAC address, or that it does not answer.
    Neighbor { hop: NextHop, mac: Option<MacAddr> },
    /// An interface is up and has a carrier, or not.
    Link { interface: Arc<str>, up: bool },
}

/// Routes for the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelRoutes {
    pub routes: BTreeMap<Ipv4Net, BTreeSet<NextHop>>,
    /// Those of ours that are beyond them go; otherwise they stay, of a past process as they may be.
    pub sweep: bool,
}

/// A handle to the namespace's network.
#[derive(Debug)]
pub struct Network {
    handle: rtnetlink::Handle,
    wanted: watch::Sender<BTreeSet<NextHop>>,
    routes: watch::Sender<KernelRoutes>,
    /// As the kernel has them.
    in_place: watch::Receiver<KernelRoutes>,
    tasks: Vec<JoinHandle<()>>,
}

impl Network {
    /// Brings the network to the configuration and starts to watch it; what the kernel already knows are the first events,
    /// already waiting.
    pub async fn start(config: &CvmConfig) -> anyhow::Result<(Self, mpsc::Receiver<NetworkEvent>)> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        setup::apply(&handle, config).await?;
        let (wanted, wanted_now) = watch::channel(BTreeSet::new());
        let (monitor, events) = monitor::start(handle.clone(), wanted_now).await?;
        let (routes, routes_now) = watch::channel(KernelRoutes::default());
        let (keeper, in_place) = routes::start(handle.clone(), config.loopback, routes_now)?;
        Ok((Self { handle, wanted, routes, in_place, tasks: vec![connection, monitor, keeper] }, events))
    }

    /// Moves to another configuration; what is right stays untouched.
    pub async fn apply(&self, config: &CvmConfig) -> anyhow::Result<()> {
        setup::apply(&self.handle, config).await
    }

    /// Sets which neighbours are kept resolved.
    pub fn want(&self, neighbors: BTreeSet<NextHop>) {
        self.wanted.send_if_modified(|now| std::mem::replace(now, neighbors.clone()) != neighbors);
    }

    /// Sets the kernel's routes.
    pub fn route(&self, routes: KernelRoutes) {
        self.routes.send_if_modified(|now| std::mem::replace(now, routes.clone()) != routes);
    }

    /// Resolves when the kernel has the routes that were set last.
    pub fn routes_in_place(&self) -> impl Future<Output = ()> + Send + 'static {
        let (wanted, mut in_place) = (self.routes.borrow().clone(), self.in_place.clone());
        async move {
            // It ends with the network.
            let _ = in_place.wait_for(|routes| *routes == wanted).await;
        }
    }

    /// Tells the kernel of neighbours that another instance knows, so that it can send to them at once.
    pub fn learn(&self, neighbors: BTreeMap<NextHop, MacAddr>) -> impl Future<Output = ()> + Send + 'static {
        setup::learn(self.handle.clone(), neighbors)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
