//! The holder against a FastForward played by the test: what it says of sessions, in which order, and after a reconnect.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

mod peer;

use edgeplex_ff_fib_api::{Adjacency, Flow, HoldOp, Neighbor, Reply, Request};
use edgeplex_ff_fib_client::{Holder, HolderError};
use edgeplex_types::MacAddr;
use peer::{LIMIT, Peer};
use std::{path::PathBuf, time::Duration};
use tokio::{net::UnixListener, time::timeout};

fn flow(n: u16) -> Flow {
    Flow { local: ([10, 0, 0, 1], 179).into(), remote: ([10, 0, 0, 2], n).into() }
}

fn upto(n: u16, seq: u32) -> HoldOp {
    HoldOp::Upto { flow: flow(n), seq, ack: 1 }
}

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { path: dir.path().join("fib.sock"), _dir: dir }
    }

    fn listen(&self) -> UnixListener {
        let _ = std::fs::remove_file(&self.path);
        UnixListener::bind(&self.path).unwrap()
    }
}

async fn ops(peer: &mut Peer) -> Vec<HoldOp> {
    match timeout(LIMIT, peer.next()).await.unwrap() {
        Request::Hold(ops) => ops,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_request_is_open_at_a_time_and_what_changes_meanwhile_coalesces() {
    let place = Place::new();
    let listener = place.listen();
    let holder = Holder::start(place.path.clone());
    let mut peer = Peer::accept(&listener, None).await;
    holder.upto(flow(1), 10, 1);
    assert_eq!(ops(&mut peer).await, [HoldOp::Anew, upto(1, 10)]);
    for seq in 11..1000 {
        holder.upto(flow(1), seq, 1);
    }
    holder.upto(flow(2), 5, 1);
    assert!(timeout(Duration::from_millis(50), peer.next()).await.is_err(), "one is open");
    peer.answer(Reply::Done).await;
    let mut second = ops(&mut peer).await;
    second.sort_by_key(|op| format!("{op:?}"));
    assert_eq!(second, [upto(1, 999), upto(2, 5)]);
    peer.answer(Reply::Done).await;
    timeout(LIMIT, holder.fenced()).await.unwrap();
}

#[tokio::test]
async fn a_fence_is_confirmed_when_it_stands_and_not_before() {
    let place = Place::new();
    let listener = place.listen();
    let holder = Holder::start(place.path.clone());
    let mut peer = Peer::accept(&listener, None).await;
    holder.upto(flow(1), 10, 1);
    assert_eq!(ops(&mut peer).await, [HoldOp::Anew, upto(1, 10)]);
    holder.fence(flow(1));
    let fenced = tokio::spawn({
        let holder = holder.clone();
        async move { holder.fenced().await }
    });
    peer.answer(Reply::Done).await;
    assert_eq!(ops(&mut peer).await, [HoldOp::Fence { flow: flow(1) }]);
    assert!(!fenced.is_finished());
    peer.answer(Reply::Done).await;
    timeout(LIMIT, fenced).await.unwrap().unwrap();
    holder.upto(flow(1), 12, 1);
    assert_eq!(ops(&mut peer).await, [upto(1, 12)]);
}

#[tokio::test]
async fn a_new_forwarder_hears_of_all_living_flows_before_anything_else() {
    let place = Place::new();
    let listener = place.listen();
    let holder = Holder::start(place.path.clone());
    let mut peer = Peer::accept(&listener, None).await;
    for n in 0..600 {
        holder.upto(flow(n), 1, 1);
    }
    holder.over(flow(599));
    let answers = async {
        loop {
            ops(&mut peer).await;
            peer.answer(Reply::Done).await;
        }
    };
    tokio::select! {
        () = holder.fenced() => {}
        () = answers => {}
    }
    drop((peer, listener));
    // While nobody is there nobody waits.
    assert_eq!(timeout(LIMIT, holder.adjacencies()).await.unwrap(), Err(HolderError::Away));
    holder.upto(flow(7), 70, 1);
    holder.fence(flow(8));
    let question = tokio::spawn({
        let holder = holder.clone();
        async move { holder.holds().await }
    });
    let listener = place.listen();
    let mut peer = Peer::accept(&listener, None).await;
    let mut told = vec![];
    while told.len() < 600 {
        told.extend(ops(&mut peer).await);
        peer.answer(Reply::Done).await;
    }
    assert_eq!((told.len(), told[0]), (600, HoldOp::Anew), "one is over");
    assert!(told.contains(&upto(7, 70)) && told.contains(&HoldOp::Fence { flow: flow(8) }) && told.contains(&upto(9, 1)));
    assert!(!told.iter().any(|op| matches!(op, HoldOp::Over { .. })));
    timeout(LIMIT, holder.fenced()).await.unwrap();
    // Asked while it was away, or when it was there again.
    match timeout(Duration::from_millis(200), peer.next()).await {
        Ok(request) => {
            assert_eq!(request, Request::Holds);
            peer.answer(Reply::Holds { rows: vec![] }).await;
            assert_eq!(timeout(LIMIT, question).await.unwrap().unwrap(), Ok(vec![]));
        }
        Err(_) => assert_eq!(timeout(LIMIT, question).await.unwrap().unwrap(), Err(HolderError::Away)),
    }
}

#[tokio::test]
async fn neighbours_go_both_ways() {
    let place = Place::new();
    let listener = place.listen();
    let holder = Holder::start(place.path.clone());
    let mut peer = Peer::accept(&listener, None).await;
    let n = Neighbor { address: [10, 0, 0, 2].into(), mac: MacAddr([2, 0, 0, 0, 0, 1]) };
    let row = Adjacency { address: n.address, mac: Some(n.mac), age_ms: 5 };
    let played = async {
        assert_eq!(peer.take().await, Request::Neighbors(vec![n; 512]));
        assert_eq!(peer.take().await, Request::Neighbors(vec![n; 88]));
        assert_eq!(peer.next().await, Request::Adjacencies);
        peer.answer(Reply::Adjacencies { rows: vec![row.clone()] }).await;
        peer.next().await;
        peer.answer(Reply::Refused { reason: "no interface".into() }).await;
    };
    let asked = async {
        assert_eq!(holder.neighbors(vec![n; 600]).await, Ok(()));
        assert_eq!(holder.adjacencies().await, Ok(vec![row.clone()]));
        assert_eq!(holder.neighbors(vec![n]).await, Err(HolderError::Refused("no interface".into())));
    };
    timeout(LIMIT, async { tokio::join!(played, asked) }).await.unwrap();
}

#[tokio::test]
async fn the_connection_ends_with_the_last_handle() {
    let place = Place::new();
    let listener = place.listen();
    let holder = Holder::start(place.path.clone());
    let mut peer = Peer::accept(&listener, None).await;
    let other = holder.clone();
    drop(holder);
    other.upto(flow(1), 1, 1);
    assert_eq!(peer.take().await, Request::Hold(vec![HoldOp::Anew, upto(1, 1)]));
    timeout(LIMIT, other.fenced()).await.unwrap();
    drop(other);
    timeout(LIMIT, peer.gone()).await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_is_busy_holds_nothing_up() {
    let place = Place::new();
    let listener = place.listen().into_std().unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let peer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut peer = Peer::accept(&UnixListener::from_std(listener).unwrap(), None).await;
            said.send(peer.take().await).unwrap();
        });
    });
    let holder = Holder::start(place.path.clone());
    holder.upto(flow(1), 1, 1);
    // Our own runtime stands still.
    assert_eq!(heard.recv_timeout(LIMIT).unwrap(), Request::Hold(vec![HoldOp::Anew, upto(1, 1)]));
    peer.join().unwrap();
}
