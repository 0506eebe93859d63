//! What the CVM is told.

use super::{Keys, LSR_SOCKET, RELAY_ENDPOINT, VERSION, core_interface, core_mac};
use crate::{Allocations, Attachment, Authentication, AuthenticationType, Core, Customer, Intent, Ldp, OspfPort, Platform};
use edgeplex_mgmt::config::{self as mgmt, CvmAttachment, CvmConfig, Instance, OspfAuthentication, RelayServer};
use edgeplex_types::AttachmentId;
use std::collections::BTreeMap;

/// Seconds that a silent PVM's routes stay.
const STALE_S: u32 = 120;

/// `keys` of every attachment; one without a key is left out, for it cannot be let in.
pub fn cvm_config(
    intent: &Intent,
    p: &Platform,
    rds: &Allocations,
    own: &Keys,
    keys: &BTreeMap<AttachmentId, Keys>,
    instance: Instance,
) -> CvmConfig {
    let attachments = intent.attachments().filter_map(|(id, c, a)| {
        let rd = a.rd.or_else(|| rds.get(&id).copied())?;
        let key = keys.get(&id)?.public.clone();
        Some(CvmAttachment {
            id,
            rd,
            import: c.import_of(a).to_vec(),
            export: c.export_of(a).to_vec(),
            leaks: leaks(intent, c),
            label: a.label,
            label_mode: c.label_mode_of(a),
            max_paths: c.max_paths_of(a),
            relay_public_key: key,
            max_routes: max_routes(a),
        })
    });
    let reflector =
        |r: &crate::Reflector| mgmt::CoreNeighbor { address: r.address, password: r.password.clone(), bfd: r.bfd.map(Into::into) };
    CvmConfig {
        version: VERSION,
        name: p.name.clone(),
        role: p.role,
        // A P router has none, and asks for none.
        asn: p.asn.unwrap_or(0),
        loopback: p.loopback,
        core: p.core.iter().enumerate().map(|(n, c)| interface(p, n, c)).collect(),
        core_routes: p.core_routes.iter().map(|r| mgmt::CoreRoute { prefix: r.prefix, via: r.via }).collect(),
        ospf: p.ospf.as_ref().map(|o| mgmt::Ospf {
            area: o.area,
            stub_router: o.stub_router,
            grace_s: o.grace,
            loop_free_alternates: o.loop_free_alternates,
        }),
        ldp: p.ldp.as_ref().map(|l| ldp(p, l)),
        lsr_socket: p.ldp.as_ref().map(|_| LSR_SOCKET.into()),
        route_reflectors: p.route_reflectors.iter().map(reflector).collect(),
        labels: p.labels.range,
        label_quarantine_s: p.labels.quarantine,
        stale_s: STALE_S,
        relay: RelayServer { endpoint: RELAY_ENDPOINT.into(), secret_key: own.secret.clone() },
        instance,
        attachments: attachments.collect(),
    }
}

fn interface(p: &Platform, n: usize, c: &Core) -> mgmt::CoreInterface {
    mgmt::CoreInterface {
        name: core_interface(n),
        mac: core_mac(p, &c.port),
        address: c.address,
        mtu: c.mtu,
        ospf: c.ospf.as_ref().map(ospf_port),
        ldp: c.ldp,
        bfd: c.bfd.map(Into::into),
    }
}

fn ospf_port(o: &OspfPort) -> mgmt::OspfInterface {
    mgmt::OspfInterface {
        network: o.network,
        cost: o.cost,
        priority: o.priority,
        hello_s: o.hello,
        dead_s: o.dead,
        retransmit_s: o.retransmit,
        passive: o.passive,
        authentication: o.authentication.as_ref().map(authentication).unwrap_or_default(),
    }
}

fn authentication(a: &Authentication) -> OspfAuthentication {
    let (key_id, password) = (a.key_id, a.password.clone());
    match a.kind {
        AuthenticationType::Simple => OspfAuthentication::Simple { password },
        AuthenticationType::Md5 => OspfAuthentication::Md5 { key_id, password },
        AuthenticationType::HmacSha256 => OspfAuthentication::HmacSha256 { key_id, password },
        AuthenticationType::HmacSha384 => OspfAuthentication::HmacSha384 { key_id, password },
        AuthenticationType::HmacSha512 => OspfAuthentication::HmacSha512 { key_id, password },
    }
}

fn ldp(p: &Platform, l: &Ldp) -> mgmt::Ldp {
    let password = |n: &crate::LdpPassword| mgmt::LdpPassword { neighbor: n.neighbor, password: n.password.clone() };
    mgmt::Ldp {
        labels: l.labels,
        hello_s: l.hello,
        hold_s: l.hold,
        keepalive_s: l.keepalive,
        explicit_null: l.explicit_null,
        reconnect_s: l.reconnect,
        // Without OSPF there is no cost to raise.
        igp_sync: l.igp_sync && p.ospf.is_some(),
        passwords: l.passwords.iter().map(password).collect(),
    }
}

fn leaks(intent: &Intent, c: &Customer) -> Vec<mgmt::Leak> {
    c.vpn.leak.iter().map(|l| mgmt::Leak { import: intent.leaked(&l.from), prefixes: l.prefixes.clone() }).collect()
}

/// What an honest PVM can export at most: what the customer may send, the static routes and the connected ones. No
/// limit where a neighbour has none.
fn max_routes(a: &Attachment) -> Option<u32> {
    let own = a.static_routes.len() + a.addresses().count();
    let own = u32::try_from(own).unwrap_or(u32::MAX);
    a.bgp.iter().try_fold(own, |sum, b| b.max_prefix.filter(|m| !m.warning_only).map(|m| sum.saturating_add(m.limit)))
}
