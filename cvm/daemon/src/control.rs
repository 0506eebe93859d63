//! The task that owns the VPN: events come in from sockets, what is to be done goes out to them.

use crate::{
    config::{load, relay_keys, vpn_config},
    labels_file::LabelsFile,
    management::{Management, Question, to_answer},
    network::{NeighborEvent, Network},
    show,
};
use anyhow::Context;
use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::Family;
use edgeplex_cvm_vpn::{Action, LabelSpace, Start, Vpn};
use edgeplex_mgmt::{
    Answer, SOCKET,
    config::CvmConfig,
    show::{CvmQuery, Fabric, Reloaded},
};
use edgeplex_transport::{
    bgp::{Event, Speaker, SpeakerConfig},
    mgmt::MgmtServer,
    relay::{Delivery, Peer, RelayServer},
};
use edgeplex_types::{AttachmentId, Epoch};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

/// Steps of queued work, and messages sent, between two looks at what has come in.
const SLICE: usize = 256;
const TICK: Duration = Duration::from_millis(100);
const LOG_PACE: Duration = Duration::from_secs(1);
/// BGP hold time towards route reflectors, seconds.
const HOLD_TIME: u16 = 30;
/// How long a route reflector keeps our routes while we are away, seconds (RFC 4724).
const RESTART_TIME: u16 = 120;

/// Where files are.
#[derive(Debug, Clone)]
pub struct Paths {
    pub config: PathBuf,
    pub run: PathBuf,
    /// What outlives the making of the VM.
    pub state: PathBuf,
}

/// Ports and pauses that a test changes.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Where to accept BGP connections; 0 means nowhere.
    pub bgp_listen_port: u16,
    /// Port of the route reflectors.
    pub bgp_port: u16,
    /// How long routes to the reflectors wait for the PVMs' snapshots at a first start, and after a restart.
    pub release_first: Duration,
    pub release_restart: Duration,
    /// How long the switch is told nothing while neighbours are being resolved.
    pub fabric_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            bgp_listen_port: 179,
            bgp_port: 179,
            release_first: Duration::from_secs(3),
            release_restart: Duration::from_secs(10),
            fabric_wait: Duration::from_secs(3),
        }
    }
}

/// Why [`Control::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Stopped,
    /// The identity of the process changed: start it again.
    Restart,
}

#[derive(Debug)]
pub struct Control {
    config: CvmConfig,
    paths: Paths,
    timing: Timing,
    started: Instant,
    restarting: bool,
    vpn: Vpn<Peer>,
    labels_file: LabelsFile,
    /// Whether the last attempt to write it succeeded.
    labels_stored: bool,
    relay: RelayServer,
    speaker: Speaker,
    bgp: mpsc::Receiver<Event>,
    network: Option<Network>,
    neighbors: mpsc::Receiver<NeighborEvent>,
    questions: mpsc::Receiver<Question>,
    peers: BTreeMap<IpAddr, PeerConfig>,
    released: bool,
    fabric: watch::Sender<Option<Arc<Fabric>>>,
    fabric_dirty: bool,
    exit: Option<Exit>,
    /// When a refusal of an attachment was last logged, and how many were not since.
    refusals: BTreeMap<AttachmentId, (Option<Instant>, u64)>,
    _management: MgmtServer,
}

/// A number that no other process started from, nor comes to by counting: the clock may have been set back since.
fn first_epoch() -> Epoch {
    // Seeded by the operating system. The highest bit is left for counting.
    Epoch(RandomState::new().hash_one(std::process::id()) >> 1)
}

/// Since 1970.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Control {
    /// Opens the sockets. Without a network the namespace is left as it is (and nobody resolves neighbours but `neighbors`).
    pub async fn start(
        config: CvmConfig,
        paths: Paths,
        timing: Timing,
        network: Option<Network>,
        mut neighbors: mpsc::Receiver<NeighborEvent>,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        let labels_file = LabelsFile::new(&paths.state);
        let mut labels = LabelSpace::new(config.labels, Duration::from_secs(config.label_quarantine_s.into()));
        labels.set_clock(now, wall_clock());
        let restarting = labels_file.load(now, &mut labels);
        let mut vpn = Vpn::new(now, Start { epoch: first_epoch(), restarting }, vpn_config(&config), labels);
        // What the kernel already knew is there before anybody asks.
        while let Ok(event) = neighbors.try_recv() {
            vpn.neighbor(event.neighbor, event.mac);
        }

        let relay = RelayServer::bind(&config.relay)?;
        relay.set_keys(relay_keys(&config)?)?;
        let listen = (timing.bgp_listen_port != 0).then(|| SocketAddr::from((config.loopback, timing.bgp_listen_port)));
        let (speaker, bgp) = Speaker::start(SpeakerConfig { local_as: config.asn, router_id: config.loopback, listen });
        let (questions_in, questions) = mpsc::channel(64);
        let (fabric, fabric_out) = watch::channel(None);
        let handler = Management { control: questions_in, fabric: fabric_out };
        let management = MgmtServer::start(&paths.run.join(SOCKET), handler)?;
        info!(name = %config.name, restarting, attachments = config.attachments.len(), "cvmd is up");
        let mut control = Self {
            config,
            paths,
            timing,
            started: now,
            restarting,
            vpn,
            labels_file,
            labels_stored: true,
            relay,
            speaker,
            bgp,
            network,
            neighbors,
            questions,
            peers: BTreeMap::new(),
            released: false,
            fabric,
            fabric_dirty: true,
            exit: None,
            refusals: BTreeMap::new(),
            _management: management,
        };
        control.set_peers();
        Ok(control)
    }

    /// Serves until `stop` or until the process has to be another one.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<Exit> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let exit = loop {
            let more = self.work()?;
            if let Some(exit) = self.exit {
                break exit;
            }
            tokio::select! {
                () = &mut stop => break Exit::Stopped,
                message = self.relay.recv() => {
                    let (peer, attachment, message) = message.context("relay")?;
                    self.vpn.message(Instant::now(), peer, &attachment, message);
                }
                event = self.bgp.recv() => self.bgp_event(event.context("the BGP speaker ended")?),
                Some(event) = self.neighbors.recv() => self.vpn.neighbor(event.neighbor, event.mac),
                Some((query, reply)) = self.questions.recv() => {
                    let answer = self.answer(query).await;
                    // The asker may have gone away.
                    let _ = reply.send(answer);
                }
                _ = tick.tick() => {
                    let now = Instant::now();
                    self.vpn.set_clock(now, wall_clock());
                    self.vpn.tick(now);
                    self.release();
                }
                () = std::future::ready(()), if more => tokio::task::yield_now().await,
            }
        };
        // Routes are kept by who learnt them, and our PVMs keep forwarding (RFC 4724).
        self.speaker.shutdown(true).await;
        Ok(exit)
    }

    /// A slice of what is to be done; true if there is more.
    fn work(&mut self) -> anyhow::Result<bool> {
        let mut more = self.vpn.work(SLICE);
        while let Some(action) = self.vpn.next_action() {
            self.act(action);
        }
        let now = Instant::now();
        let mut sent = 0;
        while let Some((peer, message)) = self.vpn.next_message() {
            if self.relay.send(&peer, &message)? == Delivery::Dropped {
                self.vpn.undeliverable(now, &peer);
            }
            sent += 1;
            if sent == SLICE {
                more = true;
                break;
            }
        }
        self.publish_fabric(now);
        Ok(more)
    }

    fn act(&mut self, action: Action) {
        let next_hop = IpAddr::V4(self.config.loopback);
        match action {
            Action::Advertise(nlri, attributes) => {
                for peer in self.peers.keys() {
                    self.speaker.advertise(*peer, nlri, attributes.clone(), next_hop);
                }
            }
            Action::Withdraw(key) => self.peers.keys().for_each(|peer| self.speaker.withdraw(*peer, key)),
            Action::LabelsChanged => self.store_labels(),
            Action::FabricChanged => self.fabric_dirty = true,
            Action::Refused(attachment, why) => self.log_refusal(attachment, &why),
            Action::LabelMissing(why) => error!(%why, "an attachment has no label"),
        }
    }

    /// A disk that is full keeps new customers waiting, and the others go on: the engine withholds what is not stored, and
    /// asks again.
    fn store_labels(&mut self) {
        let saved = self.labels_file.save(self.vpn.labels());
        match &saved {
            Err(error) if self.labels_stored => error!(error = format!("{error:#}"), "labels cannot be stored: new ones wait"),
            Ok(()) if !self.labels_stored => info!("labels are stored again"),
            _ => {}
        }
        self.labels_stored = saved.is_ok();
        self.vpn.labels_stored(Instant::now(), self.labels_stored);
    }

    /// At most a line a second for each attachment: a PVM must not fill the log.
    fn log_refusal(&mut self, attachment: AttachmentId, why: &str) {
        let now = Instant::now();
        let entry = self.refusals.entry(attachment.clone()).or_default();
        if entry.0.is_some_and(|last| now < last + LOG_PACE) {
            entry.1 += 1;
            return;
        }
        warn!(%attachment, why, unlogged = entry.1, "a PVM is refused");
        *entry = (Some(now), 0);
    }

    /// Tells the switch's controller what is new. After a start it hears nothing until neighbours had time to resolve: an
    /// empty list would make it take away what still forwards.
    fn publish_fabric(&mut self, now: Instant) {
        if self.fabric_dirty
            && let Some(network) = &self.network
        {
            network.want(self.vpn.wanted_neighbors());
        }
        let first = self.fabric.borrow().is_none();
        let settled = || now >= self.started + self.timing.fabric_wait || self.vpn.neighbors().len() == self.vpn.wanted_neighbors().len();
        if (first && settled()) || (!first && self.fabric_dirty) {
            self.fabric.send_replace(Some(Arc::new(show::fabric(&self.vpn))));
        }
        self.fabric_dirty = false;
    }

    fn bgp_event(&mut self, event: Event) {
        let now = Instant::now();
        let v4 = |address| match address {
            IpAddr::V4(a) => Some(a),
            IpAddr::V6(_) => None,
        };
        match event {
            Event::Up { peer, peer_has_gr, families, .. } => {
                info!(%peer, "route reflector is up");
                if let Some(rr) = v4(peer).filter(|_| families.contains(&Family::Vpnv4)) {
                    self.vpn.reflector_up(now, rr, peer_has_gr);
                }
            }
            Event::Down { peer, reason, graceful } => {
                warn!(%peer, reason, graceful, "route reflector is down");
                if let Some(rr) = v4(peer) {
                    self.vpn.reflector_down(now, rr, graceful);
                }
            }
            Event::Update { peer, attributes, next_hop, reach, unreach, .. } => match (v4(peer), v4(next_hop)) {
                (Some(rr), Some(next_hop)) => self.vpn.update(now, rr, &attributes, next_hop, &reach, &unreach),
                (Some(rr), None) => {
                    // An IPv6 next hop leads nowhere here.
                    let gone: Vec<_> = reach.iter().map(|n| n.key()).chain(unreach).collect();
                    self.vpn.update(now, rr, &attributes, self.config.loopback, &[], &gone);
                }
                (None, _) => {}
            },
            Event::EndOfRib { peer, family: Family::Vpnv4 } => {
                if let Some(rr) = v4(peer) {
                    self.vpn.end_of_rib(rr);
                }
            }
            Event::EndOfRib { .. } => {}
        }
    }

    /// Routes to the reflectors wait until they are complete, so that End-of-RIB takes nothing back that a PVM is about to
    /// tell again.
    fn release(&mut self) {
        let wait = if self.restarting { self.timing.release_restart } else { self.timing.release_first };
        if !self.released && (self.vpn.synced() || self.started.elapsed() >= wait) {
            self.released = true;
            self.peers.keys().for_each(|peer| self.speaker.release(*peer, Family::Vpnv4));
        }
    }

    /// Brings the speaker's neighbours to the configuration.
    fn set_peers(&mut self) {
        let peer = |n: &edgeplex_mgmt::config::CoreNeighbor| {
            let mut peer = PeerConfig::new(n.address, self.config.asn);
            peer.port = self.timing.bgp_port;
            peer.local_address = Some(self.config.loopback.into());
            peer.hold_time = HOLD_TIME;
            peer.families = vec![Family::Vpnv4];
            peer.password = n.password.clone();
            peer.graceful_restart = Some(GracefulRestart { restart_time_s: RESTART_TIME, restarting: self.restarting });
            (peer.address, peer)
        };
        let wanted: BTreeMap<IpAddr, PeerConfig> = self.config.route_reflectors.iter().map(peer).collect();
        let gone: BTreeSet<IpAddr> = self.peers.keys().filter(|p| !wanted.contains_key(p)).copied().collect();
        for peer in gone {
            self.speaker.remove_peer(peer);
        }
        for (address, peer) in &wanted {
            if self.peers.get(address) != Some(peer) {
                self.speaker.set_peer(peer.clone());
            }
            if !self.peers.contains_key(address) {
                for (nlri, attributes) in self.vpn.exports() {
                    self.speaker.advertise(*address, nlri, attributes, self.config.loopback.into());
                }
                if self.released {
                    self.speaker.release(*address, Family::Vpnv4);
                }
            }
        }
        self.peers = wanted;
    }

    async fn answer(&mut self, query: CvmQuery) -> Answer<Value> {
        match query {
            CvmQuery::Status => {
                let refusals = self.relay.refusals();
                to_answer(&show::status(&self.vpn, self.started.elapsed(), refusals.wrong_key + refusals.not_yours))
            }
            CvmQuery::Bgp => to_answer(&self.speaker.neighbors()),
            CvmQuery::Routes { attachment } => to_answer(&show::routes(&self.vpn, attachment.as_ref())),
            CvmQuery::Labels => to_answer(&show::labels(&self.vpn)),
            CvmQuery::Tunnels => to_answer(&show::tunnels(&self.vpn)),
            CvmQuery::Fabric { .. } => to_answer(&show::fabric(&self.vpn)),
            CvmQuery::Reload => match self.reload().await {
                Ok(()) => to_answer(&Reloaded {}),
                Err(error) => {
                    error!(error = format!("{error:#}"), "the new configuration is not taken");
                    Answer::Error(format!("{error:#}"))
                }
            },
        }
    }

    /// Moves to what the configuration file says now. What is equal in both is not touched.
    async fn reload(&mut self) -> anyhow::Result<()> {
        let new = load(&self.paths.config)?;
        let old = &self.config;
        if (new.asn, new.loopback, &new.relay, &new.name) != (old.asn, old.loopback, &old.relay, &old.name) {
            self.exit = Some(Exit::Restart);
            return Ok(());
        }
        if let Some(network) = &self.network {
            network.apply(&new).await?;
        }
        // First the rights: a removed attachment is silent from here on.
        self.relay.set_keys(relay_keys(&new)?)?;
        self.vpn.configure(Instant::now(), vpn_config(&new));
        self.config = new;
        self.refusals.retain(|id, _| self.config.attachments.iter().any(|a| a.id == *id));
        self.set_peers();
        info!(attachments = self.config.attachments.len(), "configuration taken");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_process_counts_into_the_epochs_of_another() {
        let mut starts: Vec<u64> = (0..100).map(|_| first_epoch().0).collect();
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] > 1 << 24), "{starts:?}");
        assert!(starts.iter().all(|s| *s < u64::MAX / 2 + 1));
    }
}
