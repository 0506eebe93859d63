//! Two to four engines on links that come and go, with an IGP that tells each of them the truth at another moment. Seeded:
//! `LDP_RUNS=500` makes more of them, `LDP_SEED=7 cargo test -p edgeplex-ldp --test random_runs` replays one run.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

mod network;

use network::{Network, Rng};
use std::time::Duration;

/// What happens to the network while it is watched.
fn disturb(network: &mut Network, rng: &mut Rng, restarts: bool) {
    match rng.below(14) {
        0..=3 => network.flip_link(rng),
        4 => network.change_cost(rng),
        5 | 6 => network.flip_prefix(rng),
        7 => network.reset_session(rng),
        8 | 9 => network.cut_connections(rng),
        10 if restarts => network.restart(rng),
        11 | 12 => {
            let node = rng.below(network.nodes.len());
            network.replace(node, rng);
        }
        _ => network.flip_explicit_null(rng),
    }
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    // Either few labels, so that they come round, or processes that are killed: what was withdrawn and is not released is forgotten
    // with a process if the FEC has another label, so labels must not come round within its neighbours' patience.
    let restarts = rng.below(2) == 0;
    let mut network = Network::new(2 + rng.below(3), if restarts { 900 } else { 40 }, &mut rng);
    for _ in 0..3 {
        for _ in 0..10 + rng.below(20) {
            disturb(&mut network, &mut rng, restarts);
            network.pass(Duration::from_millis(rng.below(8000) as u64), &mut rng);
        }
        network.calm_down(&mut rng);
        network.check_agreement();
    }
}

#[test]
fn views_agree_and_no_label_leaks() {
    if let Some(seed) = std::env::var("LDP_SEED").ok().and_then(|s| s.parse().ok()) {
        return run(seed);
    }
    let runs = std::env::var("LDP_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    for seed in 1..=runs {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("with LDP_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
