//! A token bucket that is told the time.

use std::time::Instant;

/// Counted in nanoseconds: a packet costs what its rate says, time gives it back.
#[derive(Debug)]
pub(crate) struct Bucket {
    cost: u64,
    depth: u64,
    credit: u64,
    last: Instant,
}

impl Bucket {
    /// `rate` packets a second (at least 1), `burst` at once; full to begin with.
    pub(crate) fn new(now: Instant, rate: u32, burst: u32) -> Self {
        let cost = 1_000_000_000 / u64::from(rate.max(1));
        let depth = cost * u64::from(burst);
        Self { cost, depth, credit: depth, last: now }
    }

    /// Whether one more packet passes. Time that runs backwards gives nothing.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_nanos();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.last = self.last.max(now);
        self.credit = self.credit.saturating_add(passed).min(self.depth);
        let pass = self.credit >= self.cost;
        if pass {
            self.credit -= self.cost;
        }
        pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let t = Instant::now();
        let mut b = Bucket::new(t, 100, 5);
        let passed = |b: &mut Bucket, at: Duration| (0..50).filter(|_| b.take(t + at)).count();
        assert_eq!(passed(&mut b, Duration::ZERO), 5);
        assert_eq!(passed(&mut b, Duration::from_millis(9)), 0);
        assert_eq!(passed(&mut b, Duration::from_millis(30)), 3);
        assert_eq!(passed(&mut b, Duration::from_millis(20)), 0, "time went backwards");
        assert_eq!(passed(&mut b, Duration::from_secs(60)), 5);
    }
}
