//! A BGP stream of a hostile neighbour, whatever the session agreed on; and attributes that came over the relay.
#![no_main]
use edgeplex_bgp_wire::{
    Attributes, Context, Decoder, Family, MAX_EXTENDED_MESSAGE, MessageType, Nlri, NlriKey, Notification, Open, RouteRefresh, compose, frame_within,
};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&[choice, families, add_path], bytes)) = input.split_first_chunk::<3>() else { return };
    let chosen = |bits: u8| Family::ALL.into_iter().enumerate().filter(move |(i, _)| bits >> i & 1 == 1).map(|(_, f)| f).collect();
    let context = Context {
        families: chosen(families),
        add_path: chosen(add_path),
        four_octet_as: choice & 1 != 0,
        ibgp: choice & 2 != 0,
        first_as: (choice & 4 != 0).then_some(65101),
        only_to_customer: (choice & 8 != 0).then_some(65101),
    };
    let mut decoder = Decoder::new(context);
    let mut rest = bytes;
    while let Ok(Some(message)) = frame_within(rest, MAX_EXTENDED_MESSAGE) {
        match message.kind {
            MessageType::Open => drop(Open::decode(message.body)),
            MessageType::Update => update(&mut decoder, message.body),
            MessageType::Notification => drop(Notification::decode(message.body).map(|n| n.to_string())),
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
    assert!(update.announced.is_empty() || update.attributes.is_some(), "reachable routes have attributes");
    let mut out = vec![];
    let gone: Vec<NlriKey> = update.unreach.iter().map(|u| u.key).collect();
    compose::unreach(&mut out, &gone);
    for announced in &update.announced {
        let Some(attributes) = &update.attributes else { continue };
        let nlri: Vec<Nlri> = announced.reach.iter().map(|r| r.nlri).collect();
        compose::reach(&mut out, &compose::EncodedAttributes::new(attributes, true).extended(), announced.next_hop, &nlri);
    }
    let mut rest = out.as_slice();
    while let Some(message) = frame_within(rest, MAX_EXTENDED_MESSAGE).expect("what we write is framed") {
        rest = &rest[message.wire_len()..];
    }
    assert!(rest.is_empty());
}
