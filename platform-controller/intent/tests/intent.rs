//! What an operator gets to read for each kind of mistake, and that nothing is taken then.

use edgeplex_intent::*;
use std::collections::BTreeMap;

const PLATFORM: &str = "
apiVersion: edgeplex/v1
kind: Platform
metadata: {name: denver}
spec:
  asn: 65000
  loopback: 10.255.0.1
  core: [{port: eth1, address: 10.0.0.1/24, mtu: 1600}]
  coreRoutes: [{prefix: 10.255.0.9/32, via: 10.0.0.9}]
  routeReflectors: [{address: 10.255.0.9}]
  access: [eth2]
  labels: {first: 1000, last: 1999}
";

const ACME: &str = "
apiVersion: edgeplex/v1
kind: Customer
metadata: {name: acme}
spec:
  vpn: {import: ['65000:100'], export: ['65000:100']}
  attachments:
    - name: denver-1
      port: eth2
      vlan: 100
      address: 192.168.1.1/30
      rd: '65000:1001'
      label: 1000
      bgp: {neighbor: 192.168.1.2, remoteAs: 65101, maxPrefix: 1000}
      static: [{prefix: 10.9.0.0/16, via: 192.168.1.2}]
";

fn started() -> Intent {
    Intent::default().apply(parse(&format!("{PLATFORM}---\n{ACME}")).unwrap()).unwrap().0
}

fn refusal(text: &str) -> String {
    match parse(text) {
        Err(e) => e.to_string(),
        Ok(documents) => started().apply(documents).unwrap_err().to_string(),
    }
}

#[test]
fn each_mistake_names_its_field_and_what_would_be_right() {
    let other = ACME.replace("name: acme", "name: beta").replace("vlan: 100", "vlan: 200").replace("label: 1000", "label: 1001");
    let other = other.replace("65000:1001", "65000:2001");
    assert!(started().apply(parse(&other).unwrap()).is_ok(), "the text that the mistakes are made in is right itself");
    for (from, to, says) in [
        ("vlan: 200", "vlan: 100", "Customer beta: spec.attachments[0].vlan: VLAN 100 on port eth2 belongs to acme/denver-1 already"),
        ("vlan: 200", "vlan: 4095", "Customer beta: spec.attachments[0].vlan: VLAN `4095`: must be 1 to 4094"),
        ("vlan: 200", "vlan: 70000", "Customer beta: spec.attachments[0].vlan: VLAN `70000`: must be 1 to 4094"),
        ("65000:2001", "65000:1001", "Customer beta: spec.attachments[0].rd: `65000:1001`: is the RD of acme/denver-1 already"),
        ("65000:2001", "65000", "Customer beta: spec.attachments[0].rd: route distinguisher `65000`: must look like"),
        ("65000:2001", "10.255.0.1:7", "spec.attachments[0].rd: `10.255.0.1:7`: RDs of the form 10.255.0.1:n are given by the platform"),
        (
            "10.9.0.0/16",
            "10.9.1.0/16",
            "spec.attachments[0].static[0].prefix: prefix `10.9.1.0/16`: has host bits set; 10.9.0.0/16 would be right",
        ),
        ("label: 1001", "label: 15", "spec.attachments[0].label: `15`: must be within the platform's labels, 1000 to 1999"),
        ("label: 1001", "label: 2000", "spec.attachments[0].label: `2000`: must be within the platform's labels, 1000 to 1999"),
        ("label: 1001", "label: 1048576", "spec.attachments[0].label: label `1048576`: must be 0 to 1048575"),
        ("label: 1001", "label: 1000", "spec.attachments[0].label: `1000`: is the label of acme/denver-1 already"),
        ("port: eth2", "port: eth9", "spec.attachments[0].port: `eth9`: must be one of the platform's access ports: eth2"),
        (
            "neighbor: 192.168.1.2",
            "neighbor: 192.168.9.2",
            "bgp.neighbor: `192.168.9.2`: must be in the attachment's subnet 192.168.1.0/30",
        ),
        ("neighbor: 192.168.1.2", "neighbor: 192.168.1.1", "bgp.neighbor: `192.168.1.1`: is the PE's own address"),
        (
            "address: 192.168.1.1/30",
            "address: 192.168.1.0/30",
            "spec.attachments[0].address: `192.168.1.0/30`: is the network or broadcast",
        ),
        ("remoteAs: 65101", "remoteAs: 0", "bgp.remoteAs: `0`: must be 1 to 4294967294"),
        ("remoteAs: 65101", "remoteAs: 65101, holdTime: 2", "bgp.holdTime: `2`: must be 0, or at least 3 seconds"),
        ("remoteAs: 65101", "remoteAS: 65101", "spec.attachments[0].bgp.remoteAS: unknown field `remoteAS`"),
        ("edgeplex/v1", "edgeplex/v2", "Customer beta: apiVersion: unknown variant `edgeplex/v2`, expected `edgeplex/v1`"),
        ("kind: Customer", "kind: Client", "kind: `Client`: must be Platform or Customer"),
        ("name: beta", "name: Beta!", "metadata.name: name `Beta!`: must be 1 to 32 characters"),
        ("port: eth2", "port: eth2\n      port: eth2", "duplicate"),
        ("spec:", "spec: [", "line"),
    ] {
        let text = other.replacen(from, to, 1);
        assert_ne!(text, other, "{from} is not in the text");
        let said = refusal(&text);
        assert!(said.contains(says), "{from} -> {to}\n  says:   {said}\n  wanted: {says}");
    }
}

#[test]
fn the_platform_is_held_to_its_own_rules() {
    for (from, to, says) in [
        ("asn: 65000", "asn: 23456", "Platform denver: spec.asn: `23456`"),
        ("via: 10.0.0.9", "via: 10.7.0.9", "spec.coreRoutes[0].via: `10.7.0.9`: must be in the subnet of a core port"),
        ("access: [eth2]", "access: [eth1]", "spec.access[0]: `eth1`: is a core port"),
        ("first: 1000", "first: 3", "spec.labels: label range `3-1999`: must start at 16 or above"),
        ("first: 1000", "first: 2000", "spec.labels: label range `2000-1999`"),
        ("mtu: 1600", "mtu: 100", "spec.core[0].mtu: `100`: must be 576 to 9216"),
        ("name: denver", "name: golden", "metadata.name: this platform is called `denver`"),
    ] {
        let said = refusal(&PLATFORM.replacen(from, to, 1));
        assert!(said.contains(says), "{from} -> {to}: {said}");
    }
}

#[test]
fn one_bad_document_keeps_the_good_ones_out() {
    let good = ACME
        .replace("acme", "gamma")
        .replace("vlan: 100", "vlan: 300")
        .replace("65000:1001", "65000:3")
        .replace("label: 1000", "label: 1003");
    let bad = good.replace("gamma", "delta");
    let before = started();
    let error = before.apply(parse(&format!("{good}---\n{bad}")).unwrap()).unwrap_err();
    assert!(error.to_string().contains("belongs to delta/denver-1 already"), "{error}");
    assert_eq!(before, started());
}

#[test]
fn applying_the_same_again_changes_nothing_and_a_change_is_told_by_field() {
    let intent = started();
    assert_eq!(intent.apply(intent.documents()).unwrap().1, vec![]);
    let (next, changes) = intent.apply(parse(&ACME.replace("maxPrefix: 1000", "maxPrefix: 50, password: secret")).unwrap()).unwrap();
    assert_eq!(changes.len(), 1);
    let told: Vec<String> = changes[0].fields.iter().map(|f| format!("{} {:?} {:?}", f.field, f.old, f.new)).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("spec.attachments[denver-1].bgp.maxPrefix Some(Number(1000)) Some(Number(50))"), "{told:?}");
    assert!(told[1].contains("***") && !told[1].contains("secret"), "{told:?}");
    let (_, changes) = next.without(&["acme".parse().unwrap()]).unwrap();
    assert_eq!(changes[0].action, Action::Delete);
    assert!(next.without(&["nobody".parse().unwrap()]).unwrap_err().to_string().contains("there are: acme"));
}

#[test]
fn yaml_written_is_yaml_read() {
    let documents = started().documents();
    assert_eq!(parse(&to_yaml(&documents).unwrap()).unwrap(), documents);
}

#[test]
fn a_default_rd_stays_with_its_attachment() {
    let add = |i: &Intent, name: &str, vlan: u16| {
        let text = ACME.replace("acme", name).replace("vlan: 100", &format!("vlan: {vlan}")).replace("      rd: '65000:1001'\n", "");
        i.apply(parse(&text.replace("      label: 1000\n", "")).unwrap()).unwrap().0
    };
    let two = add(&add(&started(), "xeno", 301), "yeti", 302);
    let first = Allocations::default().renew(&two).unwrap();
    let one = two.without(&["acme".parse().unwrap(), "xeno".parse().unwrap()]).unwrap().0;
    let again = add(&one, "abba", 303);
    let second = first.renew(&again).unwrap();
    let yeti = "yeti/denver-1".parse().unwrap();
    assert_eq!(first.rd[&yeti], second.rd[&yeti]);
    assert_ne!(second.rd[&"abba/denver-1".parse().unwrap()], second.rd[&yeti]);
}

#[test]
fn configurations_follow_from_the_intent() {
    let intent = started();
    let allocations = Allocations::default().renew(&intent).unwrap();
    let key = KeyPair { public: "P".into(), secret: "S".into() };
    let keys = BTreeMap::from([("acme/denver-1".parse().unwrap(), key.clone())]);
    let cvm = cvm_config(&intent, &allocations, "C", &keys).unwrap();
    assert_eq!(cvm.attachments[0].rd.to_string(), "65000:1001");
    assert_eq!(cvm.core[0].name, "core0");
    let (name, platform) = intent.platform.as_ref().unwrap();
    let (id, _, a) = attachments(&intent).next().unwrap();
    let pvm = pvm_config(name, platform, &id, a, "CP", &key);
    assert_eq!((pvm.core_mtu, pvm.relay.server_key.as_str(), pvm.relay.secret_key.as_str()), (1600, "CP", "S"));
    assert!(pvm.mac.is_unicast() && pvm.mac != cvm.core[0].mac);
    assert!(!format!("{key:?}").contains('S'), "a secret is not for logs");
}
