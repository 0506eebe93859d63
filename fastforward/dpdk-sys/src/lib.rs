//! The only FFI: bindings to Debian's DPDK
