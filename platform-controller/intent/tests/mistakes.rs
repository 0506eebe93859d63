//! What an operator gets to read for each kind of mistake.

#![allow(clippy::unwrap_used)]

mod common;

use common::{ACME, PLATFORM, another, apply, refusals, started};
use edgeplex_intent::{Intent, MAX_TEXT, parse};

#[test]
fn customers() {
    let beta = another("beta", 1);
    let a = "Customer beta: spec.attachments[0]";
    refusals(
        &started(),
        &beta,
        &[
            (
                "vlan: 101",
                "vlan: 100",
                format!("{a}.vlan: `100`: is already used on port eth2 by acme/denver-1; choose another VLAN or port"),
            ),
            ("vlan: 101", "vlan: 4095", format!("{a}.vlan: `4095`: must be 1 to 4094")),
            ("vlan: 101", "vlan: 70000", format!("{a}.vlan: `70000`: must be 1 to 4094")),
            ("vlan: 101", "vlan: -1", format!("{a}.vlan: `-1`: must be 1 to 4094")),
            ("vlan: 101", "vlan: '101'", format!("{a}.vlan: `101`: must be 1 to 4094, without quotes")),
            (
                "vlan: 101",
                "mtu: 1500",
                format!(
                    "{a}.vlan: `(untagged)`: port eth2 is already used tagged by acme/denver-1; give every attachment of the port a VLAN"
                ),
            ),
            (
                "65000:1002",
                "65000:1001",
                format!("{a}.rd: `65000:1001`: is already the RD of acme/denver-1; each attachment needs its own"),
            ),
            ("65000:1002", "65000", format!("{a}.rd: `65000`: must look like 65000:100,")),
            ("'65000:1002'", "65000", format!("{a}.rd: `65000`: must be text; put it in quotes")),
            ("['65000:100']", "['65000:100', '65000:100']", "Customer beta: spec.vpn.import[1]: `65000:100`: is given twice".into()),
            ("10.9.0.0/16", "10.9.1.0/16", format!("{a}.static[0].prefix: `10.9.1.0/16`: has host bits set; must be 10.9.0.0/16")),
            ("10.9.0.0/16", "10.9.0.0", format!("{a}.static[0].prefix: `10.9.0.0`: must be a prefix such as 10.9.0.0/16 or")),
            ("via: 192.168.1.2", "via: 192.168.1.1", format!("{a}.static[0].via: `192.168.1.1`: is the PE's own address")),
            (
                "via: 192.168.1.2",
                "via: 10.1.1.1",
                format!("{a}.static[0].via: `10.1.1.1`: must be a host address in the attachment's subnet 192.168.1.0/30"),
            ),
            ("label: 1001", "label: 15", format!("{a}.label: `15`: must be 16 to 1048575 (0 to 15 are reserved)")),
            ("label: 1001", "label: 1048576", format!("{a}.label: `1048576`: must be 16 to 1048575")),
            ("label: 1001", "label: 2000", format!("{a}.label: `2000`: must be in the platform's label range, 1000 to 1999")),
            (
                "label: 1001",
                "label: 1000",
                format!("{a}.label: `1000`: is already the label of acme/denver-1; each attachment needs its own"),
            ),
            ("port: eth2", "port: eth9", format!("{a}.port: `eth9`: is not an access port of Platform denver; must be one of eth2, eth3")),
            ("port: eth2", "port: ../eth2", format!("{a}.port: `../eth2`: must be an interface name")),
            (
                "neighbor: 192.168.1.2",
                "neighbor: 192.168.9.2",
                format!("{a}.bgp.neighbor: `192.168.9.2`: must be a host address in the attachment's subnet 192.168.1.0/30"),
            ),
            (
                "neighbor: 192.168.1.2",
                "neighbor: 192.168.1.1",
                format!("{a}.bgp.neighbor: `192.168.1.1`: is the PE's own address; must be the customer's"),
            ),
            (
                "address: 192.168.1.1/30",
                "address: 192.168.1.0/30",
                format!("{a}.address: `192.168.1.0/30`: must be an address that a host can have in 192.168.1.0/30, such as 192.168.1.1/30"),
            ),
            (
                "address: 192.168.1.1/30",
                "address: 192.168.1.1/32",
                format!("{a}.address: `192.168.1.1/32`: must have a prefix length of 1 to 31"),
            ),
            (
                "address: 192.168.1.1/30",
                "address: 192.168.1.1",
                format!("{a}.address: `192.168.1.1`: must be an address with its prefix length"),
            ),
            ("remoteAs: 65101", "remoteAs: 0", format!("{a}.bgp.remoteAs: `0`: must be an AS number, 1 to 4294967294")),
            ("remoteAs: 65101", "remoteAs: 4294967295", format!("{a}.bgp.remoteAs: `4294967295`: must be an AS number")),
            (
                "remoteAs: 65101",
                "remoteAs: 65000",
                format!("{a}.bgp.remoteAs: `65000`: is the platform's own AS; the customer's must differ"),
            ),
            ("remoteAs: 65101", "remoteAs: 65101, holdTime: 2", format!("{a}.bgp.holdTime: `2`: must be 0 or 3 to 65535 seconds")),
            ("remoteAs: 65101", "remoteAs: 65101, password: ''", format!("{a}.bgp.password: `(hidden)`: must be 1 to 80 bytes")),
            (
                "remoteAs: 65101",
                "remoteAs: 65101, password: (hidden)",
                format!("{a}.bgp.password: `(hidden)`: stands for a password where one is shown; give the password itself"),
            ),
            (
                "remoteAs: 65101",
                "remoteAS: 65101",
                format!("{a}.bgp.remoteAS: `remoteAS`: is not a known field; known are neighbor, remoteAs,"),
            ),
            ("maxPrefix: 1000", "maxPrefix: 0", format!("{a}.bgp.maxPrefix: `0`: must be 1 to 4294967295")),
            ("      port: eth2\n", "", format!("{a}.port: `(missing)`: is required")),
            ("name: denver-1", "name: Denver", format!("{a}.name: `Denver`: must be 1 to 32 characters: a lower-case letter")),
            ("edgeplex/v1", "edgeplex/v2", "document 1: apiVersion: `edgeplex/v2`: must be edgeplex/v1".into()),
            ("kind: Customer", "kind: Client", "document 1: kind: `Client`: must be Platform or Customer".into()),
            ("name: beta", "name: Beta!", "document 1: metadata.name: `Beta!`: must be 1 to 32 characters".into()),
            ("{import:", "[import:", "line".into()),
            ("port: eth2", "port: eth2\n      port: eth2", "input: line 10 column 7: `port`: is given twice in one mapping".into()),
        ],
    );
}

#[test]
fn the_platform() {
    let rows = [
        ("asn: 65000", "asn: 23456", "Platform denver: spec.asn: `23456`: must be an AS number"),
        ("via: 10.0.0.9", "via: 10.7.0.9", "spec.coreRoutes[0].via: `10.7.0.9`: must be a neighbour in a core subnet (10.0.0.0/24)"),
        ("access: [eth2", "access: [eth1", "spec.access[0]: `eth1`: is already a core port; a port is either core or access"),
        ("first: 1000", "first: 3", "spec.labels.first: `3`: must be 16 to 1048575 (0 to 15 are reserved)"),
        ("first: 1000", "first: 2000", "spec.labels: `2000-1999`: `first` must not be above `last`"),
        (
            "first: 1000",
            "first: 1500",
            "Customer acme: spec.attachments[0].label: `1000`: must be in the platform's label range, 1500 to 1999",
        ),
        ("mtu: 1600", "mtu: 100", "spec.core[0].mtu: `100`: must be 576 to 9216 bytes"),
        (
            "name: denver",
            "name: golden",
            "Platform golden: metadata.name: `golden`: must be denver, the name of this controller's platform",
        ),
        ("[{port: eth1, address: 10.0.0.1/24, mtu: 1600}]", "[]", "spec.core: `[]`: must name at least one core port"),
        (
            "loopback: 10.255.0.1",
            "loopback: 10.0.0.7",
            "spec.loopback: `10.0.0.7`: lies in the subnet of spec.core[0]; must be an address of its own",
        ),
        ("loopback: 10.255.0.1", "loopback: 224.0.0.1", "spec.loopback: `224.0.0.1`: must be a unicast address"),
        ("[{address: 10.255.0.9}]", "[{address: 10.255.0.1}]", "is this PE's own address; must be the route reflector's"),
    ];
    refusals(&started(), PLATFORM, &rows.map(|(from, to, says)| (from, to, says.to_owned())));
}

#[test]
fn documents_that_do_not_fit_together() {
    let says = |intent: &Intent, text: &str| apply(intent, text).unwrap_err().to_string();
    assert_eq!(says(&Intent::default(), ACME), "Customer acme: kind: `Customer`: needs a Platform: apply one first, or together with it");
    assert_eq!(
        says(&started(), &format!("{ACME}---\n{ACME}")),
        "Customer acme: metadata.name: `acme`: is given twice; give each document once"
    );
    // `a/b-c` and `a-b/c` would be one VM.
    let (one, two) = (another("a", 1).replace("denver-1", "b-c"), another("a-b", 2).replace("denver-1", "c"));
    assert!(says(&started(), &format!("{one}---\n{two}")).contains("makes the same VM name as"));
    let before = started();
    let good = another("gamma", 3);
    let bad = good.replace("gamma", "delta");
    assert!(says(&before, &format!("{good}---\n{bad}")).contains("is already used on port eth2 by delta/denver-1"));
    assert_eq!(before, started(), "one bad document keeps the good ones out");
}

#[test]
fn text_that_is_no_document() {
    let says = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(says(""), "input: document 1: ``: holds no document; write at least one Platform or Customer");
    let head = PLATFORM.split("spec:").next().unwrap();
    assert!(
        says(&format!("{head}spec: 5")).starts_with("Platform denver: spec: `5`: must be a mapping with the fields role, asn, loopback")
    );
    assert!(says("- a").starts_with("document 1: top level: `[\"a\"]`: must be a mapping with the fields apiVersion,"));
    assert!(says("{").starts_with("input: line "), "{}", says("{"));
    assert!(says(&"x".repeat(MAX_TEXT + 1)).contains("must be at most 4194304 bytes"));
    // What was given may try to write to the operator's terminal, or be very long.
    let said = says(&format!("apiVersion: \"\\e[2J{}\"", "x".repeat(500)));
    assert!(said.contains("\\u{1b}[2J") && said.len() < 200 && !said.contains('\u{1b}'), "{said}");
}
