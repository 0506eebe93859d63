//! The JSON forms that stand in files and on sockets.

use edgeplex_mgmt::{Answer, config::PvmConfig, show::*};

#[test]
fn queries_look_like_this() {
    assert_eq!(serde_json::to_string(&PvmQuery::Bgp).unwrap(), r#"{"query":"bgp"}"#);
    assert_eq!(serde_json::from_str::<CvmQuery>(r#"{"query":"fabric","seen":3}"#).unwrap(), CvmQuery::Fabric { seen: 3 });
    assert!(serde_json::from_str::<CvmQuery>(r#"{"query":"fabric","seen":3,"x":1}"#).is_err());
    assert!(serde_json::from_str::<PvmQuery>(r#"{"query":"format-disk"}"#).is_err());
    assert_eq!(serde_json::to_string(&Answer::Ok(1)).unwrap(), r#"{"ok":1}"#);
    assert_eq!(serde_json::to_string(&Answer::<u8>::Error("no".into())).unwrap(), r#"{"error":"no"}"#);
}

/// A configuration file written by version 1.
#[test]
fn a_pvm_configuration_of_version_1() {
    let text = r#"{"version":1,"attachment":"acme/denver-1","asn":65000,"router_id":"10.255.0.1","mac":"02:00:00:00:00:01",
        "addresses":["192.168.1.1/30","2001:db8:1::1/64"],"max_paths":1,
        "customer_mtu":1500,"core_mtu":1600,"bgp":[{"neighbor":"192.168.1.2","remote_as":65101,"hold_time_s":90,
            "max_prefix":{"limit":1000,"warn_percent":80,"restart_s":60},
            "import":[{"match":{"prefixes":[{"prefix":"10.0.0.0/8","le":24}],"communities":["65000:1"]},"set":{"local_pref":200},"action":"accept"}]}],
        "static_routes":[{"prefix":"10.9.0.0/16","via":"192.168.1.2"}],
        "relay":{"endpoint":"ipc:///run/relay/relay.sock","server_key":"s","public_key":"p","secret_key":"x"}}"#;
    let config: PvmConfig = serde_json::from_str(text).unwrap();
    assert_eq!(config.attachment.customer.as_str(), "acme");
    let bgp = &config.bgp[0];
    assert_eq!(bgp.max_prefix.map(|m| (m.limit, m.warning_only)), Some((1000, false)));
    assert_eq!((bgp.import[0].r#match.prefixes[0].le, bgp.import[0].set.local_pref), (Some(24), Some(200)));
    let again: PvmConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    let error = serde_json::from_str::<PvmConfig>(&text.replace("acme/denver-1", "../etc")).unwrap_err();
    assert!(error.to_string().contains("must be 1 to 32 characters"), "{error}");
}
