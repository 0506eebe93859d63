//! A customer among the others: what attachments may not share, and what one VPN takes from another.

use super::{Place, Taken, attachment, title};
use crate::{Attachment, Customer, Intent, IntentError, LeakFrom, Platform};
use edgeplex_mgmt::config::LabelMode;
use edgeplex_types::AttachmentId;

pub(super) fn check(intent: &Intent, p: &Platform, c: &Customer, set: &mut Taken) -> Result<(), IntentError> {
    let title = title(&c.name);
    leaks(intent, c)?;
    for (i, a) in c.attachments.iter().enumerate() {
        let id = AttachmentId { customer: c.name.clone(), attachment: a.name.clone() };
        let at = Place { title: &title, prefix: format!("spec.attachments[{i}]") };
        if c.attachments[..i].iter().any(|b| b.name == a.name) {
            return at.wrong("name", &a.name, "is given twice; each attachment of a customer needs its own name".into());
        }
        // Names may hold hyphens, so `a-b/c` and `a/b-c` would be one VM.
        if let Some(other) = set.vms.insert(format!("{}-{}", id.customer, id.attachment), id.clone()) {
            return at.wrong("name", &a.name, format!("makes the same VM name as {other}; choose another"));
        }
        attachment::check(p, a, &at)?;
        take(p, c, a, &id, &at, set)?;
    }
    Ok(())
}

/// Another VPN must be here, or be named by its route targets.
fn leaks(intent: &Intent, c: &Customer) -> Result<(), IntentError> {
    for (i, leak) in c.vpn.leak.iter().enumerate() {
        let wrong = |field: &str, given: &dyn ToString, right: String| {
            Err(IntentError::new(title(&c.name), format!("spec.vpn.leak[{i}].{field}"), given.to_string(), right))
        };
        if let Some((n, prefix)) = leak.prefixes.iter().enumerate().find(|(n, p)| leak.prefixes[..*n].contains(p)) {
            return wrong(&format!("prefixes[{n}]"), prefix, "is given twice".into());
        }
        let LeakFrom::From(name) = &leak.from else { continue };
        if *name == c.name {
            return wrong("from", name, "is this VPN itself; must be another".into());
        }
        if !intent.customers.contains_key(name) {
            let right = "is no customer of this platform; give routeTargets, those that the VPN exports, instead";
            return wrong("from", name, right.into());
        }
        if intent.leaked(&leak.from).is_empty() {
            return wrong("from", name, "exports no route targets; nothing could be taken from it".into());
        }
    }
    Ok(())
}

fn take(p: &Platform, c: &Customer, a: &Attachment, id: &AttachmentId, at: &Place<'_>, set: &mut Taken) -> Result<(), IntentError> {
    let vlan = a.vlan.map(edgeplex_types::VlanId::get);
    if let Some(other) = set.vlans.insert((a.port.clone(), vlan), id.clone()) {
        return match vlan {
            Some(v) => at.wrong("vlan", &v, format!("is already used on port {} by {other}; choose another VLAN or port", a.port)),
            None => at.wrong("vlan", &"(untagged)", format!("port {} is already used untagged by {other}; give both a VLAN", a.port)),
        };
    }
    // Untagged frames of a port that also carries tags are nobody's for certain: a CE that forgets a tag would land in
    // another customer's VPN.
    let (tagged, other) = set.ports.entry(a.port.clone()).or_insert_with(|| (vlan.is_some(), id.clone()));
    if *tagged != vlan.is_some() {
        let (given, how) = vlan.map_or(("(untagged)".to_owned(), "tagged"), |v| (v.to_string(), "untagged"));
        return at.wrong(
            "vlan",
            &given,
            format!("port {} is already used {how} by {other}; give every attachment of the port a VLAN", a.port),
        );
    }
    if let Some(rd) = a.rd
        && let Some(other) = set.rds.insert(rd, id.clone())
    {
        return at.wrong("rd", &rd, format!("is already the RD of {other}; each attachment needs its own"));
    }
    if let Some(label) = a.label {
        let range = p.labels.range;
        if c.label_mode_of(a) == LabelMode::PerCe {
            return at.wrong("label", &label, "is fixed, but with labelMode per-ce each CE gets one of its own; leave it out".into());
        }
        if !range.contains(label) {
            return at.wrong("label", &label, format!("must be in the platform's label range, {} to {}", range.first(), range.last()));
        }
        if let Some(other) = set.labels.insert(label, id.clone()) {
            return at.wrong("label", &label, format!("is already the label of {other}; each attachment needs its own"));
        }
    }
    Ok(())
}
