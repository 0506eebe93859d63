//! The configuration file, checked, and in the forms in which the parts of the daemon want it.

use anyhow::{Context, ensure};
use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_mgmt::config::PvmConfig;
use edgeplex_pvm_vrf::{Customer, StaticRoute, VrfConfig};
use ipnet::IpNet;
use std::{io::Read, net::IpAddr, path::Path};

/// Version of the configuration file.
const VERSION: u8 = 1;
/// A larger file is not a configuration, bytes.
const MAX_FILE: u64 = 4 << 20;
/// Prefixes of a CE without a configured limit: a PVM's memory is bounded in any case.
const MAX_PREFIX: u32 = 100_000;
/// How long a CE keeps forwarding while pvmd is away, seconds: a restart takes far less, a dead VM is another matter.
const RESTART_TIME_S: u16 = 60;

/// Reads and checks the file.
pub fn load(path: &Path) -> anyhow::Result<PvmConfig> {
    let mut text = vec![];
    let file = std::fs::File::open(path).with_context(|| format!("{}", path.display()))?;
    file.take(MAX_FILE + 1).read_to_end(&mut text).with_context(|| format!("{}", path.display()))?;
    ensure!(text.len() as u64 <= MAX_FILE, "{}: longer than {MAX_FILE} bytes", path.display());
    let config: PvmConfig = serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?;
    check(&config).with_context(|| format!("{}", path.display()))?;
    Ok(config)
}

fn check(c: &PvmConfig) -> anyhow::Result<()> {
    ensure!(c.version == VERSION, "version is {}: this daemon reads version {VERSION}", c.version);
    ensure!(c.asn != 0, "asn is 0: must be 1 or above");
    ensure!(c.mac.is_unicast(), "mac is {}: must be a unicast address", c.mac);
    for (field, mtu) in [("customer_mtu", c.customer_mtu), ("core_mtu", c.core_mtu)] {
        ensure!((576..=9216).contains(&mtu), "{field} is {mtu}: must be 576 to 9216");
    }
    if let Some(bgp) = &c.bgp {
        ensure!(vrf(c).resolves(bgp.neighbor), "bgp.neighbor is {}: must be another host of {}", bgp.neighbor, c.address.trunc());
        ensure!(bgp.remote_as != 0 && bgp.remote_as != c.asn, "bgp.remote_as is {}: must be another AS than {}", bgp.remote_as, c.asn);
        ensure!(!matches!(bgp.hold_time_s, 1 | 2), "bgp.hold_time_s is {}: must be 0 or at least 3", bgp.hold_time_s);
        let length = bgp.password.as_ref().map(String::len);
        ensure!(length.is_none_or(|n| (1..=80).contains(&n)), "bgp.password: must have 1 to 80 bytes");
    }
    for (i, s) in c.static_routes.iter().enumerate() {
        ensure!(matches!((s.prefix, s.via), (IpNet::V4(_), IpAddr::V4(_))), "static_routes[{i}]: must be IPv4");
        ensure!(s.prefix.trunc() == s.prefix, "static_routes[{i}].prefix is {}: must have no host bits", s.prefix);
    }
    Ok(())
}

/// The RIB's form.
pub fn vrf(c: &PvmConfig) -> VrfConfig {
    let statics = c.static_routes.iter().filter_map(|s| match (s.prefix, s.via) {
        (IpNet::V4(prefix), IpAddr::V4(via)) => Some(StaticRoute { prefix, via }),
        _ => None,
    });
    VrfConfig {
        local_as: c.asn,
        mac: c.mac,
        address: c.address,
        customer_mtu: c.customer_mtu,
        core_mtu: c.core_mtu,
        customer: c.bgp.as_ref().map(|b| Customer { address: b.neighbor, remote_as: b.remote_as }),
        statics: statics.collect(),
    }
}

/// The BGP engine's form; `port` is where the CE listens.
pub fn peer(c: &PvmConfig, port: u16, restarting: bool) -> Option<PeerConfig> {
    let bgp = c.bgp.as_ref()?;
    let mut peer = PeerConfig::new(bgp.neighbor, bgp.remote_as);
    peer.port = port;
    peer.local_address = Some(c.address.addr().into());
    peer.hold_time = bgp.hold_time_s;
    peer.password.clone_from(&bgp.password);
    peer.max_prefix = Some(bgp.max_prefix.unwrap_or(MAX_PREFIX));
    peer.graceful_restart = Some(GracefulRestart { restart_time_s: RESTART_TIME_S, restarting });
    Some(peer)
}

/// Whether moving from `a` to `b` ends the CE's session: another neighbor, AS, password or own address is another
/// session; a limit or a static route is not.
pub fn another_session(a: &PvmConfig, b: &PvmConfig) -> bool {
    let session = |c: &PvmConfig| (c.asn, c.address, c.bgp.as_ref().map(|b| (b.neighbor, b.remote_as, b.password.clone())));
    session(a) != session(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PvmConfig {
        serde_json::from_str(
            r#"{"version":1,"attachment":"acme/denver-1","asn":65000,"mac":"02:00:00:00:00:01","address":"192.168.1.1/30",
                "customer_mtu":1500,"core_mtu":1600,"bgp":{"neighbor":"192.168.1.2","remote_as":65101,"hold_time_s":9},
                "static_routes":[{"prefix":"10.9.0.0/16","via":"192.168.1.2"}],
                "relay":{"endpoint":"ipc:///run/relay/relay.sock","server_key":"","public_key":"","secret_key":""}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_field_that_is_wrong() {
        type Damage = fn(&mut PvmConfig);
        check(&config()).unwrap();
        let cases: [(&str, Damage); 8] = [
            ("version", |c| c.version = 9),
            ("core_mtu", |c| c.core_mtu = 100),
            ("bgp.neighbor", |c| c.bgp.as_mut().unwrap().neighbor = "192.168.1.1".parse().unwrap()),
            ("bgp.neighbor", |c| c.address = "10.0.0.1/24".parse().unwrap()),
            ("bgp.remote_as", |c| c.bgp.as_mut().unwrap().remote_as = 65000),
            ("bgp.hold_time_s", |c| c.bgp.as_mut().unwrap().hold_time_s = 2),
            ("static_routes[0].prefix", |c| c.static_routes[0].prefix = "10.9.0.1/16".parse().unwrap()),
            ("static_routes[0]", |c| c.static_routes[0].prefix = "2001:db8::/32".parse().unwrap()),
        ];
        for (field, damage) in cases {
            let mut c = config();
            damage(&mut c);
            let error = check(&c).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn only_what_makes_another_session_ends_the_session() {
        let a = config();
        let mut b = config();
        b.static_routes.clear();
        b.bgp.as_mut().unwrap().max_prefix = Some(5);
        b.customer_mtu = 1400;
        assert!(!another_session(&a, &b));
        b.bgp.as_mut().unwrap().password = Some("x".into());
        assert!(another_session(&a, &b));
        let mut b = config();
        b.bgp = None;
        assert!(another_session(&a, &b));
    }
}
