//! The CE's own restart (RFC 4724, the helper's role): what becomes of its routes when its session ends.

use std::time::{Duration, Instant};

/// How long a CE that came back may take to tell its routes again before the stale ones go.
const RELEARN: Duration = Duration::from_secs(120);
/// How long its routes stay if we began anew, and it does not come back (RFC 4724 §4.1, Selection_Deferral_Timer).
const RESTARTED: Duration = Duration::from_secs(60);
/// How long it may take then if it does not mark the end of its table.
const RETOLD: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Helper {
    /// Nothing is stale.
    Fresh,
    /// The session is down; routes are kept until then.
    Absent(Instant),
    /// The same, as we lost it and not the CE.
    Lost(Instant),
    /// The CE is back; what it has not repeated by then goes.
    Returned(Instant),
}

/// The CE's routes across the end of its session (RFC 4724 §4.2).
#[derive(Debug, Clone)]
pub struct StaleRoutes {
    state: Helper,
}

impl Default for StaleRoutes {
    fn default() -> Self {
        Self { state: Helper::Fresh }
    }
}

impl StaleRoutes {
    /// The session ended and its routes are kept for at most `restart_time`.
    pub fn kept(&mut self, now: Instant, restart_time: Duration) {
        // A second loss before the table was complete does not prolong what the first one granted.
        let until = now + restart_time;
        self.state = Helper::Absent(match self.state {
            Helper::Absent(t) => t.min(until),
            _ => until,
        });
    }

    /// We began anew, and could not go on with its session: its routes stay until it has told them again. It need not have kept
    /// anything.
    pub fn lost(&mut self, now: Instant) {
        self.state = Helper::Lost(now + RESTARTED);
    }

    /// The session ended and its routes went with it, or everything stale was swept.
    pub fn cleared(&mut self) {
        self.state = Helper::Fresh;
    }

    /// The session is up again. True: whatever is stale must go at once.
    #[must_use]
    pub fn returned(&mut self, now: Instant, graceful: bool) -> bool {
        if self.state == Helper::Fresh {
            return false;
        }
        if let Helper::Lost(_) = self.state {
            // Without graceful restart no End-of-RIB is sure to come.
            self.state = Helper::Returned(now + if graceful { RELEARN } else { RETOLD });
            return false;
        }
        // RFC 4724 §4.2: without the capability in the new OPEN, or without its F bit, the stale routes go.
        self.state = if graceful { Helper::Returned(now + RELEARN) } else { Helper::Fresh };
        !graceful
    }

    /// Time passed. True: whatever is stale must go now.
    #[must_use]
    pub fn expired(&mut self, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|t| now >= t);
        if due {
            self.state = Helper::Fresh;
        }
        due
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Helper::Fresh => None,
            Helper::Absent(t) | Helper::Lost(t) | Helper::Returned(t) => Some(t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn stale_routes_go_at_the_restart_time_or_with_the_return() {
        let t = Instant::now();
        let mut h = StaleRoutes::default();
        assert!(!h.returned(t, false));
        h.kept(t, s(30));
        h.kept(t + s(10), s(30));
        assert!(!h.expired(t + s(29)));
        assert!(h.expired(t + s(30)));
        assert!(!h.expired(t + s(90)));
        h.kept(t, s(30));
        assert!(h.returned(t + s(5), false));
        h.kept(t, s(30));
        assert!(!h.returned(t + s(5), true));
        assert!(!h.expired(t + s(31)));
        assert!(h.expired(t + s(5) + RELEARN));
        // It was us who began anew.
        h.lost(t);
        assert!(!h.expired(t + s(59)) && h.clone().expired(t + s(60)));
        assert!(!h.returned(t + s(5), false) && !h.expired(t + s(14)));
        assert!(h.expired(t + s(15)));
    }
}
