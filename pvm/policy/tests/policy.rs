//! Policies as tables: rules, routes, and what becomes of each. And any policy against one that is applied naively.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_bgp_wire::{AsPath, Attributes, Segment, SegmentKind};
use edgeplex_mgmt::config::{PolicyAction, PolicyMatch, PolicyRule, PolicySet, PrefixRange};
use edgeplex_pvm_policy::{MAX_RULES, Policy};
use edgeplex_types::{Community, LargeCommunity};
use ipnet::IpNet;
use proptest::prelude::*;
use std::sync::Arc;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

/// `10.0.0.0/8 16 24`: prefix, ge, le; `-` for none.
fn range(s: &str) -> PrefixRange {
    let words: Vec<&str> = s.split(' ').collect();
    let bound = |i: usize| words.get(i).and_then(|w| w.parse().ok());
    PrefixRange { prefix: net(words[0]), ge: bound(1), le: bound(2) }
}

fn rule(r#match: PolicyMatch, set: PolicySet, action: PolicyAction) -> PolicyRule {
    PolicyRule { r#match, set, action }
}

fn prefixes(ranges: &[&str]) -> PolicyMatch {
    PolicyMatch { prefixes: ranges.iter().map(|r| range(r)).collect(), ..PolicyMatch::default() }
}

fn path(asns: &[u32]) -> Arc<Attributes> {
    Arc::new(Attributes { as_path: AsPath::sequence(asns), ..Attributes::default() })
}

fn decide(rules: &[PolicyRule], prefix: &str, attributes: &Arc<Attributes>) -> Option<Attributes> {
    Policy::new(rules).unwrap().prepare(attributes, 65101).decide(net(prefix)).map(Arc::unwrap_or_clone)
}

#[test]
fn prefix_ranges_cover_what_they_say() {
    for (ranges, prefix, covered) in [
        ("10.0.0.0/8", "10.0.0.0/8", true),
        ("10.0.0.0/8", "10.0.0.0/9", false),
        ("10.0.0.0/8 - 24", "10.1.2.0/24", true),
        ("10.0.0.0/8 - 24", "10.0.0.0/8", true),
        ("10.0.0.0/8 - 24", "10.1.2.128/25", false),
        ("10.0.0.0/8 24", "10.1.2.0/24", true),
        ("10.0.0.0/8 24", "10.1.2.3/32", true),
        ("10.0.0.0/8 24", "10.1.0.0/16", false),
        ("10.0.0.0/8 16 24", "10.1.0.0/16", true),
        ("10.0.0.0/8 16 24", "11.1.0.0/16", false),
        ("10.0.0.0/8 - 24", "0.0.0.0/0", false),
        ("0.0.0.0/0", "0.0.0.0/0", true),
        ("0.0.0.0/0 - 32", "203.0.113.7/32", true),
        ("0.0.0.0/0 - 32", "2001:db8::/32", false),
        ("2001:db8::/32 - 64", "2001:db8:0:7::/64", true),
        ("2001:db8::/32 - 64", "2001:db8::1/128", false),
        ("::/0 - 128", "10.0.0.0/8", false),
    ] {
        let rules = [rule(prefixes(&[ranges]), PolicySet::default(), PolicyAction::Reject)];
        assert_eq!(decide(&rules, prefix, &path(&[65101])).is_none(), covered, "{ranges}: {prefix}");
    }
}

#[test]
fn the_first_match_decides_and_no_match_accepts() {
    let pref = |n| PolicySet { local_pref: Some(n), ..PolicySet::default() };
    let rules = [
        rule(prefixes(&["10.1.0.0/16", "10.2.0.0/16"]), pref(200), PolicyAction::Accept),
        rule(prefixes(&["10.1.0.0/16"]), pref(1), PolicyAction::Reject),
        rule(prefixes(&["10.0.0.0/8 - 32"]), PolicySet::default(), PolicyAction::Reject),
        rule(prefixes(&["192.168.0.0/16 - 32"]), pref(50), PolicyAction::Accept),
    ];
    let given = path(&[65101]);
    for (prefix, local_pref) in [("10.1.0.0/16", Some(Some(200))), ("10.3.0.0/16", None), ("192.168.7.0/24", Some(Some(50)))] {
        assert_eq!(decide(&rules, prefix, &given).map(|a| a.local_pref), local_pref, "{prefix}");
    }
    assert_eq!(decide(&rules, "172.16.0.0/12", &given), Some(Attributes::clone(&given)));
    assert_eq!(decide(&[], "172.16.0.0/12", &given), Some(Attributes::clone(&given)));
    let all = [rule(PolicyMatch::default(), PolicySet::default(), PolicyAction::Reject)];
    assert_eq!(decide(&all, "172.16.0.0/12", &given), None);
}

#[test]
fn communities_all_of_them_and_the_path_as_it_is_written() {
    let attributes = Arc::new(Attributes {
        as_path: AsPath(vec![
            Segment { kind: SegmentKind::Sequence, asns: vec![65101, 65102] },
            Segment { kind: SegmentKind::Set, asns: vec![7, 8] },
        ]),
        communities: vec![0xfde8_0001, 0xfde8_0002],
        large_communities: vec![[65000, 1, 2]],
        ..Attributes::default()
    });
    let communities =
        |list: &[&str]| PolicyMatch { communities: list.iter().map(|c| c.parse().unwrap()).collect(), ..PolicyMatch::default() };
    let large = |c: &str| PolicyMatch { large_communities: vec![c.parse().unwrap()], ..PolicyMatch::default() };
    let as_path = |p: &str| PolicyMatch { as_path: Some(p.into()), ..PolicyMatch::default() };
    for (m, matches) in [
        (communities(&["65000:1"]), true),
        (communities(&["65000:1", "65000:2"]), true),
        (communities(&["65000:1", "65000:3"]), false),
        (large("65000:1:2"), true),
        (large("65000:1:3"), false),
        (as_path("^65101( |$)"), true),
        (as_path("^65102"), false),
        (as_path(r"65102 \{7 8\}$"), true),
        (as_path(r"\b7\b"), true),
        // All that is given must match.
        (PolicyMatch { large_communities: vec!["65000:1:2".parse().unwrap()], ..communities(&["65000:9"]) }, false),
        (PolicyMatch { prefixes: vec![range("11.0.0.0/8")], ..as_path("65101") }, false),
        (PolicyMatch { prefixes: vec![range("10.0.0.0/8")], ..as_path("65101") }, true),
    ] {
        let rules = [rule(m.clone(), PolicySet::default(), PolicyAction::Reject)];
        assert_eq!(decide(&rules, "10.0.0.0/8", &attributes).is_none(), matches, "{m:?}");
    }
}

#[test]
fn what_is_set_is_set_and_nothing_else_changes() {
    let given = Arc::new(Attributes {
        as_path: AsPath::sequence([65101, 7]),
        med: Some(5),
        communities: vec![1, 2],
        large_communities: vec![[1, 2, 3]],
        ..Attributes::default()
    });
    let set = PolicySet {
        local_pref: Some(300),
        med: Some(0),
        add_communities: vec![Community(2), Community(9), Community::NO_EXPORT],
        remove_communities: vec![Community(1), Community(77)],
        add_large_communities: vec![LargeCommunity([1, 2, 3]), LargeCommunity([4, 5, 6])],
        prepend: 2,
    };
    let want = Attributes {
        as_path: AsPath::sequence([65101, 65101, 65101, 7]),
        med: Some(0),
        local_pref: Some(300),
        communities: vec![2, 9, 0xffff_ff01],
        large_communities: vec![[1, 2, 3], [4, 5, 6]],
        ..Attributes::clone(&given)
    };
    let rules = [rule(PolicyMatch::default(), set, PolicyAction::Accept)];
    assert_eq!(decide(&rules, "10.0.0.0/8", &given), Some(want));
}

#[test]
fn attributes_that_many_prefixes_share_stay_shared() {
    let given = path(&[65101]);
    let rules = [rule(prefixes(&["10.0.0.0/8 - 32"]), PolicySet { med: Some(1), ..PolicySet::default() }, PolicyAction::Accept)];
    let policy = Policy::new(&rules).unwrap();
    let mut prepared = policy.prepare(&given, 65101);
    let (a, b) = (prepared.decide(net("10.1.0.0/16")).unwrap(), prepared.decide(net("10.2.0.0/16")).unwrap());
    assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &given));
    assert!(Arc::ptr_eq(&given, &prepared.decide(net("11.0.0.0/8")).unwrap()));
}

#[test]
fn a_policy_that_cannot_be_is_refused_with_its_place() {
    let accept = |m, set| rule(m, set, PolicyAction::Accept);
    let as_path = |p: &str| PolicyMatch { as_path: Some(p.into()), ..PolicyMatch::default() };
    for (bad, place) in [
        (accept(prefixes(&["10.0.0.0/8", "10.0.0.1/8"]), PolicySet::default()), "[1].match.prefixes[1]: 10.0.0.1/8 has host bits"),
        (accept(prefixes(&["10.0.0.0/8 7"]), PolicySet::default()), "[1].match.prefixes[0]: must be 8 ≤ ge ≤ le ≤ 32"),
        (accept(prefixes(&["10.0.0.0/8 24 16"]), PolicySet::default()), "[1].match.prefixes[0]: must be"),
        (accept(prefixes(&["10.0.0.0/8 - 33"]), PolicySet::default()), "[1].match.prefixes[0]: must be"),
        (accept(PolicyMatch::default(), PolicySet { prepend: 17, ..PolicySet::default() }), "[1].set.prepend: is 17"),
        (accept(as_path("("), PolicySet::default()), "[1].match.as_path: must be a regular expression"),
        (accept(as_path("(1{1000}){1000}"), PolicySet::default()), "[1].match.as_path: is too large"),
    ] {
        let good = accept(PolicyMatch::default(), PolicySet::default());
        let error = Policy::new(&[good, bad]).unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
    }
    let many = vec![accept(PolicyMatch::default(), PolicySet::default()); MAX_RULES + 1];
    assert!(Policy::new(&many).is_err());
}

// --- any policy

fn any_prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u8>(), 0u8..=32).prop_map(|(b, len)| ipnet::Ipv4Net::new([10, b & 3, b, 0].into(), len).unwrap().trunc().into());
    let v6 = (any::<u8>(), 0u8..=128).prop_map(|(b, len)| {
        let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, u16::from(b & 3), u16::from(b), 0, 0, 0, 0);
        ipnet::Ipv6Net::new(address, len).unwrap().trunc().into()
    });
    prop_oneof![v4, v6]
}

fn any_range() -> impl Strategy<Value = PrefixRange> {
    (any_prefix(), any::<bool>(), any::<bool>(), any::<u8>(), any::<u8>()).prop_map(|(prefix, with_ge, with_le, a, b)| {
        let (own, most) = (prefix.prefix_len(), prefix.max_prefix_len());
        let span = u16::from(most - own) + 1;
        let at = |x: u8| own + u8::try_from(u16::from(x) % span).unwrap();
        let (ge, le) = (at(a).min(at(b)), at(a).max(at(b)));
        PrefixRange { prefix, ge: with_ge.then_some(ge), le: with_le.then_some(le) }
    })
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    let m = (prop::collection::vec(any_range(), 0..3), prop::collection::vec(0u32..3, 0..2), prop::option::of(0u32..3));
    let set = (prop::option::of(0u32..3), prop::collection::vec(0u32..3, 0..2), prop::collection::vec(0u32..3, 0..2), 0u8..3);
    (m, set, any::<bool>()).prop_map(|((prefixes, communities, asn), (med, add, remove, prepend), accept)| PolicyRule {
        r#match: PolicyMatch {
            prefixes,
            communities: communities.into_iter().map(Community).collect(),
            large_communities: vec![],
            as_path: asn.map(|a| format!(r"\b{a}\b")),
        },
        set: PolicySet {
            med,
            add_communities: add.into_iter().map(Community).collect(),
            remove_communities: remove.into_iter().map(Community).collect(),
            prepend,
            ..PolicySet::default()
        },
        action: if accept { PolicyAction::Accept } else { PolicyAction::Reject },
    })
}

/// The same by the words of the contract, one route at a time.
fn naive(rules: &[PolicyRule], prefix: IpNet, given: &Attributes) -> Option<Attributes> {
    for rule in rules {
        let m = &rule.r#match;
        let covers = |r: &PrefixRange| {
            let len = prefix.prefix_len();
            let plain = r.ge.is_none() && r.le.is_none();
            r.prefix.contains(&prefix)
                && if plain { prefix == r.prefix } else { r.ge.is_none_or(|g| len >= g) && r.le.is_none_or(|l| len <= l) }
        };
        let matches = (m.prefixes.is_empty() || m.prefixes.iter().any(covers))
            && m.communities.iter().all(|c| given.communities.contains(&c.0))
            && m.as_path.as_ref().is_none_or(|p| given.as_path.iter().any(|a| format!(r"\b{a}\b") == *p));
        if matches {
            if rule.action == PolicyAction::Reject {
                return None;
            }
            let mut out = given.clone();
            out.med = rule.set.med.or(given.med);
            out.communities.retain(|c| !rule.set.remove_communities.contains(&Community(*c)));
            for c in &rule.set.add_communities {
                if !out.communities.contains(&c.0) {
                    out.communities.push(c.0);
                }
            }
            let mut asns = vec![9; rule.set.prepend.into()];
            asns.extend(given.as_path.iter());
            out.as_path = AsPath::sequence(asns);
            return Some(out);
        }
    }
    Some(given.clone())
}

proptest! {
    #[test]
    fn any_policy_does_what_its_words_say(
        rules in prop::collection::vec(any_rule(), 0..6),
        asns in prop::collection::vec(0u32..4, 0..4),
        communities in prop::collection::btree_set(0u32..3, 0..3),
        med in prop::option::of(0u32..3),
        prefixes in prop::collection::vec(any_prefix(), 1..8),
    ) {
        let communities = communities.into_iter().collect();
        let given = Arc::new(Attributes { as_path: AsPath::sequence(asns), communities, med, ..Attributes::default() });
        let policy = Policy::new(&rules).unwrap();
        let mut prepared = policy.prepare(&given, 9);
        for prefix in prefixes {
            prop_assert_eq!(prepared.decide(prefix).map(Arc::unwrap_or_clone), naive(&rules, prefix, &given));
        }
        prop_assert_eq!(&policy, &Policy::new(&rules).unwrap());
    }
}
