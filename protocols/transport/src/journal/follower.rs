//! A standby's end: takes the leader's records, keeps them in a file of its own, and hands them on.

use super::{Journal, JournalStatus};
use edgeplex_journal::Record;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Forget everything; the whole state follows.
    Reset,
    Record(Record),
    /// All that the leader had committed is here now; told once per connection.
    CaughtUp,
    /// The connection is gone or silent. Another one may come.
    LeaderLost,
}

/// Follows the active instance's journal.
#[derive(Debug)]
pub struct Follower {
    view: FollowerView,
}

/// What can be asked of a follower from elsewhere.
#[derive(Debug, Clone)]
pub struct FollowerView {
    revision: Arc<watch::Sender<u64>>,
}

impl FollowerView {
    pub fn status(&self) -> JournalStatus {
        JournalStatus::default()
    }

    /// Counts up with every change of the status other than `end`, `committed`, `file` and `leader_lost_ms`.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

impl Follower {
    /// Waits for the leader's connection at `socket`; the file is in `dir`. The records are what a past process left there: the
    /// state from which following goes on.
    pub fn listen(_socket: PathBuf, _dir: &Path) -> io::Result<(Self, Vec<Record>)> {
        Ok((Self { view: FollowerView { revision: Arc::new(watch::Sender::new(0)) } }, Vec::new()))
    }

    pub fn view(&self) -> FollowerView {
        self.view.clone()
    }

    /// What comes next. May be dropped and called again (cancel safe).
    pub async fn next(&mut self) -> Followed {
        std::future::pending().await
    }

    /// This instance is the active one from now on. All that was received has been handed on by [`Follower::next`] or stands in
    /// the records returned; to be applied first.
    pub fn into_journal(self) -> io::Result<(Journal, Vec<Followed>)> {
        Ok((Journal::none(), Vec::new()))
    }
}
