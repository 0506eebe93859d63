//! What a NOC may write, and what is made of it.
#![no_main]
use edgeplex_intent::{Allocations, Intent, allocate, parse, validate};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(documents) = parse(text) else { return };
    for document in &documents {
        // JSON is YAML: what was read can be written, and read again.
        let again = parse(&document.to_value().to_string()).expect("what was read can be written and read again");
        assert_eq!(again, std::slice::from_ref(document));
    }
    let Ok(intent) = Intent::default().apply(documents) else { return };
    if let Ok(allocations) = allocate(&intent, &Allocations::default()) {
        let _ = validate(&intent, &allocations);
    }
});
