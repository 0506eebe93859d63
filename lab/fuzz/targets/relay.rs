//! What a hostile PVM may send to the CVM, and the other way round.
#![no_main]
use edgeplex_relay::{ToCvm, ToPvm, decode, encode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(m) = decode::<ToCvm>(bytes) {
        assert_eq!(decode::<ToCvm>(&encode(&m).expect("what was accepted can be said")).expect("and is accepted again"), m);
    }
    if let Ok(m) = decode::<ToPvm>(bytes) {
        assert_eq!(decode::<ToPvm>(&encode(&m).expect("what was accepted can be said")).expect("and is accepted again"), m);
    }
});
