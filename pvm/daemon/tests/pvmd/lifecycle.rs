//! One CE, or none: what each gets, and what each keeps when another dies.

use crate::{
    ce::Ce,
    cvm::{tunnel, vpn_route},
    site::{CE, LIMIT, PE, Site, alone, until},
};
use edgeplex_ff_fib_api::Target;
use edgeplex_mgmt::show::{PvmQuery, Reloaded, Route, Source};
use edgeplex_relay::VpnOp;
use edgeplex_types::Label;
use std::net::IpAddr;

fn vpn() -> Vec<VpnOp> {
    vec![VpnOp::OwnLabel { label: Label::try_from(1000).unwrap(), next_hop: None }, tunnel(1), vpn_route("10.2.0.0/16", 2000, &[65102])]
}

#[test]
fn without_bgp_static_and_connected_go_up_and_vpn_routes_come_down() {
    alone(async {
        let mut site = Site::new(false);
        site.cvm.say(vpn());
        site.cvm.start();
        let pvmd = site.pvmd();
        until("the FIB has all", || async { site.forward.epoch().is_some() && site.forward.target("10.2.0.0/16").is_some() }).await;
        assert_eq!(site.forward.target("10.9.0.0/16"), Some(Target::Customer { next_hop: CE.into() }));
        assert_eq!(site.forward.target(&format!("{}/32", PE)), Some(Target::Local));
        assert_eq!(site.forward.target("192.168.1.0/29"), Some(Target::Connected));
        assert!(matches!(site.forward.target("10.2.0.0/16"), Some(Target::Vpn { paths, .. }) if paths[0].label.get() == 2000));
        assert_eq!(site.forward.table.lock().unwrap().labels.first_key_value().map(|(l, c)| (l.get(), *c)), Some((1000, None)));
        until("the CVM has all", || async { site.cvm.ends() == 1 }).await;
        let exported: Vec<String> = site.cvm.table.lock().unwrap().routes.iter().map(|(p, _)| p.to_string()).collect();
        assert_eq!(exported, ["10.9.0.0/16", "192.168.1.0/29"]);
        let status = site.status().await;
        assert_eq!((status.bgp.as_str(), status.vpn_routes, status.fib_routes, status.relay_up, status.fib_up), ("none", 1, 4, true, true));
        let routes: Vec<Route> = site.ask(PvmQuery::Routes).await.unwrap();
        assert!(routes.iter().any(|r| r.source == Source::Vpn && r.best && r.route_targets.len() == 1 && r.as_path == "65102"));
        pvmd.terminate().await;
    });
}

#[test]
fn a_forwarder_that_lost_its_fib_is_filled_at_once() {
    alone(async {
        let mut site = Site::new(false);
        site.cvm.say(vpn());
        site.cvm.start();
        let pvmd = site.pvmd();
        until("first table", || async { site.forward.target("10.2.0.0/16").is_some() }).await;
        site.forward.crash().await;
        until("second table", || async { site.forward.epoch().is_some() && site.forward.target("10.2.0.0/16").is_some() }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_refused_batch_starts_the_snapshot_over() {
    alone(async {
        let site = Site::new(false);
        site.forward.table.lock().unwrap().refuse = 1;
        let pvmd = site.pvmd();
        until("the table after all", || async { site.forward.target("10.9.0.0/16").is_some() }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn routes_survive_the_cvm_and_are_told_to_the_next_one() {
    alone(async {
        let mut site = Site::new(false);
        site.cvm.say(vpn());
        site.cvm.start();
        let pvmd = site.pvmd();
        until("first session", || async { site.cvm.ends() == 1 && site.forward.target("10.2.0.0/16").is_some() }).await;
        site.cvm.stop().await;
        until("pvmd notices", || async { !site.status().await.relay_up }).await;
        // Local routing goes on meanwhile.
        site.config.static_routes.clear();
        site.reload().await;
        until("the static route leaves the FIB", || async { site.forward.target("10.9.0.0/16").is_none() }).await;
        assert!(site.forward.target("10.2.0.0/16").is_some());
        // The next CVM has other routes; what it does not repeat is swept at its End.
        site.cvm.say(vec![tunnel(1), vpn_route("10.3.0.0/16", 2001, &[65102])]);
        site.cvm.start();
        until("the new route", || async { site.forward.target("10.3.0.0/16").is_some() && site.forward.target("10.2.0.0/16").is_none() })
            .await;
        until("the CVM sweeps what was reloaded away", || async { site.cvm.attributes("10.9.0.0/16").is_none() }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_damaged_configuration_is_refused_and_changes_nothing() {
    alone(async {
        let site = Site::new(false);
        let pvmd = site.pvmd();
        until("the table", || async { site.forward.target("10.9.0.0/16").is_some() }).await;
        std::fs::write(site.dir.path().join("config.json"), b"{\"version\":1").unwrap();
        assert!(site.ask::<Reloaded>(PvmQuery::Reload).await.unwrap_err().contains("config.json"));
        assert!(site.forward.target("10.9.0.0/16").is_some() && pvmd.alive());
        pvmd.terminate().await;
    });
}

#[test]
fn a_ce_and_the_vpn_hear_of_each_other() {
    alone(async {
        let mut site = Site::new(true);
        site.cvm.say(vpn());
        site.cvm.start();
        let ce = Ce::start(CE, 65101, PE, None);
        ce.announce("10.1.0.0/16");
        ce.release();
        let pvmd = site.pvmd();
        until("the CVM has the customer's route", || async { site.cvm.attributes("10.1.0.0/16").is_some() }).await;
        assert_eq!(site.cvm.attributes("10.1.0.0/16").unwrap().as_path.to_string(), "65101 7");
        assert_eq!(site.forward.target("10.1.0.0/16"), Some(Target::Customer { next_hop: CE.into() }));
        until("the CE has the VPN's route", || async { ce.has("10.2.0.0/16").is_some() }).await;
        let (attributes, next_hop) = ce.has("10.2.0.0/16").unwrap();
        assert_eq!((attributes.as_path.to_string().as_str(), next_hop), ("65000 65102", IpAddr::from(PE)));
        assert_eq!((attributes.local_pref, attributes.ext_communities.len()), (None, 0));
        // Neither connected nor static routes, and nothing of its own.
        assert_eq!(ce.heard.lock().unwrap().routes.len(), 1);
        ce.withdraw("10.1.0.0/16");
        until("the CVM hears the withdrawal", || async { site.cvm.attributes("10.1.0.0/16").is_none() }).await;
        until("and so does the FIB", || async { site.forward.target("10.1.0.0/16").is_none() }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_restart_of_pvmd_loses_no_route_anywhere() {
    alone(async {
        let mut site = Site::new(true);
        site.cvm.say(vpn());
        site.cvm.start();
        let ce = Ce::start(CE, 65101, PE, None);
        ce.announce("10.1.0.0/16");
        ce.announce("10.5.0.0/16");
        ce.release();
        let pvmd = site.pvmd();
        until("all have all", || async { site.cvm.attributes("10.5.0.0/16").is_some() && ce.has("10.2.0.0/16").is_some() }).await;
        until("the snapshots are complete", || async { site.cvm.ends() == 1 && site.forward.epoch().is_some() }).await;
        let first = site.forward.epoch();

        // The CE's table shrinks while pvmd is away, and the CVM is slow to complete its own.
        site.cvm.hold_end(true);
        pvmd.terminate().await;
        until("the CE keeps the routes", || async { ce.heard.lock().unwrap().downs.len() == 1 }).await;
        assert!(ce.heard.lock().unwrap().downs[0].1, "{:?}", ce.heard.lock().unwrap().downs);
        ce.withdraw("10.5.0.0/16");
        let pvmd = site.pvmd();
        until("the CE's table is swept at the CVM", || async { site.cvm.attributes("10.5.0.0/16").is_none() }).await;
        assert_eq!(site.cvm.ends(), 2);
        // Until the CVM is done: no End to FastForward, no End-of-RIB to the CE.
        assert_eq!(site.forward.epoch(), first);
        assert_eq!(ce.heard.lock().unwrap().ends, 1);
        site.cvm.hold_end(false);
        until("the FIB is swept", || async { site.forward.epoch() > first && site.forward.target("10.5.0.0/16").is_none() }).await;
        until("the CE has the whole table again", || async { ce.heard.lock().unwrap().ends == 2 }).await;
        let gone = "10.5.0.0/16".parse().unwrap();
        assert_eq!(site.forward.table.lock().unwrap().lost, [gone]);
        assert_eq!(site.cvm.lost(), ["10.5.0.0/16"]);
        assert!(ce.has("10.2.0.0/16").is_some());
        pvmd.terminate().await;
    });
}

#[test]
fn routes_of_a_restarting_ce_are_kept_and_those_of_a_ce_that_resigns_are_not() {
    alone(async {
        let mut site = Site::new(true);
        site.cvm.start();
        let ce = Ce::start(CE, 65101, PE, None);
        ce.announce("10.1.0.0/16");
        ce.release();
        let pvmd = site.pvmd();
        until("the route", || async { site.cvm.attributes("10.1.0.0/16").is_some() && site.cvm.ends() == 1 }).await;
        ce.stop(true).await;
        until("the route is stale", || async {
            let routes: Vec<Route> = site.ask(PvmQuery::Routes).await.unwrap();
            let status = site.status().await;
            status.bgp != "established" && routes.iter().any(|r| r.source == Source::Bgp && r.best)
        })
        .await;
        assert!(site.forward.target("10.1.0.0/16").is_some() && site.cvm.attributes("10.1.0.0/16").is_some());

        let ce = Ce::start(CE, 65101, PE, None);
        ce.announce("10.6.0.0/16");
        ce.release();
        until("what the CE did not repeat goes", || async {
            site.cvm.attributes("10.6.0.0/16").is_some() && site.cvm.attributes("10.1.0.0/16").is_none()
        })
        .await;
        ce.stop(false).await;
        until("a CE that says goodbye takes its routes along", || async { site.forward.target("10.6.0.0/16").is_none() }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_flood_of_prefixes_ends_that_session_and_nothing_else() {
    alone(async {
        let mut site = Site::new(true);
        site.cvm.say(vpn());
        site.cvm.start();
        let ce = Ce::start(CE, 65101, PE, None);
        for i in 0..5000u32 {
            ce.announce(&format!("{}/24", std::net::Ipv4Addr::from(0x1400_0000 + (i << 8))));
        }
        ce.release();
        let pvmd = site.pvmd();
        until("the session ends", || async { !ce.heard.lock().unwrap().downs.is_empty() }).await;
        until("its routes go", || async { site.status().await.customer_routes == 0 }).await;
        until("the FIB keeps the others", || async { site.forward.table.lock().unwrap().routes.len() == 4 }).await;
        assert!(site.forward.target("10.2.0.0/16").is_some() && pvmd.alive());
        let neighbors: Vec<edgeplex_mgmt::show::BgpNeighbor> = site.ask(PvmQuery::Bgp).await.unwrap();
        assert!(neighbors[0].last_error.is_some(), "{neighbors:?}");
        pvmd.terminate().await;
    });
}

#[test]
fn a_reload_ends_the_session_only_if_it_is_another_one() {
    alone(async {
        let mut site = Site::new(true);
        site.cvm.start();
        let ce = Ce::start(CE, 65101, PE, None);
        ce.announce("10.1.0.0/16");
        ce.release();
        let pvmd = site.pvmd();
        until("the route", || async { site.cvm.attributes("10.1.0.0/16").is_some() }).await;
        site.config.static_routes[0].prefix = "10.8.0.0/16".parse().unwrap();
        site.config.bgp[0].max_prefix.as_mut().unwrap().limit = 2000;
        site.reload().await;
        until("the new static route", || async { site.cvm.attributes("10.8.0.0/16").is_some() }).await;
        assert_eq!(site.cvm.attributes("10.9.0.0/16"), None);
        assert_eq!(ce.heard.lock().unwrap().downs, []);

        site.config.bgp[0].password = Some("secret".into());
        site.reload().await;
        until("the session ends", || async { ce.heard.lock().unwrap().downs.len() == 1 }).await;
        until("the CE's routes go", || async { site.forward.target("10.1.0.0/16").is_none() }).await;
        ce.stop(false).await;
        let ce = Ce::start(CE, 65101, PE, Some("secret"));
        ce.announce("10.1.0.0/16");
        ce.release();
        until("with the password it is back", || async { site.forward.target("10.1.0.0/16").is_some() }).await;
        assert!(tokio::time::timeout(LIMIT, pvmd.terminate()).await.is_ok());
    });
}
