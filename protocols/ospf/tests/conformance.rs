//! Conformance steps: see `tests/conformance/*.steps`, and `steps/mod.rs` for their words.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod steps;

#[test]
fn conformance() {
    edgeplex_conformance::run(std::path::Path::new("tests/conformance"), steps::Bench::default);
}
