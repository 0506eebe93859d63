//! Any bytes as each header FastForward looks at.
#![no_main]
use edgeplex_ff_packet::{arp, ethernet::Frame, icmpv4, icmpv6, ipv4, ipv6, mpls, nd};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::new(bytes) {
        let _ = (frame.destination(), frame.source(), frame.tag(), frame.ether_type(), frame.header_len());
        packet(frame.payload());
    }
    packet(bytes);
});

fn packet(bytes: &[u8]) {
    if let Ok(arp) = arp::Arp::parse(bytes) {
        assert_eq!(arp::Arp::parse(&arp.to_bytes()), Ok(arp));
    }
    let mut rest = bytes;
    while let Ok(entry) = mpls::Entry::parse(rest) {
        assert_eq!(entry.to_bytes(), rest[..mpls::LEN]);
        rest = &rest[mpls::LEN..];
    }
    if let Some(depth) = mpls::depth(bytes, 16) {
        assert!(depth * mpls::LEN <= bytes.len() && depth <= 16);
    }
    if let Ok(packet) = ipv6::Packet::new(bytes) {
        v6(packet);
    }
    let Ok(packet) = ipv4::Packet::new(bytes) else { return };
    assert!(packet.header_len() <= packet.total_len() && packet.total_len() <= bytes.len());
    let _ = (packet.ports(), packet.options(), packet.payload(), icmpv4::may_be_told(packet));
    for stack in [&[][..], &[1, 2, 3, 4, 5, 6, 7, 8]] {
        let mut out = vec![0; icmpv4::datagram_len(packet, stack.len())];
        assert!(icmpv4::write(&mut out, icmpv4::Error::TimeExceeded, [192, 0, 2, 1].into(), 1, packet, stack));
        assert!(ipv4::Packet::new(&out).is_ok(), "an error is a packet");
    }
    for fragment in ipv4::fragments(packet, 576).take(200) {
        assert!(
            ipv4::Packet::new(&[fragment.header(), &packet.payload()[fragment.payload.clone()]].concat()).is_ok(),
            "a fragment is a packet"
        );
    }
}

fn v6(packet: ipv6::Packet) {
    assert!(packet.total_len() >= ipv6::HEADER_LEN);
    let _ = (packet.ports(), packet.flow_label(), icmpv6::may_be_told(packet));
    if let Some(upper) = packet.upper() {
        assert!(upper.payload.len() <= packet.payload().len());
    }
    if let Ok(nd) = nd::Nd::parse(packet) {
        let again = nd.to_bytes();
        let again = nd::Nd::parse(ipv6::Packet::new(&again).expect("a packet of ours"));
        // An answer to a probe gets an address that the probe had not.
        assert!(nd.source.is_unspecified() || again.is_ok_and(|a| a.target == nd.target && a.kind == nd.kind));
    }
    for (error, stack) in [(icmpv6::Error::PacketTooBig { mtu: 1280 }, &[][..]), (icmpv6::Error::TimeExceeded, &[0; 12])] {
        let mut out = vec![0; icmpv6::datagram_len(error, packet, stack.len())];
        assert!(icmpv6::write(&mut out, error, packet.destination(), packet, stack));
        assert!(ipv6::Packet::new(&out).is_ok(), "an error is a packet");
    }
}
