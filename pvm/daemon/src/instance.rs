//! What this instance is among those of its attachment: active or standby, its generation, its journal, and what it tells of
//! itself.
//!
//! ```text
//!   Waiting ── FastForward and the interface are there ──► Following ── promoted ──► Promoting ──► Speaking ◄──► Fenced
//!                                        active: at once ───────────────────────────────┘             └► Replaced
//! ```
//! An active instance that starts is a standby of its former life: it reads its own journal and promotes itself.

use crate::values::Values;
use edgeplex_ff_fib_client::Holder;
use edgeplex_journal::Record;
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::{FOLLOW_SOCKET, InstanceState, InstanceStatus, JOURNAL_SOCKET, Promoted, STALE_MS},
};
use edgeplex_transport::journal::{Followed, Follower, FollowerView, Journal, JournalStatus, RoleFile};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;
use tracing::{error, info};

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// FastForward or the interface is not there yet.
    Waiting,
    Following,
    Promoting,
    Speaking,
    /// Its sessions stand still; at the end of the lease they go on.
    Fenced {
        until: Instant,
    },
    /// Another instance of a higher generation speaks.
    Replaced,
}

/// Where its state is written, or comes from.
#[derive(Debug)]
enum Log {
    Own(Journal),
    Leader(Box<Follower>, FollowerView),
}

/// What is wrong for good, and what of it is shown.
#[derive(Debug, Default)]
struct Problems {
    journal: Option<String>,
    role: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Life {
    run: PathBuf,
    /// Of the journal; none: nothing is kept.
    dir: Option<PathBuf>,
    role: RoleFile,
    pub(crate) instance: Instance,
    pub(crate) phase: Phase,
    log: Log,
    pub(crate) values: Values,
    pub(crate) holder: Holder,
    pub(crate) promoted: Option<Promoted>,
    problems: Problems,
    shown: watch::Sender<InstanceStatus>,
}

impl Life {
    /// Opens what a former life left, or waits for the leader; and the records to begin with.
    pub(crate) fn start(run: &Path, dir: Option<&Path>, configured: Instance, holder: Holder) -> anyhow::Result<(Self, Vec<Record>)> {
        let mut problems = Problems::default();
        let role = dir.map_or_else(RoleFile::nowhere, RoleFile::new);
        let instance = role.instance(configured);
        let opened = match (dir, instance.role) {
            (Some(dir), InstanceRole::Standby) => follow(run, dir)?,
            (Some(dir), InstanceRole::Active) => match Journal::open(dir) {
                Ok((journal, records)) => (Log::Own(journal), records),
                // Sessions without protection are better than none.
                Err(error) => {
                    error!(dir = %dir.display(), %error, "no journal: sessions will not outlive this process");
                    problems.journal = Some(format!("no journal: {error}"));
                    (Log::Own(Journal::none()), vec![])
                }
            },
            (None, InstanceRole::Active) => (Log::Own(Journal::none()), vec![]),
            (None, InstanceRole::Standby) => anyhow::bail!("a standby needs a journal"),
        };
        let (log, records) = opened;
        let state = InstanceState::Standby;
        let empty = InstanceStatus {
            generation: instance.generation,
            state,
            revision: 0,
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
        let mut life = Self {
            run: run.to_owned(),
            dir: dir.map(Path::to_owned),
            role,
            instance,
            phase: Phase::Waiting,
            log,
            values: Values::default(),
            holder,
            promoted: None,
            problems,
            // Not one that a former life told.
            shown: watch::Sender::new(InstanceStatus { revision: micros(), ..empty }),
        };
        if let Log::Own(journal) = &life.log {
            let journal = journal.clone();
            life.serve(&journal);
        }
        Ok((life, records))
    }

    /// The active instance's; a standby writes none of its own.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        match &self.log {
            Log::Own(journal) => Some(journal),
            Log::Leader(..) => None,
        }
    }

    /// The journal, and what is to be written to it.
    pub(crate) fn writing(&mut self) -> Option<(&Journal, &mut Values)> {
        match &self.log {
            Log::Own(journal) => Some((journal, &mut self.values)),
            Log::Leader(..) => None,
        }
    }

    /// What the leader says next; never of an active instance, nor before all is there to take it. Cancel-safe.
    pub(crate) async fn followed(&mut self) -> Followed {
        match &mut self.log {
            Log::Leader(follower, _) if self.phase == Phase::Following => follower.next().await,
            _ => std::future::pending().await,
        }
    }

    /// A standby reads again from the beginning what it has.
    pub(crate) fn follow_anew(&mut self) -> anyhow::Result<Option<Vec<Record>>> {
        let (Log::Leader(..), Some(dir)) = (&self.log, &self.dir) else { return Ok(None) };
        let dir = dir.clone();
        // The former one must have let go of its socket and its file.
        self.log = Log::Own(Journal::none());
        let (log, records) = follow(&self.run, &dir)?;
        self.log = log;
        Ok(Some(records))
    }

    /// Whether the leader may have gone on without this standby.
    pub(crate) fn is_stale(&self) -> bool {
        let status = self.log_status();
        !status.in_sync || status.leader_lost_ms.is_some_and(|ms| ms > STALE_MS)
    }

    /// From now on this is the active instance, which outlives the process. What it received and has not worked off yet.
    /// `None`: it cannot be read, so that nothing can be gone on from.
    pub(crate) fn activate(&mut self, generation: u64) -> Option<Vec<Followed>> {
        self.set_instance(Instance { generation, role: InstanceRole::Active });
        let (journal, rest) = match std::mem::replace(&mut self.log, Log::Own(Journal::none())) {
            Log::Own(journal) => (journal, Some(vec![])),
            Log::Leader(follower, _) => match follower.into_journal() {
                Ok((journal, rest)) => (journal, Some(rest)),
                Err(error) => {
                    error!(%error, "no journal: sessions will not outlive this process");
                    self.problems.journal = Some(format!("no journal: {error}"));
                    (Journal::none(), None)
                }
            },
        };
        self.serve(&journal);
        self.log = Log::Own(journal);
        rest
    }

    /// Which instance this is, across restarts.
    pub(crate) fn set_instance(&mut self, instance: Instance) {
        if let Log::Own(journal) = &self.log {
            self.values.renumber(journal, self.instance.generation, instance.generation);
        }
        info!(generation = instance.generation, role = ?instance.role, "this instance");
        self.instance = instance;
        self.problems.role = self.role.save(instance, false).err().map(|error| {
            error!(%error, "the role cannot be kept: a restart would fall back to the configured one");
            format!("role not kept: {error}")
        });
    }

    /// Stands still until then, also if the process is started again; `None`: no longer.
    pub(crate) fn set_fence(&mut self, until: Option<Instant>) {
        if let Err(error) = self.role.fence(self.instance, until) {
            error!(%error, "the fence cannot be kept: a restart would end it");
            self.problems.role = Some(format!("fence not kept: {error}"));
        }
    }

    /// Until when a former life was to stand still.
    pub(crate) fn fenced(&self) -> Option<Instant> {
        self.role.fenced(self.instance)
    }

    /// It stands still since before this process, which has taken no session over yet.
    pub(crate) fn never_spoke(&self) -> bool {
        matches!(self.phase, Phase::Fenced { .. } | Phase::Replaced) && self.promoted.is_none()
    }

    /// Followers may come, and FastForward holds what they do not have.
    fn serve(&mut self, journal: &Journal) {
        // Where nothing is kept it must hear that sessions need no hold.
        journal.set_gate(Arc::new(self.holder.clone()));
        if !journal.keeps() {
            return;
        }
        if let Err(error) = journal.serve(self.run.join(JOURNAL_SOCKET)) {
            error!(%error, "no standby can follow");
            self.problems.journal = Some(format!("no standby can follow: {error}"));
        }
    }

    /// A successor finds here what it needs to go on with the sessions.
    pub(crate) fn has_successor(&self) -> bool {
        match &self.log {
            Log::Own(journal) => {
                let status = journal.status();
                journal.keeps() && self.problems.journal.is_none() && status.problems.is_empty() && status.unprotected == 0
            }
            // Nobody knows this instance.
            Log::Leader(..) => true,
        }
    }

    fn log_status(&self) -> JournalStatus {
        match &self.log {
            Log::Own(journal) => journal.status(),
            Log::Leader(_, view) => view.status(),
        }
    }

    /// When the log's status changes.
    pub(crate) fn log_changes(&self) -> watch::Receiver<u64> {
        match &self.log {
            Log::Own(journal) => journal.changed(),
            Log::Leader(_, view) => view.changed(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<InstanceStatus> {
        self.shown.subscribe()
    }

    /// What it tells of itself; those who watch hear of it.
    pub(crate) fn status(&mut self, forwards: bool) -> InstanceStatus {
        let log = self.log_status();
        let state = match self.phase {
            Phase::Fenced { .. } | Phase::Replaced => InstanceState::Fenced,
            _ if self.instance.role == InstanceRole::Standby => InstanceState::Standby,
            _ => InstanceState::Active,
        };
        let mut problems = log.problems;
        problems.extend(self.problems.journal.clone());
        problems.extend(self.problems.role.clone());
        if self.phase == Phase::Replaced {
            problems.push("another instance of a higher generation speaks for this attachment".into());
        }
        if log.unprotected > 0 {
            problems.push(format!("{} sessions would not outlive this instance", log.unprotected));
        }
        let new = InstanceStatus {
            generation: self.instance.generation,
            state,
            revision: self.shown.borrow().revision,
            sessions: log.sessions,
            end: log.end,
            committed: log.committed,
            in_sync: log.in_sync,
            leader_lost_ms: log.leader_lost_ms,
            forwards,
            promoted: self.promoted,
            past: self.values.past(self.instance.generation),
            problems,
        };
        let differs = differs(&self.shown.borrow(), &new);
        self.shown.send_if_modified(|shown| {
            *shown = new;
            shown.revision += u64::from(differs);
            differs
        });
        self.shown.borrow().clone()
    }
}

fn follow(run: &Path, dir: &Path) -> io::Result<(Log, Vec<Record>)> {
    let (follower, records) = Follower::listen(run.join(FOLLOW_SOCKET), dir)?;
    let view = follower.view();
    Ok((Log::Leader(Box::new(follower), view), records))
}

/// Whether somebody who watches wants to know. Traffic, like the journal's length, always changes.
fn differs(old: &InstanceStatus, new: &InstanceStatus) -> bool {
    let essence = |s: &InstanceStatus| InstanceStatus {
        revision: 0,
        end: 0,
        committed: 0,
        leader_lost_ms: s.leader_lost_ms.map(|_| 0),
        past: vec![],
        ..s.clone()
    };
    essence(old) != essence(new)
}

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(0)
}
