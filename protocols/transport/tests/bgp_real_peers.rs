//! The speaker against BIRD (IPv4, eBGP, TCP MD5, graceful restart) and FRR (VPNv4, iBGP), in network namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bgp_common;

use bgp_common::*;
use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri, Origin};
use edgeplex_types::{Label, RouteTarget};
use std::net::IpAddr;
use std::sync::Arc;

#[test]
#[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
fn bird_as_a_customer_router() {
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let conf = format!(
        r#"router id {PEER};
        protocol device {{ }}
        protocol static blue {{ ipv4; route 10.1.0.0/16 blackhole; }}
        protocol static green {{ ipv4; route 10.2.0.0/16 blackhole; }}
        protocol bgp upstream {{ local {PEER} as 65101; neighbor {WE} as 65000; password "not a word"; connect delay time 1;
          error wait time 1,2; graceful restart on; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}"#
    );
    std::fs::write(format!("{dir}/bird.conf"), conf).unwrap();
    wire.start(&format!("bird -f -c {dir}/bird.conf -s {dir}/bird.ctl -P {dir}/bird.pid"));
    let birdc = |words: &str| ask("birdc", &[&["-s", &format!("{dir}/bird.ctl")][..], &words.split(' ').collect::<Vec<_>>()].concat());

    wire.run(|| async move {
        let graceful_restart = Some(GracefulRestart { restart_time_s: 30, restarting: false });
        let password = Some("not a word".to_owned());
        let config = PeerConfig { local_address: Some(WE.into()), password, graceful_restart, ..PeerConfig::new(PEER, 65101) };
        let (speaker, mut events) = speaker(65000, config.clone());
        let (_, attributes, hop) = learn(&mut events, &["10.1.0.0/16", "10.2.0.0/16"]).await;
        assert_eq!((attributes.as_path.to_string().as_str(), attributes.origin, hop), ("65101", Origin::Igp, IpAddr::from(PEER)));

        // Ours to BIRD, with everything a route may carry.
        let rich = Arc::new(Attributes {
            as_path: AsPath::sequence([4_200_000_001]),
            communities: vec![65000 << 16 | 7],
            large_communities: vec![[65000, 1, 2]],
            ..Attributes::default()
        });
        let nlri = Nlri::Unicast("10.9.0.0/16".parse().unwrap());
        speaker.advertise(PEER.into(), nlri, Arc::clone(&rich), IpAddr::from(WE));
        until("not before release", || birdc("show protocols upstream"), |a| a.contains("Established")).await;
        assert!(!birdc("show route").contains("10.9.0.0/16"));
        speaker.release(PEER.into(), Family::Ipv4Unicast);
        let shown = |text: String| {
            let birdc = &birdc;
            async move { until(&text, || birdc("show route all for 10.9.0.1"), |a| a.contains(&text)).await }
        };
        shown("BGP.as_path: 65000 4200000001".into()).await;
        shown("BGP.community: (65000,7)".into()).await;
        shown("BGP.large_community: (65000, 1, 2)".into()).await;

        // Withdrawals, both ways.
        birdc("disable green");
        assert_eq!(lose(&mut events).await[0].to_string(), "10.2.0.0/16");
        speaker.withdraw(PEER.into(), nlri.key());
        until("withdrawn", || birdc("show route"), |a| !a.contains("10.9.0.0/16")).await;
        speaker.advertise(PEER.into(), nlri, Arc::clone(&rich), IpAddr::from(WE));
        shown("BGP.as_path: 65000 4200000001".into()).await;

        // Route refresh, both ways.
        speaker.refresh(PEER.into(), Family::Ipv4Unicast);
        learn(&mut events, &["10.1.0.0/16"]).await;
        birdc("reload in upstream");

        // BIRD resets the session; it and its routes come back.
        birdc("restart upstream");
        let (reason, graceful) = down(&mut events).await;
        assert!(reason.contains("administrative reset") && !graceful, "{reason}");
        learn(&mut events, &["10.1.0.0/16"]).await;
        shown("BGP.as_path: 65000 4200000001".into()).await;

        // Words of both operators (RFC 9003).
        birdc("disable upstream \"moving house\"");
        let (reason, _) = down(&mut events).await;
        assert!(reason.contains("administrative shutdown") && reason.contains("\"moving house\""), "{reason}");
        birdc("enable upstream");
        learn(&mut events, &["10.1.0.0/16"]).await;
        speaker.set_peer(PeerConfig { shutdown: Some("also moving".into()), ..config.clone() });
        until("our words", || birdc("show protocols all upstream"), |a| a.contains("Administrative shutdown") && a.contains("also moving"))
            .await;
        speaker.set_peer(config.clone());
        learn(&mut events, &["10.1.0.0/16"]).await;
        shown("BGP.as_path: 65000 4200000001".into()).await;

        // We vanish as a killed process does: BIRD keeps the route until we are back.
        speaker.shutdown(true).await;
        until("helping", || birdc("show protocols all upstream"), |a| a.contains("graceful restart active")).await;
        assert!(birdc("show route").contains("10.9.0.0/16"), "kept while we are away");
        let graceful_restart = Some(GracefulRestart { restart_time_s: 30, restarting: true });
        let (speaker, mut events) = bgp_common::speaker(65000, PeerConfig { graceful_restart, ..config });
        learn(&mut events, &["10.1.0.0/16"]).await;
        end_of_rib(&mut events, Family::Ipv4Unicast).await;
        assert!(birdc("show route").contains("10.9.0.0/16"), "kept until our End-of-RIB");
        speaker.release(PEER.into(), Family::Ipv4Unicast);
        until("swept", || birdc("show route"), |a| !a.contains("10.9.0.0/16")).await;
        speaker.shutdown(false).await;
        until("told so", || birdc("show protocols all upstream"), |a| a.contains("Administrative shutdown")).await;
    });
}

#[test]
#[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
fn frr_as_a_vpnv4_peer() {
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let conf = format!(
        "router bgp 65000
 bgp router-id {PEER}
 no bgp default ipv4-unicast
 neighbor {WE} remote-as 65000
 neighbor {WE} timers connect 1
 address-family ipv4 vpn
  neighbor {WE} activate
  network 10.8.0.0/24 rd 65000:8 label 1008
  network 10.8.0.0/24 rd 10.255.0.2:9 label 1009
 exit-address-family
"
    );
    std::fs::write(format!("{dir}/bgpd.conf"), conf).unwrap();
    sh(&format!("chown -R frr:frr {dir} && chmod 755 {dir}"));
    wire.start(&format!(
        "/usr/lib/frr/bgpd -Z -n -f {dir}/bgpd.conf -i {dir}/bgpd.pid --vty_socket {dir} -z {dir}/zserv.api -A 127.0.0.1 -P 0 --log file:{dir}/log"
    ));
    let vtysh = |lines: &[&str]| {
        let head = ["--vty_socket", &dir, "--config_dir", &dir];
        ask("vtysh", &head.into_iter().chain(lines.iter().flat_map(|l| ["-c", l])).collect::<Vec<_>>())
    };

    wire.run(|| async move {
        let config = PeerConfig { local_address: Some(WE.into()), families: vec![Family::Vpnv4], ..PeerConfig::new(PEER, 65000) };
        let (speaker, mut events) = speaker(65000, config);
        let both = ["65000:8 10.8.0.0/24", "10.255.0.2:9 10.8.0.0/24"];
        let (have, attributes, hop) = learn(&mut events, &both).await;
        assert_eq!(have.iter().map(|n| n.label().unwrap().get()).collect::<Vec<_>>(), [1008, 1009]);
        assert_eq!((attributes.local_pref, hop), (Some(100), IpAddr::from(PEER)));

        let target: RouteTarget = "65000:100".parse().unwrap();
        let attributes =
            Arc::new(Attributes { as_path: AsPath::sequence([65101]), ext_communities: vec![target.0], ..Attributes::default() });
        let (rd, prefix) = ("65000:7".parse().unwrap(), "10.7.0.0/22".parse().unwrap());
        let nlri = Nlri::Vpn { rd, prefix, label: Label::try_from(0xf_fffe).unwrap() };
        speaker.advertise(PEER.into(), nlri, Arc::clone(&attributes), IpAddr::from(WE));
        speaker.release(PEER.into(), Family::Vpnv4);
        let route = || vtysh(&["show bgp ipv4 vpn 10.7.0.0/22"]);
        until("advertised", route, |a| {
            ["65000:7:10.7.0.0/22", "RT:65000:100", "Remote label: 1048574", "65101", "10.0.0.1"].iter().all(|t| a.contains(t))
        })
        .await;

        // Another label replaces the first.
        speaker.advertise(PEER.into(), Nlri::Vpn { rd, prefix, label: Label::try_from(16).unwrap() }, attributes, IpAddr::from(WE));
        until("label changed", route, |a| a.contains("Remote label: 16\n")).await;
        speaker.withdraw(PEER.into(), nlri.key());
        until("withdrawn", route, |a| !a.contains("65101")).await;

        let gone = "no network 10.8.0.0/24 rd 65000:8 label 1008";
        vtysh(&["conf t", "router bgp 65000", "address-family ipv4 vpn", gone]);
        assert_eq!(lose(&mut events).await[0].to_string(), "65000:8 10.8.0.0/24");

        vtysh(&["clear bgp *"]);
        let (reason, graceful) = down(&mut events).await;
        assert!(reason.contains("Cease") && !graceful, "{reason}");
        learn(&mut events, &["10.255.0.2:9 10.8.0.0/24"]).await;
        speaker.shutdown(false).await;
    });
}
