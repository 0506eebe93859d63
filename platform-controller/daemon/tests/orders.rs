//! Orders of the day as an operator gives them, over VMs and hosts that answer by rote.

#![allow(clippy::unwrap_used)]

#[path = "world/bench.rs"]
mod bench;
#[path = "../../intent/tests/common/mod.rs"]
mod common;
#[path = "world/still.rs"]
mod still;

use bench::{Bench, bench, host};
use edgeplex_api::{
    Abort, AddImage, AuditEntry, Begun, Checkpoint, Checkpointed, ClientError, Drain, HostRow, ImageRow, InstanceRow, Migrate, Reconciler,
    UpgradeOrder, UpgradeReport, UpgradeState, Whose,
};
use edgeplex_runtime::{Reach, VmKind};
use edgeplexd::reconcile::State;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn full() -> String {
    [common::FULL_PLATFORM, common::INTERNET, common::FULL_ACME].join("---\n")
}

fn hub() -> Whose {
    Whose::Attachment("acme/hub".parse().unwrap())
}

impl Bench {
    async fn order<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> T {
        self.client.post(path, body).await.unwrap()
    }

    async fn refused<B: Serialize>(&self, path: &str, body: &B, says: &str) {
        let error = self.client.post::<_, serde_json::Value>(path, body).await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused(f) if f.message.contains(says)), "{path}: {error:?}");
    }

    async fn drain(&self, host: &str, undo: bool) -> Begun {
        self.order("/v1/drain", &Drain { host: host.into(), undo }).await
    }

    /// What was ordered, and its outcome.
    async fn audit(&self) -> Vec<(String, String)> {
        let all: Vec<AuditEntry> = self.client.get("/v1/audit").await.unwrap();
        all.into_iter().filter(|e| !e.order.is_empty()).map(|e| (e.order, e.outcome)).collect()
    }

    /// Until the last order has come to its end.
    async fn audited(&self) -> (String, String) {
        let over = async {
            loop {
                match self.audit().await.pop() {
                    Some(last) if last.1 != "under way" => return last,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, over).await.unwrap()
    }
}

#[tokio::test]
async fn an_upgrade_needs_an_image_and_a_rollback_an_upgrade() {
    let b = bench(&full()).await;
    let order = UpgradeOrder { to: "next".into(), canary: 1, then_percent: 10, soak_s: 1 };
    b.refused("/v1/upgrade", &order, "there is no image next").await;
    b.refused("/v1/upgrade", &UpgradeOrder { to: "default".into(), ..order.clone() }, "all is on image default already").await;
    b.refused("/v1/rollback", &(), "there is no upgrade that could be taken back").await;
    assert_eq!(b.client.get::<Option<UpgradeReport>>("/v1/upgrade").await.unwrap(), None);
    let images: Vec<ImageRow> = b.client.get("/v1/images").await.unwrap();
    assert_eq!((images[0].name.as_str(), images[0].instances), ("default", 3));
    let audit = b.audit().await;
    let first = ("upgrade --to next --canary 1 --then 10% --soak 1", "refused: there is no image next; see `edgeplex image list`");
    assert_eq!((audit[0].0.as_str(), audit[0].1.as_str(), audit.len()), (first.0, first.1, 3));
}

/// Neither made nor waited for: the reconciler says again and again why its VM does not start.
#[tokio::test]
async fn an_upgrade_to_what_cannot_run_ends_soon_with_the_reason() {
    let b = bench(common::FULL_PLATFORM).await;
    b.run("cvm-g1", VmKind::Cvm, vec![("bgp", json!([])), ("ospf-neighbors", json!([])), ("ldp-neighbors", json!([]))]).await;
    b.runtime.set_image("broken", "1");
    let order = UpgradeOrder { to: "broken".into(), canary: 1, then_percent: 100, soak_s: 1 };
    let started = Instant::now();
    b.order::<_, UpgradeReport>("/v1/upgrade", &order).await;
    let why = "VM cvm-g2: start VM cvm-g2: its init ended without a word; see its log";
    let over = async {
        loop {
            // As after each of its passes.
            let report = Reconciler { problems: vec![why.into()], ..Reconciler::default() };
            b.told.send_replace(State { report, ..State::default() });
            let upgrade: UpgradeReport = b.client.get::<Option<_>>("/v1/upgrade").await.unwrap().unwrap();
            if upgrade.state == UpgradeState::RolledBack {
                return upgrade;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let upgrade = tokio::time::timeout(PATIENCE, over).await.unwrap();
    assert_eq!((upgrade.why, upgrade.stuck.len()), (format!("cvm: {why}"), 0));
    println!("given up after {:?}", started.elapsed());
    let rows: Vec<InstanceRow> = b.client.get("/v1/instances").await.unwrap();
    let told: Vec<_> = rows.iter().map(|r| (r.vm.as_str(), r.place.as_str(), r.image.as_deref())).collect();
    assert_eq!(told, [("cvm-g1", "active", None)], "nothing is left of it");
    assert_eq!(b.audited().await.1, format!("taken back: cvm: {why}"));
    b.refused("/v1/rollback", &(), "there is no upgrade").await;
}

#[tokio::test]
async fn a_host_is_drained_but_for_the_control_vm_which_is_said() {
    let b = bench(&full()).await;
    b.fleet.know(&[host("west")]);
    let begun = b.drain("local", false).await;
    let moves: BTreeSet<&str> = begun.moves.iter().map(|m| m.unit.as_str()).collect();
    assert_eq!(moves, BTreeSet::from(["acme/hub", "internet/gw"]));
    let stays: Vec<_> = begun.stay.iter().map(|s| (s.unit.as_str(), s.by_design)).collect();
    assert_eq!(stays, [("cvm", true)]);
    assert!(begun.stay[0].why.starts_with("the control VM, and its standby, stay on local"), "{}", begun.stay[0].why);
    // Nobody makes VMs here.
    for whose in [hub(), Whose::Attachment("internet/gw".parse().unwrap())] {
        b.order::<_, Begun>("/v1/abort", &Abort { whose }).await;
    }
    assert_eq!(b.drain("local", true).await, Begun::default());
    b.west.set_reach(Reach::Lost);
    let begun = b.drain("local", false).await;
    let why: Vec<_> = begun.stay.iter().filter(|s| !s.by_design).map(|s| s.why.as_str()).collect();
    assert_eq!((begun.moves.len(), why.len()), (0, 2));
    assert!(why[0].starts_with("acme/hub stays: host west is down"), "{why:?}");
    assert!(b.audited().await.1.starts_with("acme/hub stays: host west is down"));
    b.refused("/v1/drain", &Drain { host: "east".into(), undo: false }, "no such host; there are: local, west").await;
    let hosts: Vec<HostRow> = b.client.get("/v1/hosts").await.unwrap();
    let told: Vec<_> = hosts.iter().map(|h| (h.name.as_str(), h.drained, h.active, h.version.as_str())).collect();
    assert_eq!(told, [("local", true, 3, "0"), ("west", false, 0, "0")]);
    assert_eq!(hosts[1].address.unwrap().to_string(), "192.0.2.1:7443");
    assert_eq!(hosts[0].reach, "up");
}

#[tokio::test]
async fn who_ordered_what_and_what_became_of_it_is_told() {
    let b = bench(&full()).await;
    b.fleet.know(&[host("west")]);
    let to_west = Migrate { whose: hub(), to: "west".into() };
    assert_eq!(b.order::<_, Begun>("/v1/migrate", &to_west).await.moves[0].id, 1);
    b.refused("/v1/migrate", &to_west, "move 1 is under way").await;
    b.order::<_, Begun>("/v1/abort", &Abort { whose: hub() }).await;
    b.order::<_, Begun>("/v1/drain", &Drain { host: "west".into(), undo: false }).await;
    b.refused("/v1/migrate", &to_west, "host west is drained").await;
    b.refused("/v1/migrate", &Migrate { whose: Whose::Cvm, to: "west".into() }, "stays on the controller's host").await;
    let checkpoint = |file: &str| Checkpoint { unit: "acme/hub".into(), file: file.into() };
    b.refused("/v1/checkpoint", &checkpoint("/nowhere/x"), "/nowhere/x: there is no such directory").await;
    b.refused("/v1/restore", &checkpoint("/nowhere/x"), "/nowhere/x: is not there").await;
    let file = b.dir.path().join("x");
    let failed = b.client.post::<_, Checkpointed>("/v1/checkpoint", &checkpoint(file.to_str().unwrap())).await.unwrap_err();
    assert!(matches!(&failed, ClientError::Failed(_)), "its VM does not run: {failed:?}");
    assert!(!file.exists());
    let told = b.audit().await;
    let expected = [
        ("migrate acme/hub --to west", "acme/hub: aborted: so it was asked"),
        ("migrate acme/hub --to west", "refused: acme/hub: move 1 is under way"),
        ("migrate acme/hub --abort", "done"),
        ("drain west", "done"),
        ("migrate acme/hub --to west", "refused: host west is drained"),
        ("migrate cvm --to west", "refused: the control VM stays"),
        ("checkpoint acme/hub /nowhere/x", "refused: /nowhere/x"),
        ("restore acme/hub /nowhere/x", "refused: /nowhere/x"),
        ("checkpoint acme/hub ", "failed: "),
    ];
    assert_eq!(told.len(), expected.len());
    for ((order, outcome), (what, became)) in told.iter().zip(expected) {
        assert!(order.starts_with(what) && outcome.starts_with(became), "{order}: {outcome}");
    }
    let all: Vec<AuditEntry> = b.client.get("/v1/audit").await.unwrap();
    let first = all.iter().find(|e| !e.order.is_empty()).unwrap();
    assert!(first.ended_ms.unwrap() >= first.at_ms && first.moves[0].id == 1);
}

/// Where a standby is wanted and cannot be elsewhere, the table says why.
#[tokio::test]
async fn an_unprotected_customer_is_told_why() {
    let b = bench(&full()).await;
    let note = async || {
        let rows: Vec<InstanceRow> = b.client.get("/v1/instances").await.unwrap();
        rows.into_iter().find(|r| r.unit == "internet/gw").unwrap().note
    };
    assert_eq!(note().await, "it has no standby: there is no other host");
    b.fleet.know(&[host("west")]);
    assert_eq!(note().await, "it has no standby: another is being made");
    b.drain("west", false).await;
    assert_eq!(note().await, "it has no standby: host west is drained");
    b.west.set_reach(Reach::Lost);
    b.drain("west", true).await;
    assert!(note().await.starts_with("it has no standby: host west is down"), "{}", note().await);
}

#[tokio::test]
async fn an_image_that_is_added_is_listed_with_the_hosts_that_have_it() {
    let b = bench(&full()).await;
    b.fleet.know(&[host("west")]);
    let build = b.dir.path().join("build");
    fs::create_dir(&build).unwrap();
    let add = AddImage { name: "v2".into(), dir: build.clone() };
    b.refused("/v1/images", &add, "lacks cvmd, edgeplex-init, fastforward, pvmd").await;
    for program in ["cvmd", "edgeplex-init", "fastforward", "pvmd"] {
        fs::write(build.join(program), "#!/bin/sh\necho it 2\n").unwrap();
        fs::set_permissions(build.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    b.runtime.set_image("v2", "1");
    let rows: Vec<ImageRow> = b.order("/v1/images", &add).await;
    let hosts: Vec<_> = rows[1].hosts.iter().map(|at| (at.host.as_str(), at.there, at.is_coming())).collect();
    assert_eq!(hosts, [("local", true, false), ("west", false, true)]);
    b.refused("/v1/images", &add, "image v2 is there already").await;
    let outcomes: Vec<_> = b.audit().await.into_iter().map(|(_, outcome)| outcome).collect();
    assert!(outcomes[0].starts_with("refused: ") && outcomes[1] == "done" && outcomes[2].starts_with("refused: "), "{outcomes:?}");
}
