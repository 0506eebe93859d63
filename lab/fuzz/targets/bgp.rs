//! A BGP stream of a hostile neighbour, whatever the session agreed on; and attributes that came over the relay.
#![no_main]
use edgeplex_bgp_wire::{Attributes, Context, Decoder, Family, FamilySet, MessageType, Notification, Open, RouteRefresh, compose, frame};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let mut families = FamilySet::default();
    for (bit, family) in [(1, Family::Ipv4Unicast), (2, Family::Vpnv4)] {
        if choice & bit != 0 {
            families.insert(family);
        }
    }
    let context =
        Context { families, four_octet_as: choice & 4 != 0, ibgp: choice & 8 != 0, first_as: (choice & 16 != 0).then_some(65101) };
    let mut decoder = Decoder::new(context);
    let mut rest = bytes;
    while let Ok(Some(message)) = frame(rest) {
        match message.kind {
            MessageType::Open => drop(Open::decode(message.body)),
            MessageType::Update => update(&mut decoder, message.body),
            MessageType::Notification => drop(Notification::decode(message.body)),
            MessageType::RouteRefresh => drop(RouteRefresh::decode(message.body)),
            MessageType::Keepalive => {}
        }
        rest = &rest[message.wire_len()..];
    }
    // Also without a header, so that the fuzzer need not find the marker first.
    let _ = Open::decode(bytes);
    update(&mut decoder, bytes);
    if let Ok(attributes) = Attributes::from_bytes(bytes) {
        let again = Attributes::from_bytes(&attributes.to_bytes()).expect("what we write we can read");
        assert_eq!(again, attributes);
    }
});

/// What was understood can be said again.
fn update(decoder: &mut Decoder, body: &[u8]) {
    let Ok(update) = decoder.decode(body) else { return };
    assert!(update.reach.is_empty() || update.attributes.is_some(), "reachable routes have attributes");
    let mut out = vec![];
    compose::unreach(&mut out, &update.unreach);
    for reach in &update.reach {
        if let (Some(attributes), std::net::IpAddr::V4(next_hop)) = (&update.attributes, reach.next_hop) {
            compose::reach(&mut out, &compose::EncodedAttributes::new(attributes, true), next_hop, &reach.nlri);
        }
    }
    let mut rest = out.as_slice();
    while let Some(message) = frame(rest).expect("what we write is framed") {
        rest = &rest[message.wire_len()..];
    }
    assert!(rest.is_empty());
}
