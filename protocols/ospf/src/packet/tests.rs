//! Vectors and round trips of the codec.

use super::*;
use crate::{Algorithm, Authentication};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn body() -> impl Strategy<Value = (u8, LsaBody)> {
    let stub = (address(), 0..=32u8, any::<u16>()).prop_map(|(id, length, metric)| {
        let data = Ipv4Addr::from(reader::mask_of(length));
        RouterLink { kind: LinkKind::Stub, id, data, metric }
    });
    let other =
        (prop_oneof![Just(LinkKind::PointToPoint), Just(LinkKind::Transit), Just(LinkKind::Virtual)], address(), address(), any::<u16>())
            .prop_map(|(kind, id, data, metric)| RouterLink { kind, id, data, metric });
    let links = prop::collection::vec(prop_oneof![stub, other], 0..20);
    let router = (any::<u8>(), links).prop_map(|(flags, links)| (ROUTER, LsaBody::Router(RouterLsa { flags, links })));
    let network = (0..=32u8, prop::collection::vec(address(), 0..20))
        .prop_map(|(prefix_length, attached)| (NETWORK, LsaBody::Network(NetworkLsa { prefix_length, attached })));
    let summary =
        (0..=32u8, 0..=LS_INFINITY).prop_map(|(prefix_length, metric)| (SUMMARY, LsaBody::Summary(Summary { prefix_length, metric })));
    let external =
        (0..=32u8, any::<bool>(), 0..=LS_INFINITY, address(), any::<u32>()).prop_map(|(prefix_length, type_2, metric, forwarding, tag)| {
            (EXTERNAL, LsaBody::External(External { prefix_length, type_2, metric, forwarding, tag }))
        });
    let opaque = (9..=11u8, prop::collection::vec(any::<u8>(), 0..100)).prop_map(|(kind, bytes)| (kind, LsaBody::Opaque(bytes)));
    prop_oneof![router, network, summary, external, opaque]
}

fn lsa() -> impl Strategy<Value = Lsa> {
    (body(), address(), address(), any::<u8>(), any::<i32>(), 0..=MAX_AGE).prop_map(
        |((kind, body), id, advertising_router, options, sequence, age)| {
            Lsa::new(LsaKey { kind, id, advertising_router }, options, sequence, body).unwrap().at_age(age)
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let addresses = || prop::collection::vec(address(), 0..10);
    let hello = (any::<u32>(), any::<u16>(), any::<(u8, u8)>(), any::<u32>(), address(), address(), addresses()).prop_map(
        |(mask, hello_interval, (options, priority), dead_interval, designated, backup, neighbors)| {
            Message::Hello(Hello { mask, hello_interval, options, priority, dead_interval, designated, backup, neighbors })
        },
    );
    let headers = || prop::collection::vec(lsa().prop_map(|l| l.header), 0..10);
    let dd = (any::<u16>(), any::<(u8, u8)>(), any::<u32>(), headers()).prop_map(|(mtu, (options, flags), sequence, headers)| {
        Message::DatabaseDescription(DatabaseDescription { mtu, options, flags, sequence, headers })
    });
    let keys = prop::collection::vec(lsa().prop_map(|l| l.header.key), 0..10);
    let update = prop::collection::vec(lsa(), 0..6).prop_map(|lsas| Message::Update(Update { lsas, refused: vec![] }));
    prop_oneof![hello, dd, keys.prop_map(Message::Request), update, headers().prop_map(Message::Acknowledge)]
}

fn authentication() -> impl Strategy<Value = Authentication> {
    let algorithm =
        prop_oneof![Just(Algorithm::Md5), Just(Algorithm::HmacSha256), Just(Algorithm::HmacSha384), Just(Algorithm::HmacSha512)];
    prop_oneof![
        Just(Authentication::Null),
        "[a-z]{1,8}".prop_map(Authentication::Simple),
        (algorithm, any::<u8>(), "[ -~]{1,90}").prop_map(|(algorithm, key_id, key)| Authentication::Cryptographic {
            algorithm,
            key_id,
            key
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(message in message(), router in address(), area in address(), authentication in authentication(), sequence: u32) {
        let bytes = message.encode(router, area, &authentication, sequence);
        let packet = Packet::decode(&bytes).unwrap();
        prop_assert_eq!((packet.header.router_id, packet.header.area), (router, area));
        let sealed = packet.open(&authentication).unwrap();
        let cryptographic = matches!(authentication, Authentication::Cryptographic { .. });
        prop_assert_eq!(sealed.sequence, cryptographic.then_some(sequence));
        prop_assert_eq!(packet.message().unwrap(), message);
    }

    #[test]
    fn a_changed_byte_is_noticed(message in message(), authentication in authentication(), at: prop::sample::Index, bit in 0..8u32) {
        let mut bytes = message.encode(Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, &authentication, 7);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // The authentication field of null authentication means nothing.
        let meant = authentication != Authentication::Null || !(16..24).contains(&at);
        let believed = Packet::decode(&bytes).is_ok_and(|p| p.open(&authentication).is_ok());
        prop_assert!(!(meant && believed), "byte {}", at);
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>, head in 1..=6u8, grace: Vec<u8>) {
        let mut packet = vec![2, head, 0, 0];
        packet.extend_from_slice(&[0; 20]);
        packet.extend_from_slice(&bytes);
        let length = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let _ = Packet::decode(&bytes);
        let _ = Packet::decode(&packet).unwrap().message();
        let _ = Lsa::decode(&bytes);
        let _ = Grace::decode(&grace);
    }

    #[test]
    fn grace_survives(period: u32, reason: u8, address in prop::option::of(address())) {
        let grace = Grace { period, reason, address };
        prop_assert_eq!(Grace::decode(&grace.encode()), Ok(grace));
    }
}

#[test]
fn a_hello_looks_as_in_the_rfc() {
    let hello = Hello {
        mask: 0xffff_ff00,
        hello_interval: 10,
        options: OPTION_E,
        priority: 1,
        dead_interval: 40,
        designated: Ipv4Addr::new(192, 168, 170, 8),
        backup: Ipv4Addr::UNSPECIFIED,
        neighbors: vec![],
    };
    // The hello of 192.168.170.8 in Wireshark's sample capture of OSPF.
    let want = hex("0201002c c0a8aa08 00000001 273b0000 00000000 00000000 ffffff00 000a0201 00000028 c0a8aa08 00000000");
    let bytes = Message::Hello(hello.clone()).encode(Ipv4Addr::new(192, 168, 170, 8), Ipv4Addr::new(0, 0, 0, 1), &Authentication::Null, 0);
    assert_eq!(bytes, want);
}

#[test]
fn an_update_keeps_what_is_right_in_it() {
    let key = LsaKey { kind: SUMMARY, id: Ipv4Addr::new(10, 0, 0, 0), advertising_router: Ipv4Addr::LOCALHOST };
    let good = Lsa::new(key, OPTION_E, INITIAL_SEQUENCE, LsaBody::Summary(Summary { prefix_length: 8, metric: 5 })).unwrap();
    let update = Message::Update(Update { lsas: vec![good.clone(), good.clone(), good.clone()], refused: vec![] });
    let mut bytes = update.encode(Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, &Authentication::Null, 0);
    bytes[HEADER + 4 + good.length() + 25] ^= 1;
    let Message::Update(update) = Packet::decode(&bytes).unwrap().message().unwrap() else { panic!() };
    assert_eq!(update.lsas, [good.clone(), good]);
    assert_eq!(update.refused, [DecodeError { offset: 24 + 4 + 28, field: "LSA", cause: Cause::Checksum }]);
}
