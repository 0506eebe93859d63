//! Configuration files and management queries.
#![no_main]
use edgeplex_mgmt::{
    config::{CvmConfig, PvmConfig},
    show::{CvmQuery, PvmQuery},
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<CvmQuery>(bytes);
    let _ = serde_json::from_slice::<PvmQuery>(bytes);
    if let Ok(config) = serde_json::from_slice::<CvmConfig>(bytes) {
        let text = serde_json::to_vec(&config).expect("a configuration can be written");
        assert_eq!(serde_json::from_slice::<CvmConfig>(&text).expect("and read again"), config);
    }
    if let Ok(config) = serde_json::from_slice::<PvmConfig>(bytes) {
        let text = serde_json::to_vec(&config).expect("a configuration can be written");
        assert_eq!(serde_json::from_slice::<PvmConfig>(&text).expect("and read again"), config);
    }
});
