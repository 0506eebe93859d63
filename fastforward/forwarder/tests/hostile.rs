//! Any bytes on any port: no panic, every packet accounted for, and nothing on a side where it must not be.

mod common;
use common::*;
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
            if fix && frame.len() >= ip + 20 {
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

fn judge(input: Port, frame: &[u8], out: &[(Port, Vec<u8>)]) -> Result<(), TestCaseError> {
    for (port, sent) in out {
        let kind = u16::from_be_bytes([sent[12], sent[13]]);
        match port {
            // Only labelled packets enter the core, only from the PE.
            Port::Core => prop_assert!(kind == 0x8847 && sent[6..12] == PE),
            // A label never reaches the customer, unless the VM's own kernel wrote it itself.
            Port::Customer => prop_assert!(kind == 0x0800 || kind == 0x0806 || input == Port::Tap && sent == frame),
            Port::Tap => prop_assert!(kind == 0x0800 || kind == 0x0806),
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
        let mut b = if programmed { Bench::warm() } else { Bench::empty() };
        let out = b.put(PORTS[port], &bytes);
        judge(PORTS[port], &bytes, &out)?;
    }

    #[test]
    fn nearly_right_frames(frames in vec(nearly(), 1..30), mtu in 576u16..1600, buffers in 0usize..20) {
        let mut b = Bench::warm();
        b.program(vec![interface(mtu, mtu)]);
        b.out.buffers = buffers;
        for (port, frame) in frames {
            let out = b.put(PORTS[port], &frame);
            judge(PORTS[port], &frame, &out)?;
            b.wait(100);
        }
    }
}
