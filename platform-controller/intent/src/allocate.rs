//! Route distinguishers for attachments that were not given one.

use crate::{Intent, IntentError};
use edgeplex_types::{AttachmentId, Rd};
use std::collections::{BTreeMap, BTreeSet};

/// RDs given by the controller; stored, so that they stay whatever else comes and goes.
pub type Allocations = BTreeMap<AttachmentId, Rd>;

/// The allocations that `intent` needs: those there were, and for newcomers `<loopback>:<n>` with the lowest free n.
pub fn allocate(intent: &Intent, before: &Allocations) -> Result<Allocations, IntentError> {
    let Some(platform) = &intent.platform else { return Ok(Allocations::new()) };
    let mut out = Allocations::new();
    let mut used: BTreeSet<Rd> = intent.attachments().filter_map(|(_, _, a)| a.rd).collect();
    for (id, _, a) in intent.attachments() {
        if a.rd.is_none()
            && let Some(rd) = before.get(&id)
        {
            used.insert(*rd);
            out.insert(id, *rd);
        }
    }
    let [a, b, c, d] = platform.loopback.octets();
    // RFC 4364 §4.2, type 1: an IPv4 address and a 16-bit number.
    let mut free = (1..=u16::MAX).map(|n| {
        let [hi, lo] = n.to_be_bytes();
        Rd([0, 1, a, b, c, d, hi, lo])
    });
    for (id, _, attachment) in intent.attachments() {
        if attachment.rd.is_none() && !out.contains_key(&id) {
            let Some(rd) = free.by_ref().find(|rd| !used.contains(rd)) else {
                return Err(IntentError::new(
                    format!("Customer {}", id.customer),
                    "spec.attachments",
                    id,
                    "all 65535 automatic RDs are in use; give an rd",
                ));
            };
            out.insert(id, rd);
        }
    }
    Ok(out)
}
