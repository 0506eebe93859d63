//! acme and beta have equal addresses in both cities. Shown by sending, not by configuration: what one sends is seen
//! at its own host, all of it, and nowhere at the other's.

use super::{
    Evidence,
    capture::{Capture, tshark},
    site::{CITIES, CUSTOMERS, Ctx, host_address, other, other_customer, pe_address},
};
use anyhow::{Context, Result, ensure};

/// Captures at every place where the other customer could see something.
fn listen(ctx: &Ctx<'_>, customer: &str, filter: &str) -> Result<Vec<Capture>> {
    let mut captures = vec![];
    for city in CITIES {
        let file = |what: &str| ctx.out.join(format!("isolation-{customer}-{city}-{what}.pcap"));
        captures.push(Capture::spawn(ctx.host(customer, city)?, "eth1", filter, &file("host"))?);
        captures.push(Capture::spawn(ctx.ce(customer, city)?, "eth1", filter, &file("ce"))?);
    }
    captures.iter().try_for_each(Capture::wait_listening)?;
    Ok(captures)
}

/// Ends the captures and gives how many frames each saw.
fn frames(captures: Vec<Capture>) -> Result<Vec<usize>> {
    captures
        .into_iter()
        .map(|c| {
            let file = c.finish()?;
            let frames = tshark(&file, &["frame.number"])?.len();
            std::fs::remove_file(file)?;
            Ok(frames)
        })
        .collect()
}

pub(super) fn by_sending(ctx: &Ctx<'_>) -> Result<Evidence> {
    const COUNT: u64 = 100;
    let mut checked = 0;
    for (n, customer) in (0u16..).zip(CUSTOMERS) {
        let port = 43100 + n;
        let filter = format!("udp port {port}");
        let strangers = listen(ctx, other_customer(customer), &filter)?;
        let own = listen(ctx, customer, &filter)?;
        for city in CITIES {
            let report = ctx.udp_from_port(customer, city, 200, COUNT, 64, port)?;
            let want = format!("{customer}-{}", other(city));
            ensure!(report.lost == 0 && report.answered_by.iter().eq([&want]), "{customer} from {city}: {report:?}");
            checked += report.sent;
        }
        let seen = frames(strangers)?;
        ensure!(seen.iter().all(|n| *n == 0), "{} saw frames of {customer}: {seen:?}", other_customer(customer));
        // The captures do see what is there: question and answer of both directions at each of the four places.
        let seen = frames(own)?;
        ensure!(seen.iter().all(|n| *n as u64 == 4 * COUNT), "{customer}'s own captures saw {seen:?}, not {} each", 4 * COUNT);
    }
    Ok(Evidence::new(format!("{checked} datagrams, each answered by its own customer; 0 frames seen by the other"))
        .figure("datagrams", checked))
}

/// A CE that forges what only the provider may write: a VLAN tag of the other customer, a VPN label of the other
/// customer, both. Made by scapy.
pub(super) fn forged(ctx: &Ctx<'_>) -> Result<Evidence> {
    const COUNT: usize = 20;
    const PORT: u16 = 44000;
    let (customer, victim, city) = (CUSTOMERS[0], CUSTOMERS[1], CITIES[0]);
    let far = other(city);
    // Those that would lead out towards the other city, and those that would lead back to the victim here.
    let labels = [ctx.label(victim, city)?, ctx.label(victim, far)?];
    let ce = ctx.ce(customer, city)?;
    let neighbour = ce.run(&["ip", "neigh", "show", &pe_address(city)])?;
    let mac = neighbour.split_whitespace().skip_while(|w| *w != "lladdr").nth(1).with_context(|| format!("no ARP entry: {neighbour}"))?;
    let captures = listen(ctx, victim, &format!("udp port {PORT} or ether proto 0x8100 or ether proto 0x8847"))?;
    let (near, remote) = (host_address(city), host_address(far));
    let script = format!(
        r#"
import logging; logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.l2 import Ether, Dot1Q
from scapy.layers.inet import IP, UDP
from scapy.contrib.mpls import MPLS
from scapy.sendrecv import sendp
out = []
for dst in ("{remote}", "{near}"):
    ip = IP(src="{near}", dst=dst) / UDP(sport={PORT}, dport={PORT}) / b"forged"
    eth = Ether(dst="{mac}")
    vlan = Dot1Q(vlan=200)
    out.append(eth / vlan / ip)
    for label in {labels:?}:
        mpls = MPLS(label=label, s=1, ttl=64)
        out.append(eth / mpls / ip)
        out.append(eth / vlan / mpls / ip)
sendp(out * {COUNT}, iface="eth1", verbose=False)
print(len(out) * {COUNT})
"#
    );
    // Debian's python3: another one that comes first on the PATH does not have Debian's scapy.
    let sent: usize = ce.run(&["/usr/bin/python3", "-c", &script])?.trim().parse().context("scapy")?;
    // Frames still on their way arrive before these answers do.
    for customer in CUSTOMERS {
        let report = ctx.udp(customer, city, 200, 50, 64)?;
        ensure!(report.lost == 0, "{customer} from {city} lost {} after the forged frames", report.lost);
    }
    let seen = frames(captures)?;
    ensure!(seen.iter().all(|n| *n == 0), "{victim} saw forged frames: {seen:?}");
    Ok(Evidence::new(format!("{sent} frames with {victim}'s VLAN or labels sent by {customer}; 0 seen by {victim}")).figure("sent", sent))
}
