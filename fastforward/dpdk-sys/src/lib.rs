//! The only FFI: raw bindings to the few functions of Debian's DPDK 22.11 that FastForward uses, and to a C shim
//! for those that exist only as static inlines. Nothing here is safe; `edgeplex-ff-phy` makes it so.
#![allow(unsafe_code, unreachable_pub, missing_debug_implementations)]
#![allow(non_camel_case_types, non_upper_case_globals, non_snake_case, dead_code, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/dpdk.rs"));
