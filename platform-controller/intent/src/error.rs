//! What is wrong with an operator's intent.

use serde::{Deserialize, Serialize};

/// Names the document, the field, what was given, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{document}: {field}: `{given}`: {right}")]
pub struct IntentError {
    /// Such as `Customer acme`, or `document 2` while it has no name.
    pub document: String,
    /// Such as `spec.attachments[0].vlan`.
    pub field: String,
    pub given: String,
    pub right: String,
}

impl IntentError {
    pub fn new(document: impl Into<String>, field: impl Into<String>, given: impl ToString, right: impl Into<String>) -> Self {
        let given = given.to_string();
        // Whatever was given may be a megabyte long, or try to write to the operator's terminal.
        let mut shown: String =
            given.chars().take(80).flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect();
        if given.chars().nth(80).is_some() {
            shown.push('…');
        }
        Self { document: document.into(), field: field.into(), given: shown, right: right.into() }
    }
}
