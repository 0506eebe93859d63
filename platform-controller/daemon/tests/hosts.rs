//! Hosts that go, as those see it whose VMs are on them.

#![allow(clippy::unwrap_used)]

#[path = "../../intent/tests/common/mod.rs"]
mod common;

use edgeplex_intent::{Host, Intent, Keys, allocate, parse};
use edgeplex_runtime::{FakeRuntime, Reach};
use edgeplex_store::Memory;
use edgeplexd::{
    counters::Meter,
    desired::Desired,
    hosts::Fleet,
    moves::{Death, Real, World},
    placement::Placements,
    switching::{Bundles, OpenVSwitch},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

fn host(silence: u16) -> Host {
    let address = "192.0.2.1:7443".parse().unwrap();
    Host { name: "west".parse().unwrap(), address, port: "eth7".into(), key: "0".repeat(64), silence }
}

fn desired() -> Arc<Desired> {
    let intent = Intent::default().apply(parse(&common::both()).unwrap()).unwrap();
    let rds = allocate(&intent, &Default::default()).unwrap();
    let key = Keys { public: "p".into(), secret: "s".into() };
    let keys = intent.attachments().map(|(id, _, _)| (id, key.clone())).collect();
    Arc::new(Desired { intent, rds, keys, cvm_key: key })
}

#[tokio::test]
async fn a_host_is_lost_when_it_is_silent_and_when_it_is_taken_away_and_not_when_it_is_reached_anew() {
    let dir = tempfile::tempdir().unwrap();
    let west = Arc::new(FakeRuntime::default());
    let there = west.clone();
    let fleet = Arc::new(Fleet::new(Arc::new(FakeRuntime::default()), Box::new(move |_| Ok(there.clone()))));
    let placements = Arc::new(Placements::open(Arc::new(Memory::default())).unwrap());
    let world = Real {
        dir: dir.path().into(),
        fleet: fleet.clone(),
        placements: placements.clone(),
        bundles: Bundles::start(Box::new(OpenVSwitch { run_dir: dir.path().into(), bridge: "none".into(), connection: None })),
        ground: watch::channel(None).1,
        desired: watch::channel(desired()).1,
        meter: Arc::new(Meter::new(fleet.clone(), placements)),
    };
    let (moment, long) = (Duration::from_millis(50), Duration::from_secs(5));
    fleet.know(&[host(500)]);
    let mut lost = world.lost("west");
    assert!(timeout(moment, &mut lost).await.is_err());
    fleet.know(&[host(700)]);
    assert!(timeout(moment, &mut lost).await.is_err(), "it is the same host, reached anew");
    fleet.know(&[]);
    let gone = timeout(long, lost).await.unwrap();
    assert_eq!(gone, Death::Host("host west is no longer one of the platform's".into()));
    fleet.know(&[host(500)]);
    west.set_reach(Reach::Lost);
    assert_eq!(timeout(long, world.lost("west")).await.unwrap(), Death::Host("host west is lost".into()));
}
