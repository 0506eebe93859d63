//! Holds the architecture: who may depend on whom, which crates stay free of I/O, and where `unsafe` may stand.
//!
//! ```text
//! lab → everything;  cli → api;  daemons → drivers → pure logic → codecs → types
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Every crate with the crates of ours that it may use. What is absent from the list fails the test.
const ARROWS: &[(&str, &[&str])] = &[
    ("edgeplex-types", &[]),
    // codecs
    ("edgeplex-bgp-wire", &["edgeplex-types"]),
    ("edgeplex-relay", &["edgeplex-types"]),
    ("edgeplex-mgmt", &["edgeplex-types"]),
    ("edgeplex-ff-fib-api", &["edgeplex-types"]),
    ("edgeplex-ff-packet", &["edgeplex-types"]),
    ("edgeplex-pvm-ping", &["edgeplex-types"]),
    // pure logic
    // tests of engines only
    ("edgeplex-conformance", &[]),
    ("edgeplex-ospf", &["edgeplex-types"]),
    ("edgeplex-ldp", &["edgeplex-types"]),
    ("edgeplex-bfd", &["edgeplex-types"]),
    ("edgeplex-lsp-ping", &["edgeplex-types"]),
    // shortens the streams of sessions
    ("edgeplex-journal", &["edgeplex-types", "edgeplex-bgp-wire", "edgeplex-ldp"]),
    ("edgeplex-cvm-core", &["edgeplex-types", "edgeplex-ospf", "edgeplex-ldp", "edgeplex-relay", "edgeplex-ff-fib-api"]),
    ("edgeplex-pvm-policy", &["edgeplex-types", "edgeplex-mgmt", "edgeplex-bgp-wire"]),
    ("edgeplex-bgp", &["edgeplex-types", "edgeplex-bgp-wire"]),
    ("edgeplex-cvm-vpn", &["edgeplex-types", "edgeplex-bgp-wire", "edgeplex-bgp", "edgeplex-relay"]),
    (
        "edgeplex-pvm-vrf",
        &["edgeplex-types", "edgeplex-bgp-wire", "edgeplex-bgp", "edgeplex-relay", "edgeplex-ff-fib-api", "edgeplex-pvm-policy"],
    ),
    ("edgeplex-ff-fib", &["edgeplex-types", "edgeplex-ff-fib-api"]),
    ("edgeplex-intent", &["edgeplex-types", "edgeplex-mgmt"]),
    ("edgeplex-recipes", &["edgeplex-types"]),
    // drivers
    (
        "edgeplex-transport",
        &[
            "edgeplex-types",
            "edgeplex-bfd",
            "edgeplex-ospf",
            "edgeplex-ldp",
            "edgeplex-lsp-ping",
            "edgeplex-journal",
            "edgeplex-bgp-wire",
            "edgeplex-bgp",
            "edgeplex-relay",
            "edgeplex-mgmt",
        ],
    ),
    ("edgeplex-ff-dpdk-sys", &[]),
    ("edgeplex-ff-phy", &["edgeplex-types", "edgeplex-ff-dpdk-sys"]),
    ("edgeplex-ff-fib-client", &["edgeplex-types", "edgeplex-ff-fib-api", "edgeplex-transport"]),
    ("edgeplex-store", &["edgeplex-types"]),
    ("edgeplex-switch", &["edgeplex-types"]),
    ("edgeplex-runtime", &["edgeplex-types", "edgeplex-recipes"]),
    // a runtime whose VMs are on another host, and the process there
    ("edgeplex-agent", &["edgeplex-types", "edgeplex-runtime", "edgeplex-switch"]),
    ("edgeplex-api", &["edgeplex-types", "edgeplex-intent", "edgeplex-mgmt", "edgeplex-ff-fib-api"]),
    // processes
    (
        "edgeplex-cvmd",
        &[
            "edgeplex-types",
            "edgeplex-bgp-wire",
            "edgeplex-bgp",
            "edgeplex-relay",
            "edgeplex-mgmt",
            "edgeplex-journal",
            "edgeplex-transport",
            "edgeplex-ospf",
            "edgeplex-ldp",
            "edgeplex-bfd",
            "edgeplex-cvm-core",
            "edgeplex-cvm-vpn",
            "edgeplex-ff-fib-api",
            "edgeplex-ff-fib-client",
        ],
    ),
    (
        "edgeplex-pvmd",
        &[
            "edgeplex-types",
            "edgeplex-bgp-wire",
            "edgeplex-bgp",
            "edgeplex-relay",
            "edgeplex-mgmt",
            "edgeplex-journal",
            "edgeplex-transport",
            "edgeplex-pvm-ping",
            "edgeplex-pvm-policy",
            "edgeplex-pvm-vrf",
            "edgeplex-ff-fib-api",
            "edgeplex-ff-fib-client",
        ],
    ),
    ("edgeplex-forwarder", &["edgeplex-types", "edgeplex-ff-packet", "edgeplex-ff-fib-api", "edgeplex-ff-fib", "edgeplex-ff-phy"]),
    (
        "edgeplexd",
        &[
            "edgeplex-types",
            "edgeplex-intent",
            "edgeplex-api",
            "edgeplex-store",
            "edgeplex-switch",
            "edgeplex-runtime",
            "edgeplex-agent",
            "edgeplex-mgmt",
            "edgeplex-journal",
            "edgeplex-transport",
            "edgeplex-ff-fib-api",
        ],
    ),
    ("edgeplex-cli", &["edgeplex-types", "edgeplex-intent", "edgeplex-api", "edgeplex-mgmt", "edgeplex-ff-fib-api"]),
    ("edgeplex-init", &["edgeplex-types", "edgeplex-recipes"]),
];

/// Codecs and pure logic: functions of their arguments.
const PURE: &[&str] = &[
    "edgeplex-types",
    "edgeplex-bgp-wire",
    "edgeplex-relay",
    "edgeplex-mgmt",
    "edgeplex-ff-fib-api",
    "edgeplex-ff-packet",
    "edgeplex-bgp",
    "edgeplex-ospf",
    "edgeplex-ldp",
    "edgeplex-bfd",
    "edgeplex-lsp-ping",
    "edgeplex-journal",
    "edgeplex-cvm-core",
    "edgeplex-pvm-ping",
    "edgeplex-pvm-policy",
    "edgeplex-cvm-vpn",
    "edgeplex-pvm-vrf",
    "edgeplex-ff-fib",
    "edgeplex-intent",
];

/// What would let pure logic touch the world.
const WORLD: &[&str] = &["tokio", "zmq", "nix", "libc", "socket2", "rtnetlink", "redb", "hyper", "axum", "tracing", "futures"];

/// Folders and files in which `unsafe` is allowed.
const UNSAFE: &[&str] = &[
    "fastforward/dpdk-sys/",
    "fastforward/phy/",
    // tokio's AsyncFd over ZeroMQ's descriptor, and prctl(PR_CAPBSET_DROP): neither has a safe wrapper.
    "protocols/transport/src/relay/socket.rs",
    "vm-templates/init/src/caps.rs",
];
/// Socket-option and ioctl helpers elsewhere carry this name.
const UNSAFE_FILE: &str = "sockopt.rs";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Name, and the names of its normal and build dependencies, of each crate of the workspace.
fn workspace() -> BTreeMap<String, Vec<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|p| {
            let deps = p["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"] != "dev").map(|d| text(&d["name"])).collect();
            (text(&p["name"]), deps)
        })
        .collect()
}

#[test]
fn dependencies_point_downward_only() {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let crates = workspace();
    let mut wrong = vec![];
    for (name, deps) in crates.iter().filter(|(n, _)| *n != "edgeplex-lab") {
        let Some(may) = allowed.get(name.as_str()) else {
            wrong.push(format!("{name} is not in the list of arrows"));
            continue;
        };
        let ours = deps.iter().filter(|d| crates.contains_key(*d));
        wrong.extend(ours.filter(|d| !may.contains(&d.as_str())).map(|d| format!("{name} must not use {d}")));
    }
    wrong.extend(allowed.keys().filter(|n| !crates.contains_key(**n)).map(|n| format!("{n} is in the list but not in the workspace")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_logic_names_no_socket_no_runtime_no_clock() {
    let crates = workspace();
    let mut wrong = vec![];
    for name in PURE {
        wrong.extend(crates[*name].iter().filter(|d| WORLD.contains(&d.as_str())).map(|d| format!("{name} uses {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn unsafe_stands_only_where_it_may_and_says_why() {
    let mut files = vec![];
    rust_files(&root(), &mut files);
    let mut wrong = vec![];
    for path in files {
        let relative = path.strip_prefix(root()).unwrap().display().to_string();
        if relative == "lab/runner/tests/arrows.rs" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let allowed = UNSAFE.iter().any(|p| relative.starts_with(p)) || relative.ends_with(UNSAFE_FILE);
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            let used = code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn");
            if used && !allowed {
                wrong.push(format!("{relative}:{}: unsafe is not allowed here", i + 1));
            }
            let explained = lines[i.saturating_sub(8)..=i].iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety"));
            if used && !explained {
                wrong.push(format!("{relative}:{}: unsafe without a SAFETY comment", i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Clocks are read by daemons; engines get `now` as an argument.
#[test]
fn pure_logic_reads_no_clock() {
    let mut wrong = vec![];
    for dir in [
        "protocols/bgp-wire",
        "protocols/bgp",
        "protocols/ospf",
        "protocols/ldp",
        "protocols/bfd",
        "protocols/lsp-ping",
        "protocols/relay",
        "cvm/core",
        "cvm/vpn",
        "pvm/ping",
        "pvm/policy",
        "pvm/vrf",
        "fastforward/fib",
        "fastforward/packet",
        "platform-controller/intent",
    ] {
        let mut files = vec![];
        rust_files(&root().join(dir).join("src"), &mut files);
        for path in files {
            let text = std::fs::read_to_string(&path).unwrap();
            let body = text.split("#[cfg(test)]").next().unwrap();
            // A file of tests, or one in a folder of them.
            let is_test = path.strip_prefix(root()).unwrap().to_string_lossy().contains("test");
            if !is_test && (body.contains("Instant::now()") || body.contains("SystemTime::now()")) {
                wrong.push(path.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "these read a clock: {}", wrong.join(", "));
}
