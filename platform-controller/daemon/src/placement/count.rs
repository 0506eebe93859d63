//! Arithmetic of counters.

use edgeplex_ff_fib_api::{Count, Counters};

fn add_count(sum: &mut Count, more: Count) {
    sum.packets = sum.packets.saturating_add(more.packets);
    sum.bytes = sum.bytes.saturating_add(more.bytes);
}

/// Reasons stay in alphabetical order.
pub fn add(sum: &mut Counters, more: &Counters) {
    let Counters { from_customer, to_customer, from_core, to_core, punted, injected, drops } = more;
    add_count(&mut sum.from_customer, *from_customer);
    add_count(&mut sum.to_customer, *to_customer);
    add_count(&mut sum.from_core, *from_core);
    add_count(&mut sum.to_core, *to_core);
    add_count(&mut sum.punted, *punted);
    add_count(&mut sum.injected, *injected);
    for (reason, n) in drops {
        match sum.drops.binary_search_by(|(r, _)| r.cmp(reason)) {
            Ok(at) => sum.drops[at].1 = sum.drops[at].1.saturating_add(*n),
            Err(at) => sum.drops.insert(at, (reason.clone(), *n)),
        }
    }
}

/// Whether packets came or went between two readings of one forwarder.
pub fn is_more(after: &Counters, before: &Counters) -> bool {
    let packets = |c: &Counters| [c.from_customer, c.to_customer, c.from_core, c.to_core, c.punted, c.injected].map(|c| c.packets);
    packets(after) != packets(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_every_reason() {
        let one = |reason: &str, n| Counters {
            drops: vec![(reason.into(), n)],
            from_core: Count { packets: n, bytes: 1 },
            ..Counters::default()
        };
        let mut sum = one("no-route", 1);
        add(&mut sum, &one("ttl-expired", 2));
        add(&mut sum, &one("label-unknown", 3));
        add(&mut sum, &one("no-route", 4));
        let drops: Vec<(&str, u64)> = sum.drops.iter().map(|(r, n)| (r.as_str(), *n)).collect();
        assert_eq!(drops, [("label-unknown", 3), ("no-route", 5), ("ttl-expired", 2)]);
        assert_eq!((sum.from_core.packets, sum.from_core.bytes), (10, 4));
        assert!(is_more(&sum, &Counters::default()) && !is_more(&sum, &sum));
    }
}
