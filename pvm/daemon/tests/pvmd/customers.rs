//! Sites with several routers, of both families, with policy, BFD and everything else an operator asks for.

use crate::{
    ce::Ce,
    cvm::{tunnel, vpn_path, vpn_route},
    site::{CE, CE2, CE6, PE, PE6, Site, alone, neighbor, until},
};
use edgeplex_bfd::packet::{Control, Diagnostic, State};
use edgeplex_bgp_wire::{AsPath, Attributes};
use edgeplex_ff_fib_api::Target;
use edgeplex_mgmt::{
    config::{Bfd, PolicyAction, PolicyMatch, PolicyRule, PolicySet, PrefixRange, StaticRoute},
    show::{BfdRow, BgpNeighbor, PingOptions, PingReport, PvmQuery, Route},
};
use edgeplex_relay::VpnOp;
use edgeplex_types::Label;
use socket2::{Domain, Socket, Type};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// A site with two routers of IPv4 and one of IPv6, and a VPN with something in both families.
fn site() -> Site {
    let mut site = Site::new(true);
    site.config.addresses.push("2001:db8:1::1/64".parse().unwrap());
    site.config.bgp = vec![neighbor(CE, 65101), neighbor(CE2, 65102), neighbor(CE6, 65101)];
    let via: IpAddr = "2001:db8:1::9".parse().unwrap();
    site.config.static_routes.push(StaticRoute { prefix: "2001:db8:9::/48".parse().unwrap(), via, bfd: None });
    site.write();
    site.cvm.say(vec![
        VpnOp::OwnLabel { label: Label::try_from(1000).unwrap(), next_hop: None },
        VpnOp::OwnLabel { label: Label::try_from(1001).unwrap(), next_hop: Some(CE.into()) },
        tunnel(1),
        vpn_route("10.2.0.0/16", 2000, &[65201]),
        VpnOp::Route {
            prefix: "2001:db8:2::/48".parse().unwrap(),
            paths: vec![vpn_path(2001, &[65201]), vpn_path(2002, &[65201])],
            backup: vec![vpn_path(2003, &[65201, 7])],
        },
    ]);
    site.cvm.start();
    site
}

fn ces() -> [Ce; 3] {
    let ces = [Ce::start(CE, 65101, PE, None), Ce::start(CE2, 65102, PE, None), Ce::start(CE6, 65101, PE6, None)];
    ces.iter().for_each(Ce::release);
    ces
}

fn customer(next_hop: impl Into<IpAddr>) -> Option<Target> {
    Some(Target::Customer { next_hop: next_hop.into() })
}

#[test]
fn every_router_hears_of_the_vpn_and_of_the_others_in_the_family_of_its_session() {
    alone(async {
        let site = site();
        let [a, b, c] = ces();
        a.announce("10.1.0.0/16");
        b.announce("10.1.0.0/16");
        b.announce("10.3.0.0/16");
        c.announce("2001:db8:a::/48");
        let pvmd = site.pvmd();
        until("the CVM has all", || async {
            ["10.1.0.0/16", "10.3.0.0/16", "2001:db8:a::/48", "2001:db8:9::/48"].iter().all(|p| site.cvm.attributes(p).is_some())
        })
        .await;
        assert_eq!(site.cvm.next_hop("2001:db8:a::/48"), Some(CE6.into()));
        assert_eq!(site.cvm.next_hop("2001:db8:1::/64"), None);
        until("the routers have all", || async {
            a.has("10.2.0.0/16").is_some() && a.has("10.3.0.0/16").is_some() && c.has("2001:db8:2::/48").is_some()
        })
        .await;
        assert_eq!(a.path("10.3.0.0/16").as_deref(), Some("65000 65102 7"));
        let (attributes, next_hop) = c.has("2001:db8:2::/48").unwrap();
        assert_eq!((attributes.as_path.to_string().as_str(), next_hop), ("65000 65201", IpAddr::from(PE6)));
        assert!(c.heard.lock().unwrap().routes.keys().all(|p| p.addr().is_ipv6()));

        until("the FIB has all", || async { site.forward.epoch().is_some() && site.forward.target("2001:db8:a::/48").is_some() }).await;
        assert_eq!(site.forward.target("2001:db8:a::/48"), customer(CE6));
        assert_eq!(site.forward.target("2001:db8:1::1/128"), Some(Target::Local));
        let Some(Target::Vpn { paths, backup }) = site.forward.target("2001:db8:2::/48") else { panic!("not a VPN route") };
        assert_eq!((paths.len(), backup.len()), (2, 1));
        {
            let table = site.forward.table.lock().unwrap();
            let labels: Vec<_> = table.labels.iter().map(|(l, c)| (l.get(), *c)).collect();
            assert_eq!(labels, [(1000, None), (1001, Some(CE.into()))]);
            let addresses: Vec<String> = table.interface.as_ref().unwrap().addresses.iter().map(ToString::to_string).collect();
            assert_eq!(addresses, ["192.168.1.1/29", "2001:db8:1::1/64", "fe80::ff:fe00:9/64"]);
        }

        // Two tell the same: one is used, and the other takes over.
        assert_eq!(site.forward.target("10.1.0.0/16"), customer(CE));
        until("the other hears of it", || async { b.path("10.1.0.0/16").as_deref() == Some("65000 65101 7") }).await;
        a.withdraw("10.1.0.0/16");
        until("the other takes over", || async { site.forward.target("10.1.0.0/16") == customer(CE2) }).await;
        until("and is told to the first", || async { a.path("10.1.0.0/16").as_deref() == Some("65000 65102 7") }).await;
        let routes: Vec<Route> = site.ask(PvmQuery::Routes).await.unwrap();
        let row = |label: u32| routes.iter().find(|r| r.label.map(Label::get) == Some(label)).map(|r| (r.best, r.multipath, r.backup));
        assert_eq!([row(2001), row(2002), row(2003)], [Some((true, false, false)), Some((false, true, false)), Some((false, false, true))]);
        pvmd.terminate().await;
    });
}

fn rule(prefix: &str, set: PolicySet, action: PolicyAction) -> PolicyRule {
    let range = PrefixRange { prefix: prefix.parse().unwrap(), ge: None, le: None };
    PolicyRule { r#match: PolicyMatch { prefixes: vec![range], ..PolicyMatch::default() }, set, action }
}

#[test]
fn another_policy_is_applied_to_what_is_known_without_a_word_to_the_router() {
    alone(async {
        let mut site = site();
        let [a, b, _c] = ces();
        for prefix in ["10.1.0.0/16", "10.4.0.0/16"] {
            a.announce(prefix);
            b.announce(prefix);
        }
        a.announce_with(
            "10.5.0.0/16",
            Attributes { as_path: AsPath::sequence([65101]), communities: vec![0xfde8_0007], ..Attributes::default() },
        );
        let pvmd = site.pvmd();
        until("all is known", || async {
            site.forward.target("10.1.0.0/16") == customer(CE)
                && site.cvm.attributes("10.5.0.0/16").is_some()
                && a.has("10.2.0.0/16").is_some()
        })
        .await;
        until("the others hear of it", || async { b.has("10.5.0.0/16").is_some() }).await;

        let prefer =
            PolicySet { local_pref: Some(200), prepend: 1, add_communities: vec!["65000:9".parse().unwrap()], ..PolicySet::default() };
        site.config.bgp[1].import =
            vec![rule("10.1.0.0/16", prefer, PolicyAction::Accept), rule("10.4.0.0/16", PolicySet::default(), PolicyAction::Reject)];
        let with = PolicyMatch { communities: vec!["65000:7".parse().unwrap()], ..PolicyMatch::default() };
        site.config.bgp[0].import = vec![PolicyRule { r#match: with, set: PolicySet::default(), action: PolicyAction::Reject }];
        let worse = PolicySet { prepend: 2, med: Some(50), ..PolicySet::default() };
        site.config.bgp[0].export = vec![rule("10.2.0.0/16", worse, PolicyAction::Accept)];
        site.reload().await;
        until("the preferred one is used", || async { site.forward.target("10.1.0.0/16") == customer(CE2) }).await;
        until("the CVM gets what the policy makes", || async {
            site.cvm.attributes("10.1.0.0/16").is_some_and(|x| {
                (x.local_pref, x.as_path.to_string().as_str(), x.communities.as_slice()) == (Some(200), "65102 65102 7", &[0xfde8_0009])
            })
        })
        .await;
        until("what is rejected goes everywhere", || async {
            site.cvm.attributes("10.5.0.0/16").is_none() && site.forward.target("10.5.0.0/16").is_none() && b.has("10.5.0.0/16").is_none()
        })
        .await;
        until("and what is told is told anew", || async { a.path("10.2.0.0/16").as_deref() == Some("65000 65000 65000 65201") }).await;
        assert_eq!(a.has("10.2.0.0/16").unwrap().0.med, Some(50));
        assert_eq!(b.path("10.2.0.0/16").as_deref(), Some("65000 65201"));

        site.config.bgp.iter_mut().for_each(|b| (b.import, b.export) = (vec![], vec![]));
        site.reload().await;
        until("without policy all is as before", || async {
            site.forward.target("10.1.0.0/16") == customer(CE)
                && b.has("10.5.0.0/16").is_some()
                && a.path("10.2.0.0/16").as_deref() == Some("65000 65201")
        })
        .await;
        for ce in [&a, &b] {
            let heard = ce.heard.lock().unwrap();
            assert_eq!((heard.ups, heard.downs.len()), (1, 0), "{:?}", heard.downs);
        }
        // The limit counts what the CE sends, whatever the policy makes of it.
        let neighbors: Vec<BgpNeighbor> = site.ask(PvmQuery::Bgp).await.unwrap();
        assert_eq!(neighbors.iter().map(|n| n.prefixes_received).collect::<Vec<_>>(), [3, 2, 0]);
        pvmd.terminate().await;
    });
}

#[test]
fn a_site_of_two_routers_an_originated_default_and_a_shut_down_neighbor() {
    alone(async {
        let mut site = site();
        for b in &mut site.config.bgp[..2] {
            b.site_of_origin = Some("65000:77".parse().unwrap());
        }
        site.config.bgp[1].default_originate = true;
        site.write();
        let [a, b, c] = ces();
        a.announce("10.1.0.0/16");
        let pvmd = site.pvmd();
        until("the default route", || async { b.path("0.0.0.0/0").as_deref() == Some("65000") }).await;
        until("the VPN's route", || async { a.has("10.2.0.0/16").is_some() && b.has("10.2.0.0/16").is_some() }).await;
        until("the CVM has the site's mark", || async {
            site.cvm.attributes("10.1.0.0/16").is_some_and(|x| x.ext_communities == [[0, 3, 0xfd, 0xe8, 0, 0, 0, 77]])
        })
        .await;
        assert!(b.has("10.1.0.0/16").is_none() && a.has("0.0.0.0/0").is_none() && c.has("::/0").is_none());

        site.config.bgp[0].shutdown = Some("moving to another rack".into());
        site.config.bgp[1].default_originate = false;
        site.reload().await;
        until("the neighbor is told why", || async {
            a.heard.lock().unwrap().downs.iter().any(|(why, kept)| why.contains("moving to another rack") && !kept)
        })
        .await;
        until("its routes go", || async { site.forward.target("10.1.0.0/16").is_none() }).await;
        until("the default route goes", || async { b.has("0.0.0.0/0").is_none() }).await;
        until("the others are up", || async { site.status().await.bgp == "established" }).await;
        site.config.bgp.remove(0);
        site.reload().await;
        let neighbors: Vec<BgpNeighbor> = site.ask(PvmQuery::Bgp).await.unwrap();
        assert_eq!(neighbors.iter().map(|n| n.address).collect::<Vec<_>>(), [IpAddr::from(CE2), CE6.into()]);
        pvmd.terminate().await;
    });
}

/// A CE's BFD, as simple as it can be: answers, and says something every 20 ms, until it is aborted.
fn bfd_of(own: IpAddr) -> JoinHandle<()> {
    // pvmd has the same port on all addresses.
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    // RFC 5881 §5, and what multihop sessions here want at least.
    socket.set_ttl_v4(255).unwrap();
    socket.bind(&SocketAddr::new(own, 4784).into()).unwrap();
    let socket = UdpSocket::from_std(socket.into()).unwrap();
    tokio::spawn(async move {
        let mut say = Control {
            diagnostic: Diagnostic::NONE,
            state: State::Down,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            detect_multiplier: 3,
            my_discriminator: 7,
            your_discriminator: 0,
            desired_min_tx_us: 20_000,
            required_min_rx_us: 20_000,
            required_min_echo_rx_us: 0,
        };
        let mut buffer = [0; 64];
        loop {
            let heard = tokio::time::timeout(Duration::from_millis(20), socket.recv_from(&mut buffer)).await;
            if let Ok(Ok((n, _))) = heard
                && let Ok(packet) = Control::decode(&buffer[..n])
            {
                say.your_discriminator = packet.my_discriminator;
                say.state = match packet.state {
                    State::Down => State::Init,
                    State::Init | State::Up => State::Up,
                    State::AdminDown => State::Down,
                };
                say.is_final = packet.poll;
            }
            let _ = socket.send_to(&say.encode(), SocketAddr::new(PE.into(), 4784)).await;
            say.is_final = false;
        }
    })
}

#[test]
fn bfd_that_fails_ends_the_session_and_the_static_route_at_once() {
    alone(async {
        let mut site = site();
        let fast = Some(Bfd { interval_ms: 50, multiplier: 3 });
        site.config.bgp[0].bfd = fast;
        site.config.static_routes[0].bfd = fast;
        site.write();
        let [a, b, _c] = ces();
        a.announce("10.1.0.0/16");
        b.announce("10.3.0.0/16");
        let pvmd = site.pvmd();
        until("the routes", || async { site.forward.target("10.1.0.0/16").is_some() && site.forward.target("10.3.0.0/16").is_some() })
            .await;
        assert_eq!(site.forward.target("10.9.0.0/16"), None, "no static route before BFD is up");
        let bfd = bfd_of(CE.into());
        until("the static route", || async {
            site.forward.target("10.9.0.0/16").is_some() && site.cvm.attributes("10.9.0.0/16").is_some()
        })
        .await;
        let rows: Vec<BfdRow> = site.ask(PvmQuery::Bfd).await.unwrap();
        assert_eq!(rows.iter().map(|r| (r.address, r.state.as_str(), r.clients.len())).collect::<Vec<_>>(), [(CE.into(), "up", 2)]);

        // The CE has graceful restart, and its TCP connection stands: still its routes go, and the hold time is not waited for.
        bfd.abort();
        until("the routes go", || async { site.forward.target("10.1.0.0/16").is_none() && site.forward.target("10.9.0.0/16").is_none() })
            .await;
        until("the session is ended", || async { !a.heard.lock().unwrap().downs.is_empty() }).await;
        until("the CVM hears of it", || async { site.cvm.attributes("10.9.0.0/16").is_none() }).await;
        assert!(site.forward.target("10.3.0.0/16").is_some() && b.heard.lock().unwrap().downs.is_empty());

        // Without BFD the static route is there again.
        site.config.bgp[0].bfd = None;
        site.config.static_routes[0].bfd = None;
        site.reload().await;
        until("the static route", || async { site.forward.target("10.9.0.0/16").is_some() }).await;
        until("the session", || async { site.forward.target("10.1.0.0/16").is_some() }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_watched_static_route_survives_a_restart_of_pvmd() {
    alone(async {
        let mut site = Site::new(false);
        site.config.static_routes[0].bfd = Some(Bfd { interval_ms: 50, multiplier: 3 });
        site.write();
        site.cvm.start();
        let bfd = bfd_of(CE.into());
        let pvmd = site.pvmd();
        until("the route", || async { site.cvm.attributes("10.9.0.0/16").is_some() && site.forward.target("10.9.0.0/16").is_some() }).await;
        until("the snapshots are complete", || async { site.cvm.ends() == 1 && site.forward.epoch().is_some() }).await;
        let first = site.forward.epoch();
        pvmd.terminate().await;
        let pvmd = site.pvmd();
        until("the next snapshots are complete", || async { site.cvm.ends() == 2 && site.forward.epoch() > first }).await;
        assert_eq!(site.forward.table.lock().unwrap().lost, []);
        assert_eq!(site.cvm.table.lock().unwrap().lost, []);
        pvmd.terminate().await;
        bfd.abort();
    });
}

#[test]
fn ping_and_traceroute_leave_from_the_attachments_address_a_few_at_a_time() {
    alone(async {
        let site = site();
        let pvmd = site.pvmd();
        until("pvmd is there", || async { site.forward.epoch().is_some() }).await;
        let options = PingOptions { count: 3, interval_ms: 10, timeout_ms: 2000, max_hops: 5 };
        for to in [IpAddr::from(CE), CE6.into()] {
            let report: PingReport = site.ask(PvmQuery::Ping { to, options: options.clone() }).await.unwrap();
            assert_eq!((report.sent, report.received), (3, 3), "{report:?}");
            assert!(report.probes.iter().all(|p| p.outcome == "echo-reply" && p.last && p.from == Some(to) && p.rtt_us.is_some()));
            let report: PingReport = site.ask(PvmQuery::Traceroute { to, options: options.clone() }).await.unwrap();
            assert_eq!(report.probes.iter().map(|p| (p.number, p.last)).collect::<Vec<_>>(), [(1, true)], "{report:?}");
        }
        let nowhere: PingReport = site.ask(PvmQuery::Ping { to: "10.77.0.1".parse().unwrap(), options: options.clone() }).await.unwrap();
        assert!(nowhere.received == 0 && nowhere.probes[0].outcome.starts_with("not sent"), "{nowhere:?}");
        let refused = |query| async { site.ask::<PingReport>(query).await.unwrap_err() };
        let bad = PingOptions { count: 0, ..options.clone() };
        assert!(refused(PvmQuery::Ping { to: CE.into(), options: bad }).await.contains("count"));
        let all = IpAddr::from([224, 0, 0, 1]);
        assert!(refused(PvmQuery::Traceroute { to: all, options: options.clone() }).await.contains("unicast"));

        // Of five that last, one is refused, and the others hold their places until the askers go away.
        let slow = PvmQuery::Ping { to: CE.into(), options: PingOptions { count: 1000, interval_ms: 500, ..options.clone() } };
        let five: Vec<_> = (0..5).map(|_| Box::pin(site.ask::<PingReport>(slow.clone()))).collect();
        let (first, _, others) = futures::future::select_all(five).await;
        assert!(first.unwrap_err().contains("try again later"));
        drop(others);
        until("their places are free again", || async {
            site.ask::<PingReport>(PvmQuery::Ping { to: CE.into(), options: options.clone() }).await.is_ok()
        })
        .await;
        pvmd.terminate().await;
    });
}
