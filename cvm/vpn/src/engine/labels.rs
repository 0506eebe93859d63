//! Which attachment, and which of its CEs, uses which label.
//!
//! A label is used (advertised, told to the PVM, matched by the switch) only after it is stored: one that a crash made us
//! forget would go to another customer while remote PEs still send with it. If storing fails, labels that are stored go on,
//! new ones wait, and storing is tried again.

use super::*;
use crate::labels::Claim;
use std::net::IpAddr;

/// Between two attempts to store labels.
const STORE_AGAIN: Duration = Duration::from_secs(1);

impl<P: Clone + Eq> Vpn<P> {
    /// To be stored; not all of them need be in use ([`Vpn::labels_in_use`]).
    pub fn labels(&self) -> &LabelSpace {
        &self.labels
    }

    /// Labels that lead to an attachment, in order. It may have several: its VRF's, and one for each of its CEs.
    pub fn labels_in_use(&self) -> BTreeMap<Label, &AttachmentId> {
        self.rib.attachments.values().flat_map(|a| a.labels().map(|(label, _)| (label, &a.config.id))).collect()
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

    /// Until now this engine followed another instance, which is gone: its labels are ours from here on, and the PVMs, which are still
    /// to come, are waited for as after a start.
    pub fn take_over(&mut self, now: Instant, labels: LabelSpace) {
        self.stored.clone_from(labels.held());
        self.labels = labels;
        self.storing = false;
        for slot in self.slots.values().copied().collect::<Vec<_>>() {
            let Some(id) = self.rib.attachments.get(&slot).filter(|a| a.config.label_per_ce).map(|a| a.config.id.clone()) else { continue };
            let ces = self.ces_of_the_past(&id);
            if let Some(attachment) = self.rib.attachments.get_mut(&slot) {
                attachment.expect_ces(ces);
            }
        }
        self.converged = false;
        self.converged_by = now + CONVERGED_AFTER;
        self.assign_labels(now);
    }

    pub(super) fn assign_labels(&mut self, now: Instant) {
        self.labels.set_range(self.config.labels, self.config.quarantine);
        self.rib.attachments.values_mut().for_each(|a| a.ces_changed = false);
        let before = self.labels.clone();
        let claims: Vec<_> = self.rib.attachments.values().flat_map(claims).collect();
        let errors = self.labels.assign(now, &claims);
        let new = errors.iter().filter(|e| !self.label_errors.contains(e));
        self.actions.extend(new.cloned().map(Action::LabelMissing));
        self.label_errors = errors;
        if self.labels != before {
            self.store_labels();
        }
        // Otherwise when it is known whether the new ones are stored: a label that changes then does so in one step.
        if !self.storing {
            self.use_labels();
        }
    }

    /// CEs that have labels of a past process.
    pub(super) fn ces_of_the_past(&self, attachment: &AttachmentId) -> Vec<IpAddr> {
        let first = Owner { attachment: attachment.clone(), next_hop: None };
        let held = self.labels.held().range(first..).map(|(owner, _)| owner);
        held.take_while(|o| o.attachment == *attachment).filter_map(|o| o.next_hop).collect()
    }

    fn store_labels(&mut self) {
        if !std::mem::replace(&mut self.storing, true) {
            self.actions.push_back(Action::LabelsChanged);
        }
    }

    /// Brings every attachment to the labels it has, if they are stored.
    fn use_labels(&mut self) {
        let (mut errors, mut changed) = (vec![], vec![]);
        for (slot, attachment) in &mut self.rib.attachments {
            let mut withheld = vec![];
            let id = attachment.config.id.clone();
            let usable = |next_hop| {
                let owner = Owner { attachment: id.clone(), next_hop };
                let given = self.labels.get(&owner)?;
                if self.stored.get(&owner) == Some(&given) {
                    return Some(given);
                }
                withheld.push(LabelError::NotStored { label: given, wanted: owner });
                None
            };
            if attachment.set_labels(usable) {
                changed.push(*slot);
            }
            if !std::mem::replace(&mut attachment.withheld, !withheld.is_empty()) {
                errors.extend(withheld);
            }
        }
        self.actions.extend(errors.into_iter().map(Action::LabelMissing));
        for slot in &changed {
            self.ready.extend(self.sessions.of(*slot).map(|(conn, _)| conn));
            self.exports.insert(*slot, None);
        }
        if !changed.is_empty() {
            self.fabric_changed();
        }
    }

    pub(super) fn tick_labels(&mut self, now: Instant) {
        let freed = self.labels.expire(now);
        if freed {
            self.store_labels();
        }
        let ces_changed = self.rib.attachments.values().any(|a| a.ces_changed && a.config.label_per_ce);
        if ces_changed || (freed && !self.label_errors.is_empty()) {
            self.assign_labels(now);
        }
        if self.store_again.is_some_and(|at| now >= at) {
            self.store_labels();
        }
    }
}

/// The VRF's label, and those of the CEs.
fn claims(a: &Attachment) -> Vec<Claim> {
    let claim = |next_hop, fixed| Claim { owner: Owner { attachment: a.config.id.clone(), next_hop }, rd: a.config.rd, fixed };
    std::iter::once(claim(None, a.config.label)).chain(a.wanted_ces().map(|ce| claim(Some(ce), None))).collect()
}
