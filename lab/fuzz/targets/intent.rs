//! What a NOC may write, and what is made of it.
#![no_main]
use edgeplex_intent::{Allocations, Intent, Keys, allocate, cvm_config, parse, pvm_config, validate};
use edgeplex_mgmt::config::Instance;
use std::collections::BTreeMap;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(documents) = parse(text) else { return };
    for document in &documents {
        // JSON is YAML: what was read can be written, and read again.
        let again = parse(&document.to_value().to_string()).expect("what was read can be written and read again");
        assert_eq!(again, std::slice::from_ref(document));
    }
    let Ok(intent) = Intent::default().apply(documents) else { return };
    let Ok(allocations) = allocate(&intent, &Allocations::default()) else { return };
    if validate(&intent, &allocations).is_err() {
        return;
    }
    // What is valid can be given to the VMs.
    let Some(platform) = &intent.platform else { return };
    let key = Keys { public: String::new(), secret: String::new() };
    let keys: BTreeMap<_, _> = intent.attachments().map(|(id, _, _)| (id, key.clone())).collect();
    let cvm = cvm_config(&intent, platform, &allocations, &key, &keys, Instance::default());
    assert_eq!(cvm.attachments.len(), keys.len());
    for (id, c, a) in intent.attachments() {
        let pvm = pvm_config(platform, c, &id, a, "", &key, Instance::default());
        assert!(!pvm.addresses.is_empty() && (1..=16).contains(&pvm.max_paths));
    }
});
