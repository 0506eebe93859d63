//! Random events against a model that knows only what is true now, and works everything out anew.

use super::*;
use proptest::prelude::*;

const NAMES: [&str; 4] = ["acme/d1", "acme/d2", "beta/d1", "gamma/d1"];
const PREFIXES: [&str; 4] = ["10.1.0.0/16", "10.2.0.0/16", "0.0.0.0/0", "2001:db8::/32"];
const TARGETS: [u32; 3] = [100, 200, 300];
const RRS: [Ipv4Addr; 2] = [RR, RR2];

#[derive(Debug, Clone)]
enum Step {
    Customer {
        peer: u32,
        prefix: usize,
        ce: Option<u8>,
        announce: bool,
    },
    /// Another process of the PVM, which has only these of the routes.
    Restart {
        peer: u32,
        keeps: [bool; 4],
    },
    /// A standby of the PVM comes, or another one.
    Standby {
        peer: u32,
    },
    /// It takes over from the one that spoke, which says something all the same.
    Promote {
        peer: u32,
        keeps: [bool; 4],
    },
    /// It speaks without having been told to, as whatever it says it is.
    Usurp {
        peer: u32,
        active: bool,
    },
    Route {
        rr: usize,
        path_id: u32,
        rd: u32,
        prefix: usize,
        target: u32,
        next_hop: u8,
        local_pref: u32,
    },
    Unreach {
        rr: usize,
        path_id: u32,
        rd: u32,
        prefix: usize,
    },
    Down {
        rr: usize,
        graceful: bool,
    },
    Up {
        rr: usize,
    },
    EndOfRib {
        rr: usize,
    },
    /// Without a cost there is no way; with other legs it is as far.
    Way {
        n: u8,
        cost: Option<u32>,
        legs: u8,
    },
    /// The core changes the way to PE `n` while everything else is still.
    StillWay {
        n: u8,
        legs: u8,
    },
    Configure {
        attachment: usize,
        change: Change,
    },
    Work(usize),
    /// A slow PVM takes some messages.
    Take {
        peer: u32,
        credits: u32,
    },
    Tick,
    /// Labels cannot be stored, or can again.
    DiskFull(bool),
}

#[derive(Debug, Clone)]
enum Change {
    Targets(Vec<u32>, Vec<u32>),
    Leak(Option<(u32, usize)>),
    MaxPaths(u8),
    LabelPerCe(bool),
    /// One of two.
    Rd(bool),
    /// Taken away, or put back.
    Presence,
}

fn step() -> impl Strategy<Value = Step> {
    let (rr, rd, prefix, next_hop) = (|| 0usize..2, || 50u32..53, || 0usize..4, || 1u8..5);
    let target = || prop::sample::select(&TARGETS[..]);
    let targets = move || prop::collection::vec(target(), 0..3);
    let change = prop_oneof![
        (targets(), targets()).prop_map(|(import, export)| Change::Targets(import, export)),
        prop::option::of((target(), prefix())).prop_map(Change::Leak),
        (0u8..4).prop_map(Change::MaxPaths),
        any::<bool>().prop_map(Change::LabelPerCe),
        any::<bool>().prop_map(Change::Rd),
        Just(Change::Presence),
    ];
    let way = (1u8..5, prop::option::of(0u32..3), 0u8..3);
    prop_oneof![
        5 => (0u32..4, prefix(), prop::option::of(1u8..4), any::<bool>()).prop_map(|(peer, prefix, ce, announce)| Step::Customer { peer, prefix, ce, announce }),
        1 => (0u32..4, any::<[bool; 4]>()).prop_map(|(peer, keeps)| Step::Restart { peer, keeps }),
        1 => (0u32..4).prop_map(|peer| Step::Standby { peer }),
        1 => (0u32..4, any::<[bool; 4]>()).prop_map(|(peer, keeps)| Step::Promote { peer, keeps }),
        1 => (0u32..4, any::<bool>()).prop_map(|(peer, active)| Step::Usurp { peer, active }),
        8 => (rr(), 0u32..2, rd(), prefix(), target(), next_hop(), 1u32..3).prop_map(
            |(rr, path_id, rd, prefix, target, next_hop, local_pref)| Step::Route { rr, path_id, rd, prefix, target, next_hop, local_pref }),
        2 => (rr(), 0u32..2, rd(), prefix()).prop_map(|(rr, path_id, rd, prefix)| Step::Unreach { rr, path_id, rd, prefix }),
        1 => (rr(), any::<bool>()).prop_map(|(rr, graceful)| Step::Down { rr, graceful }),
        2 => rr().prop_map(|rr| Step::Up { rr }),
        1 => rr().prop_map(|rr| Step::EndOfRib { rr }),
        3 => way.prop_map(|(n, cost, legs)| Step::Way { n, cost, legs }),
        2 => (1u8..5, 0u8..3).prop_map(|(n, legs)| Step::StillWay { n, legs }),
        3 => (0usize..4, change).prop_map(|(attachment, change)| Step::Configure { attachment, change }),
        3 => (0usize..4).prop_map(Step::Work),
        2 => (0u32..4, 1u32..3).prop_map(|(peer, credits)| Step::Take { peer, credits }),
        1 => Just(Step::Tick),
        1 => any::<bool>().prop_map(Step::DiskFull),
    ]
}

#[derive(Debug, Clone)]
struct Heard {
    target: u32,
    next_hop: u8,
    local_pref: u32,
    /// Of the session that is up.
    fresh: bool,
}

/// The instances of an attachment's PVM, as the bench names them.
#[derive(Debug, Clone, Copy)]
struct Instances {
    speaker: u32,
    standby: Option<u32>,
    generation: u64,
}

/// What is true now.
struct Model {
    pvms: [Instances; 4],
    attachments: Vec<(AttachmentConfig, bool)>,
    customers: BTreeMap<(u32, usize), Option<u8>>,
    heard: BTreeMap<(usize, u32, u32, usize), Heard>,
    up: [bool; 2],
}

impl Model {
    fn new() -> Self {
        let attachments = NAMES.iter().zip(1..).map(|(name, n)| (attachment(name, n, &[100], &[100 * n.min(3)]), true));
        let pvms = [0, 1, 2, 3].map(|peer| Instances { speaker: peer, standby: None, generation: 1 });
        Self { pvms, attachments: attachments.collect(), customers: BTreeMap::new(), heard: BTreeMap::new(), up: [true; 2] }
    }

    fn present(&self) -> Vec<AttachmentConfig> {
        self.attachments.iter().filter(|(_, present)| *present).map(|(a, _)| a.clone()).collect()
    }

    fn has(&self, peer: u32) -> bool {
        self.attachments[peer as usize].1
    }

    /// The instances of an attachment that are connected.
    fn connected(&self, peer: u32) -> impl Iterator<Item = u32> {
        let pvms = self.pvms[peer as usize];
        self.has(peer).then_some(pvms.speaker).into_iter().chain(pvms.standby)
    }

    fn label(b: &Bench, a: &AttachmentConfig, ce: Option<u8>) -> u32 {
        let next_hop = ce.filter(|_| a.label_per_ce).map(|ce| IpAddr::from([192, 168, 1, ce]));
        b.vpn.labels().get(&Owner { attachment: a.id.clone(), next_hop }).unwrap().get()
    }

    /// What the PVM of an attachment is to hold for a prefix: paths, then backups, as labels and tunnels.
    fn paths(&self, b: &Bench, peer: u32, prefix: usize) -> [Vec<(u32, u8)>; 2] {
        let (a, _) = &self.attachments[peer as usize];
        let imports = |targets: &BTreeSet<RouteTarget>| {
            let leaked = |l: &Leak| !l.import.is_disjoint(targets) && l.prefixes.contains(&net(PREFIXES[prefix]));
            !a.import.is_disjoint(targets) || a.leaks.iter().any(leaked)
        };
        let cost = |n: u8| b.ways.get(&pe(n)).filter(|w| !w.tunnel.legs.is_empty()).map(|w| w.cost);
        // Larger is better: preference, from a customer here, cost, lowest peer, lowest path identifier. Then label and tunnel.
        type Rank = (u32, bool, std::cmp::Reverse<u32>, std::cmp::Reverse<(Ipv4Addr, u32)>);
        let rank = |pref, here, cost, peer, path_id| -> Rank { (pref, here, std::cmp::Reverse(cost), std::cmp::Reverse((peer, path_id))) };
        let mut all: Vec<(Rank, u32, u8)> = vec![];
        for ((other, p), ce) in &self.customers {
            let (from, present) = &self.attachments[*other as usize];
            if *present
                && *p == prefix
                && *other != peer
                && imports(&from.export)
                && let Some(cost) = cost(1)
            {
                all.push((rank(100, true, cost, pe(1), b.vpn.slots[&from.id]), Self::label(b, from, *ce), 1));
            }
        }
        for ((rr, path_id, rd, p), h) in &self.heard {
            // Ours come back is no path.
            if *p == prefix
                && h.next_hop != 1
                && imports(&rts(&[h.target]))
                && let Some(cost) = cost(h.next_hop)
            {
                all.push((rank(h.local_pref, false, cost, RRS[*rr], *path_id), 2000 + rd, h.next_hop));
            }
        }
        // Of one reflector and identifier the route distinguishers are left: the lowest counts.
        all.sort_by(|x, y| y.0.cmp(&x.0).then(x.1.cmp(&y.1)));
        let pick = |all: &[(Rank, u32, u8)]| {
            let mut out: Vec<(u32, u8)> = vec![];
            let equal = |r: &Rank| all.first().is_some_and(|(best, ..)| (best.0, best.1, best.2) == (r.0, r.1, r.2));
            for (_, label, n) in all.iter().filter(|(r, ..)| equal(r)) {
                if out.len() < usize::from(a.max_paths.max(1)) && !out.contains(&(*label, *n)) {
                    out.push((*label, *n));
                }
            }
            out
        };
        let paths = pick(&all);
        all.retain(|(_, _, n)| paths.iter().all(|(_, used)| used != n));
        [paths, pick(&all)]
    }

    fn check(&self, b: &Bench) -> Result<(), TestCaseError> {
        let (mut routes, mut memberships) = (BTreeMap::new(), BTreeSet::new());
        for (peer, (a, _)) in (0u32..).zip(&self.attachments).filter(|(_, (_, present))| *present) {
            memberships.extend(a.import.iter().chain(a.leaks.iter().flat_map(|l| &l.import)).copied());
            let own = self.customers.iter().filter(|((p, _), _)| *p == peer);
            routes.extend(
                own.clone().map(|((_, prefix), ce)| (NlriKey::Vpn { rd: a.rd, prefix: net(PREFIXES[*prefix]) }, Self::label(b, a, *ce))),
            );
            let (mut expected, mut tunnels) = (BTreeMap::new(), BTreeMap::new());
            for (i, prefix) in PREFIXES.iter().enumerate() {
                let paths = self.paths(b, peer, i);
                for (_, n) in paths.iter().flatten() {
                    tunnels.insert(tunnel_id(pe(*n)), b.ways[&pe(*n)].tunnel.clone());
                }
                if !paths[0].is_empty() {
                    expected.insert(net(prefix), paths);
                }
            }
            let ces: BTreeSet<Option<u8>> = own.map(|(_, ce)| ce.filter(|_| a.label_per_ce)).chain([None]).collect();
            let labels: BTreeSet<u32> = ces.into_iter().map(|ce| Self::label(b, a, ce)).collect();
            let short = |paths: &Vec<VpnPath>| paths.iter().map(|p| (p.label.get(), p.tunnel.0.to_be_bytes()[3])).collect::<Vec<_>>();
            for pvm in self.connected(peer).map(|instance| &b.pvms[&instance]) {
                let held: BTreeMap<IpNet, [Vec<(u32, u8)>; 2]> =
                    pvm.routes.iter().map(|(p, (paths, backup))| (*p, [short(paths), short(backup)])).collect();
                prop_assert_eq!(&held, &expected, "routes of {}", a.id);
                prop_assert_eq!(&pvm.tunnels, &tunnels, "tunnels of {}", a.id);
                prop_assert_eq!(pvm.labels.keys().map(|l| l.get()).collect::<BTreeSet<_>>(), labels.clone(), "labels of {}", a.id);
                prop_assert!(pvm.ended);
            }
        }
        let advertised: BTreeMap<NlriKey, u32> = b.advertised.iter().filter_map(|(k, (l, _))| Some((*k, (*l)?.get()))).collect();
        prop_assert_eq!(advertised, routes);
        let told: BTreeSet<NlriKey> = b.advertised.keys().filter(|k| k.family() == Family::RouteTarget).copied().collect();
        prop_assert_eq!(told, memberships.into_iter().map(|rt| NlriKey::RouteTarget(RtMembership::new(65000, rt))).collect());
        let wanted: BTreeSet<Ipv4Addr> = self.heard.values().map(|h| pe(h.next_hop)).chain([pe(1)]).collect();
        prop_assert_eq!(&b.wanted, &wanted);
        Ok(())
    }

    /// One step in both.
    fn step(&mut self, b: &mut Bench, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Customer { peer, prefix, ce, announce } if self.has(peer) => {
                let ce = ce.filter(|_| announce);
                let speaker = self.pvms[peer as usize].speaker;
                let (text, incarnation) = (PREFIXES[prefix], b.pvms[&speaker].incarnation);
                let op = match ce {
                    Some(ce) => route_via(text, &format!("192.168.1.{ce}")),
                    None if announce => route(text),
                    None => CustomerOp::Withdraw { prefix: net(text) },
                };
                if announce {
                    self.customers.insert((peer, prefix), ce);
                } else {
                    self.customers.remove(&(peer, prefix));
                }
                b.vpn_message(speaker, ToCvm::Sync { incarnation, sync: Sync::Ops { epoch: Epoch(1), ops: vec![op] } });
            }
            Step::Restart { peer, keeps } if self.has(peer) => {
                self.customers.retain(|(p, prefix), _| *p != peer || keeps[*prefix]);
                self.start(b, peer);
            }
            Step::Standby { peer } if self.has(peer) => {
                let pvms = &mut self.pvms[peer as usize];
                pvms.generation += 1;
                // What was a standby before ends by taking another role, if a higher one of the same connection.
                let standby = pvms.standby.unwrap_or(pvms.speaker + 100);
                pvms.standby = Some(standby);
                let generation = pvms.generation;
                self.hello(b, standby, generation, true);
            }
            Step::Promote { peer, keeps } if self.has(peer) => {
                let pvms = &mut self.pvms[peer as usize];
                let Some(standby) = pvms.standby.take() else { return Ok(()) };
                let former = std::mem::replace(&mut pvms.speaker, standby);
                pvms.generation += 1;
                self.customers.retain(|(p, prefix), _| *p != peer || keeps[*prefix]);
                self.start(b, peer);
                self.refused(b, former)?;
            }
            Step::Usurp { peer, active } if self.has(peer) => {
                let pvms = &mut self.pvms[peer as usize];
                let usurper = pvms.standby.take().unwrap_or(pvms.speaker + 100);
                self.hello(b, usurper, if active { 0 } else { u64::MAX }, !active);
                self.refused(b, usurper)?;
            }
            Step::Route { rr, path_id, rd: n, prefix, target, next_hop, local_pref } if self.up[rr] => {
                self.heard.insert((rr, path_id, n, prefix), Heard { target, next_hop, local_pref, fresh: true });
                let a = Attributes { local_pref: Some(local_pref * 50), ..remote(&[target]) };
                self.heard.entry((rr, path_id, n, prefix)).and_modify(|h| h.local_pref *= 50);
                let nlri = Nlri::Vpn { rd: rd(n), prefix: net(PREFIXES[prefix]), label: label(2000 + n) };
                b.vpn.update(b.now, RRS[rr], &Arc::new(a), pe(next_hop).into(), &[Reach { path_id, nlri }], &[]);
            }
            Step::Unreach { rr, path_id, rd: n, prefix } if self.up[rr] => {
                self.heard.remove(&(rr, path_id, n, prefix));
                let gone = Unreach { path_id, key: vpn_key(n, PREFIXES[prefix]) };
                b.vpn.update(b.now, RRS[rr], &Arc::default(), RR.into(), &[], &[gone]);
            }
            Step::Down { rr, graceful } if self.up[rr] => {
                self.up[rr] = false;
                self.heard.retain(|(r, ..), h| *r != rr || graceful && h.fresh);
                self.heard.iter_mut().filter(|((r, ..), _)| *r == rr).for_each(|(_, h)| h.fresh = false);
                b.vpn.reflector_down(b.now, RRS[rr], graceful.then_some(Graceful { stale_s: 100, llgr_stale_s: 0 }));
            }
            Step::Up { rr } if !self.up[rr] => {
                self.up[rr] = true;
                b.up(RRS[rr]);
            }
            Step::EndOfRib { rr } if self.up[rr] => {
                // Of a session before this one; a second end ends nothing.
                self.heard.retain(|(r, ..), h| *r != rr || h.fresh);
                VPN.into_iter().for_each(|family| b.vpn.end_of_rib(RRS[rr], family));
            }
            Step::Way { n, cost, legs } => b.way(n, cost.map(|cost| way_over(n, cost, legs))),
            Step::StillWay { n, legs } => self.still(b, n, legs)?,
            Step::Configure { attachment, change } => {
                let back = matches!(change, Change::Presence);
                let (a, present) = &mut self.attachments[attachment];
                match change {
                    Change::Targets(import, export) => (a.import, a.export) = (rts(&import), rts(&export)),
                    Change::Leak(leak) => {
                        let leak = leak.map(|(target, prefix)| Leak { import: rts(&[target]), prefixes: [net(PREFIXES[prefix])].into() });
                        a.leaks = leak.into_iter().collect();
                    }
                    Change::MaxPaths(n) => a.max_paths = n,
                    Change::LabelPerCe(per_ce) => a.label_per_ce = per_ce,
                    Change::Rd(other) => a.rd = rd(1 + u32::try_from(attachment).unwrap() + if other { 10 } else { 0 }),
                    Change::Presence => *present = !*present,
                }
                let peer = u32::try_from(attachment).unwrap();
                b.vpn.configure(b.now, config(self.present()));
                if back {
                    self.pvms[attachment].standby = None;
                }
                if !self.has(peer) {
                    self.customers.retain(|(p, _), _| *p != peer);
                } else if back {
                    self.start(b, peer);
                }
            }
            Step::Work(budget) => drop(b.vpn.work(budget)),
            Step::Take { peer, credits } => {
                b.actions();
                b.messages();
                self.connected(peer).for_each(|instance| b.grant(instance, credits));
            }
            Step::Tick => {
                b.keepalives();
                b.pass(0.1);
            }
            Step::DiskFull(full) => b.disk_full = full,
            _ => {}
        }
        Ok(())
    }

    /// The PVM of an attachment starts to speak, with the routes that its customer has.
    fn start(&self, b: &mut Bench, peer: u32) {
        let Instances { speaker, generation, .. } = self.pvms[peer as usize];
        let incarnation = self.hello(b, speaker, generation, false);
        let own = self.customers.iter().filter(|((p, _), _)| *p == peer);
        let op = |((_, prefix), ce): (&(u32, usize), &Option<u8>)| match ce {
            Some(ce) => route_via(PREFIXES[*prefix], &format!("192.168.1.{ce}")),
            None => route(PREFIXES[*prefix]),
        };
        let epoch = Epoch(1);
        let syncs = [Sync::Begin { epoch }, Sync::Ops { epoch, ops: own.map(op).collect() }, Sync::End { epoch }];
        syncs.into_iter().for_each(|sync| b.vpn_message(speaker, ToCvm::Sync { incarnation, sync }));
    }

    fn hello(&self, b: &mut Bench, instance: u32, generation: u64, standby: bool) -> u64 {
        b.now += Duration::from_millis(60);
        let incarnation = b.pvms.get(&instance).map_or(0, |p| p.incarnation) + 100;
        let attachment = b.owner(instance);
        b.vpn_message(instance, ToCvm::Hello { attachment, incarnation, generation, standby });
        // Its grants come with the incarnation.
        b.messages();
        incarnation
    }

    /// An instance says what it may not.
    fn refused(&self, b: &mut Bench, instance: u32) -> Result<(), TestCaseError> {
        b.replies.clear();
        let incarnation = b.pvms.get(&instance).map_or(0, |p| p.incarnation);
        b.vpn_message(instance, ToCvm::Sync { incarnation, sync: Sync::Begin { epoch: Epoch(1) } });
        b.messages();
        let refused = b.replies.iter().any(|(peer, m)| *peer == instance && matches!(m, ToPvm::Refused { .. }));
        prop_assert!(refused, "{:?}", b.replies);
        Ok(())
    }

    /// A way has other legs, or none: one operation to each PVM that uses it, and nothing else, before work goes on.
    fn still(&self, b: &mut Bench, n: u8, legs: u8) -> Result<(), TestCaseError> {
        quiet(b);
        b.pvms.values_mut().for_each(|pvm| pvm.ops.clear());
        let Some(old) = b.ways.get(&pe(n)).cloned() else { return Ok(()) };
        let new = way_over(n, old.cost, legs);
        let tunnel = new.tunnel.clone();
        b.way(n, Some(new));
        b.messages();
        for (peer, pvm) in b.pvms.iter().filter(|(peer, _)| self.connected(**peer % 100).any(|instance| instance == **peer)) {
            let one = if pvm.uses(tunnel.id) && tunnel != old.tunnel { vec![VpnOp::Tunnel(tunnel.clone())] } else { vec![] };
            prop_assert_eq!(&pvm.ops, &one, "PVM {}", peer);
        }
        Ok(())
    }
}

fn way_over(n: u8, cost: u32, legs: u8) -> TunnelState {
    let mut state = way(n, cost);
    let leg = |i| Leg { destination_mac: MacAddr([2, 0, 0, 0, i, n]), ..state.tunnel.legs[0].clone() };
    state.tunnel.legs = (0..legs).map(leg).collect();
    state
}

/// Everything is worked off and taken.
fn quiet(b: &mut Bench) {
    b.slow = false;
    for peer in b.pvms.keys().copied().collect::<Vec<_>>() {
        b.grant(peer, WINDOW);
    }
    b.settle();
    b.keepalives();
    // CEs are looked at when time passes, and what that changes is worked off.
    b.pass(0.1);
    b.pass(0.1);
    b.slow = true;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever the order of events, however they are sliced and however slow PVMs are: in the end each PVM holds exactly the
    /// paths, backups, tunnels and labels that follow from what is true, and the reflectors what the customers said.
    #[test]
    fn everyone_ends_up_with_what_is_true(steps in prop::collection::vec(step(), 0..100)) {
        let mut model = Model::new();
        let mut b = Bench::with(config(model.present()), false);
        (0..4).for_each(|peer| model.start(&mut b, peer));
        b.slow = true;
        for step in steps {
            model.step(&mut b, step)?;
        }
        b.disk_full = false;
        quiet(&mut b);
        // Labels are stored when that is tried next. Snapshots end when reflectors have been waited for long enough.
        b.live(4);
        quiet(&mut b);
        model.check(&b)?;
    }
}
