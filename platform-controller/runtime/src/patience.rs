//! Waiting for somebody who may be dead, on a machine that may be busy.
//!
//! A deadline that passes while we ourselves are not served says nothing about the other: its word may lie in a buffer that we
//! have not looked into. So patience is counted in slices. Each ends with a look at everything that has arrived, and one that
//! ended much too late counts little: who was stopped, or in a virtual machine that stood still, loses next to no patience, and
//! who is starved all the time loses it four times as slowly.

use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Slices that a limit is cut into.
const SLICES: u32 = 10;
/// What a slice costs that ended in time; one that did not costs 1.
const PUNCTUAL: u32 = 4;
const WHOLE: u32 = SLICES * PUNCTUAL;

/// How long somebody may be silent.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    /// Of [`WHOLE`].
    left: u32,
    /// When the slice that runs now ends.
    next: Option<Instant>,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { limit, left: WHOLE, next: None }
    }

    /// Something was heard.
    pub fn renew(&mut self) {
        (self.left, self.next) = (WHOLE, None);
    }

    /// Resolves when it has come to its end. What was waited stays waited if this is dropped.
    pub async fn ends(&mut self) {
        let slice = self.limit / SLICES;
        while self.left > 0 {
            let end = *self.next.get_or_insert_with(|| Instant::now() + slice);
            sleep_until(end).await;
            self.next = None;
            self.left = self.left.saturating_sub(if end.elapsed() <= slice { PUNCTUAL } else { 1 });
        }
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }
}

/// What `f` says, if it does within the limit.
pub async fn patiently<T>(limit: Duration, f: impl Future<Output = T>) -> Option<T> {
    let mut patience = Patience::new(limit);
    tokio::select! {
        biased;
        said = f => Some(said),
        () = patience.ends() => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    const LIMIT: Duration = Duration::from_millis(200);

    #[tokio::test(start_paused = true)]
    async fn it_ends_after_its_limit_and_what_was_waited_stays_waited() {
        let start = Instant::now();
        let mut patience = Patience::new(LIMIT);
        // Interrupted more often than a slice is long.
        while timeout(Duration::from_millis(3), patience.ends()).await.is_err() {}
        assert!(patience.is_over() && start.elapsed() >= LIMIT && start.elapsed() < LIMIT * 2, "{:?}", start.elapsed());
        patience.renew();
        assert!(!patience.is_over());
        assert_eq!(patiently(LIMIT, async { sleep(LIMIT / 2).await }).await, Some(()));
        assert_eq!(patiently(LIMIT, async { sleep(LIMIT * 2).await }).await, None);
    }

    /// The only thread of this runtime stands still for longer than the limit.
    #[tokio::test]
    async fn who_was_not_served_loses_no_patience() {
        let still = tokio::spawn(async { std::thread::sleep(LIMIT * 3) });
        let start = Instant::now();
        Patience::new(LIMIT).ends().await;
        let (took, least) = (start.elapsed(), LIMIT * 3 + LIMIT * (SLICES - 1) / SLICES);
        still.await.unwrap();
        assert!(took >= least, "{took:?}: a sleep of three limits counted for more than a slice");
    }
}
