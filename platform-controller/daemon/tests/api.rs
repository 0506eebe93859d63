//! The API over VMs that answer by rote.

#![allow(clippy::unwrap_used)]

#[path = "world/bench.rs"]
mod bench;
#[path = "../../intent/tests/common/mod.rs"]
mod common;
#[path = "world/still.rs"]
mod still;

use bench::bench;
use edgeplex_api::{
    Abort, Begun, BfdSession, ClientError, Drain, InstanceRow, LspProbe, Migrate, Outcome, Shown, Started, Status, UnitMove, VpnProbe,
    Whose,
};
use edgeplex_mgmt::show::{OspfRouteRow, PingOptions, PingReport};
use edgeplex_runtime::{Reach, VmKind};
use serde_json::{Value, json};
use std::fs;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

fn bfd(address: &str) -> Value {
    json!([{"address": address, "interface": null, "state": "up", "up_s": 1, "clients": ["bgp"], "transmit_us": 1, "detection_us": 3,
        "local_discriminator": 1, "remote_discriminator": 2, "diagnostic": "none", "remote_diagnostic": "none", "downs": 0,
        "packets_received": 1, "packets_sent": 1}])
}

fn report() -> Value {
    json!({"sent": 1, "received": 1, "probes": [{"number": 1, "from": "10.0.0.2", "rtt_us": 5, "outcome": "echo-reply", "last": true}]})
}

fn full() -> String {
    [common::FULL_PLATFORM, common::INTERNET, common::FULL_ACME].join("---\n")
}

#[tokio::test]
async fn the_core_is_shown_by_the_cvm_while_that_runs() {
    let b = bench(&full()).await;
    let shown: Shown<OspfRouteRow> = b.client.get("/v1/show/ospf-routes").await.unwrap();
    assert_eq!((shown.rows.len(), shown.unreachable), (0, vec!["cvm: VM cvm-g1 does not run".to_owned()]));
    let route = json!([{"prefix": "10.255.0.3/32", "kind": "intra-area", "cost": 2, "next_hops": [], "backup": []}]);
    b.run("cvm-g1", VmKind::Cvm, vec![("ospf-routes", route), ("bfd", bfd("10.255.0.9"))]).await;
    let shown: Shown<OspfRouteRow> = b.client.get("/v1/show/ospf-routes").await.unwrap();
    assert_eq!((shown.rows[0].cost, shown.unreachable.len()), (2, 0));

    // A socket of a VM that has died is not trusted: its process number may be another's.
    b.runtime.crash(&"cvm-g1".parse().unwrap());
    let shown: Shown<OspfRouteRow> = b.client.get("/v1/show/ospf-routes").await.unwrap();
    assert_eq!(shown.unreachable, ["cvm: VM cvm-g1 does not run"]);
}

#[tokio::test]
async fn bfd_is_of_all_or_of_one() {
    let b = bench(&full()).await;
    b.run("cvm-g1", VmKind::Cvm, vec![("bfd", bfd("10.255.0.9"))]).await;
    b.run("pvm-acme-hub-g1", VmKind::Pvm, vec![("bfd", bfd("192.168.1.2"))]).await;
    let owners = |s: &Shown<BfdSession>| s.rows.iter().map(|r| r.owner.clone()).collect::<Vec<_>>();
    let all: Shown<BfdSession> = b.client.get("/v1/show/bfd").await.unwrap();
    assert_eq!(
        (owners(&all), all.unreachable),
        (vec!["cvm".into(), "acme/hub".into()], vec!["internet/gw: VM pvm-internet-gw-g1 does not run".into()])
    );
    let one: Shown<BfdSession> = b.client.get("/v1/show/bfd?attachment=acme/hub").await.unwrap();
    assert_eq!((owners(&one), one.unreachable.len()), (vec!["acme/hub".into()], 0));
    let error = b.client.get::<Shown<BfdSession>>("/v1/show/bfd?attachment=acme/spoke").await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(f) if f.message.contains("no such attachment; there are: acme/hub, internet/gw")),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_not_configured_is_said_with_what_would_be() {
    let b = bench(&common::both()).await;
    for (what, says) in [
        ("ospf-neighbors", "OSPF is not configured on Platform denver; give it spec.ospf"),
        ("ldp-bindings", "LDP is not configured on Platform denver; give it spec.ldp"),
        ("forwarding", "LDP is not configured"),
    ] {
        let error = b.client.get::<Shown<Value>>(&format!("/v1/show/{what}")).await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused(f) if f.message.starts_with(says)), "{what}: {error}");
    }
    let probe = LspProbe { prefix: "10.255.0.3/32".parse().unwrap(), options: PingOptions::default() };
    let error = b.client.post::<_, PingReport>("/v1/lsp/ping", &probe).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(f) if f.message.starts_with("LDP is not configured")), "{error}");
}

#[tokio::test]
async fn probes_go_to_the_vm_that_can_send_them_and_mistakes_to_none() {
    let b = bench(&full()).await;
    b.run("cvm-g1", VmKind::Cvm, vec![("lsp-ping", report()), ("lsp-traceroute", report())]).await;
    b.run("pvm-acme-hub-g1", VmKind::Pvm, vec![("ping", report()), ("traceroute", report())]).await;
    let vpn = |attachment: &str, to: &str| VpnProbe {
        attachment: attachment.parse().unwrap(),
        to: to.parse().unwrap(),
        options: PingOptions::default(),
    };
    for path in ["/v1/ping", "/v1/traceroute"] {
        assert_eq!(b.client.post::<_, PingReport>(path, &vpn("acme/hub", "2001:db8:7::1")).await.unwrap().received, 1);
    }
    let lsp = |prefix: &str| LspProbe { prefix: prefix.parse().unwrap(), options: PingOptions::default() };
    for path in ["/v1/lsp/ping", "/v1/lsp/traceroute"] {
        assert_eq!(b.client.post::<_, PingReport>(path, &lsp("10.255.0.3/32")).await.unwrap().sent, 1);
    }
    let refused = |error: ClientError, says: &str| {
        assert!(matches!(&error, ClientError::Refused(f) if f.message.contains(says)), "{says}: {error}");
    };
    let ask = async |body: VpnProbe| b.client.post::<_, PingReport>("/v1/ping", &body).await.unwrap_err();
    refused(ask(vpn("acme/spoke", "10.0.0.1")).await, "attachment: `acme/spoke`: no such attachment; there are: acme/hub, internet/gw");
    refused(ask(vpn("internet/gw", "2001:db8::1")).await, "to: `2001:db8::1`: internet/gw has no address of that family");
    let often = VpnProbe { options: PingOptions { count: 5000, ..PingOptions::default() }, ..vpn("acme/hub", "10.0.0.1") };
    refused(ask(often).await, "count: `5000`: must be 1 to 1000");
    refused(
        b.client.post::<_, PingReport>("/v1/lsp/ping", &lsp("10.255.0.3/24")).await.unwrap_err(),
        "has host bits set; must be 10.255.0.0/24",
    );
    let down = ask(vpn("internet/gw", "10.0.0.1")).await;
    assert!(matches!(&down, ClientError::Failed(f) if f.message == "VM pvm-internet-gw-g1 does not run"), "{down}");
}

#[tokio::test]
async fn status_names_the_router_once_it_answers() {
    let b = bench(&full()).await;
    b.run("lsr", VmKind::Lsr, vec![]).await;
    assert_eq!(b.client.get::<Status>("/v1/status").await.unwrap().lsr, None);
    fs::create_dir(b.dir.path().join("lsr")).unwrap();
    let listener = UnixListener::bind(b.dir.path().join("lsr/fib.sock")).unwrap();
    let said =
        edgeplex_ff_fib_api::Status { uptime_ms: 5000, epoch: Some(Default::default()), routes: 0, tunnels: 2, fib_bytes: 0, labels: 3 };
    let said = edgeplex_ff_fib_api::encode_reply(&edgeplex_ff_fib_api::Reply::Status(said)).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(&said).await.unwrap();
        stream.read_to_end(&mut vec![]).await
    });
    let status: Status = b.client.get("/v1/status").await.unwrap();
    let lsr = status.lsr.unwrap();
    assert_eq!((lsr.uptime_s, lsr.programmed, lsr.labels, lsr.tunnels), (5, true, 3, 2));
    assert_eq!(status.vms[0].id, "lsr");
}

#[tokio::test]
async fn moves_begin_and_are_taken_back_and_mistakes_are_named() {
    let b = bench(&full()).await;
    let rows: Vec<InstanceRow> = b.client.get("/v1/instances").await.unwrap();
    let told: Vec<_> = rows.iter().map(|r| (r.vm.as_str(), r.place.as_str(), r.state.as_str())).collect();
    assert_eq!(told, ["cvm-g1", "pvm-acme-hub-g1", "pvm-internet-gw-g1"].map(|vm| (vm, "active", "absent")));
    let migrate = |whose: Whose, to: &str| Migrate { whose, to: to.into() };
    let hub = || Whose::Attachment("acme/hub".parse().unwrap());
    let ask = async |body: Migrate| b.client.post::<_, Begun>("/v1/migrate", &body).await;
    for (body, says) in [
        (migrate(hub(), "west"), "host: `west`: no such host; there are: local"),
        (migrate(Whose::Customer("zeta".parse().unwrap()), "local"), "customer: `zeta`: no such customer; there are: acme, internet"),
        (migrate(Whose::Attachment("acme/spoke".parse().unwrap()), "local"), "no such attachment; there are: cvm, acme/hub, internet/gw"),
    ] {
        let error = ask(body).await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused(f) if f.message.contains(says)), "{says}: {error}");
    }
    b.fleet.know(&[bench::host("west")]);
    b.west.set_reach(Reach::Lost);
    let down = ask(migrate(hub(), "west")).await.unwrap_err();
    assert!(matches!(&down, ClientError::Refused(f) if f.message.starts_with("host west is down: ")), "{down}");
    b.fleet.know(&[]);
    let abort = async || b.client.post::<_, Begun>("/v1/abort", &Abort { whose: hub() }).await;
    assert!(matches!(abort().await.unwrap_err(), ClientError::Refused(f) if f.message == "acme/hub is not moving"));
    let started = ask(migrate(hub(), "local")).await.unwrap();
    assert_eq!(started, Begun { moves: vec![Started { unit: "acme/hub".into(), id: 1 }], stay: vec![] });
    let again = ask(migrate(hub(), "local")).await.unwrap_err();
    assert!(matches!(&again, ClientError::Refused(f) if f.message.contains("move 1 is under way, at prepare")), "{again}");
    assert_eq!(abort().await.unwrap(), started);
    let ended = async || b.client.get::<Vec<UnitMove>>("/v1/moves").await.unwrap();
    let over = async {
        while ended().await[0].report.outcome == Outcome::UnderWay {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), over).await.unwrap();
    let all = ended().await;
    assert_eq!((all.len(), all[0].report.outcome, all[0].unit.as_str()), (1, Outcome::Aborted, "acme/hub"));
    let only = b.client.post::<_, Begun>("/v1/drain", &Drain { host: "local".into(), undo: false }).await.unwrap_err();
    assert!(matches!(&only, ClientError::Refused(f) if f.message.contains("no other host")), "{only}");
}
