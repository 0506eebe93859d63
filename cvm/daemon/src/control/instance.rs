//! Which instance this is: orders to it, and what it tells of itself.

use super::{Control, Exit};
use crate::{core_io::CoreIo, instance::Values};
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::{InstanceOrder, InstanceState, InstanceStatus, Promoted, STALE_MS},
};
use edgeplex_transport::journal::{Followed, Follower, FollowerView, Journal, JournalStatus, RoleFile};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// Who ordered a fence waits no longer for it.
const FENCED_WITHIN: Duration = Duration::from_millis(1500);
/// A fence whose end would harm is looked at again after that.
const STILL: Duration = Duration::from_secs(10);

/// Where changes go, or come from.
#[derive(Debug)]
pub(super) enum Link {
    Journal(Journal),
    Leader(Follower, FollowerView),
}

impl Link {
    pub(super) fn status(&self) -> JournalStatus {
        match self {
            Self::Journal(journal) => journal.status(),
            Self::Leader(_, view) => view.status(),
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        match self {
            Self::Journal(journal) => journal.changed(),
            Self::Leader(_, view) => view.changed(),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    Leader(Followed),
    /// The status of the journal has changed.
    News,
    /// A fence is over.
    LeaseOver,
}

#[derive(Debug)]
pub(super) struct Standing {
    pub(super) instance: Instance,
    pub(super) role: RoleFile,
    pub(super) link: Link,
    news: watch::Receiver<u64>,
    pub(super) values: Values,
    /// Since when, and until when, everything stands still.
    pub(super) fenced: Option<Instant>,
    /// Records were replayed: this process cannot begin anew.
    pub(super) replayed: bool,
    /// Everything that the leader had committed was here once; which says nothing of now.
    caught_up: bool,
    pub(super) promoted: Option<Promoted>,
    pub(super) problem: Option<String>,
    told: watch::Sender<InstanceStatus>,
}

impl Standing {
    pub(super) fn new(
        instance: Instance,
        role: RoleFile,
        link: Link,
        values: Values,
        fenced: Option<Instant>,
    ) -> (Self, watch::Receiver<InstanceStatus>) {
        let empty = InstanceStatus {
            generation: instance.generation,
            state: InstanceState::Standby,
            // Nobody has seen one of this process.
            revision: super::first_epoch().0,
            sessions: 0,
            end: 0,
            committed: 0,
            in_sync: false,
            leader_lost_ms: None,
            forwards: false,
            promoted: None,
            past: vec![],
            problems: vec![],
        };
        let (told, out) = watch::channel(empty);
        let news = link.changed();
        let promoted = None;
        let unkept = matches!(&link, Link::Journal(journal) if !journal.keeps() && role.is_kept());
        let problem = unkept.then(|| "no journal: sessions will not outlive this process".to_owned());
        (Self { instance, role, link, news, values, fenced, replayed: false, caught_up: false, promoted, problem, told }, out)
    }

    pub(super) fn is_standby(&self) -> bool {
        matches!(self.link, Link::Leader(..))
    }

    /// Since when the leader may have gone on without this standby; `None`: it cannot have.
    fn stale(&self) -> Option<Duration> {
        let status = self.link.status();
        let lost = status.leader_lost_ms.unwrap_or(0);
        (!status.in_sync || !self.caught_up || lost > STALE_MS).then(|| Duration::from_millis(lost))
    }

    pub(super) fn set_link(&mut self, link: Link) {
        self.news = link.changed();
        self.link = link;
    }

    /// The journal, if it is ours to write.
    pub(super) fn journal(&self) -> Option<&Journal> {
        match &self.link {
            Link::Journal(journal) => Some(journal),
            Link::Leader(..) => None,
        }
    }

    /// What comes next. Cancel-safe.
    pub(super) async fn event(&mut self) -> Event {
        let fenced = self.fenced;
        let lease = async {
            match fenced {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let leader = async {
            match &mut self.link {
                Link::Leader(follower, _) => follower.next().await,
                Link::Journal(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            followed = leader => Event::Leader(followed),
            Ok(()) = self.news.changed() => Event::News,
            () = lease => Event::LeaseOver,
        }
    }

    /// Sets generation and role for this process and those after it.
    pub(super) fn become_instance(&mut self, instance: Instance, cold: bool) {
        self.instance = instance;
        let saved = self.role.save(instance, cold);
        self.kept(saved);
    }

    /// Stands still until then, also if the process is started again; `None`: no longer.
    fn set_fence(&mut self, until: Option<Instant>) {
        self.fenced = until;
        let saved = self.role.fence(self.instance, until);
        self.kept(saved);
    }

    fn kept(&mut self, saved: std::io::Result<()>) {
        if let Err(error) = saved {
            error!(%error, "not written down which instance this is");
            self.problem = Some(format!("role file: {error}"));
        }
    }

    /// What there is to tell; with another revision if it is new.
    pub(super) fn status(&self, speaks: bool, known: bool) -> InstanceStatus {
        let journal = self.link.status();
        let state = match (self.is_standby() || !speaks, self.fenced) {
            (_, Some(_)) => InstanceState::Fenced,
            (true, None) => InstanceState::Standby,
            (false, None) => InstanceState::Active,
        };
        let before = self.told.borrow().revision;
        let now = InstanceStatus {
            generation: self.instance.generation,
            state,
            revision: before,
            sessions: journal.sessions,
            end: journal.end,
            committed: journal.committed,
            in_sync: journal.in_sync,
            leader_lost_ms: journal.leader_lost_ms,
            forwards: if self.is_standby() { self.caught_up } else { known },
            promoted: self.promoted,
            past: vec![],
            problems: journal.problems.into_iter().chain(self.problem.clone()).collect(),
        };
        // That the leader is lost is news; for how long is not.
        let news = |s: &InstanceStatus| InstanceStatus { end: 0, committed: 0, leader_lost_ms: s.leader_lost_ms.map(|_| 0), ..s.clone() };
        let revision = if news(&now) == news(&self.told.borrow()) { before } else { before + 1 };
        InstanceStatus { revision, ..now }
    }
}

impl<I: CoreIo> Control<I> {
    /// Tells what is new of this instance.
    pub(super) fn tell_instance(&self) -> InstanceStatus {
        let now = self.standing.status(self.speaks, self.core.is_known());
        self.standing.told.send_if_modified(|told| {
            let news = told.revision != now.revision;
            told.clone_from(&now);
            news
        });
        now
    }

    pub(super) async fn order(&mut self, order: InstanceOrder) -> Result<InstanceStatus, String> {
        match order {
            InstanceOrder::Look | InstanceOrder::Watch { .. } => {}
            InstanceOrder::Fence { .. } | InstanceOrder::Resume if !self.is_active() => return Err("this instance does not speak".into()),
            InstanceOrder::Fence { lease_ms } => self.fence(Duration::from_millis(lease_ms.into())).await?,
            InstanceOrder::Resume => self.resume().await.map_err(|e| format!("{e:#}"))?,
            InstanceOrder::Promote { generation } => self.promote(generation).await.map_err(|e| format!("{e:#}"))?,
        }
        Ok(self.tell_instance())
    }

    /// It speaks, or would if it were not fenced.
    fn is_active(&self) -> bool {
        self.speaks || self.standing.fenced.is_some()
    }

    async fn fence(&mut self, lease: Duration) -> Result<(), String> {
        let began = Instant::now();
        if self.standing.fenced.is_none() {
            info!(?lease, "fenced: a successor may take over");
            let sessions = futures::future::join(self.reflectors.fence(), self.core.fence());
            if self.meanwhile(tokio::time::timeout(FENCED_WITHIN, sessions)).await.is_err() {
                self.core.unfence();
                self.reflectors.unfence();
                return Err("sessions do not stand still: is FastForward away?".into());
            }
            // PVMs look for the successor, which also programs the label-switching router.
            self.relay.unbind();
            self.vpn.disconnect(Instant::now());
            self.core.set_forwarding(&self.config, false);
        }
        self.standing.set_fence(Some(began + lease));
        if let Some(journal) = self.standing.journal().cloned() {
            let committed = tokio::time::timeout(FENCED_WITHIN, journal.committed_all()).await;
            return committed.map_err(|_| "the standby does not take what there is".into());
        }
        Ok(())
    }

    pub(super) async fn standing_event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Leader(followed) => self.follow(followed),
            Event::News => drop(self.tell_instance()),
            Event::LeaseOver => self.lease_over().await?,
        }
        Ok(())
    }

    /// Nobody has taken over: it goes on.
    async fn resume(&mut self) -> anyhow::Result<()> {
        if self.standing.fenced.is_none() {
            return Ok(());
        }
        info!("no longer fenced");
        self.standing.set_fence(None);
        if !self.speaks {
            // It was a past process that was fenced.
            let journal = self.standing.journal().cloned().unwrap_or_else(Journal::none);
            return self.take_over(journal).await;
        }
        self.core.unfence();
        self.reflectors.unfence();
        self.core.set_forwarding(&self.config, true);
        self.relay.bind(&self.config)
    }

    /// The lease of a fence is over without a word.
    async fn lease_over(&mut self) -> anyhow::Result<()> {
        if self.relay.is_taken(&self.config) {
            warn!("the fence is over, but another instance serves the PVMs: this one stays still");
            self.standing.problem = Some("another instance serves the PVMs".into());
            self.standing.set_fence(Some(Instant::now() + STILL));
            return Ok(());
        }
        self.resume().await
    }

    async fn promote(&mut self, generation: u64) -> anyhow::Result<()> {
        let own = self.standing.instance;
        let instance = Instance { generation, role: InstanceRole::Active };
        if instance == own && self.is_active() {
            return self.resume().await;
        }
        anyhow::ensure!(generation > own.generation, "generation {generation}: this instance has {} already", own.generation);
        if self.is_active() {
            self.standing.become_instance(instance, false);
            return self.resume().await;
        }
        if let Some(ago) = self.standing.stale() {
            warn!(?ago, "the leader may have gone on without this standby: neighbours are asked to wait instead");
            return self.begin_cold(instance, ago);
        }
        self.standing.become_instance(instance, false);
        self.succeed().await
    }

    /// Another process begins without the sessions, with labels and all else that outlives them.
    pub(super) fn begin_cold(&mut self, instance: Instance, ago: Duration) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut labels = crate::instance::empty_labels(now, super::wall_clock(), &self.config);
        if self.standing.values.labels(now, &mut labels) {
            self.labels_file.save(&labels)?;
        }
        self.core.store(now, self.standing.values.bindings());
        self.alive.0.was(ago);
        let lost = self.standing.link.status().sessions;
        self.standing.promoted = Some(Promoted { sessions: 0, lost, took_us: 0 });
        self.standing.become_instance(instance, true);
        self.exit = Some(Exit::Restart);
        Ok(())
    }

    /// What the leader says, to one that follows.
    fn follow(&mut self, followed: Followed) {
        match followed {
            Followed::Record(record) => self.replay(&record),
            Followed::CaughtUp => {
                info!("all that the leader knows is here");
                self.standing.caught_up = true;
            }
            Followed::LeaderLost => warn!("the leader is lost"),
            Followed::Reset if self.standing.replayed => {
                info!("the leader's journal begins anew, and so does this process");
                self.exit = Some(Exit::Restart);
            }
            Followed::Reset => {}
        }
    }
}
