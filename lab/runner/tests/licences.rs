//! Every crate that is linked into what we ship must have a licence that lets us: permissive ones only.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use serde_json::Value;
use std::{path::Path, process::Command};

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Evaluates an SPDX expression; `/` is the old way of writing OR.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let words: Vec<String> = expression.replace('(', " ( ").replace(')', " ) ").split_whitespace().map(str::to_owned).collect();
    let mut at = 0;
    let result = any(&words, &mut at);
    result && at == words.len()
}

fn any(words: &[String], at: &mut usize) -> bool {
    let mut result = all(words, at);
    while words.get(*at).is_some_and(|w| w == "OR") {
        *at += 1;
        // Not `||`: the right side must be read past in any case.
        result |= all(words, at);
    }
    result
}

fn all(words: &[String], at: &mut usize) -> bool {
    let mut result = one(words, at);
    while words.get(*at).is_some_and(|w| w == "AND") {
        *at += 1;
        result &= one(words, at);
    }
    result
}

fn one(words: &[String], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let result = any(words, at);
        *at += 1;
        return result;
    }
    let mut name = word.clone();
    if words.get(*at).is_some_and(|w| w == "WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).map(String::as_str).unwrap_or_default());
        *at += 2;
    }
    ALLOWED.contains(&name.as_str())
}

#[test]
fn expressions_are_understood() {
    for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"] {
        assert!(allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND LGPL-2.1", "Apache-2.0 WITH something"] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn every_dependency_may_be_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = Command::new(env!("CARGO")).args(["metadata", "--locked", "--format-version", "1"]).current_dir(root).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "only {} packages", packages.len());
    let wrong: Vec<String> = packages
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(allowed))
        .map(|p| format!("{} {}: {}", p["name"], p["version"], p["license"]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
