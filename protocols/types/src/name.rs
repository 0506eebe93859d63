//! Names an operator gives: customers and their attachments.

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// 1 to 32 characters: a lower-case letter, then letters, digits and single hyphens; never a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        let ok = (1..=32).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !s.ends_with('-')
            && !s.contains("--");
        if ok {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidValue::new(
                "name",
                s,
                "must be 1 to 32 characters: a lower-case letter, then lower-case letters, digits and single hyphens",
            ))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, InvalidValue> {
        s.parse()
    }
}

impl From<Name> for String {
    fn from(n: Name) -> String {
        n.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One attachment circuit of one customer, written `acme/denver-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AttachmentId {
    pub customer: Name,
    pub attachment: Name,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.customer, self.attachment)
    }
}

impl FromStr for AttachmentId {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, InvalidValue> {
        let (c, a) = s.split_once('/').ok_or_else(|| InvalidValue::new("attachment", s, "must look like customer/attachment"))?;
        Ok(Self { customer: c.parse()?, attachment: a.parse()? })
    }
}

impl TryFrom<String> for AttachmentId {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, InvalidValue> {
        s.parse()
    }
}

impl From<AttachmentId> for String {
    fn from(a: AttachmentId) -> String {
        a.to_string()
    }
}
