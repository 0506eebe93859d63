//! What a journal does beside appending: it compacts the file, and goes on alone when the standby is silent.

use super::Shared;
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::spawn_blocking, time::timeout};

/// How often leases are looked at while there are some.
const TICK: Duration = Duration::from_millis(20);

/// Runs until the journal is dropped.
pub(super) async fn tend(shared: Weak<Shared>, wake: Arc<Notify>) {
    let mut ticks = false;
    loop {
        if ticks {
            let _ = timeout(TICK, wake.notified()).await;
        } else {
            wake.notified().await;
        }
        let Some(shared) = shared.upgrade() else { return };
        ticks = look_after(&shared).await;
    }
}

/// Whether it is worth looking again soon.
async fn look_after(shared: &Arc<Shared>) -> bool {
    let Some(log) = &shared.log else { return false };
    let plan = {
        let mut core = shared.core();
        let now = Instant::now();
        for number in core.silent(now) {
            core.lose(number, "the standby is silent: went on alone");
        }
        shared.settle(&mut core);
        core.compaction(log, now)
    };
    if let Some(mend) = plan {
        let log = log.clone();
        let done = spawn_blocking(move || (log.compact(&mend), mend)).await;
        if let Ok((done, mend)) = done {
            if let Some(log) = &shared.log {
                shared.core().compacted(log, done, &mend, Instant::now());
            }
            shared.settle(&mut shared.core());
            shared.changed();
        }
    }
    shared.core().wants_tending()
}
