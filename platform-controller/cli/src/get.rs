//! Desired state as it was given. Documents stay JSON values here: what the controller says is shown, known or not.

use crate::{
    args::GetWhat,
    error::Stop,
    output::{Printer, table},
};
use edgeplex_api::Client;
use edgeplex_types::Name;
use serde_json::{Map, Value};

pub(crate) async fn documents(client: &Client) -> Result<Vec<Value>, Stop> {
    Ok(client.get("/v1/documents").await?)
}

pub(crate) async fn get(client: &Client, out: Printer, what: Option<GetWhat>) -> Result<(), Stop> {
    let all = documents(client).await?;
    let of_kind = |kind: &str| all.iter().filter(|d| d["kind"] == kind).cloned().collect::<Vec<_>>();
    match what {
        None => out.print_documents(&all, documents_text),
        Some(GetWhat::Platform) => out.print_documents(&of_kind("Platform"), platform_text),
        Some(GetWhat::Customers) => out.print_documents(&of_kind("Customer"), customers_text),
        Some(GetWhat::Attachments) => out.print(&attachments(&of_kind("Customer")), |rows| attachments_text(rows)),
    }
}

pub(crate) fn is_customer(document: &Value, name: &Name) -> bool {
    document["kind"] == "Customer" && document["metadata"]["name"] == name.as_str()
}

/// A value as people write it; nothing for what is not there.
pub(crate) fn text(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        v => v.to_string(),
    }
}

/// One field of each item.
fn each(items: &Value, field: &str) -> String {
    items.as_array().into_iter().flatten().map(|i| text(&i[field])).collect::<Vec<_>>().join(",")
}

fn count(items: &Value) -> String {
    items.as_array().map_or(0, Vec::len).to_string()
}

fn documents_text(documents: &[Value]) -> String {
    table(&["KIND", "NAME"], documents.iter().map(|d| vec![text(&d["kind"]), text(&d["metadata"]["name"])]))
}

fn platform_text(documents: &[Value]) -> String {
    let row = |d: &Value| {
        let s = &d["spec"];
        let labels = format!("{}-{}", s["labels"]["first"], s["labels"]["last"]);
        let (core, reflectors) = (each(&s["core"], "port"), each(&s["routeReflectors"], "address"));
        let role = if s["role"].is_null() { "pe".into() } else { text(&s["role"]) };
        vec![text(&d["metadata"]["name"]), role, text(&s["asn"]), text(&s["loopback"]), core, text(&s["access"]), reflectors, labels]
    };
    table(&["NAME", "ROLE", "ASN", "LOOPBACK", "CORE", "ACCESS", "REFLECTORS", "LABELS"], documents.iter().map(row))
}

fn customers_text(documents: &[Value]) -> String {
    let row = |d: &Value| {
        let (vpn, attachments) = (&d["spec"]["vpn"], &d["spec"]["attachments"]);
        vec![text(&d["metadata"]["name"]), text(&vpn["import"]), text(&vpn["export"]), count(attachments), each(attachments, "name")]
    };
    table(&["NAME", "IMPORT", "EXPORT", "ATTACHMENTS", "NAMES"], documents.iter().map(row))
}

/// Attachments as given, each with its customer's name.
fn attachments(customers: &[Value]) -> Vec<Value> {
    let of = |c: &Value| {
        let name = c["metadata"]["name"].clone();
        let items = c["spec"]["attachments"].as_array().cloned().unwrap_or_default();
        items.into_iter().map(move |a| {
            let mut row = Map::from_iter([("customer".to_owned(), name.clone())]);
            row.extend(a.as_object().cloned().unwrap_or_default());
            Value::Object(row)
        })
    };
    customers.iter().flat_map(of).collect()
}

fn attachments_text(rows: &[Value]) -> String {
    let row = |a: &Value| {
        // One neighbour stands without a list.
        let bgp = if a["bgp"].is_object() { Value::Array(vec![a["bgp"].clone()]) } else { a["bgp"].clone() };
        let addresses: Vec<String> = [&a["address"], &a["address6"]].into_iter().filter(|v| !v.is_null()).map(text).collect();
        let mut cells: Vec<String> = [&a["customer"], &a["name"], &a["port"], &a["vlan"]].into_iter().map(text).collect();
        cells.extend([addresses.join(","), each(&bgp, "neighbor"), each(&bgp, "remoteAs"), text(&a["rd"]), text(&a["label"])]);
        cells.push(count(&a["static"]));
        cells
    };
    let header = ["CUSTOMER", "ATTACHMENT", "PORT", "VLAN", "ADDRESS", "NEIGHBOR", "REMOTE-AS", "RD", "LABEL", "STATIC"];
    table(&header, rows.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn attachments_carry_their_customer() {
        let c = json!({"kind": "Customer", "metadata": {"name": "acme"}, "spec": {
            "vpn": {"import": ["65000:1"], "export": ["65000:1", "65000:2"]},
            "attachments": [{"name": "d1", "port": "eth2", "vlan": 7, "address": "10.0.0.1/30"},
                {"name": "d2", "port": "eth2", "vlan": 8, "address6": "2001:db8::1/64", "bgp": {"neighbor": "2001:db8::2", "remoteAs": 1}},
                {"name": "d3", "port": "eth2", "vlan": 9, "address": "10.0.1.1/30", "address6": "2001:db8:1::1/64",
                 "bgp": [{"neighbor": "10.0.1.2", "remoteAs": 1}, {"neighbor": "2001:db8:1::2", "remoteAs": 2}]}]}});
        let rows = attachments(std::slice::from_ref(&c));
        assert_eq!(rows[0]["customer"], "acme");
        let shown = attachments_text(&rows);
        let row = |n: usize| shown.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row(1), ["acme", "d1", "eth2", "7", "10.0.0.1/30", "-", "-", "-", "-", "0"]);
        assert_eq!(row(2)[4..7], ["2001:db8::1/64", "2001:db8::2", "1"]);
        assert_eq!(row(3)[4..7], ["10.0.1.1/30,2001:db8:1::1/64", "10.0.1.2,2001:db8:1::2", "1,2"]);
        assert!(customers_text(&[c]).ends_with("acme   65000:1   65000:1,65000:2   3             d1,d2,d3\n"));
    }
}
