//! The lab as the bench and the chaos see it: who is where, which instance serves whom, and how to hurt it.

use super::churn::Churn;
use crate::{
    lab::Lab,
    launch,
    node::Node,
    process::{self, Process},
    streams::{End, Streams},
    traffic::{self, Way},
    wait,
};
use anyhow::{Context, Result, ensure};
use edgeplex_mgmt::show::{InstanceState, InstanceStatus};
use serde_json::Value;
use std::{path::PathBuf, sync::OnceLock, time::Duration};

pub(super) const PE: &str = "denver";
pub(super) const FAR: &str = "boston";
/// The PE's second host, as its intent calls it, and its node.
pub(super) const HOST: &str = "denver-b";
/// The controller's own host, by the same kind of name.
pub(super) const LOCAL: &str = "local";
pub(super) const PLATFORMS: [&str; 2] = [PE, FAR];
pub(super) const CUSTOMERS: [&str; 3] = ["acme", "beta", "gamma"];
/// Everybody who has an active instance and a standby.
pub(super) const OWNERS: [&str; 4] = ["acme/denver-1", "beta/denver-1", "gamma/denver-1", "cvm"];
pub(super) const CONVERGE: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) lab: &'a Lab,
    pub(super) out: PathBuf,
    churn: OnceLock<Churn>,
}

/// An instance as `edgeplex show instances` tells it.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Instance {
    pub(super) vm: String,
    pub(super) host: String,
    /// `active`, `standby`, `successor` or `leaving`.
    pub(super) place: String,
    #[serde(default)]
    pub(super) image: Option<String>,
    /// `running`, …
    pub(super) state: String,
    pub(super) said: Option<InstanceStatus>,
}

impl Instance {
    /// It could take over at once.
    fn is_ready(&self) -> bool {
        self.state == "running" && self.said.as_ref().is_some_and(|s| s.state == InstanceState::Standby && s.in_sync && s.forwards)
    }

    /// It answers, and says that it speaks.
    pub(super) fn is_speaking(&self) -> bool {
        self.state == "running" && self.said.as_ref().is_some_and(|s| s.state == InstanceState::Active)
    }

    /// Bytes that a standby had to be sent so far.
    pub(super) fn journaled(&self) -> u64 {
        self.said.as_ref().map_or(0, |s| s.end)
    }
}

impl<'a> World<'a> {
    pub(super) fn new(lab: &'a Lab, out: PathBuf) -> Self {
        Self { lab, out, churn: OnceLock::new() }
    }

    /// From now on there are 200 UPDATEs a second.
    pub(super) fn start_churn(&self) -> Result<()> {
        self.churn.set(Churn::start(self)?).map_err(|_| anyhow::anyhow!("it runs already"))
    }

    /// How many routes customers' routers lack or have too many.
    pub(super) fn wrong_routes(&self) -> Result<usize> {
        self.churn.get().map_or(Ok(0), |churn| churn.wrong(self))
    }

    pub(super) fn node(&self, name: &str) -> Result<&Node> {
        self.lab.node(name)
    }

    pub(super) fn host(&self, customer: &str, city: &str) -> Result<&Node> {
        self.node(&format!("{customer}-{city}-host"))
    }

    pub(super) fn file(&self, node: &str, file: &str) -> PathBuf {
        self.lab.topology.directory.join("resilience").join(node).join(file)
    }

    pub(super) fn edgeplex(&self, arguments: &[&str]) -> Result<String> {
        self.node(PE)?.run(&[&["edgeplex"], arguments].concat())
    }

    pub(super) fn edgeplex_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.edgeplex(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("edgeplex {}: not JSON: {text}", arguments.join(" ")))
    }

    /// `edgeplex apply` of a document with words of it replaced.
    pub(super) fn apply(&self, node: &str, file: &str, changes: &[(&str, &str)]) -> Result<()> {
        let mut text = std::fs::read_to_string(self.file(node, file))?;
        for (from, to) in changes {
            ensure!(text.matches(from).count() == 1, "{node}/{file}: `{from}` is not there once");
            text = text.replace(from, to);
        }
        let path = self.out.join(format!("{node}-{file}"));
        std::fs::write(&path, text)?;
        self.node(node)?.run(&["edgeplex", "apply", "-f", &path.to_string_lossy()]).map(drop)
    }

    /// The second host's agent.
    pub(super) fn start_agent(&self) -> Result<()> {
        launch::agent(self.node(HOST)?, "192.0.2.2:7443", "eth1", self.node(PE)?)
    }

    /// All instances of an attachment (`acme/denver-1`) or of `cvm`.
    pub(super) fn instances(&self, owner: &str) -> Result<Vec<Instance>> {
        let rows = self.edgeplex_json(&["show", "instances"])?;
        let rows = rows.as_array().cloned().unwrap_or_default().into_iter().filter(|r| r["unit"] == owner);
        rows.map(|r| serde_json::from_value(r).context("show instances")).collect()
    }

    pub(super) fn instance(&self, owner: &str, place: &str) -> Result<Instance> {
        let all = self.instances(owner)?;
        all.iter().find(|i| i.place == place).cloned().with_context(|| format!("{owner} has no {place} instance: {all:?}"))
    }

    /// Waits until there is a standby that could take over at once, where there is to be one.
    pub(super) fn wait_protected(&self, owner: &str) -> Result<Instance> {
        wait::until(&format!("{owner} is protected"), CONVERGE, || {
            Ok(match self.instance(owner, "standby") {
                Ok(i) if i.is_ready() => Ok(i),
                Ok(i) => Err(format!("{i:?}")),
                Err(e) => Err(format!("{e:#}")),
            })
        })
    }

    /// [`Self::wait_protected`] of everybody.
    pub(super) fn wait_all_protected(&self) -> Result<()> {
        OWNERS.iter().try_for_each(|owner| self.wait_protected(owner).map(drop))
    }

    /// The node on which a host's VMs run.
    pub(super) fn node_of(&self, host: &str) -> Result<&Node> {
        self.node(if host == LOCAL { PE } else { host })
    }

    /// The process of that name in a VM.
    pub(super) fn process(&self, instance: &Instance, program: &str) -> Result<Process> {
        let node = self.node_of(&instance.host)?;
        // A VM's cgroup has its name.
        let within = |pid: &i32| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|l| l.rsplit('/').next() == Some(instance.vm.as_str()))
        };
        let found = node.processes(program).into_iter().find(within);
        found.and_then(Process::find).with_context(|| format!("{}: no {program} in {}", node.name, instance.vm))
    }

    /// The VM's first process: with it, all of it ends. Found by way of a program that runs there.
    pub(super) fn first_process(&self, instance: &Instance, program: &str) -> Result<Process> {
        let pid = process::parent(self.process(instance, program)?.pid);
        pid.and_then(Process::find).with_context(|| format!("{} has just ended", instance.vm))
    }

    /// Streams both ways between a customer's hosts.
    pub(super) fn streams(&self, customer: &str, pps: u32) -> Result<Streams> {
        let names = [format!("{customer} {PE}"), format!("{customer} {FAR}")];
        let end = |city: &str, address: &'static str, n: usize| -> Result<End<'_>> {
            Ok(End { node: self.host(customer, city)?, address, name: &names[n] })
        };
        let streams = Streams::start([end(PE, "172.16.1.10", 0)?, end(FAR, "172.16.2.10", 1)?], pps)?;
        // They have met once datagrams sent beside them are answered. What is lost until then is theirs, and counted by whoever counts it.
        wait::until(&format!("{customer}'s streams"), CONVERGE, || Ok(self.calm(customer).map_err(|e| format!("{e:#}"))))?;
        Ok(streams)
    }

    /// Some datagrams, none of which may be lost.
    pub(super) fn calm(&self, customer: &str) -> Result<()> {
        let report = traffic::send(self.host(customer, PE)?, &Way { to: "172.16.2.10", pps: 500, size: 64, source_port: 0 }, 150)?;
        ensure!(report.lost == 0, "{customer}: {} of {} lost where nothing happens", report.lost, report.sent);
        Ok(())
    }

    /// Waits until a customer's datagrams are answered.
    pub(super) fn wait_datagrams(&self, customer: &str) -> Result<()> {
        wait::until(&format!("{customer}'s first answers"), CONVERGE, || {
            let report = traffic::send(self.host(customer, PE)?, &Way { to: "172.16.2.10", pps: 100, size: 64, source_port: 0 }, 3)?;
            Ok(if report.lost == 0 { Ok(()) } else { Err(format!("{} of {} answered", report.received, report.sent)) })
        })
    }
}
