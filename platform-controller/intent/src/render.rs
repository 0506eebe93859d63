//! From intent to the configuration of the VMs.

use crate::{Allocations, Attachment, Intent, Platform};
use edgeplex_mgmt::config::{
    CoreInterface, CoreNeighbor, CoreRoute, CustomerBgp, CvmAttachment, CvmConfig, LabelMode, MaxPrefix, PvmConfig, RelayClient, RelayServer, Role,
    StaticRoute,
};
use edgeplex_types::{AttachmentId, MacAddr};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where the relay is, as the VMs see it.
const RELAY_ENDPOINT: &str = "ipc:///run/relay/relay.sock";
/// Version of the configuration files.
const VERSION: u8 = 1;
/// Seconds that a silent PVM's routes stay.
const STALE_S: u32 = 120;
/// RFC 4271 §10 suggests it.
const HOLD_TIME_S: u16 = 90;

/// A CURVE key pair, Z85.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    pub public: String,
    pub secret: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A locally administered MAC address, the same each time for the same parts (64-bit FNV-1a, mixed as MurmurHash3 ends).
fn mac(parts: &[&str]) -> MacAddr {
    let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let mut h = parts.iter().fold(0xcbf2_9ce4_8422_2325, |h, p| p.bytes().chain([0xff]).fold(h, step));
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let [_, _, a, b, c, d, e, f] = (h ^ (h >> 33)).to_be_bytes();
    // IEEE 802 §8.2: bit 1 of the first octet says locally administered, bit 0 clear says individual.
    MacAddr([a & 0xfc | 0x02, b, c, d, e, f])
}

fn seed(p: &Platform) -> String {
    format!("{}/{}", p.name, p.loopback)
}

/// Name of the CVM's vNIC for the n-th core port.
pub fn core_interface(n: usize) -> String {
    format!("core{n}")
}

/// The PE's MAC address on a core port.
pub fn core_mac(p: &Platform, port: &str) -> MacAddr {
    mac(&[&seed(p), "core", port])
}

/// The PE's MAC address towards the customer.
pub fn pe_mac(p: &Platform, id: &AttachmentId) -> MacAddr {
    mac(&[&seed(p), "pe", &id.to_string()])
}

/// Of the PVM's `cust` vNIC: FastForward speaks with [`pe_mac`]; this one only tells the vNIC apart.
pub fn pvm_cust_mac(p: &Platform, id: &AttachmentId) -> MacAddr {
    mac(&[&seed(p), "cust", &id.to_string()])
}

/// Of the PVM's `core` vNIC; frames carry [`core_mac`].
pub fn pvm_core_mac(p: &Platform, id: &AttachmentId) -> MacAddr {
    mac(&[&seed(p), "pvm-core", &id.to_string()])
}

/// What fits through every core port.
pub fn core_mtu(p: &Platform) -> u16 {
    p.core.iter().map(|c| c.mtu).min().unwrap_or(1500)
}

/// What an honest PVM can export at most: what the customer may send, the static routes and the connected one.
fn max_routes(a: &Attachment) -> Option<u32> {
    let own = u32::try_from(a.static_routes.len()).unwrap_or(u32::MAX).saturating_add(1);
    match &a.bgp {
        None => Some(own),
        Some(bgp) => bgp.max_prefix.map(|most| most.saturating_add(own)),
    }
}

/// `keys` of every attachment; one without a key is left out, for it cannot be let in.
pub fn cvm_config(intent: &Intent, p: &Platform, rds: &Allocations, own: &Keys, keys: &BTreeMap<AttachmentId, Keys>) -> CvmConfig {
    let attachments = intent.attachments().filter_map(|(id, c, a)| {
        let rd = a.rd.or_else(|| rds.get(&id).copied())?;
        let relay_public_key = keys.get(&id)?.public.clone();
        Some(CvmAttachment {
            id,
            rd,
            import: c.vpn.import.clone(),
            export: c.vpn.export.clone(),
            leaks: vec![],
            label: a.label,
            label_mode: LabelMode::default(),
            max_paths: 1,
            relay_public_key,
            max_routes: max_routes(a),
        })
    });
    let core = p.core.iter().enumerate();
    CvmConfig {
        version: VERSION,
        name: p.name.clone(),
        role: Role::Pe,
        asn: p.asn,
        loopback: p.loopback,
        ospf: None,
        ldp: None,
        lsr_socket: None,
        core: core
            .map(|(n, c)| CoreInterface { name: core_interface(n), mac: core_mac(p, &c.port), address: c.address, mtu: c.mtu, ospf: None, ldp: false, bfd: None })
            .collect(),
        core_routes: p.core_routes.iter().map(|r| CoreRoute { prefix: r.prefix, via: r.via }).collect(),
        route_reflectors: p.route_reflectors.iter().map(|r| CoreNeighbor { address: r.address, password: r.password.clone(), bfd: None }).collect(),
        labels: p.labels.range,
        label_quarantine_s: p.labels.quarantine,
        stale_s: STALE_S,
        relay: RelayServer { endpoint: RELAY_ENDPOINT.into(), secret_key: own.secret.clone() },
        attachments: attachments.collect(),
    }
}

pub fn pvm_config(p: &Platform, id: &AttachmentId, a: &Attachment, cvm_public_key: &str, keys: &Keys) -> PvmConfig {
    PvmConfig {
        version: VERSION,
        attachment: id.clone(),
        asn: p.asn,
        router_id: p.loopback,
        mac: pe_mac(p, id),
        addresses: vec![a.address.into()],
        customer_mtu: a.mtu,
        core_mtu: core_mtu(p),
        bgp: a.bgp.iter().map(customer_bgp).collect(),
        max_paths: 1,
        static_routes: a.static_routes.iter().map(|r| StaticRoute { prefix: r.prefix.into(), via: r.via.into(), bfd: None }).collect(),
        relay: RelayClient {
            endpoint: RELAY_ENDPOINT.into(),
            server_key: cvm_public_key.to_owned(),
            public_key: keys.public.clone(),
            secret_key: keys.secret.clone(),
        },
    }
}

fn customer_bgp(b: &crate::Bgp) -> CustomerBgp {
    CustomerBgp {
        neighbor: b.neighbor.into(),
        remote_as: b.remote_as,
        password: b.password.clone(),
        max_prefix: b.max_prefix.map(|limit| MaxPrefix { limit, warn_percent: 80, warning_only: false, restart_s: 60 }),
        hold_time_s: b.hold_time.unwrap_or(HOLD_TIME_S),
        shutdown: None,
        ttl_security_hops: None,
        role: None,
        bfd: None,
        as_override: false,
        allow_as_in: 0,
        remove_private_as: false,
        site_of_origin: None,
        default_originate: false,
        import: vec![],
        export: vec![],
    }
}
