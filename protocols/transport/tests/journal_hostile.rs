//! The other end of a journal's connection may be anyone: it gets nothing, and costs nothing. And a disk may be full.
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

mod journal_common;

use edgeplex_journal::{Ack, Begin, Hello, Welcome, write_begin, write_record};
use edgeplex_transport::journal::{Followed, Follower, Journal};
use journal_common::{Told, What, opened, pump::Pump, put, state_of};
use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

async fn until(what: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(30), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

async fn ends(mut stream: UnixStream) {
    let mut bytes = vec![0; 64 << 10];
    tokio::time::timeout(Duration::from_secs(20), async { while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {} }).await.unwrap();
}

fn leader(dir: &Path) -> Journal {
    let (journal, _) = Journal::open(&dir.join("leader")).unwrap();
    journal.serve(dir.join("journal.sock")).unwrap();
    journal.append(&put("a", b"1"));
    journal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lies_or_babbles_is_sent_away() {
    let dir = TempDir::new().unwrap();
    let journal = leader(dir.path());
    let dial = || UnixStream::connect(dir.path().join("journal.sock"));
    let hello = Hello::ours(0, 0).encode();
    let lie = Ack { number: 1, position: 1 << 60 }.encode();
    let twice = [Ack { number: 5, position: 0 }.encode(), Ack { number: 5, position: 0 }.encode()].concat();
    let unknown = Hello { formats: (7, 9), journal: 0, position: 0 }.encode();
    for said in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), [&hello[..], &lie].concat(), [&hello[..], &twice].concat(), unknown] {
        let mut stream = dial().await.unwrap();
        stream.write_all(&said).await.unwrap();
        ends(stream).await;
    }
    // Nor did anyone wait for them.
    journal.append(&put("b", b"2"));
    assert_eq!(journal.status().committed, journal.status().end);
    until(|| journal.status().followers == 0).await;
    // One whose only fault is its format is told so.
    let mut stream = dial().await.unwrap();
    stream.write_all(&Hello { formats: (7, 9), journal: 0, position: 0 }.encode()).await.unwrap();
    let mut bytes = vec![];
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(Welcome::read(&bytes).unwrap().unwrap().0, Welcome { format: 0, resumes: false });
}

/// It reads a little and then no more: it is sent away, and the file goes on being compacted meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_does_not_read_costs_nothing() {
    let dir = TempDir::new().unwrap();
    let journal = leader(dir.path());
    let mut stream = UnixStream::connect(dir.path().join("journal.sock")).await.unwrap();
    stream.write_all(&Hello::ours(0, 0).encode()).await.unwrap();
    until(|| journal.status().followers == 1).await;
    let begin = Instant::now();
    while journal.status().followers > 0 {
        for n in 0..20 {
            journal.append(&put(&format!("name/{n}"), &vec![0; 50_000]));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert_eq!(journal.status().committed, journal.status().end);
    }
    until(|| journal.status().file < 8 << 20).await;
    assert!(journal.status().shipped < 4 << 20, "{:?}", journal.status());
}

/// What a leader may say that is wrong, one connection each.
fn wrong_leaders() -> Vec<Vec<u8>> {
    let welcome = |resumes| Welcome { format: 1, resumes }.encode();
    let mut put_frame = Vec::new();
    write_record(&mut put_frame, &put("x", b"y")).unwrap();
    let mut flipped = put_frame.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut far = Vec::new();
    write_begin(&mut far, &Begin { journal: 1, position: u64::MAX, next_session: u64::MAX });
    vec![
        b"SSH-2.0-nobody".to_vec(),
        Welcome { format: 9, resumes: false }.encode(),
        [&welcome(false)[..], &flipped].concat(),
        [&welcome(true)[..], &[0xff; 100]].concat(),
        [&welcome(false)[..], &put_frame, &far, &put_frame, &put_frame].concat(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lies_or_babbles_does_no_harm() {
    let dir = TempDir::new().unwrap();
    let (mut follower, _) = Follower::listen(dir.path().join("follow.sock"), &dir.path().join("standby")).unwrap();
    let view = follower.view();
    let mut said = Vec::new();
    for wrong in wrong_leaders() {
        let mut stream = UnixStream::connect(dir.path().join("follow.sock")).await.unwrap();
        let _ = stream.write_all(&wrong).await;
        let _ = stream.shutdown().await;
        loop {
            match tokio::time::timeout(Duration::from_secs(10), follower.next()).await.unwrap() {
                Followed::LeaderLost => break,
                other => said.push(other),
            }
        }
        assert!(!view.status().in_sync);
    }
    assert!(!said.contains(&Followed::CaughtUp));
    // A state that is not whole never takes the place of one that is; a whole one does.
    assert_eq!(said.iter().filter(|s| **s == Followed::Reset).count(), 1);
    // A right one comes, and all is well: even behind a position at the end of all numbers.
    let journal = leader(dir.path());
    let _pump = Pump::join(&dir.path().join("journal.sock"), &dir.path().join("follow.sock")).await;
    loop {
        if tokio::time::timeout(Duration::from_secs(10), follower.next()).await.unwrap() == Followed::CaughtUp {
            break;
        }
    }
    until(|| journal.status().in_sync).await;
}

/// A newer connection takes the place of one that says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_keeps_the_leader_from_its_standby() {
    let dir = TempDir::new().unwrap();
    let journal = leader(dir.path());
    let (_follower, _) = Follower::listen(dir.path().join("follow.sock"), &dir.path().join("standby")).unwrap();
    let _silent = UnixStream::connect(dir.path().join("follow.sock")).await.unwrap();
    let _pump = Pump::join(&dir.path().join("journal.sock"), &dir.path().join("follow.sock")).await;
    until(|| journal.status().in_sync).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_long_is_told_and_not_written() {
    let dir = TempDir::new().unwrap();
    let journal = leader(dir.path());
    let end = journal.end();
    journal.append(&put("large", &vec![0; 2 << 20]));
    assert_eq!(journal.end(), end);
    assert!(journal.status().problems[0].contains("was not written"));
}

/// A small tmpfs, gone with this.
struct Small(TempDir);

impl Small {
    fn mount(kilobytes: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let size = format!("size={kilobytes}k");
        assert!(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "journal-test"]).arg(dir.path()).status().unwrap().success());
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root (mounts a tmpfs)"]
async fn a_full_disk_that_a_compaction_makes_room_on_is_no_loss() {
    let small = Small::mount(1000);
    let (journal, _) = Journal::open(small.path()).unwrap();
    for n in 0..2000_u32 {
        journal.append(&put("name", &[&n.to_be_bytes()[..], &[0; 4000]].concat()));
        if n % 10 == 0 {
            // As fast as it can be made room for; a second's worth of what a neighbour says is less.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tokio::time::timeout(Duration::from_secs(10), journal.committed_all()).await.unwrap();
    assert_eq!(journal.status().problems, Vec::<String>::new());
    assert!(journal.status().compactions > 1);
    drop(journal);
    let (_, found) = Journal::open(small.path()).unwrap();
    assert_eq!(state_of(&found).values()["name"][..4], 1999_u32.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root (mounts a tmpfs)"]
async fn a_disk_that_stays_full_is_told_holds_nobody_up_and_is_recovered_from() {
    let small = Small::mount(1000);
    let (journal, _) = Journal::open(small.path()).unwrap();
    let told = Arc::new(Told::default());
    journal.set_gate(told.clone());
    journal.append(&put("kept", b"before"));
    let mut healthy = journal.session(opened(1));
    healthy.sent(b"all of it");
    let mut log = journal.session(opened(2));
    let filler = small.path().join("filler");
    std::fs::write(&filler, vec![0; 900 << 10]).unwrap();
    let mut count = 0;
    while journal.status().unprotected == 0 {
        log.received(&[1; 1000]);
        count += 1000;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It goes on, as if there were no journal.
    log.sent(b"x");
    assert_eq!(told.last(), Some(What::Upto(u32::MAX, 1000 + count)));
    journal.append(&put("kept", b"after"));
    tokio::time::timeout(Duration::from_secs(5), journal.committed_all()).await.unwrap();
    let status = journal.status();
    assert!(status.problems.iter().any(|p| p.contains("takes no more")), "{status:?}");
    assert!(!status.in_sync);
    let stored = || std::fs::read(small.path().join("journal")).unwrap();
    assert!(edgeplex_journal::has_holes(&stored()), "killed now, no other process may take sessions over");
    // Room again.
    std::fs::remove_file(&filler).unwrap();
    until(|| !journal.status().problems.iter().any(|p| p.contains("takes no more"))).await;
    let status = journal.status();
    assert_eq!((status.unprotected, status.sessions), (1, 2));
    assert!(!edgeplex_journal::has_holes(&stored()));
    log.sent(b"still without");
    healthy.sent(b", and more");
    log.close();
    let next = journal.session(opened(3));
    assert_eq!(journal.status().unprotected, 0);
    assert_eq!(journal.status().problems, Vec::<String>::new());
    assert_eq!(journal.status().committed, journal.status().end);
    let ids = (healthy.id(), next.id());
    drop((journal, healthy, next));
    let (_, found) = Journal::open(small.path()).unwrap();
    let state = state_of(&found);
    assert_eq!(state.values()["kept"], b"after");
    assert_eq!(state.sessions().keys().collect::<Vec<_>>(), [&ids.0, &ids.1]);
    assert_eq!(state.sessions()[&ids.0].sent, b"all of it, and more");
}

/// Its own file is full: it says so and is no standby, and the leader goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root (mounts a tmpfs)"]
async fn a_standby_whose_disk_is_full_is_none() {
    let dir = TempDir::new().unwrap();
    let small = Small::mount(400);
    let journal = leader(dir.path());
    let (follower, _) = Follower::listen(dir.path().join("follow.sock"), small.path()).unwrap();
    let pump = Pump::join(&dir.path().join("journal.sock"), &dir.path().join("follow.sock")).await;
    until(|| journal.status().in_sync).await;
    for n in 0..10 {
        journal.append(&put(&format!("name/{n}"), &[0; 100_000]));
    }
    until(|| !follower.view().status().problems.is_empty()).await;
    tokio::time::timeout(Duration::from_secs(10), journal.committed_all()).await.unwrap();
    assert!(!journal.status().in_sync);
    drop(pump);
}
