//! What the core has: OSPF, LDP, tunnels, BFD.

use crate::{
    output::{duration, list, or_none},
    show::Row,
};
use edgeplex_api::BfdSession;
use edgeplex_mgmt::show::{
    CoreNextHop, ForwardingRow, LdpBindingRow, LdpNeighborRow, LdpRemoteBinding, LegRow, LsaRow, OspfInterfaceRow, OspfNeighborRow,
    OspfRouteRow, TunnelRow,
};

fn seconds(ms: u64) -> String {
    format!("{}.{}s", ms / 1000, ms / 100 % 10)
}

/// Microseconds as milliseconds.
fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

impl Row for OspfNeighborRow {
    const PATH: &'static str = "ospf-neighbors";
    const HEADER: &'static [&'static str] = &[
        "ROUTER-ID",
        "ADDRESS",
        "INTERFACE",
        "STATE",
        "ROLE",
        "PRIORITY",
        "DEAD-IN",
        "FULL",
        "RETRANSMIT",
        "REQUESTS",
        "RESETS",
        "LAST-ERROR",
    ];
    fn cells(&self) -> Vec<String> {
        vec![
            self.router_id.to_string(),
            self.address.to_string(),
            self.interface.clone(),
            self.state.clone(),
            self.role.clone(),
            self.priority.to_string(),
            seconds(self.dead_in_ms),
            self.full_s.map(duration).unwrap_or_default(),
            self.retransmissions.to_string(),
            self.requests.to_string(),
            self.resets.to_string(),
            or_none(self.last_error.as_ref()),
        ]
    }
}

impl Row for OspfInterfaceRow {
    const PATH: &'static str = "ospf-interfaces";
    const HEADER: &'static [&'static str] =
        &["INTERFACE", "ADDRESS", "AREA", "NETWORK", "STATE", "COST", "DR", "BACKUP", "NEIGHBORS", "REFUSED"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.interface.clone(),
            self.address.to_string(),
            self.area.to_string(),
            self.network.clone(),
            self.state.clone(),
            self.cost.to_string(),
            or_none(self.designated),
            or_none(self.backup),
            self.neighbors.to_string(),
            list(self.refused.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| format!("{reason}={n}"))),
        ]
    }
}

impl Row for LsaRow {
    const PATH: &'static str = "ospf-database";
    const HEADER: &'static [&'static str] = &["TYPE", "ID", "ROUTER", "AGE", "SEQUENCE", "CHECKSUM", "LENGTH", "CONTENTS"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.id.to_string(),
            self.advertising_router.to_string(),
            self.age_s.to_string(),
            format!("{:#010x}", self.sequence),
            format!("{:#06x}", self.checksum),
            self.length.to_string(),
            self.contents.join("; "),
        ]
    }
}

impl Row for OspfRouteRow {
    const PATH: &'static str = "ospf-routes";
    const HEADER: &'static [&'static str] = &["PREFIX", "TYPE", "COST", "NEXT-HOPS", "BACKUP"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.prefix.to_string(),
            self.kind.clone(),
            self.cost.to_string(),
            list(self.next_hops.iter().map(next_hop)),
            list(self.backup.iter().map(next_hop)),
        ]
    }
}

/// `10.0.1.2@core0`, or `core0` where the prefix is connected.
fn next_hop(n: &CoreNextHop) -> String {
    n.address.map_or_else(|| n.interface.clone(), |a| format!("{a}@{}", n.interface))
}

impl Row for LdpNeighborRow {
    const PATH: &'static str = "ldp-neighbors";
    const HEADER: &'static [&'static str] =
        &["LSR-ID", "TRANSPORT", "STATE", "UP", "INTERFACES", "HOLD", "KEEPALIVE", "RECEIVED", "SENT", "FLAGS", "RESETS", "LAST-ERROR"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.lsr_id.to_string(),
            self.transport_address.to_string(),
            self.state.clone(),
            self.up_s.map(duration).unwrap_or_default(),
            list(&self.interfaces),
            seconds(self.hold_ms),
            duration(self.keepalive_s.into()),
            self.labels_received.to_string(),
            self.labels_sent.to_string(),
            if self.stale { "stale".into() } else { String::new() },
            self.resets.to_string(),
            or_none(self.last_error.as_ref()),
        ]
    }
}

impl Row for LdpBindingRow {
    const PATH: &'static str = "ldp-bindings";
    const HEADER: &'static [&'static str] = &["PREFIX", "LOCAL", "REMOTE"];
    fn cells(&self) -> Vec<String> {
        vec![self.prefix.to_string(), or_none(self.local), list(self.remote.iter().map(remote_binding))]
    }
}

/// `10.255.0.3:500001*` where it is in use, `~` where it is stale.
fn remote_binding(b: &LdpRemoteBinding) -> String {
    format!("{}:{}{}{}", b.lsr_id, b.label, if b.in_use { "*" } else { "" }, if b.stale { "~" } else { "" })
}

impl Row for ForwardingRow {
    const PATH: &'static str = "forwarding";
    const HEADER: &'static [&'static str] = &["LABEL", "PREFIX", "LEGS"];
    fn cells(&self) -> Vec<String> {
        vec![self.label.to_string(), self.prefix.to_string(), list(self.legs.iter().map(leg))]
    }
}

impl Row for TunnelRow {
    const PATH: &'static str = "tunnels";
    const HEADER: &'static [&'static str] = &["TUNNEL", "ENDPOINT", "STATE", "SOURCE", "COST", "LEGS", "BACKUP", "PATHS"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.id.0.to_string(),
            self.endpoint.to_string(),
            if self.up { "up" } else { "down" }.into(),
            self.source.clone(),
            or_none(self.cost),
            list(self.legs.iter().map(leg)),
            list(self.backup.iter().map(leg)),
            self.paths.to_string(),
        ]
    }
}

/// `10.0.1.2@core0 500001/1000`: where to, and the labels pushed, outermost first.
fn leg(l: &LegRow) -> String {
    let labels: Vec<String> = l.labels.iter().map(ToString::to_string).collect();
    let stack = if labels.is_empty() { String::new() } else { format!(" {}", labels.join("/")) };
    let unresolved = if l.mac.is_none() { " (unresolved)" } else { "" };
    format!("{}@{}{stack}{unresolved}", l.next_hop, l.interface)
}

impl Row for BfdSession {
    const PATH: &'static str = "bfd";
    const HEADER: &'static [&'static str] =
        &["OWNER", "ADDRESS", "INTERFACE", "STATE", "UP", "CLIENTS", "TRANSMIT", "DETECTION", "DIAGNOSTIC", "REMOTE", "DOWNS"];
    fn cells(&self) -> Vec<String> {
        let s = &self.session;
        vec![
            self.owner.clone(),
            s.address.to_string(),
            or_none(s.interface.as_ref()),
            s.state.clone(),
            s.up_s.map(duration).unwrap_or_default(),
            list(&s.clients),
            milliseconds(s.transmit_us),
            milliseconds(s.detection_us),
            s.diagnostic.clone(),
            s.remote_diagnostic.clone(),
            s.downs.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::check;
    use serde_json::json;

    #[test]
    fn ospf() {
        let neighbor = json!({"router_id": "10.255.0.3", "address": "10.0.1.2", "interface": "core1", "state": "full", "priority": 1,
            "role": "dr", "dead_in_ms": 38_250, "full_s": 61, "retransmissions": 2, "requests": 3, "resets": 1, "last_error": "dead"});
        check::<OspfNeighborRow>(
            &neighbor,
            &["10.255.0.3", "10.0.1.2", "core1", "full", "dr", "1", "38.2s", "1m1s", "2", "3", "1", "dead"],
        );
        let interface = json!({"interface": "core1", "address": "10.0.1.1/30", "area": "0.0.0.0", "network": "point-to-point",
            "state": "point-to-point", "cost": 10, "designated": null, "backup": null, "neighbors": 1,
            "refused": [["authentication", 2], ["mtu", 0]]});
        let cells = ["core1", "10.0.1.1/30", "0.0.0.0", "point-to-point", "point-to-point", "10", "", "", "1", "authentication=2"];
        check::<OspfInterfaceRow>(&interface, &cells);
        let lsa = json!({"kind": "router", "id": "10.255.0.1", "advertising_router": "10.255.0.1", "age_s": 7, "sequence": 0x8000_0001_u32,
            "checksum": 0xabc, "length": 48, "contents": ["stub 10.0.1.0/30 cost 10", "link 10.255.0.3 cost 10"]});
        let said = "stub 10.0.1.0/30 cost 10; link 10.255.0.3 cost 10";
        check::<LsaRow>(&lsa, &["router", "10.255.0.1", "10.255.0.1", "7", "0x80000001", "0x0abc", "48", said]);
        let route = json!({"prefix": "10.255.0.3/32", "kind": "intra-area", "cost": 20,
            "next_hops": [{"interface": "core0", "address": "10.0.0.3"}, {"interface": "core1", "address": null}], "backup": []});
        check::<OspfRouteRow>(&route, &["10.255.0.3/32", "intra-area", "20", "10.0.0.3@core0,core1", ""]);
    }

    #[test]
    fn ldp() {
        let neighbor = json!({"lsr_id": "10.255.0.3", "transport_address": "10.255.0.3", "state": "operational", "up_s": 5,
            "interfaces": ["core0", "core1"], "hold_ms": 14_900, "keepalive_s": 60, "labels_received": 3, "labels_sent": 4,
            "messages_received": 5, "messages_sent": 6, "resets": 0, "last_error": null, "stale": true});
        let cells = ["10.255.0.3", "10.255.0.3", "operational", "5s", "core0,core1", "14.9s", "1m0s", "3", "4", "stale", "0", ""];
        check::<LdpNeighborRow>(&neighbor, &cells);
        let binding = json!({"prefix": "10.255.0.3/32", "local": 500_000, "remote": [
            {"lsr_id": "10.255.0.3", "label": 3, "in_use": true, "stale": false},
            {"lsr_id": "10.255.0.4", "label": 17, "in_use": false, "stale": true}]});
        check::<LdpBindingRow>(&binding, &["10.255.0.3/32", "500000", "10.255.0.3:3*,10.255.0.4:17~"]);
    }

    #[test]
    fn ways_through_the_core() {
        let leg = json!({"interface": "core0", "next_hop": "10.0.0.3", "mac": "02:00:00:00:00:03", "labels": [17, 1000]});
        let bare = json!({"interface": "core1", "next_hop": "10.0.1.2", "mac": null, "labels": []});
        check::<ForwardingRow>(
            &json!({"label": 500_000, "prefix": "10.255.0.3/32", "legs": [leg, bare]}),
            &["500000", "10.255.0.3/32", "10.0.0.3@core0 17/1000,10.0.1.2@core1 (unresolved)"],
        );
        let tunnel = json!({"id": 2, "endpoint": "10.255.0.2", "up": true, "source": "ospf", "cost": 20, "legs": [leg], "backup": [bare],
            "paths": 9});
        let cells = ["2", "10.255.0.2", "up", "ospf", "20", "10.0.0.3@core0 17/1000", "10.0.1.2@core1 (unresolved)", "9"];
        check::<TunnelRow>(&tunnel, &cells);
    }

    #[test]
    fn bfd() {
        let session = json!({"owner": "acme/d1", "address": "192.0.2.2", "interface": null, "state": "up", "up_s": 9,
            "clients": ["bgp", "static"], "transmit_us": 300_000, "detection_us": 900_050, "local_discriminator": 1,
            "remote_discriminator": 2, "diagnostic": "none", "remote_diagnostic": "none", "downs": 1, "packets_received": 5,
            "packets_sent": 6});
        let cells = ["acme/d1", "192.0.2.2", "", "up", "9s", "bgp,static", "300.000 ms", "900.050 ms", "none", "none", "1"];
        check::<BfdSession>(&session, &cells);
    }
}
