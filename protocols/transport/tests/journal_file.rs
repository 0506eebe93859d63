//! The journal's file: what was appended is there for the next process, whenever this one died.
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

mod journal_common;

use edgeplex_journal::{Progress, Record, SessionId};
use edgeplex_transport::journal::Journal;
use journal_common::{bytes, opened, put, state_of};
use std::{
    fs,
    time::{Duration, Instant},
};
use tempfile::TempDir;

#[tokio::test]
async fn what_was_appended_is_there_for_the_next_process() {
    let dir = TempDir::new().unwrap();
    let (journal, found) = Journal::open(dir.path()).unwrap();
    assert_eq!(found, []);
    let mut log = journal.session(opened(1));
    log.sent(b"hello");
    log.received(b"world");
    log.acked(3, vec![1, 2], 77, 1000);
    journal.append(&put("ospf/lsa/1", b"x"));
    journal.append(&put("ospf/lsa/2", b"y"));
    journal.append(&Record::Delete { name: "ospf/lsa/1".into() });
    journal.committed_all().await;
    let id = log.id();
    drop((log, journal));

    let (journal, found) = Journal::open(dir.path()).unwrap();
    let mut progress = None;
    for record in &found {
        match record {
            Record::Open(_, o) => progress = Some(Progress::new(o)),
            other => progress.as_mut().unwrap().apply(other).unwrap(),
        }
    }
    let progress = progress.unwrap();
    assert_eq!((progress.sent, progress.received, progress.acked, &progress.unacknowledged[..]), (5, 5, 3, &b"lo"[..]));
    let state = state_of(&found);
    assert_eq!(state.values().len(), 1);
    // It goes on, and another session has another name.
    let mut log = journal.resumed(id, &progress);
    log.sent(b"!");
    assert_eq!(log.counts(), (5, 6));
    let other = journal.session(opened(2));
    assert_ne!(other.id(), id);
    other.close();
    drop((log, journal));
    let (journal, found) = Journal::open(dir.path()).unwrap();
    let state = state_of(&found);
    assert_eq!(state.sessions()[&id].sent, b"hello!");
    assert_eq!(state.sessions().len(), 1);
    assert!(journal.session(opened(3)).id() > SessionId(2), "names are never used twice");
}

/// kill -9 in the middle of a write leaves a part of the last frame: everything before it counts, and appends go on there.
#[tokio::test]
async fn a_file_cut_at_any_byte_is_what_was_written_before() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let empty = journal.status().file;
    let mut log = journal.session(opened(1));
    let mut ends = vec![(empty, 0), (journal.status().file, 1)];
    for n in 0..6_u8 {
        if n % 2 == 0 {
            log.sent(&[n; 5])
        } else {
            log.received(&[n; 7])
        }
        ends.push((journal.status().file, ends.len()));
    }
    journal.append(&put("name", b"value"));
    ends.push((journal.status().file, ends.len()));
    drop((log, journal));
    let whole = fs::read(dir.path().join("journal")).unwrap();
    for cut in usize::try_from(empty).unwrap()..=whole.len() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("journal"), &whole[..cut]).unwrap();
        let (journal, found) = Journal::open(dir.path()).unwrap();
        let want = ends.iter().rev().find(|(end, _)| *end <= cut as u64).unwrap().1;
        assert_eq!(found.len(), want, "cut at {cut}");
        assert_eq!(journal.status().problems, Vec::<String>::new());
        journal.append(&put("later", b"one"));
        drop(journal);
        let (_, again) = Journal::open(dir.path()).unwrap();
        assert_eq!(again.len(), want + 1);
        assert_eq!(again[..want], found);
    }
}

/// Killed while it compacted: the old file is whole, and what there was of the new one goes.
#[tokio::test]
async fn a_compaction_that_was_cut_short_never_was() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.append(&put("name", b"value"));
    drop(journal);
    let whole = fs::read(dir.path().join("journal")).unwrap();
    for (n, cut) in [0, 10, whole.len() / 2, whole.len()].into_iter().enumerate() {
        fs::write(dir.path().join(format!("journal.new.{n}")), &whole[..cut]).unwrap();
    }
    let (_, found) = Journal::open(dir.path()).unwrap();
    assert_eq!(found, [put("name", b"value")]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_cannot_be_understood_is_put_aside_and_told() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    journal.append(&put("name", b"value"));
    drop(journal);
    let path = dir.path().join("journal");
    let whole = fs::read(&path).unwrap();
    for flip in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[flip] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (journal, found) = Journal::open(dir.path()).unwrap();
        // A wrong length may look like a frame that was cut.
        assert!(found.is_empty());
        let told = journal.status().problems;
        assert_eq!(told.is_empty(), !dir.path().join("journal.bad").exists(), "{flip} {told:?}");
        journal.append(&put("goes", b"on"));
        drop(journal);
        let _ = fs::remove_file(dir.path().join("journal.bad"));
    }
}

/// What is written without end: more than any table takes, so that nobody waits until it is calm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_grows_and_grows_is_compacted_while_it_is_written() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let value = vec![7; 16_000];
    let (mut largest, mut n) = (0, 0_u32);
    while journal.status().compactions < 2 {
        journal.append(&put(&format!("name/{}", n % 10), &[&n.to_be_bytes()[..], &value].concat()));
        n += 1;
        largest = largest.max(journal.status().file);
        assert!(n < 60_000, "{:?}", journal.status());
        if n % 10 == 0 {
            // As fast as a neighbour may be.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let status = journal.status();
    // A compaction has its time, in which more is written.
    assert!((64 << 20..512 << 20).contains(&largest) && status.saved > 100 << 20, "{largest} {status:?}");
    assert_eq!((status.committed, &status.problems), (status.end, &vec![]), "positions go on");
    drop(journal);
    let (journal, found) = Journal::open(dir.path()).unwrap();
    let state = state_of(&found);
    assert_eq!(state.values().len(), 10);
    for (name, value) in state.values() {
        let last = u32::from_be_bytes(value[..4].try_into().unwrap());
        assert!((n - 10..n).contains(&last) && *name == format!("name/{}", last % 10));
    }
    assert_eq!(journal.status().end, status.end);
}

/// A table that is being learnt gets no shorter: nothing is compacted meanwhile, only afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_compacted_when_it_is_calm() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let mut changed = journal.changed();
    let begin = Instant::now();
    let mut n = 0_u32;
    // Longer than it takes to be calm, and more than is ever little.
    while begin.elapsed() < Duration::from_secs(4) {
        for _ in 0..10 {
            journal.append(&put(&format!("name/{}", n % 5), &[1; 1000]));
            n += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = journal.status();
    assert!((2 << 20..60 << 20).contains(&status.file) && status.compactions == 0, "{status:?}");
    // A little goes on all the time.
    let little = tokio::spawn({
        let journal = journal.clone();
        async move {
            loop {
                journal.append(&put("little", &[2; 100]));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    tokio::time::timeout(Duration::from_secs(30), async {
        while journal.status().compactions == 0 {
            changed.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    little.abort();
    assert!(journal.status().file < 100_000, "{:?}", journal.status());
}

#[tokio::test]
async fn a_session_of_a_long_life_costs_what_its_table_costs() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let mut changed = journal.changed();
    let mut log = journal.session(opened(1));
    log.sent(&bytes::open_and_keepalive(65001));
    log.received(&bytes::open_and_keepalive(65002));
    for n in 0..40_000_u32 {
        log.received(&bytes::update(n % 100, n));
        log.sent(&bytes::keepalive());
        log.acked(log.counts().1, Vec::new(), 0, 0);
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::timeout(Duration::from_secs(60), async {
        while journal.status().file > 100_000 {
            changed.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    let counts = log.counts();
    let id = log.id();
    drop((log, journal));
    let (_, found) = Journal::open(dir.path()).unwrap();
    let mut state = state_of(&found);
    state.shorten();
    let session = &state.sessions()[&id];
    assert!(session.received.len() < 10_000, "{} bytes", session.received.len());
    assert_eq!(session.opened.tcp.received_skipped + session.received.len() as u64, counts.0);
    assert_eq!(session.opened.tcp.sent_skipped + session.sent.len() as u64, counts.1);
}

/// Its disk was full when it died: sessions have holes.
#[tokio::test]
async fn of_a_file_with_holes_the_values_go_on_and_the_sessions_do_not() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path()).unwrap();
    let mut log = journal.session(opened(1));
    log.sent(b"hello");
    let id = log.id();
    journal.append(&put("name", b"value"));
    drop((log, journal));
    let path = dir.path().join("journal");
    let mut file = fs::read(&path).unwrap();
    let (at, mark) = edgeplex_journal::HOLES;
    file[usize::try_from(at).unwrap()] = mark;
    fs::write(&path, file).unwrap();
    let (journal, found) = Journal::open(dir.path()).unwrap();
    assert_eq!(found, [put("name", b"value")]);
    assert!(journal.session(opened(2)).id() > id, "names are never used twice");
    assert_eq!(journal.status().problems, [""; 0]);
    drop(journal);
    let (_, found) = Journal::open(dir.path()).unwrap();
    assert_eq!(found.len(), 2, "the mark is gone: {found:?}");
}
