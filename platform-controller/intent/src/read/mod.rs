//! From text to documents. Every value is taken by hand from the parsed tree, so that an error can name its path.

mod at;
mod bgp;
mod customer;
mod platform;
mod values;

pub(crate) use values::{usable, usable6};

use crate::{Document, IntentError};
use at::At;
use edgeplex_types::Name;
use serde_json::Value;

pub const API_VERSION: &str = "edgeplex/v1";
/// Longest text taken, bytes.
pub const MAX_TEXT: usize = 4 << 20;

/// Reads all YAML documents of `text` (JSON is YAML too). Unknown fields and duplicate keys are refused.
pub fn parse(text: &str) -> Result<Vec<Document>, IntentError> {
    if text.len() > MAX_TEXT {
        return Err(IntentError::new("input", "size", format!("{} bytes", text.len()), format!("must be at most {MAX_TEXT} bytes")));
    }
    let values: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| malformed(&e))?;
    if values.is_empty() {
        return Err(IntentError::new("input", "document 1", "", "holds no document; write at least one Platform or Customer"));
    }
    values.iter().enumerate().map(|(i, v)| document(i + 1, v)).collect()
}

fn malformed(e: &serde_saphyr::Error) -> IntentError {
    let place = e.location().map_or_else(|| "syntax".to_owned(), |l| format!("line {} column {}", l.line(), l.column()));
    match e.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            IntentError::new("input", place, key, "is given twice in one mapping")
        }
        other => {
            let said = other.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            // Where it is has been said.
            let said = said.lines().next().and_then(|l| l.split(" at line ").next()).unwrap_or_default();
            IntentError::new("input", place, "YAML", format!("is not well-formed: {said}"))
        }
    }
}

fn document(number: usize, value: &Value) -> Result<Document, IntentError> {
    let untitled = format!("document {number}");
    let root = At { document: &untitled, path: String::new(), value };
    let fields = root.fields(&["apiVersion", "kind", "metadata", "spec"])?;
    let version: String = fields.need("apiVersion")?.text()?.to_owned();
    if version != API_VERSION {
        return Err(fields.need("apiVersion")?.wrong(format!("must be {API_VERSION}")));
    }
    let kind = fields.need("kind")?;
    let name: Name = fields.need("metadata")?.fields(&["name"])?.need("name")?.parse()?;
    let title = format!("{} {name}", kind.text()?);
    let root = At { document: &title, path: String::new(), value };
    let spec = root.fields(&["apiVersion", "kind", "metadata", "spec"])?.need("spec")?;
    match kind.text()? {
        "Platform" => platform::platform(name, &spec).map(Document::Platform),
        "Customer" => customer::customer(name, &spec).map(Document::Customer),
        _ => Err(kind.wrong("must be Platform or Customer")),
    }
}
