//! What customers have: sessions, routes, labels, FIBs, counters.

use crate::{
    output::{duration, list, or_none},
    show::Row,
};
use edgeplex_api::{BgpRow, CounterRow, FibRow, RouteRow};
use edgeplex_ff_fib_api::{Count, Target, VpnPath};
use edgeplex_mgmt::show::{LabelRow, Source};

impl Row for BgpRow {
    const PATH: &'static str = "bgp";
    const HEADER: &'static [&'static str] =
        &["OWNER", "NEIGHBOR", "AS", "STATE", "UP", "FAMILIES", "RECEIVED", "SENT", "RESETS", "LAST-ERROR"];
    fn cells(&self) -> Vec<String> {
        let n = &self.neighbor;
        vec![
            self.owner.clone(),
            n.address.to_string(),
            n.remote_as.to_string(),
            n.state.clone(),
            n.established_s.map(duration).unwrap_or_default(),
            list(&n.families),
            n.prefixes_received.to_string(),
            n.prefixes_sent.to_string(),
            n.resets.to_string(),
            or_none(n.last_error.as_ref()),
        ]
    }
}

impl Row for RouteRow {
    const PATH: &'static str = "routes";
    const HEADER: &'static [&'static str] = &[
        "ATTACHMENT",
        "PREFIX",
        "SOURCE",
        "FLAGS",
        "NEXT-HOP",
        "LABEL",
        "TUNNEL",
        "RD",
        "AS-PATH",
        "LOCAL-PREF",
        "MED",
        "TARGETS",
        "COMMUNITIES",
    ];
    fn cells(&self) -> Vec<String> {
        let r = &self.route;
        let flags = [(r.best, "best"), (r.multipath, "multipath"), (r.backup, "backup"), (r.stale, "stale")];
        vec![
            self.attachment.to_string(),
            r.prefix.to_string(),
            source(r.source).into(),
            list(flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name)),
            or_none(r.next_hop),
            or_none(r.label),
            or_none(r.tunnel.map(|t| t.0)),
            or_none(r.rd),
            r.as_path.clone(),
            or_none(r.local_pref),
            or_none(r.med),
            list(&r.route_targets),
            list(&r.communities),
        ]
    }
}

fn source(s: Source) -> &'static str {
    match s {
        Source::Connected => "connected",
        Source::Static => "static",
        Source::Bgp => "bgp",
        Source::Vpn => "vpn",
    }
}

impl Row for LabelRow {
    const PATH: &'static str = "labels";
    const HEADER: &'static [&'static str] = &["LABEL", "ATTACHMENT", "RD", "NEXT-HOP", "STATE"];
    fn cells(&self) -> Vec<String> {
        vec![self.label.to_string(), self.attachment.to_string(), self.rd.to_string(), or_none(self.next_hop), self.state.clone()]
    }
}

impl Row for FibRow {
    const PATH: &'static str = "fib";
    const HEADER: &'static [&'static str] = &["ATTACHMENT", "PREFIX", "TARGET"];
    fn cells(&self) -> Vec<String> {
        vec![self.attachment.to_string(), self.prefix.to_string(), target(&self.target)]
    }
}

fn target(t: &Target) -> String {
    match t {
        Target::Vpn { paths, backup } => {
            let path = |p: &VpnPath| format!("label {} tunnel {}", p.label, p.tunnel.0);
            let backup = backup.iter().map(|p| format!("backup {}", path(p)));
            list(paths.iter().map(path).chain(backup))
        }
        Target::Customer { next_hop } => format!("via {next_hop}"),
        Target::Connected => "connected".into(),
        Target::Local => "local".into(),
        Target::Unreachable => "unreachable".into(),
    }
}

impl Row for CounterRow {
    const PATH: &'static str = "counters";
    const HEADER: &'static [&'static str] =
        &["ATTACHMENT", "FROM-CUSTOMER", "TO-CUSTOMER", "FROM-CORE", "TO-CORE", "PUNTED", "INJECTED", "DROPS"];
    fn cells(&self) -> Vec<String> {
        let c = &self.counters;
        let counts = [c.from_customer, c.to_customer, c.from_core, c.to_core, c.punted, c.injected];
        let drops = list(c.drops.iter().filter(|(_, n)| *n > 0).map(|(reason, n)| format!("{reason}={n}")));
        std::iter::once(self.attachment.to_string()).chain(counts.map(count)).chain([drops]).collect()
    }
}

/// Packets, and the bytes they had.
fn count(c: Count) -> String {
    format!("{} ({} B)", c.packets, c.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::check;
    use serde_json::json;

    #[test]
    fn every_row_fills_its_columns() {
        let id = "acme/d1";
        let bgp = json!({"owner": id, "address": "192.0.2.2", "remote_as": 65101, "state": "established", "established_s": 61,
            "prefixes_received": 3, "prefixes_sent": 4, "messages_received": 5, "messages_sent": 6, "resets": 1,
            "last_error": "Cease\u{1b}[2J", "treated_as_withdraw": 0, "attributes_discarded": 0,
            "families": ["ipv4", "ipv6"]});
        check::<BgpRow>(&bgp, &[id, "192.0.2.2", "65101", "established", "1m1s", "ipv4,ipv6", "3", "4", "1", "Cease\u{1b}[2J"]);
        let route = json!({"attachment": id, "prefix": "10.0.0.0/8", "source": "vpn", "best": true, "multipath": true, "backup": true, "stale": true,
            "next_hop": "10.255.0.2", "label": 1000, "tunnel": 7, "as_path": "65101 65102", "local_pref": 100, "med": null,
            "route_targets": ["65000:1"], "communities": ["65000:2", "no-export"]});
        let cells = [
            id,
            "10.0.0.0/8",
            "vpn",
            "best,multipath,backup,stale",
            "10.255.0.2",
            "1000",
            "7",
            "",
            "65101 65102",
            "100",
            "",
            "65000:1",
            "65000:2,no-export",
        ];
        check::<RouteRow>(&route, &cells);
        let label = json!({"label": 1000, "attachment": id, "rd": "65000:7", "next_hop": "192.0.2.2", "state": "active"});
        check::<LabelRow>(&label, &["1000", id, "65000:7", "192.0.2.2", "active"]);
        let fib = json!({"attachment": id, "prefix": "10.0.0.0/8", "target": {"Vpn": {"paths": [{"label": 1, "tunnel": 2}],
            "backup": [{"label": 3, "tunnel": 4}]}}});
        check::<FibRow>(&fib, &[id, "10.0.0.0/8", "label 1 tunnel 2,backup label 3 tunnel 4"]);
        let n = json!({"packets": 1, "bytes": 64});
        let counters = json!({"attachment": id, "from_customer": n, "to_customer": n, "from_core": n, "to_core": n, "punted": n,
            "injected": n, "drops": [["no-route", 2], ["ttl-expired", 0]]});
        let one = "1 (64 B)";
        check::<CounterRow>(&counters, &[id, one, one, one, one, one, one, "no-route=2"]);
    }
}
