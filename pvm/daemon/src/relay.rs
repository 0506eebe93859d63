//! The PVM's half of a relay session (rules: `edgeplex-relay`), without its socket: messages and time go in, what to
//! send and what happened come out.
//!
//! ```text
//!   Calling ── Welcome ──► Up ── silence, refusal, a hole in the stream ──► Calling (another incarnation)
//!      └── refused: another instance has taken our place ──► Silent
//! ```
//! A standby hears the CVM's table and tells nothing.

use edgeplex_mgmt::config::{Instance, InstanceRole};
use edgeplex_relay::CustomerOp;
use edgeplex_relay::{DEAD_AFTER, KEEPALIVE, Refusal, Sync, ToCvm, ToPvm, VpnOp, WINDOW};
use edgeplex_types::{AttachmentId, Epoch};
use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Pause between two Hellos, between two while there is no connection, and after a refusal.
const HELLO: Duration = Duration::from_millis(250);
const NOBODY: Duration = Duration::from_millis(25);
const REFUSED: Duration = Duration::from_secs(2);

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The session stands: tell the CVM everything anew.
    Up,
    /// A piece of the CVM's stream.
    Vpn(Sync<VpnOp>),
    /// The session is over; what the CVM said stays.
    Down(&'static str),
    Refused(Refusal),
}

#[derive(Debug)]
enum State {
    Calling {
        hello_at: Instant,
    },
    Up(Up),
    /// Until this instance is another one.
    Silent,
}

#[derive(Debug)]
struct Up {
    epoch: Epoch,
    heard: Instant,
    said: Instant,
    /// `Ops` messages we may send.
    credits: u32,
    /// `Ops` messages of the CVM worked off since our last grant.
    worked: u32,
    /// The snapshot's `End` is out.
    ended: bool,
}

#[derive(Debug)]
pub(crate) struct Session {
    attachment: AttachmentId,
    instance: Instance,
    incarnation: u64,
    epoch: Epoch,
    state: State,
    /// The controller has said that this is the one that speaks: the CVM will find that the other is gone.
    insists: bool,
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A number that grows from one life of this daemon to the next, for epochs that never repeat.
pub(crate) fn clock_epoch() -> Epoch {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Epoch(u64::try_from(micros).unwrap_or(u64::MAX))
}

impl Session {
    pub(crate) fn new(attachment: AttachmentId, instance: Instance, now: Instant) -> Self {
        Self { attachment, instance, incarnation: random(), epoch: clock_epoch(), state: State::Calling { hello_at: now }, insists: false }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Gives the session up and calls again `after` a pause.
    fn restart(&mut self, now: Instant, after: Duration) {
        self.incarnation = random();
        self.state = State::Calling { hello_at: now + after };
    }

    /// Epochs from now on are above it: it may have been used by a former life, on a clock that has gone back since.
    pub(crate) fn epoch_above(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Of the present session or the last one.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Another role or generation is another session: the CVM hears of it at once.
    pub(crate) fn become_instance(&mut self, now: Instant, instance: Instance) {
        if self.instance != instance {
            self.instance = instance;
            self.restart(now, Duration::ZERO);
        }
    }

    /// It speaks although another instance of a higher generation did.
    pub(crate) fn insist(&mut self, now: Instant) {
        self.insists = true;
        self.restart(now, Duration::ZERO);
    }

    /// The socket lost a message of ours: what follows would not fit, so start anew.
    pub(crate) fn broken(&mut self, now: Instant) {
        self.restart(now, HELLO);
    }

    /// The socket has no connection yet to send a Hello on.
    pub(crate) fn nobody_there(&mut self, now: Instant) {
        if let State::Calling { hello_at } = &mut self.state {
            *hello_at = now + NOBODY;
        }
    }

    pub(crate) fn receive(&mut self, now: Instant, message: ToPvm, send: &mut Vec<ToCvm>) -> Option<Event> {
        let incarnation = self.incarnation;
        let of = match &message {
            ToPvm::Welcome { incarnation }
            | ToPvm::Refused { incarnation, .. }
            | ToPvm::Sync { incarnation, .. }
            | ToPvm::Grant { incarnation, .. }
            | ToPvm::Keepalive { incarnation } => *incarnation,
        };
        // Of a past session.
        if of != incarnation {
            return None;
        }
        if let State::Up(up) = &mut self.state {
            up.heard = now;
        }
        match (message, &mut self.state) {
            (ToPvm::Welcome { .. }, State::Calling { .. }) => {
                self.insists = false;
                self.epoch = Epoch(clock_epoch().0.max(self.epoch.0 + 1));
                let epoch = self.epoch;
                self.state = State::Up(Up { epoch, heard: now, said: now, credits: 0, worked: 0, ended: false });
                send.push(ToCvm::Grant { incarnation, credits: WINDOW });
                if self.instance.role == InstanceRole::Active {
                    send.push(ToCvm::Sync { incarnation, sync: Sync::Begin { epoch } });
                }
                Some(Event::Up)
            }
            (ToPvm::Refused { reason: Refusal::Superseded, .. }, _) if self.insists => {
                self.restart(now, REFUSED);
                Some(Event::Down("the CVM still hears another instance"))
            }
            (ToPvm::Refused { reason: Refusal::Superseded, .. }, _) => {
                self.state = State::Silent;
                Some(Event::Refused(Refusal::Superseded))
            }
            (ToPvm::Refused { reason, .. }, _) => {
                // The CVM was started again and does not know us yet: no reason to wait.
                let pause = if reason == Refusal::Unknown { Duration::ZERO } else { REFUSED };
                self.restart(now, pause);
                Some(Event::Refused(reason))
            }
            (ToPvm::Sync { sync, .. }, State::Up(up)) => {
                if let Sync::Ops { .. } = sync {
                    up.worked += 1;
                    if up.worked >= WINDOW / 2 {
                        send.push(ToCvm::Grant { incarnation, credits: std::mem::take(&mut up.worked) });
                        up.said = now;
                    }
                }
                Some(Event::Vpn(sync))
            }
            (ToPvm::Grant { credits, .. }, State::Up(up)) => {
                up.credits = up.credits.saturating_add(credits);
                None
            }
            (ToPvm::Welcome { .. } | ToPvm::Keepalive { .. } | ToPvm::Sync { .. } | ToPvm::Grant { .. }, _) => None,
        }
    }

    /// Hellos and keepalives that are due, and whether the CVM fell silent.
    pub(crate) fn tick(&mut self, now: Instant, send: &mut Vec<ToCvm>) -> Option<Event> {
        let incarnation = self.incarnation;
        match &mut self.state {
            State::Calling { hello_at } => {
                if now >= *hello_at {
                    *hello_at = now + HELLO;
                    let Instance { generation, role } = self.instance;
                    let standby = role == InstanceRole::Standby;
                    send.push(ToCvm::Hello { attachment: self.attachment.clone(), incarnation, generation, standby });
                }
                None
            }
            State::Silent => None,
            State::Up(up) if now.saturating_duration_since(up.heard) >= DEAD_AFTER => {
                self.restart(now, Duration::ZERO);
                Some(Event::Down("the CVM fell silent"))
            }
            State::Up(up) => {
                if now.saturating_duration_since(up.said) >= KEEPALIVE {
                    up.said = now;
                    send.push(ToCvm::Keepalive { incarnation });
                }
                None
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Calling { hello_at } => Some(*hello_at),
            State::Up(up) => Some((up.heard + DEAD_AFTER).min(up.said + KEEPALIVE)),
            State::Silent => None,
        }
    }

    /// Whether an `Ops` message may be sent.
    pub(crate) fn may_send(&self) -> bool {
        self.instance.role == InstanceRole::Active && matches!(&self.state, State::Up(up) if up.credits > 0)
    }

    /// Wraps a batch of exports and spends a credit on it; only after [`Self::may_send`].
    pub(crate) fn ops(&mut self, now: Instant, ops: Vec<CustomerOp>) -> Option<ToCvm> {
        let State::Up(up) = &mut self.state else { return None };
        up.credits = up.credits.checked_sub(1)?;
        up.said = now;
        Some(ToCvm::Sync { incarnation: self.incarnation, sync: Sync::Ops { epoch: up.epoch, ops } })
    }

    /// The end of the snapshot, once: when everything is sent and nothing more is to be waited for.
    pub(crate) fn end(&mut self, now: Instant) -> Option<ToCvm> {
        let State::Up(up) = &mut self.state else { return None };
        if self.instance.role == InstanceRole::Standby || std::mem::replace(&mut up.ended, true) {
            return None;
        }
        up.said = now;
        Some(ToCvm::Sync { incarnation: self.incarnation, sync: Sync::End { epoch: up.epoch } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(s: &mut Session, now: Instant) -> u64 {
        let mut out = vec![];
        assert_eq!(s.tick(now, &mut out), None);
        match &out[..] {
            [ToCvm::Hello { incarnation, .. }] => *incarnation,
            other => panic!("{other:?}"),
        }
    }

    fn up(s: &mut Session, now: Instant) -> u64 {
        let incarnation = call(s, now);
        let mut out = vec![];
        assert_eq!(s.receive(now, ToPvm::Welcome { incarnation }, &mut out), Some(Event::Up));
        assert!(matches!(out[..], [ToCvm::Grant { credits: WINDOW, .. }, ToCvm::Sync { sync: Sync::Begin { .. }, .. }]));
        incarnation
    }

    fn session(now: Instant) -> Session {
        Session::new("acme/denver-1".parse().unwrap(), Instance::default(), now)
    }

    #[test]
    fn each_ops_spends_a_credit_and_the_end_is_said_once() {
        let now = Instant::now();
        let mut s = session(now);
        assert!(!s.may_send() && s.end(now).is_none());
        let incarnation = up(&mut s, now);
        assert!(!s.may_send() && s.ops(now, vec![]).is_none());
        assert_eq!(s.receive(now, ToPvm::Grant { incarnation, credits: 1 }, &mut vec![]), None);
        assert!(s.may_send() && s.ops(now, vec![]).is_some() && !s.may_send());
        assert!(s.end(now).is_some() && s.end(now).is_none());
    }

    #[test]
    fn the_cvm_gets_new_credits_as_its_messages_are_worked_off() {
        let now = Instant::now();
        let mut s = session(now);
        let incarnation = up(&mut s, now);
        let mut out = vec![];
        for _ in 0..WINDOW {
            let sync = Sync::Ops { epoch: Epoch(1), ops: vec![] };
            assert!(matches!(s.receive(now, ToPvm::Sync { incarnation, sync }, &mut out), Some(Event::Vpn(_))));
        }
        let granted: u32 = out.iter().map(|m| if let ToCvm::Grant { credits, .. } = m { *credits } else { 0 }).sum();
        assert_eq!(granted, WINDOW);
    }

    #[test]
    fn messages_of_another_incarnation_change_nothing() {
        let now = Instant::now();
        let mut s = session(now);
        let incarnation = call(&mut s, now);
        let past = incarnation.wrapping_add(1);
        assert_eq!(s.receive(now, ToPvm::Welcome { incarnation: past }, &mut vec![]), None);
        assert!(!s.is_up());
        assert_eq!(s.receive(now, ToPvm::Refused { incarnation: past, reason: Refusal::Unknown }, &mut vec![]), None);
        // Before the Welcome nothing of the stream counts.
        let sync = Sync::Begin { epoch: Epoch(1) };
        assert_eq!(s.receive(now, ToPvm::Sync { incarnation, sync }, &mut vec![]), None);
    }

    #[test]
    fn silence_and_refusal_start_a_new_incarnation_with_a_new_epoch() {
        let now = Instant::now();
        let mut s = session(now);
        let first = up(&mut s, now);
        let epoch = s.epoch;
        let mut out = vec![];
        assert_eq!(s.tick(now + KEEPALIVE, &mut out), None);
        assert_eq!(out, [ToCvm::Keepalive { incarnation: first }]);
        let later = now + DEAD_AFTER;
        assert!(s.deadline().is_some_and(|d| d <= later));
        assert!(matches!(s.tick(later, &mut vec![]), Some(Event::Down(_))));
        let second = up(&mut s, later);
        assert!(second != first && s.epoch > epoch);
        let refusal = ToPvm::Refused { incarnation: second, reason: Refusal::Unknown };
        assert_eq!(s.receive(later, refusal, &mut vec![]), Some(Event::Refused(Refusal::Unknown)));
        assert_ne!(call(&mut s, later), second);
    }

    #[test]
    fn a_standby_only_listens_and_calls_again_when_it_is_promoted() {
        let now = Instant::now();
        let standby = Instance { generation: 3, role: InstanceRole::Standby };
        let mut s = Session::new("acme/denver-1".parse().unwrap(), standby, now);
        let mut out = vec![];
        s.tick(now, &mut out);
        let [ToCvm::Hello { incarnation, generation: 3, standby: true, .. }] = out[..] else { panic!("{out:?}") };
        out.clear();
        assert_eq!(s.receive(now, ToPvm::Welcome { incarnation }, &mut out), Some(Event::Up));
        assert_eq!(out, [ToCvm::Grant { incarnation, credits: WINDOW }]);
        s.receive(now, ToPvm::Grant { incarnation, credits: 1 }, &mut out);
        assert!(!s.may_send() && s.end(now).is_none());
        let before = s.epoch();
        s.become_instance(now, Instance { generation: 4, role: InstanceRole::Active });
        s.epoch_above(Epoch(u64::MAX / 2));
        assert_ne!(up(&mut s, now), incarnation);
        assert!(s.epoch().0 > u64::MAX / 2 && s.epoch() > before);
    }

    #[test]
    fn who_is_replaced_falls_silent_until_it_is_another_instance() {
        let now = Instant::now();
        let mut s = session(now);
        let incarnation = up(&mut s, now);
        let refusal = ToPvm::Refused { incarnation, reason: Refusal::Superseded };
        assert_eq!(s.receive(now, refusal, &mut vec![]), Some(Event::Refused(Refusal::Superseded)));
        let mut out = vec![];
        assert_eq!((s.tick(now + DEAD_AFTER, &mut out), out.len(), s.deadline()), (None, 0, None));
        assert_eq!(s.receive(now, ToPvm::Welcome { incarnation }, &mut out), None);
        s.become_instance(now, Instance { generation: 1, ..Instance::default() });
        let incarnation = up(&mut s, now);
        // Or until it is told that the other is gone: the CVM may not know that yet.
        s.receive(now, ToPvm::Refused { incarnation, reason: Refusal::Superseded }, &mut vec![]);
        assert_eq!(s.deadline(), None);
        s.insist(now);
        let incarnation = call(&mut s, now);
        let refusal = ToPvm::Refused { incarnation, reason: Refusal::Superseded };
        assert!(matches!(s.receive(now, refusal, &mut vec![]), Some(Event::Down(_))));
        up(&mut s, now + REFUSED);
    }
}
