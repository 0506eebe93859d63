//! A second instance follows the first and takes its place.

use crate::{
    place::{AGAIN, INSTEAD, Place, TooSlow, run, run_in_time, soon, until},
    pvm::Pvm,
    router::{LATER, Router, VPN},
    vm::{Vm, join},
};
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::{InstanceOrder, InstanceState, InstanceStatus, STALE_MS},
};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

struct Two {
    // The logs are shown as these go, before the place goes with them.
    first: Vm,
    second: Vm,
    joined: JoinHandle<()>,
    pvm: Pvm,
    router: Router,
    place: Place,
}

/// One that speaks, one that follows, and a customer.
async fn two() -> Two {
    let mut place = Place::new();
    let router = Router::start(&mut place).await;
    let mut first = place.vm(Instance { generation: 1, role: InstanceRole::Active });
    let mut second = place.vm(Instance { generation: 2, role: InstanceRole::Standby });
    place.lead_to(&first);
    first.start_cvmd();
    second.start_cvmd();
    let joined = join(&first, &second);
    router.up().await;
    let mut pvm = place.pvm();
    pvm.join(&["10.1.0.0/16"]).await;
    until("the customer's route is at the reflector", async || router.routes().contains("Remote label: 1000").then_some(())).await;
    first.until("the core is known, and its standby knows", |s| s.forwards && s.in_sync).await;
    second.until("it has all", |s| s.in_sync && s.sessions == 2).await;
    second.has(VPN, true).await;
    Two { place, router, first, second, joined, pvm }
}

impl Two {
    /// Sessions work in both directions at the second, and nobody has noticed.
    async fn works(&mut self, since: &crate::router::Mark) {
        self.router.later(true);
        self.second.has(LATER, true).await;
        self.pvm.join(&["10.1.0.0/16", "10.4.0.0/16"]).await;
        self.pvm.until("a whole snapshot", |p| p.ended).await;
        assert!(self.pvm.routes.contains_key(&VPN.parse().unwrap()));
        let there = || self.router.ask(&["show bgp ipv4 vpn 10.4.0.0/16"]).contains("Remote label: 1000").then_some(());
        until("a new route at the reflector", async || there()).await;
        tokio::time::sleep(Duration::from_secs(16)).await;
        self.router.up().await;
        assert_eq!(self.router.noticed(since), Vec::<String>::new());
        assert!(self.router.routes().contains("Remote label: 1000"));
    }
}

#[test]
#[ignore = "needs root, FRR, fastforward and network namespaces; the lab's test command runs it"]
fn a_whole_vm_dies_and_the_standby_goes_on() {
    run_in_time(async || {
        let mut two = two().await;
        let (labels, bindings, since) = (two.first.labels().await, two.router.bindings(), two.router.mark());
        let dead = Instant::now();
        two.first.kill();
        two.place.lead_to(&two.second);
        let s = two.second.order(InstanceOrder::Promote { generation: 3 }).await.unwrap();
        eprintln!("{:?} after the death: {:?}", soon(dead, INSTEAD)?, s.promoted);
        assert_eq!((s.generation, s.state, s.promoted.unwrap().lost), (3, InstanceState::Active, 0), "{s:?}");
        let again = two.second.order(InstanceOrder::Promote { generation: 3 }).await.unwrap();
        assert_eq!(again.promoted, s.promoted);
        two.works(&since).await;
        assert_eq!((two.second.labels().await, two.router.bindings()), (labels, bindings));
        // Started again it is what it was promoted to, whatever its file tells.
        let dead = Instant::now();
        two.second.kill_cvmd();
        two.second.start_cvmd();
        let s = two.second.until("it speaks again", |s| s.promoted.is_some()).await;
        soon(dead, AGAIN)?;
        assert_eq!((s.generation, s.state, s.promoted.unwrap().lost), (3, InstanceState::Active, 0));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(two.router.noticed(&since), Vec::<String>::new());
        Ok(())
    });
}

#[test]
#[ignore = "needs root, FRR, fastforward and network namespaces; the lab's test command runs it"]
fn a_planned_move_and_one_that_is_called_off() {
    run_in_time(async || {
        let mut two = two().await;
        let since = two.router.mark();
        let began = Instant::now();
        let s = two.first.order(InstanceOrder::Fence { lease_ms: 5000 }).await.unwrap();
        assert_eq!((s.state, s.committed), (InstanceState::Fenced, s.end));
        assert_eq!(two.first.order(InstanceOrder::Resume).await.unwrap().state, InstanceState::Active);
        soon(began, AGAIN)?;
        let began = Instant::now();
        two.first.order(InstanceOrder::Fence { lease_ms: 50 }).await.unwrap();
        two.first.until("it goes on by itself", |s| s.state == InstanceState::Active).await;
        soon(began, AGAIN)?;

        let began = Instant::now();
        let s = two.first.order(InstanceOrder::Fence { lease_ms: 5000 }).await.unwrap();
        if !s.in_sync {
            return Err(TooSlow("the standby does not keep pace with its leader".into()));
        }
        two.place.lead_to(&two.second);
        let s = two.second.order(InstanceOrder::Promote { generation: 3 }).await.unwrap();
        eprintln!("moved in {:?}: {:?}", soon(began, AGAIN)?, s.promoted);
        assert_eq!((s.state, s.promoted.unwrap().lost), (InstanceState::Active, 0), "{s:?}");
        two.works(&since).await;
        // Nobody has told the first; it finds the PVMs served.
        let served = |s: &InstanceStatus| s.problems.iter().any(|p| p.contains("another instance"));
        let s = two.first.until("its lease is over, and it has looked", served).await;
        assert_eq!(s.state, InstanceState::Fenced, "{s:?}");
        two.joined.abort();
        two.first.stop_cvmd();
        Ok(())
    });
}

#[test]
#[ignore = "needs root, FRR, fastforward and network namespaces; the lab's test command runs it"]
fn who_lost_its_leader_too_long_ago_begins_anew_with_the_same_labels() {
    run(async {
        let mut two = two().await;
        let (labels, since) = (two.first.labels().await, two.router.mark());
        two.joined.abort();
        let s = two.second.until("it lost its leader", |s| s.leader_lost_ms.is_some_and(|ms| ms > STALE_MS)).await;
        assert!(s.forwards);
        // Alone, the first goes on, and the second does not know how far.
        two.router.later(true);
        two.first.has(LATER, true).await;
        two.first.kill();
        two.place.lead_to(&two.second);
        let s = two.second.order(InstanceOrder::Promote { generation: 3 }).await.unwrap();
        assert_eq!((s.generation, s.promoted.unwrap().sessions), (3, 0));
        two.second.restarts().await;
        let s = two.second.until("it speaks", |s| s.state == InstanceState::Active).await;
        assert_eq!(s.generation, 3);
        until("the neighbours notice", async || (!two.router.noticed(&since).is_empty()).then_some(())).await;
        two.router.up().await;
        assert_eq!(two.second.labels().await, labels);
        two.pvm.join(&["10.1.0.0/16"]).await;
        until("the customer's route", async || two.router.routes().contains("Remote label: 1000").then_some(())).await;
    });
}
