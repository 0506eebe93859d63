//! How many routes a second one core reads and composes: `cargo run --release -p edgeplex-bgp --example throughput`.
//! Prints medians of five runs, in the processor's time where the kernel tells it, so that other work on the machine does not
//! count; each route set has 6 prefixes per attribute set.

use edgeplex_bgp::{AdjRibOut, SendContext};
use edgeplex_bgp_wire::*;
use edgeplex_types::Label;
use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

const ROUTES: u32 = 300_000;

fn routes(family: Family) -> Vec<(Nlri, Arc<Attributes>)> {
    let mut set = Arc::new(Attributes::default());
    let mut out = vec![];
    for n in 0..ROUTES {
        if n % 6 == 0 {
            let ext_communities = vec![[0, 2, 0xfd, 0xe8, 0, 0, 0, 100]];
            set = Arc::new(Attributes { as_path: AsPath::sequence([65101, 1 + n / 6, 3]), ext_communities, ..Attributes::default() });
        }
        let Ok(prefix) = ipnet::Ipv4Net::new(Ipv4Addr::from(0x0100_0000 + (n << 8)), 24) else { continue };
        let nlri = match (family, Label::try_from(16 + n % 1000)) {
            (Family::Vpnv4, Ok(label)) => {
                Nlri::Vpn { rd: edgeplex_types::Rd([0, 0, 0xfd, 0xe8, 0, 0, 0, 7]), prefix: prefix.into(), label }
            }
            _ => Nlri::Unicast(prefix.into()),
        };
        out.push((nlri, Arc::clone(&set)));
    }
    out
}

/// What this process has used of the processor, or else the clock's time.
fn used(start: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn median(what: &str, family: Family, mut run: impl FnMut() -> usize) {
    let mut rates: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let before = used(start);
            let done = u32::try_from(run()).unwrap_or(0);
            f64::from(done) / (used(start) - before).as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    println!("{:13} {what:40} {:6.2} M routes/s (min {:.2}, max {:.2})", family.to_string(), rates[2], rates[0], rates[4]);
}

fn main() {
    for family in [Family::Ipv4Unicast, Family::Vpnv4] {
        let routes = routes(family);
        let context = SendContext::new(65000, 65000);
        let mut stream = vec![];
        median("advertise, pack and compose (adj-RIB-out)", family, || {
            stream.clear();
            let mut rib = AdjRibOut::default();
            rib.session_up(FamilySet::from_iter([family]), context);
            rib.release(family);
            for (nlri, attributes) in &routes {
                rib.advertise(*nlri, Arc::clone(attributes), std::net::IpAddr::from([10, 0, 0, 1]));
            }
            while rib.next(&mut stream) {}
            rib.sent()
        });
        let context = Context { four_octet_as: true, ibgp: true, families: FamilySet::from_iter([family]), ..Context::default() };
        let mut decoder = Decoder::new(context);
        let mut read = |fresh: bool| {
            if fresh {
                decoder = Decoder::new(context);
            }
            let (mut rest, mut got) = (stream.as_slice(), 0);
            while let Ok(Some(message)) = frame(rest) {
                if let Ok(update) = decoder.decode(message.body) {
                    got += update.announced.iter().map(|a| a.reach.len()).sum::<usize>();
                }
                rest = rest.get(message.wire_len()..).unwrap_or_default();
            }
            got
        };
        median("decode, attribute sets all new", family, || read(true));
        median("decode, attribute sets all known", family, || read(false));
    }
}
