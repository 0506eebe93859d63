//! The engine as a whole: a bench with PVMs, reflectors and a core, and what they know after each event.

use super::*;
use crate::{Leak, tunnel_id};
use edgeplex_bgp::Graceful;
use edgeplex_bgp_wire::{AsPath, Family, Reach, Unreach};
use edgeplex_relay::{Leg, Tunnel, VpnOp, VpnPath};
use edgeplex_types::{Label, LabelRange, MacAddr, Rd, TunnelId};
use std::net::IpAddr;

mod instances;
mod labels;
mod model;
mod multipath;
mod pvms;
mod reflectors;
mod routes;
mod topologies;
mod tunnels;

const RR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 9);
const RR2: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 10);
const REMOTE: Ipv4Addr = pe(2);
const VPN: [Family; 2] = [Family::Vpnv4, Family::Vpnv6];

/// PE number `n`; ours is 1.
const fn pe(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 0, n)
}

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn id(s: &str) -> AttachmentId {
    s.parse().unwrap()
}

fn rd(n: u32) -> Rd {
    format!("65000:{n}").parse().unwrap()
}

fn label(n: u32) -> Label {
    Label::try_from(n).unwrap()
}

fn rts(list: &[u32]) -> BTreeSet<RouteTarget> {
    list.iter().map(|n| format!("65000:{n}").parse().unwrap()).collect()
}

fn vpn_key(n: u32, prefix: &str) -> NlriKey {
    NlriKey::Vpn { rd: rd(n), prefix: net(prefix) }
}

fn attachment(name: &str, n: u32, import: &[u32], export: &[u32]) -> AttachmentConfig {
    AttachmentConfig {
        id: id(name),
        rd: rd(n),
        import: rts(import),
        export: rts(export),
        leaks: vec![],
        label: None,
        label_per_ce: false,
        max_paths: 1,
        max_routes: None,
    }
}

fn config(attachments: Vec<AttachmentConfig>) -> Config {
    Config {
        asn: 65000,
        loopback: pe(1),
        reflectors: [RR, RR2].into(),
        labels: LabelRange::new(label(1000), label(1099)).unwrap(),
        quarantine: Duration::from_secs(60),
        stale: Duration::from_secs(30),
        attachments,
    }
}

fn acme_and_beta() -> Vec<AttachmentConfig> {
    vec![attachment("acme/d1", 1, &[100], &[100]), attachment("acme/d2", 2, &[100], &[100]), attachment("beta/d1", 3, &[200], &[200])]
}

/// A way to PE `n` that costs this much, over its only neighbour.
fn way(n: u8, cost: u32) -> TunnelState {
    let leg =
        Leg { transport: vec![label(500_000 + u32::from(n))], source_mac: MacAddr([2; 6]), destination_mac: MacAddr([2, 0, 0, 0, 0, n]) };
    TunnelState { tunnel: Tunnel { id: tunnel_id(pe(n)), endpoint: pe(n).into(), legs: vec![leg] }, cost }
}

/// What a PVM makes of what it is told, checking the promised order on the way.
#[derive(Debug, Default)]
struct Pvm {
    incarnation: u64,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    routes: BTreeMap<IpNet, (Vec<VpnPath>, Vec<VpnPath>)>,
    labels: BTreeMap<Label, Option<IpAddr>>,
    ended: bool,
    /// Credits it has not granted yet.
    owes: u32,
    /// Everything since this was last emptied.
    ops: Vec<VpnOp>,
}

impl Pvm {
    fn uses(&self, id: TunnelId) -> bool {
        self.routes.values().any(|(paths, backup)| paths.iter().chain(backup).any(|p| p.tunnel == id))
    }

    fn take(&mut self, op: VpnOp) {
        self.ops.push(op.clone());
        match op {
            VpnOp::OwnLabel { label, next_hop } => assert_ne!(self.labels.insert(label, next_hop), Some(next_hop), "said twice"),
            VpnOp::OwnLabelGone { label } => assert!(self.labels.remove(&label).is_some()),
            VpnOp::Tunnel(t) => assert_ne!(self.tunnels.insert(t.id, t.clone()), Some(t), "said twice"),
            VpnOp::TunnelGone { id } => {
                assert!(self.tunnels.remove(&id).is_some(), "a tunnel never told goes");
                assert!(!self.uses(id), "a tunnel goes before its last path");
            }
            VpnOp::Route { prefix, paths, backup } => {
                assert!(!paths.is_empty());
                assert!(paths.iter().chain(&backup).all(|p| self.tunnels.contains_key(&p.tunnel)), "a path before its tunnel");
                assert_ne!(self.routes.insert(prefix, (paths.clone(), backup.clone())), Some((paths, backup)), "said twice");
            }
            VpnOp::Withdraw { prefix } => assert!(self.routes.remove(&prefix).is_some(), "a prefix never told is withdrawn"),
        }
    }
}

/// An engine and a clock; what PVMs, reflectors and the core then know.
struct Bench {
    vpn: Vpn<u32>,
    now: Instant,
    /// PVMs are named after the place of their attachment here.
    names: Vec<AttachmentId>,
    pvms: BTreeMap<u32, Pvm>,
    advertised: BTreeMap<NlriKey, (Option<Label>, Arc<Attributes>)>,
    ways: BTreeMap<Ipv4Addr, TunnelState>,
    /// As the core was told.
    wanted: BTreeSet<Ipv4Addr>,
    replies: Vec<(u32, ToPvm)>,
    refused: Vec<String>,
    /// PVMs grant no credits of themselves.
    slow: bool,
    /// Storing labels fails.
    disk_full: bool,
    missing: Vec<String>,
}

impl Bench {
    fn with(config: Config, restarting: bool) -> Self {
        let labels = LabelSpace::new(config.labels, config.quarantine);
        Self::with_labels(config, restarting, labels)
    }

    fn with_labels(config: Config, restarting: bool, labels: LabelSpace) -> Self {
        let now = Instant::now();
        let names = config.attachments.iter().map(|a| a.id.clone()).collect();
        let vpn = Vpn::new(now, Start { epoch: Epoch(1000), restarting }, config, labels);
        let (pvms, advertised, ways, wanted) = Default::default();
        let (replies, refused, missing) = Default::default();
        let mut bench = Self { vpn, now, names, pvms, advertised, ways, wanted, replies, refused, slow: false, disk_full: false, missing };
        bench.way(1, Some(way(1, 0)));
        bench.way(2, Some(way(2, 10)));
        bench.up(RR);
        bench.up(RR2);
        bench.settle();
        bench
    }

    fn new() -> Self {
        Self::with(config(acme_and_beta()), false)
    }

    fn configure(&mut self, attachments: &[AttachmentConfig]) {
        self.vpn.configure(self.now, config(attachments.to_vec()));
        for a in attachments.iter().filter(|a| !self.names.contains(&a.id)).collect::<Vec<_>>() {
            self.names.push(a.id.clone());
        }
        self.settle();
    }

    /// The core finds or loses a way.
    fn way(&mut self, n: u8, state: Option<TunnelState>) {
        match &state {
            Some(state) => drop(self.ways.insert(pe(n), state.clone())),
            None => drop(self.ways.remove(&pe(n))),
        }
        if self.wanted.contains(&pe(n)) {
            self.vpn.tunnel(self.now, pe(n), state);
        }
    }

    fn up(&mut self, rr: Ipv4Addr) {
        self.vpn.reflector_up(self.now, rr, &VPN, &VPN, true);
    }

    fn down(&mut self, rr: Ipv4Addr, graceful: Option<(u32, u32)>) {
        let graceful = graceful.map(|(stale_s, llgr_stale_s)| Graceful { stale_s, llgr_stale_s });
        self.vpn.reflector_down(self.now, rr, graceful);
        self.settle();
    }

    fn end_of_rib(&mut self, rr: Ipv4Addr) {
        VPN.into_iter().for_each(|family| self.vpn.end_of_rib(rr, family));
        self.settle();
    }

    /// Works everything off, in slices of three to find what a slice leaves behind.
    fn settle(&mut self) {
        loop {
            self.vpn.work(3);
            self.actions();
            self.messages();
            if !self.vpn.has_more() {
                break;
            }
        }
    }

    fn actions(&mut self) {
        while let Some(action) = self.vpn.next_action() {
            match action {
                Action::Advertise(nlri, a) => {
                    let new = (nlri.label(), a);
                    assert_ne!(self.advertised.insert(nlri.key(), new.clone()), Some(new), "{nlri} is advertised twice");
                }
                Action::Withdraw(key) => assert!(self.advertised.remove(&key).is_some(), "{key} was never advertised"),
                Action::Refused(_, why) => self.refused.push(why),
                Action::LabelsChanged => self.vpn.labels_stored(self.now, !self.disk_full),
                Action::LabelMissing(why) => self.missing.push(why.to_string()),
                Action::FabricChanged => {}
                Action::Endpoints => {
                    // Like a core that compares: what it has said of an endpoint still wanted it does not say again.
                    let wanted: BTreeSet<Ipv4Addr> = self.vpn.wanted_endpoints().collect();
                    for new in wanted.difference(&self.wanted) {
                        self.vpn.tunnel(self.now, *new, self.ways.get(new).cloned());
                    }
                    self.wanted = wanted;
                }
            }
        }
    }

    fn messages(&mut self) {
        while let Some((peer, message)) = self.vpn.next_message() {
            let ToPvm::Sync { incarnation, sync } = message else {
                self.replies.push((peer, message));
                continue;
            };
            let pvm = self.pvms.entry(peer).or_default();
            match sync {
                Sync::Begin { .. } => *pvm = Pvm { incarnation, owes: WINDOW, ..Pvm::default() },
                Sync::End { .. } => pvm.ended = true,
                Sync::Ops { ops, .. } => {
                    assert!(ops.len() <= edgeplex_relay::MAX_OPS);
                    ops.into_iter().for_each(|op| pvm.take(op));
                    pvm.owes += 1;
                }
            }
            if !self.slow {
                self.grant(peer, WINDOW);
            }
        }
    }

    /// A PVM grants up to so many credits of those it may.
    fn grant(&mut self, peer: u32, most: u32) {
        let Some(pvm) = self.pvms.get_mut(&peer) else { return };
        let credits = pvm.owes.min(most);
        let incarnation = pvm.incarnation;
        if credits > 0 {
            pvm.owes -= credits;
            self.vpn_message(peer, ToCvm::Grant { incarnation, credits });
        }
    }

    /// PVMs are named after the place of their attachment, and hundreds more is another process of it.
    fn owner(&self, peer: u32) -> AttachmentId {
        self.names[peer as usize % 100].clone()
    }
    fn vpn_message(&mut self, peer: u32, message: ToCvm) {
        let owner = self.owner(peer);
        self.vpn.message(self.now, peer, &owner, message);
    }
    fn message(&mut self, peer: u32, message: ToCvm) {
        self.vpn_message(peer, message);
        self.settle();
    }
    fn hello(&mut self, peer: u32) {
        let attachment = self.owner(peer);
        self.message(peer, ToCvm::Hello { attachment, incarnation: u64::from(peer), generation: 1, standby: false });
    }
    fn ops(&mut self, peer: u32, ops: Vec<CustomerOp>) {
        self.message(peer, ToCvm::Sync { incarnation: peer.into(), sync: Sync::Ops { epoch: Epoch(1), ops } });
    }
    fn withdraw(&mut self, peer: u32, prefix: &str) {
        self.ops(peer, vec![CustomerOp::Withdraw { prefix: net(prefix) }]);
    }
    /// Hello and a whole snapshot.
    fn snapshot(&mut self, peer: u32, prefixes: &[&str]) {
        self.snapshot_ops(peer, prefixes.iter().map(|p| route(p)).collect());
    }
    fn snapshot_ops(&mut self, peer: u32, ops: Vec<CustomerOp>) {
        self.hello(peer);
        let incarnation = peer.into();
        self.message(peer, ToCvm::Sync { incarnation, sync: Sync::Begin { epoch: Epoch(1) } });
        self.ops(peer, ops);
        self.message(peer, ToCvm::Sync { incarnation, sync: Sync::End { epoch: Epoch(1) } });
    }

    /// A route of a remote PE: its label is 2000 and the number of its route distinguisher.
    fn update(&mut self, rr: Ipv4Addr, n: u32, prefix: &str, targets: &[u32], next_hop: Ipv4Addr, change: impl FnOnce(&mut Attributes)) {
        self.update_path(rr, 0, n, prefix, targets, next_hop, change);
    }
    #[allow(clippy::too_many_arguments)]
    fn update_path(
        &mut self,
        rr: Ipv4Addr,
        path_id: u32,
        n: u32,
        prefix: &str,
        targets: &[u32],
        next_hop: Ipv4Addr,
        change: impl FnOnce(&mut Attributes),
    ) {
        let mut a = remote(targets);
        change(&mut a);
        let nlri = Nlri::Vpn { rd: rd(n), prefix: net(prefix), label: label(2000 + n) };
        self.vpn.update(self.now, rr, &Arc::new(a), next_hop.into(), &[Reach { path_id, nlri }], &[]);
        self.settle();
    }
    fn unreach(&mut self, rr: Ipv4Addr, path_id: u32, n: u32, prefix: &str) {
        let gone = Unreach { path_id, key: vpn_key(n, prefix) };
        self.vpn.update(self.now, rr, &Arc::default(), rr.into(), &[], &[gone]);
        self.settle();
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
        self.vpn.tick(self.now);
        self.settle();
    }
    /// Time passes, and every PVM lives.
    fn live(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.keepalives();
            self.pass(1.0);
        }
    }
    fn keepalives(&mut self) {
        let peers: Vec<_> = self.vpn.sessions.iter().map(|(_, s)| (s.peer, s.incarnation)).collect();
        for (peer, incarnation) in peers {
            self.vpn_message(peer, ToCvm::Keepalive { incarnation });
        }
    }

    /// Best path of each prefix: `prefix label`.
    fn told(&self, peer: u32) -> Vec<String> {
        self.pvms[&peer].routes.iter().map(|(p, (paths, _))| format!("{p} {}", paths[0].label)).collect()
    }
    /// All paths of a prefix, best first, then its backups: `label@tunnel's PE …| label@tunnel's PE …`.
    fn paths(&self, peer: u32, prefix: &str) -> String {
        let Some((paths, backup)) = self.pvms[&peer].routes.get(&net(prefix)) else { return String::new() };
        let list = |paths: &[VpnPath]| paths.iter().map(|p| format!("{}@{} ", p.label, p.tunnel.0 & 0xff)).collect::<String>();
        format!("{}| {}", list(paths), list(backup)).trim().into()
    }
    /// VPN routes only.
    fn advertised(&self) -> Vec<String> {
        self.advertised.iter().filter_map(|(k, (l, _))| Some(format!("{k} {}", (*l)?))).collect()
    }
    fn take_ops(&mut self, peer: u32) -> Vec<VpnOp> {
        std::mem::take(&mut self.pvms.get_mut(&peer).unwrap().ops)
    }
}

fn customer() -> Attributes {
    Attributes { as_path: AsPath::sequence([65101]), ..Attributes::default() }
}

fn remote(targets: &[u32]) -> Attributes {
    Attributes { local_pref: Some(100), ext_communities: rts(targets).iter().map(|t| t.0).collect(), ..customer() }
}

fn route(prefix: &str) -> CustomerOp {
    CustomerOp::Route { prefix: net(prefix), next_hop: None, attributes: customer().to_bytes() }
}

fn route_via(prefix: &str, ce: &str) -> CustomerOp {
    CustomerOp::Route { prefix: net(prefix), next_hop: Some(ce.parse().unwrap()), attributes: customer().to_bytes() }
}
