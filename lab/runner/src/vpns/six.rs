//! Customers with both families (RFC 4659): one attachment, a session for each.

use super::world::World;
use crate::scenarios::Evidence;
use anyhow::{Result, ensure};

const DENVER: (&str, [&str; 2]) = ("six-denver-host", ["2001:db8:a1::10", "172.16.1.10"]);
const AUSTIN: (&str, [&str; 2]) = ("six-austin-host", ["2001:db8:a2::10", "172.16.2.10"]);

pub(super) fn reach(w: &World<'_>) -> Result<Evidence> {
    let (mut pings, mut datagrams) = (0, 0);
    for ((from, _), (server, addresses)) in [(DENVER, AUSTIN), (AUSTIN, DENVER)] {
        for to in addresses {
            pings += w.ping_all(from, to, &[])?;
            datagrams += w.datagrams(from, to, server, 100, 0)?.sent;
        }
    }
    Ok(Evidence::new(format!("{pings} pings and {datagrams} datagrams each way and family, all answered by the right host"))
        .figure("pings", pings)
        .figure("datagrams", datagrams))
}

pub(super) fn tables(w: &World<'_>) -> Result<Evidence> {
    for (ce, prefix, path) in [
        ("six-denver", "2001:db8:a2::/64", "65000 65102"),
        ("six-denver", "172.16.2.0/24", "65000 65102"),
        ("six-austin", "2001:db8:a1::/64", "65000 65101"),
        ("six-austin", "172.16.1.0/24", "65000 65101"),
    ] {
        let said = w.bgp_route(ce, prefix)?;
        ensure!(said.contains(path), "{ce}: {prefix} has no path {path}: {said}");
    }
    // RFC 4659 §3.2.1.2: the reflector has them with the PE's address mapped into IPv6.
    let said = w.node("rr")?.run(&["vtysh", "-c", "show bgp ipv6 vpn"])?;
    ensure!(said.contains("2001:db8:a1::/64") && said.contains("::ffff:"), "the reflector's VPNv6 table: {said}");
    Ok(Evidence::new("FRR and BIRD have each other's LANs of both families behind AS 65000; rr has them as VPNv6"))
}

pub(super) fn traceroute(w: &World<'_>) -> Result<Evidence> {
    let hops = w.hops(DENVER.0, AUSTIN.1[0], &["-6"])?;
    // The third is p1, which has no IPv6 address: RFC 8215's local-use translation of its IPv4 one.
    let want: [&[&str]; 6] = [
        &["2001:db8:a1::1"],
        &["2001:db8:10::1"],
        &["64:ff9b:1::a00:102"],
        &["2001:db8:11::1"],
        &["2001:db8:11::2", "2001:db8:a2::1"],
        &["2001:db8:a2::10"],
    ];
    let same = hops.len() == want.len() && hops.iter().zip(want).all(|(h, w)| w.contains(&h.as_str()));
    ensure!(same, "hops {hops:?}");
    Ok(Evidence::new(hops.join(" > ")))
}

/// Austin's attachment has an MTU of 1400: who sends more hears of it, and its kernel keeps to it.
pub(super) fn too_big(w: &World<'_>) -> Result<Evidence> {
    for (to, size, words) in [(AUSTIN.1[0], "1452", "mtu=1400"), (AUSTIN.1[1], "1472", "mtu = 1400")] {
        let host = w.node(DENVER.0)?;
        let out = host.output(&["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", size, to])?;
        let said = [out.stdout, out.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(said.contains(words) || said.contains("mtu=1400"), "{to}: {said}");
        let cached = host.run(&["ip", "route", "get", to])?;
        ensure!(cached.contains("mtu 1400"), "{to}: the kernel says {cached}");
    }
    let fits =
        w.ping_all(DENVER.0, AUSTIN.1[0], &["-M", "do", "-s", "1352"])? + w.ping_all(DENVER.0, AUSTIN.1[1], &["-M", "do", "-s", "1372"])?;
    Ok(Evidence::new(format!("1500 bytes: too big, MTU 1400, kept by the kernel in both families; 1400 bytes with DF: {fits} of {fits}")))
}
