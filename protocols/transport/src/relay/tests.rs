use super::*;
use edgeplex_mgmt::config;
use edgeplex_relay::{Refusal, ToCvm, ToPvm};
use edgeplex_types::AttachmentId;
use std::{path::Path, time::Duration};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

fn id(s: &str) -> AttachmentId {
    s.parse().unwrap()
}

struct Site {
    endpoint: String,
    cvm: KeyPair,
}

impl Site {
    fn new(dir: &Path) -> Self {
        Self { endpoint: format!("ipc://{}/relay.sock", dir.display()), cvm: generate_keypair().unwrap() }
    }
    fn bind(&self) -> RelayServer {
        RelayServer::bind(&config::RelayServer { endpoint: self.endpoint.clone(), secret_key: self.cvm.secret.clone() }).unwrap()
    }
    fn connect(&self, own: &KeyPair) -> RelayClient {
        RelayClient::connect(&self.config(own)).unwrap()
    }
    fn config(&self, own: &KeyPair) -> config::RelayClient {
        config::RelayClient {
            endpoint: self.endpoint.clone(),
            server_key: self.cvm.public.clone(),
            public_key: own.public.clone(),
            secret_key: own.secret.clone(),
        }
    }
    /// A bare DEALER with a valid key, for what a RelayClient would never send.
    fn rogue(&self, own: &KeyPair) -> zmq::Socket {
        let socket = zmq::Context::new().socket(zmq::DEALER).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_curve_serverkey(&decode(&self.cvm.public)).unwrap();
        socket.set_curve_publickey(&decode(&own.public)).unwrap();
        socket.set_curve_secretkey(&decode(&own.secret)).unwrap();
        socket.connect(&self.endpoint).unwrap();
        socket
    }
}

fn decode(key: &str) -> [u8; 32] {
    keys::decode_key(key).unwrap()
}

fn hello(attachment: &str, incarnation: u64) -> ToCvm {
    ToCvm::Hello { attachment: id(attachment), incarnation, generation: 1, standby: false }
}

/// Sends as soon as there is a connection.
async fn send(client: &mut RelayClient, message: &ToCvm) {
    timeout(LIMIT, async {
        while client.send(message).unwrap() == Delivery::Dropped {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_right_key_passes_and_a_wrong_one_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let (acme, stranger) = (generate_keypair().unwrap(), generate_keypair().unwrap());
    let mut server = site.bind();
    server.set_keys([(acme.public.parse().unwrap(), id("acme/denver-1"))]).unwrap();

    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(dir.path().join("relay.sock")).unwrap().permissions().mode() & 0o777, 0o666);

    let mut wrong = site.connect(&stranger);
    let mut right = site.connect(&acme);
    send(&mut right, &hello("acme/denver-1", 7)).await;
    let (peer, who, message) = timeout(LIMIT, server.recv()).await.unwrap().unwrap();
    assert_eq!((who, message), (id("acme/denver-1"), hello("acme/denver-1", 7)));
    assert_eq!(server.send(&peer, &ToPvm::Welcome { incarnation: 7 }).unwrap(), Delivery::Queued);
    assert_eq!(timeout(LIMIT, right.recv()).await.unwrap().unwrap(), ToPvm::Welcome { incarnation: 7 });

    timeout(LIMIT, async {
        while server.refusals().wrong_key == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    // The stranger never gets a connection that would take a message.
    assert_eq!(wrong.send(&hello("acme/denver-1", 1)).unwrap(), Delivery::Dropped);
}

/// A successor takes the name over while the one before still has it; what that one does at its end harms nobody.
#[tokio::test]
async fn another_server_takes_the_endpoint_over() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let acme = generate_keypair().unwrap();
    let first = site.bind();
    let mut second = site.bind();
    second.set_keys([(acme.public.parse().unwrap(), id("acme/a"))]).unwrap();
    drop(first);
    let mut client = site.connect(&acme);
    send(&mut client, &hello("acme/a", 7)).await;
    let (_, who, _) = timeout(LIMIT, second.recv()).await.unwrap().unwrap();
    assert_eq!(who, id("acme/a"));
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["relay.sock"]);
}

/// A PVM may be started before the CVM has read of it: it must get in as soon as its key is known.
#[tokio::test]
async fn a_client_whose_key_becomes_known_later_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let acme = generate_keypair().unwrap();
    let mut server = site.bind();
    let mut early = site.connect(&acme);
    timeout(LIMIT, async {
        while server.refusals().wrong_key == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    server.set_keys([(acme.public.parse().unwrap(), id("acme/a"))]).unwrap();
    send(&mut early, &hello("acme/a", 7)).await;
    let (_, who, message) = timeout(LIMIT, server.recv()).await.unwrap().unwrap();
    assert_eq!((who, message), (id("acme/a"), hello("acme/a", 7)));
}

#[tokio::test]
async fn a_hello_for_another_attachment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let (acme, beta) = (generate_keypair().unwrap(), generate_keypair().unwrap());
    let mut server = site.bind();
    server.set_keys([(acme.public.parse().unwrap(), id("acme/a")), (beta.public.parse().unwrap(), id("beta/b"))]).unwrap();
    let mut client = site.connect(&beta);
    send(&mut client, &hello("acme/a", 3)).await;
    tokio::select! {
        got = server.recv() => panic!("passed: {got:?}"),
        got = timeout(LIMIT, client.recv()) => assert_eq!(got.unwrap().unwrap(), ToPvm::Refused { incarnation: 3, reason: Refusal::NotYours }),
    }
    assert_eq!(server.refusals(), Refusals { not_yours: 1, ..Refusals::default() });
}

#[tokio::test]
async fn a_key_taken_away_loses_its_rights_on_a_live_connection() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let (acme, beta) = (generate_keypair().unwrap(), generate_keypair().unwrap());
    let mut server = site.bind();
    let both = [(acme.public.parse().unwrap(), id("acme/a")), (beta.public.parse().unwrap(), id("beta/b"))];
    server.set_keys(both.clone()).unwrap();
    let (mut gone, mut stays) = (site.connect(&acme), site.connect(&beta));
    send(&mut gone, &hello("acme/a", 1)).await;
    timeout(LIMIT, server.recv()).await.unwrap().unwrap();
    server.set_keys([both[1].clone()]).unwrap();
    send(&mut gone, &ToCvm::Keepalive { incarnation: 1 }).await;
    timeout(LIMIT, async {
        while server.refusals().wrong_key == 0 {
            send(&mut stays, &hello("beta/b", 2)).await;
            let (_, who, _) = server.recv().await.unwrap();
            assert_eq!(who, id("beta/b"));
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn garbage_and_oversized_messages_are_counted_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let acme = generate_keypair().unwrap();
    let mut server = site.bind();
    server.set_keys([(acme.public.parse().unwrap(), id("acme/a"))]).unwrap();
    let good = edgeplex_relay::encode(&hello("acme/a", 9)).unwrap();
    let rogue = site.rogue(&acme);
    rogue.send(&b"\x01\xff\xff\xff"[..], 0).unwrap();
    rogue.send(&b""[..], 0).unwrap();
    rogue.send(vec![1u8; (1 << 20) + 1], 0).unwrap();
    rogue.send_multipart([&good[..], &good[..], &good[..]], 0).unwrap();
    rogue.send(&good, 0).unwrap();
    let (_, _, message) = timeout(LIMIT, server.recv()).await.unwrap().unwrap();
    assert_eq!(message, hello("acme/a", 9));
    assert_eq!(server.refusals(), Refusals { malformed: 4, ..Refusals::default() });

    // What ZeroMQ itself cuts off takes down that connection only; the next one serves again.
    rogue.send(vec![1u8; 3 << 20], 0).unwrap();
    let mut client = site.connect(&acme);
    send(&mut client, &hello("acme/a", 10)).await;
    let (_, _, message) = timeout(LIMIT, server.recv()).await.unwrap().unwrap();
    assert_eq!(message, hello("acme/a", 10));
}

#[tokio::test]
async fn a_client_comes_back_after_the_server_restarts_and_a_gone_peer_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let acme = generate_keypair().unwrap();
    let mut client = site.connect(&acme);
    for incarnation in 0..3 {
        let mut server = site.bind();
        server.set_keys([(acme.public.parse().unwrap(), id("acme/a"))]).unwrap();
        // A message may be lost with the old connection, so it is said until heard.
        let peer = timeout(LIMIT, async {
            loop {
                let _ = client.send(&hello("acme/a", incarnation)).unwrap();
                if let Ok(got) = timeout(Duration::from_millis(50), server.recv()).await {
                    break got.unwrap().0;
                }
            }
        })
        .await
        .unwrap();
        assert_eq!(server.send(&peer, &ToPvm::Welcome { incarnation }).unwrap(), Delivery::Queued);
        assert_eq!(timeout(LIMIT, client.recv()).await.unwrap().unwrap(), ToPvm::Welcome { incarnation });
    }
    let mut server = site.bind();
    server.set_keys([(acme.public.parse().unwrap(), id("acme/a"))]).unwrap();
    let peer = timeout(LIMIT, async {
        loop {
            let _ = client.send(&hello("acme/a", 9)).unwrap();
            if let Ok(got) = timeout(Duration::from_millis(50), server.recv()).await {
                break got.unwrap().0;
            }
        }
    })
    .await
    .unwrap();
    drop(client);
    timeout(LIMIT, async {
        while server.send(&peer, &ToPvm::Keepalive { incarnation: 9 }).unwrap() == Delivery::Queued {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_peer_that_reads_nothing_fills_up_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(dir.path());
    let (acme, beta) = (generate_keypair().unwrap(), generate_keypair().unwrap());
    let mut server = site.bind();
    server.set_keys([(acme.public.parse().unwrap(), id("acme/a")), (beta.public.parse().unwrap(), id("beta/b"))]).unwrap();
    let (mut slow, mut quick) = (site.connect(&acme), site.connect(&beta));
    send(&mut slow, &hello("acme/a", 1)).await;
    let (slow_peer, ..) = timeout(LIMIT, server.recv()).await.unwrap().unwrap();
    send(&mut quick, &hello("beta/b", 1)).await;
    let (quick_peer, ..) = timeout(LIMIT, server.recv()).await.unwrap().unwrap();
    let big = ToPvm::Sync {
        incarnation: 1,
        sync: edgeplex_relay::Sync::Ops {
            epoch: edgeplex_types::Epoch(1),
            ops: vec![
                edgeplex_relay::VpnOp::Route {
                    prefix: "10.0.0.0/8".parse().unwrap(),
                    paths: vec![
                        edgeplex_relay::VpnPath {
                            label: edgeplex_types::Label::MAX,
                            tunnel: edgeplex_types::TunnelId(1),
                            attributes: vec![0; 4096]
                        };
                        8
                    ],
                    backup: vec![],
                };
                16
            ],
        },
    };
    // Queues of both sides and the kernel's buffers fill, then the sender is told.
    let mut taken = 0;
    while server.send(&slow_peer, &big).unwrap() == Delivery::Queued {
        taken += 1;
        assert!(taken < 1000, "no limit on a peer that reads nothing");
        if taken % 8 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(server.send(&quick_peer, &ToPvm::Keepalive { incarnation: 1 }).unwrap(), Delivery::Queued);
    assert_eq!(timeout(LIMIT, quick.recv()).await.unwrap().unwrap(), ToPvm::Keepalive { incarnation: 1 });
}
