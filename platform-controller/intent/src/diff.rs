//! What a new intent changes in an old one, field by field, for people to read.

use crate::{Document, Intent};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Create,
    Update,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub action: Action,
    pub kind: String,
    pub name: String,
    /// Fields that differ; empty for a document that comes or goes whole.
    pub fields: Vec<FieldChange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    pub field: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// Documents that differ, in the order platform, customers by name.
pub fn changes(old: &Intent, new: &Intent) -> Vec<Change> {
    let index = |i: &Intent| -> BTreeMap<(u8, String), Document> {
        let rank = |d: &Document| u8::from(matches!(d, Document::Customer(_)));
        i.documents().into_iter().map(|d| ((rank(&d), d.name().to_string()), d)).collect()
    };
    let (old, new) = (index(old), index(new));
    let mut out = vec![];
    for (key, document) in &new {
        let (action, fields) = match old.get(key) {
            None => (Action::Create, vec![]),
            Some(before) if before == document => continue,
            Some(before) => (Action::Update, field_changes(before, document)),
        };
        out.push(Change { action, kind: document.kind().into(), name: key.1.clone(), fields });
    }
    let gone = old.iter().filter(|(k, _)| !new.contains_key(*k));
    out.extend(gone.map(|(k, d)| Change { action: Action::Delete, kind: d.kind().into(), name: k.1.clone(), fields: vec![] }));
    out
}

/// Fields by which the items of a list are told apart, whatever comes before them in it.
const IDENTITIES: [&str; 5] = ["name", "port", "neighbor", "prefix", "address"];
/// Passwords are told to differ, not what they are.
const SECRET: &str = "password";

fn field_changes(old: &Document, new: &Document) -> Vec<FieldChange> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &old.to_value(), &mut a);
    flatten("", &new.to_value(), &mut b);
    let mut fields: Vec<&String> = a.keys().chain(b.keys()).collect();
    fields.sort();
    fields.dedup();
    let shown = |field: &str, v: Option<&Value>| v.map(|v| if field.ends_with(SECRET) { Value::from("***") } else { v.clone() });
    let differ = fields.into_iter().filter(|f| a.get(*f) != b.get(*f));
    differ.map(|f| FieldChange { field: f.clone(), old: shown(f, a.get(f)), new: shown(f, b.get(f)) }).collect()
}

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            let path = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
            flatten(&path, v, out);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| {
            // Attachments are known by name, neighbours by address; the rest by place.
            let key = IDENTITIES.iter().find_map(|k| v.get(k).and_then(Value::as_str)).map_or_else(|| i.to_string(), ToOwned::to_owned);
            flatten(&format!("{path}[{key}]"), v, out);
        }),
        leaf => drop(out.insert(path.to_owned(), leaf.clone())),
    }
}
