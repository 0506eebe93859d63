//! The label space: one label per attachment (its VRF), with quarantine before another attachment gets it.
//!
//! A remote PE may send with a withdrawn label for as long as it takes the withdrawal to reach it; until then the
//! label must lead nowhere rather than into another customer's VRF.

use edgeplex_types::{
    AttachmentId, Label, LabelRange, Rd,
    wire::{self, WireError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Version of [`LabelSpace::save`]. Version 1 knew only that a label rests, not until when.
const VERSION: u8 = 2;
/// A wall clock that is off by more than this, between two looks, was set.
const STEP: Duration = Duration::from_secs(1);
/// In a file, the end of a rest that is not known.
const UNKNOWN: u64 = u64::MAX;

/// A row of the file: the last is when the label is free again, milliseconds since 1970, if it rests.
type Row<Owner> = (Label, Owner, Rd, Option<u64>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelState {
    Active,
    /// Released; free again at that time.
    Quarantine(Instant),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("label {label} is fixed for {wanted} but {holder} has it")]
    Taken { label: Label, wanted: AttachmentId, holder: AttachmentId },
    #[error("label {label} is fixed for {wanted} but rests after {holder} gave it back")]
    Resting { label: Label, wanted: AttachmentId, holder: AttachmentId },
    #[error("label {label} of {wanted} is not used: it could not be stored")]
    NotStored { label: Label, wanted: AttachmentId },
    #[error("no free label for {0}: the range is used up or rests")]
    Exhausted(AttachmentId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    owner: AttachmentId,
    rd: Rd,
    state: LabelState,
}

/// One attachment's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) owner: AttachmentId,
    pub(crate) rd: Rd,
    pub(crate) fixed: Option<Label>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSpace {
    range: LabelRange,
    quarantine: Duration,
    entries: BTreeMap<Label, Entry>,
    held: BTreeMap<AttachmentId, Label>,
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

    pub fn get(&self, owner: &AttachmentId) -> Option<Label> {
        self.held.get(owner).copied()
    }

    /// Every label in use or at rest, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Label, &AttachmentId, Rd, LabelState)> {
        self.entries.iter().map(|(l, e)| (*l, &e.owner, e.rd, e.state))
    }

    /// Ends quarantines that are over; true if there was one.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, e| !matches!(e.state, LabelState::Quarantine(until) if until <= now));
        self.entries.len() != before
    }

    /// Makes `claims` (each owner once) the whole of what is in use: keeps what is held, gives back what is no longer claimed,
    /// and allocates the lowest free labels in the order of the claims. Returns what could not be given.
    pub(crate) fn assign(&mut self, now: Instant, claims: &[Claim]) -> Vec<LabelError> {
        self.expire(now);
        let claimed: BTreeMap<&AttachmentId, &Claim> = claims.iter().map(|c| (&c.owner, c)).collect();
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
        let mut candidate = self.range.first().get();
        for claim in claims.iter().filter(|c| c.fixed.is_none()) {
            if let Some(label) = self.get(&claim.owner) {
                self.give(label, claim);
                continue;
            }
            let free = (candidate..=self.range.last().get())
                .filter_map(|l| Label::try_from(l).ok())
                .find(|l| !self.entries.contains_key(l) && !reserved.contains(l));
            match free {
                Some(label) => {
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

    fn release(&mut self, now: Instant, owner: &AttachmentId) {
        if let Some(label) = self.held.remove(owner)
            && let Some(entry) = self.entries.get_mut(&label)
        {
            entry.state = LabelState::Quarantine(now + self.quarantine);
        }
    }

    /// Who holds which label.
    pub(crate) fn held(&self) -> &BTreeMap<AttachmentId, Label> {
        &self.held
    }

    /// For a file, so that labels outlive the process, and rests go on by the wall clock.
    pub fn save(&self) -> Result<Vec<u8>, WireError> {
        let end = |state| match state {
            LabelState::Active => None,
            LabelState::Quarantine(until) => Some(self.wall(until)),
        };
        let rows: Vec<Row<&AttachmentId>> = self.entries.iter().map(|(l, e)| (*l, &e.owner, e.rd, end(e.state))).collect();
        wire::encode(VERSION, &rows)
    }

    fn wall(&self, at: Instant) -> u64 {
        let Some((now, wall)) = self.clock else { return UNKNOWN };
        let at = (wall + at.saturating_duration_since(now)).saturating_sub(now.saturating_duration_since(at));
        u64::try_from(at.as_millis()).unwrap_or(UNKNOWN)
    }

    /// Takes back what [`save`](Self::save) gave. What rested then rests until the time that was stored, but never longer
    /// than a whole quarantine from now: the clock may have been set back, or the end not be known.
    pub fn load(&mut self, now: Instant, bytes: &[u8]) -> Result<(), WireError> {
        let rows: Vec<Row<AttachmentId>> = match bytes.first() {
            Some(1) => {
                let rows: Vec<(Label, AttachmentId, Rd, bool)> = wire::decode(1, bytes)?;
                rows.into_iter().map(|(label, owner, rd, active)| (label, owner, rd, (!active).then_some(UNKNOWN))).collect()
            }
            _ => wire::decode(VERSION, bytes)?,
        };
        for (label, owner, rd, rests) in rows {
            let active = rests.is_none() && !label.is_reserved() && !self.held.contains_key(&owner);
            let rest = match (rests, self.clock) {
                (Some(end), Some(_)) => Duration::from_millis(end.saturating_sub(self.wall(now))).min(self.quarantine),
                _ => self.quarantine,
            };
            let state = if active { LabelState::Active } else { LabelState::Quarantine(now + rest) };
            if active && !self.entries.contains_key(&label) {
                self.held.insert(owner.clone(), label);
            }
            self.entries.entry(label).or_insert(Entry { owner, rd, state });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
