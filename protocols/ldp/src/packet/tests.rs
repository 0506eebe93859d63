//! Vectors written by hand from the RFCs' figures, and round trips.

use super::*;
use edgeplex_types::Label;
use ipnet::Ipv4Net;
use proptest::prelude::*;
use std::time::Duration;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(&two.iter().collect::<String>(), 16).unwrap()).collect()
}

/// A PDU of 10.255.0.2 around messages.
fn pdu(messages: &str) -> Vec<u8> {
    let body = bytes(messages);
    let length = u16::try_from(body.len() + IDENTIFIER).unwrap();
    [&VERSION.to_be_bytes()[..], &length.to_be_bytes(), &[10, 255, 0, 2, 0, 0], &body].concat()
}

fn decode(pdu: &[u8]) -> Result<Vec<(u32, Option<Message>)>, Error> {
    let pdu = frame(pdu, MAX_PDU)?.expect("a whole PDU");
    pdu.messages().map(|raw| raw.and_then(|raw| Ok((raw.id, Message::decode(&raw)?)))).collect()
}

/// The one message of a PDU.
fn one(messages: &str) -> Result<Message, Error> {
    Ok(decode(&pdu(messages))?.remove(0).1.expect("a known message"))
}

fn status_of(messages: &str) -> Status {
    one(messages).unwrap_err().status
}

fn label(l: u32) -> Label {
    Label::try_from(l).unwrap()
}

fn composed(message: &Message) -> Vec<u8> {
    let mut composer = Composer::new(Ipv4Addr::new(10, 255, 0, 2), MAX_PDU);
    composer.push(7, message);
    composer.take()
}

#[test]
fn a_hello() {
    let hex = "0100 001c 00000007  0400 0004 000f 2000  0401 0004 0aff0002  0402 0004 00000005";
    let hello = Message::Hello(Hello {
        hold_s: 15,
        targeted: false,
        request_targeted: false,
        gtsm: true,
        transport_address: Some(Ipv4Addr::new(10, 255, 0, 2)),
        configuration_sequence: Some(5),
    });
    assert_eq!(one(hex).unwrap(), hello);
    assert_eq!(composed(&hello), pdu(hex));
}

#[test]
fn an_initialization_with_everything() {
    let hex = "0200 0035 00000007  0500 000e 0001 00b4 00 00 1000 0aff0001 0000
        8503 000c 0001 0000 0001d4c0 00001388  8506 0001 80  850b 0001 80  8603 0001 80";
    let init = Message::Initialization(Initialization {
        version: 1,
        keepalive_s: 180,
        downstream_on_demand: false,
        loop_detection: false,
        path_vector_limit: 0,
        max_pdu: 4096,
        receiver: LdpId { lsr_id: Ipv4Addr::new(10, 255, 0, 1), label_space: 0 },
        fault_tolerance: Some(FaultTolerance { reconnect: Duration::from_secs(120), recovery: Duration::from_secs(5) }),
        capabilities: Capabilities { dynamic: true, typed_wildcard: true, unrecognized_notification: true },
    });
    assert_eq!(one(hex).unwrap(), init);
    assert_eq!(composed(&init), pdu(hex));
}

#[test]
fn a_mapping_with_hop_count_and_path_vector() {
    let hex = "0400 0024 00000007  0100 0007 02 0001 18 0a4d00  0200 0004 00000010  0103 0001 02  0104 0004 0aff0009";
    let fecs = vec![FecElement::Prefix("10.77.0.0/24".parse().unwrap())];
    assert_eq!(one(hex).unwrap(), Message::LabelMapping(Mapping { fecs, label: label(16), request_id: None }));
}

#[test]
fn end_of_lib() {
    let hex = "0001 001b 00000007  0300 000a 0000002f 00000000 0000  0100 0005 05 02 02 0001";
    let end = Message::Notification(Notification {
        status: Status::END_OF_LIB,
        message_id: 0,
        message_kind: 0,
        fec: Some(FecElement::all_ipv4()),
    });
    assert_eq!(one(hex).unwrap(), end);
    assert_eq!(composed(&end), pdu(hex));
    // Of FECs that we do not know, in a word that is not for us.
    let other = "0001 001a 00000007  0300 000a 0000002f 00000000 0000  0100 0004 80 02 02 00";
    assert!(matches!(one(other), Ok(Message::Notification(Notification { fec: None, .. }))));
}

#[test]
fn the_header_of_a_pdu() {
    let status = |hex: &str| frame(&bytes(hex), MAX_PDU).unwrap_err().status;
    assert_eq!(status("0002"), Status::BAD_PROTOCOL_VERSION);
    assert_eq!(status("0001 0005"), Status::BAD_PDU_LENGTH);
    assert_eq!(status("0001 1001"), Status::BAD_PDU_LENGTH);
    assert_eq!(frame(&bytes("0001 0006 0aff0002 00"), MAX_PDU), Ok(None));
    assert_eq!(frame(&bytes("00"), MAX_PDU), Ok(None));
    let whole = bytes("0001 0006 0aff0002 0000 ff");
    assert_eq!(frame(&whole, MAX_PDU).unwrap().map(|pdu| (pdu.wire_len(), pdu.messages().count())), Some((10, 0)));
}

#[test]
fn messages_that_are_cut_off() {
    // Longer than the PDU; shorter than its identifier; not even a header.
    for hex in ["0201 0005 00000001", "0201 0003 00000001", "0201 00"] {
        assert_eq!(decode(&pdu(hex)).unwrap_err().status, Status::BAD_MESSAGE_LENGTH, "{hex}");
    }
}

#[test]
fn unknown_messages_and_tlvs() {
    assert_eq!(decode(&pdu("beef 0004 00000001")).unwrap(), [(1, None)]);
    assert_eq!(status_of("3eef 0004 00000001"), Status::UNKNOWN_MESSAGE_TYPE);
    // KeepAlive with an unknown TLV, without and with the U bit.
    assert_eq!(status_of("0201 0008 00000001  0aaa 0000"), Status::UNKNOWN_TLV);
    assert_eq!(one("0201 0008 00000001  8aaa 0000").unwrap(), Message::KeepAlive);
    assert_eq!(one("0201 0008 00000001  caaa 0000").unwrap(), Message::KeepAlive);
    // A Notification is never answered with another.
    assert!(one("0001 0016 00000001  0300 000a 0000000d 00000000 0000 0aaa 0000").is_ok());
}

#[test]
fn what_is_wrong_with_parameters() {
    for (hex, status) in [
        // TLV longer than its message
        ("0201 0008 00000001  0aaa 0001", Status::BAD_TLV_LENGTH),
        // mapping without label; without FEC
        ("0400 000f 00000001  0100 0007 02 0001 18 0a4d00", Status::MISSING_MESSAGE_PARAMETERS),
        ("0400 000c 00000001  0200 0004 00000010", Status::MISSING_MESSAGE_PARAMETERS),
        // label 15; label with 21 bits; label TLV too long
        ("0402 0017 00000001  0100 0007 02 0001 18 0a4d00  0200 0004 0000000f", Status::MALFORMED_TLV_VALUE),
        ("0402 0017 00000001  0100 0007 02 0001 18 0a4d00  0200 0004 00100000", Status::MALFORMED_TLV_VALUE),
        ("0402 0018 00000001  0100 0007 02 0001 18 0a4d00  0200 0005 00000010 00", Status::BAD_TLV_LENGTH),
        // prefix of 33 bits; cut off; of IPv6; of an unknown kind; none at all; a wildcard among others
        ("0401 0011 00000001  0100 0009 02 0001 21 0a4d000000", Status::MALFORMED_TLV_VALUE),
        ("0401 000e 00000001  0100 0006 02 0001 18 0a4d", Status::BAD_TLV_LENGTH),
        ("0401 000d 00000001  0100 0005 02 0002 08 20", Status::UNSUPPORTED_ADDRESS_FAMILY),
        ("0401 0009 00000001  0100 0001 80", Status::UNKNOWN_FEC),
        ("0401 0008 00000001  0100 0000", Status::MALFORMED_TLV_VALUE),
        ("0402 000a 00000001  0100 0002 01 01", Status::MALFORMED_TLV_VALUE),
        // address list of IPv6; cut off
        ("0300 000a 00000001  0101 0002 0002", Status::UNSUPPORTED_ADDRESS_FAMILY),
        ("0300 000d 00000001  0101 0005 0001 0a0000", Status::BAD_TLV_LENGTH),
        // session of version 2
        ("0200 0016 00000001  0500 000e 0002 00b4 00 00 1000 0aff0001 0000", Status::BAD_PROTOCOL_VERSION),
    ] {
        assert_eq!(status_of(hex), status, "{hex}");
    }
}

#[test]
fn a_pdu_is_not_overfilled() {
    let mut composer = Composer::new(Ipv4Addr::new(10, 255, 0, 2), 100);
    for _ in 0..10 {
        composer.push(1, &Message::Address(vec![Ipv4Addr::LOCALHOST; 5]));
    }
    let all = composer.take();
    let mut rest = all.as_slice();
    let mut sizes = vec![];
    while !rest.is_empty() {
        let pdu = frame(rest, 100).unwrap().unwrap();
        sizes.push((pdu.messages().count(), pdu.wire_len()));
        rest = &rest[pdu.wire_len()..];
    }
    assert_eq!(sizes, [(2, 10 + 2 * 34); 5]);
    assert!(composer.is_empty());
}

#[test]
fn status_codes_have_their_bits() {
    assert!(Status::SHUTDOWN.is_fatal() && !Status::NO_ROUTE.is_fatal());
    assert_eq!(Status::from_wire(0xc000_000a), Status::SHUTDOWN);
    assert_eq!(Status::REJECTED_NO_HELLO.to_string(), "Session Rejected/No Hello");
    assert_eq!(Status::from_wire(0x8000_3fff).to_string(), "status 0x80003fff");
    assert!(Status::REJECTED_KEEPALIVE_TIME.is_rejection() && !Status::SHUTDOWN.is_rejection());
}

fn prefixes() -> impl Strategy<Value = Vec<FecElement>> {
    let one = (any::<u32>(), 0u8..=32).prop_map(|(a, l)| FecElement::Prefix(Ipv4Net::new(a.into(), l).unwrap().trunc()));
    proptest::collection::vec(one, 1..20)
}

fn any_fecs() -> impl Strategy<Value = Vec<FecElement>> {
    let typed = (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20));
    prop_oneof![
        prefixes(),
        Just(vec![FecElement::Wildcard]),
        typed.prop_map(|(element, info)| vec![FecElement::TypedWildcard { element, info }])
    ]
}

fn any_label() -> impl Strategy<Value = Label> {
    prop_oneof![Just(label(0)), Just(label(3)), (16u32..=0xf_ffff).prop_map(label)]
}

fn any_message() -> impl Strategy<Value = Message> {
    let addresses = || proptest::collection::vec(any::<u32>().prop_map(Ipv4Addr::from), 0..50);
    let capabilities = any::<[bool; 3]>().prop_map(|[dynamic, typed_wildcard, unrecognized_notification]| Capabilities {
        dynamic,
        typed_wildcard,
        unrecognized_notification,
    });
    let ft = proptest::option::of(
        (any::<u32>(), any::<u32>())
            .prop_map(|(a, b)| FaultTolerance { reconnect: Duration::from_millis(a.into()), recovery: Duration::from_millis(b.into()) }),
    );
    let init = (any::<(u16, bool, bool, u8, u16, u32, u16)>(), ft, capabilities).prop_map(|(p, fault_tolerance, capabilities)| {
        Message::Initialization(Initialization {
            version: 1,
            keepalive_s: p.0,
            downstream_on_demand: p.1,
            loop_detection: p.2,
            path_vector_limit: p.3,
            max_pdu: p.4,
            receiver: LdpId { lsr_id: p.5.into(), label_space: p.6 },
            fault_tolerance,
            capabilities,
        })
    });
    let hello = any::<(u16, bool, bool, bool, Option<u32>, Option<u32>)>().prop_map(|h| {
        Message::Hello(Hello {
            hold_s: h.0,
            targeted: h.1,
            request_targeted: h.2,
            gtsm: h.3,
            transport_address: h.4.map(Ipv4Addr::from),
            configuration_sequence: h.5,
        })
    });
    let notification =
        (any::<(u32, u32, u16)>(), proptest::option::of(any_fecs())).prop_map(|((status, message_id, message_kind), fecs)| {
            let fec = fecs.map(|mut fecs| fecs.remove(0));
            Message::Notification(Notification { status: Status::from_wire(status), message_id, message_kind, fec })
        });
    let labelled = || (any_fecs(), proptest::option::of(any_label())).prop_map(|(fecs, label)| LabelMessage { fecs, label });
    prop_oneof![
        notification,
        hello,
        init,
        Just(Message::KeepAlive),
        any::<(Option<bool>, Option<bool>)>()
            .prop_map(|(a, b)| Message::Capability(CapabilityChange { typed_wildcard: a, unrecognized_notification: b })),
        addresses().prop_map(Message::Address),
        addresses().prop_map(Message::AddressWithdraw),
        (prefixes(), any_label(), any::<Option<u32>>()).prop_map(|(fecs, label, request_id)| Message::LabelMapping(Mapping {
            fecs,
            label,
            request_id
        })),
        any_fecs().prop_map(Message::LabelRequest),
        labelled().prop_map(Message::LabelWithdraw),
        labelled().prop_map(Message::LabelRelease),
        (prefixes(), any::<u32>()).prop_map(|(fecs, request_id)| Message::LabelAbortRequest { fecs, request_id }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_can_be_read(messages in proptest::collection::vec(any_message(), 1..20)) {
        let mut composer = Composer::new(Ipv4Addr::new(10, 255, 0, 2), MAX_PDU);
        messages.iter().for_each(|m| composer.push(9, m));
        let all = composer.take();
        let mut rest = all.as_slice();
        let mut read = vec![];
        while let Some(pdu) = frame(rest, MAX_PDU).unwrap() {
            for raw in pdu.messages() {
                read.push(Message::decode(&raw.unwrap()).unwrap().unwrap());
            }
            rest = &rest[pdu.wire_len()..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn garbage_is_an_error_at_worst(mut garbage in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..12) {
        let kinds = [0x0001u16, 0x0100, 0x0200, 0x0201, 0x0202, 0x0300, 0x0301, 0x0400, 0x0401, 0x0402, 0x0403, 0x0404];
        let head = [&kinds[kind].to_be_bytes()[..], &u16::try_from(garbage.len() + 4).unwrap().to_be_bytes(), &[0; 4]].concat();
        garbage.splice(0..0, head);
        let length = u16::try_from(garbage.len() + IDENTIFIER).unwrap();
        let whole = [&VERSION.to_be_bytes()[..], &length.to_be_bytes(), &[0; 6], &garbage].concat();
        let _ = decode(&whole);
    }
}
