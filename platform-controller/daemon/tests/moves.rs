//! Whoever dies, and whenever: one instance owns the customer in the end, the rules lead to it, and each packet is counted once.

#![allow(clippy::unwrap_used)]

#[path = "world/model.rs"]
mod world;

use edgeplex_api::{MoveKind, Outcome};
use edgeplex_store::{Memory, Store};
use edgeplexd::{
    moves::{Moves, Target},
    placement::{Placements, Unit},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use world::{Fault, Model, When};

/// What the unit does while something dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// A planned move, to an instance that is made for it.
    Move,
    /// A planned move to the standby.
    MoveToStandby,
    /// Its active instance died, and a standby takes over.
    Failover,
}

fn unit() -> Unit {
    "acme/denver-1".parse().unwrap()
}

struct Controller {
    moves: Arc<Moves>,
    tasks: Vec<JoinHandle<()>>,
}

impl Controller {
    fn start(model: &Model, placements: &Arc<Placements>, protected: bool) -> Self {
        let moves = Moves::new(placements.clone(), Arc::new(model.clone()));
        let tasks = vec![tokio::spawn(moves.clone().run()), tokio::spawn(model.clone().reconcile(unit(), protected))];
        Self { moves, tasks }
    }

    fn kill(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Ending {
    steps: usize,
    struck: bool,
    sessions: bool,
    outcome: Option<Outcome>,
    moved: bool,
}

/// One run; everything that must hold in the end is checked.
async fn run(doing: Doing, fault: Fault, when: When) -> Ending {
    let name = format!("{doing:?}, {fault:?} {when:?}");
    let protected = doing != Doing::Move;
    let store: Arc<dyn Store> = Arc::new(Memory::default());
    let mut placements = Arc::new(Placements::open(store.clone()).unwrap());
    placements.settle(&BTreeSet::from([unit()]), &BTreeSet::new()).await.unwrap();
    let mut model = Model::new(placements.clone(), fault, when);
    *model.new.lock().unwrap() = 2;
    let mut controller = Controller::start(&model, &placements, protected);
    if protected {
        // The standby is number 2, and in step.
        let ready = async {
            while !model.lock().vms.get(&2).is_some_and(|vm| vm.sessions) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(5), ready).await.unwrap();
    }
    model.arm();
    let mut id = None;
    if doing == Doing::Failover {
        model.lock().vms.get_mut(&1).unwrap().alive = false;
    } else {
        let target = Target { kind: MoveKind::Move, host: "local".into(), image: None, why: String::new(), file: None };
        id = timeout(Duration::from_secs(1), controller.moves.begin(&unit(), target)).await.ok().and_then(Result::ok);
    }
    let mut killed = model.killed.subscribe();
    // Leases end within it, and retries.
    let long = Duration::from_secs(30);
    if timeout(long, killed.wait_for(|k| *k)).await.is_ok() {
        controller.kill();
        sleep(Duration::from_millis(200)).await;
        placements = Arc::new(Placements::open(store.clone()).unwrap());
        model = model.again(placements.clone());
        controller = Controller::start(&model, &placements, protected);
        sleep(long).await;
    }
    let p = placements.get(&unit()).unwrap();
    assert!(p.unfinished.is_none(), "{name}: {:?}", p.unfinished);
    let w = model.lock();
    assert_eq!(w.broken, Vec::<String>::new(), "{name}");
    let active = &w.vms[&p.active.number];
    assert!(active.speaks(), "{name}: {:?} is not working: {:?}", p.active, w.vms);
    assert_eq!(w.led, Some(p.active.number), "{name}: the rules lead there");
    let speakers: Vec<u64> = w.vms.iter().filter(|(_, vm)| vm.speaks()).map(|(n, _)| *n).collect();
    assert_eq!(speakers, [p.active.number], "{name}");
    let counted = p.counted.to_core.packets + active.packets;
    let ending = Ending {
        steps: model_steps(&w),
        struck: model_steps(&w) >= when.step,
        sessions: active.sessions,
        outcome: id.and_then(|id| p.past.iter().find(|r| r.id == id)).map(|r| r.outcome),
        moved: p.active.number != 1,
    };
    // Those that led are the only ones that counted anything.
    assert_eq!(counted, w.passed, "{name}: each packet once");
    drop(w);
    controller.kill();
    ending
}

fn model_steps(w: &world::Inner) -> usize {
    w.taken()
}

/// Runs the fault at every step there is.
async fn everywhere(doing: Doing, fault: Fault, check: impl Fn(When, &Ending)) {
    for after in [false, true] {
        for step in 1.. {
            let when = When { step, after };
            let ending = run(doing, fault, when).await;
            if !ending.struck {
                assert!(step > 5, "{doing:?}: there are steps");
                break;
            }
            check(when, &ending);
        }
    }
}

const NEVER: When = When { step: usize::MAX, after: false };

#[tokio::test(start_paused = true)]
async fn where_nobody_dies_moves_are_done_and_sessions_live() {
    for doing in [Doing::Move, Doing::MoveToStandby, Doing::Failover] {
        let ending = run(doing, Fault::Nobody, NEVER).await;
        assert!(ending.sessions && ending.moved, "{doing:?}");
        assert!(matches!(ending.outcome, None | Some(Outcome::Done)), "{doing:?}: {:?}", ending.outcome);
        assert!(ending.steps < 100, "{doing:?}: {}", ending.steps);
    }
}

#[tokio::test(start_paused = true)]
async fn the_controller_may_die_at_any_step() {
    for doing in [Doing::Move, Doing::MoveToStandby, Doing::Failover] {
        everywhere(doing, Fault::Controller, |when, e| assert!(e.sessions, "{doing:?} {when:?}: sessions")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_switch_may_go_away_at_any_step() {
    for doing in [Doing::Move, Doing::MoveToStandby, Doing::Failover] {
        everywhere(doing, Fault::Switch, |when, e| assert!(e.sessions, "{doing:?} {when:?}: sessions")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_link_may_break_at_any_step() {
    for doing in [Doing::Move, Doing::MoveToStandby] {
        everywhere(doing, Fault::Link, |when, e| assert!(e.sessions, "{doing:?} {when:?}: sessions")).await;
    }
}

/// Slower than anybody is asked twice, as on a host whose processors are all busy.
#[tokio::test(start_paused = true)]
async fn who_is_slow_is_not_dead() {
    for fault in [Fault::OldIsSlow, Fault::NewIsSlow] {
        for doing in [Doing::Move, Doing::MoveToStandby, Doing::Failover] {
            let check = |when, e: &Ending| {
                let done = e.sessions && e.moved && matches!(e.outcome, None | Some(Outcome::Done));
                assert!(done, "{fault:?}, {doing:?} {when:?}: sessions {}, moved {}, {:?}", e.sessions, e.moved, e.outcome);
            };
            everywhere(doing, fault, check).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_old_one_may_die_at_any_step() {
    everywhere(Doing::MoveToStandby, Fault::Old, |when, e| assert!(e.sessions && e.moved, "{when:?}")).await;
    // Where nobody followed yet, its sessions die with it.
    everywhere(Doing::Move, Fault::Old, |_, _| {}).await;
}

#[tokio::test(start_paused = true)]
async fn the_new_one_may_die_at_any_step() {
    let lost = std::sync::atomic::AtomicUsize::new(0);
    let count = |e: &Ending| {
        if !e.sessions {
            lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    };
    everywhere(Doing::Move, Fault::New, |_, e| count(e)).await;
    // Only when it dies just as it takes over: before, the old one goes on; afterwards it is any instance that dies unprotected.
    let lost = lost.load(std::sync::atomic::Ordering::Relaxed);
    assert!((1..=12).contains(&lost), "{lost}");
    everywhere(Doing::Failover, Fault::New, |_, _| {}).await;
}
