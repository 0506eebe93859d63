//! What a customer's session makes of routes, as the CE has them.

use super::world::World;
use crate::scenarios::Evidence;
use anyhow::{Result, ensure};

pub(super) fn as_numbers(w: &World<'_>) -> Result<Evidence> {
    // Both sites of feat are AS 65401: without an override each would refuse the other's routes.
    let frr = w.bgp_route("feat-frr", "10.81.1.0/24")?;
    ensure!(frr.contains("\"string\":\"65000 65000\""), "as-override: {frr}");
    // ce-two's session has private AS numbers removed, ce-one's has not.
    let (with, without) = (w.bgp_route("ce-one", "172.16.52.0/24")?, w.bgp_route("ce-two", "172.16.51.0/24")?);
    ensure!(with.contains("BGP.as_path: 65000 65502"), "ce-one: {with}");
    ensure!(without.contains("BGP.as_path: 65000\n"), "ce-two, private AS removed: {without}");
    // RFC 9234 §5: a provider's route carries its AS in OTC.
    let neighbor = w.vtysh("feat-frr", "show bgp neighbors 192.168.80.1 json")?.to_string();
    ensure!(neighbor.contains("\"localRole\":\"customer\"") && neighbor.contains("\"remoteRole\":\"provider\""), "roles: {neighbor}");
    ensure!(frr.contains("\"otc\":65000"), "OTC: {frr}");
    Ok(Evidence::new("as-override: 65000 65000; private AS removed: 65000, not removed: 65000 65502; FRR is customer, OTC 65000"))
}

/// dual-site tells denver alone of a prefix, and would take it back from boston. With its site of origin boston does not tell it.
pub(super) fn site_of_origin(w: &World<'_>) -> Result<Evidence> {
    const OWN: &str = "172.16.45.0/24";
    let own = w.bgp_route("dual-site", OWN)?;
    ensure!(own.is_empty(), "dual-site is told its own prefix: {own}");
    w.apply_edited("boston", ", siteOfOrigin: \"65000:44\"", "")?;
    let told = w.wait_route("dual-site", OWN, true);
    w.apply_again("boston")?;
    told?;
    w.wait_route("dual-site", OWN, false)?;
    let far = w.bgp_route("dual-site", "192.168.46.0/30")?;
    ensure!(far.matches("BGP.as_path: 65000").count() == 2, "dual-site has the far site by one PE only: {far}");
    Ok(Evidence::new("dual-site has the far site by both PEs, and its own prefix from boston only while the site of origin is taken away"))
}

pub(super) fn rules(w: &World<'_>) -> Result<Evidence> {
    // Import at denver: .4 is marked 65401:666, .5 has 65999 in its path, 10.80.6.0/28 is too long. Export at austin: not .3.
    for (prefix, present) in [
        ("10.80.1.0/24", true),
        ("10.80.2.0/24", true),
        ("10.80.3.0/24", false),
        ("10.80.4.0/24", false),
        ("10.80.5.0/24", false),
        ("10.80.6.0/28", false),
    ] {
        w.wait_route("feat-bird", prefix, present)?;
    }
    let paths = w.reflected("10.80.3.0/24")?;
    ensure!(!paths.is_empty(), "10.80.3.0/24 should have passed denver's import");
    for prefix in ["10.80.4.0/24", "10.80.5.0/24", "10.80.6.0/28"] {
        ensure!(w.reflected(prefix)?.is_empty(), "{prefix} passed denver's import");
    }
    let vpn = w.node("rr")?.run(&["vtysh", "-c", "show bgp ipv4 vpn 10.80.1.0/24"])?;
    ensure!(vpn.contains("localpref 200") && vpn.contains("65000:80") && vpn.contains("65000:8:1"), "the reflector has: {vpn}");
    let route = w.bgp_route("feat-bird", "10.80.1.0/24")?;
    for want in ["BGP.med: 77", "BGP.as_path: 65000 65000 65000 65000\n", "(65000,80)", "(65000,81)", "(65000, 8, 1)"] {
        ensure!(route.contains(want), "BIRD has no {want}: {route}");
    }
    let default = w.bgp_route("feat-bird", "0.0.0.0/0")?;
    ensure!(default.contains("BGP.as_path: 65000\n"), "default route: {default}");
    Ok(Evidence::new(
        "community, as-path and prefix length refuse 3 of 6; local-pref 200 at rr; MED 77, prepend 2, two communities, a large one and a default at BIRD",
    ))
}
