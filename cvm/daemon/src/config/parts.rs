//! What each part of cvmd is told of the configuration.

use edgeplex_cvm_core as core;
use edgeplex_cvm_vpn as vpn;
use edgeplex_ldp as ldp;
use edgeplex_mgmt::config::{Bfd, CoreInterface, CvmAttachment, CvmConfig, LabelMode, Leak};
use edgeplex_transport::{bfd::Parameters, ospf};
use std::{sync::Arc, time::Duration};

/// What the VPN engine is told.
pub fn vpn_config(config: &CvmConfig) -> vpn::Config {
    let leak = |l: &Leak| vpn::Leak { import: l.import.iter().copied().collect(), prefixes: l.prefixes.iter().copied().collect() };
    let attachment = |a: &CvmAttachment| vpn::AttachmentConfig {
        id: a.id.clone(),
        rd: a.rd,
        import: a.import.iter().copied().collect(),
        export: a.export.iter().copied().collect(),
        leaks: a.leaks.iter().map(leak).collect(),
        label: a.label,
        label_per_ce: a.label_mode == LabelMode::PerCe,
        max_paths: a.max_paths,
        max_routes: a.max_routes,
    };
    vpn::Config {
        asn: config.asn,
        loopback: config.loopback,
        reflectors: config.route_reflectors.iter().map(|n| n.address).collect(),
        labels: config.labels,
        quarantine: Duration::from_secs(config.label_quarantine_s.into()),
        stale: Duration::from_secs(config.stale_s.into()),
        attachments: config.attachments.iter().map(attachment).collect(),
    }
}

pub(crate) fn core_config(config: &CvmConfig) -> core::Config {
    let interface = |i: &CoreInterface| core::Interface {
        name: Arc::from(&i.name[..]),
        mac: i.mac,
        address: i.address,
        mtu: i.mtu,
        ldp: i.ldp && config.ldp.is_some(),
    };
    core::Config {
        loopback: config.loopback,
        interfaces: config.core.iter().map(interface).collect(),
        static_routes: config.core_routes.iter().map(|r| core::StaticRoute { prefix: r.prefix, via: r.via }).collect(),
    }
}

/// What OSPF is told, if there is OSPF.
pub(crate) fn ospf_config(config: &CvmConfig) -> Option<ospf::Config> {
    Some(ospf::config(config.loopback, &[config.loopback], config.ospf.as_ref()?, &config.core))
}

/// What LDP is told, if there is LDP.
pub(crate) fn ldp_config(config: &CvmConfig) -> Option<ldp::Config> {
    let wanted = config.ldp.as_ref()?;
    let reconnect = Duration::from_secs(wanted.reconnect_s.into());
    Some(ldp::Config {
        interfaces: config.core.iter().filter(|i| i.ldp).map(|i| Arc::from(&i.name[..])).collect(),
        hello: Duration::from_secs(wanted.hello_s.into()),
        hold: Duration::from_secs(wanted.hold_s.into()),
        keepalive_s: wanted.keepalive_s,
        explicit_null: wanted.explicit_null,
        // RFC 6720 wants sessions of one hop, and RFC 5443 makes a link without a session the last choice: where there is another
        // way the session would have to come up over that one, its packets would be taken for a stranger's, and it never would.
        // A neighbour that puts our explicit null in front of the session's packets adds a hop, too: our router pops it.
        gtsm: !(wanted.explicit_null || wanted.igp_sync && config.ospf.is_some()),
        reconnect,
        recovery: reconnect,
        passwords: wanted.passwords.iter().map(|p| (p.neighbor, p.password.clone())).collect(),
        ..ldp::Config::new(config.loopback, wanted.labels)
    })
}

pub(crate) fn bfd_parameters(bfd: &Bfd) -> Parameters {
    let floor = Duration::from_secs(1);
    // The file was checked; what could not be is slow rather than absent.
    let checked = Parameters::new(Duration::from_millis(bfd.interval_ms.into()), bfd.multiplier);
    checked.or_else(|_| Parameters::new(floor, 3)).unwrap_or_else(|_| unreachable!("1 s and 3 are within the limits"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_session_that_may_have_to_come_up_over_several_hops_is_not_guarded_by_their_number() {
        let config = |igp_sync: bool, explicit_null: bool| {
            let file = serde_json::json!({
                "version": 1, "name": "p1", "role": "p", "asn": 65000, "loopback": "10.255.0.1", "core": [], "core_routes": [],
                "ospf": {"area": "0.0.0.0"},
                "ldp": {"labels": {"first": 100, "last": 199}, "hello_s": 5, "hold_s": 15, "keepalive_s": 60, "igp_sync": igp_sync,
                    "explicit_null": explicit_null},
                "route_reflectors": [], "labels": {"first": 16, "last": 99}, "label_quarantine_s": 60, "stale_s": 30,
                "relay": {"endpoint": "", "secret_key": ""}, "attachments": [],
            });
            ldp_config(&serde_json::from_value(file).unwrap()).unwrap()
        };
        assert!(config(false, false).gtsm && !config(true, false).gtsm);
        assert!(!config(false, true).gtsm, "what comes under label 0 has been counted as a hop");
    }
}
