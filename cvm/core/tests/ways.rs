//! Which way is taken, and what is put in front of the packet.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Owner, config, egress, fec, hop, ip, label, mac, net, ospf};
use edgeplex_cvm_core::{Action, Config, Source};
use edgeplex_ff_fib_api::SwitchTarget;
use edgeplex_types::{MacAddr, TunnelId};
use std::sync::Arc;

const PE: &str = "10.255.0.2";

/// An owner that wants the way to [`PE`], with 10.0.0.2 at MAC 20 and 10.0.1.2 at MAC 21.
fn owner(config: Config) -> Owner {
    let mut o = Owner::new(config);
    o.core.want([ip(PE)].into());
    o.core.neighbor(hop("10.0.0.2"), Some(mac(20)));
    o.core.neighbor(hop("10.0.1.2"), Some(mac(21)));
    o.work();
    o
}

fn without_ldp(routes: &[(&str, &str)]) -> Config {
    let mut config = config(routes);
    config.interfaces.iter_mut().for_each(|i| i.ldp = false);
    config
}

#[test]
fn a_static_route_to_a_neighbor_needs_no_label_where_nobody_speaks_ldp() {
    let mut o = owner(without_ldp(&[("10.255.0.0/16", "10.0.0.2"), ("10.255.0.2/32", "10.0.1.2"), ("172.16.0.0/12", "192.0.2.1")]));
    assert_eq!(o.legs(PE), [(mac(21), vec![])]);
    assert_eq!(o.tunnels[&ip(PE)].tunnel.id, TunnelId(0x0aff_0002));
    // The gateway of 172.16.0.0/12 is on no segment.
    assert_eq!(o.core.kernel_routes().keys().copied().collect::<Vec<_>>(), [net("10.255.0.0/16"), net("10.255.0.2/32")]);

    // With LDP there, a router that gives no label may be a P router, to which the VPN label means something else.
    o.core.configure(config(&[("10.255.0.2/32", "10.0.1.2")]));
    o.work();
    assert_eq!(o.legs(PE), []);
    o.core.ldp(Arc::new([(net("10.255.0.2/32"), fec(None, &[("10.0.1.2", Some(300))]))].into()));
    o.work();
    assert_eq!(o.legs(PE), [(mac(21), vec![300])]);
    // A broadcast address is nobody's.
    o.core.neighbor(hop("10.0.1.2"), Some(MacAddr::BROADCAST));
    o.work();
    assert_eq!(o.legs(PE), []);
}

#[test]
fn a_static_route_wins_and_a_segment_wins_over_both() {
    let mut o = owner(config(&[("10.255.0.2/32", "10.0.1.2"), ("10.0.0.0/24", "10.0.1.2")]));
    let routes = [(net("10.255.0.2/32"), ospf(7, &["10.0.0.2"], &[])), (net("10.0.0.0/24"), ospf(7, &["10.0.1.2"], &[]))];
    o.core.ospf(Arc::new(routes.into()));
    let labels = [(net("10.255.0.2/32"), fec(None, &[("10.0.0.2", Some(200)), ("10.0.1.2", Some(201))]))];
    o.core.ldp(Arc::new(labels.into()));
    o.work();
    assert_eq!((o.legs(PE), o.tunnels[&ip(PE)].cost), (vec![(mac(21), vec![201])], 0));
    assert_eq!(o.core.kernel_routes().len(), 1);
    o.core.configure(config(&[]));
    o.work();
    assert_eq!((o.legs(PE), o.tunnels[&ip(PE)].cost), (vec![(mac(20), vec![200])], 7));
    // An endpoint on a segment is its own neighbour, asked for once it is wanted.
    o.core.want([ip(PE), ip("10.0.0.9")].into());
    o.core.neighbor(hop("10.0.0.9"), Some(mac(29)));
    o.work();
    assert_eq!(o.legs("10.0.0.9"), [(mac(29), vec![])]);
    assert_eq!(o.core.neighbors()[&hop("10.0.0.9")], mac(29));
    assert!(o.core.show_tunnels().iter().any(|t| t.endpoint == ip("10.0.0.9") && t.source == Some(Source::Connected)));
}

#[test]
fn a_neighbor_that_comes_back_is_one_that_the_switch_still_knows() {
    let mut o = owner(config(&[]));
    let routes = |ways: &[&str]| Arc::new([(net("10.255.0.2/32"), ospf(20, ways, &[]))].into());
    o.core.ospf(routes(&["10.0.0.2", "10.0.1.2"]));
    o.work();
    let both = o.core.neighbors().clone();
    assert_eq!(both, [(hop("10.0.0.2"), mac(20)), (hop("10.0.1.2"), mac(21))].into());
    o.core.ospf(routes(&["10.0.1.2"]));
    o.core.neighbor(hop("10.0.0.2"), None);
    o.work();
    assert!(o.core.is_resolved(), "who is not wanted need not be");
    assert_eq!(*o.core.neighbors(), both);
    // Another address replaces the one it had.
    o.core.ospf(routes(&["10.0.0.2"]));
    assert!(!o.core.is_resolved());
    o.core.neighbor(hop("10.0.0.2"), Some(mac(30)));
    assert_eq!(o.core.neighbors()[&hop("10.0.0.2")], mac(30));
}

#[test]
fn an_lsp_is_complete_or_there_is_none() {
    let mut o = owner(config(&[]));
    o.core.ospf(Arc::new([(net("10.255.0.2/32"), ospf(20, &["10.0.0.2", "10.0.1.2"], &[]))].into()));
    o.work();
    assert_eq!((o.legs(PE), o.tunnels[&ip(PE)].cost), (vec![], 20));
    let labels = |a, b| Arc::new([(net("10.255.0.2/32"), fec(Some(600), &[("10.0.0.2", a), ("10.0.1.2", b)]))].into());
    o.core.ldp(labels(Some(100), None));
    o.work();
    assert_eq!(o.legs(PE), [(mac(20), vec![100])]);
    // Implicit null is no label, explicit null is one, what is reserved beyond leads nowhere.
    for (given, pushed) in [(101, vec![(mac(20), vec![100]), (mac(21), vec![101])]), (1, vec![(mac(20), vec![100])])] {
        o.core.ldp(labels(Some(100), Some(given)));
        o.work();
        assert_eq!(o.legs(PE), pushed);
    }
    o.core.ldp(labels(Some(3), Some(0)));
    o.work();
    assert_eq!(o.legs(PE), [(mac(20), vec![]), (mac(21), vec![0])]);
    assert_eq!(o.behind(600), [(0, mac(20), vec![]), (1, mac(21), vec![0])]);

    // The end itself needs none, label or not.
    o.core.ldp(labels(None, None));
    o.core.router(hop("10.0.1.2"), Some(ip(PE)));
    o.work();
    assert_eq!(o.legs(PE), [(mac(21), vec![])]);
    // What is switched may carry anything below: there the neighbour must have said so.
    assert_eq!(o.behind(600), []);
    o.core.router(hop("10.0.1.2"), None);
    // Whoever aggregates knows nothing of the label below.
    o.core.ospf(Arc::new([(net("10.255.0.0/24"), ospf(20, &["10.0.0.2"], &[]))].into()));
    o.core.ldp(Arc::new([(net("10.255.0.0/24"), fec(Some(601), &[("10.0.0.2", Some(100))]))].into()));
    o.work();
    assert_eq!(o.legs(PE), []);
    assert_eq!(o.behind(601), [(0, mac(20), vec![100])]);
}

#[test]
fn when_a_neighbor_dies_its_legs_go_and_alternates_take_their_place() {
    let mut o = owner(config(&[]));
    o.core.neighbor(hop("10.0.1.3"), Some(mac(22)));
    let prefix = net("10.255.0.2/32");
    o.core.ospf(Arc::new([(prefix, ospf(20, &["10.0.0.2"], &["10.0.1.2"]))].into()));
    o.core.ldp(Arc::new([(prefix, fec(Some(600), &[("10.0.0.2", Some(100)), ("10.0.1.2", Some(101))]))].into()));
    o.work();
    assert_eq!(o.core.fecs()[&prefix], [hop("10.0.0.2"), hop("10.0.1.2")]);
    assert_eq!((o.legs(PE), o.behind(600)), (vec![(mac(20), vec![100])], vec![(0, mac(20), vec![100])]));
    let shown = &o.core.show_tunnels()[0];
    assert_eq!((shown.legs[0].mac, shown.backup[0].mac, shown.source), (mac(20), mac(21), Some(Source::Ospf)));

    o.core.liveness(hop("10.0.0.2"), false);
    let actions = o.work();
    // The customers' tunnels are the first to hear of it.
    assert!(matches!(actions[0], Action::Tunnel(..)), "{actions:?}");
    assert_eq!((o.legs(PE), o.behind(600)), (vec![(mac(21), vec![101])], vec![(1, mac(21), vec![101])]));
    assert_eq!(o.core.kernel_routes()[&prefix], [hop("10.0.1.2")].into());
    assert_eq!(o.core.show_forwarding()[0].legs[0].mac, mac(21));

    // The alternate dies as well; then the first one is back, by BFD's word alone.
    o.core.neighbor(hop("10.0.1.2"), None);
    o.work();
    assert_eq!((o.legs(PE), o.behind(600)), (vec![], vec![]));
    o.core.router(hop("10.0.0.2"), None);
    o.core.neighbor(hop("10.0.0.2"), Some(mac(23)));
    o.work();
    assert_eq!(o.legs(PE), []);
    o.core.liveness(hop("10.0.0.2"), true);
    o.work();
    assert_eq!((o.legs(PE), o.behind(600)), (vec![(mac(23), vec![100])], vec![(0, mac(23), vec![100])]));

    // Of several ways those that live are enough.
    o.core.ospf(Arc::new([(prefix, ospf(20, &["10.0.0.2", "10.0.1.3"], &["10.0.1.2"]))].into()));
    o.core.ldp(Arc::new([(prefix, fec(Some(600), &[("10.0.0.2", Some(100)), ("10.0.1.3", Some(102)), ("10.0.1.2", Some(101))]))].into()));
    o.core.liveness(hop("10.0.0.2"), false);
    o.work();
    assert_eq!(o.legs(PE), [(mac(22), vec![102])]);
    o.core.ospf(Arc::default());
    o.work();
    assert_eq!(o.tunnels.get(&ip(PE)), None);
}

#[test]
fn between_our_own_attachments_the_switch_finds_the_label() {
    let mut o = owner(config(&[]));
    o.core.want([ip("10.255.0.1")].into());
    o.work();
    assert_eq!(o.legs("10.255.0.1"), [(mac(1), vec![])]);
    assert_eq!(o.core.show_tunnels()[0].source, Some(Source::Own));
}

#[test]
fn a_label_of_ours_is_swapped_or_popped_and_reserved_ones_are_nobodys_business() {
    let mut o = owner(config(&[]));
    let prefix = net("10.255.0.2/32");
    o.core.ospf(Arc::new([(prefix, ospf(20, &["10.0.0.2"], &[]))].into()));
    let swap = (prefix, fec(Some(600), &[("10.0.0.2", Some(100))]));
    let own = |l| (net("10.255.0.1/32"), egress(l));
    o.core.ldp(Arc::new([swap.clone(), own(3)].into()));
    o.work();
    assert_eq!(o.table.labels.keys().copied().collect::<Vec<_>>(), [label(600)]);
    assert_eq!(o.table.ports.iter().map(|p| (p.mac, p.address)).collect::<Vec<_>>(), [(mac(1), ip("10.0.0.1")), (mac(2), ip("10.0.1.1"))]);
    o.core.ldp(Arc::new([swap, own(601)].into()));
    o.work();
    assert_eq!(o.table.labels[&label(601)], SwitchTarget::Pop);
    // One becomes the other.
    o.core.ldp(Arc::new([own(600)].into()));
    o.work();
    assert_eq!((o.table.labels.len(), o.table.labels[&label(600)], o.table.tunnels.len()), (1, SwitchTarget::Pop, 0));
}

#[test]
fn after_a_restart_nothing_is_taken_away_before_all_is_learnt_again() {
    let mut o = Owner::restarted(config(&[]), true);
    let (prefix, other) = (net("10.255.0.2/32"), net("10.255.0.3/32"));
    o.core.want([ip(PE), ip("10.255.0.3")].into());
    o.core.neighbor(hop("10.0.0.2"), Some(mac(20)));
    o.core.ospf(Arc::new([(prefix, ospf(20, &["10.0.0.2"], &[])), (other, ospf(20, &["10.0.1.2"], &[]))].into()));
    let labels = [(prefix, fec(Some(600), &[("10.0.0.2", Some(100))])), (other, fec(Some(601), &[("10.0.1.2", None)]))];
    o.core.ldp(Arc::new(labels.into()));
    o.work();
    // What is known is told, what is not yet known is not said to be gone.
    assert_eq!(o.tunnels.keys().copied().collect::<Vec<_>>(), [ip(PE)]);
    assert_eq!(o.table.labels.keys().copied().collect::<Vec<_>>(), [label(600)]);
    assert!(!o.core.lsr_complete());
    // What this process told it may take back.
    o.core.liveness(hop("10.0.0.2"), false);
    o.work();
    assert_eq!((o.legs(PE), o.behind(600)), (vec![], vec![]));
    o.core.settle();
    o.work();
    assert!(o.tunnels[&ip("10.255.0.3")].tunnel.legs.is_empty());
    assert_eq!(o.table.labels.len(), 2);
    assert!(o.core.lsr_complete());
}
