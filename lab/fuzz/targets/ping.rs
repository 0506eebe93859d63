//! What a customer's host or a router in between may answer to a ping or traceroute out of a VRF.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for ipv4 in [true, false] {
        let _ = edgeplex_pvm_ping::decode(ipv4, bytes);
    }
});
