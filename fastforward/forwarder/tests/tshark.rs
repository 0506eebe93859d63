//! Frames the pipeline made, read by a program that is not ours: `cargo test -p edgeplex-forwarder --test tshark -- --ignored`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::*;
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

#[test]
#[ignore = "needs tshark"]
fn tshark_reads_what_was_meant() {
    let mut b = Bench::warm();
    b.program(vec![interface(1500, 1000)]);
    let mut out = vec![];
    out.extend(b.put(Customer, &udp(NEAR, FAR).tos(0xb8).ce_sends()));
    out.extend(b.put(Customer, &udp(NEAR, FAR_PHP).len(1500).ce_sends()));
    out.extend(b.put(Customer, &udp(NEAR, FAR).ttl(1).ce_sends()));
    out.extend(b.put(Core, &udp(FAR, NEAR).len(1000).p_sends(&[lse(OWN_LABEL, 0, true, 1)])));
    out.extend(b.put(Customer, &udp(NEAR, FAR).len(1400).frag(DF).ce_sends()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.pcap");
    std::fs::write(&file, pcap(&out.into_iter().map(|f| f.1).collect::<Vec<_>>())).unwrap();
    let fields = ["mpls.label", "mpls.exp", "mpls.bottom", "mpls.ttl", "ip.ttl", "ip.frag_offset", "icmp.type", "icmp.mtu"];
    let mut tshark = Command::new("tshark");
    tshark.args(["-o", "ip.check_checksum:TRUE", "-o", "ip.defragment:FALSE", "-T", "fields", "-E", "separator=;", "-r"]).arg(&file);
    fields.iter().chain(&["ip.checksum.status", "icmp.checksum.status", "_ws.malformed"]).for_each(|f| {
        tshark.args(["-e", f]);
    });
    let said = tshark.output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    // Outer and quoted header are both listed; 1 is a right checksum; offsets are in units of 8 bytes.
    let want = [
        "16,2002;5,5;0,1;63,63;63;0;;;1;;",
        "2003;0;1;63;63;0;;;1;;",
        "2003;0;1;63;63;122;;;1;;",
        ";;;;64,1;0,0;11;;1,1;1;",
        "16,2002;6,6;0,1;64,64;64,64;0,0;11;;1,1;1;",
        ";;;;64,64;0,0;3;992;1,1;1;",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), want, "{}", String::from_utf8_lossy(&said.stderr));
}
