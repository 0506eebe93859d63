//! What a journal does beside appending: it compacts the file, and goes on alone when the standby is silent.

use super::{
    Shared,
    compaction::{self, Compacted, Mend, When},
};
use std::{
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet, time::sleep};

/// How often leases are looked at while there are some.
const TICK: Duration = Duration::from_millis(20);
/// How often a file that waits for its compaction is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Runs until the journal is dropped.
pub(super) async fn tend(shared: Weak<Shared>, wake: Arc<Notify>) {
    // One at a time. Dropped, it does not come into force any more.
    let mut compaction = JoinSet::new();
    let mut again = None;
    loop {
        let tick = async {
            match again {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            () = wake.notified() => None,
            () = tick => None,
            Some(done) = compaction.join_next() => done.ok(),
        };
        let Some(shared) = shared.upgrade() else { return };
        again = look_after(&shared, &mut compaction, done);
    }
}

type Done = (io::Result<Compacted>, Arc<Mend>);

/// After how long it is worth looking again.
fn look_after(shared: &Arc<Shared>, compaction: &mut JoinSet<Done>, done: Option<Done>) -> Option<Duration> {
    let log = shared.log.as_ref()?;
    let now = Instant::now();
    let mut core = shared.core();
    if let Some((done, mended)) = done {
        core.compacted(log, done, &mended, now);
        shared.changed();
    }
    for number in core.silent(now) {
        core.lose(number, "the standby is silent: went on alone");
    }
    shared.settled(&mut core);
    let (when, mend) = core.compaction(log, now);
    if compaction.is_empty() && matches!(when, When::Calm | When::AtOnce) {
        compaction.spawn(compaction::compact(log.clone(), mend, when));
    }
    let ticks = core.wants_tending().then_some(TICK);
    ticks.or((when == When::Waits).then_some(LOOK))
}
