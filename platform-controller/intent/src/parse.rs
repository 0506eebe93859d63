//! From text to documents. YAML is read into plain values first, so that one reader serves files and the API, and every
//! error has the path of its field.

use crate::{Document, Invalid, Problem};
use serde_json::Value;

/// Longest text accepted, bytes.
const MAX_TEXT: usize = 16 << 20;

/// Documents of a YAML text (JSON is YAML too). Duplicate keys and unknown fields are refused.
pub fn parse(text: &str) -> Result<Vec<Document>, Invalid> {
    let whole = |message: String| Invalid(vec![Problem { document: "YAML".into(), field: String::new(), message }]);
    if text.len() > MAX_TEXT {
        return Err(whole(format!("{} bytes: at most {MAX_TEXT} are allowed", text.len())));
    }
    let values: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| whole(e.to_string()))?;
    let values: Vec<Value> = values.into_iter().filter(|v| !v.is_null()).collect();
    if values.is_empty() {
        return Err(whole("holds no document; one starts with `apiVersion: edgeplex/v1`".into()));
    }
    parse_json(values)
}

/// The same from values already read.
pub fn parse_json(values: Vec<Value>) -> Result<Vec<Document>, Invalid> {
    let mut documents = vec![];
    let mut problems = vec![];
    for (i, value) in values.into_iter().enumerate() {
        match document(i, value) {
            Ok(d) => documents.push(d),
            Err(p) => problems.push(p),
        }
    }
    if problems.is_empty() { Ok(documents) } else { Err(Invalid(problems)) }
}

fn document(index: usize, mut value: Value) -> Result<Document, Problem> {
    let nameless = format!("document {}", index + 1);
    let problem = |document: &str, field: &str, message: String| Problem { document: document.into(), field: field.into(), message };
    let Some(object) = value.as_object_mut() else {
        return Err(problem(&nameless, "", "must be a mapping with apiVersion, kind, metadata and spec".into()));
    };
    // The kind is taken out first: serde's own tagged enums forget the path of an error below them.
    let kind = match object.remove("kind") {
        Some(Value::String(kind)) => kind,
        Some(other) => return Err(problem(&nameless, "kind", format!("`{other}`: must be Platform or Customer"))),
        None => return Err(problem(&nameless, "kind", "is missing: must be Platform or Customer".into())),
    };
    let name = object.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str).map(ToOwned::to_owned);
    let called = name.map_or(nameless, |n| format!("{kind} {n}"));
    let result = match kind.as_str() {
        "Platform" => serde_path_to_error::deserialize(value).map(Document::Platform),
        "Customer" => serde_path_to_error::deserialize(value).map(Document::Customer),
        other => return Err(problem(&called, "kind", format!("`{other}`: must be Platform or Customer"))),
    };
    result.map_err(|e| {
        let path = e.path().to_string();
        problem(&called, if path == "." { "" } else { &path }, e.into_inner().to_string())
    })
}

/// Documents as YAML text, in their order, separated by `---`.
pub fn to_yaml(documents: &[Document]) -> Result<String, serde_saphyr::ser::Error> {
    let texts: Result<Vec<String>, _> = documents.iter().map(serde_saphyr::to_string).collect();
    Ok(texts?.join("---\n"))
}
