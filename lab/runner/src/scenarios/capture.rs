//! What is on the core wire, captured by tcpdump and read by tshark: neither is ours.

use super::{
    Evidence,
    site::{CITIES, CUSTOMERS, Ctx, P_ROUTER, host_address, other},
};
use crate::traffic::stop;
use crate::{node::Node, wait};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Captures on an interface of a node, from the moment this returns.
    pub fn start(node: &Node, interface: &str, filter: &str, file: &Path) -> Result<Self> {
        let capture = Self::spawn(node, interface, filter, file)?;
        capture.wait_listening()?;
        Ok(capture)
    }

    /// Starts tcpdump; it captures once [`Self::wait_listening`] returns.
    pub fn spawn(node: &Node, interface: &str, filter: &str, file: &Path) -> Result<Self> {
        let log = fs::File::create(file.with_extension("log"))?;
        let name = file.to_string_lossy();
        let mut command = node.command("tcpdump", &["-i", interface, "-U", "--immediate-mode", "-n", "-Z", "root", "-w", &name, filter]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("tcpdump")?;
        Ok(Self { child, file: file.to_owned() })
    }

    pub fn wait_listening(&self) -> Result<()> {
        wait::until("tcpdump listens", Duration::from_secs(10), || {
            let said = fs::read_to_string(self.file.with_extension("log"))?;
            Ok(if said.contains("listening on") { Ok(()) } else { Err(said.trim().to_owned()) })
        })
    }

    /// Ends it and keeps the file.
    pub fn finish(mut self) -> Result<PathBuf> {
        stop(&mut self.child);
        fs::remove_file(self.file.with_extension("log"))?;
        Ok(self.file.clone())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// The fields of every frame that tshark finds in the file.
pub fn tshark(file: &Path, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    // A lab frame may look like anything: read UDP ports as plain data, and IPv4 as such behind a label.
    command.args(["-n", "-r"]).arg(file).args(["-T", "fields", "-E", "separator=|"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let out = command.stdin(Stdio::null()).output().context("tshark")?;
    ensure!(out.status.success(), "tshark: {}", String::from_utf8_lossy(&out.stderr).trim());
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text.lines().map(|l| l.split('|').map(str::to_owned).collect()).collect())
}

/// What p1 receives from Denver carries two labels: p1's own for the other PE, and the VPN's. What it sends to Denver carries the
/// VPN's alone: p1 is the last hop but one, and pops its own (RFC 3031 §3.16).
pub(super) fn labels(ctx: &Ctx<'_>) -> Result<Evidence> {
    const COUNT: u64 = 50;
    let file = ctx.out.join("core.pcap");
    let capture = Capture::start(ctx.lab.node(P_ROUTER)?, "eth1", "mpls", &file)?;
    // Each customer and direction has a source port of its own: the addresses are the same for both customers.
    let mut flows = BTreeMap::new();
    for (c, customer) in (0u16..).zip(CUSTOMERS) {
        for (d, city) in (0u16..).zip(CITIES) {
            let port = 41000 + c * 10 + d;
            let report = ctx.udp_from_port(customer, city, 200, COUNT, 64, port)?;
            ensure!(report.lost == 0, "{customer} from {city}: {} lost", report.lost);
            flows.insert(port.to_string(), (customer, city));
        }
    }
    let file = capture.finish()?;
    let mut seen: BTreeMap<(String, &str, &str), u64> = BTreeMap::new();
    for row in tshark(&file, &["mpls.label", "ip.src", "ip.dst", "udp.srcport"])? {
        let [label, source, destination, port] = row.as_slice() else { continue };
        let Some((customer, city)) = flows.get(port) else { continue };
        ensure!(
            *source == host_address(city) && *destination == host_address(other(city)),
            "{customer} from {city}: inner packet is {source} > {destination}"
        );
        *seen.entry((label.clone(), customer, city)).or_default() += 1;
    }
    let transit = ctx.transit_label(CITIES[1])?;
    let mut shown = vec![];
    for (customer, city) in flows.values() {
        // The VPN label was given by the PE where the packet leaves.
        let vpn = ctx.label(customer, other(city))?;
        let want = if *city == CITIES[0] { format!("{transit},{vpn}") } else { vpn.to_string() };
        let got: Vec<_> = seen.iter().filter(|((_, c, f), _)| c == customer && f == city).collect();
        let exact = matches!(got.as_slice(), [((label, ..), n)] if *label == want && **n == COUNT);
        ensure!(exact, "{customer} from {city}: expected {COUNT} frames with labels {want}, captured {got:?}");
        shown.push(format!("{customer} to {} {want}", other(city)));
    }
    let frames: u64 = seen.values().sum();
    Ok(Evidence::new(format!("{frames} frames; {}", shown.join(", "))).figure("frames", frames).figure("pcap", file))
}
