//! The label space: labels are counted by those who may send packets with them, and given again only when nobody may.

use crate::Time;
use edgeplex_types::{Label, LabelRange};
use std::collections::BTreeMap;

/// Labels that a process may have given without storing them, where half of the range is not less.
const UNSTORED: u32 = 1000;

/// Reserved labels (null labels) pass through all of this untouched.
#[derive(Debug)]
pub(crate) struct Labels {
    range: LabelRange,
    /// The search goes round, so that a label rests as long as the range allows.
    next: u32,
    /// Our binding counts as one, and so does each neighbour that holds the label or has not yet released it.
    users: BTreeMap<Label, usize>,
    /// Free, but not before this time: a neighbour may use it until its graceful restart has run out.
    resting: BTreeMap<Label, Time>,
}

impl Labels {
    pub(crate) fn new(range: LabelRange) -> Self {
        Self { range, next: range.first().get(), users: BTreeMap::new(), resting: BTreeMap::new() }
    }

    pub(crate) fn set_range(&mut self, range: LabelRange) {
        if range != self.range {
            self.range = range;
            self.next = range.first().get();
        }
    }

    pub(crate) fn range(&self) -> LabelRange {
        self.range
    }

    /// A label that nobody uses, with one user. `None`: there is none.
    pub(crate) fn allocate(&mut self) -> Option<Label> {
        let (first, last) = (self.range.first().get(), self.range.last().get());
        let from = if (first..=last).contains(&self.next) { self.next } else { first };
        let candidates = (from..=last).chain(first..from).filter_map(|l| Label::try_from(l).ok());
        let label = candidates.into_iter().find(|l| !self.users.contains_key(l) && !self.resting.contains_key(l))?;
        self.next = label.get() + 1;
        self.users.insert(label, 1);
        Some(label)
    }

    /// Whether it is worth to try.
    pub(crate) fn has_room(&self) -> bool {
        let resting = self.resting.keys().filter(|label| !self.users.contains_key(label)).count();
        let size = self.range.last().get() - self.range.first().get() + 1;
        u32::try_from(self.users.len() + resting).is_ok_and(|taken| taken < size)
    }

    /// Nobody holds it, but some may use it until their graceful restart has run out.
    pub(crate) fn is_resting(&self, label: Label) -> bool {
        !self.users.contains_key(&label) && self.resting.contains_key(&label)
    }

    /// Labels whose rest is over since this was asked last.
    pub(crate) fn rested(&mut self, now: Time) -> Vec<Label> {
        self.resting.extract_if(.., |_, until| *until <= now).map(|(label, _)| label).collect()
    }

    pub(crate) fn hold(&mut self, label: Label) {
        if !label.is_reserved() {
            *self.users.entry(label).or_default() += 1;
        }
    }

    /// One user less; `rest`: it may still use the label until then. Gives whether it was the last.
    pub(crate) fn release(&mut self, label: Label, rest: Option<Time>) -> bool {
        if label.is_reserved() {
            return false;
        }
        if let Some(until) = rest {
            let resting = self.resting.entry(label).or_default();
            *resting = until.max(*resting);
        }
        if let Some(users) = self.users.get_mut(&label) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.users.remove(&label);
                return true;
            }
        }
        false
    }

    /// Labels well beyond this one are given first: a process that ended may have told neighbours its last ones and not have stored
    /// them.
    pub(crate) fn start_beyond(&mut self, label: Label) {
        let (first, last) = (self.range.first().get(), self.range.last().get());
        let size = last - first + 1;
        let gap = UNSTORED.min(size / 2);
        self.next = first + (label.get().saturating_sub(first) + 1 + gap) % size;
    }

    /// Labels behind this one are given first: all that were ever given are known.
    pub(crate) fn start_behind(&mut self, label: Label) {
        self.next = label.get() + 1;
    }

    /// Labels with at least one user, and how many each has.
    pub(crate) fn users(&self) -> &BTreeMap<Label, usize> {
        &self.users
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Time = Time::from_secs(1);

    fn label(l: u32) -> Label {
        Label::try_from(l).unwrap()
    }

    #[test]
    fn a_label_is_given_again_when_its_last_user_is_gone() {
        let mut labels = Labels::new(LabelRange::new(label(100), label(101)).unwrap());
        assert_eq!(labels.allocate(), Some(label(100)));
        labels.hold(label(100));
        assert_eq!(labels.allocate(), Some(label(101)));
        assert_eq!(labels.allocate(), None);
        labels.release(label(100), None);
        assert_eq!(labels.allocate(), None, "a neighbour holds it");
        labels.release(label(100), Some(SECOND * 5));
        assert_eq!((labels.allocate(), labels.rested(SECOND * 4)), (None, vec![]), "it rests");
        assert!(labels.is_resting(label(100)) && !labels.is_resting(label(101)));
        assert_eq!((labels.rested(SECOND * 5), labels.allocate()), (vec![label(100)], Some(label(100))));
        labels.hold(Label::IMPLICIT_NULL);
        labels.release(Label::IMPLICIT_NULL, None);
        assert_eq!(labels.users().len(), 2);
    }

    #[test]
    fn a_new_process_begins_beyond_what_was_not_stored() {
        for (last, stored, want) in [(100_000, 500, 1501), (100_000, 99_500, 600), (109, 103, 109), (109, 107, 103), (100, 100, 100)] {
            let mut labels = Labels::new(LabelRange::new(label(100), label(last)).unwrap());
            labels.start_beyond(label(stored));
            assert_eq!(labels.allocate(), Some(label(want)), "{stored} of 100-{last}");
        }
    }

    #[test]
    fn the_search_goes_round() {
        let mut labels = Labels::new(LabelRange::new(label(100), label(110)).unwrap());
        for want in [100, 101, 102] {
            assert_eq!(labels.allocate(), Some(label(want)));
            labels.release(label(want), None);
        }
    }
}
