//! Shapes of VPNs: hub and spoke, extranet, two attachments of a VPN on one PE, a label for each CE.

use super::world::World;
use crate::scenarios::{Capture, Evidence, tshark};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// Spokes know each other only by what the hub's CE tells, and their packets pass it.
pub(super) fn hub(w: &World<'_>) -> Result<Evidence> {
    let spokes = [("spoke-denver", "172.16.22.10", "65203"), ("spoke-boston", "172.16.23.10", "65202")];
    let mut pings = 0;
    for ((spoke, own, far_as), (_, to, _)) in spokes.into_iter().zip(spokes.into_iter().rev()) {
        let prefix = to.replace(".10", ".0/24");
        let said = w.bgp_route(spoke, &prefix)?;
        let path = format!("65000 65200 65000 {far_as}");
        ensure!(said.contains(&path), "{spoke}: {prefix} has no path {path}: {said}");
        pings += w.ping_all(spoke, to, &["-I", own])?;
    }
    let hops = w.hops("spoke-denver", "172.16.23.10", &["-s", "172.16.22.10"])?;
    let through = hops.iter().position(|h| h == "192.168.20.2" || h == "192.168.21.2").context(format!("the hub is not among {hops:?}"))?;
    ensure!(hops.last().is_some_and(|h| h == "172.16.23.10") && through + 1 < hops.len(), "hops {hops:?}");
    // Without the hub's word nothing is left between them.
    w.birdc("hub", "disable outof")?;
    let gone = w
        .wait_route("spoke-denver", "172.16.23.0/24", false)
        .and_then(|()| w.ping_none("spoke-denver", "172.16.23.10", &["-I", "172.16.22.10"]));
    w.birdc("hub", "enable outof")?;
    gone?;
    w.wait_route("spoke-denver", "172.16.23.0/24", true)?;
    w.wait_route("spoke-boston", "172.16.22.0/24", true)?;
    Ok(Evidence::new(format!("{pings} pings; {}; the hub's session off: nothing passes", hops.join(" > "))).figure("hops", hops))
}

pub(super) fn extranet(w: &World<'_>) -> Result<Evidence> {
    let (a, b, shared) = (("a", "192.168.30.2"), ("b", "192.168.31.2"), ("shared", "192.168.32.2"));
    let mut pings = 0;
    for (from, to) in [(a, shared), (shared, a), (b, shared), (shared, b)] {
        pings += w.ping_all(from.0, to.1, &[])?;
        w.datagrams(from.0, to.1, to.0, 20, 0)?;
    }
    let none = w.ping_none(a.0, b.1, &[])? + w.ping_none(b.0, a.1, &[])?;
    for (pe, customer, forbidden) in [("denver", "a", "192.168.31.0/30"), ("boston", "b", "192.168.30.0/30")] {
        let fib = w.edgeplex(pe, &["show", "fib", "-c", customer])?.to_string();
        ensure!(fib.contains("192.168.32.0/30") && !fib.contains(forbidden), "{customer}'s forwarder: {fib}");
    }
    Ok(Evidence::new(format!("a-shared and b-shared {pings} of {pings}; a-b 0 of {none}, and neither's forwarder knows the other")))
}

/// From one attachment to the other of the same VPN and PE, without a frame on the core.
pub(super) fn one_pe(w: &World<'_>) -> Result<Evidence> {
    const PORTS: [u16; 2] = [43001, 43002];
    let file = w.out.join("one-pe.pcap");
    let capture = Capture::start(w.node("p1")?, "eth4", "mpls", &file)?;
    w.datagrams("dual-far", "192.168.47.2", "dual-one", 100, PORTS[0])?;
    w.datagrams("dual-one", "192.168.46.2", "dual-far", 100, PORTS[0])?;
    // What does cross the core is seen there.
    w.datagrams("dual-far", "172.16.44.10", "dual-site", 10, PORTS[1])?;
    let seen = tshark(&capture.finish()?, &["udp.srcport"])?;
    let count = |port: u16| seen.iter().filter(|r| r[0] == port.to_string()).count();
    ensure!(count(PORTS[0]) == 0 && count(PORTS[1]) == 10, "on the core: {} and {}", count(PORTS[0]), count(PORTS[1]));
    Ok(Evidence::new("200 of 200 datagrams between dual-far and dual-one, none of them on the core"))
}

/// Two CEs on one attachment: two labels at the reflector, and each packet goes under its CE's.
pub(super) fn label_per_ce(w: &World<'_>) -> Result<Evidence> {
    let label = |prefix: &str| -> Result<u64> {
        let paths = w.reflected(prefix)?;
        paths.first().map(|p| p.1).with_context(|| format!("the reflector has no {prefix}"))
    };
    let ces = [("ce-one", "172.16.51.10", label("172.16.51.0/24")?), ("ce-two", "172.16.52.10", label("172.16.52.0/24")?)];
    let connected = label("192.168.50.0/29")?;
    ensure!(BTreeSet::from([ces[0].2, ces[1].2, connected]).len() == 3, "labels {} {} {connected}", ces[0].2, ces[1].2);
    let file = w.out.join("per-ce.pcap");
    // p1 is the last hop but one: the VPN's label stands alone.
    let capture = Capture::start(w.node("p1")?, "eth1", "mpls", &file)?;
    for (ce, to, _) in ces {
        w.datagrams("ce-far", to, ce, 20, 0)?;
    }
    let mut seen: BTreeMap<(String, String), u64> = BTreeMap::new();
    for row in tshark(&capture.finish()?, &["mpls.label", "ip.dst"])? {
        *seen.entry((row[1].clone(), row[0].clone())).or_default() += 1;
    }
    for (ce, to, label) in ces {
        let got: Vec<_> = seen.iter().filter(|((d, _), _)| d == to).collect();
        ensure!(matches!(got.as_slice(), [((_, l), 20)] if *l == label.to_string()), "{ce}: expected 20 under {label}, saw {got:?}");
    }
    // And one CE reaches the other, whose LAN it knows by its own session.
    let pings = w.ping_all("ce-one", "172.16.52.10", &[])?;
    Ok(Evidence::new(format!(
        "ce-one {}, ce-two {}, the subnet {connected}; 40 frames under the right one; CE to CE {pings}",
        ces[0].2, ces[1].2
    )))
}
