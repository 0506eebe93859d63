//! A second instance follows the first and takes its place.

use crate::{
    place::{MANY, Place, TooSlow, run, run_in_time, until},
    router::{Kind, Router},
    vm::{Vm, join},
};
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::{InstanceOrder, InstanceState, InstanceStatus, STALE_MS},
};
use std::time::{Duration, Instant};

/// One that speaks, one that follows, a session, and all the router's routes at both.
async fn two(kind: Kind) -> (Place, Router, Vm, Vm, tokio::task::JoinHandle<()>) {
    let mut place = Place::new();
    let mut first = place.vm(Instance { generation: 1, role: InstanceRole::Active });
    let mut second = place.vm(Instance { generation: 2, role: InstanceRole::Standby });
    place.lead_to(&first);
    let router = Router::start(&mut place, kind);
    first.start_pvmd();
    second.start_pvmd();
    let joined = join(&first, &second);
    router.up().await;
    router.many(true);
    until("the CVM has all", async || (place.cvm.table.lock().unwrap().routes.len() == MANY + 2).then_some(())).await;
    second.until("it has all and forwards", |s| s.in_sync && s.forwards && s.sessions == 1).await;
    until("its RIB is whole", async || second.status().await.filter(|s| s.customer_routes == MANY as u64 + 1)).await;
    first.until("and its leader knows", |s| s.in_sync).await;
    (place, router, first, second, joined)
}

/// The leader's VM dies, and the standby goes on with the session. Later than its lease allows it must not, as the leader may have
/// gone on without it.
async fn succeed(place: &Place, leader: &mut Vm, standby: &Vm, generation: u64) -> Result<InstanceStatus, TooSlow> {
    if !leader.instance().await.is_some_and(|s| s.in_sync) {
        return Err(TooSlow("the standby does not keep pace with its leader".into()));
    }
    let dead = Instant::now();
    leader.kill();
    place.lead_to(standby);
    let s = standby.order(InstanceOrder::Promote { generation }).await.unwrap();
    let took = dead.elapsed();
    eprintln!("{took:?} after the death: {:?}", s.promoted);
    assert_eq!((s.generation, s.state), (generation, InstanceState::Active));
    // What it knew last of its leader was up to two beats old.
    if s.promoted.is_some_and(|p| p.lost > 0) && took > Duration::from_millis(STALE_MS - 250) {
        return Err(TooSlow(format!("{took:?} from the death to the standby's first word")));
    }
    assert_eq!(s.promoted.map(|p| (p.sessions, p.lost)), Some((1, 0)), "after {took:?}: {:?}", s.problems);
    Ok(s)
}

/// The session works in both directions, and the CVM hears of it.
async fn works(place: &Place, router: &Router, vm: &Vm) {
    router.many(false);
    until("the router's changes arrive", async || vm.status().await.filter(|s| s.customer_routes == 1)).await;
    until("and at the CVM", async || (place.cvm.table.lock().unwrap().routes.len() == 2).then_some(())).await;
    let kept = place.cvm.lost().into_iter().find(|p| !p.starts_with("20."));
    assert_eq!(kept, None, "the router never took it back");
    vm.until("the table is whole", |s| s.state == InstanceState::Active && s.forwards).await;
}

#[test]
#[ignore = "needs root, BIRD, fastforward and network namespaces; the lab's test command runs it"]
fn a_whole_vm_dies_and_the_standby_goes_on() {
    run_in_time(async || {
        let (place, router, mut first, second, _joined) = two(Kind::Bird).await;
        // In the middle of a table.
        router.many(false);
        router.many(true);
        let s = succeed(&place, &mut first, &second, 3).await?;
        // The order may be given again.
        let again = second.order(InstanceOrder::Promote { generation: 3 }).await.unwrap();
        assert_eq!(again.promoted, s.promoted);
        until("all its routes", async || second.status().await.filter(|s| s.customer_routes == MANY as u64 + 1)).await;
        works(&place, &router, &second).await;
        assert_eq!(router.noticed(), Vec::<String>::new());
        Ok(())
    });
}

#[test]
#[ignore = "needs root, BIRD, fastforward and network namespaces; the lab's test command runs it"]
fn a_planned_move_and_one_that_is_called_off() {
    run_in_time(async || {
        let (mut place, router, mut first, mut second, joined) = two(Kind::Bird).await;
        // Called off.
        let s = first.order(InstanceOrder::Fence { lease_ms: 5000 }).await.unwrap();
        assert_eq!((s.state, s.committed), (InstanceState::Fenced, s.end));
        let s = first.order(InstanceOrder::Resume).await.unwrap();
        assert_eq!(s.state, InstanceState::Active);
        assert_eq!(first.order(InstanceOrder::Resume).await.unwrap().state, InstanceState::Active);
        // Forgotten.
        first.order(InstanceOrder::Fence { lease_ms: 100 }).await.unwrap();
        first.until("it goes on by itself", |s| s.state == InstanceState::Active).await;
        assert!(first.order(InstanceOrder::Promote { generation: 0 }).await.is_err());

        // Done, in the middle of a table.
        router.many(false);
        router.many(true);
        let began = Instant::now();
        let s = first.order(InstanceOrder::Fence { lease_ms: 20_000 }).await.unwrap();
        if !s.in_sync {
            return Err(TooSlow("the standby does not keep pace with its leader".into()));
        }
        place.lead_to(&second);
        let s = second.order(InstanceOrder::Promote { generation: 3 }).await.unwrap();
        eprintln!("moved in {:?}: {:?}", began.elapsed(), s.promoted);
        assert_eq!(s.promoted.map(|p| (p.sessions, p.lost)), Some((1, 0)), "{:?}", s.problems);
        assert_eq!(s.past.iter().map(|p| p.generation).collect::<Vec<_>>(), [1]);
        let s = first.until("the CVM tells the first", |s| !s.problems.is_empty()).await;
        assert_eq!(s.state, InstanceState::Fenced);
        joined.abort();
        first.kill();
        works(&place, &router, &second).await;
        assert_eq!(router.noticed(), Vec::<String>::new());

        // What was promoted goes on as that when it is started again, whatever its file tells.
        second.kill_pvmd();
        second.start_pvmd();
        let s = second.until("it speaks again", |s| s.promoted.is_some()).await;
        assert_eq!((s.generation, s.state, s.promoted.unwrap().sessions), (3, InstanceState::Active, 1));
        // And has a standby of its own.
        let mut third = place.vm(Instance { generation: 4, role: InstanceRole::Standby });
        third.start_pvmd();
        let _joined = join(&second, &third);
        third.until("it has all", |s| s.in_sync && s.forwards && s.sessions == 1).await;
        second.until("and its leader knows", |s| s.in_sync).await;
        succeed(&place, &mut second, &third, 5).await?;
        router.many(true);
        until("all its routes", async || third.status().await.filter(|s| s.customer_routes == MANY as u64 + 1)).await;
        assert_eq!(router.noticed(), Vec::<String>::new());
        Ok(())
    });
}

#[test]
#[ignore = "needs root, BIRD, fastforward and network namespaces; the lab's test command runs it"]
fn a_standby_that_lost_its_leader_too_long_ago_begins_anew_and_loses_no_route() {
    run(async {
        let (place, router, mut first, second, joined) = two(Kind::Graceful).await;
        joined.abort();
        second.until("the leader is lost for long", |s| s.leader_lost_ms.is_some_and(|ms| ms > STALE_MS)).await;
        // The leader went on meanwhile.
        first.until("it goes on alone", |s| !s.in_sync).await;
        first.kill();
        place.lead_to(&second);
        let s = second.order(InstanceOrder::Promote { generation: 3 }).await.unwrap();
        assert_eq!((s.state, s.promoted.map(|p| (p.sessions, p.lost))), (InstanceState::Active, Some((0, 1))));
        until("another session", async || second.status().await.filter(|s| s.bgp == "established")).await;
        works(&place, &router, &second).await;
        assert!(router.has(crate::place::VPN), "kept while there was no session");
        assert!(!router.log().contains("> removed"), "{}", router.log());
    });
}

/// Time enough for what should not happen.
const AWHILE: Duration = Duration::from_millis(500);

#[test]
#[ignore = "needs root, BIRD, fastforward and network namespaces; the lab's test command runs it"]
fn a_fenced_instance_is_silent_and_late_words_are_heard_after_it() {
    run(async {
        let (_place, router, first, _second, _joined) = two(Kind::Bird).await;
        let before = first.order(InstanceOrder::Fence { lease_ms: 10_000 }).await.unwrap();
        router.many(false);
        tokio::time::sleep(AWHILE).await;
        let s = first.instance().await.unwrap();
        assert_eq!((s.state, s.end), (InstanceState::Fenced, before.end), "nothing entered");
        assert_eq!(first.status().await.unwrap().customer_routes, MANY as u64 + 1);
        first.order(InstanceOrder::Resume).await.unwrap();
        until("what was said meanwhile", async || first.status().await.filter(|s| s.customer_routes == 1)).await;
        assert_eq!(router.noticed(), Vec::<String>::new());
    });
}
