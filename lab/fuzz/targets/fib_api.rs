//! The control socket of FastForward: a stream of framed requests.
#![no_main]
use edgeplex_ff_fib_api::{Reply, Request, VERSION};
use edgeplex_types::wire::{Deframer, decode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut stream = Deframer::default();
    stream.push(bytes);
    while let Ok(Some(request)) = stream.next::<Request>(VERSION) {
        let _ = request.check();
    }
    let _ = decode::<Reply>(VERSION, bytes);
});
