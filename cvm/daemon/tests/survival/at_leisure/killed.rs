//! cvmd dies and is started again in the same VM.

use crate::{
    place::{AGAIN, Place, run_in_time, soon, until},
    router::{LATER, Router, VPN},
    vm::Vm,
};
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::{InstanceOrder, InstanceState},
};
use std::time::{Duration, Instant};

/// Everything stands, and the customer's route is at the reflector.
async fn standing() -> (Place, Router, Vm, crate::pvm::Pvm) {
    let mut place = Place::new();
    let router = Router::start(&mut place).await;
    let mut vm = place.vm(Instance { generation: 1, role: InstanceRole::Active });
    place.lead_to(&vm);
    vm.start_cvmd();
    router.up().await;
    let mut pvm = place.pvm();
    pvm.join(&["10.1.0.0/16"]).await;
    pvm.until("the other city's route", |p| p.routes.contains_key(&VPN.parse().unwrap()) && p.ended).await;
    until("the customer's route is at the reflector", async || router.routes().contains("Remote label: 1000").then_some(())).await;
    vm.until("the core is known", |s| s.forwards).await;
    (place, router, vm, pvm)
}

#[test]
#[ignore = "needs root, FRR, fastforward and network namespaces; the lab's test command runs it"]
fn a_killed_cvmd_goes_on_and_no_neighbor_notices() {
    run_in_time(async || {
        let (_place, router, mut vm, mut pvm) = standing().await;
        let (labels, bindings) = (vm.labels().await, router.bindings());
        let since = router.mark();
        let mut gaps = vec![];
        for round in 0..5 {
            let dead = Instant::now();
            vm.kill_cvmd();
            // Told while nobody is there.
            let mut telling = router.telling(round % 2 == 0);
            vm.start_cvmd();
            let s = vm.until("it speaks again", |s| s.promoted.is_some()).await;
            let gap = soon(dead, AGAIN);
            telling.wait().unwrap();
            let (gap, promoted) = (gap?, s.promoted.unwrap());
            gaps.push((gap, promoted));
            assert_eq!((promoted.lost, s.state, &s.problems[..]), (0, InstanceState::Active, &[][..]), "{s:?}");
            vm.has(LATER, round % 2 == 0).await;
            vm.has(VPN, true).await;
            pvm.join(&["10.1.0.0/16"]).await;
            pvm.until("a whole snapshot", |p| p.ended).await;
            assert!(pvm.routes.contains_key(&VPN.parse().unwrap()));
        }
        for (gap, promoted) in gaps {
            eprintln!("killed, and speaking again after {gap:?}: {promoted:?}");
        }
        assert!(router.routes().contains("Remote label: 1000"));
        // Longer than any neighbour waits, and longer than sessions last that nobody wants here.
        tokio::time::sleep(Duration::from_secs(40)).await;
        router.up().await;
        assert_eq!(router.noticed(&since), Vec::<String>::new());
        assert_eq!((vm.labels().await, router.bindings()), (labels, bindings));
        pvm.join(&["10.1.0.0/16", "10.4.0.0/16"]).await;
        until("what comes after", async || router.ask(&["show bgp ipv4 vpn 10.4.0.0/16"]).contains("Remote label: 1000").then_some(()))
            .await;
        Ok(())
    });
}

#[test]
#[ignore = "needs root, FRR, fastforward and network namespaces; the lab's test command runs it"]
fn one_that_ends_in_order_leaves_in_silence() {
    run_in_time(async || {
        let (_place, router, mut vm, _pvm) = standing().await;
        let since = router.mark();
        let silent = Instant::now();
        vm.stop_cvmd();
        vm.start_cvmd();
        let s = vm.until("it speaks again", |s| s.promoted.is_some()).await;
        soon(silent, AGAIN)?;
        assert_eq!(s.promoted.unwrap().lost, 0);
        // The longest that a neighbour here waits.
        tokio::time::sleep(Duration::from_secs(16)).await;
        assert_eq!(router.noticed(&since), Vec::<String>::new());
        let s = vm.order(InstanceOrder::Look).await.unwrap();
        assert!(s.sessions >= 2, "{s:?}");
        Ok(())
    });
}
