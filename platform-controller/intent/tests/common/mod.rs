//! Documents that several tests start from; those of the daemon as well.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use edgeplex_intent::{Allocations, Intent, IntentError, allocate, parse, validate};

pub const PLATFORM: &str = include_str!("../data/platform.yaml");
pub const ACME: &str = include_str!("../data/acme.yaml");
/// With everything that a document can say.
pub const FULL_PLATFORM: &str = include_str!("../data/platform-full.yaml");
pub const FULL_ACME: &str = include_str!("../data/acme-full.yaml");
pub const INTERNET: &str = include_str!("../data/internet.yaml");

/// What applying `text` to `intent` makes of it, as the controller does it.
pub fn apply(intent: &Intent, text: &str) -> Result<Intent, IntentError> {
    let new = intent.apply(parse(text)?)?;
    let allocations = allocate(&new, &Allocations::new())?;
    validate(&new, &allocations)?;
    Ok(new)
}

/// `PLATFORM` and `ACME`.
pub fn both() -> String {
    format!("{PLATFORM}---\n{ACME}")
}

pub fn full() -> Intent {
    apply(&Intent::default(), &[FULL_PLATFORM, INTERNET, FULL_ACME].join("---\n")).unwrap()
}

pub fn started() -> Intent {
    apply(&Intent::default(), &both()).unwrap()
}

/// `ACME` by another name, with what attachments may not share made different by `n`.
pub fn another(name: &str, n: u16) -> String {
    ACME.replace("acme", name)
        .replace("vlan: 100", &format!("vlan: {}", 100 + n))
        .replace("65000:1001", &format!("65000:{}", 1001 + n))
        .replace("label: 1000", &format!("label: {}", 1000 + n))
}

/// Each row: what is replaced in `text`, by what, and a part of what is said of it then.
pub fn refusals(before: &Intent, text: &str, rows: &[(&str, &str, String)]) {
    apply(before, text).expect("the text that the mistakes are made in is right itself");
    for (from, to, says) in rows {
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text, "{from} is not in the text");
        match apply(before, &wrong) {
            Err(e) => assert!(e.to_string().contains(says), "{from} -> {to}\n  says:   {e}\n  wanted: {says}"),
            Ok(_) => panic!("{from} -> {to} was accepted"),
        }
    }
}
