//! Every input in plain maps, everything computed from scratch.

use crate::{label, prefix};
use edgeplex_bgp_wire::{AsPath, Attributes, Origin};
use edgeplex_ff_fib_api::{Target, VpnPath};
use edgeplex_mgmt::config::{PolicyAction, PolicyMatch, PolicyRule, PolicySet, PrefixRange};
use edgeplex_pvm_policy::Policy;
use edgeplex_pvm_vrf::{Neighbor, StaticRoute, VrfConfig};
use edgeplex_types::{SiteOfOrigin, TunnelId};
use ipnet::IpNet;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

/// Address and AS of the site's routers; the last is of IPv6.
pub(crate) fn ces() -> [(IpAddr, u32); 3] {
    [("192.168.1.2".parse().unwrap(), 65101), ("192.168.1.3".parse().unwrap(), 65102), ("2001:db8:1::2".parse().unwrap(), 65101)]
}

pub(crate) const CONFIGS: usize = 4;
const SITE: &str = "65000:77";

fn rule(p: usize, set: PolicySet, action: PolicyAction) -> PolicyRule {
    let range = PrefixRange { prefix: prefix(p), ge: None, le: None };
    PolicyRule { r#match: PolicyMatch { prefixes: vec![range], ..PolicyMatch::default() }, set, action }
}

/// 0: plain. 1: policies, both ways, and a site of two routers. 2: the second router is gone, the first gets a default
/// route, the static route is watched. 3: one path at a time, no static route.
pub(crate) fn config(i: usize) -> VrfConfig {
    let mut neighbors: Vec<Neighbor> = ces().map(|(address, asn)| Neighbor::new(address, asn)).into();
    match i {
        1 => {
            let prefer = PolicySet { local_pref: Some(200), ..PolicySet::default() };
            let import = [
                rule(1, prefer.clone(), PolicyAction::Accept),
                rule(2, PolicySet::default(), PolicyAction::Reject),
                rule(8, prefer, PolicyAction::Accept),
            ];
            let export = [rule(1, PolicySet::default(), PolicyAction::Reject), rule(9, PolicySet::default(), PolicyAction::Reject)];
            for n in &mut neighbors {
                n.import = Policy::new(&import).unwrap();
                n.export = Policy::new(&export).unwrap();
                n.site_of_origin = Some(SITE.parse().unwrap());
            }
        }
        2 => {
            neighbors.remove(1);
            neighbors[0].default_originate = true;
        }
        _ => {}
    }
    VrfConfig {
        local_as: 65000,
        mac: "02:00:00:00:00:01".parse().unwrap(),
        addresses: vec!["192.168.1.1/29".parse().unwrap(), "2001:db8:1::1/64".parse().unwrap()],
        customer_mtu: 1500,
        core_mtu: 1600,
        neighbors,
        statics: if i == 3 { vec![] } else { vec![StaticRoute { prefix: prefix(3), via: ces()[0].0, bfd: i == 2 }] },
        max_paths: if i == 3 { 1 } else { 3 },
    }
}

pub(crate) fn attributes(first: u32, length: u32, local_pref: Option<u32>) -> Attributes {
    let asns: Vec<u32> = (0..length).map(|i| first + i).collect();
    Attributes { as_path: AsPath::sequence(asns), local_pref, ..Attributes::default() }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path {
    pub(crate) tunnel: u32,
    pub(crate) label: u32,
    pub(crate) length: u32,
    pub(crate) local_pref: Option<u32>,
}

#[derive(Debug, Default)]
struct Ce {
    session: u64,
    router_id: Option<Ipv4Addr>,
    /// Session, length of the path, and who told it.
    routes: BTreeMap<IpNet, (u64, u32, Ipv4Addr)>,
}

#[derive(Debug)]
pub(crate) struct Model {
    config: usize,
    ces: BTreeMap<IpAddr, Ce>,
    pub(crate) bfd_up: bool,
    pub(crate) epoch: Option<u64>,
    pub(crate) routes: BTreeMap<IpNet, (u64, Vec<Path>, Vec<Path>)>,
    /// Epoch and number of legs.
    pub(crate) tunnels: BTreeMap<u32, (u64, u8)>,
    pub(crate) labels: BTreeMap<u32, (u64, Option<IpAddr>)>,
}

#[derive(Debug, PartialEq)]
enum Choice {
    Local,
    Connected,
    Static,
    /// From whom, length of its path, preference by policy.
    Customer(IpAddr, u32, Option<u32>),
    Vpn(Vec<Path>, Vec<Path>),
}

/// What each reader should hold.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) fib: BTreeMap<IpNet, Target>,
    pub(crate) labels: BTreeMap<u32, Option<IpAddr>>,
    pub(crate) tunnels: BTreeMap<u32, usize>,
    pub(crate) relay: BTreeMap<IpNet, (Option<IpAddr>, Vec<u8>)>,
    pub(crate) ces: BTreeMap<IpAddr, BTreeMap<IpNet, Vec<u8>>>,
}

/// Paths that a target shares, and those kept ready.
pub(crate) fn width(target: &Target) -> (usize, usize) {
    if let Target::Vpn { paths, backup } = target { (paths.len(), backup.len()) } else { (0, 0) }
}

impl Model {
    pub(crate) fn new() -> Self {
        let ces = ces().map(|(address, _)| (address, Ce::default())).into();
        Self { config: 0, ces, bfd_up: false, epoch: None, routes: BTreeMap::new(), tunnels: BTreeMap::new(), labels: BTreeMap::new() }
    }

    pub(crate) fn announce(&mut self, ce: IpAddr, p: IpNet, length: u32) {
        let own = ["192.168.1.1/32", "2001:db8:1::1/128"].iter().any(|own| own.parse() == Ok(p));
        if let Some(ce) = self.ces.get_mut(&ce).filter(|_| ce.is_ipv4() == p.addr().is_ipv4() && !own) {
            ce.routes.insert(p, (ce.session, length, ce.router_id.unwrap_or(Ipv4Addr::UNSPECIFIED)));
        }
    }

    pub(crate) fn withdraw(&mut self, ce: IpAddr, p: IpNet) {
        if let Some(ce) = self.ces.get_mut(&ce) {
            ce.routes.remove(&p);
        }
    }

    pub(crate) fn session_up(&mut self, ce: IpAddr, router_id: Ipv4Addr) {
        if let Some(ce) = self.ces.get_mut(&ce) {
            ce.session += 1;
            ce.router_id = Some(router_id);
        }
    }

    pub(crate) fn sweep(&mut self, ce: IpAddr) {
        self.session_down(ce, true);
    }

    pub(crate) fn session_down(&mut self, ce: IpAddr, keep: bool) {
        if let Some(ce) = self.ces.get_mut(&ce) {
            let session = ce.session;
            ce.routes.retain(|_, (s, ..)| keep && *s == session);
        }
    }

    pub(crate) fn configure(&mut self, i: usize) {
        self.config = i;
        let wanted: Vec<IpAddr> = config(i).neighbors.iter().map(|n| n.address).collect();
        self.ces.retain(|address, _| wanted.contains(address));
        wanted.into_iter().for_each(|address| {
            self.ces.entry(address).or_default();
        });
    }

    pub(crate) fn vpn_end(&mut self) {
        if let Some(e) = self.epoch {
            self.routes.retain(|_, (m, ..)| *m == e);
            self.tunnels.retain(|_, (m, _)| *m == e);
            self.labels.retain(|_, (m, _)| *m == e);
        }
    }

    /// The preference that the import policy gives; `None`: rejected.
    fn import(&self, p: IpNet) -> Option<Option<u32>> {
        match self.config {
            1 if p == prefix(2) => None,
            1 if p == prefix(1) || p == prefix(8) => Some(Some(200)),
            _ => Some(None),
        }
    }

    fn customer(&self, p: IpNet) -> Option<(IpAddr, u32, Option<u32>)> {
        let local_pref = self.import(p)?;
        let all = self.ces.iter().filter_map(|(address, ce)| ce.routes.get(&p).map(|(_, length, id)| (*length, *id, *address)));
        let best = all.min();
        best.map(|(length, _, address)| (address, length, local_pref))
    }

    fn core(&self, p: IpNet) -> Option<(Vec<Path>, Vec<Path>)> {
        let (_, paths, backup) = self.routes.get(&p)?;
        let max = config(self.config).max_paths;
        let mut chosen: Vec<Path> = vec![];
        let mut take = |from: &[Path]| {
            let mut out: Vec<Path> = vec![];
            for x in from.iter().filter(|x| self.tunnels.contains_key(&x.tunnel)) {
                if out.len() < max && !chosen.iter().any(|c| (c.tunnel, c.label) == (x.tunnel, x.label)) {
                    chosen.push(x.clone());
                    out.push(x.clone());
                }
            }
            out
        };
        let (first, second) = (take(paths), take(backup));
        match (first.is_empty(), second.is_empty()) {
            (true, true) => None,
            (true, false) => Some((second, vec![])),
            _ => Some((first, second)),
        }
    }

    fn choose(&self, p: IpNet) -> Option<Choice> {
        let c = config(self.config);
        if c.addresses.iter().any(|a| IpNet::from(a.addr()) == p) {
            return Some(Choice::Local);
        }
        if c.addresses.iter().any(|a| a.trunc() == p) {
            return Some(Choice::Connected);
        }
        if c.statics.iter().any(|s| s.prefix == p && (!s.bfd || self.bfd_up)) {
            return Some(Choice::Static);
        }
        let (ce, core) = (self.customer(p), self.core(p));
        let Some((address, length, local_pref)) = ce else { return core.map(|(p, b)| Choice::Vpn(p, b)) };
        if let Some((paths, backup)) = core {
            let theirs = (paths[0].local_pref.unwrap_or(100), std::cmp::Reverse(paths[0].length));
            if theirs > (local_pref.unwrap_or(100), std::cmp::Reverse(length)) {
                return Some(Choice::Vpn(paths, backup));
            }
        }
        Some(Choice::Customer(address, length, local_pref))
    }

    /// A CE's route as it is in the RIB.
    fn of_customer(&self, from: IpAddr, length: u32, local_pref: Option<u32>) -> Attributes {
        let asn = ces().into_iter().find(|c| c.0 == from).unwrap().1;
        let mut a = attributes(asn, length, local_pref);
        if self.config == 1 {
            a.ext_communities.push(SITE.parse::<SiteOfOrigin>().unwrap().to_extended_community());
        }
        a
    }

    fn to_ces(&self, p: IpNet, choice: &Choice, tables: &mut Tables) {
        for address in self.ces.keys().copied() {
            let table = tables.ces.entry(address).or_default();
            if address.is_ipv4() != p.addr().is_ipv4() {
                continue;
            }
            let rejected = self.config == 1 && (p == prefix(1) || p == prefix(9));
            let path = match choice {
                Choice::Vpn(paths, _) => attributes(65200, paths[0].length, None).as_path,
                // With a site, what one of its routers tells is not told to the others.
                Choice::Customer(from, length, _) if *from != address && self.config != 1 => self.of_customer(*from, *length, None).as_path,
                _ => continue,
            };
            if rejected {
                continue;
            }
            let mut a = Attributes { as_path: path, ..Attributes::default() };
            a.as_path.prepend(65000);
            table.insert(p, a.to_bytes());
        }
    }

    pub(crate) fn tables(&self) -> Tables {
        let mut t = Tables {
            labels: self.labels.iter().map(|(l, (_, next_hop))| (*l, *next_hop)).collect(),
            tunnels: self.tunnels.iter().map(|(id, (_, legs))| (*id, usize::from(*legs))).collect(),
            ..Tables::default()
        };
        let mut prefixes: Vec<IpNet> = crate::PREFIXES.iter().map(|p| p.parse().unwrap()).collect();
        prefixes.push("2001:db8:1::/64".parse().unwrap());
        for p in prefixes {
            let Some(choice) = self.choose(p) else { continue };
            let redistributed = Attributes::default().to_bytes();
            let of = |x: &Path| VpnPath { label: label(x.label), tunnel: TunnelId(x.tunnel) };
            let target = match &choice {
                Choice::Local => Target::Local,
                Choice::Connected => {
                    t.relay.insert(p, (None, redistributed));
                    Target::Connected
                }
                Choice::Static => {
                    t.relay.insert(p, (Some(ces()[0].0), redistributed));
                    Target::Customer { next_hop: ces()[0].0 }
                }
                Choice::Customer(from, length, local_pref) => {
                    t.relay.insert(p, (Some(*from), self.of_customer(*from, *length, *local_pref).to_bytes()));
                    Target::Customer { next_hop: *from }
                }
                Choice::Vpn(paths, backup) => {
                    Target::Vpn { paths: paths.iter().map(of).collect(), backup: backup.iter().map(of).collect() }
                }
            };
            self.to_ces(p, &choice, &mut t);
            t.fib.insert(p, target);
        }
        if self.config == 2 {
            let a = Attributes { origin: Origin::Igp, as_path: AsPath::sequence([65000]), ..Attributes::default() };
            t.ces.entry(ces()[0].0).or_default().insert(prefix(0), a.to_bytes());
        }
        t
    }
}
