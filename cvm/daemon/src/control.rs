//! The task that owns the VPN and the core: events come in from sockets, what is to be done goes out to them.

mod answers;
mod bgp;
mod core;
mod fabric;
mod lsp;
mod relay;
mod settle;

use self::{bgp::Reflectors, core::CoreSide, fabric::Publisher, relay::Relay};
use crate::{
    config::{load, vpn_config},
    core_io::CoreIo,
    management::{Management, Question},
    show,
    state::{Alive, BindingsFile, LabelsFile},
};
use anyhow::Context;
use edgeplex_cvm_vpn::{Action, LabelSpace, Start, Vpn};
use edgeplex_mgmt::{SOCKET, config::CvmConfig};
use edgeplex_transport::{mgmt::MgmtServer, relay::Peer};
use edgeplex_types::Epoch;
use futures::FutureExt;
use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;
use tracing::{error, info};

/// Steps of queued work, and messages sent, between two looks at what has come in.
const SLICE: usize = 256;
const TICK: Duration = Duration::from_millis(100);

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
    /// How long a core without news is one that has converged, and when it counts as converged in any case.
    pub settle_quiet: Duration,
    pub settle_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            bgp_listen_port: 179,
            bgp_port: 179,
            release_first: Duration::from_secs(3),
            release_restart: Duration::from_secs(10),
            fabric_wait: Duration::from_secs(3),
            settle_quiet: Duration::from_secs(1),
            settle_limit: Duration::from_secs(30),
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

pub struct Control<I> {
    config: CvmConfig,
    paths: Paths,
    timing: Timing,
    started: Instant,
    restarting: bool,
    vpn: Vpn<Peer>,
    core: CoreSide<I>,
    relay: Relay,
    reflectors: Reflectors,
    labels_file: LabelsFile,
    /// Whether the last attempt to write it succeeded.
    labels_stored: bool,
    alive: (Alive, Instant),
    questions: mpsc::Receiver<Question>,
    fabric: Publisher,
    exit: Option<Exit>,
    _management: MgmtServer,
}

impl<I> std::fmt::Debug for Control<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("config", &self.config).field("vpn", &self.vpn).finish_non_exhaustive()
    }
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

impl<I: CoreIo> Control<I> {
    /// Opens the sockets.
    pub async fn start(config: CvmConfig, paths: Paths, timing: Timing, io: I) -> anyhow::Result<Self> {
        let now = Instant::now();
        let labels_file = LabelsFile::new(&paths.state);
        let mut labels = LabelSpace::new(config.labels, Duration::from_secs(config.label_quarantine_s.into()));
        labels.set_clock(now, wall_clock());
        let bindings = BindingsFile::new(&paths.state);
        let restarting = labels_file.load(now, &mut labels) || !bindings.load().is_empty();
        let vpn = Vpn::new(now, Start { epoch: first_epoch(), restarting }, vpn_config(&config), labels);
        let core = CoreSide::start(now, io, &config, bindings, timing, restarting);
        let relay = Relay::bind(&config)?;
        let reflectors = Reflectors::start(&config, timing, restarting);
        let (questions_in, questions) = mpsc::channel(64);
        let (fabric, fabric_out) = Publisher::new(now, first_epoch().0, timing.fabric_wait);
        let handler = Management { control: questions_in, fabric: fabric_out };
        let management = MgmtServer::start(&paths.run.join(SOCKET), handler)?;
        info!(name = %config.name, restarting, attachments = config.attachments.len(), "cvmd is up");
        let mut control = Self {
            alive: (Alive::new(&paths.state), now),
            config,
            paths,
            timing,
            started: now,
            restarting,
            vpn,
            core,
            relay,
            reflectors,
            labels_file,
            labels_stored: true,
            questions,
            fabric,
            exit: None,
            _management: management,
        };
        // What the kernel already knew is there before anybody asks.
        while let Some(event) = control.core.event().now_or_never() {
            control.core_event(event);
        }
        control.set_reflectors();
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
                event = self.core.event() => self.core_event(event),
                message = self.relay.message() => {
                    let (peer, attachment, message) = message?;
                    self.vpn.message(Instant::now(), peer, &attachment, message);
                }
                event = self.reflectors.event() => {
                    let event = event.context("the BGP speaker ended")?;
                    self.reflectors.handle(Instant::now(), event, &mut self.vpn);
                }
                Some(question) = self.questions.recv() => self.question(question).await,
                _ = tick.tick() => self.tick(),
                () = std::future::ready(()), if more => tokio::task::yield_now().await,
            }
        };
        // Others keep our routes and labels, and our PVMs and the label-switching router keep forwarding.
        for (key, parameters) in self.reflectors.without_bfd() {
            self.core.bfd_session(key, Reflectors::CLIENT, parameters);
        }
        tokio::join!(self.reflectors.shutdown(), self.core.shutdown());
        Ok(exit)
    }

    fn core_event(&mut self, event: core::Event) {
        if let Some(key) = self.core.handle(Instant::now(), event) {
            self.reflectors.lost(&key);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.alive.1 {
            self.alive.0.now();
            self.alive.1 = now + Alive::PACE;
        }
        self.vpn.set_clock(now, wall_clock());
        self.vpn.tick(now);
        self.core.tick(now);
        if self.core.core().is_settled() {
            self.reflectors.core_converged(&mut self.vpn);
        }
        // Routes to the reflectors wait until they are complete, so that End-of-RIB takes nothing back that a PVM is about to
        // tell again.
        let wait = if self.restarting { self.timing.release_restart } else { self.timing.release_first };
        if self.vpn.synced() || self.started.elapsed() >= wait {
            self.reflectors.release();
        }
    }

    /// A slice of what is to be done; true if there is more.
    fn work(&mut self) -> anyhow::Result<bool> {
        let now = Instant::now();
        // What moves tunnels moves customers' packets: first.
        if self.core.work(now, &mut self.vpn) {
            self.fabric.touch();
        }
        self.vpn.work(SLICE);
        while let Some(action) = self.vpn.next_action() {
            self.act(now, action);
        }
        let unsent = self.relay.send(now, &mut self.vpn, SLICE)?;
        let core = self.core.core();
        self.fabric.publish(now, core.is_settled(), core.is_resolved(), || (show::fabric_labels(&self.vpn), show::fabric_neighbors(core)));
        Ok(unsent || self.vpn.has_more())
    }

    fn act(&mut self, now: Instant, action: Action) {
        match action {
            Action::Advertise(nlri, attributes) => self.reflectors.advertise(nlri, &attributes),
            Action::Withdraw(key) => self.reflectors.withdraw(key),
            Action::Endpoints => self.core.want(self.vpn.wanted_endpoints()),
            Action::LabelsChanged => self.store_labels(),
            Action::FabricChanged => self.fabric.touch(),
            Action::Refused(attachment, why) => self.relay.log_refusal(now, attachment, &why),
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

    fn set_reflectors(&mut self) {
        for (key, parameters) in self.reflectors.configure(&self.config.route_reflectors, &self.vpn) {
            self.core.bfd_session(key, Reflectors::CLIENT, parameters);
        }
    }

    /// Moves to what the configuration file says now. What is equal in both is not touched.
    async fn reload(&mut self) -> anyhow::Result<()> {
        let new = load(&self.paths.config)?;
        let old = &self.config;
        if (new.asn, new.loopback, new.role, &new.relay, &new.name) != (old.asn, old.loopback, old.role, &old.relay, &old.name) {
            self.exit = Some(Exit::Restart);
            return Ok(());
        }
        // Labels in use keep their meaning, whatever the ranges say now.
        if let Some(ldp) = &new.ldp
            && let Some((label, owner, ..)) = self.vpn.labels().iter().find(|(label, ..)| ldp.labels.contains(*label))
        {
            anyhow::bail!("ldp.labels {}-{}: label {label} is in use by {owner}", ldp.labels.first(), ldp.labels.last());
        }
        self.core.configure(&new).await?;
        // Rights before all else: a removed attachment is silent from here on.
        self.relay.configure(&new)?;
        self.vpn.configure(Instant::now(), vpn_config(&new));
        self.config = new;
        self.set_reflectors();
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
