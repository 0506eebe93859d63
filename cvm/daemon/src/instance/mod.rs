//! Which of the control VM's instances this process is, and what it takes over from whom.
//!
//! ```text
//!   the journal is empty    ─────────────────────────────────► Live: speaks from the start
//!   a past process left one ──► replay ────────────► promote ─► Active
//!   standby ──► follow.sock ──► replay, replay, … ──► Promote ─► Active ──► Fence ──► Fenced ──► Resume, or its end
//! ```
//! Who was fenced and is started again stands still after its replay, until the fence is over.

mod values;

pub(crate) use values::{Values, empty_labels};

use crate::control::Paths;
use anyhow::Context;
use edgeplex_journal::Record;
use edgeplex_mgmt::{
    config::{CvmConfig, InstanceRole},
    show::FOLLOW_SOCKET,
};
use edgeplex_transport::{
    Mode,
    journal::{Follower, Journal, RoleFile},
};
use std::{io, time::Instant};
use tracing::{error, info, warn};

/// What there is to go on from.
#[derive(Debug)]
pub enum Origin {
    /// Nothing: it speaks from the start.
    Nothing(Journal),
    /// What a past process of this VM has written down, or nothing: until when it was to stand still, if it was.
    Past(Journal, Vec<Record>, Option<Instant>),
    /// Another instance speaks; what is known of it so far.
    Leader(Follower, Vec<Record>),
}

impl Origin {
    /// Looks at what a past process left behind.
    pub fn open(config: &CvmConfig, paths: &Paths) -> anyhow::Result<Self> {
        let Some(dir) = &paths.journal else { return Ok(Self::Nothing(Journal::none())) };
        if let Err(error) = std::fs::create_dir_all(dir) {
            return Ok(Self::without(&error, None));
        }
        let role = RoleFile::new(dir);
        let (instance, fenced) = (role.instance(config.instance), role.fenced(config.instance));
        if role.is_cold() {
            info!("sessions of the past cannot go on; neighbours are asked to wait");
            if let Err(error) = role.forget_journal().and_then(|()| role.save(instance, false)) {
                return Ok(Self::without(&error, fenced));
            }
        }
        if instance.role == InstanceRole::Standby {
            let (follower, records) = Follower::listen(paths.run.join(FOLLOW_SOCKET), dir).context("follow.sock")?;
            return Ok(Self::Leader(follower, records));
        }
        let (journal, records) = match Journal::open(dir) {
            Ok(opened) => opened,
            Err(error) => return Ok(Self::without(&error, fenced)),
        };
        if records.is_empty() && fenced.is_none() {
            return Ok(Self::Nothing(journal));
        }
        let mut values = Values::default();
        records.iter().for_each(|record| drop(values.replay(record)));
        if values.belong_to(config) {
            return Ok(Self::Past(journal, records, fenced));
        }
        warn!("the journal is another router's: it is not taken over");
        drop(journal);
        Ok(match role.forget_journal().and_then(|()| Journal::open(dir)) {
            Ok((journal, _)) => Self::Nothing(journal),
            Err(error) => Self::without(&error, None),
        })
    }

    /// Sessions without protection are better than none.
    fn without(error: &io::Error, fenced: Option<Instant>) -> Self {
        error!(%error, "no journal: what this process knows ends with it");
        match fenced {
            Some(_) => Self::Past(Journal::none(), vec![], fenced),
            None => Self::Nothing(Journal::none()),
        }
    }

    /// How protocols begin.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Nothing(journal) => Mode::Live(journal.clone()),
            Self::Past(..) | Self::Leader(..) => Mode::Following,
        }
    }
}
