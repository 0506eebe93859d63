//! Going on after another instance, or after a former life: a small machine that is told the time.
//!
//! What the predecessor left (a journal) is read first, then we speak. FastForward goes on with its FIB, and the CVM holds our
//! routes as stale. Each of them may be told "that was all" only when nothing that is still true would be swept by it. A session that is taken over has all its routes; where there was none to take over, the
//! neighbour tells its routes again (RFC 4724), and is waited for.
//!
//! ```text
//!   Reading ── a standby has all ──► Following ── promoted ──► Speaking
//!      └────── all of the own journal is read ─────────────────┘
//!
//!   every CE that is awaited has told all  (its End-of-RIB | no GR and quiet | time)
//!   and BFD of static routes is up again (| time)        ──► routes and End to the relay
//!   VPN relearnt (relay End | time)                      ──► adj-RIB-out and End-of-RIB to the CEs
//!   both                                                 ──► routes and End to FastForward
//! ```
//!
//! A CE's session carries one family, so a CE is complete with one End-of-RIB; a site with IPv4 and IPv6 is two CEs here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Longest wait for the CEs' routes and, towards the CEs, for the VPN's (RFC 4724 §4.1, Selection_Deferral_Timer).
const DEFERRAL: Duration = Duration::from_secs(60);
/// A peer without graceful restart sends no End-of-RIB that counts; this long without an UPDATE means it is done.
const QUIET: Duration = Duration::from_secs(2);
/// Without a relay the FIB follows the CEs after this long, so that local routing does not wait for the CVM.
const VPN_WAIT: Duration = Duration::from_secs(10);
/// A static route's neighbour with which BFD is not up after this long is not there.
const BFD_WAIT: Duration = Duration::from_secs(10);

/// What may be sent as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Routes to the CVM, and their `End`.
    pub relay: bool,
    /// Routes to FastForward.
    pub fib: bool,
    /// `End` to FastForward, which sweeps what the snapshot did not renew.
    pub fib_end: bool,
    /// The CEs' adj-RIB-out with its End-of-RIB.
    pub release_ce: bool,
}

/// Where this daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A predecessor's records are read; nothing is whole yet.
    Reading,
    /// A standby that knows all its leader does: what comes is a change.
    Following,
    Speaking,
}

/// A CE whose table is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ce {
    /// No session since the start, or it went down before its table was complete.
    Waiting,
    /// Established, but no End-of-RIB is sure to come; last heard at.
    Quiet(Instant),
    /// Established; its End-of-RIB will come.
    Relearning,
}

/// This daemon's own start or restart, or its promotion.
#[derive(Debug, Clone)]
pub struct Restart {
    phase: Phase,
    /// When it began to speak.
    started: Instant,
    /// FastForward holds a FIB of our previous life.
    fib_kept: bool,
    /// Neighbours may hold routes of our previous life.
    restarted: bool,
    /// Those whose table is not complete; once we speak, only those that are waited for.
    ces: BTreeMap<IpAddr, Ce>,
    /// Neighbours of static routes with which BFD was not up yet.
    statics: BTreeSet<IpAddr>,
    vpn_ended: bool,
}

impl Restart {
    /// Begins with reading. `restarted`: FastForward already had a snapshot. `ces`: those with a session. `statics`: next hops
    /// of static routes that depend on BFD.
    pub fn new(now: Instant, restarted: bool, ces: impl IntoIterator<Item = IpAddr>, statics: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            phase: Phase::Reading,
            started: now,
            fib_kept: restarted,
            restarted,
            ces: ces.into_iter().map(|peer| (peer, Ce::Waiting)).collect(),
            statics: statics.into_iter().collect(),
            vpn_ended: false,
        }
    }

    pub fn restarted(&self) -> bool {
        self.restarted
    }

    /// A standby knows all its leader does, or starts over with it.
    pub fn follows(&mut self, caught_up: bool) {
        if self.phase != Phase::Speaking {
            self.phase = if caught_up { Phase::Following } else { Phase::Reading };
            // What the forwarder has is better than half of the other.
            self.fib_kept |= !caught_up;
        }
    }

    /// A standby is to take its leader's place. Its forwarder has the whole table, with nothing of a former life, or has not
    /// (`forwards`); the CVM tells its table again.
    pub fn promoted(&mut self, forwards: bool) {
        (self.fib_kept, self.restarted, self.vpn_ended) = (!forwards, true, false);
    }

    /// All is read, and from now on we speak. `awaited`: the CEs that the predecessor waited for; `None` if there was none, or it left
    /// nothing.
    pub fn speaks(&mut self, now: Instant, awaited: Option<&BTreeSet<IpAddr>>) {
        self.phase = Phase::Speaking;
        self.started = now;
        match awaited {
            Some(awaited) => self.ces.retain(|ce, _| awaited.contains(ce)),
            None if !self.restarted => self.ces.clear(),
            None => {}
        }
        if !self.restarted {
            self.statics.clear();
        }
    }

    /// CEs whose table a successor has to wait for as well.
    pub fn awaited(&self) -> impl Iterator<Item = IpAddr> {
        self.ces.keys().copied()
    }

    fn ce(&mut self, peer: IpAddr, becomes: Ce) {
        if let Some(ce) = self.ces.get_mut(&peer) {
            *ce = becomes;
        }
    }

    /// `graceful`: it has the capability. `restarting`: it, too, has just been started again, so that each would wait for
    /// the other's End-of-RIB (RFC 4724 §4.1 excludes such a peer).
    pub fn ce_up(&mut self, now: Instant, peer: IpAddr, graceful: bool, restarting: bool) {
        self.ce(peer, if graceful && !restarting { Ce::Relearning } else { Ce::Quiet(now) });
    }

    pub fn ce_down(&mut self, peer: IpAddr) {
        if self.phase == Phase::Speaking {
            self.ce(peer, Ce::Waiting);
        } else {
            // What a former session told is no more.
            self.ces.insert(peer, Ce::Waiting);
        }
    }

    pub fn ce_update(&mut self, now: Instant, peer: IpAddr) {
        if let Some(Ce::Quiet(since)) = self.ces.get_mut(&peer) {
            *since = now;
        }
    }

    pub fn ce_end_of_rib(&mut self, peer: IpAddr) {
        // Even a peer that did not announce graceful restart may mark the end of its table (RFC 4724 §2).
        if self.ces.get(&peer).is_some_and(|ce| *ce != Ce::Waiting) {
            self.ces.remove(&peer);
        }
    }

    /// The CE was taken out of the configuration, or its session is shut down.
    pub fn ce_removed(&mut self, peer: IpAddr) {
        self.ces.remove(&peer);
    }

    /// BFD with the neighbour of a static route is up, or is not wanted any more.
    pub fn bfd_settled(&mut self, via: IpAddr) {
        self.statics.remove(&via);
    }

    /// The CVM's snapshot is complete, in a session that began since we speak.
    pub fn vpn_end(&mut self) {
        self.vpn_ended = true;
    }

    /// FastForward came (back) with an empty FIB: there is nothing to preserve, every moment without routes loses packets.
    pub fn fib_lost(&mut self) {
        self.fib_kept = false;
    }

    /// What may be sent at `now`. Once we speak, what is true stays true.
    pub fn verdict(&mut self, now: Instant) -> Verdict {
        match self.phase {
            Phase::Reading => return Verdict { fib: !self.fib_kept, ..Verdict::default() },
            Phase::Following => return Verdict { fib: true, fib_end: self.vpn_ended, ..Verdict::default() },
            Phase::Speaking => {}
        }
        let since = |t: Instant| now.saturating_duration_since(t);
        self.ces.retain(|_, ce| !matches!(ce, Ce::Quiet(t) if since(*t) >= QUIET));
        if since(self.started) >= BFD_WAIT {
            self.statics.clear();
        }
        if since(self.started) >= DEFERRAL {
            self.ces.clear();
        }
        let ce = self.ces.is_empty() && self.statics.is_empty();
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
        if self.phase != Phase::Speaking {
            return None;
        }
        let quiet = self.ces.values().filter_map(|ce| if let Ce::Quiet(since) = ce { Some(*since + QUIET) } else { None });
        let fixed = [VPN_WAIT, BFD_WAIT, DEFERRAL].map(|wait| self.started + wait);
        quiet.chain(fixed).filter(|t| *t > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: Verdict = Verdict { relay: false, fib: false, fib_end: false, release_ce: false };
    const ALL: Verdict = Verdict { relay: true, fib: true, fib_end: true, release_ce: true };

    const CE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));
    const CE6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2));

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// One that has nothing to read.
    fn fresh(t: Instant, restarted: bool, ces: &[IpAddr], statics: &[IpAddr]) -> Restart {
        let mut r = Restart::new(t, restarted, ces.iter().copied(), statics.iter().copied());
        assert_eq!(r.verdict(t), Verdict { fib: !restarted, ..NONE });
        r.speaks(t, None);
        r
    }

    fn one(t: Instant) -> Restart {
        fresh(t, true, &[CE], &[])
    }

    fn two(t: Instant) -> Restart {
        fresh(t, true, &[CE, CE6], &[CE])
    }

    #[test]
    fn a_restart_waits_for_both_sides_in_either_order() {
        let t = Instant::now();
        let mut r = one(t);
        assert_eq!(r.verdict(t), NONE);
        r.vpn_end();
        assert_eq!(r.verdict(t), Verdict { release_ce: true, ..NONE });
        r.ce_up(t, CE, true, false);
        assert_eq!(r.verdict(t + s(9)), Verdict { release_ce: true, ..NONE });
        r.ce_end_of_rib(CE);
        assert_eq!(r.verdict(t), ALL);

        let mut r = one(t);
        r.ce_up(t, CE, true, false);
        r.ce_end_of_rib(CE);
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
        let mut r = one(t);
        r.ce_up(t, CE, true, false);
        r.ce_down(CE);
        r.ce_end_of_rib(CE);
        assert!(!r.verdict(t).relay);
        r.ce_up(t, CE, true, false);
        r.ce_end_of_rib(CE);
        assert!(r.verdict(t).relay);
        // Once complete, a later loss takes nothing back.
        r.ce_down(CE);
        assert!(r.verdict(t).relay);
    }

    #[test]
    fn a_peer_without_graceful_restart_is_done_when_it_falls_silent() {
        let t = Instant::now();
        let mut r = one(t);
        r.ce_up(t, CE, false, false);
        r.ce_update(t + s(1), CE);
        assert!(!r.verdict(t + s(2)).relay);
        assert_eq!(r.deadline(t + s(2)), Some(t + s(3)));
        assert!(r.verdict(t + s(3)).relay);
    }

    #[test]
    fn every_ce_and_every_watched_static_route_counts() {
        let t = Instant::now();
        let mut r = two(t);
        r.ce_up(t, CE, true, false);
        r.ce_up(t, CE6, true, false);
        r.ce_end_of_rib(CE);
        r.bfd_settled(CE);
        assert!(!r.verdict(t + s(20)).relay);
        r.ce_end_of_rib(CE6);
        assert!(r.verdict(t).relay);

        let mut r = two(t);
        r.ce_removed(CE6);
        r.ce_up(t, CE, true, false);
        r.ce_end_of_rib(CE);
        assert!(!r.verdict(t).relay);
        // A neighbour that is not there does not hold up the others for ever.
        assert_eq!(r.deadline(t + s(1)), Some(t + BFD_WAIT));
        assert!(r.verdict(t + BFD_WAIT).relay);
    }

    #[test]
    fn two_that_restart_at_once_do_not_wait_for_each_other() {
        let t = Instant::now();
        let mut r = one(t);
        r.ce_up(t, CE, true, true);
        assert!(!r.verdict(t).relay);
        assert!(r.verdict(t + QUIET).relay);
    }

    #[test]
    fn a_first_start_holds_back_only_the_release_to_the_ce() {
        let t = Instant::now();
        for ces in [vec![], vec![CE], vec![CE, CE6]] {
            let mut r = fresh(t, false, &ces, &[CE]);
            assert_eq!(r.verdict(t), Verdict { release_ce: false, ..ALL });
        }
    }

    #[test]
    fn an_empty_fib_is_filled_at_once() {
        let t = Instant::now();
        let mut r = one(t);
        r.fib_lost();
        assert_eq!(r.verdict(t), Verdict { fib: true, fib_end: true, ..NONE });
    }

    #[test]
    fn who_takes_over_waits_only_for_whom_the_predecessor_waited() {
        let t = Instant::now();
        // One session was complete, the other never was there: nothing of it can be stale.
        let mut r = Restart::new(t, true, [CE, CE6], []);
        r.ce_up(t, CE, false, false);
        r.vpn_end();
        assert_eq!(r.verdict(t + DEFERRAL), NONE);
        r.speaks(t, Some(&BTreeSet::new()));
        assert_eq!((r.verdict(t), r.awaited().count()), (ALL, 0));

        // The predecessor itself waited for both. One has told all since, the other has not.
        let mut r = Restart::new(t, true, [CE, CE6], []);
        r.ce_up(t, CE, true, false);
        r.ce_end_of_rib(CE);
        r.ce_up(t, CE6, true, false);
        r.speaks(t, Some(&BTreeSet::from([CE, CE6])));
        r.vpn_end();
        assert_eq!((r.verdict(t), r.awaited().collect::<Vec<_>>()), (Verdict { release_ce: true, ..NONE }, vec![CE6]));
        r.ce_end_of_rib(CE6);
        assert_eq!(r.verdict(t), ALL);

        // A session that ended after its End-of-RIB is to be waited for again.
        let mut r = Restart::new(t, true, [CE], []);
        r.ce_up(t, CE, true, false);
        r.ce_end_of_rib(CE);
        r.ce_down(CE);
        r.speaks(t, Some(&BTreeSet::from([CE])));
        assert!(!r.verdict(t).relay);
    }

    #[test]
    fn a_standby_fills_its_forwarder_and_speaks_when_promoted() {
        let t = Instant::now();
        let mut r = Restart::new(t, false, [CE], []);
        assert_eq!(r.verdict(t), Verdict { fib: true, ..NONE });
        r.ce_up(t, CE, true, false);
        r.ce_end_of_rib(CE);
        r.vpn_end();
        r.follows(true);
        assert_eq!(r.verdict(t + DEFERRAL), Verdict { fib: true, fib_end: true, ..NONE });
        r.follows(false);
        assert_eq!(r.verdict(t), NONE);
        r.follows(true);
        r.promoted(true);
        r.speaks(t + DEFERRAL, Some(&BTreeSet::new()));
        // The CE has what the leader told it until the CVM has told all again.
        assert_eq!(r.verdict(t + DEFERRAL), Verdict { release_ce: false, ..ALL });
        r.follows(false);
        r.vpn_end();
        assert_eq!(r.verdict(t + DEFERRAL), ALL);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Up(IpAddr, bool, bool),
        Down(IpAddr),
        Update(IpAddr),
        EndOfRib(IpAddr),
        Removed(IpAddr),
        Bfd,
        VpnEnd,
        FibLost,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let ce = || prop_oneof![Just(CE), Just(CE6)];
        prop_oneof![
            (ce(), any::<bool>(), any::<bool>()).prop_map(|(ce, gr, restarting)| Step::Up(ce, gr, restarting)),
            ce().prop_map(Step::Down),
            ce().prop_map(Step::Update),
            ce().prop_map(Step::EndOfRib),
            ce().prop_map(Step::Removed),
            Just(Step::Bfd),
            Just(Step::VpnEnd),
            Just(Step::FibLost),
            (0u64..20_000).prop_map(Step::Wait),
        ]
    }

    fn take(r: &mut Restart, now: &mut Instant, step: Step) {
        match step {
            Step::Up(ce, gr, restarting) => r.ce_up(*now, ce, gr, restarting),
            Step::Down(ce) => r.ce_down(ce),
            Step::Update(ce) => r.ce_update(*now, ce),
            Step::EndOfRib(ce) => r.ce_end_of_rib(ce),
            Step::Removed(ce) => r.ce_removed(ce),
            Step::Bfd => r.bfd_settled(CE),
            Step::VpnEnd => r.vpn_end(),
            Step::FibLost => r.fib_lost(),
            Step::Wait(ms) => *now += Duration::from_millis(ms),
        }
    }

    proptest! {
        /// In every order of events: no answer is ever taken back, FastForward is never swept before both sides
        /// are relearnt (unless it is empty), and each wait has its end. Nothing is said while a predecessor's records are read.
        #[test]
        fn every_order_of_events_is_safe_and_ends(
            read in prop::collection::vec(step(), 0..20),
            awaited in prop::option::of(prop::sample::subsequence(vec![CE, CE6], 0..=2)),
            steps in prop::collection::vec(step(), 0..40),
        ) {
            let mut now = Instant::now();
            let mut r = Restart::new(now, true, [CE, CE6], [CE]);
            let awaited = awaited.map(BTreeSet::from_iter);
            for step in read.into_iter().filter(|s| !matches!(s, Step::VpnEnd | Step::FibLost)) {
                take(&mut r, &mut now, step);
                prop_assert_eq!(r.verdict(now), NONE);
            }
            r.speaks(now, awaited.as_ref());
            prop_assert!(awaited.is_none_or(|awaited| r.awaited().all(|ce| awaited.contains(&ce))));
            let t0 = now;
            let (mut vpn, mut lost) = (false, false);
            let mut before = NONE;
            for step in steps {
                vpn |= matches!(step, Step::VpnEnd);
                lost |= matches!(step, Step::FibLost);
                take(&mut r, &mut now, step);
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
