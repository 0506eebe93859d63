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

/// Version of [`LabelSpace::save`].
const VERSION: u8 = 1;

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
}

impl LabelSpace {
    pub fn new(range: LabelRange, quarantine: Duration) -> Self {
        Self { range, quarantine, entries: BTreeMap::new(), held: BTreeMap::new() }
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
            if let Some(label) = claim.fixed
                && self.get(&claim.owner) != Some(label)
            {
                match self.entries.get(&label) {
                    // Its own label again: nobody else can be reached by it.
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

    /// For a file, so that labels outlive the process.
    pub fn save(&self) -> Result<Vec<u8>, WireError> {
        let rows: Vec<(Label, &AttachmentId, Rd, bool)> =
            self.entries.iter().map(|(l, e)| (*l, &e.owner, e.rd, e.state == LabelState::Active)).collect();
        wire::encode(VERSION, &rows)
    }

    /// Takes back what [`save`](Self::save) gave. What rested then rests again for the whole time: how long the process
    /// was away is not known.
    pub fn load(&mut self, now: Instant, bytes: &[u8]) -> Result<(), WireError> {
        let rows: Vec<(Label, AttachmentId, Rd, bool)> = wire::decode(VERSION, bytes)?;
        for (label, owner, rd, active) in rows {
            let active = active && !label.is_reserved() && !self.held.contains_key(&owner);
            let state = if active { LabelState::Active } else { LabelState::Quarantine(now + self.quarantine) };
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
