//! The speaker against BIRD over IPv6 (MD5, GTSM, roles), FRR with four families on one session, and GoBGP with RT-constrain.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bgp_common;

use bgp_common::*;
use edgeplex_bgp::{GracefulRestart, PeerConfig};
use edgeplex_bgp_wire::{AsPath, Attributes, Family, Nlri, Role, RtMembership};
use edgeplex_transport::bgp::Event;
use edgeplex_types::{Label, RouteTarget};
use std::net::IpAddr;
use std::sync::Arc;

fn restart(restarting: bool) -> Option<GracefulRestart> {
    Some(GracefulRestart { restart_time_s: 30, restarting })
}

#[test]
#[ignore = "needs root, BIRD and network namespaces; the lab's test command runs it"]
fn bird_over_ipv6_with_md5_gtsm_and_roles() {
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let conf = format!(
        r#"router id {PEER};
        protocol device {{ }}
        protocol static blue {{ ipv6; route 2001:db8:1::/48 blackhole; }}
        protocol bgp upstream {{ local {PEER6} as 65101; neighbor {WE6} as 65000; password "not a word"; ttl security on; local role customer;
          connect delay time 1; error wait time 1,2; ipv6 {{ import all; export where source = RTS_STATIC; }}; }}"#
    );
    std::fs::write(format!("{dir}/bird.conf"), conf).unwrap();
    wire.start(&format!("bird -f -c {dir}/bird.conf -s {dir}/bird.ctl -P {dir}/bird.pid"));
    let birdc = |words: &str| ask("birdc", &[&["-s", &format!("{dir}/bird.ctl")][..], &words.split(' ').collect::<Vec<_>>()].concat());

    wire.run(|| async move {
        let config = PeerConfig {
            local_address: Some(WE6.into()),
            link_local: "fe80::1".parse().ok(),
            password: Some("not a word".into()),
            ttl_security_hops: Some(1),
            role: Some(Role::Provider),
            role_strict: true,
            graceful_restart: restart(false),
            ..PeerConfig::new(PEER6, 65101)
        };
        let (speaker, mut events) = speaker(65000, config.clone());
        let (_, attributes, hop) = learn(&mut events, &["2001:db8:1::/48"]).await;
        assert_eq!((attributes.as_path.to_string().as_str(), hop), ("65101", IpAddr::from(PEER6)));
        let shown = speaker.neighbors().remove(0);
        assert_eq!(shown.families, ["ipv6-unicast"]);
        for capability in ["role", "graceful-restart", "extended-message", "enhanced-refresh"] {
            let have = shown.capabilities.iter().any(|c| c == capability);
            // BIRD has extended messages off unless told.
            assert!(have || capability == "extended-message", "{capability} is not among {:?}", shown.capabilities);
        }

        let nlri = Nlri::Unicast("2001:db8:9::/48".parse().unwrap());
        let ours =
            Arc::new(Attributes { as_path: AsPath::sequence([64999]), large_communities: vec![[65000, 1, 2]], ..Attributes::default() });
        speaker.advertise(PEER6.into(), nlri, ours, None);
        speaker.release(PEER6.into(), Family::Ipv6Unicast);
        let route = || birdc("show route all for 2001:db8:9::1");
        until("learnt", route, |a| {
            ["BGP.as_path: 65000 64999", "BGP.next_hop: 2001:db8::1 fe80::1", "BGP.large_community: (65000, 1, 2)"]
                .iter()
                .all(|t| a.contains(t))
        })
        .await;
        // RFC 9234: what a provider tells is only for customers.
        assert!(route().contains("BGP.otc: 65000"), "{}", route());

        birdc("disable blue");
        assert_eq!(lose(&mut events).await[0].to_string(), "2001:db8:1::/48");
        birdc("enable blue");
        learn(&mut events, &["2001:db8:1::/48"]).await;
        // BIRD marks begin and end of it (RFC 7313).
        speaker.refresh(PEER6.into(), Family::Ipv6Unicast);
        learn(&mut events, &["2001:db8:1::/48"]).await;
        speaker.withdraw(PEER6.into(), nlri.key());
        until("withdrawn", || birdc("show route"), |a| !a.contains("2001:db8:9::/48")).await;

        // Two providers: no session.
        speaker.set_peer(PeerConfig { role: Some(Role::Customer), ..config });
        until("role mismatch", || format!("{:?}", speaker.neighbors()), |a| a.contains("role mismatch")).await;
    });
}

fn label(n: u32) -> Label {
    Label::try_from(n).unwrap()
}

fn vpn(rd: &str, prefix: &str, n: u32) -> Nlri {
    Nlri::Vpn { rd: rd.parse().unwrap(), prefix: prefix.parse().unwrap(), label: label(n) }
}

fn targeted(target: &str) -> Arc<Attributes> {
    let target: RouteTarget = target.parse().unwrap();
    Arc::new(Attributes { as_path: AsPath::sequence([65101]), ext_communities: vec![target.0], ..Attributes::default() })
}

#[test]
#[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
fn frr_with_four_families_on_one_session() {
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let conf = format!(
        "router bgp 65000
 bgp router-id {PEER}
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor {WE} remote-as 65000
 neighbor {WE} timers connect 1
 neighbor {WE} password not-a-word
 address-family ipv4 unicast
  neighbor {WE} activate
  network 10.1.0.0/16
  no network import-check
 exit-address-family
 address-family ipv6 unicast
  neighbor {WE} activate
  network 2001:db8:1::/48
 exit-address-family
 address-family ipv4 vpn
  neighbor {WE} activate
  network 10.8.0.0/24 rd 65000:8 label 1008
 exit-address-family
 address-family ipv6 vpn
  neighbor {WE} activate
  network 2001:db8:8::/48 rd 65000:8 label 1009
 exit-address-family
"
    );
    let conf =
        conf.replace("router bgp 65000\n", "router bgp 65000\n no bgp network import-check\n").replace("  no network import-check\n", "");
    std::fs::write(format!("{dir}/bgpd.conf"), conf).unwrap();
    sh(&format!("chown -R frr:frr {dir} && chmod 755 {dir}"));
    let daemon = format!(
        "/usr/lib/frr/bgpd -Z -n -f {dir}/bgpd.conf -i {dir}/bgpd.pid --vty_socket {dir} -z {dir}/zserv.api -A 127.0.0.1 -P 0 --log file:{dir}/log"
    );
    wire.start(&daemon);
    let vtysh = |lines: &[&str]| {
        let head = ["--vty_socket", &dir, "--config_dir", &dir];
        ask("vtysh", &head.into_iter().chain(lines.iter().flat_map(|l| ["-c", l])).collect::<Vec<_>>())
    };

    wire.run(|| async move {
        let families = vec![Family::Ipv4Unicast, Family::Ipv6Unicast, Family::Vpnv4, Family::Vpnv6];
        let config = PeerConfig {
            local_address: Some(WE.into()),
            families: families.clone(),
            graceful_restart: restart(false),
            password: Some("not-a-word".into()),
            long_lived_s: Some(0),
            ..PeerConfig::new(PEER, 65000)
        };
        let (speaker, mut events) = speaker(65000, config.clone());
        let all = ["10.1.0.0/16", "2001:db8:1::/48", "65000:8 10.8.0.0/24", "65000:8 2001:db8:8::/48"];
        let (have, ..) = learn(&mut events, &all).await;
        assert_eq!(have.iter().filter_map(Nlri::label).map(Label::get).collect::<Vec<_>>(), [1008, 1009]);

        // 6VPE: our next hop is the IPv4 loopback, mapped.
        for f in families {
            speaker.release(PEER.into(), f);
        }
        let six = vpn("65000:7", "2001:db8:7::/48", 1007);
        speaker.advertise(PEER.into(), vpn("65000:7", "10.7.0.0/24", 1006), targeted("65000:100"), None);
        speaker.advertise(PEER.into(), six, targeted("65000:100"), None);
        let learnt = || vtysh(&["show bgp ipv6 vpn 2001:db8:7::/48"]);
        until("VPNv6 learnt", learnt, |a| ["RT:65000:100", "Remote label: 1007", "65101", "10.0.0.1"].iter().all(|t| a.contains(t))).await;
        until("VPNv4 learnt", || vtysh(&["show bgp ipv4 vpn 10.7.0.0/24"]), |a| a.contains("Remote label: 1006")).await;

        // One family's routes go, the others stay.
        vtysh(&["conf t", "router bgp 65000", "address-family ipv6 vpn", "no network 2001:db8:8::/48 rd 65000:8 label 1009"]);
        assert_eq!(lose(&mut events).await[0].to_string(), "65000:8 2001:db8:8::/48");
        speaker.refresh(PEER.into(), Family::Vpnv4);
        learn(&mut events, &["65000:8 10.8.0.0/24"]).await;
        speaker.withdraw(PEER.into(), six.key());
        until("withdrawn", learnt, |a| !a.contains("65101")).await;

        // RFC 8538: FRR means it, so it says Hard Reset, and its routes go.
        vtysh(&["clear bgp *"]);
        let (reason, graceful) = down(&mut events).await;
        assert!(reason.contains("hard reset") && !graceful, "{reason}");
        learn(&mut events, &["10.1.0.0/16", "2001:db8:1::/48", "65000:8 10.8.0.0/24"]).await;

        // We vanish and come back: FRR keeps our route until our End-of-RIB.
        speaker.shutdown(true).await;
        until(
            "helping",
            || vtysh(&["show bgp ipv4 vpn"]),
            |a| a.lines().any(|l| l.contains("10.7.0.0/24") && l.trim_start().starts_with('S')),
        )
        .await;
        let (speaker, mut events) = bgp_common::speaker(65000, PeerConfig { graceful_restart: restart(true), ..config });
        end_of_rib(&mut events, Family::Vpnv4).await;
        assert!(vtysh(&["show bgp ipv4 vpn"]).contains("10.7.0.0/24"));
        for f in [Family::Ipv4Unicast, Family::Ipv6Unicast, Family::Vpnv4, Family::Vpnv6] {
            speaker.release(PEER.into(), f);
        }
        until("swept", || vtysh(&["show bgp ipv4 vpn"]), |a| !a.contains("10.7.0.0/24")).await;
        speaker.shutdown(false).await;
    });
}

#[test]
#[ignore = "needs root, GoBGP and network namespaces; the lab's test command runs it"]
fn gobgp_says_which_routes_it_wants() {
    let mut wire = Wire::new();
    let dir = wire.path().to_str().unwrap().to_owned();
    let afi_safis: String = ["l3vpn-ipv4-unicast", "l3vpn-ipv6-unicast", "rtc"]
        .iter()
        .map(|name| format!("  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{name}\"\n"))
        .collect();
    let conf = format!(
        "[global.config]\n  as = 65000\n  router-id = \"{PEER}\"\n[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{WE}\"\n    peer-as = 65000\n\
         \x20 [neighbors.route-reflector.config]\n    route-reflector-client = true\n    route-reflector-cluster-id = \"{PEER}\"\n{afi_safis}"
    );
    std::fs::write(format!("{dir}/gobgpd.toml"), conf).unwrap();
    wire.start(&format!("gobgpd -f {dir}/gobgpd.toml"));
    let theirs = wire.theirs.clone();
    let gobgp = |words: &str| ask("ip", &[&["netns", "exec", &theirs, "gobgp"][..], &words.split(' ').collect::<Vec<_>>()].concat());

    wire.run(|| async move {
        let families = vec![Family::RouteTarget, Family::Vpnv4, Family::Vpnv6];
        let membership_wait = std::time::Duration::from_secs(1);
        let config =
            PeerConfig { local_address: Some(WE.into()), families: families.clone(), membership_wait, ..PeerConfig::new(PEER, 65000) };
        let (speaker, mut events) = speaker(65000, config);
        for f in families {
            speaker.release(PEER.into(), f);
        }
        let peer = IpAddr::from(PEER);
        let (red, blue): (RouteTarget, RouteTarget) = ("65000:1".parse().unwrap(), "65000:2".parse().unwrap());
        speaker.advertise(peer, Nlri::RouteTarget(RtMembership::new(65000, red)), Arc::default(), None);
        until("session", || gobgp("neighbor"), |a| a.contains("Establ")).await;
        until("membership", || gobgp("global rib -a rtc"), |a| a.contains("65000:1")).await;
        // GoBGP tells us what we asked for, and nothing else.
        gobgp("global rib -a vpnv4 add 172.16.2.0/24 label 1002 rd 65000:2 rt 65000:2 nexthop 10.0.0.2");
        gobgp("global rib -a vpnv4 add 172.16.1.0/24 label 1001 rd 65000:1 rt 65000:1 nexthop 10.0.0.2");
        gobgp("global rib -a vpnv6 add 2001:db8:6::/48 label 1006 rd 65000:1 rt 65000:1 nexthop ::ffff:10.0.0.2");
        let mut heard: Vec<String> = vec![];
        while !heard.iter().any(|k| k.contains("2001:db8:6::/48")) {
            if let Event::Update { reach, .. } = next(&mut events).await {
                heard.extend(reach.iter().map(|r| r.nlri.to_string()));
            }
        }
        assert!(
            heard.contains(&"65000:1 172.16.1.0/24 label 1001".to_owned()) && !heard.iter().any(|h| h.contains("172.16.2.0")),
            "{heard:?}"
        );
        // And what we then ask for as well.
        speaker.advertise(peer, Nlri::RouteTarget(RtMembership::new(65000, blue)), Arc::default(), None);
        while !heard.iter().any(|k| k.contains("172.16.2.0/24")) {
            if let Event::Update { reach, .. } = next(&mut events).await {
                heard.extend(reach.iter().map(|r| r.nlri.to_string()));
            }
        }
        // Ours to GoBGP: it has asked for nothing but what its own memberships say.
        gobgp("global rib -a rtc add 65000 65000:1");
        speaker.advertise(peer, vpn("65000:7", "10.7.0.0/24", 1007), targeted("65000:1"), None);
        speaker.advertise(peer, vpn("65000:7", "10.9.0.0/24", 1009), targeted("65000:9"), None);
        until("wanted", || gobgp("global rib -a vpnv4"), |a| a.contains("10.7.0.0/24")).await;
        assert!(!gobgp("global rib -a vpnv4").contains("10.9.0.0/24"));
        speaker.shutdown(false).await;
    });
}
