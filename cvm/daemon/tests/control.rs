//! cvmd in this process, over a core of static routes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    LIMIT,
    reflector::Reflector,
    site::{REMOTE, REMOTE_MAC, Site, addresses},
};
use edgeplex_cvmd::Exit;
use edgeplex_mgmt::show::{CvmQuery, CvmStatus, Fabric, LabelRow, Reloaded, Route, TunnelRow};
use edgeplex_relay::ToCvm;
use edgeplex_transport::relay::generate_keypair;
use edgeplex_types::{Label, MacAddr};
use ipnet::IpNet;
use std::time::Duration;
use tokio::time::timeout;

const GATEWAY: [u8; 4] = [10, 0, 0, 2];

#[test]
fn routes_go_both_ways_and_a_restart_keeps_labels_and_sessions_promises() {
    common::join(common::in_namespace(both_ways));
}

async fn both_ways() {
    addresses().await;
    let mut site = Site::new();
    let mut rr = Reflector::start();
    let running = site.start().await;
    running.core.resolve(GATEWAY, Some(REMOTE_MAC)).await;
    let mut pvm = site.pvm(0, "acme/denver-1", &site.pvms[0]);
    pvm.join(&["10.1.0.0/16"]).await;

    rr.until("the customer's route and the end", |rr| rr.end_of_rib).await;
    assert_eq!(rr.routes, ["10.255.0.1:0 10.1.0.0/16 label 1000".to_owned()].into());
    rr.advertise("65000:7", "10.2.0.0/16", 100);
    rr.advertise("65000:8", "10.3.0.0/16", 200);
    let there: IpNet = "10.2.0.0/16".parse().unwrap();
    pvm.until("the other city's route", |p| p.routes.contains_key(&there) && p.ended).await;
    assert_eq!(pvm.labels, [Label::try_from(1000).unwrap()].into());
    assert_eq!(pvm.legs("10.2.0.0/16"), [(REMOTE_MAC, vec![])]);
    assert_eq!(pvm.routes.len(), 1);

    // A second customer is added while a long poll waits; it gets what was there before it.
    let fabric: Fabric = site.ask(CvmQuery::Fabric { seen: 0 }).await.unwrap();
    assert_eq!((fabric.labels.len(), fabric.neighbors[0].mac), (1, REMOTE_MAC));
    site.attach("beta/denver-1", 1, 200);
    let (news, reloaded) =
        tokio::join!(site.ask::<Fabric>(CvmQuery::Fabric { seen: fabric.generation }), site.ask::<Reloaded>(CvmQuery::Reload));
    reloaded.unwrap();
    assert_eq!(news.unwrap().labels.iter().map(|l| l.label.get()).collect::<Vec<_>>(), [1000, 1001]);
    let mut beta = site.pvm(1, "beta/denver-1", &site.pvms[1]);
    beta.join(&["10.1.0.0/16"]).await;
    beta.until("beta's route", |p| p.routes.contains_key(&"10.3.0.0/16".parse().unwrap())).await;
    rr.until("beta's route at the reflector", |rr| rr.routes.contains("10.255.0.1:1 10.1.0.0/16 label 1001")).await;

    // The neighbour goes: routes over it leave; it comes back with another MAC.
    running.core.resolve(GATEWAY, None).await;
    pvm.until("withdrawn", |p| p.routes.is_empty() && p.tunnels.is_empty()).await;
    let other = MacAddr([2, 0, 0, 0, 0, 3]);
    running.core.resolve(GATEWAY, Some(other)).await;
    pvm.until("back over the new MAC", |p| p.legs("10.2.0.0/16") == [(other, vec![])]).await;

    let status: CvmStatus = site.ask(CvmQuery::Status).await.unwrap();
    assert!(status.attachments.iter().all(|a| a.relay_up && a.routes == 1), "{status:?}");
    let routes: Vec<Route> = site.ask(CvmQuery::Routes { attachment: Some("acme/denver-1".parse().unwrap()) }).await.unwrap();
    assert_eq!(routes.iter().map(|r| r.prefix.to_string()).collect::<Vec<_>>(), ["10.1.0.0/16", "10.2.0.0/16"]);
    let tunnels: Vec<TunnelRow> = site.ask(CvmQuery::Tunnels).await.unwrap();
    assert!(tunnels.iter().any(|t| t.endpoint == REMOTE && t.up && t.paths == 2));

    // Another process: same labels, the reflector keeps its routes, a PVM is told before anything is swept.
    running.stop().await;
    rr.until("a graceful end", |rr| rr.graceful_downs == 1).await;
    // The run directory goes when the VM is made anew; labels are not in it.
    assert!(site.dir.path().join("state/labels").exists() && !site.dir.path().join("labels").exists());
    let running = site.start().await;
    running.core.resolve(GATEWAY, Some(REMOTE_MAC)).await;
    let labels: Vec<LabelRow> = site.ask(CvmQuery::Labels).await.unwrap();
    assert_eq!(labels.iter().map(|l| (l.label.get(), &l.state[..])).collect::<Vec<_>>(), [(1000, "active"), (1001, "active")]);
    pvm.join(&["10.1.0.0/16"]).await;
    beta.join(&["10.1.0.0/16"]).await;
    pvm.until("the whole snapshot again", |p| p.ended).await;
    assert!(pvm.routes.contains_key(&there), "the snapshot ended before the reflector's routes were in it");
    rr.until("the whole table again", |rr| rr.end_of_rib).await;
    rr.withdraw("65000:7", "10.2.0.0/16");
    pvm.until("withdrawn at last", |p| p.routes.is_empty()).await;

    // beta is deleted: its label rests, its PVM is cut off.
    site.config.attachments.pop();
    site.write();
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    rr.until("beta is gone", |rr| rr.routes.len() == 1).await;
    let labels: Vec<LabelRow> = site.ask(CvmQuery::Labels).await.unwrap();
    assert_eq!(labels[1].state, "quarantine");
    running.stop().await;
}

#[test]
fn a_full_disk_keeps_a_new_customer_waiting_and_ends_nothing() {
    common::join(common::in_namespace(full_disk));
}

async fn full_disk() {
    addresses().await;
    let mut site = Site::new();
    let running = site.start().await;
    let mut rr = Reflector::start();
    let mut acme = site.pvm(0, "acme/denver-1", &site.pvms[0]);
    acme.join(&["10.1.0.0/16"]).await;
    rr.until("acme's route", |rr| !rr.routes.is_empty()).await;
    assert_eq!(site.labels_in_use().await, [1000]);

    // Nothing more can be written there.
    let (state, away) = (site.dir.path().join("state"), site.dir.path().join("away"));
    std::fs::rename(&state, &away).unwrap();
    site.attach("beta/denver-1", 1, 200);
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    let mut beta = site.pvm(1, "beta/denver-1", &site.pvms[1]);
    beta.join(&["10.2.0.0/16"]).await;
    acme.announce(&["10.3.0.0/16"]);
    rr.until("acme goes on", |rr| rr.routes.len() == 2).await;
    assert!(rr.routes.iter().all(|r| r.contains(" label 1000")), "{:?}", rr.routes);
    assert_eq!(site.labels_in_use().await, [1000]);
    assert_eq!(site.ask::<CvmStatus>(CvmQuery::Status).await.unwrap().attachments.len(), 1);
    std::fs::rename(&away, &state).unwrap();
    beta.until("its label at last", |p| p.labels.contains(&Label::try_from(1001).unwrap())).await;
    rr.until("beta's route", |rr| rr.routes.contains("10.255.0.1:1 10.2.0.0/16 label 1001")).await;
    running.stop().await;
}

#[test]
fn strangers_are_counted_and_a_bad_configuration_changes_nothing() {
    common::join(common::in_namespace(strangers));
}

async fn strangers() {
    addresses().await;
    let mut site = Site::new();
    let running = site.start().await;
    let mut stranger = site.pvm(0, "acme/denver-1", &generate_keypair().unwrap());
    timeout(LIMIT, async {
        loop {
            let _ =
                stranger.say(ToCvm::Hello { attachment: "acme/denver-1".parse().unwrap(), incarnation: 1, generation: 1, standby: false });
            if site.ask::<CvmStatus>(CvmQuery::Status).await.unwrap().refused > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();

    site.attach("beta/denver-1", 1, 200);
    site.config.attachments[1].rd = site.config.attachments[0].rd;
    site.write();
    let error = site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap_err().to_string();
    assert!(error.contains("route distinguisher 10.255.0.1:0 is given twice"), "{error}");
    assert_eq!(site.ask::<CvmStatus>(CvmQuery::Status).await.unwrap().attachments.len(), 1);

    // Another identity takes another process.
    site.config.attachments.pop();
    site.config.asn = 65001;
    site.write();
    site.ask::<Reloaded>(CvmQuery::Reload).await.unwrap();
    assert_eq!(timeout(LIMIT, running.task).await.unwrap().unwrap().unwrap(), Exit::Restart);
}
