//! Binds and links Debian's DPDK (package libdpdk-dev, 22.11): a C shim for its static inlines, bindings for
//! the few functions in use, and a static link of only the drivers in use. A dynamic link would load every
//! driver that Debian ships: three times the memory, and twice the time to start.

use std::{env, path::PathBuf, process::Command};

/// Drivers register themselves in constructors, which the linker keeps only from whole archives.
const DRIVERS: [&str; 3] = ["rte_bus_vdev", "rte_mempool_ring", "rte_net_af_packet"];
/// Users before what they use.
const LIBRARIES: [&str; 10] =
    ["rte_ethdev", "rte_meter", "rte_net", "rte_mbuf", "rte_mempool", "rte_ring", "rte_eal", "rte_telemetry", "rte_kvargs", "numa"];

fn pkg_config(args: &[&str]) -> Vec<String> {
    let hint = "install Debian's libdpdk-dev and pkg-config, or run lab/setup";
    let out = Command::new("pkg-config").args(args).arg("libdpdk").output().unwrap_or_else(|e| panic!("pkg-config: {e}; {hint}"));
    assert!(out.status.success(), "{}{hint}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).split_whitespace().map(String::from).collect()
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    // Include paths, `-include rte_config.h`, and the -march that the headers need and the library was built for.
    // What pkg-config adds for other packages in the same line belongs to the linker.
    let cflags: Vec<String> =
        pkg_config(&["--cflags-only-I", "--cflags-only-other"]).into_iter().filter(|f| !f.starts_with("-Wl,")).collect();

    let mut shim = cc::Build::new();
    shim.file("shim/shim.c").opt_level(3).flag("-Wno-deprecated-declarations");
    for f in &cflags {
        shim.flag(f);
    }
    shim.compile("edgeplex_dpdk_shim");

    let out = PathBuf::from(env::var("OUT_DIR").unwrap_or_else(|e| panic!("OUT_DIR: {e}"))).join("dpdk.rs");
    bindgen::Builder::default()
        .header("shim/wrapper.h")
        .clang_args(&cflags)
        .allowlist_function("rte_eal_init|rte_eth_dev_(configure|start|set_mtu|get_port_by_name)|rte_eth_[rt]x_queue_setup")
        .allowlist_function("rte_eth_(promiscuous_enable|stats_get)|rte_pktmbuf_pool_create_by_ops|rte_strerror|ff_.*")
        .allowlist_type("rte_mbuf|rte_eth_conf|rte_eth_stats")
        .allowlist_var("RTE_PKTMBUF_HEADROOM|RTE_ETHER_HDR_LEN")
        .opaque_type("rte_eth_rxconf|rte_eth_txconf|rte_mempool")
        .derive_debug(false)
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate()
        .unwrap_or_else(|e| panic!("bindgen: {e}"))
        .write_to_file(&out)
        .unwrap_or_else(|e| panic!("{}: {e}", out.display()));

    for dir in pkg_config(&["--variable=libdir"]) {
        println!("cargo:rustc-link-search=native={dir}");
    }
    // As link-lib, not link-arg: so they reach every binary that depends on this crate.
    for lib in DRIVERS {
        println!("cargo:rustc-link-lib=static:+whole-archive,-bundle={lib}");
    }
    for lib in LIBRARIES {
        println!("cargo:rustc-link-lib=static:-bundle={lib}");
    }
    for lib in ["m", "dl", "pthread"] {
        println!("cargo:rustc-link-lib=dylib={lib}");
    }
}
