//! The configuration file, checked, and in the forms in which the parts of the daemon want it.

use crate::Ports;
use anyhow::{Context, ensure};
use edgeplex_bgp::{GracefulRestart, MaxPrefix, PeerConfig};
use edgeplex_bgp_wire::Role;
use edgeplex_mgmt::config::{Bfd, BgpRole, CustomerBgp, PolicyRule, PvmConfig};
use edgeplex_pvm_policy::Policy;
use edgeplex_pvm_vrf::{Neighbor, StaticRoute, VrfConfig};
use edgeplex_transport::bfd::Parameters;
use ipnet::IpNet;
use std::{io::Read, net::IpAddr, path::Path, time::Duration};

/// Version of the configuration file.
const VERSION: u8 = 1;
/// A larger file is not a configuration, bytes.
const MAX_FILE: u64 = 4 << 20;
/// BGP neighbours and static routes of one attachment, at most.
const MAX_NEIGHBORS: usize = 64;
const MAX_STATICS: usize = 10_000;
/// Prefixes of a CE without a configured limit: a PVM's memory is bounded in any case.
const MAX_PREFIX: u32 = 100_000;
/// How long a CE keeps forwarding while pvmd is away, seconds: a restart takes far less, a dead VM is another matter.
const RESTART_TIME_S: u16 = 60;

/// A configuration that has been checked, and what the RIB makes of it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: PvmConfig,
    pub vrf: VrfConfig,
}

/// Reads and checks the file.
pub fn load(path: &Path) -> anyhow::Result<Loaded> {
    let mut text = vec![];
    let file = std::fs::File::open(path).with_context(|| format!("{}", path.display()))?;
    file.take(MAX_FILE + 1).read_to_end(&mut text).with_context(|| format!("{}", path.display()))?;
    ensure!(text.len() as u64 <= MAX_FILE, "{}: longer than {MAX_FILE} bytes", path.display());
    let config: PvmConfig = serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?;
    let vrf = check(&config).with_context(|| format!("{}", path.display()))?;
    Ok(Loaded { config, vrf })
}

fn check(c: &PvmConfig) -> anyhow::Result<VrfConfig> {
    ensure!(c.version == VERSION, "version is {}: this daemon reads version {VERSION}", c.version);
    ensure!(c.asn != 0, "asn is 0: must be 1 or above");
    ensure!(!c.router_id.is_unspecified(), "router_id is {}: must not be zero", c.router_id);
    ensure!(c.mac.is_unicast(), "mac is {}: must be a unicast address", c.mac);
    for (field, mtu) in [("customer_mtu", c.customer_mtu), ("core_mtu", c.core_mtu)] {
        ensure!((576..=9216).contains(&mtu), "{field} is {mtu}: must be 576 to 9216");
    }
    ensure!((1..=16).contains(&c.max_paths), "max_paths is {}: must be 1 to 16", c.max_paths);
    check_addresses(c)?;
    ensure!(c.bgp.len() <= MAX_NEIGHBORS, "bgp: {} neighbors, at most {MAX_NEIGHBORS} are allowed", c.bgp.len());
    ensure!(c.static_routes.len() <= MAX_STATICS, "static_routes: {}, at most {MAX_STATICS} are allowed", c.static_routes.len());
    let vrf = vrf(c)?;
    for (i, bgp) in c.bgp.iter().enumerate() {
        check_neighbor(c, &vrf, bgp).with_context(|| format!("bgp[{i}]"))?;
        ensure!(c.bgp[..i].iter().all(|b| b.neighbor != bgp.neighbor), "bgp[{i}].neighbor is {}: it is there already", bgp.neighbor);
    }
    for (i, s) in c.static_routes.iter().enumerate() {
        let same = s.prefix.addr().is_ipv4() == s.via.is_ipv4();
        ensure!(same, "static_routes[{i}].via is {}: must be of the family of {}", s.via, s.prefix);
        ensure!(s.prefix.trunc() == s.prefix, "static_routes[{i}].prefix is {}: must have no host bits", s.prefix);
        check_bfd(s.bfd, s.via).with_context(|| format!("static_routes[{i}].bfd"))?;
    }
    Ok(vrf)
}

fn check_addresses(c: &PvmConfig) -> anyhow::Result<()> {
    let of = |ipv4: bool| c.addresses.iter().filter(|a| a.addr().is_ipv4() == ipv4).count();
    let shape = matches!((of(true), of(false)), (1, 0) | (0, 1) | (1, 1));
    ensure!(shape, "addresses: must be one IPv4 address, one IPv6 address, or one of each");
    for (i, a) in c.addresses.iter().enumerate() {
        let (ip, usable) = (a.addr(), !a.addr().is_unspecified() && !a.addr().is_multicast() && !a.addr().is_loopback());
        let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        ensure!(usable && !link_local, "addresses[{i}] is {a}: must be an address that a router can have on a subnet");
        // RFC 8200 §5
        ensure!(ip.is_ipv4() || c.customer_mtu >= 1280, "customer_mtu is {}: must be 1280 or more for IPv6", c.customer_mtu);
    }
    Ok(())
}

fn check_neighbor(c: &PvmConfig, vrf: &VrfConfig, b: &CustomerBgp) -> anyhow::Result<()> {
    let link_local = matches!(b.neighbor, IpAddr::V6(a) if a.is_unicast_link_local());
    ensure!(vrf.resolves(b.neighbor) && !link_local, "neighbor is {}: must be another host of the attachment's subnets", b.neighbor);
    ensure!(b.remote_as != 0 && b.remote_as != c.asn, "remote_as is {}: must be another AS than {}", b.remote_as, c.asn);
    ensure!(!matches!(b.hold_time_s, 1 | 2), "hold_time_s is {}: must be 0 or at least 3", b.hold_time_s);
    let length = |s: &Option<String>| s.as_ref().map(String::len);
    ensure!(length(&b.password).is_none_or(|n| (1..=80).contains(&n)), "password: must have 1 to 80 bytes");
    ensure!(length(&b.shutdown).is_none_or(|n| n <= 255), "shutdown: must have at most 255 bytes");
    ensure!(b.ttl_security_hops.is_none_or(|n| (1..=254).contains(&n)), "ttl_security_hops: must be 1 to 254");
    if let Some(max) = b.max_prefix {
        ensure!(max.limit > 0, "max_prefix.limit is 0: must be 1 or above");
        ensure!((1..=100).contains(&max.warn_percent), "max_prefix.warn_percent is {}: must be 1 to 100", max.warn_percent);
    }
    check_bfd(b.bfd, b.neighbor).context("bfd")
}

fn check_bfd(bfd: Option<Bfd>, peer: IpAddr) -> anyhow::Result<()> {
    bfd.map(|b| parameters(b).with_context(|| format!("with {peer}"))).transpose().map(|_| ())
}

/// The BFD engine's form.
pub fn parameters(b: Bfd) -> anyhow::Result<Parameters> {
    Ok(Parameters::new(Duration::from_millis(b.interval_ms.into()), b.multiplier)?)
}

fn vrf(c: &PvmConfig) -> anyhow::Result<VrfConfig> {
    let neighbors: anyhow::Result<Vec<Neighbor>> =
        c.bgp.iter().enumerate().map(|(i, b)| neighbor(b).with_context(|| format!("bgp[{i}]"))).collect();
    Ok(VrfConfig {
        local_as: c.asn,
        mac: c.mac,
        addresses: c.addresses.clone(),
        customer_mtu: c.customer_mtu,
        core_mtu: c.core_mtu,
        neighbors: neighbors?,
        statics: c.static_routes.iter().map(|s| StaticRoute { prefix: s.prefix, via: s.via, bfd: s.bfd.is_some() }).collect(),
        max_paths: c.max_paths.into(),
    })
}

fn neighbor(b: &CustomerBgp) -> anyhow::Result<Neighbor> {
    let policy = |name: &str, rules: &[PolicyRule]| Policy::new(rules).map_err(|e| anyhow::anyhow!("{name}{e}"));
    Ok(Neighbor {
        allow_as_in: b.allow_as_in,
        site_of_origin: b.site_of_origin,
        default_originate: b.default_originate,
        import: policy("import", &b.import)?,
        export: policy("export", &b.export)?,
        ..Neighbor::new(b.neighbor, b.remote_as)
    })
}

/// The BGP engine's form of one neighbour.
pub(crate) fn peer(loaded: &Loaded, b: &CustomerBgp, ports: &Ports, restarting: bool) -> PeerConfig {
    let mut peer = PeerConfig::new(b.neighbor, b.remote_as);
    peer.port = ports.neighbor;
    peer.local_address = loaded.vrf.towards(b.neighbor);
    peer.link_local = loaded.vrf.link_local().map(|l| l.addr());
    peer.hold_time = b.hold_time_s;
    peer.password.clone_from(&b.password);
    peer.ttl_security_hops = b.ttl_security_hops;
    peer.shutdown.clone_from(&b.shutdown);
    peer.max_prefix = Some(b.max_prefix.map_or(MaxPrefix::new(MAX_PREFIX), |m| MaxPrefix {
        limit: m.limit,
        warn_percent: m.warn_percent,
        warning_only: m.warning_only,
        restart: Duration::from_secs(m.restart_s.into()),
    }));
    peer.graceful_restart = Some(GracefulRestart { restart_time_s: RESTART_TIME_S, restarting });
    peer.role = b.role.map(|role| match role {
        BgpRole::Provider => Role::Provider,
        BgpRole::Customer => Role::Customer,
        BgpRole::Peer => Role::Peer,
        BgpRole::RouteServer => Role::RouteServer,
        BgpRole::RouteServerClient => Role::RouteServerClient,
    });
    peer.allow_own_as = b.allow_as_in;
    peer.as_override = b.as_override;
    peer.remove_private_as = b.remove_private_as;
    peer
}

/// Neighbours whose session the operator wants.
pub(crate) fn sessions(c: &PvmConfig) -> impl Iterator<Item = &CustomerBgp> {
    c.bgp.iter().filter(|b| b.shutdown.is_none())
}

/// The PE's addresses as the log names them.
pub(crate) fn addresses(c: &PvmConfig) -> String {
    let words: Vec<String> = c.addresses.iter().map(IpNet::to_string).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PvmConfig {
        serde_json::from_str(
            r#"{"version":1,"attachment":"acme/denver-1","asn":65000,"router_id":"10.255.0.1","mac":"02:00:00:00:00:01",
                "addresses":["192.168.1.1/29","2001:db8:1::1/64"],"customer_mtu":1500,"core_mtu":1600,"max_paths":4,
                "bgp":[{"neighbor":"192.168.1.2","remote_as":65101,"hold_time_s":9,
                        "import":[{"match":{"as_path":"^65101"},"action":"accept"}]},
                       {"neighbor":"2001:db8:1::2","remote_as":65101,"hold_time_s":9,"bfd":{"interval_ms":300,"multiplier":3}}],
                "static_routes":[{"prefix":"10.9.0.0/16","via":"192.168.1.2"},{"prefix":"2001:db8:9::/48","via":"fe80::2"}],
                "relay":{"endpoint":"ipc:///run/relay/relay.sock","server_key":"","public_key":"","secret_key":""}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_field_that_is_wrong() {
        type Damage = fn(&mut PvmConfig);
        check(&config()).unwrap();
        let cases: [(&str, Damage); 22] = [
            ("version", |c| c.version = 9),
            ("router_id", |c| c.router_id = [0, 0, 0, 0].into()),
            ("core_mtu", |c| c.core_mtu = 100),
            ("customer_mtu", |c| c.customer_mtu = 1279),
            ("max_paths", |c| c.max_paths = 17),
            ("addresses", |c| c.addresses.clear()),
            ("addresses", |c| c.addresses.push("192.168.2.1/29".parse().unwrap())),
            ("addresses[0]", |c| c.addresses[0] = "224.0.0.1/29".parse().unwrap()),
            ("addresses[1]", |c| c.addresses[1] = "fe80::1/64".parse().unwrap()),
            ("bgp[0]: neighbor", |c| c.bgp[0].neighbor = "192.168.1.1".parse().unwrap()),
            ("bgp[0]: neighbor", |c| c.addresses[0] = "10.0.0.1/24".parse().unwrap()),
            ("bgp[1]: neighbor", |c| c.bgp[1].neighbor = "fe80::2".parse().unwrap()),
            ("bgp[1].neighbor", |c| c.bgp[1] = c.bgp[0].clone()),
            ("bgp[0]: remote_as", |c| c.bgp[0].remote_as = 65000),
            ("bgp[0]: hold_time_s", |c| c.bgp[0].hold_time_s = 2),
            ("bgp[0]: shutdown", |c| c.bgp[0].shutdown = Some("x".repeat(256))),
            ("bgp[0]: ttl_security_hops", |c| c.bgp[0].ttl_security_hops = Some(255)),
            ("bgp[0]: import[0].match.as_path", |c| c.bgp[0].import[0].r#match.as_path = Some("(".into())),
            ("bgp[1]: bfd: with 2001:db8:1::2: BFD multiplier", |c| c.bgp[1].bfd.as_mut().unwrap().multiplier = 1),
            ("static_routes[0].prefix", |c| c.static_routes[0].prefix = "10.9.0.1/16".parse().unwrap()),
            ("static_routes[0].via", |c| c.static_routes[0].prefix = "2001:db8::/32".parse().unwrap()),
            ("static_routes[1].bfd", |c| c.static_routes[1].bfd = Some(Bfd { interval_ms: 1, multiplier: 3 })),
        ];
        for (field, damage) in cases {
            let mut c = config();
            damage(&mut c);
            let error = format!("{:#}", check(&c).unwrap_err());
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn each_session_has_the_family_of_its_addresses() {
        let config = config();
        let loaded = Loaded { vrf: check(&config).unwrap(), config };
        let ports = Ports { listen: vec![], neighbor: 179 };
        let peers: Vec<PeerConfig> = loaded.config.bgp.iter().map(|b| peer(&loaded, b, &ports, false)).collect();
        assert_eq!(peers[0].local_address, Some("192.168.1.1".parse().unwrap()));
        assert_eq!(peers[1].local_address, Some("2001:db8:1::1".parse().unwrap()));
        assert_eq!(peers[1].link_local, Some("fe80::ff:fe00:1".parse().unwrap()));
        assert_eq!(peers[0].families, [edgeplex_bgp_wire::Family::Ipv4Unicast]);
        assert_eq!(peers[1].families, [edgeplex_bgp_wire::Family::Ipv6Unicast]);
        assert_eq!(peers[0].max_prefix.unwrap().limit, MAX_PREFIX);
    }
}
