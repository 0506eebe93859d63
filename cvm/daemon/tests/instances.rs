//! Instances of a control VM in one process, over a core that says what a test wants: who acts, who only learns, and in which order one
//! becomes the other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    LIMIT,
    fake::{Verb, hop},
    site::{REMOTE, REMOTE_MAC, Running, Site, addresses},
};
use edgeplex_cvmd::{CoreCommand, Exit, Part};
use edgeplex_journal::Welcome;
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::{CvmQuery, FOLLOW_SOCKET, Fabric, InstanceOrder, InstanceState, InstanceStatus, JOURNAL_SOCKET, LabelRow, STALE_MS},
};
use edgeplex_transport::mgmt::MgmtError;
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt, net::UnixStream, task::JoinHandle, time::timeout};

const GATEWAY: [u8; 4] = [10, 0, 0, 2];

async fn order(site: &Site, order: InstanceOrder) -> Result<InstanceStatus, MgmtError> {
    site.ask(CvmQuery::Instance(order)).await
}

async fn until(site: &Site, what: &str, wanted: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
    let start = Instant::now();
    let mut seen = order(site, InstanceOrder::Look).await.unwrap();
    while !wanted(&seen) {
        assert!(start.elapsed() < LIMIT, "never: {what}: {seen:?}");
        // Some of it changes without a revision.
        let news = order(site, InstanceOrder::Watch { seen: seen.revision });
        seen = match timeout(Duration::from_millis(100), news).await {
            Ok(status) => status.unwrap(),
            Err(_) => order(site, InstanceOrder::Look).await.unwrap(),
        };
    }
    seen
}

/// The platform's part.
fn join(leader: &Site, standby: &Site) -> JoinHandle<()> {
    let (from, to) = (leader.dir.path().join(JOURNAL_SOCKET), standby.dir.path().join(FOLLOW_SOCKET));
    tokio::spawn(async move {
        loop {
            if let (Ok(mut a), Ok(mut b)) = (UnixStream::connect(&from).await, UnixStream::connect(&to).await) {
                let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

/// A PE without reflectors: nobody else's sessions are at stake.
fn site() -> Site {
    let mut site = Site::new();
    site.config.route_reflectors.clear();
    site.config.instance = Instance { generation: 1, role: InstanceRole::Active };
    site.keep_journal();
    site
}

/// One that speaks and has a customer, and one that follows.
async fn two() -> (Site, Running, Site, Running, JoinHandle<()>) {
    addresses().await;
    let mut first = site();
    first.attach("beta/denver-1", 1, 200);
    let running = first.start().await;
    running.core.resolve(GATEWAY, Some(REMOTE_MAC)).await;
    let mut second = first.sibling();
    second.config.instance = Instance { generation: 2, role: InstanceRole::Standby };
    second.write();
    let following = second.start().await;
    let joined = join(&first, &second);
    until(&first, "the leader knows", |s| s.in_sync && s.forwards).await;
    until(&second, "all is there", |s| s.in_sync && s.forwards).await;
    (first, running, second, following, joined)
}

async fn labels(site: &Site) -> Vec<LabelRow> {
    site.ask(CvmQuery::Labels).await.unwrap()
}

#[test]
fn a_standby_learns_and_does_nothing_until_it_takes_over() {
    common::join(common::in_namespace(takes_over));
}

async fn takes_over() {
    let (first, running, second, mut following, _joined) = two().await;
    let mut pvm = first.pvm(0, "acme/denver-1", &first.pvms[0]);
    pvm.join(&["10.1.0.0/16"]).await;
    pvm.until("a whole snapshot", |p| p.ended && !p.labels.is_empty()).await;
    let before = labels(&first).await;
    // The reflectors' and the core's part is their own tests'.
    let records = following.core.verbs();
    assert!(records.iter().all(|v| matches!(v, Verb::Replay(_))) && !records.is_empty(), "{records:?}");
    let asked = following.core.rest();
    assert!(asked.is_empty(), "who follows asks for nothing: {asked:?}");
    assert!(timeout(Duration::from_millis(50), second.ask::<Fabric>(CvmQuery::Fabric { seen: 0 })).await.is_err());
    assert!(order(&second, InstanceOrder::Fence { lease_ms: 100 }).await.is_err());
    assert!(order(&second, InstanceOrder::Promote { generation: 2 }).await.is_err());

    let s = order(&first, InstanceOrder::Fence { lease_ms: 60_000 }).await.unwrap();
    assert_eq!((s.state, s.end), (InstanceState::Fenced, s.committed));
    let s = order(&second, InstanceOrder::Promote { generation: 3 }).await.unwrap();
    assert_eq!((s.state, s.generation, s.forwards), (InstanceState::Active, 3, true), "the core was known: {s:?}");
    let known = [(hop(GATEWAY), REMOTE_MAC)].into();
    let verbs: Vec<Verb> = following.core.verbs().into_iter().filter(|v| !matches!(v, Verb::Replay(_))).collect();
    assert_eq!(verbs, [Verb::Promote(Part::Routing(known)), Verb::Promote(Part::Labels)]);
    let asked = following.core.rest();
    let place = |what: fn(&CoreCommand) -> bool| asked.iter().position(what).unwrap_or_else(|| panic!("{asked:?}"));
    let routes = place(|c| matches!(c, CoreCommand::KernelRoutes(r) if r.routes.contains_key(&REMOTE.into())));
    assert!(routes < place(|c| matches!(c, CoreCommand::Fecs(f) if f.contains_key(&REMOTE.into()))));
    assert!(asked.iter().any(|c| matches!(c, CoreCommand::Resolve(hops) if hops.contains(&hop(GATEWAY)))));

    assert_eq!(labels(&second).await, before);
    let fabric: Fabric = second.ask(CvmQuery::Fabric { seen: 0 }).await.unwrap();
    assert_eq!((fabric.labels.len(), fabric.neighbors[0].mac), (2, REMOTE_MAC));
    // The PVM comes over by itself, and has the same label.
    pvm.labels.clear();
    pvm.join(&["10.1.0.0/16"]).await;
    pvm.until("its label", |p| !p.labels.is_empty()).await;
    assert_eq!(pvm.labels.iter().map(|l| l.get()).collect::<Vec<_>>(), [before[0].label.get()]);
    let file = second.dir.path().join("state/labels");
    timeout(LIMIT, async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("what outlives the VM is written");
    running.stop().await;
    assert!(first.dir.path().join("journal").exists());
    following.stop().await;
}

#[test]
fn a_process_goes_on_from_its_own_journal() {
    common::join(common::in_namespace(goes_on));
}

async fn goes_on() {
    addresses().await;
    let mut site = site();
    let mut running = site.start().await;
    running.core.resolve(GATEWAY, Some(REMOTE_MAC)).await;
    until(&site, "the core is known", |s| s.forwards).await;
    let before = labels(&site).await;
    running.core.verbs();
    // A crash, as far as this process can have one.
    running.task.abort();
    let _ = running.task.await;
    std::fs::remove_file(site.dir.path().join("state/labels")).unwrap();
    let mut running = site.start().await;
    let s = order(&site, InstanceOrder::Look).await.unwrap();
    assert_eq!((s.generation, s.state, s.forwards, s.promoted.unwrap().sessions), (1, InstanceState::Active, true, 2), "{s:?}");
    let verbs = running.core.verbs();
    assert!(verbs.contains(&Verb::Promote(Part::Routing([(hop(GATEWAY), REMOTE_MAC)].into()))));
    assert_eq!(labels(&site).await, before);
    assert_eq!(order(&site, InstanceOrder::Promote { generation: 9 }).await.unwrap().generation, 9);

    // It ends in silence; but another router's neighbours have to be told.
    let mut core = running.core;
    running.stop.send(()).unwrap();
    assert_eq!(timeout(LIMIT, running.task).await.unwrap().unwrap().unwrap(), Exit::Stopped);
    assert!(core.verbs().contains(&Verb::Leave));
    site.config.loopback = [10, 255, 0, 7].into();
    site.write();
    let mut running = site.start().await;
    let s = order(&site, InstanceOrder::Look).await.unwrap();
    assert_eq!((s.generation, s.promoted), (9, None), "nothing is taken over");
    assert_eq!(running.core.verbs(), []);
    site.config.asn = 65001;
    site.write();
    let _ = site.ask::<edgeplex_mgmt::show::Reloaded>(CvmQuery::Reload).await;
    assert_eq!(timeout(LIMIT, running.task).await.unwrap().unwrap().unwrap(), Exit::Restart);
    assert!(running.core.verbs().contains(&Verb::Shutdown));
}

#[test]
fn a_fence_ends_by_itself_unless_another_instance_serves_the_pvms() {
    common::join(common::in_namespace(fence));
}

async fn fence() {
    let (first, mut running, second, following, _joined) = two().await;
    let mut pvm = first.pvm(0, "acme/denver-1", &first.pvms[0]);
    pvm.join(&["10.1.0.0/16"]).await;
    running.core.verbs();
    let began = Instant::now();
    order(&first, InstanceOrder::Fence { lease_ms: 200 }).await.unwrap();
    until(&first, "it goes on", |s| s.state == InstanceState::Active).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(running.core.verbs(), [Verb::Fence, Verb::Unfence]);
    pvm.join(&["10.1.0.0/16"]).await;
    pvm.until("it is served again", |p| p.ended).await;

    order(&first, InstanceOrder::Fence { lease_ms: 200 }).await.unwrap();
    order(&second, InstanceOrder::Promote { generation: 3 }).await.unwrap();
    let s = until(&first, "it knows", |s| !s.problems.is_empty()).await;
    assert_eq!(s.state, InstanceState::Fenced);
    pvm.labels.clear();
    pvm.join(&["10.1.0.0/16"]).await;
    pvm.until("the second serves it", |p| !p.labels.is_empty()).await;
    assert_eq!(running.core.verbs(), [Verb::Fence]);
    running.stop().await;

    // Somebody dead has the name.
    let socket = first.dir.path().join("relay.sock");
    std::fs::remove_file(&socket).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    drop(pvm);
    let mut pvm = first.pvm(0, "acme/denver-1", &first.pvms[0]);
    pvm.join(&["10.1.0.0/16"]).await;
    pvm.until("it finds the second", |p| !p.labels.is_empty()).await;
    following.stop().await;
}

/// A crash, as far as a process that goes on can have one.
async fn crash(running: Running) {
    running.task.abort();
    let _ = running.task.await;
}

#[test]
fn a_fence_outlives_the_process() {
    common::join(common::in_namespace(fence_stays));
}

async fn fence_stays() {
    addresses().await;
    let site = site();
    let running = site.start().await;
    running.core.resolve(GATEWAY, Some(REMOTE_MAC)).await;
    until(&site, "the core is known", |s| s.forwards).await;
    order(&site, InstanceOrder::Fence { lease_ms: 60_000 }).await.unwrap();
    crash(running).await;
    let mut running = site.start().await;
    let s = order(&site, InstanceOrder::Look).await.unwrap();
    assert_eq!((s.state, s.generation, s.promoted), (InstanceState::Fenced, 1, None), "{s:?}");
    assert!(running.core.verbs().iter().all(|v| matches!(v, Verb::Replay(_))));
    assert_eq!(running.core.rest(), []);
    assert!(UnixStream::connect(site.dir.path().join("relay.sock")).await.is_err(), "PVMs are served");
    // Whoever is to succeed it still can.
    UnixStream::connect(site.dir.path().join(JOURNAL_SOCKET)).await.unwrap();
    let s = order(&site, InstanceOrder::Fence { lease_ms: 60_000 }).await.unwrap();
    assert_eq!((s.state, s.end), (InstanceState::Fenced, s.committed));
    assert_eq!(order(&site, InstanceOrder::Resume).await.unwrap().state, InstanceState::Active);
    assert!(running.core.verbs().contains(&Verb::Promote(Part::Labels)));
    UnixStream::connect(site.dir.path().join("relay.sock")).await.unwrap();

    // By itself when its lease is over, not sooner.
    let began = Instant::now();
    order(&site, InstanceOrder::Fence { lease_ms: 1500 }).await.unwrap();
    crash(running).await;
    let running = site.start().await;
    assert_eq!(order(&site, InstanceOrder::Look).await.unwrap().state, InstanceState::Fenced);
    until(&site, "it goes on", |s| s.state == InstanceState::Active).await;
    assert!(began.elapsed() >= Duration::from_millis(1500));
    // What is over is over for all who come after.
    crash(running).await;
    let running = site.start().await;
    let s = order(&site, InstanceOrder::Look).await.unwrap();
    assert_eq!((s.state, s.promoted.is_some()), (InstanceState::Active, true));

    order(&site, InstanceOrder::Fence { lease_ms: 60_000 }).await.unwrap();
    crash(running).await;
    let running = site.start().await;
    let s = order(&site, InstanceOrder::Promote { generation: 4 }).await.unwrap();
    assert_eq!((s.state, s.generation), (InstanceState::Active, 4));
    running.stop().await;
}

#[test]
fn one_that_was_fenced_stays_still_after_its_lease_if_another_serves_the_pvms() {
    common::join(common::in_namespace(fence_stays_behind_another));
}

async fn fence_stays_behind_another() {
    let (first, running, second, following, joined) = two().await;
    order(&first, InstanceOrder::Fence { lease_ms: 1500 }).await.unwrap();
    order(&second, InstanceOrder::Promote { generation: 3 }).await.unwrap();
    joined.abort();
    crash(running).await;
    let mut running = first.start().await;
    let s = until(&first, "it knows", |s| !s.problems.is_empty()).await;
    assert_eq!(s.state, InstanceState::Fenced, "{s:?}");
    assert!(running.core.verbs().iter().all(|v| matches!(v, Verb::Replay(_))));
    running.stop().await;
    following.stop().await;
}

#[test]
fn who_lost_its_leader_too_long_ago_begins_anew_with_the_same_labels() {
    common::join(common::in_namespace(cold));
}

async fn cold() {
    let (first, running, second, following, joined) = two().await;
    let before = labels(&first).await;
    joined.abort();
    running.task.abort();
    until(&second, "it lost its leader", |s| s.leader_lost_ms.is_some_and(|ms| ms > STALE_MS)).await;
    // The process ends for it, perhaps before its answer is out.
    if let Ok(s) = order(&second, InstanceOrder::Promote { generation: 3 }).await {
        assert_eq!((s.generation, s.promoted.map(|p| p.sessions)), (3, Some(0)));
    }
    assert_eq!(timeout(LIMIT, following.task).await.unwrap().unwrap().unwrap(), Exit::Restart);
    let mut following = second.start().await;
    let s = order(&second, InstanceOrder::Look).await.unwrap();
    assert_eq!((s.generation, s.state, s.promoted), (3, InstanceState::Active, None));
    assert_eq!(following.core.verbs(), []);
    assert_eq!(labels(&second).await, before);
    following.stop().await;
}

#[test]
fn a_standby_that_has_not_got_all_yet_takes_no_sessions_over() {
    common::join(common::in_namespace(not_in_sync));
}

async fn not_in_sync() {
    addresses().await;
    let mut site = site();
    site.config.instance = Instance { generation: 2, role: InstanceRole::Standby };
    site.write();
    let following = site.start().await;
    // A leader that is there, and has only begun to tell.
    let mut leader = UnixStream::connect(site.dir.path().join(FOLLOW_SOCKET)).await.unwrap();
    leader.write_all(&Welcome { format: 1, resumes: false }.encode()).await.unwrap();
    until(&site, "the leader is heard", |s| s.leader_lost_ms.is_none() && !s.in_sync).await;
    // It may end before it has answered.
    let _ = order(&site, InstanceOrder::Promote { generation: 3 }).await;
    assert_eq!(timeout(LIMIT, following.task).await.unwrap().unwrap().unwrap(), Exit::Restart);
}

#[test]
fn a_journal_that_cannot_be_opened_keeps_nobody_from_speaking() {
    common::join(common::in_namespace(no_journal));
}

async fn no_journal() {
    addresses().await;
    let site = site();
    // Something that is no file is in its place, and cannot be put aside.
    for name in ["journal", "journal.bad"] {
        std::fs::create_dir_all(site.dir.path().join("journal").join(name).join("full")).unwrap();
    }
    let running = site.start().await;
    let s = order(&site, InstanceOrder::Look).await.unwrap();
    assert_eq!(s.state, InstanceState::Active);
    assert!(s.problems.iter().any(|p| p.contains("no journal")), "{s:?}");
    running.stop().await;
}
