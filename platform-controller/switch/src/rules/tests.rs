use super::*;
use crate::{Changes, diff};

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn label(n: u32) -> Label {
    Label::try_from(n).unwrap()
}

fn model() -> FabricModel {
    let attachment = |n: u32, vlan: Option<u16>| Attachment {
        cookie: u64::from(n) + 10,
        access: PortNo(2),
        vlan: vlan.map(|v| VlanId::try_from(v).unwrap()),
        vnics: Vnics { cust: PortNo(10 + n).into(), core: PortNo(20 + n).into() },
        draining: vec![],
        labels: vec![label(1000 + n)],
        imports: if n == 0 { vec![label(1001)] } else { vec![] },
    };
    FabricModel {
        core: vec![CorePort { port: PortNo(1), cvm: PortNo(3).into(), lsr: None, mac: mac(1) }],
        attachments: vec![attachment(0, Some(100)), attachment(1, Some(200)), attachment(2, None)],
        neighbors: vec![Neighbor { mac: mac(9), port: PortNo(1) }],
    }
}

/// A frame as the rules see it.
#[derive(Clone)]
struct Frame {
    /// The outermost tag, and one beneath it.
    vlan: Option<VlanId>,
    inner: Option<VlanId>,
    eth_type: u16,
    src: MacAddr,
    dst: MacAddr,
    label: Option<u32>,
}

/// What an OpenFlow switch does with a frame: where it goes, and with which tags, the outermost last.
fn walk(rules: &[Rule], in_port: u32, frame: &Frame) -> Option<(u32, Vec<VlanId>)> {
    let (mut table, mut metadata, mut out) = (0, 0, None);
    let mut tags: Vec<VlanId> = frame.inner.iter().chain(&frame.vlan).copied().collect();
    loop {
        let hit = rules.iter().filter(|r| r.table == table).filter(|r| {
            let m = &r.matches;
            m.in_port.is_none_or(|p| p.0 == in_port)
                && m.metadata.is_none_or(|v| v == metadata)
                && match m.vlan {
                    VlanMatch::Any => true,
                    VlanMatch::Untagged => tags.is_empty(),
                    VlanMatch::Tagged(v) => tags.last() == Some(&v),
                }
                && m.eth_type.is_none_or(|t| t == frame.eth_type)
                && m.eth_src.is_none_or(|a| a == frame.src)
                && m.eth_dst.is_none_or(|a| a == frame.dst)
                && m.mpls_label.is_none_or(|l| Some(l.get()) == frame.label)
        });
        let rule = hit.max_by_key(|r| r.priority)?;
        let mut next = None;
        for a in &rule.actions {
            match a {
                Action::PopVlan => drop(tags.pop()),
                Action::PushVlan(v) => tags.push(*v),
                Action::Output(PortNo::IN_PORT) => out = Some((in_port, tags.clone())),
                // OpenFlow 1.3 §B.6.3: never back out of the port it came in by.
                Action::Output(p) if p.0 != in_port => out = Some((p.0, tags.clone())),
                Action::Output(_) => {}
                Action::Metadata(v) => metadata = *v,
                Action::Goto(t) => next = Some(*t),
                Action::Foreign(_) => unreachable!(),
            }
        }
        match next {
            Some(t) => table = t,
            None => return out,
        }
    }
}

/// The same, with the outermost tag.
fn forward(rules: &[Rule], in_port: u32, frame: &Frame) -> Option<(u32, Option<VlanId>)> {
    walk(rules, in_port, frame).map(|(port, tags)| (port, tags.last().copied()))
}

fn ip(vlan: Option<u16>) -> Frame {
    let vlan = vlan.map(|v| VlanId::try_from(v).unwrap());
    Frame { vlan, inner: None, eth_type: 0x0800, src: mac(50), dst: mac(51), label: None }
}

fn mpls(src: MacAddr, dst: MacAddr, label: u32) -> Frame {
    Frame { vlan: None, inner: None, eth_type: ETH_TYPE_MPLS, src, dst, label: Some(label) }
}

#[test]
fn customers_keep_to_their_vlan() {
    let r = rules(&model());
    let v = |n: u16| Some(VlanId::try_from(n).unwrap());
    assert_eq!(forward(&r, 2, &ip(Some(100))), Some((10, None)));
    assert_eq!(forward(&r, 2, &ip(Some(200))), Some((11, None)));
    assert_eq!(forward(&r, 2, &ip(None)), Some((12, None)));
    assert_eq!(forward(&r, 2, &ip(Some(300))), None);
    assert_eq!(forward(&r, 10, &ip(None)), Some((2, v(100))));
    // Broadcast ARP leaves on the own VLAN only.
    let arp = Frame { eth_type: 0x0806, dst: MacAddr::BROADCAST, ..ip(None) };
    assert_eq!(forward(&r, 11, &arp), Some((2, v(200))));
    assert_eq!(forward(&r, 12, &ip(None)), Some((2, None)));
    // A PVM that tags its frames itself would reach another customer.
    assert_eq!(forward(&r, 12, &ip(Some(100))), None);
    assert_eq!(forward(&r, 10, &ip(Some(200))), None);
}

#[test]
fn the_core_reaches_the_owner_of_the_label_or_the_cvm() {
    let r = rules(&model());
    assert_eq!(forward(&r, 1, &mpls(mac(9), mac(1), 1001)), Some((21, None)));
    assert_eq!(forward(&r, 1, &mpls(mac(9), mac(1), 1005)), None);
    assert_eq!(forward(&r, 1, &ip(None)), Some((3, None)));
    assert_eq!(forward(&r, 3, &ip(None)), Some((1, None)));
}

#[test]
fn a_pvm_sends_to_the_core_only_mpls_with_the_source_of_the_pe() {
    let r = rules(&model());
    assert_eq!(forward(&r, 20, &mpls(mac(1), mac(9), 500)), Some((1, None)));
    assert_eq!(forward(&r, 20, &mpls(mac(7), mac(9), 500)), None);
    assert_eq!(forward(&r, 20, &mpls(mac(1), mac(8), 500)), None);
    assert_eq!(forward(&r, 20, &Frame { src: mac(1), dst: mac(9), ..ip(None) }), None);
    // Another attachment of this PE, but not itself.
    assert_eq!(forward(&r, 20, &mpls(mac(1), mac(1), 1001)), Some((21, None)));
    assert_eq!(forward(&r, 20, &mpls(mac(1), mac(1), 1000)), None);
    assert_eq!(forward(&r, 20, &mpls(mac(7), mac(1), 1001)), None);
    // Attachments of other VPNs have labels here, too, but not for this PVM.
    assert_eq!(forward(&r, 20, &mpls(mac(1), mac(1), 1002)), None);
    assert_eq!(forward(&r, 21, &mpls(mac(1), mac(1), 1000)), None);
}

/// Two core ports, each with a vNIC of the label-switching router, 4 and 7.
fn transit() -> FabricModel {
    let mut m = model();
    m.core[0].lsr = Some(PortNo(4).into());
    m.core.push(CorePort { port: PortNo(5), cvm: PortNo(6).into(), lsr: Some(PortNo(7).into()), mac: mac(2) });
    m.neighbors.push(Neighbor { mac: mac(8), port: PortNo(5) });
    m
}

#[test]
fn labels_of_nobody_here_are_the_routers() {
    let r = rules(&transit());
    // By the port they came in by; also those that are reserved: explicit null, router alert.
    for (port, dst, lsr) in [(1, mac(1), 4), (5, mac(2), 7)] {
        for label in [500_000, 0, 1] {
            assert_eq!(forward(&r, port, &mpls(mac(9), dst, label)), Some((lsr, None)));
        }
        assert_eq!(forward(&r, port, &mpls(mac(9), dst, 1001)), Some((21, None)), "a PVM's label, whatever the port");
    }
    assert_eq!(forward(&r, 5, &mpls(mac(9), mac(1), 500_000)), Some((6, None)), "not to the address of that segment");
    assert_eq!(forward(&r, 5, &ip(None)), Some((6, None)), "OSPF, LDP, ARP are the CVM's");
}

#[test]
fn the_router_switches_as_the_pe_and_hands_over_to_pvms_and_the_cvm() {
    let r = rules(&transit());
    let own = |port: u32| if port == 4 { mac(1) } else { mac(2) };
    for (lsr, core, cvm) in [(4, 1, 3), (7, 5, 6)] {
        assert_eq!(forward(&r, lsr, &mpls(own(lsr), mac(9), 500_001)), Some((core, None)), "swapped");
        let popped = Frame { src: own(lsr), dst: mac(9), ..ip(None) };
        assert_eq!(forward(&r, lsr, &popped), Some((core, None)), "penultimate hop: no label is left");
        assert_eq!(forward(&r, lsr, &Frame { src: mac(7), ..popped.clone() }), None, "not as somebody else");
        // Explicit null popped: below it is a VPN's label, or the packet itself.
        assert_eq!(forward(&r, lsr, &mpls(own(lsr), own(lsr), 1002)), Some((22, None)));
        assert_eq!(forward(&r, lsr, &Frame { dst: own(lsr), ..popped.clone() }), Some((cvm, None)));
        assert_eq!(forward(&r, lsr, &mpls(own(lsr), own(lsr), 500_000)), None, "nobody's: not round and round");
        // For the control plane, labels and all, whatever the source.
        assert_eq!(forward(&r, lsr, &mpls(mac(9), PUNT_MAC, 1)), Some((cvm, None)));
        assert_eq!(forward(&r, lsr, &Frame { dst: PUNT_MAC, ..ip(None) }), Some((cvm, None)));
    }
}

#[test]
fn no_pvm_reaches_the_router() {
    let (m, mut seen) = (transit(), 0);
    let r = rules(&m);
    let macs = [mac(1), mac(2), mac(7), mac(8), mac(9), PUNT_MAC, MacAddr::BROADCAST];
    for pvm in [10, 11, 12, 20, 21, 22] {
        for (src, dst) in macs.iter().flat_map(|s| macs.iter().map(move |d| (*s, *d))) {
            let labelled = [0, 1, 3, 1000, 1001, 1002, 500_000].map(|l| mpls(src, dst, l));
            for frame in labelled.into_iter().chain([Frame { src, dst, ..ip(None) }, Frame { src, dst, ..ip(Some(100)) }]) {
                let to = forward(&r, pvm, &frame).map(|(port, _)| port);
                assert!(!to.is_some_and(|p| [3, 4, 6, 7].contains(&p)), "port {pvm}: {src} {dst} {:?} -> {to:?}", frame.label);
                seen += usize::from(to.is_some());
            }
        }
    }
    assert!(seen > 0);
    // What a PVM may send is the same with a router and without, but for the second core port.
    let of_pvms = |r: &[Rule]| r.iter().filter(|r| r.cookie != PLATFORM_COOKIE).cloned().collect::<Vec<_>>();
    let mut without = m.clone();
    without.core.iter_mut().for_each(|c| c.lsr = None);
    assert_eq!(of_pvms(&r), of_pvms(&rules(&without)));
}

#[test]
fn a_pvm_may_own_several_labels() {
    let mut m = model();
    m.attachments[1].labels.push(label(1500));
    m.attachments[0].imports.push(label(1500));
    let r = rules(&m);
    for l in [1001, 1500] {
        assert_eq!(forward(&r, 1, &mpls(mac(9), mac(1), l)), Some((21, None)));
        assert_eq!(forward(&r, 20, &mpls(mac(1), mac(1), l)), Some((21, None)));
    }
    assert_eq!(forward(&r, 22, &mpls(mac(1), mac(1), 1500)), None);
}

#[test]
fn a_p_router_has_rules_for_the_core_alone() {
    let m = FabricModel { attachments: vec![], ..transit() };
    let r = rules(&m);
    assert!(r.iter().all(|r| r.cookie == PLATFORM_COOKIE));
    assert_eq!(forward(&r, 1, &mpls(mac(9), mac(1), 16)), Some((4, None)));
    assert_eq!(forward(&r, 7, &mpls(mac(2), mac(8), 17)), Some((5, None)));
    // Eight for each port, however many labels there are.
    assert_eq!(r.len(), 2 * 8);
}

#[test]
fn a_neighbour_that_claims_the_address_of_the_pe_takes_nothing() {
    let mut m = model();
    m.neighbors.push(Neighbor { mac: mac(1), port: PortNo(1) });
    assert_eq!(rules(&m), rules(&model()));
}

#[test]
fn only_what_differs_is_changed() {
    let (mut m, before) = (model(), rules(&model()));
    assert!(diff(&before, &before).is_empty());
    m.attachments.remove(1);
    let gone = diff(&rules(&m), &before);
    assert!(gone.add.is_empty());
    // Its own four, and the one by which attachment 0 sent to it.
    let cookies: Vec<u64> = gone.remove.iter().map(|r| r.cookie).collect();
    assert_eq!((cookies.iter().filter(|c| **c == 11).count(), cookies.iter().filter(|c| **c == 10).count()), (4, 1), "{cookies:?}");
    m = model();
    m.attachments[0].cookie = 99;
    let Changes { add, remove } = diff(&rules(&m), &before);
    assert!(remove.is_empty());
    assert!(add.iter().all(|r| r.cookie == 99) && add.len() == 5);
}

#[test]
fn what_a_vm_tags_itself_goes_nowhere() {
    let (r, v) = (rules(&transit()), |n: u16| Some(VlanId::try_from(n).unwrap()));
    assert_eq!(forward(&r, 20, &Frame { vlan: v(7), ..mpls(mac(1), mac(9), 500) }), None);
    assert_eq!(forward(&r, 10, &Frame { vlan: v(7), ..ip(None) }), None);
    let r = extender(PortNo(1), &[(PortNo(2), v(100).unwrap()), (PortNo(3), v(101).unwrap())]);
    assert_eq!(forward(&r, 2, &ip(None)), Some((1, v(100))));
    assert_eq!(forward(&r, 2, &ip(Some(101))), None, "not as another");
    assert_eq!(forward(&r, 1, &ip(Some(101))), Some((3, None)));
    assert_eq!(forward(&r, 1, &ip(Some(102))), None);
    assert_eq!(forward(&r, 1, &ip(None)), None);
}

#[test]
fn a_vm_that_drains_may_send_and_gets_nothing() {
    let mut m = model();
    let old = Vnics { cust: PortNo(60).into(), core: PortNo(61).into() };
    m.attachments[0].draining = vec![old];
    let r = rules(&m);
    let v100 = Some(VlanId::try_from(100).unwrap());
    for cust in [10, 60] {
        assert_eq!(forward(&r, cust, &ip(None)), Some((2, v100)));
    }
    for core in [20, 61] {
        assert_eq!(forward(&r, core, &mpls(mac(1), mac(9), 500)), Some((1, None)));
        assert_eq!(forward(&r, core, &mpls(mac(1), mac(1), 1001)), Some((21, None)));
    }
    assert_eq!(forward(&r, 2, &ip(Some(100))), Some((10, None)));
    let led = |r: &Rule| r.actions.iter().any(|a| matches!(a, Action::Output(PortNo(60 | 61))));
    assert!(!r.iter().any(led));
    // The flip: what leads to the one leads to the other, and nothing in between.
    let mut other = m.clone();
    (other.attachments[0].vnics, other.attachments[0].draining) = (old, vec![m.attachments[0].vnics]);
    let flip = diff(&rules(&other), &r);
    assert_eq!((flip.add.len(), flip.remove.len()), (2, 0), "{flip:?}");
}

/// vNICs of [`transit`] and one that drains, by their ports where all are at home.
const VNICS: [u32; 12] = [3, 6, 4, 7, 10, 11, 12, 20, 21, 22, 60, 61];
/// The fabric's ports to other hosts, and their own to it.
const LINKS: [u32; 2] = [101, 102];
const UPLINK: u32 = 1;

/// The fabric with its vNICs on hosts: 0 is its own.
struct Spread {
    hosts: [usize; VNICS.len()],
    rules: Vec<Rule>,
    extenders: [Vec<Rule>; 2],
}

fn tag(vnic: u32) -> VlanId {
    VlanId::try_from(2000 + u16::try_from(vnic).unwrap()).unwrap()
}

impl Spread {
    fn new(hosts: [usize; VNICS.len()]) -> Self {
        let host = |no: u32| hosts[VNICS.iter().position(|v| *v == no).unwrap()];
        let place = |p: &mut Port| {
            if let Some(h) = host(p.no.0).checked_sub(1) {
                *p = Port::behind(PortNo(LINKS[h]), tag(p.no.0));
            }
        };
        let mut m = transit();
        m.attachments[0].draining = vec![Vnics { cust: PortNo(60).into(), core: PortNo(61).into() }];
        for c in &mut m.core {
            place(&mut c.cvm);
            c.lsr.iter_mut().for_each(place);
        }
        for v in m.attachments.iter_mut().flat_map(|a| a.draining.iter_mut().chain([&mut a.vnics])) {
            place(&mut v.cust);
            place(&mut v.core);
        }
        let on = |h: usize| VNICS.iter().filter(|v| host(**v) == h).map(|v| (PortNo(*v + 10), tag(*v))).collect::<Vec<_>>();
        Self { hosts, rules: rules(&m), extenders: [1, 2].map(|h| extender(PortNo(UPLINK), &on(h))) }
    }

    /// Where a frame comes out that goes in at a port or vNIC, and with which tags.
    fn deliver(&self, from: u32, frame: &Frame) -> Option<(u32, Vec<VlanId>)> {
        let host = VNICS.iter().position(|v| *v == from).map_or(0, |i| self.hosts[i]);
        let (mut at, mut frame) = (from, frame.clone());
        let put_on = |frame: &mut Frame, tags: &[VlanId]| {
            assert!(tags.len() <= 2, "more tags than the switch looks at");
            (frame.vlan, frame.inner) = (tags.last().copied(), tags.len().checked_sub(2).map(|i| tags[i]));
        };
        if host > 0 {
            let (out, tags) = walk(&self.extenders[host - 1], from + 10, &frame)?;
            assert_eq!(out, UPLINK);
            (at, _) = (LINKS[host - 1], put_on(&mut frame, &tags));
        }
        let (out, tags) = walk(&self.rules, at, &frame)?;
        let Some(h) = LINKS.iter().position(|l| *l == out) else { return Some((out, tags)) };
        put_on(&mut frame, &tags);
        walk(&self.extenders[h], UPLINK, &frame).map(|(port, tags)| (port - 10, tags))
    }
}

proptest::proptest! {
    #[test]
    fn it_does_not_matter_on_which_host_a_vm_is(
        hosts in proptest::array::uniform12(0usize..3),
        src in 0usize..6, dst in 0usize..6, from in 0usize..15, kind in 0usize..9, vlan in 0usize..3,
    ) {
        let macs = [mac(1), mac(2), mac(8), mac(9), PUNT_MAC, MacAddr::BROADCAST];
        let from = VNICS.iter().chain(&[1, 2, 5]).copied().nth(from).unwrap();
        let labels = [0, 1, 1000, 1001, 1002, 1005, 500_000];
        let mut frame = Frame { src: macs[src], dst: macs[dst], ..ip(None) };
        if let Some(l) = labels.get(kind) {
            frame = mpls(macs[src], macs[dst], *l);
        } else if kind == 8 {
            frame.eth_type = 0x0806;
        }
        frame.vlan = [None, Some(100), Some(2010)][vlan].map(|v| VlanId::try_from(v).unwrap());
        let from_lsr_tagged = [3, 4, 6, 7].contains(&from) && frame.vlan.is_some();
        let home = Spread::new([0; VNICS.len()]).deliver(from, &frame);
        let away = Spread::new(hosts).deliver(from, &frame);
        if from_lsr_tagged {
            // An extender takes no tags of a VM; at home the platform's own VMs are not kept from them.
            proptest::prop_assert!(away.is_none() || away == home);
        } else {
            proptest::prop_assert_eq!(away, home, "from {}", from);
        }
    }
}

#[test]
fn the_rules_of_a_vnic_are_told_from_those_of_others_behind_the_same_link() {
    let mut hosts = [0; VNICS.len()];
    let at = |v: u32| VNICS.iter().position(|x| *x == v).unwrap();
    // A PVM and the CVM behind one link; another PVM at home.
    for v in [3, 10, 20] {
        hosts[at(v)] = 1;
    }
    let all = Spread::new(hosts).rules;
    let count = |p: Port| all.iter().filter(|r| r.touches(p)).count();
    let (cust, core) = (Port::behind(PortNo(LINKS[0]), tag(10)), Port::behind(PortNo(LINKS[0]), tag(20)));
    // Untagged, from the customer and to it.
    assert_eq!(count(cust), 3);
    // Untagged, to two neighbours, to an attachment by each of two addresses, its own label.
    assert_eq!(count(core), 1 + 2 + 4 + 1);
    let without: Vec<Rule> = all.iter().filter(|r| !r.touches(cust) && !r.touches(core)).cloned().collect();
    let mut gone = Spread::new(hosts);
    gone.rules = without;
    let v100 = Some(VlanId::try_from(100).unwrap());
    assert_eq!(gone.deliver(10, &ip(None)), None);
    assert_eq!(gone.deliver(2, &Frame { vlan: v100, ..ip(None) }), None);
    assert_eq!(gone.deliver(3, &ip(None)), Some((1, vec![])), "the CVM behind the same link");
    assert_eq!(gone.deliver(11, &ip(None)), Some((2, vec![VlanId::try_from(200).unwrap()])));
    assert_eq!(count(PortNo(11).into()), 2);
    assert!(count(PortNo(LINKS[0]).into()) >= count(cust) + count(core), "the link's own are all of them");
}
