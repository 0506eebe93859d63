//! What anybody may put into a labelled packet to a core port, or send to 127.0.0.1 through it.
#![no_main]
use edgeplex_lsp_ping::{Known, Message, frame, respond};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let received = frame::parse(bytes);
    let labels = received.as_ref().map(|r| r.labels.clone()).unwrap_or_default();
    // Checksums keep a fuzzer out: the payload is tried by itself, too.
    for payload in [received.map(|r| r.payload), Some(bytes)].into_iter().flatten() {
        if let Ok(message) = Message::decode(payload) {
            assert_eq!(Message::decode(&message.encode()), Ok(message.clone()));
            if let Some(reply) = respond(&message, &labels, &Known::default(), ([10, 0, 0, 1].into(), 1), 0) {
                assert_eq!(Message::decode(&reply.encode()), Ok(reply), "what we answer can be read");
            }
        }
    }
});
