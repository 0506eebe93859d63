//! The VPN engine against a hostile PVM that says whatever it likes, and a damaged file of labels.
#![no_main]
use edgeplex_bgp_wire::Attributes;
use edgeplex_cvm_vpn::{Action, AttachmentConfig, Config, LabelSpace, Start, TunnelState, Vpn, tunnel_id};
use edgeplex_relay::{CustomerOp, Leg, Sync, ToCvm, ToPvm, Tunnel, VpnOp, encode};
use edgeplex_types::{AttachmentId, Epoch, Label, LabelRange, MacAddr};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

const LOOPBACK: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);

fn config() -> Config {
    let attachment = |name: &str, rd: &str| AttachmentConfig {
        id: name.parse().expect("a name"),
        rd: rd.parse().expect("an RD"),
        import: ["65000:1".parse().expect("an RT")].into(),
        export: ["65000:1".parse().expect("an RT")].into(),
        leaks: vec![],
        label: None,
        label_per_ce: true,
        max_paths: 2,
        max_routes: Some(20),
    };
    let label = |n| Label::try_from(n).expect("a label");
    Config {
        asn: 65000,
        loopback: LOOPBACK,
        reflectors: [].into(),
        labels: LabelRange::new(label(1000), label(1999)).expect("a range"),
        quarantine: Duration::from_secs(60),
        stale: Duration::from_secs(30),
        attachments: vec![attachment("acme/a", "65000:1"), attachment("acme/b", "65000:2")],
    }
}

/// Does and hears all there is. Peer 1 is the other attachment's PVM, which must always be told what the codec can carry.
fn settle(vpn: &mut Vpn<u8>, now: Instant) {
    let other: AttachmentId = "acme/b".parse().expect("a name");
    loop {
        vpn.work(64);
        while let Some(action) = vpn.next_action() {
            if action == Action::LabelsChanged {
                vpn.labels_stored(now, true);
            }
        }
        while let Some((peer, message)) = vpn.next_message() {
            encode(&message).expect("whatever is told fits");
            if let (1, ToPvm::Sync { incarnation, sync: Sync::Ops { ops, .. } }) = (peer, message) {
                for op in ops {
                    assert!(!matches!(op, VpnOp::Route { ref paths, .. } if paths.is_empty()));
                }
                vpn.message(now, 1, &other, ToCvm::Grant { incarnation, credits: 1 });
            }
        }
        if !vpn.has_more() {
            return;
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::now();
    let config = config();
    let mut labels = LabelSpace::new(config.labels, config.quarantine);
    if labels.load(now, bytes).is_ok() {
        let again = labels.save().expect("what was read can be written");
        LabelSpace::new(config.labels, config.quarantine).load(now, &again).expect("and read again");
    }
    let mut vpn: Vpn<u8> = Vpn::new(now, Start { epoch: Epoch(1), restarting: false }, config, labels);
    let leg = Leg { transport: vec![], source_mac: MacAddr([2; 6]), destination_mac: MacAddr([2; 6]) };
    let tunnel = Tunnel { id: tunnel_id(LOOPBACK), endpoint: LOOPBACK.into(), legs: vec![leg] };
    vpn.tunnel(now, LOOPBACK, Some(TunnelState { tunnel, cost: 0 }));
    let (hostile, other): (AttachmentId, AttachmentId) = ("acme/a".parse().expect("a name"), "acme/b".parse().expect("a name"));
    vpn.message(now, 1, &other, ToCvm::Hello { attachment: other.clone(), incarnation: 1, generation: 1, standby: false });
    vpn.message(now, 1, &other, ToCvm::Grant { incarnation: 1, credits: 16 });
    settle(&mut vpn, now);
    let mut rest = bytes;
    while let Some((&[kind, a, b, length], tail)) = rest.split_first_chunk::<4>() {
        let (attributes, tail) = tail.split_at(usize::from(length).min(tail.len()));
        rest = tail;
        let (incarnation, epoch) = (u64::from(a & 1), Epoch((a & 2).into()));
        let sync = |sync| ToCvm::Sync { incarnation, sync };
        let prefix = match kind & 0x80 {
            0 => IpNet::from(Ipv4Net::new(Ipv4Addr::new(10, b, 0, 0), b % 33).expect("a length")),
            _ => IpNet::from(Ipv6Net::new(Ipv6Addr::new(0x2001, b.into(), 0, 0, 0, 0, 0, 0), b % 129).expect("a length")),
        };
        // Attributes as they come, or good ones that differ.
        let attributes = match kind & 0x40 {
            0 => attributes.to_vec(),
            _ => Attributes { med: Some(length.into()), ..Attributes::default() }.to_bytes(),
        };
        let next_hop = (a & 4 != 0).then(|| IpAddr::from([192, 168, 1, a >> 3]));
        let message = match kind & 7 {
            0 => ToCvm::Hello { attachment: hostile.clone(), incarnation, generation: (b & 3).into(), standby: b & 4 != 0 },
            1 => sync(Sync::Begin { epoch }),
            2 => sync(Sync::End { epoch }),
            3 | 4 => sync(Sync::Ops { epoch, ops: vec![CustomerOp::Route { prefix, next_hop, attributes }] }),
            5 => sync(Sync::Ops { epoch, ops: vec![CustomerOp::Withdraw { prefix }] }),
            6 => ToCvm::Grant { incarnation, credits: b.into() },
            _ => {
                now += Duration::from_millis(u64::from(length) * 10);
                vpn.message(now, 1, &other, ToCvm::Keepalive { incarnation: 1 });
                vpn.tick(now);
                ToCvm::Keepalive { incarnation }
            }
        };
        vpn.message(now, 0, &hostile, message);
        settle(&mut vpn, now);
    }
});
