//! pvmd dies, again and again, and is started again.

use crate::{
    place::{MANY, Place, run, until},
    router::{Kind, Router},
    vm::Vm,
};
use edgeplex_ff_fib_api::Target;
use edgeplex_mgmt::{
    config::{Instance, InstanceRole},
    show::InstanceState,
};
use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const KILLS: u32 = 20;

/// Up to `most`, of a seed that is told.
fn random(seed: &mut u64, most: u64) -> Duration {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    Duration::from_millis(*seed % most)
}

/// The FIB as packets find it: never without the customer's route or the VPN's.
async fn watch(vm: &Vm, done: &Cell<bool>) -> u32 {
    let mut looks = 0;
    while !done.get() {
        let (site, vpn) = (vm.lookup("10.1.2.3").await, vm.lookup("10.2.3.4").await);
        assert!(matches!(site, Some(Some(Target::Customer { .. }))), "{site:?}");
        assert!(matches!(vpn, Some(Some(Target::Vpn { .. }))), "{vpn:?}");
        looks += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    looks
}

fn killed_again_and_again(kind: Kind) {
    run(async {
        let mut place = Place::new();
        let mut vm = place.vm(Instance { generation: 1, role: InstanceRole::Active });
        place.lead_to(&vm);
        let router = Router::start(&mut place, kind);
        vm.start_pvmd();
        router.up().await;
        until("the CVM has the route", async || place.cvm.attributes("10.1.0.0/16")).await;
        let mut seed = RandomState::new().hash_one(0u8) | 1;
        eprintln!("seed {seed}");
        let mut told = false;
        for kill in 0..KILLS {
            told = !told;
            router.many(told);
            // In the middle of its table, most times.
            let done = Cell::new(false);
            let wait = random(&mut seed, 150);
            tokio::join!(watch(&vm, &done), async {
                tokio::time::sleep(wait).await;
                done.set(true);
            });
            vm.kill_pvmd();
            vm.start_pvmd();
            let s = vm.until("it speaks again", |s| s.promoted.is_some()).await;
            let p = s.promoted.unwrap();
            eprintln!("kill {kill} after {wait:?}: {} taken over, {} lost, in {} us", p.sessions, p.lost, p.took_us);
            assert_eq!((s.state, p.sessions, p.lost), (InstanceState::Active, 1, 0), "{:?}", s.problems);
            assert_eq!(router.noticed(), Vec::<String>::new(), "after kill {kill}");
        }
        if !told {
            router.many(true);
        }
        until("all its routes", async || vm.status().await.filter(|s| s.customer_routes == MANY as u64 + 1)).await;
        until("and at the CVM", async || (place.cvm.table.lock().unwrap().routes.len() == MANY + 2).then_some(())).await;
        let kept = place.cvm.lost().into_iter().find(|p| !p.starts_with("20."));
        assert_eq!(kept, None, "the router never took it back");
        router.many(false);
        until("and gone", async || vm.status().await.filter(|s| s.customer_routes == 1)).await;
        assert_eq!(router.noticed(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs root, BIRD, fastforward and network namespaces; the lab's test command runs it"]
fn bird_does_not_notice() {
    killed_again_and_again(Kind::Bird);
}

#[test]
#[ignore = "needs root, FRR, fastforward and network namespaces; the lab's test command runs it"]
fn frr_does_not_notice() {
    killed_again_and_again(Kind::Frr);
}

/// An orderly end is no other: whoever is started next goes on.
#[test]
#[ignore = "needs root, BIRD, fastforward and network namespaces; the lab's test command runs it"]
fn nor_is_a_restart_in_order_noticed() {
    run(async {
        let mut place = Place::new();
        let mut vm = place.vm(Instance { generation: 1, role: InstanceRole::Active });
        place.lead_to(&vm);
        let router = Router::start(&mut place, Kind::Bird);
        vm.start_pvmd();
        router.up().await;
        for _ in 0..3 {
            vm.stop_pvmd();
            vm.start_pvmd();
            let s = vm.until("it speaks again", |s| s.promoted.is_some()).await;
            assert_eq!(s.promoted.map(|p| (p.sessions, p.lost)), Some((1, 0)));
        }
        until("the table is whole", async || vm.instance().await.filter(|s| s.forwards)).await;
        assert_eq!(router.noticed(), Vec::<String>::new());
    });
}
