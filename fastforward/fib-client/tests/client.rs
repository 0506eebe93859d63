//! The client against a FastForward played by the test: what it tells, when it says End, and how it starts over.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

mod peer;

use edgeplex_ff_fib_api::{FibOp, Reply, Request, Status, Target};
use edgeplex_ff_fib_client::{Client, Event, Source};
use edgeplex_types::Epoch;
use peer::{LIMIT, Peer};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{net::UnixListener, time::timeout};

/// As many routes as `total`, one operation each.
struct Routes {
    total: u8,
    told: u8,
    restarts: u32,
}

impl Routes {
    fn new(total: u8) -> Self {
        Self { total, told: 0, restarts: 0 }
    }
}

impl Source for Routes {
    fn restart(&mut self) {
        self.told = 0;
        self.restarts += 1;
    }

    fn take(&mut self, _: usize) -> Vec<FibOp> {
        if self.told == self.total {
            return vec![];
        }
        self.told += 1;
        let prefix = ipnet::Ipv4Net::new([10, self.told, 0, 0].into(), 16).unwrap().into();
        vec![FibOp::Route { prefix, target: Target::Unreachable }]
    }

    fn complete(&self) -> bool {
        self.told == self.total
    }
}

/// Runs the owner's loop: an event, then a flush.
async fn own(path: PathBuf, mut routes: Routes, turns: tokio::sync::mpsc::Sender<u32>) {
    let mut client = Client::start(path);
    loop {
        let deadline = client.deadline();
        tokio::select! {
            event = client.event() => { client.handle(Instant::now(), event); }
            () = async { match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            } } => {}
        }
        client.flush(Instant::now(), &mut routes);
        if turns.send(routes.restarts).await.is_err() {
            return;
        }
    }
}

async fn run<F: Future<Output = ()>>(routes: Routes, play: impl FnOnce(UnixListener, PathBuf) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fib.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (turns, mut turned) = tokio::sync::mpsc::channel(64);
    let owner = tokio::spawn(own(path.clone(), routes, turns));
    let drain = async { while turned.recv().await.is_some() {} };
    tokio::select! {
        played = timeout(LIMIT, play(listener, path)) => played.unwrap(),
        () = drain => panic!("the owner ended"),
    }
    owner.abort();
}

fn epoch_of(request: &Request) -> Epoch {
    match request {
        Request::Begin { epoch } | Request::Program { epoch, .. } | Request::End { epoch } => *epoch,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_snapshot_has_one_epoch_above_every_former_one_and_ends_when_all_of_it_was_taken() {
    let future = Epoch(u64::MAX - 9);
    run(Routes::new(20), |listener, _| async move {
        let mut peer = Peer::accept(&listener, Some(future)).await;
        let begin = peer.next().await;
        assert!(matches!(begin, Request::Begin { .. }) && epoch_of(&begin) > future);
        // Without an answer to one of them no End comes, however long.
        let mut unanswered = 1;
        for _ in 0..20 {
            let request = peer.next().await;
            assert!(matches!(request, Request::Program { .. }) && epoch_of(&request) == epoch_of(&begin), "{request:?}");
            unanswered += 1;
            if unanswered == 8 {
                peer.answer(Reply::Done).await;
                unanswered -= 1;
            }
        }
        for _ in 1..unanswered {
            peer.answer(Reply::Done).await;
        }
        assert!(timeout(Duration::from_millis(100), peer.next()).await.is_err());
        peer.answer(Reply::Done).await;
        assert_eq!(peer.next().await, Request::End { epoch: epoch_of(&begin) });
    })
    .await;
}

#[tokio::test]
async fn a_refused_batch_starts_the_snapshot_over_without_an_end() {
    run(Routes::new(2), |listener, _| async move {
        let mut peer = Peer::accept(&listener, None).await;
        let begin = peer.take().await;
        peer.take().await;
        assert!(matches!(peer.next().await, Request::Program { .. }));
        peer.answer(Reply::Refused { reason: "as the test wants it".into() }).await;
        let again = peer.take().await;
        assert!(matches!(again, Request::Begin { epoch } if epoch > epoch_of(&begin)), "{again:?}");
        peer.take().await;
        peer.take().await;
        assert_eq!(peer.take().await, Request::End { epoch: epoch_of(&again) });
    })
    .await;
}

#[tokio::test]
async fn a_new_forwarder_is_told_everything_again() {
    run(Routes::new(3), |listener, path: PathBuf| async move {
        let mut peer = Peer::accept(&listener, None).await;
        let begin = peer.take().await;
        peer.take().await;
        // Dies in the middle, file and all.
        drop((peer, listener));
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(Path::new(&path)).unwrap();
        let mut peer = Peer::accept(&listener, None).await;
        let again = peer.take().await;
        assert!(epoch_of(&again) > epoch_of(&begin));
        for _ in 0..3 {
            assert!(matches!(peer.take().await, Request::Program { .. }));
        }
        assert!(matches!(peer.take().await, Request::End { .. }));
    })
    .await;
}

#[tokio::test]
async fn events_of_a_past_connection_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = Client::start(dir.path().join("nobody.sock"));
    let now = Instant::now();
    let status = Status { uptime_ms: 0, epoch: None, routes: 0, tunnels: 0, fib_bytes: 0, labels: 0 };
    assert!(client.handle(now, Event::Up { connection: 2, status }).is_some());
    assert!(client.handle(now, Event::Down { connection: 1, reason: "late".into() }).is_none());
    assert!(client.is_up());
    client.handle(now, Event::Reply { connection: 1, reply: Reply::Refused { reason: "late".into() } });
    assert_eq!(client.deadline(), None);
    client.handle(now, Event::Down { connection: 2, reason: "gone".into() });
    assert!(!client.is_up());
}
