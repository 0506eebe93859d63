//! IPv6 routes against a naive model, beside IPv4 in one FIB; what small tables cost.

#![allow(clippy::unwrap_used, reason = "tests")]

use edgeplex_ff_fib::routes::{Generation, Routes};
use edgeplex_ff_fib::{Fib, Forward, Leaf, api::*, key::Key};
use edgeplex_types::Epoch;
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;

fn model(m: &BTreeMap<(u128, u8), u32>, a: u128) -> Option<Leaf> {
    let over = m.iter().filter(|((p, l), _)| a & u128::mask(*l) == *p);
    over.max_by_key(|((_, l), _)| *l).map(|((_, len), target)| Leaf { len: *len, target: *target })
}

/// Few distinct bits, spread over all strides, so that prefixes nest and meet at their borders.
fn address() -> impl Strategy<Value = u128> {
    (0u128..4, 0u128..4, 0u128..4, 0u128..4, 0u128..4).prop_map(|(a, b, c, d, e)| a << 126 | b << 95 | c << 63 | d << 16 | e << 7 | a)
}

fn length() -> impl Strategy<Value = u8> {
    prop_oneof![0u8..=128, Just(32), Just(48), Just(64), Just(128)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn agrees_with_the_naive_model(
        ops in vec((0u8..10, address(), length(), 0u32..50), 1..120),
        probes in vec(address(), 40),
    ) {
        let (mut r, mut m) = (Routes::<u128>::default(), BTreeMap::new());
        let g = Generation::default();
        for (op, a, len, target) in ops {
            let a = a & u128::mask(len);
            if op < 3 {
                prop_assert_eq!(r.remove(a, len), m.remove(&(a, len)));
            } else {
                prop_assert_eq!(r.insert(a, len, target, g), m.insert((a, len), target));
            }
            for probe in [a, a | !u128::mask(len), a.wrapping_sub(1), (a | !u128::mask(len)).wrapping_add(1)] {
                prop_assert_eq!(r.lookup(probe), model(&m, probe));
            }
        }
        let mut burst = vec![None; probes.len()];
        r.lookup_burst(&probes, &mut burst);
        for (p, b) in probes.iter().zip(burst) {
            prop_assert_eq!(b, model(&m, *p));
        }
        prop_assert_eq!(r.page(None, 1000).0, m.iter().map(|((a, l), t)| (*a, *l, *t)).collect::<Vec<_>>());
        for (a, len) in m.keys() {
            prop_assert!(r.remove(*a, *len).is_some());
        }
        prop_assert_eq!((r.lookup(probes[0]), r.len()), (None, 0));
    }
}

#[test]
fn many_routes_widen_the_root_and_all_are_found() {
    let mut r = Routes::<u128>::default();
    let prefix = |i: u32| (0x2001_0db8_u128 << 96) | u128::from(i) << 80;
    for i in 0..40_000u32 {
        r.insert(prefix(i % 1000 * 41) | u128::from(i / 1000) << 64, 64, i, Generation::default());
    }
    assert_eq!(r.len(), 40_000);
    for i in (0..40_000u32).step_by(7) {
        let a = prefix(i % 1000 * 41) | u128::from(i / 1000) << 64 | 5;
        assert_eq!(r.lookup(a), Some(Leaf { len: 64, target: i }));
    }
}

/// The customer of a usual size: its memory is what a thousand attachments cost a thousand times.
#[test]
fn ten_routes_cost_less_than_five_kilobytes() {
    let mut r = Routes::<u128>::default();
    let block: u128 = "2001:db8::".parse::<Ipv6Addr>().unwrap().into();
    r.insert(0, 0, 0, Generation::default());
    for i in 0..8u32 {
        r.insert(block | u128::from(i) << 80, 48, i, Generation::default());
    }
    r.insert(block | 1, 128, 9, Generation::default());
    let (lookup, exact) = r.bytes();
    assert!(lookup + exact < 5000, "{lookup} + {exact}");
    assert_eq!(Fib::default().bytes(), 0, "a family without routes costs nothing");
}

#[test]
fn both_versions_are_paged_looked_up_and_swept_in_one_fib() {
    let all = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::1/128"];
    let route = |p: &str| FibOp::Route { prefix: p.parse().unwrap(), target: Target::Local };
    let mut f = Fib::default();
    f.begin(Epoch(1));
    f.program(Epoch(1), &all.map(route)).unwrap();
    f.end(Epoch(1)).unwrap();
    for size in 1..9 {
        let (mut rows, mut after) = (vec![], None);
        loop {
            let (page, more) = f.page(after, size);
            assert!(page.len() <= size && !page.is_empty());
            after = page.last().map(|r| r.0);
            rows.extend(page.into_iter().map(|r| r.0));
            if !more {
                break;
            }
        }
        assert_eq!(rows, all.map(|p| p.parse::<IpNet>().unwrap()), "pages of {size}");
    }
    let met = |f: &Fib, a: &str| f.lookup(a.parse().unwrap()).map(|r| r.0.to_string());
    assert_eq!(met(&f, "2001:db8:1::2"), Some("2001:db8:1::/48".into()));
    assert_eq!(met(&f, "2001:db8:1::1"), Some("2001:db8:1::1/128".into()));
    assert_eq!(met(&f, "10.9.9.9"), Some("10.0.0.0/8".into()));
    assert_eq!(f.route6("2400::1".parse().unwrap()), Some(&Forward::Local));
    f.begin(Epoch(2));
    f.program(Epoch(2), &["10.0.0.0/8", "2001:db8::/32"].map(route)).unwrap();
    f.end(Epoch(2)).unwrap();
    while f.is_sweeping() {
        f.sweep();
    }
    assert_eq!((f.routes(), met(&f, "10.1.0.1"), met(&f, "2001:db8:1::1")), (2, Some("10.0.0.0/8".into()), Some("2001:db8::/32".into())));
    assert_eq!((met(&f, "2400::1"), met(&f, "192.0.2.1")), (None, None));
}
