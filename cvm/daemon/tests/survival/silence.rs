//! What stands is not touched: a cvmd that goes on from its journal takes nothing back and changes nothing, for the PVMs, the
//! label-switching router, the switch and the core.

use crate::{
    lsr::Lsr,
    place::{CORE, Place, run, until},
    pvm::Pvm,
    router::{BEHIND, Router, VPN},
    vm::Vm,
};
use edgeplex_ff_fib_api::{FibOp, Request};
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::{CvmQuery, Fabric, FabricLabel, FabricNeighbor},
};
use edgeplex_relay::{Sync, ToCvm, ToPvm, VpnOp};
use edgeplex_transport::mgmt::ask;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::timeout};

const ROUNDS: usize = 12;
/// As a PVM calls where nobody answers.
const CALL: Duration = Duration::from_millis(20);

/// What was told last of each thing, and what was told otherwise than before.
#[derive(Debug)]
struct Memory<Op> {
    told: BTreeMap<String, Op>,
    /// In the present snapshot.
    renewed: BTreeSet<String>,
    changes: Vec<String>,
}

impl<Op: PartialEq + Debug + Clone> Memory<Op> {
    fn new() -> Self {
        Self { told: BTreeMap::new(), renewed: BTreeSet::new(), changes: vec![] }
    }

    fn begin(&mut self) {
        self.renewed.clear();
    }

    /// What the snapshot has not renewed is gone.
    fn end(&mut self) {
        let gone: Vec<String> = self.told.keys().filter(|key| !self.renewed.contains(*key)).cloned().collect();
        for key in gone {
            self.told.remove(&key);
            self.changes.push(format!("{key} is not in the snapshot"));
        }
    }

    /// `key`: none for what takes something away.
    fn hear(&mut self, key: Option<String>, op: &Op) {
        if key.as_ref().is_none_or(|key| self.told.get(key) != Some(op)) {
            self.changes.push(format!("{op:?}"));
        }
        if let Some(key) = key {
            self.renewed.insert(key.clone());
            self.told.insert(key, op.clone());
        }
    }
}

fn of_pvm(op: &VpnOp) -> Option<String> {
    match op {
        VpnOp::OwnLabel { label, .. } => Some(format!("label {label}")),
        VpnOp::Tunnel(t) => Some(format!("tunnel {:?}", t.id)),
        VpnOp::Route { prefix, .. } => Some(format!("route {prefix}")),
        VpnOp::OwnLabelGone { .. } | VpnOp::TunnelGone { .. } | VpnOp::Withdraw { .. } => None,
    }
}

fn of_lsr(op: &FibOp) -> Option<String> {
    match op {
        FibOp::Ports(_) => Some("ports".into()),
        FibOp::Tunnel(t) => Some(format!("tunnel {:?}", t.id)),
        FibOp::Switch { label, .. } => Some(format!("label {label}")),
        _ => None,
    }
}

/// Everybody who is told something.
struct Witnesses {
    pvm: Pvm,
    vpn: Memory<VpnOp>,
    lsr: Lsr,
    map: Memory<FibOp>,
    /// Labels and neighbours.
    switch: Memory<(Vec<FabricLabel>, Vec<FabricNeighbor>)>,
    fabrics: mpsc::UnboundedReceiver<Fabric>,
}

/// The controller's part: asks for what is new, whoever answers.
fn watch(vm: &Vm) -> mpsc::UnboundedReceiver<Fabric> {
    let (out, fabrics) = mpsc::unbounded_channel();
    let socket = vm.run.join("mgmt.sock");
    tokio::spawn(async move {
        let mut seen = 0;
        while !out.is_closed() {
            match ask::<_, Fabric>(&socket, &CvmQuery::Fabric { seen }, crate::LIMIT).await {
                Ok(fabric) => {
                    seen = fabric.generation;
                    let _ = out.send(fabric);
                }
                Err(_) => tokio::time::sleep(CALL).await,
            }
        }
    });
    fabrics
}

impl Witnesses {
    /// Calls until there is somebody, and hears until the snapshot has ended; then a while longer.
    async fn hear(&mut self) {
        self.pvm.incarnation += 1;
        let incarnation = self.pvm.incarnation;
        let hello = ToCvm::Hello { attachment: self.pvm.id.parse().unwrap(), incarnation, generation: 1, standby: false };
        let (begun, mut up, mut until) = (Instant::now(), false, None);
        while until.is_none_or(|until| Instant::now() < until) {
            assert!(begun.elapsed() < crate::LIMIT, "no snapshot: {:?}", self.vpn);
            if !up {
                let _ = self.pvm.say(hello.clone());
            }
            let Ok(message) = timeout(CALL, self.pvm.client.recv()).await else { continue };
            match message.unwrap() {
                ToPvm::Welcome { incarnation: i } if i == incarnation && !up => {
                    up = true;
                    self.pvm.snapshot(&["10.1.0.0/16"]);
                }
                ToPvm::Sync { incarnation: i, sync } if i == incarnation => match sync {
                    Sync::Ops { ops, .. } => ops.iter().for_each(|op| self.vpn.hear(of_pvm(op), op)),
                    Sync::End { .. } => {
                        self.vpn.end();
                        until = Some(Instant::now() + Duration::from_millis(500));
                    }
                    Sync::Begin { .. } => self.vpn.begin(),
                },
                _ => {}
            }
        }
        while let Some(request) = self.lsr.next() {
            match request {
                Request::Begin { .. } => self.map.begin(),
                Request::Program { ops, .. } => ops.iter().for_each(|op| self.map.hear(of_lsr(op), op)),
                Request::End { .. } => self.map.end(),
                _ => {}
            }
        }
        while let Ok(Fabric { labels, neighbors, .. }) = self.fabrics.try_recv() {
            self.switch.hear(Some("fabric".into()), &(labels, neighbors));
        }
    }

    fn changes(&mut self) -> Vec<String> {
        let of = |who: &'static str, changes: &mut Vec<String>| std::mem::take(changes).into_iter().map(move |c| format!("{who}: {c}"));
        let (vpn, map) = (of("PVM", &mut self.vpn.changes), of("LSR", &mut self.map.changes));
        vpn.chain(map).chain(of("switch", &mut self.switch.changes)).collect()
    }
}

#[test]
#[ignore = "needs root, FRR, fastforward and network namespaces; the lab's test command runs it"]
fn a_killed_cvmd_takes_nothing_back() {
    run(async {
        let mut place = Place::new();
        let router = Router::start(&mut place).await;
        let socket = place.path().join("lsr.sock");
        place.config.lsr_socket = Some(socket.display().to_string());
        place.config.ldp.as_mut().unwrap().igp_sync = true;
        let lsr = Lsr::start(&socket);
        let mut vm = place.vm(Instance { generation: 1, role: InstanceRole::Active });
        place.lead_to(&vm);
        vm.start_cvmd();
        router.up().await;
        router.behind();
        vm.until("the core is known", |s| s.forwards).await;
        let (pvm, fabrics) = (place.pvm(), watch(&vm));
        let mut all = Witnesses { pvm, vpn: Memory::new(), lsr, map: Memory::new(), switch: Memory::new(), fabrics };
        // Behind a neighbour nothing is reached without LDP.
        until("a tunnel that needs a label", async || {
            let rows: Vec<edgeplex_mgmt::show::TunnelRow> = vm.ask(CvmQuery::Tunnels).await.ok()?;
            rows.iter().any(|t| t.endpoint == BEHIND && t.up).then_some(())
        })
        .await;
        vm.has(VPN, true).await;
        all.hear().await;
        assert!(all.vpn.told.contains_key(&format!("route {VPN}")) && !all.map.told.is_empty(), "{:?} {:?}", all.vpn, all.map);
        all.changes();
        until("the customer's route is at the reflector", async || router.version().contains("10.1.0.0/16").then_some(())).await;
        let (lsa, bindings, version) = (router.lsa(), router.bindings(), router.version());
        assert_eq!(all.switch.told["fabric"].1.len(), 1, "{:?}", all.switch);
        let since = router.mark();
        for round in 0..ROUNDS {
            vm.kill_cvmd();
            vm.start_cvmd();
            all.hear().await;
            assert_eq!(all.changes(), Vec::<String>::new(), "round {round}");
            assert_eq!(router.bindings(), bindings, "round {round}");
            // A route that is withdrawn, or told otherwise, has another version, also when it comes back as it was.
            assert_eq!(router.version(), version, "round {round}");
            // An LSA that says something else has another sequence number, also when it says the same again.
            assert_eq!(router.lsa(), lsa, "round {round}: {CORE} was told another cost");
        }
        assert_eq!(router.noticed(&since), Vec::<String>::new());
        // How long each stage has taken.
        vm.log().lines().filter(|l| l.contains("taken over") && l.contains("stages")).for_each(|l| eprintln!("{l}"));
    });
}
