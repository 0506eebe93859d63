//! Against a real Open vSwitch in userspace mode, in a run directory of its own.
//! `cargo test -p edgeplex-switch -- --ignored` as root.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ovs, run};
use edgeplex_switch::{
    Attachment, CorePort, FabricModel, Match, Neighbor, PortNo, Rule, Switch, SwitchError, Vnics, cookie_of, diff, rules,
};
use edgeplex_types::{Label, MacAddr, VlanId};
use std::process::Command;

fn model(p: &[PortNo]) -> FabricModel {
    let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
    let (access, cust, core) = (p[3], p[4], p[5]);
    let attachment = |n: u16| Attachment {
        cookie: cookie_of("acme") + u64::from(n),
        access,
        vlan: (n > 0).then(|| VlanId::try_from(n).unwrap()),
        vnics: Vnics { cust: cust.into(), core: core.into() },
        draining: vec![],
        labels: vec![Label::try_from(16 + u32::from(n)).unwrap(), Label::try_from(10_000 + u32::from(n)).unwrap()],
        imports: if n > 0 { vec![Label::try_from(15 + u32::from(n)).unwrap()] } else { vec![] },
    };
    FabricModel {
        core: vec![CorePort { port: p[1], cvm: p[2].into(), lsr: Some(p[6].into()), mac: mac(1) }],
        attachments: (0..500).map(attachment).collect(),
        neighbors: vec![Neighbor { mac: mac(9), port: p[1] }],
    }
}

#[tokio::test]
#[ignore = "needs root and Open vSwitch"]
async fn rules_are_installed_read_back_equal_and_changed_atomically() {
    let ovs = Ovs::start("esbra");
    let mut s = Switch::connect(ovs.dir.path(), &ovs.bridge).await.unwrap();
    let ports: Vec<_> = (0..7).map(PortNo).collect();
    let (model, none) = (model(&ports), vec![]);
    assert_eq!(s.rules().await.unwrap(), none);

    let want = rules(&model);
    s.apply(&diff(&want, &none)).await.unwrap();
    let have = s.rules().await.unwrap();
    assert!(diff(&want, &have).is_empty(), "{:?}", diff(&want, &have));
    assert_eq!(have.len(), want.len());

    // A foreign rule is found and removed; a changed one is put right; nothing else is touched.
    let of = format!("unix:{}/{}.mgmt", ovs.dir.path().display(), ovs.bridge);
    run("ovs-ofctl", &["-O", "OpenFlow13", "add-flow", &of, "priority=7,ip,nw_proto=6,actions=dec_ttl,normal"], ovs.dir.path());
    run("ovs-ofctl", &["-O", "OpenFlow13", "add-flow", &of, "table=2,priority=150,mpls,mpls_label=20,actions=drop"], ovs.dir.path());
    let change = diff(&want, &s.rules().await.unwrap());
    assert_eq!((change.add.len(), change.remove.len()), (1, 1));
    s.apply(&change).await.unwrap();
    assert!(diff(&want, &s.rules().await.unwrap()).is_empty());

    // One bad rule refuses the whole bundle, and is named.
    let bad = Rule { cookie: 5, table: 255, priority: 1, matches: Match::default(), actions: vec![] };
    let mut change = diff(&[], &want);
    change.add.push(bad.clone());
    match s.apply(&change).await {
        Err(SwitchError::RuleRefused { rule, .. }) => assert_eq!(*rule, bad),
        other => panic!("{other:?}"),
    }
    assert!(diff(&want, &s.rules().await.unwrap()).is_empty());

    // The rules outlive the connection, and go when told.
    drop(s);
    let mut s = Switch::connect(ovs.dir.path(), &ovs.bridge).await.unwrap();
    assert!(diff(&want, &s.rules().await.unwrap()).is_empty());
    s.apply(&diff(&[], &want)).await.unwrap();
    assert_eq!(s.rules().await.unwrap(), none);
}

#[tokio::test]
#[ignore = "needs root and Open vSwitch"]
async fn ports_are_added_once_and_removed_once() {
    let mut ovs = Ovs::start("esbrb");
    let (a, b) = (ovs.link("esa"), ovs.link("esb"));
    let mut s = Switch::connect(ovs.dir.path(), &ovs.bridge).await.unwrap();
    let both = s.ensure_ports(&[&a, &b]).await.unwrap();
    assert_eq!(both.len(), 2);
    assert_ne!(both[&a], both[&b]);
    assert_eq!(s.ensure_port(&a).await.unwrap(), both[&a]);
    assert_eq!(s.ports().await.unwrap(), both);

    match s.ensure_port("esmissing").await {
        Err(SwitchError::Port { name, reason }) => assert!(name == "esmissing" && reason.contains("No such device"), "{reason}"),
        other => panic!("{other:?}"),
    }
    // It has left nothing in the database.
    let db = format!("--db=unix:{}/db.sock", ovs.dir.path().display());
    let ports = Command::new("ovs-vsctl").args([&db[..], "list-ports", &ovs.bridge]).output().unwrap();
    assert_eq!(String::from_utf8(ports.stdout).unwrap().lines().count(), 2);
    s.remove_port("esmissing").await.unwrap();
    s.remove_port(&a).await.unwrap();
    s.remove_port(&a).await.unwrap();
    assert_eq!(s.ports().await.unwrap().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&b));
    // A device that was made anew under a known port's name works again.
    let d = ovs.dir.path();
    run("ip", &["link", "del", &b], d);
    run("ip", &["link", "add", &b, "type", "veth", "peer", "name", &format!("{b}p")], d);
    let number = s.ensure_port(&b).await.unwrap();
    assert_eq!(s.ports().await.unwrap().get(&b), Some(&number));
}

#[tokio::test]
#[ignore = "needs root and Open vSwitch"]
async fn a_switch_that_restarts_is_found_again_and_one_without_the_bridge_is_an_error() {
    let mut ovs = Ovs::start("esbrc");
    let a = ovs.link("esc");
    let mut s = Switch::connect(ovs.dir.path(), &ovs.bridge).await.unwrap();
    let number = s.ensure_port(&a).await.unwrap();
    ovs.exit("vsw.ctl");
    assert!(s.rules().await.is_err());
    ovs.start_vswitchd();
    assert_eq!(s.ensure_port(&a).await.unwrap(), number);
    assert_eq!(s.rules().await.unwrap(), []);
    match Switch::connect(ovs.dir.path(), "other").await {
        Err(SwitchError::Refused(why)) => assert!(why.contains("no bridge other"), "{why}"),
        other => panic!("{other:?}"),
    }
}
