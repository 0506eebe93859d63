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
        cust: PortNo(10 + n),
        core: PortNo(20 + n),
        labels: vec![label(1000 + n)],
        imports: if n == 0 { vec![label(1001)] } else { vec![] },
    };
    FabricModel {
        core: vec![CorePort { port: PortNo(1), cvm: PortNo(3), lsr: None, mac: mac(1) }],
        attachments: vec![attachment(0, Some(100)), attachment(1, Some(200)), attachment(2, None)],
        neighbors: vec![Neighbor { mac: mac(9), port: PortNo(1) }],
    }
}

/// A frame as the rules see it.
#[derive(Clone)]
struct Frame {
    vlan: Option<VlanId>,
    eth_type: u16,
    src: MacAddr,
    dst: MacAddr,
    label: Option<u32>,
}

/// What an OpenFlow switch does with a frame: where it goes, and with which tag.
fn forward(rules: &[Rule], in_port: u32, frame: &Frame) -> Option<(u32, Option<VlanId>)> {
    let (mut table, mut frame, mut out) = (0, frame.clone(), None);
    loop {
        let hit = rules.iter().filter(|r| r.table == table).filter(|r| {
            let m = &r.matches;
            m.in_port.is_none_or(|p| p.0 == in_port)
                && match m.vlan {
                    VlanMatch::Any => true,
                    VlanMatch::Untagged => frame.vlan.is_none(),
                    VlanMatch::Tagged(v) => frame.vlan == Some(v),
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
                Action::PopVlan => frame.vlan = None,
                Action::PushVlan(v) => frame.vlan = Some(*v),
                // OpenFlow 1.3 §B.6.3: never back out of the port it came in by.
                Action::Output(p) if p.0 != in_port => out = Some((p.0, frame.vlan)),
                Action::Output(_) => {}
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

fn ip(vlan: Option<u16>) -> Frame {
    let vlan = vlan.map(|v| VlanId::try_from(v).unwrap());
    Frame { vlan, eth_type: 0x0800, src: mac(50), dst: mac(51), label: None }
}

fn mpls(src: MacAddr, dst: MacAddr, label: u32) -> Frame {
    Frame { vlan: None, eth_type: ETH_TYPE_MPLS, src, dst, label: Some(label) }
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
    m.core[0].lsr = Some(PortNo(4));
    m.core.push(CorePort { port: PortNo(5), cvm: PortNo(6), lsr: Some(PortNo(7)), mac: mac(2) });
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
