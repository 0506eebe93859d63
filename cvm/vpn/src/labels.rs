//! The label space: a label per attachment (its VRF) and, where wanted, one per CE, with quarantine before another owner
//! gets it.
//!
//! A remote PE may send with a withdrawn label for as long as it takes the withdrawal to reach it; until then the
//! label must lead nowhere rather than into another customer's VRF.

use edgeplex_types::{AttachmentId, Label, LabelRange, Rd};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

mod file;

/// A wall clock that is off by more than this, between two looks, was set.
const STEP: Duration = Duration::from_secs(1);
/// Labels of one attachment, given and resting, beyond which its CEs get no new ones: a customer whose CEs come and go
/// must not use up everybody's labels.
const MAX_OF_ATTACHMENT: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelState {
    Active,
    /// Released; free again at that time.
    Quarantine(Instant),
}

/// What a label leads to: the VRF of an attachment, or one of its CEs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub attachment: AttachmentId,
    pub next_hop: Option<IpAddr>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.next_hop {
            Some(next_hop) => write!(f, "{} via {next_hop}", self.attachment),
            None => self.attachment.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("label {label} is fixed for {wanted} but {holder} has it")]
    Taken { label: Label, wanted: Owner, holder: Owner },
    #[error("label {label} is fixed for {wanted} but rests after {holder} gave it back")]
    Resting { label: Label, wanted: Owner, holder: Owner },
    #[error("label {label} of {wanted} is not used: it could not be stored")]
    NotStored { label: Label, wanted: Owner },
    #[error("no free label for {0}: the range is used up or rests")]
    Exhausted(Owner),
    #[error("no label for {0}: its attachment has {MAX_OF_ATTACHMENT} of them, those that rest included")]
    TooMany(Owner),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    owner: Owner,
    rd: Rd,
    state: LabelState,
}

/// One owner's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) owner: Owner,
    pub(crate) rd: Rd,
    pub(crate) fixed: Option<Label>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSpace {
    range: LabelRange,
    quarantine: Duration,
    entries: BTreeMap<Label, Entry>,
    held: BTreeMap<Owner, Label>,
    /// One moment by both clocks; the wall clock since 1970.
    clock: Option<(Instant, Duration)>,
}

impl LabelSpace {
    pub fn new(range: LabelRange, quarantine: Duration) -> Self {
        Self { range, quarantine, entries: BTreeMap::new(), held: BTreeMap::new(), clock: None }
    }

    /// Tells what the wall clock (since 1970) says now, by which a rest goes on over the end of the process: to be told before
    /// [`load`](Self::load), and every now and then. True if the clock was set, so that what is stored of rests is no longer right.
    pub fn set_clock(&mut self, now: Instant, wall: Duration) -> bool {
        let expected = self.clock.map_or(wall, |(then, wall)| wall + now.saturating_duration_since(then));
        self.clock = Some((now, wall));
        expected.abs_diff(wall) > STEP && self.entries.values().any(|e| e.state != LabelState::Active)
    }

    /// For allocations from now on; what is given stays.
    pub fn set_range(&mut self, range: LabelRange, quarantine: Duration) {
        (self.range, self.quarantine) = (range, quarantine);
    }

    pub fn get(&self, owner: &Owner) -> Option<Label> {
        self.held.get(owner).copied()
    }

    /// Every label in use or at rest, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Label, &Owner, Rd, LabelState)> {
        self.entries.iter().map(|(l, e)| (*l, &e.owner, e.rd, e.state))
    }

    /// Ends quarantines that are over; true if there was one.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, e| !matches!(e.state, LabelState::Quarantine(until) if until <= now));
        self.entries.len() != before
    }

    /// Makes `claims` (each owner once) the whole of what is in use: keeps what is held, gives back what is no longer claimed,
    /// takes up again what rests after the same owner, and allocates the lowest free labels in the order of the claims.
    /// Returns what could not be given.
    pub(crate) fn assign(&mut self, now: Instant, claims: &[Claim]) -> Vec<LabelError> {
        self.expire(now);
        let claimed: BTreeMap<&Owner, &Claim> = claims.iter().map(|c| (&c.owner, c)).collect();
        let mut released = vec![];
        for (owner, label) in &self.held {
            let keeps = claimed.get(owner).is_some_and(|c| c.fixed.is_none_or(|fixed| fixed == *label));
            if !keeps {
                released.push(owner.clone());
            }
        }
        for owner in &released {
            self.release(now, owner);
        }
        let mut errors = vec![];
        // Fixed labels first, so that no allocation takes one away from them.
        for claim in claims {
            if let Some(label) = claim.fixed {
                match self.entries.get(&label) {
                    // Its own label still (its RD may be another now) or again: nobody else can be reached by it.
                    Some(e) if e.owner == claim.owner => self.give(label, claim),
                    Some(Entry { owner, state: LabelState::Active, .. }) => {
                        errors.push(LabelError::Taken { label, wanted: claim.owner.clone(), holder: owner.clone() });
                    }
                    Some(Entry { owner, .. }) => {
                        errors.push(LabelError::Resting { label, wanted: claim.owner.clone(), holder: owner.clone() });
                    }
                    None => self.give(label, claim),
                }
            }
        }
        let reserved: BTreeSet<Label> = claims.iter().filter_map(|c| c.fixed).collect();
        let (mut resting, mut counts): (BTreeMap<Owner, Label>, BTreeMap<AttachmentId, usize>) = Default::default();
        for (label, entry) in &self.entries {
            *counts.entry(entry.owner.attachment.clone()).or_default() += 1;
            if entry.state != LabelState::Active && !reserved.contains(label) {
                resting.insert(entry.owner.clone(), *label);
            }
        }
        let mut candidate = self.range.first().get();
        for claim in claims.iter().filter(|c| c.fixed.is_none()) {
            if let Some(label) = self.get(&claim.owner).or_else(|| resting.get(&claim.owner).copied()) {
                self.give(label, claim);
                continue;
            }
            let count = counts.entry(claim.owner.attachment.clone()).or_default();
            if claim.owner.next_hop.is_some() && *count >= MAX_OF_ATTACHMENT {
                errors.push(LabelError::TooMany(claim.owner.clone()));
                continue;
            }
            let free = (candidate..=self.range.last().get())
                .filter_map(|l| Label::try_from(l).ok())
                .find(|l| !self.entries.contains_key(l) && !reserved.contains(l));
            match free {
                Some(label) => {
                    *count += 1;
                    self.give(label, claim);
                    candidate = label.get() + 1;
                }
                None => errors.push(LabelError::Exhausted(claim.owner.clone())),
            }
        }
        errors
    }

    fn give(&mut self, label: Label, claim: &Claim) {
        self.entries.insert(label, Entry { owner: claim.owner.clone(), rd: claim.rd, state: LabelState::Active });
        self.held.insert(claim.owner.clone(), label);
    }

    fn release(&mut self, now: Instant, owner: &Owner) {
        if let Some(label) = self.held.remove(owner)
            && let Some(entry) = self.entries.get_mut(&label)
        {
            entry.state = LabelState::Quarantine(now + self.quarantine);
        }
    }

    /// Who holds which label.
    pub(crate) fn held(&self) -> &BTreeMap<Owner, Label> {
        &self.held
    }
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
