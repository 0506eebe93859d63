//! The reconciler among a runtime and a switch that only remember.

#![allow(clippy::unwrap_used)]

#[path = "../../intent/tests/common/mod.rs"]
mod common;

use common::{PLATFORM, another, both};
use edgeplex_intent::{Intent, Keys, allocate, parse};
use edgeplex_mgmt::show::{Fabric, FabricLabel, FabricNeighbor};
use edgeplex_runtime::{FakeRuntime, Runtime};
use edgeplex_store::Memory;
use edgeplex_switch::{Changes, PortNo, Rule};
use edgeplex_types::MacAddr;
use edgeplexd::{
    desired::Desired,
    hosts::Fleet,
    placement::Placements,
    reconcile::{Parts, Reconciler, State},
    retire::teardown,
    switching::{Bundles, Fabricator},
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio::sync::{mpsc, watch};

/// Two customers.
fn text() -> String {
    [both(), another("beta", 1)].join("---\n")
}

/// The same with a label-switching router.
fn with_ldp() -> String {
    text().replacen("mtu: 1600}", "mtu: 1600, ldp: true}", 1).replacen("  asn:", "  ldp: {}\n  asn:", 1)
}

/// A switch as a table: ports, rules, how often it was changed, and a port it will not take.
#[derive(Debug, Default)]
struct Table {
    ports: BTreeMap<String, PortNo>,
    rules: Vec<Rule>,
    bundles: usize,
    refuses: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct FakeSwitch(Arc<Mutex<Table>>);

impl FakeSwitch {
    fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }
}

impl Fabricator for FakeSwitch {
    fn ports(&mut self) -> BoxFuture<'_, anyhow::Result<BTreeMap<String, PortNo>>> {
        let ports = self.with(|t| t.ports.clone());
        Box::pin(async { Ok(ports) })
    }
    fn rules(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<Rule>>> {
        let rules = self.with(|t| t.rules.clone());
        Box::pin(async { Ok(rules) })
    }
    fn ensure_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        let result = self.with(|t| {
            anyhow::ensure!(t.refuses.as_deref() != Some(name), "no such device");
            let next = PortNo(t.ports.values().map(|p| p.0).max().unwrap_or(0) + 1);
            t.ports.entry(name.into()).or_insert(next);
            Ok(())
        });
        Box::pin(async { result })
    }
    fn remove_port<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.with(|t| t.ports.retain(|port, _| port != name));
        Box::pin(async { Ok(()) })
    }
    fn apply<'a>(&'a mut self, changes: &'a Changes) -> BoxFuture<'a, anyhow::Result<()>> {
        self.with(|t| {
            t.rules.retain(|r| !changes.remove.contains(r));
            t.rules.retain(|r| !changes.add.iter().any(|a| (a.table, a.priority, &a.matches) == (r.table, r.priority, &r.matches)));
            t.rules.extend(changes.add.iter().cloned());
            t.bundles += 1;
        });
        Box::pin(async { Ok(()) })
    }
}

fn desired(text: &str) -> Arc<Desired> {
    let intent = Intent::default().apply(parse(text).unwrap()).unwrap();
    let rds = allocate(&intent, &Default::default()).unwrap();
    let key = Keys { public: "p".into(), secret: "s".into() };
    let keys = intent.attachments().map(|(id, _, _)| (id, key.clone())).collect();
    Arc::new(Desired { intent, rds, keys, cvm_key: key })
}

struct Bench {
    _dir: tempfile::TempDir,
    runtime: Arc<FakeRuntime>,
    switch: FakeSwitch,
    desired: watch::Sender<Arc<Desired>>,
    fabric: watch::Sender<Option<Fabric>>,
    state: watch::Receiver<State>,
    _looks: mpsc::Sender<edgeplexd::reconcile::Look>,
    reconciler: Reconciler,
}

impl Bench {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Arc::new(FakeRuntime::new(dir.path()));
        Self::over(dir, runtime, FakeSwitch::default(), text)
    }

    /// A controller that was just started over a runtime and a switch that may be in use already.
    fn over(dir: tempfile::TempDir, runtime: Arc<FakeRuntime>, switch: FakeSwitch, text: &str) -> Self {
        let (desired, wanted) = watch::channel(desired(text));
        let (fabric, heard) = watch::channel(None);
        let (looks, looked) = mpsc::channel(1);
        let (state_out, state) = watch::channel(State::default());
        let (ground, _) = watch::channel(None);
        let reconciler = Reconciler::new(Parts {
            dir: dir.path().into(),
            fleet: Arc::new(Fleet::alone(runtime.clone())),
            switch: Box::new(switch.clone()),
            bundles: Bundles::start(Box::new(switch.clone())),
            placements: Arc::new(Placements::open(Arc::new(Memory::default())).unwrap()),
            desired: wanted,
            fabric: heard,
            looks: looked,
            state: state_out,
            ground,
        });
        Self { _dir: dir, runtime, switch, desired, fabric, state, _looks: looks, reconciler }
    }

    fn say_fabric(&self) {
        let label = |a: &str, l: u32| FabricLabel { attachment: a.parse().unwrap(), label: l.try_into().unwrap() };
        self.fabric.send_replace(Some(Fabric {
            generation: 1,
            labels: vec![label("acme/denver-1", 1000), label("beta/denver-1", 1001)],
            neighbors: vec![FabricNeighbor { mac: MacAddr([2, 0, 0, 0, 0, 9]), interface: "core0".into() }],
        }));
    }

    async fn vms(&self) -> Vec<String> {
        self.runtime.list().await.unwrap().iter().map(|vm| vm.id.to_string()).collect()
    }

    fn settled(&self) -> bool {
        self.state.borrow().report(&self.desired.borrow()).settled
    }

    fn changes(&self) -> u64 {
        self.state.borrow().report(&self.desired.borrow()).changes
    }
}

#[tokio::test]
async fn from_nothing_to_all_and_then_nothing_more_to_do() {
    let mut b = Bench::new(&text());
    b.reconciler.pass().await;
    assert_eq!(b.vms().await, ["cvm-g1", "pvm-acme-denver-1-g1", "pvm-beta-denver-1-g1"]);
    assert!(!b.settled(), "labels are not known yet");
    assert!(b.switch.with(|t| t.rules.is_empty()), "no rule is made up before the CVM has spoken");
    b.say_fabric();
    b.reconciler.pass().await;
    assert!(b.settled());
    assert_eq!(b.state.borrow().connected.len(), 2);
    let (ports, rules, bundles) = b.switch.with(|t| (t.ports.len(), t.rules.len(), t.bundles));
    assert_eq!(ports, 2 + 1 + 4, "core and access port, the CVM's, two of each PVM");
    let done = b.changes();
    b.reconciler.pass().await;
    assert_eq!((b.changes(), b.switch.with(|t| (t.rules.len(), t.bundles))), (done, (rules, bundles)));
}

#[tokio::test]
async fn settled_is_said_of_the_state_that_was_seen() {
    let mut b = Bench::new(&text());
    b.say_fabric();
    b.reconciler.pass().await;
    assert!(b.settled());
    b.desired.send_replace(desired(&text().replace("vlan: 101", "vlan: 201")));
    assert!(!b.settled(), "nobody has looked at the new state yet");
    b.reconciler.pass().await;
    assert!(b.settled());
}

#[tokio::test]
async fn a_customer_that_goes_takes_its_rules_ports_and_vm_and_nothing_else() {
    let mut b = Bench::new(&text());
    b.say_fabric();
    b.reconciler.pass().await;
    let pid = |vms: Vec<edgeplex_runtime::VmInfo>| vms.iter().find(|v| v.id.as_str() == "pvm-beta-denver-1-g1").unwrap().pid;
    let before = pid(b.runtime.list().await.unwrap());
    b.desired.send_replace(desired(&[PLATFORM, &another("beta", 1)].join("---\n")));
    // The CVM's daemon is not there to reload (this runtime has none): that problem holds up nothing else.
    b.reconciler.pass().await;
    assert_eq!(b.vms().await, ["cvm-g1", "pvm-beta-denver-1-g1"]);
    assert_eq!(pid(b.runtime.list().await.unwrap()), before);
    assert_eq!(b.switch.with(|t| t.ports.len()), 2 + 1 + 2);
    assert_eq!(b.runtime.forgotten().iter().map(ToString::to_string).collect::<Vec<_>>(), ["pvm-acme-denver-1"], "it will not come back");
    let cookies: Vec<u64> = b.switch.with(|t| t.rules.iter().map(|r| r.cookie).collect());
    assert!(!cookies.contains(&edgeplex_switch::cookie_of("acme")));
    assert!(cookies.contains(&edgeplex_switch::cookie_of("beta")));
}

#[tokio::test]
async fn a_vm_that_died_is_made_anew_and_its_neighbours_are_left_alone() {
    let mut b = Bench::new(&text());
    b.say_fabric();
    b.reconciler.pass().await;
    let before = b.runtime.list().await.unwrap();
    b.runtime.crash(&"pvm-acme-denver-1-g1".parse().unwrap());
    b.reconciler.pass().await;
    assert!(b.settled());
    let after = b.runtime.list().await.unwrap();
    assert!(b.runtime.forgotten().is_empty(), "what is made anew keeps its state");
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old.pid == new.pid, old.id.as_str() != "pvm-acme-denver-1-g1", "{}", old.id);
    }
}

#[tokio::test]
async fn what_fails_for_one_holds_up_no_other() {
    let mut b = Bench::new(&text());
    b.say_fabric();
    let bad = edgeplex_runtime::host_nic_name(b._dir.path(), &"pvm-acme-denver-1-g1".parse().unwrap(), "cust");
    b.switch.with(|t| t.refuses = Some(bad));
    b.reconciler.pass().await;
    assert!(!b.settled());
    b.reconciler.pass().await;
    let cookies: Vec<u64> = b.switch.with(|t| t.rules.iter().map(|r| r.cookie).collect());
    assert!(cookies.contains(&edgeplex_switch::cookie_of("beta")), "beta is connected");
    assert!(!cookies.contains(&edgeplex_switch::cookie_of("acme")));
    let state = b.state.borrow().report(&b.desired.borrow());
    assert!(state.problems.iter().any(|p| p.contains("pvm-acme-denver-1-g1") && p.contains("no such device")), "{:?}", state.problems);
}

#[tokio::test]
async fn teardown_leaves_neither_vms_nor_ports_of_theirs_nor_rules() {
    let mut b = Bench::new(&text());
    b.say_fabric();
    b.reconciler.pass().await;
    teardown(b._dir.path().into(), Arc::new(Fleet::alone(b.runtime.clone())), Box::new(b.switch.clone()), Box::new(b.switch.clone()))
        .await
        .unwrap();
    assert!(b.vms().await.is_empty());
    let (ports, rules): (Vec<String>, usize) = b.switch.with(|t| (t.ports.keys().cloned().collect(), t.rules.len()));
    assert_eq!((ports, rules), (vec!["eth1".to_owned(), "eth2".to_owned()], 0));
}

#[tokio::test]
async fn a_platform_with_ldp_has_a_router_that_nobody_has_to_configure() {
    let mut b = Bench::new(&with_ldp());
    b.say_fabric();
    b.reconciler.pass().await;
    assert_eq!(b.vms().await, ["cvm-g1", "lsr", "pvm-acme-denver-1-g1", "pvm-beta-denver-1-g1"]);
    assert!(b.settled(), "{:?}", b.state.borrow().report(&b.desired.borrow()));
    assert_eq!(b.switch.with(|t| t.ports.len()), 2 + 1 + 1 + 4);
    let spec = b.runtime.spec(&"lsr".parse().unwrap()).unwrap();
    assert_eq!(spec.processes[0].argv, ["fastforward", "--lsr", "core0", "--socket", "/run/lsr/fib.sock", "--mtu", "1600"]);
    let paths = |id: &str| b.runtime.spec(&id.parse().unwrap()).unwrap().shared.into_iter().map(|s| s.path).collect::<Vec<_>>();
    assert_eq!(paths("lsr"), ["/run/lsr"]);
    assert_eq!(paths("cvm-g1"), ["/run/relay", "/run/lsr"]);
    assert_eq!(paths("pvm-acme-denver-1-g1"), ["/run/relay"], "a customer's VM does not see it");
    // The core's labels reach it.
    let router = b.switch.with(|t| t.ports[&spec.nics[0].host_name]);
    let to_it = |r: &Rule| r.actions == [edgeplex_switch::Action::Output(router)];
    assert_eq!(b.switch.with(|t| t.rules.iter().filter(|r| to_it(r)).map(|r| r.table).collect::<Vec<_>>()), [2]);

    // LDP goes, and with it the router; the CVM stays as it is.
    let cvm = b.runtime.spec(&"cvm-g1".parse().unwrap()).unwrap().hash();
    b.desired.send_replace(desired(&text()));
    b.reconciler.pass().await;
    assert_eq!(b.vms().await, ["cvm-g1", "pvm-acme-denver-1-g1", "pvm-beta-denver-1-g1"]);
    assert_eq!(b.runtime.spec(&"cvm-g1".parse().unwrap()).unwrap().hash(), cvm);
    assert!(b.switch.with(|t| !t.rules.iter().any(to_it) && !t.ports.contains_key(&spec.nics[0].host_name)));
}

#[tokio::test]
async fn a_p_router_is_a_cvm_and_a_label_switching_router() {
    let text = "{apiVersion: edgeplex/v1, kind: Platform, metadata: {name: p1}, spec: {role: p, loopback: 10.255.0.5, ospf: {}, ldp: {},
        core: [{port: eth1, address: 10.0.1.2/30, ospf: {}, ldp: true}, {port: eth2, address: 10.0.2.1/30, ospf: {}, ldp: true}]}}";
    let mut b = Bench::new(text);
    b.fabric.send_replace(Some(Fabric { generation: 1, labels: vec![], neighbors: vec![] }));
    b.reconciler.pass().await;
    assert!(b.settled());
    assert_eq!(b.vms().await, ["cvm-g1", "lsr"]);
    assert_eq!(b.switch.with(|t| (t.ports.len(), t.rules.len())), (2 * 3, 2 * 8));
    let config: serde_json::Value = serde_json::from_slice(&b.runtime.spec(&"cvm-g1".parse().unwrap()).unwrap().config).unwrap();
    assert_eq!((&config["role"], &config["lsr_socket"]), (&"p".into(), &"/run/lsr/fib.sock".into()));
}
