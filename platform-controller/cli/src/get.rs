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
        vec![text(&d["metadata"]["name"]), text(&s["asn"]), text(&s["loopback"]), core, text(&s["access"]), reflectors, labels]
    };
    table(&["NAME", "ASN", "LOOPBACK", "CORE", "ACCESS", "REFLECTORS", "LABELS"], documents.iter().map(row))
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
        let bgp = &a["bgp"];
        let fields = [&a["customer"], &a["name"], &a["port"], &a["vlan"], &a["address"], &bgp["neighbor"], &bgp["remoteAs"]];
        let rest = [&a["rd"], &a["label"]];
        let mut cells: Vec<String> = fields.into_iter().chain(rest).map(text).collect();
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
            "attachments": [{"name": "d1", "port": "eth2", "vlan": 7, "address": "10.0.0.1/30"}]}});
        let rows = attachments(std::slice::from_ref(&c));
        assert_eq!(rows[0]["customer"], "acme");
        let shown = attachments_text(&rows);
        assert_eq!(
            shown.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(),
            ["acme", "d1", "eth2", "7", "10.0.0.1/30", "-", "-", "-", "-", "0"]
        );
        assert!(customers_text(&[c]).ends_with("acme   65000:1   65000:1,65000:2   1             d1\n"));
    }
}
