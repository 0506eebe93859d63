use super::*;
use crate::Ports;
use edgeplex_ff_fib_api::Status;
use std::time::Duration;

/// A configuration with one neighbour, in a directory of its own.
fn daemon() -> (tempfile::TempDir, Pvmd) {
    let dir = tempfile::tempdir().unwrap();
    let keys = edgeplex_transport::relay::generate_keypair().unwrap();
    let config = serde_json::json!({
        "version": 1, "attachment": "acme/denver-1", "asn": 65000, "router_id": "10.255.0.1", "mac": "02:00:00:00:00:01",
        "addresses": ["192.0.2.1/30"], "customer_mtu": 1500, "core_mtu": 1600, "max_paths": 1,
        "bgp": [{"neighbor": "192.0.2.2", "remote_as": 65101, "hold_time_s": 9}],
        "relay": {"endpoint": format!("ipc://{}/relay.sock", dir.path().display()), "server_key": keys.public,
            "public_key": keys.public, "secret_key": keys.secret},
    });
    let file = dir.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let ports = Ports { listen: vec![], neighbor: 179 };
    let pvmd = Pvmd::new(Options { config: file, run: dir.path().to_owned(), journal: None, tap: None, ports }).unwrap();
    (dir, pvmd)
}

/// The loop's branch for the interface was once disabled by the very value it waits for: ready after FastForward's status
/// was worked off, but before the loop waited again, nobody ever started the session.
#[tokio::test]
async fn an_interface_that_becomes_ready_between_two_events_starts_the_session() {
    let (_dir, mut pvmd) = daemon();
    let (ready, tap_ready) = watch::channel(false);
    pvmd.tap_ready = tap_ready;
    let status = Status { uptime_ms: 0, epoch: None, routes: 0, tunnels: 0, fib_bytes: 0, labels: 0 };
    pvmd.handle(Instant::now(), Input::Fib(fib::Event::Up { connection: 1, status })).await.unwrap();
    assert!(pvmd.customers.neighbors().is_empty(), "no interface yet");
    ready.send_replace(true);
    let turns = async {
        while pvmd.customers.neighbors().is_empty() {
            let input = pvmd.next().await.unwrap();
            pvmd.handle(Instant::now(), input).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), turns).await.expect("the session is started");
}
