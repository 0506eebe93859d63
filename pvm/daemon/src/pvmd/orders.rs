//! From one instance to the next: reading what a predecessor wrote, taking its place, standing still for a successor.

use super::Pvmd;
use crate::{
    forwarder::{self, Seen},
    instance::Phase,
    mgmt::{self, Reply},
    values::Values,
};
use edgeplex_ff_fib_api::Neighbor;
use edgeplex_journal::Record;
use edgeplex_mgmt::{
    Answer,
    config::{Instance, InstanceRole},
    show::{InstanceOrder, Promoted as Report},
};
use edgeplex_transport::{Mode, Promoted, journal::Followed};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// A lease longer than that is cut. Who is fenced has perhaps been succeeded: two that speak are worse than a control plane that
/// forgets, and so a customer's sessions that end by their hold timers.
const MAX_LEASE: Duration = Duration::from_mins(10);
/// How long the work of an order may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long FastForward may take to tell or to hear of neighbours.
const FORWARDER: Duration = Duration::from_millis(250);

/// Work of an order that is done, beside the task that owns the state.
#[derive(Debug)]
pub(super) enum Done {
    /// The sessions are as they can be; events of before are on their way.
    Promoted { result: Promoted, began: Instant },
    /// A standby's RIB has all its leader had when it had told all.
    Current,
    /// They stand still; what FastForward knew last.
    Still { seen: Option<Seen>, until: Instant },
    /// All of it is with whoever must hold it, or not.
    Committed { committed: bool },
}

/// What is under way, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Work {
    tasks: tokio::task::JoinSet<Done>,
    waiting: Vec<Reply>,
    /// Orders that came meanwhile.
    next: Vec<(InstanceOrder, Reply)>,
}

impl Work {
    /// Cancel-safe.
    pub(super) async fn done(&mut self) -> anyhow::Result<Done> {
        match self.tasks.join_next().await {
            Some(done) => Ok(done?),
            None => std::future::pending().await,
        }
    }
}

impl Pvmd {
    /// FastForward and the interface are there, so that sessions can be: reads what was left, and, if this is the active instance,
    /// goes on with it.
    pub(super) fn begin(&mut self, now: Instant) {
        let ready = *self.tap_ready.borrow();
        let Some(restart) = self.restart.as_ref().filter(|_| ready) else { return };
        let silent = matches!(self.life.phase, Phase::Waiting | Phase::Following) || self.life.never_spoke();
        let mode = match self.life.journal().filter(|_| !silent) {
            None => Mode::Following,
            Some(journal) => Mode::Live(journal.clone()),
        };
        self.customers.start(&self.loaded, mode, restart.restarted(), &mut self.vrf);
        if self.life.phase == Phase::Waiting {
            self.life.phase = Phase::Following;
            for record in std::mem::take(&mut self.records) {
                self.replay(&record);
            }
            match self.life.fenced() {
                _ if self.life.instance.role == InstanceRole::Standby => {}
                Some(until) => {
                    info!(left = ?until.saturating_duration_since(now), "fenced since before this process");
                    self.life.phase = Phase::Fenced { until };
                }
                None => self.promote(now, None),
            }
        }
    }

    /// What a standby has read belonged to other sessions than those that are wanted now.
    pub(super) fn read_again(&mut self) -> anyhow::Result<()> {
        if let (Some(records), Phase::Following) = (self.life.follow_anew()?, self.life.phase) {
            self.log_changes = self.life.log_changes();
            self.on_followed(Followed::Reset);
            records.iter().for_each(|record| self.replay(record));
        }
        Ok(())
    }

    fn replay(&mut self, record: &Record) {
        self.life.values.replay(record);
        self.bfd.replay(record);
        self.customers.replay(record);
    }

    /// A standby hears of its leader.
    pub(super) fn on_followed(&mut self, followed: Followed) {
        match followed {
            Followed::Record(record) => {
                self.replay(&record);
                // The sessions' bytes, by far the most, change nothing below.
                if !matches!(record, Record::Put { .. } | Record::Delete { .. }) {
                    return;
                }
            }
            Followed::Reset => {
                info!("the leader tells its state anew");
                self.life.values = Values::default();
                self.caught_up = false;
                self.customers.start_over();
                self.bfd.start_over();
                if let Some(restart) = &mut self.restart {
                    restart.follows(false);
                }
            }
            Followed::CaughtUp => {
                let told = self.customers.told();
                self.work.tasks.spawn(async move {
                    told.await;
                    Done::Current
                });
            }
            Followed::LeaderLost => warn!("the leader is lost"),
        }
        self.seed();
    }

    /// A standby's own forwarder knows what the leader's does: neighbours, and static routes whose neighbour is up.
    fn seed(&mut self) {
        let standby = self.life.instance.role == InstanceRole::Standby;
        let known = standby.then(|| self.neighbors());
        self.seeds.send_if_modified(|seed| {
            *seed != known && {
                *seed = known;
                true
            }
        });
        let up = self.life.values.statics().clone();
        for via in self.bfd.unsettled() {
            self.vrf.bfd(via, up.contains(&via));
        }
    }

    /// What the predecessor's forwarder knew, as far as it can be true.
    fn neighbors(&self) -> Vec<Neighbor> {
        let ours = self.loaded.config.mac;
        let right = |n: &&Neighbor| self.loaded.vrf.resolves(n.address) && n.mac.is_unicast() && n.mac != ours;
        self.life.values.neighbors().iter().filter(right).copied().collect()
    }

    /// An order, now or after the one that is under way.
    pub(super) fn order(&mut self, now: Instant, order: InstanceOrder, reply: Reply) {
        if !self.work.tasks.is_empty() && !matches!(order, InstanceOrder::Look | InstanceOrder::Watch { .. }) {
            self.work.next.push((order, reply));
            return;
        }
        let refused = match order {
            InstanceOrder::Look | InstanceOrder::Watch { .. } => None,
            InstanceOrder::Fence { lease_ms } => match self.life.phase {
                Phase::Speaking | Phase::Fenced { .. } => return self.fence(now, lease_ms, reply),
                Phase::Replaced => None,
                phase => Some(format!("this instance is {phase:?}: only one that speaks can stand still")),
            },
            InstanceOrder::Resume => match self.life.phase {
                Phase::Fenced { .. } => {
                    self.resume("ordered");
                    None
                }
                // Its successor is gone before it took over.
                Phase::Replaced => {
                    self.session.insist(now);
                    self.resume("ordered");
                    None
                }
                Phase::Speaking => None,
                phase => Some(format!("this instance is {phase:?}: there is nothing to resume")),
            },
            InstanceOrder::Promote { generation } => match self.rise(now, generation) {
                Ok(true) => {
                    self.work.waiting.push(reply);
                    return;
                }
                Ok(false) => None,
                Err(refused) => Some(refused),
            },
        };
        self.answer_instance(refused, reply);
    }

    fn answer_instance(&mut self, refused: Option<String>, reply: Reply) {
        let answer = refused.map_or_else(|| mgmt::answer(&self.instance_status()), Answer::Error);
        // The asker may be gone.
        let _ = reply.send(answer);
    }

    /// Takes a higher generation; as a standby, with it the leader's place: that is under way then.
    fn rise(&mut self, now: Instant, generation: u64) -> Result<bool, String> {
        let mut instance = self.life.instance;
        if generation < instance.generation {
            return Err(format!("generation is {generation}: this instance has {}", instance.generation));
        }
        match (instance.role, self.life.phase) {
            (InstanceRole::Standby, Phase::Following) => {
                self.take_over(now, generation);
                Ok(true)
            }
            (InstanceRole::Standby, phase) => Err(format!("this standby is {phase:?}: it cannot take over yet")),
            (InstanceRole::Active, _) => {
                if generation > instance.generation {
                    instance.generation = generation;
                    self.renew(now, instance);
                }
                Ok(false)
            }
        }
    }

    /// The file tells of a higher generation of what this instance is; another role takes an order.
    pub(super) fn renumber(&mut self, now: Instant) {
        let told = self.loaded.config.instance;
        if told.role == self.life.instance.role && told.generation > self.life.instance.generation {
            self.renew(now, told);
        }
    }

    /// Takes another generation; who was replaced speaks again.
    fn renew(&mut self, now: Instant, instance: Instance) {
        self.life.set_instance(instance);
        self.session.become_instance(now, instance);
        if self.life.phase == Phase::Replaced {
            self.resume("it speaks again");
        }
    }

    fn take_over(&mut self, now: Instant, generation: u64) {
        let stale = self.life.is_stale();
        let rest = self.life.activate(generation);
        let stale = stale || rest.is_none();
        for followed in rest.into_iter().flatten() {
            self.on_followed(followed);
        }
        self.log_changes = self.life.log_changes();
        let forwards = self.forwarder.is_complete() && self.caught_up;
        if let Some(restart) = &mut self.restart {
            restart.promoted(forwards);
        }
        self.session.become_instance(now, self.life.instance);
        let mut lost = None;
        if let Some(journal) = self.life.journal().filter(|_| stale) {
            warn!("the leader may have gone on without this standby: its sessions are not taken over");
            lost = Some(self.customers.abandon(&journal.clone(), &self.life.holder));
        }
        self.promote(now, lost);
    }

    /// Takes the sessions over that were read. `abandoned`: so many were given up before.
    fn promote(&mut self, began: Instant, abandoned: Option<u32>) {
        let Some(journal) = self.life.journal().cloned() else { return };
        self.life.phase = Phase::Promoting;
        self.session.epoch_above(self.life.values.epoch());
        self.seed();
        let (holder, neighbors) = (self.life.holder.clone(), self.neighbors());
        let bgp = self.customers.promote(journal.clone(), &holder);
        let bfd = self.bfd.promote(journal);
        self.work.tasks.spawn(async move {
            if !neighbors.is_empty() && !matches!(tokio::time::timeout(FORWARDER, holder.neighbors(neighbors)).await, Ok(Ok(()))) {
                warn!("FastForward is not told of neighbours: it will look for them itself");
            }
            let (mut result, _) = tokio::join!(bgp, bfd);
            result.lost = result.lost.saturating_add(abandoned.unwrap_or(0));
            Done::Promoted { result, began }
        });
    }

    fn fence(&mut self, now: Instant, lease_ms: u32, reply: Reply) {
        let until = now + Duration::from_millis(lease_ms.into()).min(MAX_LEASE);
        self.work.waiting.push(reply);
        let still = self.life.never_spoke();
        self.life.phase = Phase::Fenced { until };
        self.life.set_fence(Some(until));
        if still {
            self.work.tasks.spawn(std::future::ready(Done::Committed { committed: true }));
            return;
        }
        let (bgp, bfd, holder) = (self.customers.fence(), self.bfd.fence(), self.life.holder.clone());
        self.work.tasks.spawn(async move {
            let seen = tokio::time::timeout(FORWARDER, forwarder::look(&holder)).await;
            let still = tokio::time::timeout(PATIENCE, async { tokio::join!(bgp, bfd) }).await;
            if still.is_err() {
                return Done::Committed { committed: false };
            }
            Done::Still { seen: seen.ok().and_then(Result::ok), until }
        });
    }

    fn resume(&mut self, why: &str) {
        info!(why, "the sessions go on");
        let past = self.life.never_spoke();
        self.life.set_fence(None);
        self.customers.unfence();
        self.bfd.unfence();
        if past {
            return self.promote(Instant::now(), None);
        }
        self.life.phase = Phase::Speaking;
    }

    /// Another instance speaks: this one is silent from now on.
    pub(super) fn replaced(&mut self) {
        warn!("another instance of a higher generation speaks for this attachment; this one is silent");
        self.life.phase = Phase::Replaced;
        // The next process asks again, and the CVM answers it the same.
        self.life.set_fence(Some(Instant::now() + MAX_LEASE));
        tokio::spawn({
            let (bgp, bfd) = (self.customers.fence(), self.bfd.fence());
            async move { tokio::join!(bgp, bfd) }
        });
    }

    pub(super) fn on_done(&mut self, now: Instant, done: Done) {
        match done {
            Done::Promoted { result, began } => self.speaks(now, result, began),
            Done::Current => {
                info!("this standby has all its leader has");
                self.work_off(now);
                self.caught_up = true;
                if let Some(restart) = &mut self.restart {
                    restart.follows(true);
                }
            }
            Done::Still { seen, until } => {
                // The last words of the journal until it goes on.
                if let Some(seen) = seen {
                    self.write_seen(seen);
                }
                self.write_values();
                if let Phase::Fenced { until: end } = &mut self.life.phase {
                    *end = until;
                }
                let (journal, holder) = (self.life.journal().cloned(), self.life.holder.clone());
                self.work.tasks.spawn(async move {
                    let all = async {
                        if let Some(journal) = journal.filter(|j| j.keeps()) {
                            journal.committed_all().await;
                            holder.fenced().await;
                        }
                    };
                    Done::Committed { committed: tokio::time::timeout(PATIENCE, all).await.is_ok() }
                });
                return;
            }
            Done::Committed { committed } => {
                let refused = (!committed).then(|| "the sessions do not come to a stand: they go on".to_owned());
                if !committed && matches!(self.life.phase, Phase::Fenced { .. }) {
                    self.resume("they did not come to a stand");
                }
                for reply in std::mem::take(&mut self.work.waiting) {
                    self.answer_instance(refused.clone(), reply);
                }
            }
        }
        for (order, reply) in std::mem::take(&mut self.work.next) {
            self.order(now, order, reply);
        }
    }

    /// The sessions were taken over, as far as they could be: from now on this instance speaks.
    fn speaks(&mut self, now: Instant, result: Promoted, began: Instant) {
        self.work_off(now);
        self.customers.succeeded();
        // Of those that were up at the predecessor's and are not here.
        for via in self.bfd.unsettled() {
            self.vrf.bfd(via, false);
        }
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let report = Report { sessions: result.sessions, lost: result.lost, took_us };
        info!(sessions = report.sessions, lost = report.lost, took_us, "this instance speaks");
        self.life.promoted = Some(report);
        self.life.phase = Phase::Speaking;
        self.life.holder.known();
        if let Some(restart) = &mut self.restart {
            restart.speaks(now, self.life.values.awaited());
        }
        for reply in std::mem::take(&mut self.work.waiting) {
            self.answer_instance(None, reply);
        }
    }

    /// What was replayed counts before anybody is told that it is all.
    fn work_off(&mut self, now: Instant) {
        while let Some(event) = self.bfd.at_hand() {
            let changes = self.bfd.handle(event);
            self.bfd_changes(now, changes);
        }
        while let (Some(event), Some(restart)) = (self.customers.at_hand(), &mut self.restart) {
            self.customers.handle(now, event, &mut self.vrf, restart);
        }
    }

    /// A fence ends with its lease.
    pub(super) fn lease(&mut self, now: Instant) -> Option<Instant> {
        let Phase::Fenced { until } = self.life.phase else { return None };
        if now >= until && self.work.tasks.is_empty() {
            self.resume("the lease is over");
            return None;
        }
        Some(until)
    }

    /// FastForward told what it knows.
    pub(super) fn seen(&mut self, seen: Seen) {
        if self.life.phase == Phase::Speaking {
            self.write_seen(seen);
        }
    }

    fn write_seen(&mut self, seen: Seen) {
        let generation = self.life.instance.generation;
        if let Some((journal, values)) = self.life.writing() {
            values.set_neighbors(journal, seen.neighbors);
            values.set_counters(journal, generation, seen.uptime_ms, &seen.counters);
        }
    }

    /// What a successor needs changes only while we speak.
    pub(super) fn write_changes(&mut self) {
        if self.life.phase == Phase::Speaking {
            self.write_values();
        }
    }

    fn write_values(&mut self) {
        let Some(restart) = &self.restart else { return };
        let awaited: BTreeSet<IpAddr> = restart.awaited().chain(self.customers.stale()).collect();
        let (up, epoch) = (self.bfd.settled(), self.session.epoch());
        if let Some((journal, values)) = self.life.writing() {
            values.set_awaited(journal, awaited);
            values.set_statics(journal, up);
            values.set_epoch(journal, epoch);
        }
    }
}
