//! A real Open vSwitch with two bridges: the fabric, and one that extends its ports to another host. As root, as `open_vswitch.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ovs, Wire, ipv4, mpls, number_of};
use edgeplex_switch::{Attachment, CorePort, FabricModel, Neighbor, Port, PortNo, Switch, Vnics, diff, extender, rules};
use edgeplex_types::{Label, MacAddr, VlanId};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const CE: [u8; 6] = [2, 0, 0, 0, 1, 1];
const PE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEIGHBOR: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn tag(n: u16) -> VlanId {
    n.try_into().unwrap()
}

fn label(n: u32) -> Label {
    n.try_into().unwrap()
}

/// Applies what differs, and sees that the switch has it then.
async fn install(switch: &mut Switch, wanted: &[edgeplex_switch::Rule]) {
    let changes = diff(wanted, &switch.rules().await.unwrap());
    switch.apply(&changes).await.unwrap();
    let left = diff(wanted, &switch.rules().await.unwrap());
    assert!(left.is_empty(), "{left:?}");
}

/// The fabric, another host's bridge, and the customers' switch, which takes their tags off: the test sees none.
struct Lab {
    ovs: Ovs,
    fabric: Switch,
    _agent: Switch,
    _edge: Switch,
    model: FabricModel,
    /// The test's ends, by name.
    wires: BTreeMap<&'static str, Wire>,
}

/// vNICs on the other host, with their tags on the link.
const FAR: [(&str, u16); 6] = [("acust", 11), ("acore", 12), ("bcust", 13), ("bcore", 14), ("ccust", 15), ("ccore", 16)];

impl Lab {
    /// Attachments a (VLAN 100) and c (untagged) are served by VMs on the other host, b (VLAN 200) by one at home.
    async fn new(id: &str) -> Self {
        let mut ovs = Ovs::start(&format!("{id}f"));
        let (far, edge) = (ovs.add_bridge(&format!("{id}a")), ovs.add_bridge(&format!("{id}e")));
        let mut wires = BTreeMap::new();
        let mut home = BTreeMap::new();
        for name in ["access", "plain", "core0", "cvm", "link", "rogue", "hcust", "hcore"] {
            home.insert(name, ovs.link(&format!("{id}{}", name.get(..3).unwrap_or(name))));
        }
        let mut away = BTreeMap::new();
        for name in FAR.iter().map(|(n, _)| *n).chain(["ce-a", "ce-b"]) {
            away.insert(name, ovs.link(&format!("{id}{}", name.replace('-', "").get(..4).unwrap_or(name))));
        }
        for (name, link) in home.iter().filter(|(n, _)| !["access", "link"].contains(*n)).chain(&away) {
            wires.insert(*name, Wire::open(&format!("{link}p")));
        }

        let mut fabric = Switch::connect(ovs.dir.path(), &ovs.bridge).await.unwrap();
        let names: Vec<&str> = home.values().map(String::as_str).collect();
        let ports = fabric.ensure_ports(&names).await.unwrap();
        let port = |name: &str| ports[&home[name]];

        let mut agent = Switch::connect(ovs.dir.path(), &far).await.unwrap();
        let uplink = format!("{}p", home["link"]);
        let mut names: Vec<&str> = FAR.iter().map(|(n, _)| away[n].as_str()).collect();
        names.push(&uplink);
        let ports = agent.ensure_ports(&names).await.unwrap();
        let vnics: Vec<_> = FAR.iter().map(|(n, t)| (ports[&away[n]], tag(*t))).collect();
        install(&mut agent, &extender(ports[&uplink], &vnics)).await;

        let mut customers = Switch::connect(ovs.dir.path(), &edge).await.unwrap();
        let trunk = format!("{}p", home["access"]);
        let ports = customers.ensure_ports(&[&trunk, &away["ce-a"], &away["ce-b"]]).await.unwrap();
        let ces = [(ports[&away["ce-a"]], tag(100)), (ports[&away["ce-b"]], tag(200))];
        install(&mut customers, &extender(ports[&trunk], &ces)).await;

        let there = |n: &str| Port::behind(port("link"), tag(FAR.iter().find(|(f, _)| *f == n).unwrap().1));
        let attachment = |access, vlan: Option<u16>, cust, core, l, imports: &[u32]| Attachment {
            cookie: 7,
            access: port(access),
            vlan: vlan.map(tag),
            vnics: Vnics { cust, core },
            draining: vec![],
            labels: vec![label(l)],
            imports: imports.iter().map(|l| label(*l)).collect(),
        };
        let model = FabricModel {
            core: vec![CorePort { port: port("core0"), cvm: port("cvm").into(), lsr: None, mac: MacAddr(PE) }],
            attachments: vec![
                attachment("access", Some(100), there("acust"), there("acore"), 1001, &[1002, 1003]),
                attachment("access", Some(200), port("hcust").into(), port("hcore").into(), 1002, &[1001]),
                attachment("plain", None, there("ccust"), there("ccore"), 1003, &[]),
            ],
            neighbors: vec![Neighbor { mac: MacAddr(NEIGHBOR), port: port("core0") }],
        };
        install(&mut fabric, &rules(&model)).await;
        Self { ovs, fabric, _agent: agent, _edge: customers, model, wires }
    }

    fn send(&self, from: &str, frame: &[u8]) {
        self.wires[from].send(frame);
    }

    fn passes(&mut self, from: &str, to: &'static str, frame: &[u8]) {
        self.send(from, frame);
        let got = self.wires.get_mut(to).unwrap().expect(number_of(frame));
        // Nothing of the way is left in it: no tag, no padding.
        assert_eq!(got, frame, "{from} -> {to}");
    }

    fn uplink(&self) -> PortNo {
        self.model.attachments[0].vnics.cust.no
    }
}

#[tokio::test]
#[ignore = "needs root and Open vSwitch"]
async fn vnics_of_another_host_are_as_those_at_home() {
    let mut lab = Lab::new("esh").await;
    for round in 0..3 {
        let n = 1000 * round;
        // Customers, tagged and untagged, both ways.
        lab.passes("ce-a", "acust", &ipv4(PE, CE, &[], n + 1));
        lab.passes("acust", "ce-a", &ipv4(CE, PE, &[], n + 2));
        lab.passes("ce-b", "hcust", &ipv4(PE, CE, &[], n + 3));
        lab.passes("hcust", "ce-b", &ipv4(CE, PE, &[], n + 4));
        lab.passes("plain", "ccust", &ipv4(PE, CE, &[], n + 5));
        lab.passes("ccust", "plain", &ipv4(CE, PE, &[], n + 6));
        // The core, by label and by neighbour.
        for (core, label) in [("acore", 1001), ("hcore", 1002), ("ccore", 1003)] {
            lab.passes("core0", core, &mpls(PE, NEIGHBOR, &[], label, n + label));
            lab.passes(core, "core0", &mpls(NEIGHBOR, PE, &[], 500, n + label + 10));
        }
        lab.passes("core0", "cvm", &ipv4(PE, NEIGHBOR, &[], n + 7));
        // From one attachment to another: home and away, and between two of that other host.
        lab.passes("acore", "hcore", &mpls(PE, PE, &[], 1002, n + 8));
        lab.passes("hcore", "acore", &mpls(PE, PE, &[], 1001, n + 9));
        lab.passes("acore", "ccore", &mpls(PE, PE, &[], 1003, n + 10));
        // What must not pass does not come before what does.
        lab.send("ccore", &mpls(PE, PE, &[], 1001, 1));
        lab.send("ccore", &mpls(NEIGHBOR, PE, &[12], 500, 2));
        lab.send("ccore", &ipv4(NEIGHBOR, PE, &[], 3));
        lab.passes("ccore", "core0", &mpls(NEIGHBOR, PE, &[], 500, n + 11));
        lab.passes("hcore", "acore", &mpls(PE, PE, &[], 1001, n + 12));
        lab.send("ccust", &ipv4(CE, PE, &[11], 4));
        lab.send("ccust", &ipv4(CE, PE, &[200], 5));
        lab.passes("ccust", "plain", &ipv4(CE, PE, &[], n + 13));
        lab.passes("acust", "ce-a", &ipv4(CE, PE, &[], n + 14));
        lab.passes("hcust", "ce-b", &ipv4(CE, PE, &[], n + 15));
    }
}

#[tokio::test]
#[ignore = "needs root and Open vSwitch"]
async fn a_host_that_was_taken_over_has_its_own_vnics_and_no_others() {
    let mut lab = Lab::new("esr").await;
    // The same host in the same place, but what is on its link is what it likes: the agent's bridge lets all through.
    let rogue = lab.wires.remove("rogue").unwrap();
    let home = lab.fabric.ports().await.unwrap();
    let (name, number) = home.iter().find(|(n, _)| n.starts_with("esrrog")).unwrap();
    assert!(!name.is_empty());
    let there = |t| Port::behind(*number, tag(t));
    lab.model.attachments[2].vnics = Vnics { cust: there(15), core: there(16) };
    install(&mut lab.fabric, &rules(&lab.model)).await;
    let good = |n| ipv4(CE, PE, &[15], n);
    // Beneath its own tag another, so that it comes out as a neighbour's VLAN; tags of another host; none; no vNIC's.
    for (n, tags) in [&[15, 100][..], &[15, 200], &[15, 100, 100], &[11], &[], &[99], &[100]].iter().enumerate() {
        rogue.send(&ipv4(CE, PE, tags, u32::try_from(n).unwrap()));
    }
    rogue.send(&mpls(NEIGHBOR, PE, &[12], 500, 20));
    rogue.send(&mpls(NEIGHBOR, PE, &[16, 16], 500, 21));
    rogue.send(&mpls(PE, PE, &[16], 1001, 22));
    rogue.send(&good(100));
    let plain = lab.wires.get_mut("plain").unwrap().expect(100);
    assert_eq!(plain, ipv4(CE, PE, &[], 100));
    rogue.send(&mpls(NEIGHBOR, PE, &[16], 500, 101));
    lab.wires.get_mut("core0").unwrap().expect(101);
    for (from, to, n) in [("acust", "ce-a", 102), ("hcust", "ce-b", 103)] {
        lab.passes(from, to, &ipv4(CE, PE, &[], n));
    }
    lab.passes("hcore", "acore", &mpls(PE, PE, &[], 1001, 104));
}

const FLIPS: u32 = 50;
const RATE: Duration = Duration::from_micros(200);

/// What a forwarder does, as far as loss and order go: all that comes goes back.
fn reflect(wire: Wire, stop: Arc<AtomicBool>, seen: Arc<AtomicU32>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Some(frame) = wire.next().filter(|f| f[..6] == PE) {
                seen.fetch_add(1, Ordering::Relaxed);
                wire.send(&[&CE, &PE, &frame[12..]].concat());
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and Open vSwitch"]
async fn flipping_an_attachment_between_hosts_loses_nothing_and_doubles_nothing() {
    let mut lab = Lab::new("esg").await;
    // Attachment a: the instance at the other host, and two at home and there.
    let link = lab.uplink();
    let home = lab.model.attachments[1].vnics;
    lab.model.attachments.truncate(1);
    let places = [lab.model.attachments[0].vnics, home, Vnics { cust: Port::behind(link, tag(13)), core: Port::behind(link, tag(14)) }];
    let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let counts: Vec<Arc<AtomicU32>> = (0..3).map(|_| Arc::default()).collect();
    let mut threads: Vec<_> = ["acust", "hcust", "bcust"]
        .iter()
        .zip(&counts)
        .map(|(name, seen)| reflect(lab.wires.remove(name).unwrap(), end.clone(), seen.clone()))
        .collect();

    let customer = lab.wires.remove("ce-a").unwrap();
    let sender = Wire::open(&format!("{}p", lab.ovs.links.iter().find(|l| l.starts_with("esgce-a")).unwrap()));
    let sent = Arc::new(AtomicU32::new(0));
    threads.push({
        let (stop, sent) = (stop.clone(), sent.clone());
        std::thread::spawn(move || {
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                sender.send(&ipv4(PE, CE, &[], sent.fetch_add(1, Ordering::Relaxed)));
                next += RATE;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        })
    });
    let mut back: BTreeMap<u32, u32> = BTreeMap::new();
    let receive = |back: &mut BTreeMap<u32, u32>| {
        // What the test sends is on its own wire too.
        while let Some(frame) = customer.next() {
            if frame[..6] == CE {
                *back.entry(number_of(&frame)).or_default() += 1;
            }
            if frame[..6] == PE && number_of(&frame).is_multiple_of(100) {
                return;
            }
        }
    };
    let mut longest = Duration::ZERO;
    for flip in 0..FLIPS {
        receive(&mut back);
        let a = &mut lab.model.attachments[0];
        let (old, new) = (a.vnics, places[usize::try_from(flip + 1).unwrap() % 3]);
        (a.vnics, a.draining) = (new, vec![old]);
        let wanted = rules(&lab.model);
        let change = diff(&wanted, &lab.fabric.rules().await.unwrap());
        let start = Instant::now();
        lab.fabric.apply(&change).await.unwrap();
        longest = longest.max(start.elapsed());
    }
    receive(&mut back);
    stop.store(true, Ordering::Relaxed);
    threads.pop().unwrap().join().unwrap();
    let sent = sent.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(3);
    while back.len() < usize::try_from(sent).unwrap() && Instant::now() < deadline {
        receive(&mut back);
    }
    end.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|t| t.join().unwrap());
    let lost: Vec<u32> = (0..sent).filter(|n| !back.contains_key(n)).collect();
    let doubled: Vec<_> = back.iter().filter(|(_, n)| **n > 1).collect();
    let served: Vec<u32> = counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
    println!("{FLIPS} flips, {sent} packets, by instance {served:?}; lost {lost:?}, doubled {doubled:?}; longest bundle {longest:?}");
    assert!(sent > FLIPS * 50 && served.iter().all(|n| *n > sent / 10), "too little to say anything");
    assert!(lost.is_empty() && doubled.is_empty());
    // The instances that drained are let go, and then may say nothing.
    lab.model.attachments[0].draining.clear();
    install(&mut lab.fabric, &rules(&lab.model)).await;
}
