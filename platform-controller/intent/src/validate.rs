//! How the documents fit together.

use crate::{Allocations, Attachment, Customer, Intent, IntentError, Platform, read::usable};
use edgeplex_types::{AttachmentId, Label, Name, Rd};
use std::collections::{BTreeMap, BTreeSet};

/// Checks the whole desired state; `allocations` are the RDs already given to attachments without one of their own.
pub fn validate(intent: &Intent, allocations: &Allocations) -> Result<(), IntentError> {
    let Some(platform) = &intent.platform else {
        return match intent.customers.values().next() {
            Some(c) => Err(IntentError::new(title(&c.name), "kind", "Customer", "needs a Platform: apply one first, or together with it")),
            None => Ok(()),
        };
    };
    check_platform(platform)?;
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
        check_customer(platform, c, &mut set)?;
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

fn check_platform(p: &Platform) -> Result<(), IntentError> {
    let wrong = |field: String, given: &dyn ToString, right: String| {
        Err(IntentError::new(format!("Platform {}", p.name), field, given.to_string(), right))
    };
    if p.core.is_empty() {
        return wrong("spec.core".into(), &"[]", "must name at least one core port".into());
    }
    for (i, c) in p.core.iter().enumerate() {
        for (j, other) in p.core.iter().enumerate().take(i) {
            if c.port == other.port {
                return wrong(
                    format!("spec.core[{i}].port"),
                    &c.port,
                    format!("is already spec.core[{j}].port; each core port is given once"),
                );
            }
            if c.address.contains(&other.address.network()) || other.address.contains(&c.address.network()) {
                return wrong(
                    format!("spec.core[{i}].address"),
                    &c.address,
                    format!("overlaps {} of spec.core[{j}]; core subnets must be distinct", other.address),
                );
            }
        }
        if c.address.contains(&p.loopback) {
            return wrong(
                "spec.loopback".into(),
                &p.loopback,
                format!("lies in the subnet of spec.core[{i}]; must be an address of its own"),
            );
        }
    }
    let mut access = BTreeSet::new();
    for (i, port) in p.access.iter().enumerate() {
        if p.core.iter().any(|c| c.port == *port) {
            return wrong(format!("spec.access[{i}]"), port, "is already a core port; a port is either core or access".into());
        }
        if !access.insert(port) {
            return wrong(format!("spec.access[{i}]"), port, "is given twice".into());
        }
    }
    let mut prefixes = BTreeSet::new();
    for (i, r) in p.core_routes.iter().enumerate() {
        if !prefixes.insert(r.prefix) {
            return wrong(format!("spec.coreRoutes[{i}].prefix"), &r.prefix, "is given twice".into());
        }
        let Some(c) = p.core.iter().find(|c| usable(c.address, r.via)) else {
            let subnets: Vec<_> = p.core.iter().map(|c| c.address.trunc().to_string()).collect();
            return wrong(
                format!("spec.coreRoutes[{i}].via"),
                &r.via,
                format!("must be a neighbour in a core subnet ({})", subnets.join(", ")),
            );
        };
        if c.address.addr() == r.via {
            return wrong(format!("spec.coreRoutes[{i}].via"), &r.via, "is this PE's own address; must be a neighbour's".into());
        }
    }
    let mut reflectors = BTreeSet::new();
    for (i, r) in p.route_reflectors.iter().enumerate() {
        let field = format!("spec.routeReflectors[{i}].address");
        if !reflectors.insert(r.address) {
            return wrong(field, &r.address, "is given twice".into());
        }
        if r.address == p.loopback || p.core.iter().any(|c| c.address.addr() == r.address) {
            return wrong(field, &r.address, "is this PE's own address; must be the route reflector's".into());
        }
    }
    Ok(())
}

fn check_customer(p: &Platform, c: &Customer, set: &mut Taken) -> Result<(), IntentError> {
    let title = title(&c.name);
    for (field, targets) in [("import", &c.vpn.import), ("export", &c.vpn.export)] {
        if let Some((i, t)) = targets.iter().enumerate().find(|(i, t)| targets[..*i].contains(t)) {
            return Err(IntentError::new(title, format!("spec.vpn.{field}[{i}]"), t, "is given twice"));
        }
    }
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
        check_attachment(p, a, &at)?;
        take(p, a, &id, &at, set)?;
    }
    Ok(())
}

struct Place<'a> {
    title: &'a str,
    prefix: String,
}

impl Place<'_> {
    fn wrong<T>(&self, field: &str, given: &dyn ToString, right: String) -> Result<T, IntentError> {
        Err(IntentError::new(self.title, format!("{}.{field}", self.prefix), given.to_string(), right))
    }
}

fn check_attachment(p: &Platform, a: &Attachment, at: &Place<'_>) -> Result<(), IntentError> {
    if !p.access.contains(&a.port) {
        return at.wrong("port", &a.port, format!("is not an access port of Platform {}; must be one of {}", p.name, p.access.join(", ")));
    }
    let subnet = a.address.trunc();
    if let Some(b) = &a.bgp {
        if b.neighbor == a.address.addr() {
            return at.wrong("bgp.neighbor", &b.neighbor, "is the PE's own address; must be the customer's".into());
        }
        if !usable(a.address, b.neighbor) {
            return at.wrong("bgp.neighbor", &b.neighbor, format!("must be a host address in the attachment's subnet {subnet}"));
        }
        if b.remote_as == p.asn {
            return at.wrong(
                "bgp.remoteAs",
                &b.remote_as,
                "is the platform's own AS; the customer's must differ (the session is eBGP)".into(),
            );
        }
    }
    let mut prefixes = BTreeSet::new();
    for (i, r) in a.static_routes.iter().enumerate() {
        if r.via == a.address.addr() {
            return at.wrong(&format!("static[{i}].via"), &r.via, "is the PE's own address; must be the customer's".into());
        }
        if !usable(a.address, r.via) {
            return at.wrong(&format!("static[{i}].via"), &r.via, format!("must be a host address in the attachment's subnet {subnet}"));
        }
        if !prefixes.insert(r.prefix) {
            return at.wrong(&format!("static[{i}].prefix"), &r.prefix, "is given twice".into());
        }
    }
    Ok(())
}

fn take(p: &Platform, a: &Attachment, id: &AttachmentId, at: &Place<'_>, set: &mut Taken) -> Result<(), IntentError> {
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
        if !range.contains(label) {
            return at.wrong("label", &label, format!("must be in the platform's label range, {} to {}", range.first(), range.last()));
        }
        if let Some(other) = set.labels.insert(label, id.clone()) {
            return at.wrong("label", &label, format!("is already the label of {other}; each attachment needs its own"));
        }
    }
    Ok(())
}
