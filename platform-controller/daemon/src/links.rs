//! Links: each follower's `follow.sock` is joined to its leader's `journal.sock`, wherever the two run. Both only listen; the
//! controller dials both and pumps bytes. A link that breaks is made again; when another leads, it is made to that one.

use crate::{
    checkpoint,
    hosts::{Fleet, Place},
    placement::{Instance, Placements, State, Unit},
};
use edgeplex_mgmt::show::{FOLLOW_SOCKET, JOURNAL_SOCKET};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::copy_bidirectional_with_sizes,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// A daemon that is just being started listens in some milliseconds.
const RETRY: Duration = Duration::from_millis(5);
/// One that is not there for longer.
const SLOWER: Duration = Duration::from_millis(200);
const DIAL: Duration = Duration::from_secs(2);
const BUFFER: usize = 256 << 10;

/// A VM on a host.
type End = (String, String);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Leader {
    Vm(End),
    /// A checkpoint.
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    leader: Leader,
    follower: End,
}

fn links(state: &State) -> Vec<Link> {
    let end = |unit: &Unit, i: &Instance| (i.host.clone(), unit.vm(i.number));
    let of = |(unit, p): (&Unit, &Arc<crate::placement::Placement>)| {
        let leader = Leader::Vm(end(unit, p.leader()));
        let of_file = |f: &Instance| p.unfinished.as_ref().filter(|m| m.to.number == f.number).and_then(|m| m.file.clone());
        let link = |f: &Instance| Link { leader: of_file(f).map_or_else(|| leader.clone(), Leader::File), follower: end(unit, f) };
        p.followers().into_iter().map(link).collect::<Vec<_>>()
    };
    state.units.iter().flat_map(of).collect()
}

/// Keeps all links, for ever.
pub async fn keep(fleet: Arc<Fleet>, placements: Arc<Placements>) {
    let mut watch = placements.watch();
    let mut pumps: BTreeMap<Link, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = links(&watch.borrow_and_update());
        pumps.retain(|link, pump| {
            let keep = wanted.contains(link) && !pump.is_finished();
            if !keep {
                pump.abort();
            }
            keep
        });
        for link in wanted {
            pumps.entry(link.clone()).or_insert_with(|| tokio::spawn(pump(fleet.clone(), link)));
        }
        if watch.changed().await.is_err() {
            return;
        }
    }
}

async fn pump(fleet: Arc<Fleet>, link: Link) {
    let mut tries = 0u32;
    loop {
        match run(&fleet, &link).await {
            Ok(()) => tries = 0,
            Err(e) => {
                tracing::debug!("link {:?} -> {}: {e:#}", link.leader, link.follower.1);
                tries = tries.saturating_add(1);
            }
        }
        sleep(if tries < 100 { RETRY } else { SLOWER }).await;
    }
}

/// Until one side closes.
async fn run(fleet: &Fleet, link: &Link) -> anyhow::Result<()> {
    let dial = async |(host, vm): &End, socket| -> anyhow::Result<_> {
        let at = Place { runtime: fleet.at(host)?, vm: vm.parse()? };
        Ok(timeout(DIAL, at.runtime.connect(&at.vm, socket)).await??)
    };
    let leader = match &link.leader {
        Leader::Vm(end) => end,
        Leader::File(file) => return checkpoint::lead(dial(&link.follower, FOLLOW_SOCKET).await?, file).await,
    };
    let (mut leader, mut follower) = (dial(leader, JOURNAL_SOCKET).await?, dial(&link.follower, FOLLOW_SOCKET).await?);
    // How it ends does not matter: it is made again.
    let _ = copy_bidirectional_with_sizes(&mut leader, &mut follower, BUFFER, BUFFER).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Placement;
    use edgeplex_api::{MoveKind, Phase};

    #[test]
    fn followers_follow_whoever_leads() {
        let mut p = Placement::first(None);
        p.standby = Some(p.newcomer("west", None, vec![]));
        let to = p.newcomer("local", None, vec![]);
        p.begin(MoveKind::Move, to, "").unwrap();
        let of = |p: &Placement| {
            let state = State { units: BTreeMap::from([(Unit::Cvm, Arc::new(p.clone()))]), ..State::default() };
            let vm = |l: Leader| match l {
                Leader::Vm((_, vm)) => vm,
                Leader::File(file) => file.display().to_string(),
            };
            links(&state).into_iter().map(|l| (vm(l.leader), l.follower.1)).collect::<Vec<_>>()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of(&p), [pair("cvm-g1", "cvm-g2"), pair("cvm-g1", "cvm-g3")]);
        p.decide(0).unwrap();
        assert_eq!(of(&p), [pair("cvm-g1", "cvm-g3")], "until it is promoted the successor follows; who followed the former one has gone");
        p.reach(Phase::Drain, 0).unwrap();
        assert_eq!(of(&p), []);
    }
}
