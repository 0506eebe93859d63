//! Files and frames: yesterday's are read, torn ones end, broken ones are refused, none does harm.
#![allow(clippy::unwrap_used)] // a test, though not under cfg(test)

use edgeplex_journal::{
    Ack, Begin, Entry, FrameError, Frames, Hello, MAX_BODY, MAX_NAME, MAX_VALUE, Opened, Progress, ProgressError, Protocol, Record,
    SessionId, State, StateError, TcpOpened, Welcome, common, read, read_header, write_beat, write_begin, write_followed, write_header,
    write_record,
};
use proptest::prelude::*;

/// Written by the first version that had journals. Never to be written anew: `EDGEPLEX_WRITE_FIXTURES` is for a new format's file.
const FORMAT_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/format-1.journal");

fn opened() -> Opened {
    Opened {
        protocol: Protocol::Bgp,
        local: "192.0.2.1:179".parse().unwrap(),
        remote: "[2001:db8::2]:40000".parse().unwrap(),
        passive: true,
        tcp: TcpOpened {
            sent_base: 4_000_000_000,
            received_base: 17,
            mss: 1448,
            options: 7,
            send_scale: 7,
            receive_scale: 9,
            timestamp: 99,
            window: vec![1, 2, 3],
            at_ms: 123_456,
            ..TcpOpened::default()
        },
    }
}

/// One of each kind.
fn records() -> Vec<Record> {
    let id = SessionId(1);
    vec![
        Record::Open(id, Box::new(opened())),
        Record::Received(id, b"hello".to_vec()),
        Record::Sent(id, vec![0xff; 40]),
        Record::Acked { session: id, sent: 38, window: vec![9], timestamp: 100, at_ms: 123_999 },
        Record::Open(SessionId(5), Box::new(Opened { protocol: Protocol::Ldp, passive: false, ..opened() })),
        Record::Close(SessionId(5)),
        Record::Put { name: "ospf/lsa/1".into(), value: b"first".to_vec() },
        Record::Put { name: "ospf/lsa/2".into(), value: vec![] },
        Record::Put { name: "ospf/lsa/1".into(), value: b"second".to_vec() },
        Record::Delete { name: "ospf/lsa/2".into() },
    ]
}

const BEGIN: Begin = Begin { journal: 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00, position: 1000, next_session: 6 };

fn file() -> Vec<u8> {
    let mut out = Vec::new();
    write_header(&mut out);
    let records = records();
    records[..4].iter().for_each(|r| write_record(&mut out, r).unwrap());
    write_begin(&mut out, &BEGIN);
    write_followed(&mut out, true);
    records[4..].iter().for_each(|r| write_record(&mut out, r).unwrap());
    // Of a kind that somebody invents later.
    frame(&mut out, 1, 200, b"unknown, and not needed");
    frame(&mut out, 9, 201, b"of a later format, and not needed");
    out
}

/// A frame from scratch, by the book.
fn frame(out: &mut Vec<u8>, format: u8, kind: u8, payload: &[u8]) {
    let body = [&[format, kind], payload].concat();
    out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    out.extend(crc32c(&body).to_be_bytes());
    out.extend(body);
}

/// Bit by bit, so that it is another implementation.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[test]
fn yesterdays_file_is_read_today() {
    if std::env::var_os("EDGEPLEX_WRITE_FIXTURES").is_some() {
        std::fs::write(FORMAT_1, file()).unwrap();
    }
    let stored = std::fs::read(FORMAT_1).unwrap();
    let entries: Vec<_> = Frames::new(read_header(&stored).unwrap()).map(Result::unwrap).collect();
    let found: Vec<_> = entries.iter().filter_map(|e| if let Entry::Record(r) = e { Some(r.clone()) } else { None }).collect();
    assert_eq!(found, records());
    assert!(entries.contains(&Entry::Begin(BEGIN)) && entries.contains(&Entry::Followed(true)));
    assert_eq!(entries.iter().filter(|e| **e == Entry::Skipped).count(), 2);
    // Today's writer writes the same bytes, so yesterday's reader reads today's file.
    assert_eq!(stored, file());
}

#[test]
fn a_state_is_what_its_records_come_to() {
    let state = State::from_file(&file(), 1 << 20).unwrap();
    assert_eq!(state.sessions().keys().collect::<Vec<_>>(), [&SessionId(1)]);
    assert_eq!(state.values().iter().collect::<Vec<_>>(), [(&"ospf/lsa/1".to_owned(), &b"second".to_vec())]);
    assert_eq!(state.next_session(), 6);
    // As a checkpoint it says the same.
    let again = State::from_file(&state.clone().checkpoint().unwrap(), 1 << 20).unwrap();
    assert_eq!((again.sessions(), again.values(), again.next_session()), (state.sessions(), state.values(), 6));
    assert_eq!(again.bytes(), state.bytes());
}

#[test]
fn a_file_may_end_anywhere_and_a_checkpoint_nowhere_but_at_its_end() {
    let whole = file();
    let frames = read_header(&whole).unwrap();
    let mut ends = vec![0];
    let mut all = Frames::new(frames);
    while all.next().is_some() {
        ends.push(all.valid());
    }
    for cut in 0..=frames.len() {
        let mut reader = Frames::new(&frames[..cut]);
        let found = reader.by_ref().map(Result::unwrap).count();
        assert_eq!(found + 1, ends.iter().filter(|end| **end <= cut).count());
        assert!(ends.contains(&reader.valid()));
    }
    let checkpoint = State::from_file(&whole, 1 << 20).unwrap().checkpoint().unwrap();
    for cut in 0..checkpoint.len() {
        assert!(State::from_file(&checkpoint[..cut], 1 << 20).is_err(), "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let whole = file();
    let frames = read_header(&whole).unwrap().len();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            if (at as u64, 1 << bit) == edgeplex_journal::HOLES {
                // That bit is the mark by which sessions count no more: they are lost, and nothing is made up.
                assert!(edgeplex_journal::has_holes(&bytes) && !edgeplex_journal::has_holes(&whole));
                continue;
            }
            let Ok(rest) = read_header(&bytes) else { continue };
            let mut reader = Frames::new(rest);
            let failed = reader.by_ref().any(|entry| entry.is_err());
            // A length that became larger looks like a frame that is torn.
            assert!(failed || reader.valid() < frames, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn what_is_not_known_is_refused_or_skipped() {
    let one = |format, kind, payload: &[u8]| {
        let mut out = Vec::new();
        frame(&mut out, format, kind, payload);
        read(&out, 7).map(|found| found.unwrap().0)
    };
    assert_eq!(one(1, 100, b""), Err(FrameError::Body { at: 7, kind: 100, cause: "is unknown" }));
    assert_eq!(one(2, 1, b""), Err(FrameError::Format { got: 2 }));
    assert_eq!(one(2, 128, b""), Ok(Entry::Skipped));
    assert_eq!(one(1, 255, b"x"), Ok(Entry::Skipped));
    assert!(matches!(one(1, 5, b"1234567"), Err(FrameError::Body { cause: "is cut off", .. })));
    assert!(matches!(one(1, 5, b"123456789"), Err(FrameError::Body { cause: "is too long", .. })));
    assert!(matches!(one(1, 6, &[0, 2, b'a']), Err(FrameError::Body { .. })));
    assert!(matches!(one(1, 7, &[0xff]), Err(FrameError::Body { .. })));
    // Nobody waits for a frame that would be too long.
    let long = u32::try_from(MAX_BODY + 1).unwrap().to_be_bytes();
    assert_eq!(read(&long, 0), Err(FrameError::Length { at: 0, got: MAX_BODY + 1 }));
    assert_eq!(read(&[0, 0, 0, 1], 0), Err(FrameError::Length { at: 0, got: 1 }));
    assert_eq!(read_header(b"EPXJRNL\n\x00\x02"), Err(FrameError::Format { got: 2 }));
    assert_eq!(read_header(b"something"), Err(FrameError::Magic));
}

#[test]
fn sizes_are_capped_both_ways() {
    let put = |name: usize, value: usize| Record::Put { name: "n".repeat(name), value: vec![0; value] };
    let mut out = Vec::new();
    write_record(&mut out, &put(MAX_NAME, MAX_VALUE)).unwrap();
    assert!(read(&out, 0).unwrap().is_some());
    let length = out.len();
    assert!(write_record(&mut out, &put(MAX_NAME + 1, 0)).is_err() && write_record(&mut out, &put(1, MAX_VALUE + 1)).is_err());
    assert_eq!(out.len(), length, "nothing was written");
    // A long stream is several frames.
    let mut out = Vec::new();
    write_record(&mut out, &Record::Received(SessionId(1), vec![7; 3 << 20])).unwrap();
    let parts: Vec<_> = Frames::new(&out).map(Result::unwrap).collect();
    assert!(parts.len() > 3);
    let mut state = State::new(2 << 20);
    state.apply(&Record::Open(SessionId(1), Box::new(opened()))).unwrap();
    let full = parts.iter().try_for_each(|e| if let Entry::Record(r) = e { state.apply(r) } else { Ok(()) });
    assert_eq!(full, Err(StateError::Full(2 << 20)));
    // Small things are not free.
    let mut state = State::new(1 << 20);
    let many = (0..100_000).try_for_each(|n| state.apply(&Record::Put { name: format!("{n}"), value: vec![] }));
    assert_eq!(many, Err(StateError::Full(1 << 20)));
}

#[test]
fn records_of_no_session_are_refused() {
    let mut state = State::new(1 << 20);
    let id = SessionId(3);
    assert_eq!(state.apply(&Record::Sent(id, vec![1])), Err(StateError::NoSession(id)));
    state.apply(&Record::Open(id, Box::new(opened()))).unwrap();
    assert_eq!(state.apply(&Record::Open(id, Box::new(opened()))), Err(StateError::Open(id)));
    let acked = |sent| Record::Acked { session: id, sent, window: vec![], timestamp: 0, at_ms: 0 };
    assert_eq!(state.apply(&acked(1)), Err(StateError::Acked(id)));
    let mut progress = Progress::new(&opened());
    assert_eq!(progress.apply(&acked(1)), Err(ProgressError::Acked(1)));
    progress.apply(&Record::Sent(id, vec![1, 2, 3])).unwrap();
    progress.apply(&acked(2)).unwrap();
    progress.apply(&acked(1)).unwrap();
    assert_eq!((progress.acked, &progress.unacknowledged[..]), (2, &[3][..]));
    assert_eq!((progress.sent_seq(), progress.acked_seq(), progress.received_seq()), (4_000_000_003, 4_000_000_002, 17));
    let flood = progress.apply(&Record::Sent(id, vec![0; edgeplex_journal::MAX_UNACKNOWLEDGED]));
    assert!(matches!(flood, Err(ProgressError::TooMuch(_))));
}

#[test]
fn first_words() {
    let hello = Hello { formats: (1, 3), journal: BEGIN.journal, position: 77 };
    let bytes = hello.encode();
    for cut in 0..bytes.len() {
        assert_eq!(Hello::read(&bytes[..cut]), Ok(None));
    }
    assert_eq!(Hello::read(&[&bytes[..], b"ack"].concat()), Ok(Some((hello, bytes.len()))));
    // What somebody adds later is skipped.
    let extended = [&bytes[..bytes.len() - 2], &[0, 3], b"new"].concat();
    assert_eq!(Hello::read(&extended), Ok(Some((hello, extended.len()))));
    assert!(Hello::read(b"GET / HTTP/1.1").is_err());
    assert!(Hello::read(&[&bytes[..bytes.len() - 2], &[0xff, 0xff]].concat()).is_err());
    for welcome in [Welcome { format: 1, resumes: true }, Welcome { format: 0, resumes: false }] {
        let bytes = welcome.encode();
        assert_eq!(Welcome::read(&bytes), Ok(Some((welcome, bytes.len()))));
        assert_eq!(Welcome::read(&bytes[..bytes.len() - 1]), Ok(None));
        assert_eq!(Welcome::clock(&bytes), None);
        let bytes = welcome.encode_with_clock(1 << 50);
        assert_eq!(Welcome::read(&bytes), Ok(Some((welcome, bytes.len()))), "as one that knows no clock reads it");
        assert_eq!(Welcome::clock(&bytes), Some(1 << 50));
    }
    let ack = Ack { number: 1 << 40, position: u64::MAX };
    assert_eq!(Ack::decode(ack.encode()), ack);
    assert_eq!((common((1, 1)), common((0, 9)), common((2, 9)), common((5, 1))), (Some(1), Some(1), None, None));
}

proptest! {
    #[test]
    fn nothing_that_is_read_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in any::<u8>()) {
        let _ = read(&bytes, 0);
        let _ = Hello::read(&bytes);
        let _ = Welcome::read(&bytes);
        let _ = State::from_file(&bytes, 1 << 20);
        let mut framed = Vec::new();
        frame(&mut framed, 1, kind, &bytes);
        if let Ok(Some((Entry::Record(record), _))) = read(&framed, 0) {
            let mut again = Vec::new();
            write_record(&mut again, &record).unwrap();
            prop_assert_eq!(Frames::new(&again).map(Result::unwrap).next(), Some(Entry::Record(record.clone())));
            let _ = State::new(1 << 20).apply(&record);
        }
    }

    /// Streams of a hostile leader: shortened or not, nothing breaks.
    #[test]
    fn any_stream_can_be_shortened(received in prop::collection::vec(any::<u8>(), 0..400), sent in prop::collection::vec(any::<u8>(), 0..400), ldp in any::<bool>()) {
        let mut state = State::new(1 << 20);
        let protocol = if ldp { Protocol::Ldp } else { Protocol::Bgp };
        state.apply(&Record::Open(SessionId(1), Box::new(Opened { protocol, ..opened() }))).unwrap();
        state.apply(&Record::Received(SessionId(1), received.clone())).unwrap();
        state.apply(&Record::Sent(SessionId(1), sent.clone())).unwrap();
        state.shorten();
        prop_assert!(state.bytes() < 1 << 20);
    }
}

#[test]
fn beats_are_no_part_of_a_file_and_are_read() {
    let mut out = Vec::new();
    write_beat(&mut out, 9, true);
    assert_eq!(read(&out, 0).unwrap().unwrap(), (Entry::Beat { ack: 9, in_sync: true }, out.len()));
}
