use super::*;
use proptest::prelude::*;

fn label(n: u32) -> Label {
    Label::try_from(n).unwrap()
}

fn space() -> LabelSpace {
    LabelSpace::new(LabelRange::new(label(1000), label(1003)).unwrap(), Duration::from_secs(60))
}

fn owner(attachment: &str) -> Owner {
    Owner { attachment: attachment.parse().unwrap(), next_hop: None }
}

fn ce(attachment: &str, n: u8) -> Claim {
    Claim { owner: Owner { next_hop: Some(IpAddr::from([192, 168, 1, n])), ..owner(attachment) }, ..claim(attachment, None) }
}

fn claim(attachment: &str, fixed: Option<u32>) -> Claim {
    Claim { owner: owner(attachment), rd: "65000:1".parse().unwrap(), fixed: fixed.map(label) }
}

fn held(space: &LabelSpace, attachment: &str) -> Option<u32> {
    space.get(&owner(attachment)).map(Label::get)
}

#[test]
fn labels_stay_rest_and_come_back() {
    let t = Instant::now();
    let mut s = space();
    assert_eq!(s.assign(t, &[claim("a/x", None), claim("b/x", None)]), vec![]);
    assert_eq!((held(&s, "a/x"), held(&s, "b/x")), (Some(1000), Some(1001)));
    // The order of the claims does not matter to who has a label.
    s.assign(t, &[claim("b/x", None), claim("c/x", None)]);
    assert_eq!((held(&s, "a/x"), held(&s, "b/x"), held(&s, "c/x")), (None, Some(1001), Some(1002)));
    // 1000 rests: a newcomer gets another one, and the next one none, until the quarantine is over.
    let four = [claim("b/x", None), claim("c/x", None), claim("d/x", None), claim("e/x", None)];
    let just_before = t + Duration::from_secs(59);
    assert_eq!(s.assign(just_before, &four), vec![LabelError::Exhausted(owner("e/x"))]);
    assert_eq!(held(&s, "d/x"), Some(1003));
    assert_eq!(s.assign(t + Duration::from_secs(60), &four), vec![]);
    assert_eq!(held(&s, "e/x"), Some(1000));
}

#[test]
fn a_fixed_label_is_reserved_and_conflicts_are_told() {
    let t = Instant::now();
    let mut s = space();
    s.assign(t, &[claim("a/x", None), claim("b/x", Some(1000))]);
    assert_eq!((held(&s, "a/x"), held(&s, "b/x")), (Some(1001), Some(1000)));
    let errors = s.assign(t, &[claim("a/x", None), claim("b/x", Some(1000)), claim("c/x", Some(1001))]);
    assert!(matches!(&errors[..], [LabelError::Taken { holder, .. }] if holder.to_string() == "a/x"), "{errors:?}");
    let errors = s.assign(t, &[claim("b/x", Some(1000)), claim("c/x", Some(1001))]);
    assert!(matches!(&errors[..], [LabelError::Resting { .. }]), "{errors:?}");
    assert_eq!(s.assign(t + Duration::from_secs(60), &[claim("b/x", Some(1000)), claim("c/x", Some(1001))]), vec![]);
    // Moved to another fixed label and back: its own label rests for others only.
    s.assign(t, &[claim("b/x", Some(5000))]);
    assert_eq!(s.assign(t, &[claim("b/x", Some(1000))]), vec![]);
    assert_eq!(held(&s, "b/x"), Some(1000));
}

#[test]
fn what_was_saved_comes_back_and_rests_anew_where_there_is_no_clock() {
    let t = Instant::now();
    let mut s = space();
    s.assign(t, &[claim("a/x", None), claim("b/x", None)]);
    s.assign(t, &[claim("b/x", None)]);
    let bytes = s.save().unwrap();
    let mut later = space();
    let t2 = t + Duration::from_secs(100);
    later.load(t2, &bytes).unwrap();
    assert_eq!(held(&later, "b/x"), Some(1001));
    later.assign(t2, &[claim("b/x", None), claim("c/x", None)]);
    assert_eq!(held(&later, "c/x"), Some(1002));
    assert!(later.expire(t2 + Duration::from_secs(60)));
    for cut in 0..bytes.len() {
        assert!(space().load(t, &bytes[..cut]).is_err(), "cut at {cut}");
    }
}

/// A file written by version 1 of the format.
#[test]
fn a_file_of_version_1_is_read() {
    let bytes = b"\x01\x02\xe8\x07\x06acme/a\x0765000:1\x01\xe9\x07\x06beta/b\x0765000:2\x00";
    let mut s = space();
    s.load(Instant::now(), bytes).unwrap();
    assert_eq!(held(&s, "acme/a"), Some(1000));
    assert!(matches!(s.iter().nth(1), Some((l, _, _, LabelState::Quarantine(_))) if l == label(1001)));
}

/// Seconds that label 1001 rests from `now` on.
fn rests(s: &LabelSpace, now: Instant) -> Option<u64> {
    match s.iter().find(|(l, ..)| *l == label(1001))?.3 {
        LabelState::Quarantine(until) => Some(until.saturating_duration_since(now).as_secs()),
        LabelState::Active => None,
    }
}

/// A file written by version 2 of the format: 1001 rests until 1000 s after 1970.
#[test]
fn a_file_of_version_2_is_read() {
    let bytes = b"\x02\x02\xe8\x07\x06acme/a\x0765000:1\x00\xe9\x07\x06beta/b\x0765000:2\x01\xc0\x84\x3d";
    let now = Instant::now();
    let at = |wall: u64| {
        let mut s = space();
        s.set_clock(now, Duration::from_secs(wall));
        s.load(now, bytes).unwrap();
        s
    };
    let s = at(970);
    assert_eq!((held(&s, "acme/a"), rests(&s, now)), (Some(1000), Some(30)));
    assert_eq!(rests(&at(1000), now), Some(0));
    assert_eq!(rests(&at(5000), now), Some(0));
    // The clock was set back: not longer than whole.
    assert_eq!(rests(&at(10), now), Some(60));
}

/// Version 3: a label per CE may be there as well, and the file may be longer than a message.
#[test]
fn a_file_of_today_is_read_and_written() {
    let count = b"\0\0\0\x02\x03\x03";
    let rows = b"\x03\x03\xe8\x07\x06acme/a\0\x0765000:1\0\xe9\x07\x06beta/b\0\x0765000:2\x01\xc0\x84\x3d";
    let of_ce = b"\xea\x07\x06acme/a\x01\0\xc0\xa8\x01\x07\x0765000:1\0";
    let length = u32::try_from(rows.len() + of_ce.len()).unwrap();
    let bytes = [&count[..], &length.to_be_bytes(), rows, of_ce].concat();
    let now = Instant::now();
    let mut s = space();
    s.set_clock(now, Duration::from_secs(970));
    s.load(now, &bytes).unwrap();
    assert_eq!((held(&s, "acme/a"), rests(&s, now)), (Some(1000), Some(30)));
    assert_eq!(s.get(&ce("acme/a", 7).owner), Some(label(1002)));
    assert_eq!(s.save().unwrap(), bytes);
}

#[test]
fn a_file_may_be_longer_than_a_message() {
    let t = Instant::now();
    let mut s = LabelSpace::new(LabelRange::new(label(1000), label(99_999)).unwrap(), Duration::from_secs(60));
    let claims: Vec<Claim> = (0..40_000).map(|n| claim(&format!("customer-number-{n}/attachment"), None)).collect();
    assert_eq!(s.assign(t, &claims), vec![]);
    let bytes = s.save().unwrap();
    assert!(bytes.len() > edgeplex_types::wire::MAX_MESSAGE);
    let mut again = space();
    again.load(t, &bytes).unwrap();
    assert_eq!(again.held(), s.held());
}

#[test]
fn ces_have_labels_beside_their_attachment_and_get_them_back() {
    let t = Instant::now();
    let mut s = space();
    assert_eq!(s.assign(t, &[claim("a/x", None), ce("a/x", 1), ce("b/x", 1)]), vec![]);
    s.assign(t, &[claim("a/x", None), ce("a/x", 2)]);
    assert_eq!(s.get(&ce("a/x", 2).owner), Some(label(1003)));
    // It rests for everyone but itself.
    assert!(matches!(&s.assign(t, &[claim("a/x", None), ce("a/x", 3)])[..], [LabelError::Exhausted(_)]));
    s.assign(t, &[claim("a/x", None), ce("a/x", 1)]);
    assert_eq!(s.get(&ce("a/x", 1).owner), Some(label(1001)));
}

#[test]
fn an_attachment_whose_ces_come_and_go_takes_no_more_than_its_share() {
    let t = Instant::now();
    let mut s = LabelSpace::new(LabelRange::new(label(1000), label(2000)).unwrap(), Duration::from_secs(60));
    let round = |from: u8| -> Vec<Claim> { (from..from + 50).map(|n| ce("a/x", n)).chain([claim("b/x", None)]).collect() };
    assert_eq!(s.assign(t, &round(0)).len() + s.assign(t, &round(50)).len(), 0);
    assert_eq!(s.assign(t, &round(100)).len(), 50 - (MAX_OF_ATTACHMENT - 100));
    assert_eq!(s.iter().count(), MAX_OF_ATTACHMENT + 1);
    assert_eq!(s.assign(t + Duration::from_secs(60), &round(100)), vec![]);
}

#[test]
fn a_rest_ends_in_time_however_often_the_process_starts() {
    let (start, wall) = (Instant::now(), Duration::from_secs(1_800_000_000));
    let mut s = space();
    s.set_clock(start, wall);
    s.assign(start, &[claim("a/x", None), claim("b/x", None)]);
    s.assign(start, &[claim("a/x", None)]);
    let starts = |s: LabelSpace, seconds: u64| {
        let now = start + Duration::from_secs(seconds);
        let mut next = space();
        next.set_clock(now, wall + Duration::from_secs(seconds));
        next.load(now, &s.save().unwrap()).unwrap();
        next
    };
    for seconds in (0..60).step_by(10) {
        s = starts(s, seconds);
        assert_eq!(rests(&s, start), Some(60));
    }
    s = starts(s, 61);
    s.assign(start + Duration::from_secs(61), &[claim("a/x", None), claim("c/x", None)]);
    assert_eq!(held(&s, "c/x"), Some(1001));
}

#[test]
fn a_clock_that_is_set_makes_rests_be_stored_again() {
    let start = Instant::now();
    let at = |s: u64| start + Duration::from_secs(s);
    let mut s = space();
    assert!(!s.set_clock(start, Duration::from_secs(5)));
    s.assign(start, &[claim("a/x", None), claim("b/x", None)]);
    assert!(!s.set_clock(at(1), Duration::from_secs(1_800_000_000)), "nothing rests");
    s.assign(at(1), &[claim("a/x", None)]);
    assert!(!s.set_clock(at(2), Duration::from_secs(1_800_000_001)));
    assert!(s.set_clock(at(3), Duration::from_secs(1_700_000_000)));
    let mut next = space();
    next.set_clock(at(4), Duration::from_secs(1_700_000_001));
    next.load(at(4), &s.save().unwrap()).unwrap();
    assert_eq!(rests(&next, start), Some(61));
}

#[test]
fn a_label_that_is_kept_takes_the_new_rd() {
    let t = Instant::now();
    for fixed in [None, Some(1000)] {
        let mut s = space();
        s.assign(t, &[claim("a/x", fixed)]);
        s.assign(t, &[Claim { rd: "65000:2".parse().unwrap(), ..claim("a/x", fixed) }]);
        assert_eq!(s.iter().map(|(l, _, rd, _)| (l.get(), rd.to_string())).collect::<Vec<_>>(), [(1000, "65000:2".into())]);
    }
}

proptest! {
    /// Over any history: no label has two owners, none changes hands within the quarantine, and who stays keeps its label.
    #[test]
    fn no_label_is_shared_or_reused_too_soon(steps in prop::collection::vec((prop::collection::btree_map(0u8..6, prop::option::of(1000u32..1004), 0..5), 0u64..50), 1..30)) {
        let mut now = Instant::now();
        let mut s = space();
        let mut last_used: BTreeMap<Label, (Owner, Instant)> = BTreeMap::new();
        let mut before: BTreeMap<Owner, Label> = BTreeMap::new();
        for (wanted, pause) in steps {
            now += Duration::from_secs(pause);
            for (owner, l) in &before {
                last_used.insert(*l, (owner.clone(), now));
            }
            let mut taken = BTreeSet::new();
            let claims: Vec<_> = wanted.iter().map(|(o, fixed)| claim(&format!("c{o}/x"), fixed.filter(|f| taken.insert(*f)))).collect();
            s.assign(now, &claims);
            let after: BTreeMap<Owner, Label> = claims.iter().filter_map(|c| s.get(&c.owner).map(|l| (c.owner.clone(), l))).collect();
            let distinct: BTreeSet<_> = after.values().collect();
            prop_assert_eq!(distinct.len(), after.len());
            for (owner, l) in &after {
                if let Some((last, at)) = last_used.get(l) {
                    prop_assert!(last == owner || now >= *at + Duration::from_secs(60), "{l} went from {last} to {owner} too soon");
                }
            }
            for c in &claims {
                if let Some(l) = before.get(&c.owner) && c.fixed.is_none() {
                    prop_assert_eq!(after.get(&c.owner), Some(l));
                }
            }
            before = after;
        }
    }

    #[test]
    fn a_damaged_file_never_panics(bytes: Vec<u8>) {
        let _ = space().load(Instant::now(), &bytes);
    }
}
