//! The API over VMs that answer by rote, and over hosts that remember.

use crate::still;
use edgeplex_api::Client;
use edgeplex_intent::Host;
use edgeplex_runtime::{FakeRuntime, Process, Runtime, VmKind, VmSpec};
use edgeplex_store::{Memory, Store};
use edgeplexd::{
    counters::Meter,
    desired::Keeper,
    hosts::Fleet,
    http::{Api, Peer, router},
    images::Images,
    moves::Moves,
    placement::Placements,
    reconcile::State,
    show::Viewer,
    specs,
    upgrade::Upgrades,
};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc, time::Instant};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    sync::{mpsc, watch},
};

/// A daemon of a VM: says these things to these queries, and nothing to others.
pub(crate) fn answers(run_dir: &Path, known: Vec<(&'static str, Value)>) {
    fs::create_dir_all(run_dir).unwrap();
    let listener = UnixListener::bind(run_dir.join("mgmt.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let query: Value = serde_json::from_str(&line).unwrap();
            if let Some((_, answer)) = known.iter().find(|(name, _)| query["query"] == *name) {
                stream.write_all(format!("{}\n", json!({ "ok": answer })).as_bytes()).await.unwrap();
            }
        }
    });
}

#[allow(dead_code)] // Each test uses some of it.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) client: Client,
    pub(crate) fleet: Arc<Fleet>,
    /// The host that it can reach beside its own.
    pub(crate) west: Arc<FakeRuntime>,
    _looks: mpsc::Receiver<edgeplexd::reconcile::Look>,
    pub(crate) told: watch::Sender<State>,
}

pub(crate) async fn bench(text: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Arc::new(FakeRuntime::new(dir.path()));
    let keeper = Arc::new(Keeper::open(Arc::new(Memory::default())).unwrap());
    keeper.apply(text, false, 0).await.unwrap();
    let (looks, looked) = mpsc::channel(1);
    let (told, state) = watch::channel(State::default());
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let placements = Arc::new(Placements::open(store.clone()).unwrap());
    placements.settle(&specs::units(&keeper.current()), &Default::default()).await.unwrap();
    let west = Arc::new(FakeRuntime::default());
    let there = west.clone();
    let fleet = Arc::new(Fleet::new(runtime.clone(), Box::new(move |_| Ok(there.clone()))));
    let meter = Arc::new(Meter::new(fleet.clone(), placements.clone()));
    let viewer = Viewer { fleet: fleet.clone(), placements: placements.clone(), meter, dir: dir.path().into() };
    let moves = Moves::new(placements, Arc::new(still::Still));
    let images = Arc::new(Images::new(dir.path().into(), fleet.clone()));
    let upgrades = Upgrades::open(store, moves.clone(), viewer.clone(), state.clone()).unwrap();
    let api = Api { keeper, viewer, state, looks, started: Instant::now(), moves, images, upgrades };
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let service = router(api).into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    let client = Client::new(&dir.path().join("s"));
    Bench { dir, runtime, client, fleet, west, _looks: looked, told }
}

impl Bench {
    pub(crate) async fn run(&self, vm: &str, kind: VmKind, known: Vec<(&'static str, Value)>) {
        let processes = vec![Process { name: "a".into(), argv: vec!["a".into()] }];
        let spec = VmSpec {
            id: vm.parse().unwrap(),
            kind,
            nics: vec![],
            config: vec![],
            processes,
            memory_max: None,
            shared: vec![],
            image: None,
            identity: None,
        };
        self.runtime.start(&spec).await.unwrap();
        answers(&self.dir.path().join("vms").join(vm).join("run"), known);
    }
}

pub(crate) fn host(name: &str) -> Host {
    Host { name: name.parse().unwrap(), address: "192.0.2.1:7443".parse().unwrap(), port: "eth7".into(), key: "0".repeat(64), silence: 500 }
}
