//! Frames the pipeline made, read by a program that is not ours: `cargo test -p edgeplex-forwarder --test tshark -- --ignored`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::switch::{Switch, mac, switch, towards};
use common::v6::*;
use common::*;
use edgeplex_ff_fib_api::{FibOp, Interface, Target};
use edgeplex_forwarder::Port::{Core, Customer};
use std::process::Command;

/// A classic pcap file of Ethernet frames.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
    for (i, f) in frames.iter().enumerate() {
        let len = u32::try_from(f.len()).unwrap();
        for word in [0, u32::try_from(i).unwrap(), len, len] {
            out.extend(word.to_le_bytes());
        }
        out.extend(f);
    }
    out
}

/// What tshark says of each frame in these fields, one line a frame.
fn tshark(frames: &[Vec<u8>], fields: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.pcap");
    std::fs::write(&file, pcap(frames)).unwrap();
    let mut tshark = Command::new("tshark");
    tshark
        .args([
            "-o",
            "ip.check_checksum:TRUE",
            "-o",
            "ip.defragment:FALSE",
            "-o",
            "icmp.favor_icmp_mpls:TRUE",
            "-T",
            "fields",
            "-E",
            "separator=;",
            "-r",
        ])
        .arg(&file);
    fields.iter().for_each(|f| {
        tshark.args(["-e", f]);
    });
    let said = tshark.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn bytes<P>(frames: Vec<(P, Vec<u8>)>) -> impl Iterator<Item = Vec<u8>> {
    frames.into_iter().map(|f| f.1)
}

#[test]
#[ignore = "needs tshark"]
fn tshark_reads_what_was_meant() {
    let mut b = Bench::warm();
    b.program(vec![interface(1500, 1000)]);
    let mut out = vec![];
    out.extend(bytes(b.put(Customer, &udp(NEAR, FAR).tos(0xb8).ce_sends())));
    out.extend(bytes(b.put(Customer, &udp(NEAR, FAR_PHP).len(1500).ce_sends())));
    out.extend(bytes(b.put(Customer, &udp(NEAR, FAR).ttl(1).ce_sends())));
    out.extend(bytes(b.put(Core, &udp(FAR, NEAR).len(1000).p_sends(&[lse(OWN_LABEL, 0, true, 1)]))));
    out.extend(bytes(b.put(Customer, &udp(NEAR, FAR).len(1400).frag(DF).ce_sends())));
    let fields = ["mpls.label", "mpls.exp", "mpls.bottom", "mpls.ttl", "ip.ttl", "ip.frag_offset", "icmp.type", "icmp.mtu"];
    let fields = [&fields[..], &["ip.checksum.status", "icmp.checksum.status", "_ws.malformed"]].concat();
    // Outer and quoted header are both listed; 1 is a right checksum; offsets are in units of 8 bytes.
    let want = [
        "16,2002;5,5;0,1;63,63;63;0;;;1;;",
        "2003;0;1;63;63;0;;;1;;",
        "2003;0;1;63;63;122;;;1;;",
        ";;;;64,1;0,0;11;;1,1;1;",
        "16,2002;6,6;0,1;64,64;64,64;0,0;11;;1,1;1;",
        ";;;;64,64;0,0;3;992;1,1;1;",
    ];
    assert_eq!(tshark(&out, &fields), want);
}

/// RFC 4884 and RFC 4950 as others read them: the stack of what expired, in the PE and in routers inside the core.
#[test]
#[ignore = "needs tshark"]
fn tshark_reads_the_label_stack_in_an_icmp_error() {
    let mut b = Bench::warm();
    let mut s = Switch::new(1, 1500);
    s.program(vec![legs(1, vec![towards(1, 1, &[], 2, 0)]), switch(100, 1)]);
    let arrives = |stack: &[[u8; 4]], p: Vec<u8>| eth(mac(1, 0), mac(9, 0), 0x8847, &[stack.concat(), p].concat());
    let two = [lse(100, 5, false, 1), lse(2002, 3, true, 7)];
    let mut out = vec![];
    out.extend(bytes(b.put(Core, &udp(FAR, NEAR).p_sends(&[lse(OWN_LABEL, 0, true, 1)]))));
    out.extend(bytes(s.put(0, &arrives(&two, udp(NEAR, FAR).bytes()))));
    out.extend(bytes(s.put(0, &arrives(&two, udp(NEAR, FAR).len(1400).bytes()))));
    out.extend(bytes(s.put(0, &arrives(&two, udp6(NEAR6, FAR6).bytes()))));
    out.extend(bytes(s.put(0, &arrives(&[lse(100, 0, true, 1)], udp6(NEAR6, FAR6).bytes()))));
    let mpls = ["label", "exp", "s", "ttl"].map(|f| format!("icmp.mpls.{f}"));
    let other = ["ip.src", "ipv6.src", "icmp.type", "icmp.length.original_datagram", "icmpv6.type", "icmpv6.length"];
    let sums = ["icmp.ext.checksum.status", "icmp.checksum.status", "icmpv6.checksum.status", "_ws.malformed"];
    let fields: Vec<_> = mpls.iter().map(String::as_str).chain(other).chain(sums).collect();
    // The length is shown in bytes for IPv4, in words of 8 for IPv6; 1 is a right checksum.
    let want = [
        "1001;0;1;1;192.168.1.1,10.2.0.9;;11;128;;;1;1;;",
        "100,2002;5,3;0,1;1,7;10.0.1.0,10.1.0.9;;11;128;;;1;1;;",
        "100,2002;5,3;0,1;1,7;10.0.1.0,10.1.0.9;;11;128;;;1;1;;",
        "100,2002;5,3;0,1;1,7;;64:ff9b:1::a00:100,2001:db8:1::9;;;3;16;1;;1;",
        "100;0;1;1;;64:ff9b:1::a00:100,2001:db8:1::9;;;3;16;1;;1;",
    ];
    assert_eq!(tshark(&out, &fields), want);
}

#[test]
#[ignore = "needs tshark"]
fn tshark_reads_ipv6_and_neighbour_discovery() {
    let mut b = Bench::cold();
    let addresses = ["192.168.1.1/30", "fe80::1/64", "2001:db8:f::1/64"].map(|a| a.parse().unwrap()).to_vec();
    b.program(vec![
        FibOp::Interface(Interface { mac: edgeplex_types::MacAddr(OURS), addresses, customer_mtu: 1500, core_mtu: 1400 }),
        route("2001:db8:2::/48", vpn(2002, 7)),
        route("2001:db8:f::/64", Target::Connected),
    ]);
    let mut out = vec![];
    out.extend(bytes(b.put(Customer, &nd(135, 0, CE6, "ff02::1:ff00:1", OUR6, CE).to_group(CE))));
    out.extend(bytes(b.put(Core, &udp6(FAR6, "2001:db8:f::77").p_sends(&[lse(OWN_LABEL, 0, true, 9)]))));
    out.extend(bytes(b.put(Customer, &udp6(CE6, FAR6).class(0xb8).ce_sends())));
    out.extend(bytes(b.put(Customer, &udp6(CE6, FAR6).len(1400).ce_sends())));
    let fields =
        ["eth.dst", "ipv6.src", "ipv6.dst", "ipv6.hlim", "icmpv6.type", "icmpv6.nd.na.flag.s", "icmpv6.opt.linkaddr", "icmpv6.mtu"];
    let fields = [&fields[..], &["mpls.label", "mpls.exp", "icmpv6.checksum.status", "_ws.malformed"]].concat();
    let want = [
        "02:00:00:00:00:ce;2001:db8:f::1;2001:db8:f::2;255;136;1;02:00:00:00:00:01;;;;1;",
        "33:33:ff:00:00:77;2001:db8:f::1;ff02::1:ff00:77;255;135;;02:00:00:00:00:01;;;;1;",
        "02:00:00:00:01:02;2001:db8:f::2;2001:db8:2::9;63;;;;;16,2002;5,5;;",
        "02:00:00:00:00:ce;2001:db8:f::1,2001:db8:f::2;2001:db8:f::2,2001:db8:2::9;64,64;2;;;1392;;;1;",
    ];
    assert_eq!(tshark(&out, &fields), want);
}
