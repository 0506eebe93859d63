//! Any bytes on any port: no panic, every packet accounted for, and nothing on a side where it must not be.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
use common::switch::{Switch, mac, pop, port, switch, towards};
use common::v6::*;
use common::*;
use edgeplex_ff_fib_api::{FibOp, Interface, PUNT_MAC, Target};
use edgeplex_forwarder::Port;
use proptest::{collection::vec, prelude::*};

const PORTS: [Port; 3] = [Port::Customer, Port::Core, Port::Tap];

/// Frames that are nearly right: a good one with some bytes changed and perhaps cut.
fn nearly() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let good = vec![
        udp(NEAR, FAR).ce_sends(),
        udp(NEAR, OUR_IP).ce_sends(),
        udp(NEAR, FAR).len(1500).ce_sends(),
        udp(FAR, NEAR).p_sends(&[lse(OWN_LABEL, 0, true, 64)]),
        udp(FAR, NEAR).p_sends(&[lse(0, 0, false, 64), lse(OWN_LABEL, 0, true, 64)]),
        udp(OUR_IP, FAR).kernel_sends(),
        arp(ALL, CE, 1, CE, CE_IP, [0; 6], OUR_IP),
        arp(OURS, CE, 2, CE, CE_IP, OURS, OUR_IP),
        udp6(NEAR6, FAR6).ce_sends(),
        udp6(NEAR6, FAR6).hops(1).ce_sends(),
        udp6(NEAR6, OUR6).ce_sends(),
        udp6(NEAR6, FAR6).len(1500).ce_sends(),
        udp6(FAR6, NEAR6).p_sends(&[lse(OWN_LABEL, 0, true, 1)]),
        udp6(FAR6, NEAR6).p_sends(&[lse(2, 0, false, 64), lse(OWN_LABEL, 0, true, 64)]),
        udp6(OUR6, FAR6).kernel_sends(),
        eth(
            OURS,
            CE,
            0x86dd,
            &Ip6 { next: 0, payload: vec![60, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0], ..udp6(NEAR6, FAR6) }.bytes(),
        ),
        nd(135, 0, CE6, "ff02::1:ff00:1", OUR6, CE).to_group(CE),
        eth(OURS, CE, 0x86dd, &nd(136, 0x60, CE6, OUR6, CE6, CE).bytes()),
    ];
    (
        0..PORTS.len(),
        prop::sample::select(good),
        vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(port, mut frame, changes, cut, fix)| {
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            // A right checksum lets the change get further.
            let ip = if frame[12] == 0x88 { 18 } else { 14 };
            if fix && frame.len() >= ip + 20 && frame[ip] >> 4 != 6 {
                frame[ip + 10..ip + 12].fill(0);
                let header = (usize::from(frame[ip] & 15) * 4).max(20).min(frame.len() - ip);
                let sum = checksum(&frame[ip..ip + header]);
                frame[ip + 10..ip + 12].copy_from_slice(&sum);
            } else {
                frame.truncate(cut.index(frame.len() + 1));
            }
            (port, frame)
        })
}

/// Programmed for both versions, with a backup and several legs.
fn both(customer_mtu: u16, core_mtu: u16) -> Bench {
    let mut b = Bench::warm();
    let addresses = ["192.168.1.1/30", "fe80::1/64", "2001:db8:f::1/64"].map(|a| a.parse().unwrap()).to_vec();
    let target = Target::Vpn { paths: vec![path(3001, 99), path(3002, 20)], backup: vec![path(3003, 7)] };
    b.program(vec![
        FibOp::Interface(Interface { mac: edgeplex_types::MacAddr(OURS), addresses, customer_mtu, core_mtu }),
        legs(20, vec![leg(0, &[16, 17], PE, P), leg(0, &[], PE, P)]),
        route("2001:db8:2::/48", target),
        route("2001:db8:1::/48", Target::Customer { next_hop: CE6.parse().unwrap() }),
        route("2001:db8:f::/64", Target::Connected),
    ]);
    b
}

fn judge(input: Port, frame: &[u8], out: &[(Port, Vec<u8>)]) -> Result<(), TestCaseError> {
    for (port, sent) in out {
        let kind = u16::from_be_bytes([sent[12], sent[13]]);
        match port {
            // Only labelled packets enter the core, only from the PE.
            Port::Core => prop_assert!(kind == 0x8847 && sent[6..12] == PE),
            // A label never reaches the customer, unless the VM's own kernel wrote it itself.
            Port::Customer => prop_assert!(matches!(kind, 0x0800 | 0x0806 | 0x86dd) || input == Port::Tap && sent == frame),
            Port::Tap => prop_assert!(matches!(kind, 0x0800 | 0x0806 | 0x86dd)),
        }
        if kind == 0x0800 && (*port, input) != (Port::Customer, Port::Tap) {
            prop_assert_eq!(checksum(&sent[14..14 + usize::from(sent[14] & 15) * 4]), [0, 0]);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(port in 0..PORTS.len(), bytes in vec(any::<u8>(), 0..200), programmed: bool) {
        let mut b = if programmed { both(1500, 1600) } else { Bench::empty() };
        let out = b.put(PORTS[port], &bytes);
        judge(PORTS[port], &bytes, &out)?;
    }

    #[test]
    fn nearly_right_frames(frames in vec(nearly(), 1..30), mtu in 576u16..1600, buffers in 0usize..20) {
        let mut b = both(mtu, mtu);
        b.out.buffers = buffers;
        for (port, frame) in frames {
            let out = b.put(PORTS[port], &frame);
            judge(PORTS[port], &frame, &out)?;
            b.wait(100);
        }
    }

    /// Random stacks through a label-switching router: whatever comes out goes to a leg's neighbour, home, or to the
    /// control plane, from the port's own address, and is labelled unless its last label was popped.
    #[test]
    fn random_stacks_leave_only_towards_a_neighbour_home_or_the_control_plane(frames in vec(stacked(), 1..30), mtu in 576u16..1600) {
        let mut s = router(mtu);
        for (at, frame) in frames {
            let before = s.counters();
            let out = s.put(at, &frame);
            let after = s.counters();
            let drops = |c: &edgeplex_ff_fib_api::Counters| c.drops.iter().map(|d| d.1).sum::<u64>();
            prop_assert!(!out.is_empty() || drops(&after) > drops(&before), "gone without a word");
            for (to, sent) in out {
                prop_assert!(to < 3 && sent.len() >= 14 + 4 && sent.len() <= 14 + usize::from(mtu).max(frame.len()));
                prop_assert_eq!(&sent[6..12], &mac(1, to)[..]);
                let neighbour = (to == 1 && sent[..6] == mac(2, 0)) || (to == 2 && sent[..6] == mac(2, 1));
                let back = to == at && (sent[..6] == mac(1, at) || sent[..6] == PUNT_MAC.0);
                prop_assert!(neighbour || back, "{:?} out of {}", &sent[..14], to);
                let kind = u16::from_be_bytes([sent[12], sent[13]]);
                let right = match kind {
                    0x8847 => true,
                    0x0800 => sent[14] >> 4 == 4 && checksum(&sent[14..14 + usize::from(sent[14] & 15) * 4]) == [0, 0],
                    0x86dd => sent[14] >> 4 == 6,
                    _ => false,
                };
                prop_assert!(right, "type {kind:x}");
            }
        }
    }

    #[test]
    fn any_bytes_into_the_switch(at in 0u8..5, bytes in vec(any::<u8>(), 0..200), ours: bool) {
        let mut s = router(1500);
        s.put(at, &if ours { eth(mac(1, at), mac(9, 0), 0x8847, &bytes) } else { bytes });
    }
}

fn router(mtu: u16) -> Switch {
    let mut s = Switch::new(1, 1500);
    s.program(vec![
        FibOp::Ports((0..3).map(|i| port(1, i, mtu)).collect()),
        legs(1, vec![towards(1, 1, &[200], 2, 0), towards(1, 2, &[], 2, 1)]),
        legs(2, vec![towards(1, 1, &[], 2, 0)]),
        legs(3, vec![towards(1, 2, &[301, 302, 303, 304, 305, 306, 307, 308], 2, 1)]),
        legs(4, vec![]),
        // There is no such port.
        legs(5, vec![towards(1, 7, &[1000], 2, 1)]),
        pop(100),
    ]);
    s.program((1..=6).map(|i| switch(100 + i, i)).collect());
    s
}

/// Labels with and without a meaning, special ones among them, over a packet of any kind.
fn stacked() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let label = prop_oneof![0u32..16, 100u32..108, 100u32..108];
    let entry = (label, 0u8..8, prop_oneof![Just(0u8), Just(1), Just(2), Just(64)]);
    let mut ping = udp("10.1.0.9", "127.0.0.1");
    (ping.payload[2], ping.payload[3]) = (0x0d, 0xaf);
    let payload = prop_oneof![
        prop::sample::select(vec![
            udp("10.1.0.9", "10.2.0.9").bytes(),
            udp("10.1.0.9", "10.2.0.9").len(1490).bytes(),
            udp("10.1.0.9", "10.2.0.9").len(1490).frag(DF).bytes(),
            udp6(NEAR6, FAR6).bytes(),
            udp6(NEAR6, FAR6).len(1490).bytes(),
            ping.bytes(),
        ]),
        vec(any::<u8>(), 0..100),
    ];
    (0u8..3, vec(entry, 1..20), payload).prop_map(|(at, entries, payload)| {
        let last = entries.len() - 1;
        let stack: Vec<u8> = entries.into_iter().enumerate().flat_map(|(i, (l, tc, ttl))| lse(l, tc, i == last, ttl)).collect();
        (at, eth(mac(1, at), mac(9, 0), 0x8847, &[stack, payload].concat()))
    })
}
