//! The engine's views as rows of `show`.

use edgeplex_mgmt::show::{CoreNextHop, LsaRow, OspfInterfaceRow, OspfNeighborRow, OspfRouteRow};
use edgeplex_ospf::{Ospf, Route};
use edgeplex_types::NextHop;
use ipnet::Ipv4Net;
use std::time::Duration;

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn neighbors(engine: &Ospf) -> Vec<OspfNeighborRow> {
    let row = |n: edgeplex_ospf::NeighborView| OspfNeighborRow {
        router_id: n.router_id,
        address: n.address,
        interface: n.interface.to_string(),
        state: n.state.to_owned(),
        priority: n.priority,
        role: n.role.to_owned(),
        dead_in_ms: milliseconds(n.helping.unwrap_or(n.dead_in)),
        full_s: n.full_for.map(|t| t.as_secs()),
        retransmissions: count(n.retransmissions),
        requests: count(n.requests),
        resets: n.resets,
        last_error: n.last_error,
    };
    engine.neighbors().into_iter().map(row).collect()
}

pub(super) fn interfaces(engine: &Ospf) -> Vec<OspfInterfaceRow> {
    let row = |i: edgeplex_ospf::InterfaceView| OspfInterfaceRow {
        interface: i.interface.to_string(),
        address: i.address,
        area: i.area,
        network: i.network.to_owned(),
        state: i.state.to_owned(),
        cost: i.cost,
        designated: i.designated,
        backup: i.backup,
        neighbors: count(i.neighbors),
        refused: i.refused.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect(),
    };
    engine.interfaces().into_iter().map(row).collect()
}

pub(super) fn database(engine: &Ospf) -> Vec<LsaRow> {
    let row = |l: edgeplex_ospf::LsaView| LsaRow {
        kind: l.kind.to_owned(),
        id: l.id,
        advertising_router: l.advertising_router,
        age_s: l.age_s,
        sequence: l.sequence,
        checksum: l.checksum,
        length: l.length,
        contents: l.contents,
    };
    engine.database().into_iter().map(row).collect()
}

pub(super) fn routes(engine: &Ospf) -> Vec<OspfRouteRow> {
    let hop = |h: &NextHop| CoreNextHop { interface: h.interface.to_string(), address: Some(h.address) };
    let row = |(prefix, route): (&Ipv4Net, &Route)| OspfRouteRow {
        prefix: *prefix,
        kind: route.kind.name().to_owned(),
        cost: route.cost,
        next_hops: if route.connected { connected(engine, prefix) } else { route.next_hops.iter().map(hop).collect() },
        backup: route.backup.iter().map(hop).collect(),
    };
    engine.routes().iter().map(row).collect()
}

/// Interfaces that a prefix of our own is on; a host of ours is on none.
fn connected(engine: &Ospf, prefix: &Ipv4Net) -> Vec<CoreNextHop> {
    let on = engine.config().interfaces.iter().filter(|(_, i)| i.address.trunc() == *prefix);
    on.map(|(name, _)| CoreNextHop { interface: name.to_string(), address: None }).collect()
}
