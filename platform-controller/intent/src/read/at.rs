//! Places in a document: taking fields, lists, texts and numbers, each error with its path.

use crate::IntentError;
use edgeplex_types::InvalidValue;
use serde_json::{Map, Value};
use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

/// A place in a document.
pub(super) struct At<'a> {
    pub(super) document: &'a str,
    pub(super) path: String,
    pub(super) value: &'a Value,
}

/// The fields of a mapping, all known.
pub(super) struct Fields<'a> {
    pub(super) document: &'a str,
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn at(&self, key: &str, value: &'a Value) -> At<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        At { document: self.document, path, value }
    }

    pub(super) fn get(&self, key: &str) -> Option<At<'a>> {
        self.map.get(key).filter(|v| !v.is_null()).map(|v| self.at(key, v))
    }

    pub(super) fn need(&self, key: &str) -> Result<At<'a>, IntentError> {
        self.get(key).ok_or_else(|| {
            let at = self.at(key, &Value::Null);
            IntentError::new(at.document, at.path, "(missing)", "is required")
        })
    }

    pub(super) fn may<T>(&self, key: &str, take: impl Fn(&At<'a>) -> Result<T, IntentError>) -> Result<Option<T>, IntentError> {
        self.get(key).map(|a| take(&a)).transpose()
    }

    pub(super) fn list<T>(&self, key: &str, take: impl Fn(&At<'a>) -> Result<T, IntentError>) -> Result<Vec<T>, IntentError> {
        self.get(key).map_or_else(|| Ok(vec![]), |a| a.list(take))
    }

    /// A number that may be left out; `unit` with a blank before it, if it has one.
    pub(super) fn number<T: TryFrom<u64>>(&self, key: &str, range: RangeInclusive<u64>, unit: &str, default: T) -> Result<T, IntentError> {
        let right = format!("must be {} to {}{unit}", range.start(), range.end());
        Ok(self.may(key, |a| a.number(range.clone(), &right))?.unwrap_or(default))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, IntentError> {
        Ok(self.may(key, |a| a.value.as_bool().ok_or_else(|| a.wrong("must be true or false")))?.unwrap_or(default))
    }
}

impl<'a> At<'a> {
    pub(super) fn wrong(&self, right: impl Into<String>) -> IntentError {
        let given = match self.value {
            Value::String(s) => s.clone(),
            v => v.to_string(),
        };
        let path = if self.path.is_empty() { "top level" } else { &self.path };
        IntentError::new(self.document, path, given, right)
    }

    pub(super) fn invalid(&self, e: &InvalidValue) -> IntentError {
        IntentError::new(self.document, &self.path, &e.given, e.right)
    }

    pub(super) fn fields(&self, known: &[&str]) -> Result<Fields<'a>, IntentError> {
        let map = self.value.as_object().ok_or_else(|| self.wrong(format!("must be a mapping with the fields {}", known.join(", "))))?;
        let f = Fields { document: self.document, path: self.path.clone(), map };
        match map.keys().find(|k| !known.contains(&k.as_str())) {
            Some(k) => Err(IntentError::new(
                self.document,
                f.at(k, &Value::Null).path,
                k,
                format!("is not a known field; known are {}", known.join(", ")),
            )),
            None => Ok(f),
        }
    }

    pub(super) fn list<T>(&self, take: impl Fn(&At<'a>) -> Result<T, IntentError>) -> Result<Vec<T>, IntentError> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("must be a list"))?;
        items
            .iter()
            .enumerate()
            .map(|(i, value)| take(&At { document: self.document, path: format!("{}[{i}]", self.path), value }))
            .collect()
    }

    pub(super) fn text(&self) -> Result<&'a str, IntentError> {
        self.value.as_str().ok_or_else(|| self.wrong("must be text; put it in quotes"))
    }

    pub(super) fn parse<T: FromStr<Err = InvalidValue>>(&self) -> Result<T, IntentError> {
        self.text()?.parse().map_err(|e| self.invalid(&e))
    }

    pub(super) fn number<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>, right: impl Display) -> Result<T, IntentError> {
        let n = self.value.as_u64().filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
        n.ok_or_else(|| {
            let quotes = if self.value.is_string() { ", without quotes" } else { "" };
            self.wrong(format!("{right}{quotes}"))
        })
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, IntentError> {
        let found = self.value.as_str().and_then(|s| words.iter().find(|(word, _)| *word == s));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(format!("must be {}", all.join(", ")))
        })
    }
}
