//! Measures the FIB on this machine: `cargo run --release -p edgeplex-ff-fib --example measure`.
//! For 10, 10,000 and a million routes with the prefix lengths of the Internet's table: bytes a route, time to load,
//! lookups a second one by one and in bursts of 32 (uniform keys below known routes), time of one change. Medians of 5.
//! The same of IPv6 for /48 in a few /32, up to 100,000.
//! Then, since the thread that programs also forwards, the longest that any single call took: to put one route in from
//! nothing to all, to sweep 128, to change the default route, to fill a page of 1000.

use edgeplex_ff_fib::Leaf;
use edgeplex_ff_fib::key::Key;
use edgeplex_ff_fib::routes::{Generation, Routes};
use std::hint::black_box;
use std::time::Instant;

/// Percent of routes by prefix length, after the Internet's table; the rest are /24.
const LENGTHS: [(u8, u64); 9] = [(23, 10), (22, 12), (21, 5), (20, 5), (19, 3), (18, 2), (17, 1), (16, 2), (12, 1)];
const KEYS: usize = 1 << 20;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn word(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

fn length(r: &mut Random) -> u8 {
    let mut dice = r.next() % 100;
    for (len, share) in LENGTHS {
        match dice.checked_sub(share) {
            Some(rest) => dice = rest,
            None => return len,
        }
    }
    24
}

/// Prefixes lie together as allocations do: half of the /8s are used, and in them some /16s densely.
fn prefixes(n: usize, r: &mut Random) -> Vec<(u32, u8)> {
    let blocks: Vec<u32> = (0..(n / 30).clamp(1, 40_000)).map(|_| r.word() & 0x7fff_0000 | 0x0100_0000).collect();
    let mut seen = std::collections::HashSet::new();
    let mut out = vec![];
    while out.len() < n {
        let len = length(r);
        let block = blocks.get(r.word() as usize % blocks.len()).copied().unwrap_or(0);
        let address = (block | r.word() & 0xffff) & (u32::MAX << (32 - len));
        if seen.insert((address, len)) {
            out.push((address, len));
        }
    }
    out
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(0.0)
}

/// Microseconds of the slowest of some calls.
#[derive(Default)]
struct Slowest(f64);

impl Slowest {
    fn of<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let t = Instant::now();
        let out = f();
        self.0 = self.0.max(t.elapsed().as_secs_f64() * 1e6);
        out
    }
}

/// Puts all in, changes the default route, reads all pages, sweeps all away; microseconds of the slowest calls.
fn slowest(all: &[(u32, u8)]) -> [f64; 4] {
    let [mut insert, mut default, mut page, mut sweep] = [(); 4].map(|()| Slowest::default());
    let (mut routes, old) = (Routes::<u32>::default(), Generation::default());
    for (a, len) in all {
        insert.of(|| routes.insert(*a, *len, 7, old));
    }
    for target in 0..100 {
        default.of(|| routes.insert(0, 0, target, old));
        default.of(|| routes.remove(0, 0));
    }
    let mut after = None;
    while let (rows, true) = page.of(|| routes.page(after, 1000)) {
        after = rows.last().map(|r| (r.0, r.1));
    }
    let mut at = None;
    while let (Some(next), _) = sweep.of(|| routes.sweep(at, 128, old.next(), |_| {})) {
        at = Some(next);
    }
    assert!(routes.is_empty());
    [insert, sweep, default, page].map(|s| s.0)
}

fn seconds(mut f: impl FnMut()) -> f64 {
    let once = |_| {
        let t = Instant::now();
        f();
        t.elapsed().as_secs_f64()
    };
    median((0..5).map(once).collect())
}

/// Sites of a few providers.
fn sites(n: usize, r: &mut Random) -> Vec<(u128, u8)> {
    let mut seen = std::collections::HashSet::new();
    let block = |r: &mut Random| (0x2001_0db8 + r.next() % 8) << 32;
    while seen.len() < n {
        seen.insert(u128::from(block(r) | r.next() & 0xffff << 16) << 64);
    }
    let mut all: Vec<_> = seen.into_iter().map(|a| (a, 48)).collect();
    all.sort_unstable();
    all
}

/// One line: what `n` routes cost and how fast they are. `host`: an address below a prefix, by some random bits.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn line<K: Key>(name: &str, all: &[(K, u8)], r: &mut Random, host: impl Fn(K, u8, &mut Random) -> K) {
    let n = all.len();
    let mut routes = Routes::<K>::default();
    let load = Instant::now();
    for (i, (a, len)) in all.iter().enumerate() {
        routes.insert(*a, *len, u32::try_from(i % 500).unwrap_or(0), Generation::default());
    }
    let load = load.elapsed().as_secs_f64() * 1e3;
    let keys: Vec<K> = (0..KEYS)
        .map(|_| {
            let (a, len) = all.get(r.word() as usize % n).copied().unwrap_or_default();
            host(a, len, r)
        })
        .collect();
    let one = seconds(|| {
        for k in &keys {
            black_box(routes.lookup(*k));
        }
    });
    let mut out: [Option<Leaf>; 32] = [None; 32];
    let burst = seconds(|| {
        for k in keys.chunks(32) {
            routes.lookup_burst(k, &mut out);
            black_box(&out);
        }
    });
    let changes: Vec<_> = all.iter().step_by((n / 10_000).max(1)).copied().collect();
    let change = seconds(|| {
        for (a, len) in &changes {
            let target = routes.remove(*a, *len).unwrap_or(0);
            routes.insert(*a, *len, target, Generation::default());
        }
    });
    let (lookup, exact) = routes.bytes();
    let per_route = |b: usize| b as f64 / n as f64;
    let (m, per_change) = (KEYS as f64 / 1e6, change * 1e9 / (2 * changes.len()) as f64);
    println!(
        "{n:>8} {name} {:>12.1} {:>12.1} {load:>9.1} {:>8.1} {:>9.1} {per_change:>10.0}",
        per_route(lookup),
        per_route(lookup + exact),
        m / one,
        m / burst
    );
}

fn main() {
    println!(
        "{:>8} {:>4} {:>12} {:>12} {:>9} {:>8} {:>9} {:>10}",
        "routes", "IP", "lookup B/rt", "all B/rt", "load ms", "M/s", "burst M/s", "change ns"
    );
    for n in [10, 10_000, 1_000_000] {
        let mut r = Random(42);
        let all = prefixes(n, &mut r);
        line("  v4", &all, &mut r, |a, len, r| a | r.word() & !u32::mask(len));
    }
    for n in [10, 10_000, 100_000] {
        let mut r = Random(42);
        let all = sites(n, &mut r);
        line("  v6", &all, &mut r, |a, _, r| a | u128::from(r.next()));
    }
    println!("{:>8} {:>12} {:>12} {:>12} {:>12}", "routes", "insert us", "sweep us", "default us", "page us");
    for n in [10_000, 100_000, 1_000_000] {
        let all = prefixes(n, &mut Random(42));
        // The best of three is what the code needs; the rest is what else the machine did.
        let mut least = [f64::MAX; 4];
        for _ in 0..3 {
            least.iter_mut().zip(slowest(&all)).for_each(|(l, s)| *l = l.min(s));
        }
        let [insert, sweep, default, page] = least;
        println!("{n:>8} {insert:>12.0} {sweep:>12.0} {default:>12.1} {page:>12.0}");
    }
}
