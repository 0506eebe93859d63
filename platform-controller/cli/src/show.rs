//! Live state, one kind of row at a time.

use crate::{
    args::ShowWhat,
    error::Stop,
    output::{Printer, duration, list, note, or_none, table},
};
use edgeplex_api::{BgpRow, Client, CounterRow, FibRow, RouteRow, Shown};
use edgeplex_ff_fib_api::{Count, Target, VpnPath};
use edgeplex_mgmt::show::{LabelRow, Source};
use edgeplex_types::Name;
use serde::{Serialize, de::DeserializeOwned};

pub(crate) async fn show(client: &Client, out: Printer, what: ShowWhat, customer: Option<&Name>) -> Result<(), Stop> {
    match what {
        ShowWhat::Bgp => print::<BgpRow>(client, out, customer).await,
        ShowWhat::Routes => print::<RouteRow>(client, out, customer).await,
        ShowWhat::Labels => print::<LabelRow>(client, out, customer).await,
        ShowWhat::Fib => print::<FibRow>(client, out, customer).await,
        ShowWhat::Counters => print::<CounterRow>(client, out, customer).await,
    }
}

async fn print<T: Row>(client: &Client, out: Printer, customer: Option<&Name>) -> Result<(), Stop> {
    out.print(&rows::<T>(client, customer).await?, |rows| rows_text(rows))
}

/// Asks for the rows, and warns of those who could not be asked.
pub(crate) async fn rows<T: Row>(client: &Client, customer: Option<&Name>) -> Result<Vec<T>, Stop> {
    // A name holds nothing that a URL would have to escape.
    let query = customer.map(|c| format!("?customer={c}")).unwrap_or_default();
    let shown: Shown<T> = client.get(&format!("/v1/show/{}{query}", T::PATH)).await?;
    for who in &shown.unreachable {
        note(&format!("warning: rows are missing: {who}"));
    }
    Ok(shown.rows)
}

pub(crate) fn rows_text<T: Row>(rows: &[T]) -> String {
    table(T::HEADER, rows.iter().map(Row::cells))
}

pub(crate) trait Row: Serialize + DeserializeOwned {
    /// Below `/v1/show/`.
    const PATH: &'static str;
    const HEADER: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

impl Row for BgpRow {
    const PATH: &'static str = "bgp";
    const HEADER: &'static [&'static str] = &["OWNER", "NEIGHBOR", "AS", "STATE", "UP", "RECEIVED", "SENT", "RESETS", "LAST-ERROR"];
    fn cells(&self) -> Vec<String> {
        let n = &self.neighbor;
        vec![
            self.owner.clone(),
            n.address.to_string(),
            n.remote_as.to_string(),
            n.state.clone(),
            n.established_s.map(duration).unwrap_or_default(),
            n.prefixes_received.to_string(),
            n.prefixes_sent.to_string(),
            n.resets.to_string(),
            or_none(n.last_error.as_ref()),
        ]
    }
}

impl Row for RouteRow {
    const PATH: &'static str = "routes";
    const HEADER: &'static [&'static str] =
        &["ATTACHMENT", "PREFIX", "SOURCE", "FLAGS", "NEXT-HOP", "LABEL", "RD", "AS-PATH", "LOCAL-PREF", "MED", "TARGETS"];
    fn cells(&self) -> Vec<String> {
        let r = &self.route;
        let flags = [(r.best, "best"), (r.stale, "stale")];
        vec![
            self.attachment.to_string(),
            r.prefix.to_string(),
            source(r.source).into(),
            list(flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name)),
            or_none(r.next_hop),
            or_none(r.label),
            or_none(r.rd),
            r.as_path.clone(),
            or_none(r.local_pref),
            or_none(r.med),
            list(&r.route_targets),
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
    const HEADER: &'static [&'static str] = &["LABEL", "ATTACHMENT", "RD", "STATE"];
    fn cells(&self) -> Vec<String> {
        vec![self.label.to_string(), self.attachment.to_string(), self.rd.to_string(), self.state.clone()]
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
    use serde_json::json;

    #[test]
    fn every_row_fills_its_columns() {
        let id = "acme/d1";
        let bgp = json!({"owner": id, "address": "192.0.2.2", "remote_as": 65101, "state": "established", "established_s": 61,
            "prefixes_received": 3, "prefixes_sent": 4, "messages_received": 5, "messages_sent": 6, "resets": 1,
            "last_error": "Cease\u{1b}[2J", "treated_as_withdraw": 0, "attributes_discarded": 0});
        check::<BgpRow>(&bgp, &[id, "192.0.2.2", "65101", "established", "1m1s", "3", "4", "1", "Cease\u{1b}[2J"]);
        let route = json!({"attachment": id, "prefix": "10.0.0.0/8", "source": "vpn", "best": true, "stale": true,
            "next_hop": "10.255.0.2", "label": 1000, "as_path": "65101 65102", "local_pref": 100, "med": null,
            "route_targets": ["65000:1"]});
        let cells = [id, "10.0.0.0/8", "vpn", "best,stale", "10.255.0.2", "1000", "", "65101 65102", "100", "", "65000:1"];
        check::<RouteRow>(&route, &cells);
        let label = json!({"label": 1000, "attachment": id, "rd": "65000:7", "state": "active"});
        check::<LabelRow>(&label, &["1000", id, "65000:7", "active"]);
        let fib = json!({"attachment": id, "prefix": "10.0.0.0/8", "target": {"Vpn": {"paths": [{"label": 1, "tunnel": 2}],
            "backup": [{"label": 3, "tunnel": 4}]}}});
        check::<FibRow>(&fib, &[id, "10.0.0.0/8", "label 1 tunnel 2,backup label 3 tunnel 4"]);
        let n = json!({"packets": 1, "bytes": 64});
        let counters = json!({"attachment": id, "from_customer": n, "to_customer": n, "from_core": n, "to_core": n, "punted": n,
            "injected": n, "drops": [["no-route", 2], ["ttl-expired", 0]]});
        let one = "1 (64 B)";
        check::<CounterRow>(&counters, &[id, one, one, one, one, one, one, "no-route=2"]);
    }

    fn check<T: Row>(value: &serde_json::Value, cells: &[&str]) {
        let row: T = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(row.cells(), cells);
        assert_eq!(T::HEADER.len(), cells.len());
    }
}
