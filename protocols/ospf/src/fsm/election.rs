//! Election of the designated router (RFC 2328 §9.4).

use super::{InterfaceState, NeighborState};
use crate::engine::Ospf;
use crate::{Action, Time};
use std::net::Ipv4Addr;
use std::sync::Arc;

const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// One eligible router of the segment and whom it declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    priority: u8,
    router_id: Ipv4Addr,
    address: Ipv4Addr,
    designated: Ipv4Addr,
    backup: Ipv4Addr,
}

/// One pass of steps 2 and 3: designated router and backup, 0.0.0.0 for none.
fn choose(candidates: &[Candidate]) -> (Ipv4Addr, Ipv4Addr) {
    let best = |among: &mut dyn Iterator<Item = &Candidate>| among.max_by_key(|c| (c.priority, c.router_id)).map(|c| c.address);
    // Step 2: those who declare themselves DR are out; those who declare themselves backup come first.
    let free = || candidates.iter().filter(|c| c.designated != c.address);
    let backup = best(&mut free().filter(|c| c.backup == c.address)).or_else(|| best(&mut free())).unwrap_or(NOBODY);
    // Step 3
    let designated = best(&mut candidates.iter().filter(|c| c.designated == c.address)).unwrap_or(backup);
    (designated, backup)
}

/// Steps 2 to 4. `own` declares what it is now.
fn elect(own: Candidate, others: &[Candidate]) -> (Ipv4Addr, Ipv4Addr) {
    let run = |own: Candidate| {
        let all: Vec<Candidate> = others.iter().copied().chain([own]).filter(|c| c.priority > 0).collect();
        choose(&all)
    };
    let (designated, backup) = run(own);
    let before = (own.designated == own.address, own.backup == own.address);
    let after = (designated == own.address, backup == own.address);
    if before == after {
        return (designated, backup);
    }
    // Step 4: with our new role declared, so that nobody is both.
    run(Candidate { designated, backup, ..own })
}

impl Ospf {
    /// Runs the election where something called for it.
    pub(crate) fn run_elections(&mut self) {
        let due: Vec<Arc<str>> = self.interfaces.iter().filter(|(_, i)| i.elect).map(|(n, _)| n.clone()).collect();
        for name in due {
            if let Some(interface) = self.interfaces.get_mut(&name) {
                interface.elect = false;
            }
            self.run_election(&name);
        }
    }

    fn run_election(&mut self, name: &Arc<str>) {
        let own_id = self.config.router_id;
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let running = matches!(interface.state, InterfaceState::DrOther | InterfaceState::Backup | InterfaceState::Dr);
        // RFC 3623 §3.2: while we help someone, the roles stay.
        if !running || interface.neighbors.values().any(|n| n.helping.is_some()) {
            return;
        }
        let own = Candidate {
            priority: interface.config.priority,
            router_id: own_id,
            address: interface.address(),
            designated: interface.designated,
            backup: interface.backup,
        };
        let others: Vec<Candidate> = interface
            .neighbors
            .iter()
            .filter(|(_, n)| n.state >= NeighborState::TwoWay)
            .map(|(address, n)| Candidate {
                priority: n.priority,
                router_id: n.router_id,
                address: *address,
                designated: n.designated,
                backup: n.backup,
            })
            .collect();
        let (designated, backup) = elect(own, &others);
        self.set_roles(name, designated, backup);
    }

    /// Who is what on the segment from now on (steps 5 to 7).
    pub(crate) fn set_roles(&mut self, name: &Arc<str>, designated: Ipv4Addr, backup: Ipv4Addr) {
        let Some(interface) = self.interfaces.get_mut(name) else { return };
        let was = interface.is_designated();
        let changed = (designated, backup) != (interface.designated, interface.backup);
        interface.designated = designated;
        interface.backup = backup;
        let own = interface.address();
        interface.state = match own {
            own if own == designated => InterfaceState::Dr,
            own if own == backup => InterfaceState::Backup,
            _ => InterfaceState::DrOther,
        };
        match (was, interface.is_designated()) {
            (false, true) => self.out.push(Action::JoinDrRouters { interface: name.clone() }),
            (true, false) => self.out.push(Action::LeaveDrRouters { interface: name.clone() }),
            _ => {}
        }
        self.dirty = true;
        if changed {
            // Others hear of it at once.
            self.hello_soon(name);
            for address in self.neighbors_of(name) {
                self.adjacency_ok(name, address);
            }
        }
    }

    /// The segment has been listened to for long enough (WaitTimer), or someone knows the roles (BackupSeen).
    pub(crate) fn end_waiting(&mut self, name: &Arc<str>) {
        if let Some(interface) = self.interfaces.get_mut(name)
            && interface.state == InterfaceState::Waiting
        {
            interface.wait_until = None;
            interface.state = InterfaceState::DrOther;
            interface.elect = true;
        }
    }

    pub(crate) fn wait_over(&self, name: &Arc<str>, now: Time) -> bool {
        self.interfaces.get(name).is_some_and(|i| i.wait_until.is_some_and(|at| at <= now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a(last: u8) -> Ipv4Addr {
        if last == 0 { NOBODY } else { Ipv4Addr::new(10, 0, 0, last) }
    }

    /// Number (router ID and address), priority, whom it declares.
    fn c(number: u8, priority: u8, designated: u8, backup: u8) -> Candidate {
        Candidate { priority, router_id: a(number), address: a(number), designated: a(designated), backup: a(backup) }
    }

    #[test]
    fn roles_go_by_priority_then_identifier_and_are_not_taken_away() {
        let roles = |own, others: &[Candidate]| elect(own, others);
        assert_eq!(roles(c(1, 1, 0, 0), &[]), (a(1), a(0)), "alone");
        // Steps 2 and 3 as they stand: until it says so itself, the new one is both in the eyes of others.
        assert_eq!(roles(c(1, 1, 0, 0), &[c(2, 1, 0, 0)]), (a(2), a(2)), "the higher identifier");
        assert_eq!(roles(c(2, 1, 0, 0), &[c(1, 1, 0, 0)]), (a(2), a(1)), "in its own eyes");
        assert_eq!(roles(c(1, 1, 0, 0), &[c(2, 1, 2, 0)]), (a(2), a(1)), "when it has said so");
        assert_eq!(roles(c(1, 9, 0, 0), &[c(2, 1, 0, 0)]), (a(1), a(2)), "the higher priority");
        assert_eq!(roles(c(9, 9, 0, 0), &[c(1, 1, 1, 2), c(2, 1, 1, 2)]), (a(1), a(2)), "a newcomer changes nothing");
        assert_eq!(roles(c(3, 1, 1, 2), &[c(2, 1, 1, 2)]), (a(2), a(2)), "the backup follows the designated router");
        assert_eq!(roles(c(2, 1, 1, 2), &[c(3, 1, 1, 2)]), (a(2), a(3)), "in its own eyes");
        assert_eq!(roles(c(1, 0, 0, 0), &[c(2, 0, 0, 0)]), (a(0), a(0)), "nobody may");
        assert_eq!(roles(c(1, 0, 0, 0), &[c(2, 1, 2, 0)]), (a(2), a(0)));
        assert_eq!(roles(c(1, 1, 1, 0), &[c(2, 1, 2, 0)]), (a(2), a(1)), "two segments that grew together");
    }
}
