//! acme and beta have equal addresses in both cities. Shown by sending, not by configuration: what one sends is seen
//! at its own host, all of it, and nowhere at the other's.

use super::{
    Evidence,
    capture::{Capture, tshark},
    forge::{self, Forgery},
    site::{CITIES, CUSTOMERS, Ctx, P_ROUTER, find_object, host_address, other, other_customer},
};
use crate::node::Node;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{collections::BTreeMap, process::Command};

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

/// What the forgers below need to know.
struct Plan {
    /// The victim's labels in this city and in the other.
    near: u64,
    far: u64,
    /// Addresses of the hosts in both directions: towards the other city, and as if coming from there.
    outward: (String, String),
    inward: (String, String),
    /// Addresses of the PE on the core, and of the other city's.
    pe: String,
    neighbor: String,
}

const FORGER: &str = CUSTOMERS[0];
const VICTIM: &str = CUSTOMERS[1];
const CITY: &str = CITIES[0];

fn plan(ctx: &Ctx<'_>) -> Result<Plan> {
    let far = other(CITY);
    let outward = (host_address(CITY), host_address(far));
    Ok(Plan {
        near: ctx.label(VICTIM, CITY)?,
        far: ctx.label(VICTIM, far)?,
        inward: (outward.1.clone(), outward.0.clone()),
        outward,
        pe: core_mac(ctx, CITY)?,
        neighbor: core_mac(ctx, P_ROUTER)?,
    })
}

/// The MAC address of a platform on its first core link: its CVM's.
fn core_mac(ctx: &Ctx<'_>, city: &str) -> Result<String> {
    let pid = *ctx.pe(city)?.processes("cvmd").first().with_context(|| format!("no cvmd runs on {city}"))?;
    Ok(link(pid, "wire0")?.0)
}

/// MAC address of an interface in the network namespace of a process, and the index of the other end of its veth pair.
fn link(pid: i32, interface: &str) -> Result<(String, u64)> {
    let out = in_network_of(pid, "ip").args(["-j", "link", "show", interface]).output()?;
    let rows: Value = serde_json::from_slice(&out.stdout).with_context(|| format!("{interface} of process {pid}"))?;
    let mac = rows.pointer("/0/address").and_then(Value::as_str);
    let peer = rows.pointer("/0/link_index").and_then(Value::as_u64);
    mac.map(str::to_owned).zip(peer).with_context(|| format!("{interface} of process {pid}: {rows}"))
}

fn in_network_of(pid: i32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n", "--", program]);
    command
}

/// The port of the fabric with that interface index.
fn port_of(pe: &Node, index: u64) -> Result<String> {
    let rows: Value = serde_json::from_str(&pe.run(&["ip", "-j", "link", "show"])?)?;
    find_object(&rows, &|o| o.get("ifindex").and_then(Value::as_u64) == Some(index))
        .and_then(|o| Some(o.get("ifname")?.as_str()?.to_owned()))
        .with_context(|| format!("{} has no interface {index}", pe.name))
}

/// Sends the forgeries by `sender`, with captures where they enter the fabric, on the core port and at all places of the
/// victim. Insists that all of them entered and none came to the victim; gives what was seen on the core.
fn forge(ctx: &Ctx<'_>, what: &str, sender: Command, port: &str, forgeries: &[Forgery]) -> Result<BTreeMap<&'static str, usize>> {
    let pe = ctx.pe(CITY)?;
    let file = |place: &str| ctx.out.join(format!("forged-{what}-{place}.pcap"));
    // Everything: a tag or a label would hide the rest of a frame from a filter.
    let entry = Capture::spawn(pe, port, "", &file("entry"))?;
    let core = Capture::spawn(pe, "eth1", "", &file("core"))?;
    let strangers = listen(ctx, VICTIM, &format!("udp dst port {} or ether proto 0x8847", forge::PORT))?;
    entry.wait_listening()?;
    core.wait_listening()?;
    let before = forge::received(pe, port)?;
    forge::send(sender)?;
    // Frames still on their way arrive before these answers do.
    let report = ctx.udp(VICTIM, CITY, 200, 50, 64)?;
    ensure!(report.lost == 0, "{VICTIM} from {CITY} lost {} after the forged frames", report.lost);
    forge::all_there(&entry.finish()?, forgeries, port)?;
    let counted = forge::received(pe, port)? - before;
    ensure!(counted >= forgeries.len() * forge::COUNT, "the fabric took only {counted} frames in at {port}: nothing is proven");
    let seen = frames(strangers)?;
    ensure!(seen.iter().all(|n| *n == 0), "{VICTIM} saw forged frames: {seen:?}");
    forge::seen(&core.finish()?, forgeries)
}

/// What only the provider may write, arriving on the access trunk: labels of another customer, with and without a tag
/// in front, tags behind tags, no tag, unknown tags. Sent out of the access switch's end of the trunk, because the
/// switch itself would let a CE's tagged frames go no further.
pub(super) fn forged(ctx: &Ctx<'_>) -> Result<Evidence> {
    let Plan { near, far, outward, inward, pe, neighbor } = plan(ctx)?;
    let gateway = |customer: &str| Ok::<_, anyhow::Error>(ctx.pvm_config(customer, CITY)?.mac);
    let (own, theirs) = (gateway(FORGER)?, gateway(VICTIM)?);
    let out = (outward.0.as_str(), outward.1.as_str());
    let back = (inward.0.as_str(), inward.1.as_str());
    let forgeries = [
        Forgery::new("label of this city, untagged", format!("Ether(dst='{pe}')/MPLS(label={near},s=1,ttl=64)"), back),
        Forgery::new("label of the other city, untagged", format!("Ether(dst='{neighbor}')/MPLS(label={far},s=1,ttl=64)"), out),
        Forgery::new("label in own VLAN, to the PE", format!("Ether(dst='{pe}')/Dot1Q(vlan=100)/MPLS(label={near},s=1,ttl=64)"), back),
        Forgery::new(
            "label in own VLAN, to own gateway",
            format!("Ether(dst='{own}')/Dot1Q(vlan=100)/MPLS(label={near},s=1,ttl=64)"),
            back,
        ),
        Forgery::new(
            "label in own VLAN, to the other city",
            format!("Ether(src='{pe}',dst='{neighbor}')/Dot1Q(vlan=100)/MPLS(label={far},s=1,ttl=64)"),
            out,
        ),
        Forgery::new("label in the victim's VLAN", format!("Ether(dst='{theirs}')/Dot1Q(vlan=200)/MPLS(label={near},s=1,ttl=64)"), back),
        Forgery::new("victim's tag behind own", format!("Ether(dst='{theirs}')/Dot1Q(vlan=100)/Dot1Q(vlan=200)"), out),
        Forgery::new("no tag", format!("Ether(dst='{theirs}')"), out),
        Forgery::new("tag of nobody", format!("Ether(dst='{theirs}')/Dot1Q(vlan=300)"), out),
    ];
    let agg = ctx.lab.node(&format!("{CITY}-agg"))?;
    let trunk = ctx.lab.topology.interfaces(&agg.name).find(|(_, link)| link.vlan.is_none()).context("the access switch has no trunk")?.0;
    let sender = agg.command(forge::PYTHON, &["-c", &forge::script(&forgeries, trunk)]);
    let leaked = forge(ctx, "trunk", sender, "eth2", &forgeries)?;
    ensure!(leaked.is_empty(), "forged frames came to the core: {leaked:?}");
    let sent = forgeries.len() * forge::COUNT;
    Ok(Evidence::new(format!("{sent} frames of {} kinds at {CITY}'s access port; 0 on the core, 0 seen by {VICTIM}", forgeries.len()))
        .figure("sent", sent))
}

/// A PVM that was taken over sends what it likes out of its core vNIC.
pub(super) fn forged_by_pvm(ctx: &Ctx<'_>) -> Result<Evidence> {
    let Plan { near, far: _, outward, inward, pe, neighbor } = plan(ctx)?;
    let own = ctx.label(FORGER, other(CITY))?;
    let pid = ctx.pid_in_pvm(FORGER, CITY, "fastforward")?;
    let (mac, peer) = link(pid, "core")?;
    let port = port_of(ctx.pe(CITY)?, peer)?;
    let out = (outward.0.as_str(), outward.1.as_str());
    let back = (inward.0.as_str(), inward.1.as_str());
    let labelled = |source: &str, to: &str, label: u64| format!("Ether(src='{source}',dst='{to}')/MPLS(label={label},s=1,ttl=64)");
    let everybody = "ff:ff:ff:ff:ff:ff";
    // First what it may send: unless this comes through, the rest proves nothing.
    let forgeries = [
        Forgery::new("its own VPN's label", labelled(&pe, &neighbor, own), out),
        Forgery::new("the victim's label, to the PE", labelled(&pe, &pe, near), back),
        Forgery::new("the victim's label, to the PE, from itself", labelled(&mac, &pe, near), back),
        Forgery::new("no label, to the core", format!("Ether(src='{pe}',dst='{neighbor}')"), out),
        Forgery::new("no label, to the PE", format!("Ether(src='{pe}',dst='{pe}')"), back),
        Forgery::new("wrong source", labelled("02:00:00:00:00:66", &neighbor, own), out),
        Forgery::new("source of its own vNIC", labelled(&mac, &neighbor, own), out),
        Forgery::new("broadcast with a label", labelled(&pe, everybody, own), out),
        Forgery::new("broadcast without", format!("Ether(src='{pe}',dst='{everybody}')"), out),
    ];
    let mut sender = in_network_of(pid, forge::PYTHON);
    sender.args(["-c", &forge::script(&forgeries, "core")]);
    let mut leaked = forge(ctx, "pvm", sender, &port, &forgeries)?;
    let allowed = leaked.remove(forgeries[0].name).unwrap_or_default();
    ensure!(allowed == forge::COUNT, "of {} frames that a PVM may send {allowed} came to the core: nothing is proven", forge::COUNT);
    ensure!(leaked.is_empty(), "forged frames left the core port: {leaked:?}");
    let sent = (forgeries.len() - 1) * forge::COUNT;
    Ok(Evidence::new(format!(
        "{sent} frames of {} kinds into the switch; 0 left the core port, 0 seen by {VICTIM}; {allowed} honest ones left",
        forgeries.len() - 1
    ))
    .figure("sent", sent))
}
