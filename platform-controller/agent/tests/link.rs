//! The link between controller and agent: who is let in, and what is known when nothing is heard.

#![allow(clippy::unwrap_used)]

use edgeplex_agent::{AgentConfig, AgentRuntime, BEAT, Fingerprint, Host, HostConfig, Identity, Server};
use edgeplex_runtime::{Reach, Runtime, RuntimeError};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_millis(500);

/// An agent over an empty directory; its bridge is not there, and nobody asks for it.
async fn agent(dir: &Path, controller: Fingerprint, listen: &str) -> (SocketAddr, Fingerprint, AbortHandle) {
    let identity = Identity::open(dir).unwrap();
    let config = HostConfig { dir: dir.into(), bin_dir: dir.into(), ovs_run_dir: dir.into(), bridge: "none".into(), uplink: "none".into() };
    let listener = TcpListener::bind(listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(listener, &identity, controller, Host::open(config).await.unwrap()).unwrap();
    (address, identity.fingerprint(), tokio::spawn(async move { server.run().await.unwrap() }).abort_handle())
}

fn controller(dir: &Path, address: SocketAddr, key: Fingerprint) -> AgentRuntime {
    AgentRuntime::start(AgentConfig::new("far", address, key, dir), &Identity::open(dir).unwrap()).unwrap()
}

async fn until(reach: &mut watch::Receiver<Reach>, want: Reach) {
    timeout(PATIENCE, reach.wait_for(|r| *r == want)).await.unwrap_or_else(|_| panic!("never {want:?}")).unwrap();
}

struct Dirs([tempfile::TempDir; 3]);

impl Dirs {
    fn new() -> Self {
        Self(std::array::from_fn(|_| tempfile::Builder::new().prefix("edgeplex-link-").tempdir().unwrap()))
    }

    fn at(&self, n: usize) -> &Path {
        self.0[n].path()
    }

    fn key(&self, n: usize) -> Fingerprint {
        Identity::open(self.at(n)).unwrap().fingerprint()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_controller_is_let_in_and_only_the_agent_is_believed() {
    let dirs = Dirs::new();
    let (address, key, _agent) = agent(dirs.at(0), dirs.key(1), "127.0.0.1:0").await;
    // Somebody else, who knows the agent's certificate but has another of his own.
    let stranger = controller(dirs.at(2), address, key);
    // Our controller, sent to somebody who is not the agent.
    let misled = controller(dirs.at(1), address, dirs.key(2));
    for refused in [&stranger, &misled] {
        until(&mut refused.reach(), Reach::Lost).await;
        assert!(matches!(refused.list().await, Err(RuntimeError::Unreachable { .. })));
        assert!(matches!(refused.connect(&"cvm".parse().unwrap(), "mgmt.sock").await, Err(RuntimeError::Unreachable { .. })));
    }
    let told = async |refused: &AgentRuntime| refused.list().await.unwrap_err().to_string();
    assert!(told(&stranger).await.starts_with("host far: key: the agent expects another controller"), "{}", told(&stranger).await);
    assert!(told(&misled).await.starts_with("host far: key: the agent has another certificate"), "{}", told(&misled).await);
    // What speaks no TLS.
    let mut noise = TcpStream::connect(address).await.unwrap();
    noise.write_all(&[0; 64]).await.unwrap();
    let mut answer = vec![];
    timeout(PATIENCE, noise.read_to_end(&mut answer)).await.unwrap().ok();
    // And some who say nothing.
    let mut silent = vec![];
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let right = controller(dirs.at(1), address, key);
    until(&mut right.reach(), Reach::Up).await;
    assert_eq!(right.list().await.unwrap(), []);
    assert_eq!((*stranger.reach().borrow(), *misled.reach().borrow()), (Reach::Lost, Reach::Lost));
}

/// A wire that can be held still and cut.
struct Wire {
    address: SocketAddr,
    still: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Wire {
    async fn to(agent: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, still) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let held = still.clone();
        let task = tokio::spawn(async move {
            let mut all = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let held = held.clone();
                all.spawn(async move {
                    let Ok(far) = TcpStream::connect(agent).await else { return };
                    let ((a, b), (c, d)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = pump(a, d, &held) => {}
                        () = pump(c, b, &held) => {}
                    }
                });
            }
        });
        Self { address, still, task: task.abort_handle() }
    }
}

async fn pump(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, still: &AtomicBool) {
    let mut buffer = vec![0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        while still.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silence_loses_a_host_and_a_cut_says_so_first() {
    let dirs = Dirs::new();
    let (address, key, _agent) = agent(dirs.at(0), dirs.key(1), "127.0.0.1:0").await;
    let wire = Wire::to(address).await;
    let runtime = Arc::new(controller(dirs.at(1), wire.address, key));
    let mut reach = runtime.reach();
    until(&mut reach, Reach::Up).await;

    timeout(PATIENCE, runtime.exited(&"pvm-a-b-g1".parse().unwrap())).await.unwrap().unwrap();
    wire.still.store(true, Ordering::Relaxed);
    let start = Instant::now();
    // What is not answered ends with the connection, not with an answer.
    let asker = runtime.clone();
    let asked = tokio::spawn(async move { asker.list().await });
    until(&mut reach, Reach::Lost).await;
    let took = start.elapsed();
    assert!(took >= SILENCE - 2 * BEAT, "{took:?}");
    assert!(took < SILENCE + SILENCE / 2, "{took:?}");
    assert!(matches!(asked.await.unwrap(), Err(RuntimeError::Unreachable { .. })));
    println!("silence noticed after {took:?}");
    wire.still.store(false, Ordering::Relaxed);
    until(&mut reach, Reach::Up).await;
    assert_eq!(runtime.list().await.unwrap(), []);

    // The agent, or its host, has ended: known at once, and lost when it does not come back.
    let start = Instant::now();
    wire.task.abort();
    until(&mut reach, Reach::Broken).await;
    println!("end noticed after {:?}", start.elapsed());
    assert!(start.elapsed() < SILENCE / 2, "{:?}", start.elapsed());
    until(&mut reach, Reach::Lost).await;
}

/// A host that is taken out of the platform and put in again is reached by one runtime, whoever still holds the former.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_released_does_not_come_back() {
    let dirs = Dirs::new();
    let (address, key, _agent) = agent(dirs.at(0), dirs.key(1), "127.0.0.1:0").await;
    let former = controller(dirs.at(1), address, key);
    until(&mut former.reach(), Reach::Up).await;
    former.release();
    let next = controller(dirs.at(1), address, key);
    let mut reach = next.reach();
    until(&mut reach, Reach::Up).await;
    let changed = timeout(SILENCE, reach.changed()).await;
    assert!(changed.is_err(), "{:?}", *reach.borrow());
    assert!(former.list().await.unwrap_err().to_string().contains("no longer"));
    assert!(former.connect(&"cvm".parse().unwrap(), "mgmt.sock").await.unwrap_err().to_string().contains("no longer"));
}

/// Both ends are not served by their processor for longer than a host may be silent: nobody beat, and nobody listened.
#[tokio::test]
async fn a_machine_that_stood_still_loses_nobody() {
    let dirs = Dirs::new();
    let (address, key, _agent) = agent(dirs.at(0), dirs.key(1), "127.0.0.1:0").await;
    let runtime = controller(dirs.at(1), address, key);
    let mut reach = runtime.reach();
    until(&mut reach, Reach::Up).await;
    for _ in 0..5 {
        std::thread::sleep(2 * SILENCE);
        let changed = timeout(4 * BEAT, reach.changed()).await;
        assert!(changed.is_err(), "{:?}", *reach.borrow());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_restarts_at_once_is_not_lost() {
    let dirs = Dirs::new();
    let (address, key, first) = agent(dirs.at(0), dirs.key(1), "127.0.0.1:0").await;
    let runtime = controller(dirs.at(1), address, key);
    let mut reach = runtime.reach();
    until(&mut reach, Reach::Up).await;
    let mut seen = runtime.reach();
    let watch = tokio::spawn(async move {
        let mut all = vec![];
        while !(all.contains(&Reach::Broken) && all.last() == Some(&Reach::Up)) {
            seen.changed().await.unwrap();
            all.push(*seen.borrow_and_update());
        }
        all
    });
    first.abort();
    // The address is free when its task has ended.
    until(&mut reach, Reach::Broken).await;
    let (_, again, _second) = agent(dirs.at(0), dirs.key(1), &address.to_string()).await;
    assert_eq!(again, key);
    let all = timeout(PATIENCE, watch).await.unwrap().unwrap();
    assert!(!all.contains(&Reach::Lost), "{all:?}");
    assert_eq!(runtime.list().await.unwrap(), []);
}

/// A host under load is slow, and not lost: as many busy threads as there are processors, and as many again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_host_is_not_lost() {
    let dirs = Dirs::new();
    let (address, key, _agent) = agent(dirs.at(0), dirs.key(1), "127.0.0.1:0").await;
    let runtime = controller(dirs.at(1), address, key);
    let mut reach = runtime.reach();
    until(&mut reach, Reach::Up).await;
    let stop = Arc::new(AtomicBool::new(false));
    let count = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    let busy: Vec<_> = (0..count)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        })
        .collect();
    let changed = timeout(Duration::from_secs(3), reach.changed()).await;
    stop.store(true, Ordering::Relaxed);
    busy.into_iter().for_each(|t| t.join().unwrap());
    assert!(changed.is_err(), "{:?}", *reach.borrow());
}

/// Cut in the middle, it goes on where it was; and it is no image before it is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_shipped_over_a_wire_that_is_cut() {
    const LONG: usize = 3 << 20;
    let dirs = Dirs::new();
    let (address, key, _agent) = agent(dirs.at(0), dirs.key(1), "127.0.0.1:0").await;
    let (image, there) = (dirs.at(2), dirs.at(0).join("images/v2"));
    let long: Vec<u8> = (0..LONG).map(|n| u8::try_from(n % 251).unwrap()).collect();
    fs::write(image.join("pvmd"), &long).unwrap();
    fs::write(image.join("cvmd"), "short").unwrap();
    let wire = Wire::to(address).await;
    let far = controller(dirs.at(1), wire.address, key);
    until(&mut far.reach(), Reach::Up).await;
    let cut = move |done: u64, _: u64| {
        if done > 1 << 20 {
            wire.task.abort();
        }
    };
    let error = timeout(PATIENCE, far.ship_image("v2", image, &cut)).await.unwrap().unwrap_err();
    assert!(matches!(error, RuntimeError::Unreachable { .. }) && !there.exists(), "{error}");

    let far = controller(dirs.at(1), address, key);
    until(&mut far.reach(), Reach::Up).await;
    let least = Arc::new(AtomicU64::new(u64::MAX));
    let seen = least.clone();
    let told = move |done: u64, all: u64| {
        assert!(done <= all);
        seen.fetch_min(done, Ordering::Relaxed);
    };
    timeout(PATIENCE, far.ship_image("v2", image, &told)).await.unwrap().unwrap();
    assert!((1 << 20..u64::MAX).contains(&least.load(Ordering::Relaxed)), "it began anew");
    assert!(fs::read(there.join("pvmd")).unwrap() == long);
    timeout(PATIENCE, far.ship_image("v2", image, &|_, _| panic!("nothing is to be done"))).await.unwrap().unwrap();
    let none = dirs.at(2).join("nowhere");
    assert!(far.ship_image("v3", &none, &|_, _| {}).await.is_err());
}
