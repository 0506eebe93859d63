//! What an operator gets to read for mistakes about VPNs, neighbours and their policy.

#![allow(clippy::unwrap_used)]

mod common;

use common::{FULL_ACME, apply, full, refusals};
use edgeplex_intent::Intent;

#[test]
fn vpns() {
    let v = "Customer acme: spec.vpn.";
    refusals(
        &full(),
        FULL_ACME,
        &[
            (
                "from: internet",
                "from: intranet",
                format!("{v}leak[0].from: `intranet`: is no customer of this platform; give routeTargets,"),
            ),
            ("from: internet", "from: acme", format!("{v}leak[0].from: `acme`: is this VPN itself; must be another")),
            ("{from: internet, ", "{", format!("{v}leak[0]: `{{\"prefixes\":[\"0.0.0.0/0\",\"::/0\"]}}`: must have either from,")),
            ("from: internet", "from: internet, routeTargets: ['1:1']", "must have either from, a customer of this platform, or".into()),
            ("routeTargets: ['65000:900']", "routeTargets: []", format!("{v}leak[1].routeTargets: `[]`: must name at least one")),
            ("prefixes: [0.0.0.0/0, '::/0']", "prefixes: []", format!("{v}leak[0].prefixes: `[]`: must name at least one prefix")),
            ("[0.0.0.0/0, '::/0']", "['::/0', '::/0']", format!("{v}leak[0].prefixes[1]: `::/0`: is given twice")),
            ("[0.0.0.0/0, '::/0']", "['::1/0']", format!("{v}leak[0].prefixes[0]: `::1/0`: has host bits set; must be ::/0")),
            ("maxPaths: 4", "maxPaths: 17", format!("{v}maxPaths: `17`: must be 1 to 16")),
            ("labelMode: per-ce", "labelMode: per-vrf", format!("{v}labelMode: `per-vrf`: must be per-attachment, per-ce")),
        ],
    );
    // A VPN that others take from stays.
    let mut without = full();
    without.customers.remove(&"internet".parse().unwrap());
    let said = apply(&without, FULL_ACME).unwrap_err().to_string();
    assert!(said.contains("spec.vpn.leak[0].from: `internet`: is no customer of this platform"), "{said}");
}

#[test]
fn attachments() {
    let a = "Customer acme: spec.attachments[0].";
    refusals(
        &full(),
        FULL_ACME,
        &[
            ("['65000:101', '65000:102']", "['65000:101', '65000:101']", format!("{a}vpn.import[1]: `65000:101`: is given twice")),
            (
                "labelMode: per-attachment\n",
                "labelMode: per-ce\n",
                format!("{a}label: `1000`: is fixed, but with labelMode per-ce each CE gets one of its own; leave it out"),
            ),
            ("maxPaths: 2", "maxPaths: 0", format!("{a}maxPaths: `0`: must be 1 to 16")),
            ("address6: 2001:db8:1::1/64", "address6: fe80::1/64", format!("{a}address6: `fe80::1/64`: is link-local; the PE has such")),
            (
                "address6: 2001:db8:1::1/64",
                "address6: 2001:db8:1::/64",
                format!("{a}address6: `2001:db8:1::/64`: is the subnet-router anycast"),
            ),
            (
                "address6: 2001:db8:1::1/64",
                "address6: 2001:db8:1::1/128",
                format!("{a}address6: `2001:db8:1::1/128`: must have a prefix length"),
            ),
            ("address6: 2001:db8:1::1/64", "address6: ff02::1/64", format!("{a}address6: `ff02::1/64`: must be a unicast address")),
            ("address6: 2001:db8:1::1/64", "address6: 10.0.0.1/24", format!("{a}address6: `10.0.0.1/24`: must be an IPv6 address with")),
            (
                "      address6: 2001:db8:1::1/64\n",
                "",
                format!("{a}bgp[1].neighbor: `2001:db8:1::2`: is of a family that the attachment has no address of; give it address6"),
            ),
            (
                "      address: 192.168.1.1/29\n      address6: 2001:db8:1::1/64\n",
                "",
                format!("{a}address: `(missing)`: give address, address6 or both"),
            ),
            (
                "prefix: '2001:db8:9::/48'",
                "prefix: '2001:db8:9::1/48'",
                format!("{a}static[1].prefix: `2001:db8:9::1/48`: has host bits set"),
            ),
            (
                "via: '2001:db8:1::3'",
                "via: 192.168.1.3",
                format!("{a}static[1].via: `192.168.1.3`: must be of the same family as the prefix"),
            ),
            ("via: '2001:db8:1::3'", "via: '2001:db8:2::3'", format!("{a}static[1].via: `2001:db8:2::3`: must be a host address in the")),
            ("via: '2001:db8:1::3'", "via: '2001:db8:1::1'", format!("{a}static[1].via: `2001:db8:1::1`: is the PE's own address")),
            ("interval: 100", "interval: 1", format!("{a}static[0].bfd.interval: `1`: must be 10 to 60000 ms")),
        ],
    );
}

#[test]
fn neighbors() {
    let b = "Customer acme: spec.attachments[0].bgp[0].";
    refusals(
        &full(),
        FULL_ACME,
        &[
            (
                "neighbor: '2001:db8:1::2'",
                "neighbor: 192.168.1.2",
                "spec.attachments[0].bgp[1].neighbor: `192.168.1.2`: is given twice".into(),
            ),
            ("neighbor: '2001:db8:1::2'", "neighbor: 'fe80::2'", "bgp[1].neighbor: `fe80::2`: is link-local; give the global".into()),
            ("neighbor: '2001:db8:1::2'", "neighbor: '2001:db8:1::'", "bgp[1].neighbor: `2001:db8:1::`: must be a host address in".into()),
            ("neighbor: '2001:db8:1::2'", "neighbor: '::ffff:10.0.0.1'", "bgp[1].neighbor: `::ffff:10.0.0.1`: must be a unicast".into()),
            ("limit: 1000", "limit: 0", format!("{b}maxPrefix.limit: `0`: must be 1 to 4294967295")),
            ("warn: 90", "warn: 101", format!("{b}maxPrefix.warn: `101`: must be 1 to 100 percent")),
            ("restart: 120", "restart: 0", format!("{b}maxPrefix.restart: `0`: must be 1 to 86400 seconds")),
            ("ttlSecurity: 1", "ttlSecurity: 255", format!("{b}ttlSecurity: `255`: must be 1 to 254 hops")),
            ("role: provider", "role: transit", format!("{b}role: `transit`: must be provider, customer, peer, route-server,")),
            ("multiplier: 3", "multiplier: 256", format!("{b}bfd.multiplier: `256`: must be 2 to 255")),
            ("allowAsIn: 2", "allowAsIn: 11", format!("{b}allowAsIn: `11`: must be 0 to 10")),
            ("siteOfOrigin: '65000:77'", "siteOfOrigin: denver", format!("{b}siteOfOrigin: `denver`: must look like 65000:100,")),
            ("maintenance until noon", "''", format!("{b}shutdown: ``: must be 1 to 255 bytes of text")),
            ("asOverride: true", "asOverride: 'true'", format!("{b}asOverride: `true`: must be true or false")),
        ],
    );
}

#[test]
fn policy() {
    let i = "Customer acme: spec.attachments[0].bgp[0].import[0].";
    refusals(
        &full(),
        FULL_ACME,
        &[
            (
                "172.16.0.0/12]",
                "172.16.1.0/12]",
                format!("{i}match.prefixes[1]: `172.16.1.0/12`: has host bits set; must be 172.16.0.0/12"),
            ),
            ("ge 16 le 24", "ge 24 le 16", format!("{i}match.prefixes[0]: `10.0.0.0/8 ge 24 le 16`: must have 8 <= ge <= le <= 32")),
            ("ge 16 le 24", "ge 7", format!("{i}match.prefixes[0]: `10.0.0.0/8 ge 7`: must have 8 <= ge <= le <= 32")),
            ("ge 16 le 24", "le 33", format!("{i}match.prefixes[0]: `10.0.0.0/8 le 33`: must have 8 <= ge <= le <= 32")),
            ("ge 16 le 24", "longer", format!("{i}match.prefixes[0]: `10.0.0.0/8 longer`: must be a prefix, then perhaps `ge` and `le`")),
            (
                "ge 16 le 24",
                "le 24 le 25",
                "must be a prefix, then perhaps `ge` and `le` with a length each, such as 10.0.0.0/8 le 24".into(),
            ),
            ("172.16.0.0/12]", "'2001:db8::/32']", format!("{i}match.prefixes[1]: `2001:db8::/32`: would never match; the session with")),
            ("'65101:1', no-export]", "'65536:1']", format!("{i}match.communities[0]: `65536:1`: must be like 65000:100 or no-export")),
            ("'65101:1', no-export]", "65101]", format!("{i}match.communities[0]: `65101`: must be text; put it in quotes")),
            ("['65101:1:2']", "['65101:1']", format!("{i}match.largeCommunities[0]: `65101:1`: must be like 65000:1:2")),
            ("'^65101( |$)'", "'^65101('", format!("{i}match.asPath: `^65101(`: must be a regular expression: unclosed group")),
            ("'^65101( |$)'", "'(1{900}){900}'", format!("{i}match.asPath: `(1{{900}}){{900}}`: is too large when compiled")),
            ("localPref: 200", "localPref: -1", format!("{i}set.localPref: `-1`: must be 0 to 4294967295")),
            ("prepend: 2", "prepend: 17", format!("{i}set.prepend: `17`: must be 0 to 16")),
            ("action: accept", "action: permit", format!("{i}action: `permit`: must be accept, reject")),
            ("action: accept", "action: reject", format!("{i}set: `(given)`: means nothing on a route that is rejected")),
            ("- {action: reject}", "- {}", "bgp[0].import[1].action: `(missing)`: is required".into()),
            ("{prefixes: [0.0.0.0/0]}", "{prefix: 0.0.0.0/0}", "bgp[0].export[0].match.prefix: `prefix`: is not a known field".into()),
        ],
    );
}

#[test]
fn one_neighbour_needs_no_list_and_a_list_may_have_one() {
    let one = apply(&Intent::default(), &common::both()).unwrap();
    let listed = common::both().replace(
        "bgp: {neighbor: 192.168.1.2, remoteAs: 65101, maxPrefix: 1000}",
        "bgp: [{neighbor: 192.168.1.2, remoteAs: 65101, maxPrefix: {limit: 1000}}]",
    );
    assert_eq!(apply(&Intent::default(), &listed).unwrap(), one);
}
