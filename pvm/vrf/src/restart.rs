//! Graceful restart (RFC 4724), both roles, as two small machines that are told the time.
//!
//! [`Restart`] is the restarting speaker, this daemon: after `kill -9` FastForward goes on with its FIB and the CVM
//! and the CE hold their routes as stale. Each of them may be told "that was all" only when the other side's
//! routes are relearnt, or what is still true would be swept.
//!
//! ```text
//!   CE relearnt  (its End-of-RIB | no GR and quiet | time) ──► routes and End to the relay
//!   VPN relearnt (relay End | time)                        ──► adj-RIB-out and End-of-RIB to the CE
//!   both                                                   ──► routes and End to FastForward
//! ```
//!
//! [`StaleRoutes`] is the helper: what becomes of the CE's routes when its session ends.

use std::time::{Duration, Instant};

/// Longest wait for the CE's routes and, towards the CE, for the VPN's (RFC 4724 §4.1, Selection_Deferral_Timer).
const DEFERRAL: Duration = Duration::from_secs(60);
/// A peer without graceful restart sends no End-of-RIB that counts; this long without an UPDATE means it is done.
const QUIET: Duration = Duration::from_secs(2);
/// Without a relay the FIB follows the CE after this long, so that local routing does not wait for the CVM.
const VPN_WAIT: Duration = Duration::from_secs(10);
/// How long a CE that came back may take to tell its routes again before the stale ones go.
const RELEARN: Duration = Duration::from_secs(120);

/// What may be sent as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Routes to the CVM, and their `End`.
    pub relay: bool,
    /// Routes to FastForward.
    pub fib: bool,
    /// `End` to FastForward, which sweeps what the snapshot did not renew.
    pub fib_end: bool,
    /// The CE's adj-RIB-out with its End-of-RIB.
    pub release_ce: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ce {
    /// No session since the start, or it went down before its table was complete.
    Waiting,
    /// Established without graceful restart; last heard at.
    Quiet(Instant),
    /// Established; its End-of-RIB will come.
    Relearning,
    Done,
}

/// This daemon's own start or restart.
#[derive(Debug, Clone)]
pub struct Restart {
    started: Instant,
    /// FastForward holds a FIB of our previous life.
    fib_kept: bool,
    /// Neighbours may hold routes of our previous life.
    restarted: bool,
    ce: Ce,
    vpn_ended: bool,
}

impl Restart {
    /// `restarted`: FastForward already had a snapshot when this daemon began. `bgp`: a CE is configured.
    pub fn new(now: Instant, restarted: bool, bgp: bool) -> Self {
        let ce = if bgp && restarted { Ce::Waiting } else { Ce::Done };
        Self { started: now, fib_kept: restarted, restarted, ce, vpn_ended: false }
    }

    pub fn restarted(&self) -> bool {
        self.restarted
    }

    pub fn ce_up(&mut self, now: Instant, graceful: bool) {
        if self.ce != Ce::Done {
            self.ce = if graceful { Ce::Relearning } else { Ce::Quiet(now) };
        }
    }

    pub fn ce_down(&mut self) {
        if self.ce != Ce::Done {
            self.ce = Ce::Waiting;
        }
    }

    pub fn ce_update(&mut self, now: Instant) {
        if let Ce::Quiet(since) = &mut self.ce {
            *since = now;
        }
    }

    pub fn ce_end_of_rib(&mut self) {
        // Even a peer that did not announce graceful restart may mark the end of its table (RFC 4724 §2).
        if matches!(self.ce, Ce::Relearning | Ce::Quiet(_)) {
            self.ce = Ce::Done;
        }
    }

    /// The CE was taken out of the configuration.
    pub fn ce_removed(&mut self) {
        self.ce = Ce::Done;
    }

    /// The CVM's snapshot is complete.
    pub fn vpn_end(&mut self) {
        self.vpn_ended = true;
    }

    /// FastForward came (back) with an empty FIB: there is nothing to preserve, every moment without routes loses packets.
    pub fn fib_lost(&mut self) {
        self.fib_kept = false;
    }

    /// What may be sent at `now`. Once true, each answer stays true.
    pub fn verdict(&mut self, now: Instant) -> Verdict {
        let since = |t: Instant| now.saturating_duration_since(t);
        let quiet = matches!(self.ce, Ce::Quiet(t) if since(t) >= QUIET);
        if quiet || since(self.started) >= DEFERRAL {
            self.ce = Ce::Done;
        }
        let ce = self.ce == Ce::Done;
        Verdict {
            relay: ce,
            fib: !self.fib_kept || (ce && (self.vpn_ended || since(self.started) >= VPN_WAIT)),
            // No time limit here: without a CVM, the VPN routes that FastForward kept are the best there is.
            fib_end: !self.fib_kept || (ce && self.vpn_ended),
            release_ce: self.vpn_ended || since(self.started) >= DEFERRAL,
        }
    }

    /// When to ask for the verdict again, if time alone may change it.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let quiet = match self.ce {
            Ce::Quiet(since) => Some(since + QUIET),
            _ => None,
        };
        [quiet, Some(self.started + VPN_WAIT), Some(self.started + DEFERRAL)].into_iter().flatten().filter(|t| *t > now).min()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Helper {
    /// Nothing is stale.
    Fresh,
    /// The session is down; routes are kept until then.
    Absent(Instant),
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
            Helper::Absent(t) | Helper::Returned(t) => Some(t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: Verdict = Verdict { relay: false, fib: false, fib_end: false, release_ce: false };
    const ALL: Verdict = Verdict { relay: true, fib: true, fib_end: true, release_ce: true };

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_restart_waits_for_both_sides_in_either_order() {
        let t = Instant::now();
        let mut r = Restart::new(t, true, true);
        assert_eq!(r.verdict(t), NONE);
        r.vpn_end();
        assert_eq!(r.verdict(t), Verdict { release_ce: true, ..NONE });
        r.ce_up(t, true);
        assert_eq!(r.verdict(t + s(9)), Verdict { release_ce: true, ..NONE });
        r.ce_end_of_rib();
        assert_eq!(r.verdict(t), ALL);

        let mut r = Restart::new(t, true, true);
        r.ce_up(t, true);
        r.ce_end_of_rib();
        assert_eq!(r.verdict(t), Verdict { relay: true, ..NONE });
        // Local routing does not wait for the CVM for ever, but FastForward keeps the VPN routes it has.
        assert_eq!(r.verdict(t + VPN_WAIT), Verdict { relay: true, fib: true, ..NONE });
        assert_eq!(r.verdict(t + DEFERRAL), Verdict { fib_end: false, ..ALL });
        r.vpn_end();
        assert_eq!(r.verdict(t + DEFERRAL), ALL);
    }

    #[test]
    fn an_end_of_rib_of_a_lost_session_does_not_count() {
        let t = Instant::now();
        let mut r = Restart::new(t, true, true);
        r.ce_up(t, true);
        r.ce_down();
        r.ce_end_of_rib();
        assert!(!r.verdict(t).relay);
        r.ce_up(t, true);
        r.ce_end_of_rib();
        assert!(r.verdict(t).relay);
        // Once complete, a later loss takes nothing back.
        r.ce_down();
        assert!(r.verdict(t).relay);
    }

    #[test]
    fn a_peer_without_graceful_restart_is_done_when_it_falls_silent() {
        let t = Instant::now();
        let mut r = Restart::new(t, true, true);
        r.ce_up(t, false);
        r.ce_update(t + s(1));
        assert!(!r.verdict(t + s(2)).relay);
        assert_eq!(r.deadline(t + s(2)), Some(t + s(3)));
        assert!(r.verdict(t + s(3)).relay);
    }

    #[test]
    fn a_first_start_holds_back_only_the_release_to_the_ce() {
        let t = Instant::now();
        for bgp in [false, true] {
            let mut r = Restart::new(t, false, bgp);
            assert_eq!(r.verdict(t), Verdict { release_ce: false, ..ALL });
        }
    }

    #[test]
    fn an_empty_fib_is_filled_at_once() {
        let t = Instant::now();
        let mut r = Restart::new(t, true, true);
        r.fib_lost();
        assert_eq!(r.verdict(t), Verdict { fib: true, fib_end: true, ..NONE });
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
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Up(bool),
        Down,
        Update,
        EndOfRib,
        VpnEnd,
        FibLost,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(Step::Up),
            Just(Step::Down),
            Just(Step::Update),
            Just(Step::EndOfRib),
            Just(Step::VpnEnd),
            Just(Step::FibLost),
            (0u64..20_000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// In every order of events: no answer is ever taken back, FastForward is never swept before both sides
        /// are relearnt (unless it is empty), and each wait has its end.
        #[test]
        fn every_order_of_events_is_safe_and_ends(steps in prop::collection::vec(step(), 0..40)) {
            let t0 = Instant::now();
            let mut now = t0;
            let mut r = Restart::new(t0, true, true);
            let (mut vpn, mut lost) = (false, false);
            let mut before = NONE;
            for step in steps {
                match step {
                    Step::Up(gr) => r.ce_up(now, gr),
                    Step::Down => r.ce_down(),
                    Step::Update => r.ce_update(now),
                    Step::EndOfRib => r.ce_end_of_rib(),
                    Step::VpnEnd => { r.vpn_end(); vpn = true; }
                    Step::FibLost => { r.fib_lost(); lost = true; }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                }
                let v = r.verdict(now);
                prop_assert!(v.relay >= before.relay && v.fib >= before.fib);
                prop_assert!(v.fib_end >= before.fib_end && v.release_ce >= before.release_ce);
                prop_assert!(lost || !v.fib_end || (vpn && v.relay));
                prop_assert!(vpn || !v.release_ce || now - t0 >= DEFERRAL);
                prop_assert!(r.deadline(now).is_none_or(|d| d > now));
                before = v;
            }
            let v = r.verdict(now + DEFERRAL);
            prop_assert!(v.relay && v.fib && v.release_ce);
        }
    }
}
