//! Any bytes as each header FastForward looks at.
#![no_main]
use edgeplex_ff_packet::{arp, ethernet::Frame, icmpv4, ipv4, mpls};

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
    let Ok(packet) = ipv4::Packet::new(bytes) else { return };
    assert!(packet.header_len() <= packet.total_len() && packet.total_len() <= bytes.len());
    let _ = (packet.ports(), packet.options(), packet.payload(), icmpv4::may_be_told(packet));
    let mut out = vec![0; icmpv4::datagram_len(packet)];
    icmpv4::write(&mut out, icmpv4::Error::TimeExceeded, [192, 0, 2, 1].into(), 1, packet);
    for fragment in ipv4::fragments(packet, 576).take(200) {
        assert!(ipv4::Packet::new(&[fragment.header(), &packet.payload()[fragment.payload.clone()]].concat()).is_ok(), "a fragment is a packet");
    }
}
