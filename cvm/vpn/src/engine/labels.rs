//! Which attachment uses which label.
//!
//! A label is used (advertised, told to the PVM, matched by the switch) only after it is stored: one that a crash made us
//! forget would go to another customer while remote PEs still send with it. If storing fails, labels that are stored go on,
//! new ones wait, and storing is tried again.

use super::*;
use crate::labels::Claim;

/// Between two attempts to store labels.
const STORE_AGAIN: Duration = Duration::from_secs(1);

impl<P: Clone + Eq> Vpn<P> {
    /// To be stored; not all of them need be in use ([`Vpn::labels_in_use`]).
    pub fn labels(&self) -> &LabelSpace {
        &self.labels
    }

    /// Labels that lead to an attachment, in order.
    pub fn labels_in_use(&self) -> BTreeMap<Label, &AttachmentId> {
        self.attachments.values().filter_map(|a| Some((a.label?, &a.config.id))).collect()
    }

    /// What the wall clock says, since 1970: some times a second ([`LabelSpace::set_clock`]).
    pub fn set_clock(&mut self, now: Instant, wall: Duration) {
        if self.labels.set_clock(now, wall) {
            self.store_labels();
        }
    }

    /// The answer to [`Action::LabelsChanged`]: whether [`Vpn::labels`], as they are, have been stored.
    pub fn labels_stored(&mut self, now: Instant, stored: bool) {
        self.storing = false;
        if stored {
            self.stored.clone_from(self.labels.held());
            self.store_again = None;
        } else {
            self.store_again = Some(now + STORE_AGAIN);
        }
        self.use_labels();
    }

    pub(super) fn assign_labels(&mut self, now: Instant) {
        self.labels.set_range(self.config.labels, self.config.quarantine);
        let before = self.labels.clone();
        let claim = |a: &Attachment| Claim { owner: a.config.id.clone(), rd: a.config.rd, fixed: a.config.label };
        let claims: Vec<_> = self.attachments.values().map(claim).collect();
        self.actions.extend(self.labels.assign(now, &claims).into_iter().map(Action::LabelMissing));
        if self.labels != before {
            self.store_labels();
        }
        // Otherwise when it is known whether the new ones are stored: a label that changes then does so in one step.
        if !self.storing {
            self.use_labels();
        }
    }

    fn store_labels(&mut self) {
        if !std::mem::replace(&mut self.storing, true) {
            self.actions.push_back(Action::LabelsChanged);
        }
    }

    /// Brings every attachment to the label it has, if that one is stored.
    fn use_labels(&mut self) {
        for slot in self.attachments.keys().copied().collect::<Vec<_>>() {
            let Some(attachment) = self.attachments.get_mut(&slot) else { continue };
            let given = self.labels.get(&attachment.config.id);
            let label = given.filter(|l| self.stored.get(&attachment.config.id) == Some(l));
            let withheld = given.filter(|_| label.is_none());
            if let Some(label) = withheld
                && !attachment.withheld
            {
                let wanted = attachment.config.id.clone();
                self.actions.push_back(Action::LabelMissing(LabelError::NotStored { label, wanted }));
            }
            attachment.withheld = withheld.is_some();
            if attachment.label == label {
                continue;
            }
            attachment.label = label;
            self.ready.insert(slot);
            if label.is_some() {
                self.export_all(slot)
            } else {
                self.unexport_all(slot)
            }
            self.fabric_changed();
        }
    }

    pub(super) fn tick_labels(&mut self, now: Instant) {
        if self.labels.expire(now) {
            self.store_labels();
            if self.attachments.values().any(|a| self.labels.get(&a.config.id).is_none()) {
                self.assign_labels(now);
            }
        }
        if self.store_again.is_some_and(|at| now >= at) {
            self.store_labels();
        }
    }
}
