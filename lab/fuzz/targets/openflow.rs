//! What the switch may send.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edgeplex_switch::fuzz_openflow(bytes));
