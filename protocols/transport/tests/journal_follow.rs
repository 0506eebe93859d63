//! Leader and follower: what the standby has, and what is committed when.
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

mod journal_common;

use edgeplex_journal::{Begin, Record, State, Welcome, write_begin};
use edgeplex_transport::{
    journal::{Followed, Follower, FollowerView, Journal},
    tcp::boot_ms,
};
use journal_common::{Told, What, opened, pump::Pump, put};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::UnixStream, task::JoinHandle};

struct Pair {
    dir: TempDir,
    leader: Journal,
}

impl Pair {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let leader = Journal::open(&dir.path().join("leader")).unwrap().0;
        leader.serve(dir.path().join("journal.sock")).unwrap();
        Self { dir, leader }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn follower(&self) -> (Follower, Vec<Record>) {
        Follower::listen(self.path("follow.sock"), &self.path("standby")).unwrap()
    }

    async fn pump(&self) -> Pump {
        Pump::join(&self.path("journal.sock"), &self.path("follow.sock")).await
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
}

async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Applies what is followed until it is caught up; how often it began anew.
async fn catch_up(follower: &mut Follower, state: &mut State) -> u32 {
    let mut resets = 0;
    loop {
        match soon(follower.next()).await {
            Followed::Reset => {
                *state = State::new(1 << 30);
                resets += 1;
            }
            Followed::Record(record) => state.apply(&record).unwrap(),
            Followed::CaughtUp => return resets,
            Followed::LeaderLost => {}
        }
    }
}

fn names(state: &State) -> Vec<&str> {
    state.values().keys().map(String::as_str).collect()
}

/// Takes all that comes, as a standby's daemon does.
struct Standby {
    state: Arc<Mutex<State>>,
    view: FollowerView,
    task: JoinHandle<()>,
}

impl Standby {
    fn start(mut follower: Follower) -> Self {
        let state = Arc::new(Mutex::new(State::new(1 << 30)));
        let view = follower.view();
        let shared = state.clone();
        let task = tokio::spawn(async move {
            loop {
                match follower.next().await {
                    Followed::Reset => *shared.lock().unwrap() = State::new(1 << 30),
                    Followed::Record(record) => shared.lock().unwrap().apply(&record).unwrap(),
                    Followed::CaughtUp | Followed::LeaderLost => {}
                }
            }
        });
        Self { state, view, task }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_has_all_and_goes_on_after_a_cut_without_beginning_anew() {
    let pair = Pair::new();
    pair.leader.append(&put("a", b"1"));
    let (mut follower, found) = pair.follower();
    assert_eq!(found, []);
    let pump = pair.pump().await;
    let mut state = State::new(1 << 30);
    assert_eq!(catch_up(&mut follower, &mut state).await, 1);
    assert_eq!(names(&state), ["a"]);
    until(|| pair.leader.status().in_sync && follower.view().status().in_sync).await;
    assert_eq!(follower.view().status().leader_lost_ms, None);

    pair.leader.append(&put("b", b"2"));
    assert_eq!(soon(follower.next()).await, Followed::Record(put("b", b"2")));
    pump.cut();
    assert_eq!(soon(follower.next()).await, Followed::LeaderLost);
    assert!(follower.view().status().leader_lost_ms.is_some());
    pair.leader.append(&put("c", b"3"));
    let _pump = pair.pump().await;
    assert_eq!(soon(follower.next()).await, Followed::Record(put("c", b"3")), "the rest, not everything");
    assert_eq!(soon(follower.next()).await, Followed::CaughtUp);
    soon(pair.leader.committed_all()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_starts_again_goes_on_from_its_file() {
    let pair = Pair::new();
    pair.leader.append(&put("a", b"1"));
    let (mut follower, _) = pair.follower();
    let pump = pair.pump().await;
    catch_up(&mut follower, &mut State::new(1 << 30)).await;
    drop((follower, pump));
    pair.leader.append(&put("b", b"2"));
    let (mut follower, found) = pair.follower();
    assert_eq!(found, [put("a", b"1")]);
    let _pump = pair.pump().await;
    let mut state = journal_common::state_of(&found);
    assert_eq!(catch_up(&mut follower, &mut state).await, 0);
    assert_eq!(names(&state), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_let_go_that_the_standby_has_not() {
    let pair = Pair::new();
    let told = Arc::new(Told::default());
    pair.leader.set_gate(told.clone());
    let mut log = pair.leader.session(opened(1));
    // Alone, and at once.
    assert_eq!(told.last(), Some(What::Upto(u32::MAX - 1, 1000)));
    log.received(b"0123456789");
    assert_eq!(told.last(), Some(What::Upto(u32::MAX - 1, 1010)));
    log.sent(b"abc");
    assert_eq!(told.last(), Some(What::Upto(1, 1010)), "sequence numbers wrap");

    let (follower, _) = pair.follower();
    let pump = pair.pump().await;
    let standby = Standby::start(follower);
    until(|| pair.leader.status().in_sync).await;
    pump.run(false);
    log.received(b"x");
    assert_eq!(told.last(), Some(What::Upto(1, 1010)));
    let status = pair.leader.status();
    assert!(status.committed < status.end);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(told.last(), Some(What::Upto(1, 1010)));
    pump.run(true);
    until(|| told.last() == Some(What::Upto(1, 1011))).await;
    until(|| standby.state.lock().unwrap().sessions().values().any(|s| s.received.ends_with(b"x"))).await;

    // A fence stays whatever is committed, and over comes last.
    log.fence();
    log.sent(b"y");
    soon(pair.leader.committed_all()).await;
    assert_eq!(told.last(), Some(What::Fence));
    log.unfence();
    assert_eq!(told.last(), Some(What::Upto(2, 1011)));
    pump.run(false);
    log.close();
    assert_eq!(told.last(), Some(What::Upto(2, 1011)));
    pump.run(true);
    until(|| told.last() == Some(What::Over)).await;
    assert_eq!(pair.leader.status().sessions, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_standby_is_waited_for_a_second_and_no_longer() {
    let pair = Pair::new();
    let (follower, _) = pair.follower();
    let pump = pair.pump().await;
    let standby = Standby::start(follower);
    until(|| pair.leader.status().in_sync).await;
    assert_eq!(pair.leader.status().problems, Vec::<String>::new());
    pump.run(false);
    let begin = Instant::now();
    pair.leader.append(&put("a", b"1"));
    soon(pair.leader.committed_all()).await;
    let waited = begin.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_millis(2000)).contains(&waited), "{waited:?}");
    let status = pair.leader.status();
    assert!(!status.in_sync && status.followers == 0);
    assert!(status.problems.iter().any(|p| p.contains("alone")), "{:?}", status.problems);
    // By then the standby knows that it may have missed something.
    assert!(standby.view.status().leader_lost_ms.unwrap() >= 800);
    drop(pump);
    let _pump = pair.pump().await;
    until(|| pair.leader.status().in_sync).await;
    assert_eq!(pair.leader.status().problems, Vec::<String>::new());
    until(|| standby.view.status().leader_lost_ms.is_none()).await;
    assert_eq!(names(&standby.state.lock().unwrap()), ["a"]);
}

/// The standby's acknowledgements are lost, but it hears everything: it must not believe longer than the leader waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_heard_does_not_believe_to_be_in_sync() {
    let pair = Pair::new();
    let (follower, _) = pair.follower();
    let pump = pair.pump().await;
    let standby = Standby::start(follower);
    until(|| pair.leader.status().in_sync).await;
    pump.to_leader.send_replace(false);
    pair.leader.append(&put("a", b"1"));
    soon(pair.leader.committed_all()).await;
    assert!(standby.view.status().leader_lost_ms.is_some_and(|ms| ms >= 1000), "{:?}", standby.view.status());
}

/// A standby whose connection ends may still be promoted: for its lease's time nothing is let go that it has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_was_cut_off_is_waited_for_too() {
    let pair = Pair::new();
    let (follower, _) = pair.follower();
    let pump = pair.pump().await;
    let _standby = Standby::start(follower);
    until(|| pair.leader.status().in_sync).await;
    pump.cut();
    until(|| pair.leader.status().followers == 0).await;
    pair.leader.append(&put("a", b"1"));
    let status = pair.leader.status();
    assert!(status.committed < status.end);
    // Back within the time, it takes no time.
    let begin = Instant::now();
    let pump = pair.pump().await;
    soon(pair.leader.committed_all()).await;
    assert!(begin.elapsed() < Duration::from_millis(700), "{:?}", begin.elapsed());
    until(|| pair.leader.status().in_sync).await;
    pump.cut();
    until(|| pair.leader.status().followers == 0).await;
    let begin = Instant::now();
    pair.leader.append(&put("b", b"2"));
    soon(pair.leader.committed_all()).await;
    assert!(begin.elapsed() > Duration::from_millis(500));
    assert!(pair.leader.status().problems.iter().any(|p| p.contains("alone")));
}

/// The process died and is back before its standby was told: what it says next the standby must have, or know that it has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_starts_again_waits_for_the_standby_it_had() {
    let Pair { dir, leader } = Pair::new();
    let (follower, _) = Follower::listen(dir.path().join("follow.sock"), &dir.path().join("standby")).unwrap();
    let (socket, standbys) = (dir.path().join("journal.sock"), dir.path().join("follow.sock"));
    let pump = Pump::join(&socket, &standbys).await;
    let standby = Standby::start(follower);
    until(|| leader.status().in_sync).await;
    let copy = dir.path().join("again");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(dir.path().join("leader/journal"), copy.join("journal")).unwrap();
    drop((leader, pump));
    let (leader, _) = Journal::open(&copy).unwrap();
    leader.serve(dir.path().join("journal.sock")).unwrap();
    leader.append(&put("later", b""));
    assert!(leader.status().committed < leader.end());
    let _pump = Pump::join(&socket, &standbys).await;
    until(|| leader.status().in_sync).await;
    until(|| standby.state.lock().unwrap().values().contains_key("later")).await;
    drop(leader);
    // Without it: after a second.
    let (leader, _) = Journal::open(&copy).unwrap();
    let begin = Instant::now();
    leader.append(&put("alone", b""));
    soon(leader.committed_all()).await;
    assert!((Duration::from_millis(900)..Duration::from_millis(2500)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_has_everything_and_is_a_journal_of_its_own() {
    let pair = Pair::new();
    let mut log = pair.leader.session(opened(1));
    log.sent(b"abc");
    let (mut follower, _) = pair.follower();
    let pump = pair.pump().await;
    let mut state = State::new(1 << 30);
    catch_up(&mut follower, &mut state).await;
    log.received(b"defg");
    pair.leader.append(&put("a", b"1"));
    soon(pair.leader.committed_all()).await;
    // Not handed on yet.
    let (promoted, rest) = follower.into_journal().unwrap();
    for followed in rest {
        match followed {
            Followed::Record(record) => state.apply(&record).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names(&state), ["a"]);
    assert_eq!(state.sessions()[&log.id()].received, b"defg");
    drop(pump);
    // Alone at once: nobody follows it.
    promoted.append(&put("b", b"2"));
    assert_eq!(promoted.status().committed, promoted.status().end);
    assert!(promoted.session(opened(2)).id() > log.id());
    // Its past leader, come back as a standby, knows things that nobody else does: it begins anew.
    pair.leader.append(&put("nobody else's", b""));
    promoted.serve(pair.path("journal2.sock")).unwrap();
    let old = pair.path("leader");
    drop((log, pair.leader));
    let (mut follower, found) = Follower::listen(pair.dir.path().join("follow2.sock"), &old).unwrap();
    let mut state = journal_common::state_of(&found);
    let _pump = Pump::join(&pair.dir.path().join("journal2.sock"), &pair.dir.path().join("follow2.sock")).await;
    assert_eq!(catch_up(&mut follower, &mut state).await, 1);
    assert_eq!(names(&state), ["a", "b"]);
    // A promoted journal is as good as any for the next process.
    drop(promoted);
    let (_, found) = Journal::open(&pair.dir.path().join("standby")).unwrap();
    assert_eq!(names(&journal_common::state_of(&found)), ["a", "b"]);
}

/// A leader on a host that is up for longer, or shorter: what its records say of time counts by its clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_knows_its_leaders_clock() {
    let close = |journal: &Journal, theirs_ms: u64| (0..5000).contains(&journal.past_now_ms().wrapping_sub(theirs_ms));
    for now_ms in [boot_ms() + (100 << 30), 1] {
        let dir = TempDir::new().unwrap();
        let (mut follower, _) = Follower::listen(dir.path().join("follow.sock"), &dir.path().join("standby")).unwrap();
        let mut said = Welcome { format: 1, resumes: false }.encode_with_clock(now_ms);
        write_begin(&mut said, &Begin { journal: 7, position: 0, next_session: 1 });
        let mut leader = UnixStream::connect(dir.path().join("follow.sock")).await.unwrap();
        leader.write_all(&said).await.unwrap();
        assert_eq!(soon(follower.next()).await, Followed::Reset);
        let (journal, _) = follower.into_journal().unwrap();
        assert!(close(&journal, now_ms), "{} and {now_ms}", journal.past_now_ms());
        // Once it is promoted its own clock is all that counts.
        drop(journal);
        let (journal, _) = Journal::open(&dir.path().join("standby")).unwrap();
        assert!(close(&journal, boot_ms()));
    }
    // On this host it is ours.
    let pair = Pair::new();
    let (mut follower, _) = pair.follower();
    let _pump = pair.pump().await;
    catch_up(&mut follower, &mut State::new(1 << 30)).await;
    assert!(close(&follower.into_journal().unwrap().0, boot_ms()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_compact_while_one_follows_the_other() {
    let pair = Pair::new();
    let (follower, _) = pair.follower();
    let _pump = pair.pump().await;
    let standby = Standby::start(follower);
    until(|| pair.leader.status().in_sync).await;
    for n in 0..30_000_u32 {
        pair.leader.append(&put(&format!("name/{}", n % 7), &[&n.to_be_bytes()[..], &[1; 600]].concat()));
        if n % 500 == 0 {
            soon(pair.leader.committed_all()).await;
        }
    }
    soon(pair.leader.committed_all()).await;
    until(|| pair.leader.status().compactions > 0 && standby.view.status().compactions > 0).await;
    until(|| standby.state.lock().unwrap().values().get("name/4").is_some_and(|v| v[..4] == 29_999_u32.to_be_bytes())).await;
    let state = standby.state.lock().unwrap().clone();
    assert_eq!(state.values().len(), 7);
    for (name, value) in state.values() {
        let n = u32::from_be_bytes(value[..4].try_into().unwrap());
        assert_eq!(format!("name/{}", n % 7), *name);
        assert!(n > 29_992);
    }
    assert_eq!(standby.view.status().end, pair.leader.status().end);
    assert!(pair.leader.status().in_sync);
}

/// 60 MB behind: while it takes them nobody waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_catches_up_holds_nobody_up() {
    let pair = Pair::new();
    for n in 0..60 {
        pair.leader.append(&put(&format!("large/{n}"), &vec![0; 1_000_000]));
    }
    let (follower, _) = pair.follower();
    let pump = pair.pump().await;
    let standby = Standby::start(follower);
    until(|| pair.leader.status().shipped > 1 << 20).await;
    pump.run(false);
    pair.leader.append(&put("small", b""));
    assert_eq!(pair.leader.status().committed, pair.leader.status().end);
    pump.run(true);
    until(|| pair.leader.status().in_sync).await;
    until(|| standby.state.lock().unwrap().values().len() == 61).await;
}

/// One round trip through the platform's pump, and nothing without a standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_takes_a_round_trip() {
    let pair = Pair::new();
    let mut log = pair.leader.session(opened(1));
    let begin = Instant::now();
    for _ in 0..1000 {
        log.received(&[0; 100]);
        assert_eq!(pair.leader.status().committed, pair.leader.status().end);
    }
    let alone = begin.elapsed() / 1000;
    let (follower, _) = pair.follower();
    let _pump = pair.pump().await;
    let _standby = Standby::start(follower);
    until(|| pair.leader.status().in_sync).await;
    let mut times = Vec::new();
    for _ in 0..300 {
        let begin = Instant::now();
        log.received(&[0; 100]);
        soon(pair.leader.committed_all()).await;
        times.push(begin.elapsed());
    }
    times.sort();
    println!("commit: alone {alone:?}, with a standby median {:?}, worst of 300 {:?}", times[150], times[299]);
    assert!(alone < Duration::from_millis(1) && times[150] < Duration::from_millis(20), "{alone:?} {:?}", times[150]);
}
