//! One customer, desired and live, in sections.

use crate::{
    error::Stop,
    get::{documents, is_customer, text},
    output::{Printer, clean},
    show::{Whose, rows, rows_text},
    status::attachments_text,
};
use edgeplex_api::{AttachmentStatus, BgpRow, Client, CounterRow, Status};
use edgeplex_types::Name;
use serde::Serialize;
use serde_json::Value;

#[derive(Debug, Serialize)]
struct Description {
    document: Value,
    attachments: Vec<AttachmentStatus>,
    bgp: Vec<BgpRow>,
    counters: Vec<CounterRow>,
}

pub(crate) async fn customer(client: &Client, out: Printer, name: &Name) -> Result<(), Stop> {
    let all = documents(client).await?;
    let Some(document) = all.iter().find(|d| is_customer(d, name)).cloned() else {
        let there: Vec<String> = all.iter().filter(|d| d["kind"] == "Customer").map(|d| text(&d["metadata"]["name"])).collect();
        let there = if there.is_empty() { "there are none".into() } else { format!("there are: {}", there.join(", ")) };
        return Err(Stop::Refused(format!("there is no customer {name}; {there}")));
    };
    let status: Status = client.get("/v1/status").await?;
    let attachments = status.attachments.into_iter().filter(|a| a.attachment.customer == *name).collect();
    let of = Whose { customer: Some(name), attachment: None };
    let (bgp, counters) = (rows(client, of).await?, rows(client, of).await?);
    out.print(&Description { document, attachments, bgp, counters }, description_text)
}

fn description_text(d: &Description) -> String {
    let vpn = &d.document["spec"]["vpn"];
    let head = format!(
        "Name:    {}\nImport:  {}\nExport:  {}\n",
        text(&d.document["metadata"]["name"]),
        text(&vpn["import"]),
        text(&vpn["export"])
    );
    let desired = d.document["spec"]["attachments"].as_array().into_iter().flatten().map(attachment_text).collect::<String>();
    format!(
        "{}\nDesired attachments:\n{}\nLive attachments:\n{}\nBGP sessions:\n{}\nPackets:\n{}",
        clean(&head),
        clean(&desired),
        attachments_text(&d.attachments),
        rows_text(&d.bgp),
        rows_text(&d.counters)
    )
}

/// Every field that was given, by name; nested ones with their path.
fn attachment_text(a: &Value) -> String {
    let mut out = format!("  {}\n", text(&a["name"]));
    for (key, value) in a.as_object().into_iter().flatten().filter(|(k, _)| *k != "name") {
        let value = match value {
            Value::Object(fields) => pairs(fields),
            Value::Array(items) => items.iter().filter_map(Value::as_object).map(pairs).collect::<Vec<_>>().join("; "),
            v => text(v),
        };
        out += &format!("    {:<9}{value}\n", format!("{key}:"));
    }
    out
}

fn pairs(fields: &serde_json::Map<String, Value>) -> String {
    fields.iter().map(|(k, v)| format!("{k} {}", text(v))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_customer_reads_in_sections() {
        let document = json!({"kind": "Customer", "metadata": {"name": "acme"}, "spec": {
            "vpn": {"import": ["65000:1"], "export": ["65000:2"]},
            "attachments": [{"name": "d1", "port": "eth2", "bgp": {"neighbor": "192.0.2.2", "remoteAs": 65101},
                "static": [{"prefix": "10.0.0.0/8", "via": "192.0.2.2"}]}]}});
        let text = description_text(&Description { document, attachments: vec![], bgp: vec![], counters: vec![] });
        assert!(text.starts_with("Name:    acme\nImport:  65000:1\nExport:  65000:2\n\nDesired attachments:\n  d1\n"), "{text}");
        for part in ["    bgp:     neighbor 192.0.2.2, remoteAs 65101\n", "    static:  prefix 10.0.0.0/8, via 192.0.2.2\n", "\nPackets:\n"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
