//! `kind: Customer`.

use super::{at::At, bgp::bgp, values::protection};
use crate::{Attachment, Customer, IntentError, Leak, LeakFrom, StaticRoute, Vpn, VpnOverride};
use edgeplex_mgmt::config::LabelMode;
use edgeplex_types::{Name, VlanId};

pub(super) fn customer(name: Name, spec: &At<'_>) -> Result<Customer, IntentError> {
    let f = spec.fields(&["vpn", "protection", "attachments"])?;
    let protection = f.may("protection", protection)?;
    Ok(Customer { name, vpn: vpn(&f.need("vpn")?)?, protection, attachments: f.list("attachments", attachment)? })
}

fn vpn(a: &At<'_>) -> Result<Vpn, IntentError> {
    let f = a.fields(&["import", "export", "leak", "maxPaths", "labelMode"])?;
    Ok(Vpn {
        import: f.may("import", At::values)?.unwrap_or_default(),
        export: f.may("export", At::values)?.unwrap_or_default(),
        leak: f.list("leak", leak)?,
        max_paths: f.may("maxPaths", max_paths)?,
        label_mode: f.may("labelMode", label_mode)?,
    })
}

fn leak(a: &At<'_>) -> Result<Leak, IntentError> {
    let f = a.fields(&["from", "routeTargets", "prefixes"])?;
    let from = match (f.get("from"), f.get("routeTargets")) {
        (Some(from), None) => LeakFrom::From(from.parse()?),
        (None, Some(targets)) => {
            let all = targets.values()?;
            if all.is_empty() {
                return Err(targets.wrong("must name at least one route target"));
            }
            LeakFrom::RouteTargets(all)
        }
        _ => return Err(a.wrong("must have either from, a customer of this platform, or routeTargets, but not both")),
    };
    let at = f.need("prefixes")?;
    let prefixes = at.list(At::prefix)?;
    if prefixes.is_empty() {
        return Err(at.wrong("must name at least one prefix, such as 0.0.0.0/0"));
    }
    Ok(Leak { from, prefixes })
}

fn max_paths(a: &At<'_>) -> Result<u8, IntentError> {
    a.number(1..=16, "must be 1 to 16")
}

fn label_mode(a: &At<'_>) -> Result<LabelMode, IntentError> {
    a.choice(&[("per-attachment", LabelMode::PerAttachment), ("per-ce", LabelMode::PerCe)])
}

fn attachment(a: &At<'_>) -> Result<Attachment, IntentError> {
    let f =
        a.fields(&["name", "port", "vlan", "address", "address6", "mtu", "rd", "label", "vpn", "labelMode", "maxPaths", "bgp", "static"])?;
    let (name, port) = (f.need("name")?.parse()?, f.need("port")?.port()?);
    let (address, address6) = (f.may("address", At::interface_address)?, f.may("address6", At::interface_address6)?);
    if address.is_none() && address6.is_none() {
        return Err(IntentError::new(a.document, format!("{}.address", a.path), "(missing)", "give address, address6 or both"));
    }
    let vpn = f.may("vpn", |a| {
        let f = a.fields(&["import", "export"])?;
        Ok(VpnOverride { import: f.may("import", At::values)?, export: f.may("export", At::values)? })
    })?;
    Ok(Attachment {
        name,
        port,
        vlan: f.may("vlan", |a| {
            let n: u16 = a.number(1..=4094, "must be 1 to 4094")?;
            VlanId::try_from(n).map_err(|e| a.invalid(&e))
        })?,
        address,
        address6,
        mtu: f.may("mtu", At::mtu)?.unwrap_or(1500),
        rd: f.may("rd", At::parse)?,
        label: f.may("label", At::label)?,
        vpn: vpn.unwrap_or_default(),
        label_mode: f.may("labelMode", label_mode)?,
        max_paths: f.may("maxPaths", max_paths)?,
        bgp: f.get("bgp").map_or_else(|| Ok(vec![]), |a| if a.value.is_array() { a.list(bgp) } else { Ok(vec![bgp(&a)?]) })?,
        static_routes: f.list("static", |a| {
            let f = a.fields(&["prefix", "via", "bfd"])?;
            Ok(StaticRoute { prefix: f.need("prefix")?.prefix()?, via: f.need("via")?.address()?, bfd: f.may("bfd", At::bfd)? })
        })?,
    })
}
