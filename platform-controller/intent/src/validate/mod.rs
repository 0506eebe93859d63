//! How the documents fit together.

mod attachment;
mod customer;
mod platform;

use crate::{Allocations, Intent, IntentError};
use edgeplex_mgmt::config::Role;
use edgeplex_types::{AttachmentId, Label, Name, Rd};
use std::collections::BTreeMap;

/// Checks the whole desired state; `allocations` are the RDs already given to attachments without one of their own.
pub fn validate(intent: &Intent, allocations: &Allocations) -> Result<(), IntentError> {
    let Some(platform) = &intent.platform else {
        return match intent.customers.values().next() {
            Some(c) => Err(IntentError::new(title(&c.name), "kind", "Customer", "needs a Platform: apply one first, or together with it")),
            None => Ok(()),
        };
    };
    platform::check(platform)?;
    if platform.role == Role::P
        && let Some(c) = intent.customers.values().next()
    {
        let right = format!("has no place on Platform {}, a P router (role: p); only a PE has customers", platform.name);
        return Err(IntentError::new(title(&c.name), "kind", "Customer", right));
    }
    let mut set = Taken::default();
    // Explicit RDs first: an automatic one that is in the way of them is the attachment's, not free.
    for (id, _, a) in intent.attachments() {
        if a.rd.is_none()
            && let Some(rd) = allocations.get(&id)
        {
            set.rds.insert(*rd, id);
        }
    }
    for c in intent.customers.values() {
        customer::check(intent, platform, c, &mut set)?;
    }
    Ok(())
}

fn title(customer: &Name) -> String {
    format!("Customer {customer}")
}

/// What attachments may not share.
#[derive(Default)]
struct Taken {
    vlans: BTreeMap<(String, Option<u16>), AttachmentId>,
    ports: BTreeMap<String, (bool, AttachmentId)>,
    rds: BTreeMap<Rd, AttachmentId>,
    labels: BTreeMap<Label, AttachmentId>,
    vms: BTreeMap<String, AttachmentId>,
}

/// Where in a document.
struct Place<'a> {
    title: &'a str,
    prefix: String,
}

impl Place<'_> {
    /// What is wrong with a field below it.
    fn wrong<T>(&self, field: &str, given: &dyn ToString, right: String) -> Result<T, IntentError> {
        Err(IntentError::new(self.title, format!("{}.{field}", self.prefix), given.to_string(), right))
    }
}
