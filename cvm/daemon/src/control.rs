//! The task that owns the VPN and the core: events come in from sockets, what is to be done goes out to them.

mod answers;
mod bgp;
mod core;
mod fabric;
mod instance;
mod lsp;
mod relay;
mod settle;
mod takeover;

use self::{
    bgp::Reflectors,
    core::{CoreSide, Stage},
    fabric::Publisher,
    instance::{Link, Standing},
    relay::Relay,
};
use crate::{
    config::{load, vpn_config},
    core_io::CoreIo,
    instance::{Origin, Values, empty_labels},
    management::{Management, Question},
    show,
    state::{Alive, BindingsFile, LabelsFile},
};
use anyhow::Context;
use edgeplex_cvm_vpn::{Action, Start, Vpn};
use edgeplex_journal::Record;
use edgeplex_mgmt::{SOCKET, config::CvmConfig};
use edgeplex_transport::{
    journal::{Journal, RoleFile},
    mgmt::MgmtServer,
    relay::Peer,
};
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
    /// What outlives the process: memory of the VM's. Without one neighbours notice that the process ends.
    pub journal: Option<PathBuf>,
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
    /// It is the instance that speaks; since when.
    speaks: bool,
    since: Instant,
    standing: Standing,
    vpn: Vpn<Peer>,
    core: CoreSide<I>,
    relay: Relay,
    reflectors: Reflectors,
    labels_file: LabelsFile,
    /// Whether the last attempt to write it succeeded.
    labels_stored: bool,
    /// What was taken over is not in the files yet.
    files_due: bool,
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
    /// Opens the sockets, and goes on from what there is to go on from: who follows a leader does not speak when this returns.
    pub async fn start(config: CvmConfig, paths: Paths, timing: Timing, io: I, origin: Origin) -> anyhow::Result<Self> {
        let now = Instant::now();
        let labels_file = LabelsFile::new(&paths.state);
        let mut labels = empty_labels(now, wall_clock(), &config);
        let bindings = BindingsFile::new(&paths.state);
        let mode = origin.mode();
        let first = matches!(origin, Origin::Nothing(_));
        let restarting = labels_file.load(now, &mut labels) || !bindings.load().is_empty() || !first;
        let role = paths.journal.as_deref().map_or_else(RoleFile::nowhere, RoleFile::new);
        let (link, past, fenced) = match origin {
            Origin::Nothing(journal) => (Link::Journal(journal), vec![], None),
            Origin::Past(journal, records, fenced) => (Link::Journal(journal), records, fenced),
            Origin::Leader(follower, records) => {
                let view = follower.view();
                (Link::Leader(follower, view), records, None)
            }
        };
        let vpn = Vpn::new(now, Start { epoch: first_epoch(), restarting }, vpn_config(&config), labels);
        let stage = if first { Stage::Speaking } else { Stage::Following };
        let core = CoreSide::start(now, io, &config, bindings, timing, restarting, stage);
        let reflectors = Reflectors::start(&config, timing, restarting, mode);
        let (standing, instance_out) = Standing::new(role.instance(config.instance), role, link, Values::default(), fenced);
        let (questions_in, questions) = mpsc::channel(64);
        let (fabric, fabric_out) = Publisher::new(now, first_epoch().0, timing.fabric_wait);
        let handler = Management { control: questions_in, fabric: fabric_out, instance: instance_out };
        let management = MgmtServer::start(&paths.run.join(SOCKET), handler)?;
        let mut control = Self {
            alive: (Alive::new(&paths.state), now),
            config,
            paths,
            timing,
            started: now,
            restarting,
            speaks: false,
            since: now,
            standing,
            vpn,
            core,
            relay: Relay::unbound(),
            reflectors,
            labels_file,
            labels_stored: true,
            files_due: false,
            questions,
            fabric,
            exit: None,
            _management: management,
        };
        control.begin(first, past).await?;
        info!(name = %control.config.name, restarting, speaks = control.speaks, attachments = control.config.attachments.len(), "cvmd is up");
        Ok(control)
    }

    /// `first`: there is nothing to go on from; otherwise there is `past`.
    async fn begin(&mut self, first: bool, past: Vec<Record>) -> anyhow::Result<()> {
        let journal = self.standing.journal().cloned();
        if let Some(journal) = journal.as_ref().filter(|_| first) {
            self.keep(journal).known();
            self.relay.bind(&self.config)?;
            self.begin_to_speak();
            self.serve(journal)?;
        }
        // What the kernel already knew is there before anybody asks.
        while let Some(event) = self.core.event().now_or_never() {
            self.core_event(event);
        }
        self.set_reflectors();
        past.iter().for_each(|record| self.replay(record));
        match (journal, self.standing.fenced) {
            (Some(journal), Some(until)) => {
                info!(left = ?until.saturating_duration_since(Instant::now()), "fenced since before this process");
                self.serve(&journal)
            }
            (Some(journal), None) if !first => self.take_over(journal).await,
            _ => Ok(()),
        }
    }

    /// This is the instance that speaks, from now on.
    fn begin_to_speak(&mut self) {
        self.speaks = true;
        self.since = Instant::now();
    }

    /// Serves until `stop` or until the process has to be another one.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<Exit> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let exit = loop {
            // Who is fenced does nothing but wait for a word.
            let still = self.standing.fenced.is_some();
            let more = if still { false } else { self.work()? };
            if let Some(exit) = self.exit {
                break exit;
            }
            tokio::select! {
                () = &mut stop => break Exit::Stopped,
                event = self.core.event(), if !still => self.core_event(event),
                message = self.relay.message() => {
                    let (peer, attachment, message) = message?;
                    self.vpn.message(Instant::now(), peer, &attachment, message);
                }
                event = self.reflectors.event(), if !still => {
                    let event = event.context("the BGP speaker ended")?;
                    self.reflectors.handle(Instant::now(), event, &mut self.vpn);
                }
                event = self.standing.event() => self.standing_event(event).await?,
                Some(question) = self.questions.recv() => self.question(question).await,
                _ = tick.tick() => self.tick(),
                () = std::future::ready(()), if more => tokio::task::yield_now().await,
            }
        };
        self.end(exit).await;
        Ok(exit)
    }

    /// Others keep our routes and labels, and our PVMs and the label-switching router keep forwarding.
    async fn end(&mut self, exit: Exit) {
        self.write_files();
        let keeps = self.standing.journal().is_none_or(Journal::keeps);
        // A successor goes on from the journal, or this instance never spoke: neighbours need not know.
        if exit == Exit::Stopped && keeps || !self.speaks {
            tokio::join!(self.reflectors.leave(), self.core.leave());
            return;
        }
        for (key, parameters) in self.reflectors.without_bfd() {
            self.core.bfd_session(key, Reflectors::CLIENT, parameters);
        }
        tokio::join!(self.reflectors.shutdown(), self.core.shutdown());
        if let Err(error) = self.standing.role.forget_journal() {
            error!(%error, "the journal is left behind");
        }
    }

    fn core_event(&mut self, event: core::Event) {
        self.write_down(&event);
        if let Some(key) = self.core.handle(Instant::now(), event) {
            self.reflectors.lost(&key);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.tell_instance();
        if self.speaks && now >= self.alive.1 {
            self.alive.0.now();
            self.alive.1 = now + Alive::PACE;
            if self.relay.is_orphaned(&self.config)
                && let Err(error) = self.relay.bind(&self.config)
            {
                error!(error = format!("{error:#}"), "PVMs cannot connect");
            }
        }
        if self.standing.fenced.is_some() {
            return;
        }
        self.vpn.set_clock(now, wall_clock());
        self.vpn.tick(now);
        if !self.speaks {
            return;
        }
        self.write_files();
        if self.core.tick(now) {
            self.standing.values.put_settled(true);
        }
        if self.core.core().is_settled() {
            self.reflectors.core_converged(&mut self.vpn);
        }
        // Routes to the reflectors wait until they are complete, so that End-of-RIB takes nothing back that a PVM is about to
        // tell again.
        let wait = if self.restarting { self.timing.release_restart } else { self.timing.release_first };
        if self.vpn.synced() || self.since.elapsed() >= wait {
            self.reflectors.release();
        }
    }

    /// A slice of what is to be done; true if there is more.
    fn work(&mut self) -> anyhow::Result<bool> {
        let more = self.think();
        let now = Instant::now();
        let unsent = self.relay.send(now, &mut self.vpn, SLICE)?;
        if self.speaks {
            let core = self.core.core();
            let (settled, resolved) = (core.is_settled(), core.is_resolved());
            self.fabric.publish(now, settled, resolved, || (show::fabric_labels(&self.vpn), show::fabric_neighbors(core)));
        }
        Ok(unsent || more || self.vpn.has_more())
    }

    /// A slice of what follows from the events; true if there is more.
    fn think(&mut self) -> bool {
        // What moves tunnels moves customers' packets: first.
        if self.core.work(Instant::now(), &mut self.vpn) {
            self.fabric.touch();
        }
        self.vpn.work(SLICE);
        while let Some(action) = self.vpn.next_action() {
            self.act(Instant::now(), action);
        }
        self.vpn.has_queued()
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
        if !self.speaks {
            // Nobody hears of them: the leader's are taken when this instance takes over.
            return self.vpn.labels_stored(Instant::now(), true);
        }
        let saved = self.labels_file.save(self.vpn.labels());
        match &saved {
            Err(error) if self.labels_stored => error!(error = format!("{error:#}"), "labels cannot be stored: new ones wait"),
            Ok(()) if !self.labels_stored => info!("labels are stored again"),
            _ => {}
        }
        self.labels_stored = saved.is_ok();
        if self.labels_stored {
            self.standing.values.put_labels(self.vpn.labels());
        }
        self.vpn.labels_stored(Instant::now(), self.labels_stored);
    }

    fn set_reflectors(&mut self) {
        for (key, parameters) in self.reflectors.configure(&self.config.route_reflectors, &self.vpn) {
            self.core.bfd_session(key, Reflectors::CLIENT, parameters);
        }
    }

    /// Moves to what the configuration file says now. What is equal in both is not touched.
    async fn reload(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.standing.fenced.is_none(), "this instance is fenced: what it knows is on its way to another one");
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
