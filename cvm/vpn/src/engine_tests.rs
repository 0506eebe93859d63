use super::*;
use crate::config::{AttachmentConfig, CoreInterface, CoreRoute};
use edgeplex_bgp_wire::AsPath;
use edgeplex_relay::VpnOp;
use edgeplex_types::{Label, LabelRange, Rd};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Engine = Vpn<u32>;

const RR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 9);
const RR2: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 10);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

fn net(s: &str) -> Ipv4Net {
    s.parse().unwrap()
}

fn id(s: &str) -> AttachmentId {
    s.parse().unwrap()
}

fn rd(n: u32) -> Rd {
    format!("65000:{n}").parse().unwrap()
}

fn rts(list: &[u32]) -> BTreeSet<RouteTarget> {
    list.iter().map(|n| format!("65000:{n}").parse().unwrap()).collect()
}

fn attachment(name: &str, n: u32, import: &[u32], export: &[u32]) -> AttachmentConfig {
    AttachmentConfig { id: id(name), rd: rd(n), import: rts(import), export: rts(export), label: None, max_routes: None }
}

fn config(attachments: Vec<AttachmentConfig>) -> Config {
    let core = |n: u8| CoreRoute { prefix: Ipv4Addr::new(10, 255, 0, n).into(), via: Ipv4Addr::new(10, 0, 0, n) };
    Config {
        asn: 65000,
        loopback: Ipv4Addr::new(10, 255, 0, 1),
        interfaces: vec![CoreInterface { name: "core0".into(), mac: MacAddr([2, 0, 0, 0, 0, 1]), address: net("10.0.0.1/24") }],
        routes: vec![core(2), core(3), core(9)],
        reflectors: [RR].into(),
        labels: LabelRange::new(Label::try_from(1000).unwrap(), Label::try_from(1099).unwrap()).unwrap(),
        quarantine: Duration::from_secs(60),
        stale: Duration::from_secs(30),
        attachments,
    }
}

fn acme_and_beta() -> Vec<AttachmentConfig> {
    vec![attachment("acme/d1", 1, &[100], &[100]), attachment("acme/d2", 2, &[100], &[100]), attachment("beta/d1", 3, &[200], &[200])]
}

/// An engine and a clock; what PVMs and reflectors would then know.
struct Bench {
    vpn: Engine,
    now: Instant,
    advertised: BTreeMap<NlriKey, (Option<Label>, Arc<Attributes>)>,
    told: BTreeMap<u32, BTreeMap<Ipv4Net, (Label, u32)>>,
    ended: BTreeSet<u32>,
    replies: Vec<(u32, ToPvm)>,
    refused: Vec<String>,
    /// Storing labels fails.
    disk_full: bool,
    missing: Vec<String>,
}

impl Bench {
    fn with(config: Config, restarting: bool) -> Self {
        let now = Instant::now();
        let labels = LabelSpace::new(config.labels, config.quarantine);
        let vpn = Vpn::new(now, Start { epoch: Epoch(1000), restarting }, config, labels);
        let (advertised, told, ended) = Default::default();
        let mut bench = Self { vpn, now, advertised, told, ended, replies: vec![], refused: vec![], disk_full: false, missing: vec![] };
        bench.resolve(2);
        bench.settle();
        bench
    }
    fn new() -> Self {
        Self::with(config(acme_and_beta()), false)
    }
    fn resolve(&mut self, n: u8) {
        let neighbor = Neighbor { interface: "core0".into(), address: Ipv4Addr::new(10, 0, 0, n) };
        self.vpn.neighbor(neighbor, Some(MacAddr([2, 0, 0, 0, 0, n])));
    }
    fn lose(&mut self, n: u8) {
        self.vpn.neighbor(Neighbor { interface: "core0".into(), address: Ipv4Addr::new(10, 0, 0, n) }, None);
    }
    /// Works everything off, in slices of three to find what a slice leaves behind.
    fn settle(&mut self) {
        loop {
            let more = self.vpn.work(3);
            while let Some(action) = self.vpn.next_action() {
                match action {
                    Action::Advertise(nlri, a) => drop(self.advertised.insert(nlri.key(), (nlri.label(), a))),
                    Action::Withdraw(key) => assert!(self.advertised.remove(&key).is_some(), "{key} was never advertised"),
                    Action::Refused(_, why) => self.refused.push(why),
                    Action::LabelsChanged => self.vpn.labels_stored(self.now, !self.disk_full),
                    Action::LabelMissing(why) => self.missing.push(why.to_string()),
                    _ => {}
                }
            }
            while let Some((peer, message)) = self.vpn.next_message() {
                match message {
                    ToPvm::Sync { incarnation, sync: Sync::Begin { .. } } => {
                        self.told.insert(peer, BTreeMap::new());
                        self.ended.remove(&peer);
                        self.vpn_message(peer, ToCvm::Grant { incarnation, credits: 16 });
                    }
                    ToPvm::Sync { sync: Sync::End { .. }, .. } => drop(self.ended.insert(peer)),
                    ToPvm::Sync { incarnation, sync: Sync::Ops { ops, .. } } => {
                        let table = self.told.get_mut(&peer).unwrap();
                        for op in ops {
                            match op {
                                VpnOp::Route { prefix: IpNet::V4(p), paths } => drop(table.insert(p, (paths[0].label, paths[0].tunnel.0))),
                                VpnOp::Withdraw { prefix: IpNet::V4(p) } => assert!(table.remove(&p).is_some()),
                                _ => {}
                            }
                        }
                        self.vpn_message(peer, ToCvm::Grant { incarnation, credits: 1 });
                    }
                    other => self.replies.push((peer, other)),
                }
            }
            if !more && self.vpn.undecided.is_empty() {
                break;
            }
        }
    }
    /// Peers are named after the slot of their attachment, in the order of the configuration.
    fn owner(&self, peer: u32) -> AttachmentId {
        self.vpn.attachments[&(peer % 100)].config.id.clone()
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
        self.message(peer, ToCvm::Hello { attachment, incarnation: u64::from(peer) });
    }
    fn ops(&mut self, peer: u32, ops: Vec<CustomerOp>) {
        self.message(peer, ToCvm::Sync { incarnation: peer.into(), sync: Sync::Ops { epoch: Epoch(1), ops } });
    }
    /// Hello and a whole snapshot.
    fn snapshot(&mut self, peer: u32, prefixes: &[&str]) {
        self.hello(peer);
        let incarnation = peer.into();
        self.message(peer, ToCvm::Sync { incarnation, sync: Sync::Begin { epoch: Epoch(1) } });
        let ops = prefixes.iter().map(|p| route(p)).collect();
        self.ops(peer, ops);
        self.message(peer, ToCvm::Sync { incarnation, sync: Sync::End { epoch: Epoch(1) } });
    }
    fn update(&mut self, rr: Ipv4Addr, n: u32, prefix: &str, targets: &[u32], next_hop: Ipv4Addr, change: impl FnOnce(&mut Attributes)) {
        let mut a = Attributes { local_pref: Some(100), ..customer() };
        a.ext_communities = rts(targets).iter().map(|t| t.0).collect();
        change(&mut a);
        let nlri = Nlri::Vpnv4 { rd: rd(n), prefix: net(prefix), label: Label::try_from(2000 + n).unwrap() };
        self.vpn.update(self.now, rr, &Arc::new(a), next_hop, &[nlri], &[]);
        self.settle();
    }
    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
        self.vpn.tick(self.now);
        self.settle();
    }
    fn told(&self, peer: u32) -> Vec<String> {
        self.told[&peer].iter().map(|(p, (l, _))| format!("{p} {l}")).collect()
    }
    fn advertised(&self) -> Vec<String> {
        self.advertised.iter().map(|(k, (l, _))| format!("{k} {}", l.unwrap())).collect()
    }
}

fn customer() -> Attributes {
    Attributes { as_path: AsPath::sequence([65101]), ..Attributes::default() }
}

fn route(prefix: &str) -> CustomerOp {
    CustomerOp::Route { prefix: prefix.parse().unwrap(), attributes: customer().to_bytes() }
}

#[test]
fn a_customer_route_is_advertised_with_rd_targets_and_label_and_imported_only_in_its_vpn() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(1, &[]);
    b.snapshot(2, &["10.1.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:3 10.1.0.0/16 1002"]);
    let (_, a) = b.advertised.values().next().unwrap();
    assert_eq!((a.route_targets().collect::<BTreeSet<_>>(), a.local_pref), (rts(&[100]), Some(100)));
    // Never back to the attachment it came from, through our own tunnel to the other one, and not to beta.
    assert_eq!((b.told(0), b.told(1), b.told(2)), (vec![], vec!["10.1.0.0/16 1000".to_owned()], vec![]));
    assert_eq!(b.told[&1][&net("10.1.0.0/16")].1, 0x0aff_0001);
    b.ops(0, vec![CustomerOp::Withdraw { prefix: "10.1.0.0/16".parse().unwrap() }]);
    assert_eq!((b.advertised().len(), b.told(1)), (1, vec![]));
}

#[test]
fn routes_of_the_reflector_follow_their_tunnel_and_our_own_are_ignored() {
    let mut b = Bench::new();
    b.vpn.reflector_up(b.now, RR, true);
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100, 300], REMOTE, |_| {});
    b.update(RR, 51, "10.3.0.0/16", &[100], Ipv4Addr::new(10, 255, 0, 3), |_| {});
    b.update(RR, 51, "10.4.0.0/16", &[300], REMOTE, |_| {});
    // Our own come back, a loop, a route that names us its originator.
    b.update(RR, 1, "10.5.0.0/16", &[100], Ipv4Addr::new(10, 255, 0, 1), |_| {});
    b.update(RR, 51, "10.6.0.0/16", &[100], REMOTE, |a| a.as_path.prepend(65000));
    b.update(RR, 51, "10.7.0.0/16", &[100], REMOTE, |a| a.originator_id = Some(Ipv4Addr::new(10, 255, 0, 1)));
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
    assert!(b.vpn.wanted_neighbors().iter().any(|n| n.address == Ipv4Addr::new(10, 0, 0, 3)));
    b.resolve(3);
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2051", "10.3.0.0/16 2051"]);
    b.lose(2);
    b.settle();
    assert_eq!(b.told(0), ["10.3.0.0/16 2051"]);
    b.vpn.reflector_down(b.now, RR, false);
    b.settle();
    assert_eq!(b.told(0), [""; 0]);
}

#[test]
fn the_best_of_several_rds_and_reflectors_is_told() {
    let mut b = Bench::with(Config { reflectors: [RR, RR2].into(), ..config(acme_and_beta()) }, false);
    b.resolve(3);
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    b.update(RR2, 52, "10.2.0.0/16", &[100], Ipv4Addr::new(10, 255, 0, 3), |a| a.local_pref = Some(200));
    assert_eq!(b.told(0), ["10.2.0.0/16 2052"]);
    b.update(RR2, 51, "10.2.0.0/16", &[100], REMOTE, |a| a.local_pref = Some(300));
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
    b.vpn.update(b.now, RR2, &Arc::default(), RR2, &[], &[NlriKey::Vpnv4 { rd: rd(51), prefix: net("10.2.0.0/16") }]);
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2052"]);
    b.lose(3);
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
}

#[test]
fn a_new_attachment_gets_what_is_already_there_and_a_deleted_one_takes_its_routes_along() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    for n in 0..20 {
        b.update(RR, 51, &format!("10.2.{n}.0/24"), &[200], REMOTE, |_| {});
    }
    let generation = b.vpn.generation();
    let mut more = acme_and_beta();
    more.push(attachment("gamma/g1", 4, &[100, 200], &[400]));
    b.vpn.configure(b.now, config(more.clone()));
    assert_ne!(b.vpn.generation(), generation);
    b.snapshot(3, &["10.9.0.0/16"]);
    assert_eq!(b.told(3).len(), 21);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:4 10.9.0.0/16 1003"]);

    more.remove(0);
    b.vpn.configure(b.now, config(more));
    b.settle();
    assert_eq!(b.advertised(), ["65000:4 10.9.0.0/16 1003"]);
    assert_eq!(b.told(3).len(), 20);
    assert!(b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::NotYours })));
    assert!(matches!(b.vpn.show_labels()[0].state, crate::LabelState::Quarantine(_)));
}

#[test]
fn changed_targets_and_rds_move_routes_and_nothing_else() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(2, &["10.3.0.0/16"]);
    b.advertised.retain(|k, _| matches!(k, NlriKey::Vpnv4 { rd: r, .. } if *r == rd(1)));
    let mut changed = acme_and_beta();
    changed[0] = attachment("acme/d1", 1, &[200], &[200]);
    b.vpn.configure(b.now, config(changed.clone()));
    b.settle();
    // beta was not advertised again: nothing about it changed.
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
    assert_eq!((b.told(0), b.told(2)), (vec!["10.3.0.0/16 1002".to_owned()], vec!["10.1.0.0/16 1000".to_owned()]));
    changed[0].rd = rd(77);
    b.vpn.configure(b.now, config(changed));
    b.settle();
    assert_eq!(b.advertised(), ["65000:77 10.1.0.0/16 1000"]);
    assert_eq!(b.told(2), ["10.1.0.0/16 1000"]);
}

#[test]
fn a_path_that_goes_while_targets_change_is_not_left_behind() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.snapshot(1, &[]);
    let mut changed = acme_and_beta();
    changed[1] = attachment("acme/d2", 2, &[], &[100]);
    b.vpn.configure(b.now, config(changed));
    b.ops(0, vec![CustomerOp::Withdraw { prefix: "10.1.0.0/16".parse().unwrap() }]);
    assert_eq!(b.told(1), [""; 0]);
}

#[test]
fn a_lost_pvms_routes_stay_for_a_while_and_a_snapshot_sweeps_what_it_does_not_renew() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16"]);
    b.pass(3.0);
    assert!(!b.vpn.show_attachments()[0].session_up);
    assert!(b.vpn.show_routes(Some(&id("acme/d1"))).iter().all(|r| r.stale));
    b.pass(20.0);
    assert_eq!(b.advertised().len(), 2);
    // Another process of the PVM, by chance with the same epoch.
    b.snapshot(100, &["10.1.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
    b.pass(3.0);
    b.pass(30.0);
    assert_eq!(b.advertised(), [""; 0]);
}

#[test]
fn a_session_that_begins_no_snapshot_does_not_keep_stale_routes_alive() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.pass(1.0);
    let alive = |b: &mut Bench, seconds: u32| {
        for _ in 0..seconds {
            b.message(100, ToCvm::Keepalive { incarnation: 100 });
            b.pass(1.0);
        }
    };
    b.hello(100);
    alive(&mut b, 29);
    assert_eq!(b.advertised().len(), 1);
    alive(&mut b, 1);
    assert_eq!(b.advertised(), [""; 0]);
    // Late is not never.
    b.snapshot(200, &["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(b.advertised().len(), 2);
    // Nor does one that is begun and never ended; what it has renewed stays.
    b.message(200, ToCvm::Sync { incarnation: 200, sync: Sync::Begin { epoch: Epoch(1) } });
    b.ops(200, vec![route("10.2.0.0/16")]);
    for _ in 0..30 {
        b.message(200, ToCvm::Keepalive { incarnation: 200 });
        b.pass(1.0);
    }
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000"]);
}

/// acme/d1 may export two routes.
fn limited(most: Option<u32>) -> Vec<AttachmentConfig> {
    let mut all = acme_and_beta();
    all[0].max_routes = most;
    all
}

#[test]
fn routes_beyond_the_limit_are_left_out_counted_and_told_once() {
    let mut b = Bench::with(config(limited(Some(2))), false);
    let withdraw = |prefix: &str| CustomerOp::Withdraw { prefix: prefix.parse().unwrap() };
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]);
    b.snapshot(2, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    let acme = |b: &Bench| b.advertised().into_iter().filter(|r| r.starts_with("65000:1 ")).collect::<Vec<_>>();
    assert_eq!(acme(&b), ["65000:1 10.1.0.0/16 1000", "65000:1 10.2.0.0/16 1000"]);
    assert_eq!(b.advertised().len(), 5);
    // What is there may change; what is not has to wait for room.
    let other = Attributes { med: Some(7), ..customer() };
    b.ops(0, vec![route("10.5.0.0/16"), CustomerOp::Route { prefix: "10.1.0.0/16".parse().unwrap(), attributes: other.to_bytes() }]);
    assert_eq!(b.advertised[&NlriKey::Vpnv4 { rd: rd(1), prefix: net("10.1.0.0/16") }].1.med, Some(7));
    assert_eq!((b.vpn.show_attachments()[0].over_limit, b.vpn.show_attachments()[2].over_limit), (3, 0));
    assert!(matches!(&b.refused[..], [why] if why.starts_with("more than the 2 routes")), "{:?}", b.refused);
    assert!(b.vpn.sessions.contains_key(&0));
    b.ops(0, vec![withdraw("10.1.0.0/16"), route("10.5.0.0/16"), route("10.6.0.0/16")]);
    assert_eq!(acme(&b), ["65000:1 10.2.0.0/16 1000", "65000:1 10.5.0.0/16 1000"]);
    assert_eq!(b.refused.len(), 2);
}

#[test]
fn what_was_left_out_is_asked_for_again_when_there_is_room() {
    let mut b = Bench::with(config(limited(Some(2))), false);
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    let again = |b: &Bench| b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::Unknown }));
    let alive = |b: &mut Bench, seconds: u32| {
        for _ in 0..seconds {
            b.message(0, ToCvm::Keepalive { incarnation: 0 });
            b.pass(1.0);
        }
    };
    alive(&mut b, 10);
    assert!(!again(&b), "there is no room");
    b.ops(0, vec![CustomerOp::Withdraw { prefix: "10.1.0.0/16".parse().unwrap() }]);
    b.pass(0.1);
    assert!(again(&b));
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000"]);
    b.snapshot(100, &["10.2.0.0/16", "10.3.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000", "65000:1 10.3.0.0/16 1000"]);
    // Not again and again: a session lasts a while.
    b.ops(100, vec![route("10.4.0.0/16"), CustomerOp::Withdraw { prefix: "10.2.0.0/16".parse().unwrap() }]);
    b.pass(1.0);
    assert!(b.vpn.sessions.contains_key(&0));
}

#[test]
fn routes_that_wait_for_being_swept_keep_no_new_ones_out_and_do_not_pile_up() {
    let mut b = Bench::with(config(limited(Some(2))), false);
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16"]);
    b.pass(1.0);
    b.snapshot(100, &["10.3.0.0/16", "10.4.0.0/16"]);
    assert_eq!(b.advertised(), ["65000:1 10.3.0.0/16 1000", "65000:1 10.4.0.0/16 1000"]);
    assert_eq!(b.refused, [""; 0]);
    // Snapshots begun again and again.
    for n in 10..20 {
        b.message(100, ToCvm::Sync { incarnation: 100, sync: Sync::Begin { epoch: Epoch(1) } });
        b.ops(100, vec![route(&format!("10.{n}.0.0/16")), route(&format!("10.{n}.1.0/24")), route(&format!("10.{n}.2.0/24"))]);
        assert!(b.advertised().len() <= 4, "{:?}", b.advertised());
    }
    b.message(100, ToCvm::Sync { incarnation: 100, sync: Sync::End { epoch: Epoch(1) } });
    assert_eq!(b.advertised(), ["65000:1 10.19.0.0/16 1000", "65000:1 10.19.1.0/24 1000"]);
}

#[test]
fn another_limit_holds_at_once_and_what_was_left_out_is_asked_for_again() {
    let mut b = Bench::with(config(limited(None)), false);
    b.snapshot(0, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    b.vpn.configure(b.now, config(limited(Some(3))));
    b.settle();
    assert!(b.vpn.sessions.contains_key(&0), "nothing is left out");
    b.vpn.configure(b.now, config(limited(Some(2))));
    b.settle();
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:1 10.2.0.0/16 1000"]);
    assert!(b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::Unknown })));
    b.snapshot(100, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    b.vpn.configure(b.now, config(limited(Some(9))));
    b.settle();
    assert!(b.replies.contains(&(100, ToPvm::Refused { incarnation: 100, reason: Refusal::Unknown })));
    assert_eq!(b.advertised().len(), 2, "what is there stays meanwhile");
    b.snapshot(200, &["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
    assert_eq!(b.advertised().len(), 3);
}

#[test]
fn a_label_that_cannot_be_stored_is_not_used_and_the_others_are() {
    let mut b = Bench::new();
    b.snapshot(0, &["10.1.0.0/16"]);
    b.disk_full = true;
    let mut more = acme_and_beta();
    more.push(attachment("gamma/g1", 4, &[100], &[400]));
    // A label that moves is not used either, neither the old one nor the new.
    more[2].label = Label::try_from(1050).ok();
    b.vpn.configure(b.now, config(more.clone()));
    b.settle();
    b.snapshot(2, &["10.3.0.0/16"]);
    b.snapshot(3, &["10.9.0.0/16"]);
    let in_use = |b: &Bench| b.vpn.labels_in_use().into_iter().map(|(l, id)| format!("{l} {id}")).collect::<Vec<_>>();
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000"]);
    assert_eq!(in_use(&b), ["1000 acme/d1", "1001 acme/d2"]);
    // Told once, tried again.
    b.pass(2.0);
    assert!(matches!(&b.missing[..], [beta, gamma] if beta.contains("1050") && gamma.contains("gamma/g1")), "{:?}", b.missing);
    b.disk_full = false;
    b.pass(0.5);
    assert_eq!(b.advertised().len(), 1);
    b.pass(0.6);
    assert_eq!(b.advertised(), ["65000:1 10.1.0.0/16 1000", "65000:3 10.3.0.0/16 1050", "65000:4 10.9.0.0/16 1003"]);
    assert_eq!(in_use(&b), ["1000 acme/d1", "1001 acme/d2", "1003 gamma/g1", "1050 beta/d1"]);
}

#[test]
fn labels_of_a_past_process_are_used_though_nothing_can_be_stored() {
    let mut past = LabelSpace::new(config(vec![]).labels, Duration::from_secs(60));
    let claim = crate::labels::Claim { owner: id("acme/d1"), rd: rd(1), fixed: None };
    past.assign(Instant::now(), &[claim]);
    let now = Instant::now();
    let mut vpn: Engine = Vpn::new(now, Start { epoch: Epoch(1), restarting: true }, config(acme_and_beta()), past);
    vpn.labels_stored(now, false);
    assert_eq!(vpn.labels_in_use().into_values().collect::<Vec<_>>(), [&id("acme/d1")]);
}

#[test]
fn a_snapshot_to_a_pvm_stays_open_until_the_reflector_has_told_all() {
    let mut b = Bench::with(config(acme_and_beta()), true);
    b.snapshot(0, &[]);
    b.pass(1.0);
    assert!(b.ended.is_empty());
    b.vpn.reflector_up(b.now, RR, true);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    b.pass(0.5);
    assert!(b.ended.is_empty());
    b.vpn.end_of_rib(RR);
    b.pass(0.1);
    assert_eq!(b.ended, [0].into());
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
}

#[test]
fn a_reflector_that_comes_back_gracefully_disturbs_nothing_it_renews() {
    let mut b = Bench::new();
    b.vpn.reflector_up(b.now, RR, true);
    b.snapshot(0, &[]);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    b.update(RR, 51, "10.3.0.0/16", &[100], REMOTE, |_| {});
    b.vpn.reflector_down(b.now, RR, true);
    b.settle();
    assert_eq!(b.told(0).len(), 2);
    b.vpn.reflector_up(b.now, RR, true);
    b.update(RR, 51, "10.2.0.0/16", &[100], REMOTE, |_| {});
    assert_eq!(b.told(0).len(), 2);
    b.vpn.end_of_rib(RR);
    b.settle();
    assert_eq!(b.told(0), ["10.2.0.0/16 2051"]);
    b.vpn.reflector_down(b.now, RR, true);
    b.pass(0.4);
    b.vpn.tick(b.now + Duration::from_secs(121));
    b.settle();
    assert_eq!(b.vpn.routes(), 0);
}

#[test]
fn a_pvm_that_breaks_the_rules_is_refused_and_harms_nobody() {
    let mut b = Bench::new();
    b.snapshot(2, &["10.3.0.0/16"]);
    b.message(0, ToCvm::Keepalive { incarnation: 5 });
    assert_eq!(b.replies.pop(), Some((0, ToPvm::Refused { incarnation: 5, reason: Refusal::Unknown })));
    b.snapshot(0, &[]);
    // Bad routes are left out, the good one among them counts.
    let bad = |prefix: &str, attributes| CustomerOp::Route { prefix: prefix.parse().unwrap(), attributes };
    b.ops(0, vec![bad("10.1.0.0/16", vec![0xff; 9]), bad("2001:db8::/32", customer().to_bytes()), route("10.2.3.4/16")]);
    assert_eq!(b.advertised(), ["65000:1 10.2.0.0/16 1000", "65000:3 10.3.0.0/16 1002"]);
    assert!(b.refused[0].starts_with("2 routes"), "{:?}", b.refused);
    // Seventeen messages in a row are one more than was granted.
    for _ in 0..40 {
        b.vpn_message(0, ToCvm::Sync { incarnation: 0, sync: Sync::Ops { epoch: Epoch(2), ops: vec![] } });
    }
    b.settle();
    assert!(b.replies.contains(&(0, ToPvm::Refused { incarnation: 0, reason: Refusal::Unknown })));
    b.pass(0.2);
    b.hello(100);
    b.vpn_message(100, ToCvm::Sync { incarnation: 100, sync: Sync::Begin { epoch: Epoch(1) } });
    b.vpn.sessions.get_mut(&0).unwrap().grant_due();
    let flood = |b: &mut Bench| b.vpn_message(100, ToCvm::Sync { incarnation: 100, sync: Sync::Ops { epoch: Epoch(1), ops: vec![] } });
    // Grants come back as it is worked off; without them the window ends.
    (0..1000).for_each(|_| flood(&mut b));
    b.settle();
    assert!(b.vpn.sessions.contains_key(&2));
    assert_eq!(b.told(2), [""; 0]);
}

#[test]
fn a_second_hello_of_the_same_incarnation_gives_no_second_window() {
    let mut b = Bench::new();
    b.hello(0);
    b.hello(0);
    let grants = b.replies.iter().filter(|(_, m)| matches!(m, ToPvm::Grant { .. })).count();
    let welcomes = b.replies.iter().filter(|(_, m)| matches!(m, ToPvm::Welcome { .. })).count();
    assert_eq!((grants, welcomes), (1, 2));
}

#[derive(Debug, Clone)]
enum Step {
    Customer { peer: u32, prefix: u8, announce: bool },
    Reflector { second: bool, rd: u32, prefix: u8, target: u32, next_hop: u8, announce: bool },
    Neighbor { n: u8, up: bool },
    Targets { attachment: usize, import: Vec<u32>, export: Vec<u32> },
    Work(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let target = || prop::sample::select(vec![100u32, 200, 300]);
    let targets = || prop::collection::vec(prop::sample::select(vec![100u32, 200, 300]), 0..3);
    prop_oneof![
        3 => (0u32..3, 0u8..4, any::<bool>()).prop_map(|(peer, prefix, announce)| Step::Customer { peer, prefix, announce }),
        4 => (any::<bool>(), 50u32..53, 0u8..4, target(), 1u8..4, any::<bool>())
            .prop_map(|(second, rd, prefix, target, next_hop, announce)| Step::Reflector { second, rd, prefix, target, next_hop, announce }),
        1 => (2u8..4, any::<bool>()).prop_map(|(n, up)| Step::Neighbor { n, up }),
        1 => (0usize..3, targets(), targets()).prop_map(|(attachment, import, export)| Step::Targets { attachment, import, export }),
        2 => (0usize..4).prop_map(Step::Work),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever the order of events and however they are sliced: every VRF holds exactly the usable best paths whose route
    /// targets it imports, nothing else is told, and what is advertised is what the customers said.
    #[test]
    fn imports_and_exports_are_a_function_of_what_is_known(steps in prop::collection::vec(step(), 0..50)) {
        let mut attachments = acme_and_beta();
        let with = |attachments: &[AttachmentConfig]| Config { reflectors: [RR, RR2].into(), ..config(attachments.to_vec()) };
        let mut b = Bench::with(with(&attachments), false);
        (0..3).for_each(|p| b.snapshot(p, &[]));
        let mut customers: BTreeSet<(u32, Ipv4Net)> = BTreeSet::new();
        let mut received: BTreeMap<(Ipv4Addr, Key), (u32, u8)> = BTreeMap::new();
        let mut up: BTreeSet<u8> = [2].into();
        for step in steps {
            match step {
                Step::Customer { peer, prefix, announce } => {
                    let prefix = format!("10.{prefix}.0.0/16");
                    let op = if announce { route(&prefix) } else { CustomerOp::Withdraw { prefix: prefix.parse().unwrap() } };
                    if announce { customers.insert((peer, net(&prefix))); } else { customers.remove(&(peer, net(&prefix))); }
                    b.vpn_message(peer, ToCvm::Sync { incarnation: peer.into(), sync: Sync::Ops { epoch: Epoch(1), ops: vec![op] } });
                }
                Step::Reflector { second, rd: r, prefix, target, next_hop, announce } => {
                    let rr = if second { RR2 } else { RR };
                    let key = (rd(r), net(&format!("10.{prefix}.0.0/16")));
                    let mut a = Attributes { local_pref: Some(100), ..customer() };
                    a.ext_communities = rts(&[target]).iter().map(|t| t.0).collect();
                    let nlri = Nlri::Vpnv4 { rd: key.0, prefix: key.1, label: Label::try_from(2000 + r).unwrap() };
                    if announce {
                        received.insert((rr, key), (target, next_hop));
                        b.vpn.update(b.now, rr, &Arc::new(a), Ipv4Addr::new(10, 255, 0, next_hop), &[nlri], &[]);
                    } else {
                        received.remove(&(rr, key));
                        b.vpn.update(b.now, rr, &Arc::default(), RR, &[], &[nlri.key()]);
                    }
                }
                Step::Neighbor { n, up: true } => { up.insert(n); b.resolve(n); }
                Step::Neighbor { n, up: false } => { up.remove(&n); b.lose(n); }
                Step::Targets { attachment, import, export } => {
                    (attachments[attachment].import, attachments[attachment].export) = (rts(&import), rts(&export));
                    b.vpn.configure(b.now, with(&attachments));
                }
                Step::Work(n) => { b.vpn.work(n); }
            }
        }
        b.settle();

        let truth: BTreeSet<NlriKey> = customers.iter().map(|(p, prefix)| NlriKey::Vpnv4 { rd: rd(p + 1), prefix: *prefix }).collect();
        prop_assert_eq!(b.advertised.keys().copied().collect::<BTreeSet<_>>(), truth);
        for (peer, a) in attachments.iter().enumerate() {
            let peer = u32::try_from(peer).unwrap();
            let mut expected: BTreeSet<Ipv4Net> = BTreeSet::new();
            for (other, prefix) in &customers {
                if *other != peer && !attachments[*other as usize].export.is_disjoint(&a.import) {
                    expected.insert(*prefix);
                }
            }
            // Of one RD the first reflector's route is better, all else being equal, and only the best is imported.
            for ((rr, key), (target, next_hop)) in &received {
                let usable = |n: &u8| up.contains(n);
                let hidden = *rr == RR2 && received.get(&(RR, *key)).is_some_and(|(_, n)| usable(n));
                if usable(next_hop) && !hidden && a.import.contains(&rts(&[*target]).pop_first().unwrap()) {
                    expected.insert(key.1);
                }
            }
            let told: BTreeSet<Ipv4Net> = b.told[&peer].keys().copied().collect();
            prop_assert_eq!(told, expected, "attachment {}", peer);
        }
    }
}
