//! Internet access: two customers take the default route of the VPN `internet` and give it theirs.

use super::world::World;
use crate::scenarios::Evidence;
use anyhow::{Result, ensure};

const GW: &str = "203.0.113.10";

pub(super) fn surf(w: &World<'_>) -> Result<Evidence> {
    let mut pings = 0;
    for (from, own) in [("surf-denver", "198.51.100.2"), ("surf-austin", "198.51.100.6")] {
        pings += w.ping_all(from, GW, &[])?;
        w.datagrams(from, GW, "gw", 50, 0)?;
        pings += w.ping_all("gw", own, &["-I", GW])?;
    }
    // Beside their own they know the default alone; what they send each other goes by the Internet's router.
    for (pe, customer, foreign) in [("denver", "surf", "198.51.100.4/30"), ("austin", "surf", "198.51.100.0/30")] {
        let fib = w.edgeplex(pe, &["show", "fib", "-c", customer])?.to_string();
        ensure!(fib.contains("0.0.0.0/0") && !fib.contains(foreign) && !fib.contains("192.168.70.0/30"), "{pe}: surf's forwarder: {fib}");
    }
    let hops = w.hops("surf-austin", "198.51.100.2", &[])?;
    ensure!(hops.iter().any(|h| h == GW), "from surf to surf without the Internet's router: {hops:?}");
    // A customer that takes no part in it has neither the default nor an answer.
    let none = w.ping_none("a", GW, &[])? + w.ping_none("gw", "192.168.30.2", &[])? + w.ping_none("surf-denver", "192.168.30.2", &[])?;
    Ok(Evidence::new(format!("{pings} of {pings} between customers and gw; surf to surf {}; to others 0 of {none}", hops.join(" > "))))
}
