//! The two-cities lab as the scenarios see it: who is where, the servers on the LAN hosts, and how to ask anything.

use crate::{
    lab::Lab,
    node::Node,
    tools::udp,
    traffic::{self, Servers, Stream, Way},
    wait,
};
use anyhow::{Context, Result, ensure};
use edgeplex_mgmt::config::PvmConfig;
use serde_json::Value;
use std::{collections::BTreeMap, path::PathBuf, process::Output, time::Duration};

pub const CUSTOMERS: [&str; 2] = ["acme", "beta"];
pub const CITIES: [&str; 2] = ["denver", "boston"];
/// The EdgePlex node between the cities: no customers, labels only.
pub const P_ROUTER: &str = "p1";
/// Nodes that run edgeplexd.
pub const PLATFORMS: [&str; 3] = [CITIES[0], CITIES[1], P_ROUTER];
/// Forwarding that should work does so within this time after a change.
pub(super) const CONVERGE: Duration = Duration::from_secs(60);

/// City number: 1 Denver, 2 Boston, as in every address of the plan.
pub(super) fn number(city: &str) -> u8 {
    if city == CITIES[0] { 1 } else { 2 }
}

pub(super) fn other(city: &str) -> &'static str {
    if city == CITIES[0] { CITIES[1] } else { CITIES[0] }
}

pub(super) fn other_customer(customer: &str) -> &'static str {
    if customer == CUSTOMERS[0] { CUSTOMERS[1] } else { CUSTOMERS[0] }
}

/// The host behind the CE of a city; the same for every customer.
pub(super) fn host_address(city: &str) -> String {
    format!("172.16.{}.10", number(city))
}

/// The prefix that a CE announces beside its LAN, for the scenarios to take away.
pub(super) fn extra_prefix(city: &str) -> String {
    format!("172.16.5{}.0/24", number(city))
}

pub(super) fn pe_address(city: &str) -> String {
    format!("192.168.{}.1", number(city))
}

pub(super) fn ce_address(city: &str) -> String {
    format!("192.168.{}.2", number(city))
}

#[derive(Debug)]
pub struct Ctx<'a> {
    pub lab: &'a Lab,
    /// Where captures are kept.
    pub out: PathBuf,
    _servers: Servers,
}

impl<'a> Ctx<'a> {
    /// Starts a server on every LAN host.
    pub fn new(lab: &'a Lab, out: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&out)?;
        let hosts = CUSTOMERS.iter().flat_map(|customer| CITIES.iter().map(move |city| format!("{customer}-{city}")));
        let servers = Servers::start(lab, hosts.map(|name| (format!("{name}-host"), name)))?;
        Ok(Self { lab, out, _servers: servers })
    }

    pub fn host(&self, customer: &str, city: &str) -> Result<&Node> {
        self.lab.node(&format!("{customer}-{city}-host"))
    }

    pub fn ce(&self, customer: &str, city: &str) -> Result<&Node> {
        self.lab.node(&format!("{customer}-{city}"))
    }

    /// A platform's node.
    pub fn pe(&self, city: &str) -> Result<&Node> {
        self.lab.node(city)
    }

    /// Where the topology's provisioning files lie.
    pub fn yaml(&self, city: &str, file: &str) -> String {
        self.lab.topology.directory.join("two-cities").join(city).join(file).to_string_lossy().into_owned()
    }

    /// `edgeplex …` on a PE, whatever it answers.
    pub fn edgeplex(&self, city: &str, arguments: &[&str]) -> Result<Output> {
        self.pe(city)?.output(&[&["edgeplex"], arguments].concat())
    }

    /// `edgeplex … -o json` on a PE, which must succeed.
    pub fn edgeplex_json(&self, city: &str, arguments: &[&str]) -> Result<Value> {
        let text = self.pe(city)?.run(&[&["edgeplex"], arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("edgeplex {}: not JSON", arguments.join(" ")))
    }

    pub fn apply(&self, city: &str, file: &str) -> Result<()> {
        let yaml = self.yaml(city, file);
        self.pe(city)?.run(&["edgeplex", "apply", "-f", &yaml]).map(drop)
    }

    /// The label of a customer's attachment on a PE, as `edgeplex show labels` says.
    pub fn label(&self, customer: &str, city: &str) -> Result<u64> {
        let rows = self.edgeplex_json(city, &["show", "labels", "-c", customer])?;
        let id = format!("{customer}/{city}-1");
        find_object(&rows, &|o| {
            o.get("attachment").and_then(Value::as_str) == Some(&id) && o.get("state").and_then(Value::as_str) != Some("quarantine")
        })
        .and_then(|o| o.get("label")?.as_u64())
        .with_context(|| format!("edgeplex show labels on {city} has no label of {id}: {rows}"))
    }

    /// The label by which p1 switches to a PE, from its own `show forwarding`.
    pub fn transit_label(&self, city: &str) -> Result<u64> {
        let rows = self.edgeplex_json(P_ROUTER, &["show", "forwarding"])?;
        let prefix = format!("10.255.0.{}/32", number(city));
        find_object(&rows, &|o| o.get("prefix").and_then(Value::as_str) == Some(&prefix))
            .and_then(|o| o.get("label")?.as_u64())
            .with_context(|| format!("edgeplex show forwarding on {P_ROUTER} has no label for {prefix}: {rows}"))
    }

    /// A few datagrams from a customer's host to its other city.
    pub fn udp(&self, customer: &str, from: &str, pps: u32, count: u64, size: usize) -> Result<udp::Report> {
        self.udp_from_port(customer, from, pps, count, size, 0)
    }

    pub fn udp_from_port(&self, customer: &str, from: &str, pps: u32, count: u64, size: usize, source_port: u16) -> Result<udp::Report> {
        let way = Way { to: &host_address(other(from)), pps, size, source_port };
        traffic::send(self.host(customer, from)?, &way, count)
    }

    /// A stream of datagrams at 100 per second, until it is stopped.
    pub fn stream(&self, customer: &str, from: &str) -> Result<Stream> {
        let way = Way { to: &host_address(other(from)), pps: 100, size: 64, source_port: 0 };
        Stream::start(self.host(customer, from)?, format!("{customer} from {from}"), &way)
    }

    /// Streams of a customer in both directions.
    pub fn streams(&self, customer: &str) -> Result<Vec<Stream>> {
        CITIES.iter().map(|city| self.stream(customer, city)).collect()
    }

    /// Waits until a customer's hosts reach each other both ways.
    pub fn wait_for_traffic(&self, customer: &str) -> Result<()> {
        for city in CITIES {
            wait::until(&format!("{customer} from {city} to {}", other(city)), CONVERGE, || {
                let report = self.udp(customer, city, 50, 3, 64)?;
                Ok(if report.lost == 0 { Ok(()) } else { Err(format!("{} of {} datagrams answered", report.received, report.sent)) })
            })?;
        }
        Ok(())
    }

    /// Whether the CE's own daemon says that its session with the PE is established.
    pub fn ce_established(&self, customer: &str, city: &str) -> Result<bool> {
        let ce = self.ce(customer, city)?;
        if customer == "acme" {
            return Ok(ce
                .output(&["birdc", "show", "protocols", "edgeplex"])
                .is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("Established")));
        }
        let out = ce.output(&["vtysh", "-c", &format!("show bgp neighbors {} json", pe_address(city))])?;
        Ok(String::from_utf8_lossy(&out.stdout).replace(' ', "").contains("\"bgpState\":\"Established\""))
    }

    /// Whether the CE's own daemon has the prefix from the PE.
    pub fn ce_has(&self, customer: &str, city: &str, prefix: &str) -> Result<bool> {
        let ce = self.ce(customer, city)?;
        let out = if customer == "acme" {
            ce.output(&["birdc", "show", "route", prefix])?
        } else {
            ce.output(&["vtysh", "-c", &format!("show bgp ipv4 unicast {prefix}")])?
        };
        let said = String::from_utf8_lossy(&out.stdout);
        Ok(said.contains(prefix) && !said.contains("not in table") && !said.contains("not found"))
    }

    pub fn wait_established(&self, customer: &str, city: &str) -> Result<()> {
        wait::until_true(&format!("session of {customer}'s CE in {city}"), CONVERGE, || self.ce_established(customer, city))
    }

    /// The pid of a program inside the VM of an attachment, as the host counts.
    pub fn pid_in_pvm(&self, customer: &str, city: &str, program: &str) -> Result<i32> {
        // The CVM knows the attachment too, by another name.
        let attachment = format!("\"attachment\": \"{customer}/{city}-1\"");
        let node = self.pe(city)?;
        let found = node
            .processes(program)
            .into_iter()
            .find(|pid| crate::process::file_of(*pid, "/etc/edgeplex/config.json").is_some_and(|c| c.contains(&attachment)));
        found.with_context(|| format!("no {program} of {customer} runs on {city}"))
    }

    /// What the controller has told the PVM of an attachment.
    pub fn pvm_config(&self, customer: &str, city: &str) -> Result<PvmConfig> {
        let text = self.pe(city)?.run(&["cat", &format!("/run/edgeplex/vms/pvm-{customer}-{city}-1-g1/etc/config.json")])?;
        serde_json::from_str(&text).with_context(|| format!("configuration of {customer}'s PVM in {city}"))
    }

    /// Every process in the VMs of a PE, by command name and pid: those in another PID namespace than the node's.
    pub fn vm_processes(&self, city: &str) -> Result<Vec<(String, i32)>> {
        let node = self.pe(city)?;
        let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(node.init.pid);
        let inside =
            crate::process::tree(node.init.pid).into_iter().filter(|pid| namespace(*pid).is_some_and(|n| own.as_ref() != Some(&n)));
        let mut found: Vec<(String, i32)> = inside.map(|pid| (crate::process::command(pid), pid)).collect();
        found.sort();
        ensure!(!found.is_empty(), "{city} has no VM processes");
        Ok(found)
    }

    /// The labels in use on a PE, by attachment.
    pub fn labels(&self, city: &str) -> Result<BTreeMap<String, u64>> {
        let rows = self.edgeplex_json(city, &["show", "labels"])?;
        let row = |o: &Value| {
            let text = |k: &str| Some(o.get(k)?.as_str()?.to_owned());
            let used = text("state")? != "quarantine";
            Some((text("attachment")?, o.get("label")?.as_u64()?)).filter(|_| used)
        };
        Ok(rows.as_array().into_iter().flatten().filter_map(row).collect())
    }

    /// The rules of the fabric, without counters.
    pub fn flows(&self, city: &str) -> Result<Vec<String>> {
        let text = self.pe(city)?.run(&["ovs-ofctl", "-O", "OpenFlow13", "--no-stats", "dump-flows", "fabric"])?;
        let mut rules: Vec<String> =
            text.lines().filter(|l| l.contains("priority") || l.contains("actions")).map(|l| l.trim().to_owned()).collect();
        rules.sort();
        Ok(rules)
    }

    /// The session with a customer's CE as its PE sees it: state, and how often it was lost.
    pub fn bgp_resets(&self, customer: &str, city: &str) -> Result<(String, u64)> {
        self.session(city, &["show", "bgp", "-c", customer], &ce_address(city))
    }

    /// The same of the PE's session with the route reflector.
    pub fn core_resets(&self, city: &str) -> Result<(String, u64)> {
        self.session(city, &["show", "bgp"], "10.255.0.9")
    }

    fn session(&self, city: &str, question: &[&str], address: &str) -> Result<(String, u64)> {
        let rows = self.edgeplex_json(city, question)?;
        let row = find_object(&rows, &|o| o.get("address").and_then(Value::as_str) == Some(address));
        let row = row.with_context(|| format!("edgeplex show bgp has no neighbour {address}: {rows}"))?;
        let text = |k: &str| row.get(k).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok((text("state"), row.get("resets").and_then(Value::as_u64).unwrap_or_default()))
    }
}

/// The first object anywhere in the value that satisfies the condition.
pub(super) fn find_object<'v>(
    value: &'v Value,
    wanted: &impl Fn(&serde_json::Map<String, Value>) -> bool,
) -> Option<&'v serde_json::Map<String, Value>> {
    match value {
        Value::Object(o) if wanted(o) => Some(o),
        Value::Object(o) => o.values().find_map(|v| find_object(v, wanted)),
        Value::Array(a) => a.iter().find_map(|v| find_object(v, wanted)),
        _ => None,
    }
}
