//! Orders to an instance, and a standby whose leader, played by the test, is as hostile as it can be.

use crate::{
    ce::Ce,
    cvm::{tunnel, vpn_route},
    site::{CE, CE2, LIMIT, PE, Site, alone, until},
};
use edgeplex_ff_fib_api::{HoldOp, Neighbor};
use edgeplex_journal::{Begin, Opened, Protocol, Record, SessionId, TcpOpened, Welcome, write_beat, write_begin, write_record};
use edgeplex_mgmt::{
    config::{Bfd, Instance, InstanceRole, StaticRoute},
    show::{InstanceOrder, InstanceState, PvmQuery, Reloaded},
};
use edgeplex_types::MacAddr;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

fn standby() -> Site {
    let mut site = Site::new(true);
    site.config.instance = Instance { generation: 2, role: InstanceRole::Standby };
    site.write();
    site.cvm.say(vec![tunnel(1), vpn_route("10.2.0.0/16", 2000, &[65102])]);
    site.cvm.start();
    site
}

/// A leader's connection, after these words.
async fn lead(site: &Site, words: &[u8]) -> UnixStream {
    let path = site.dir.path().join("follow.sock");
    until("the standby listens", || async { UnixStream::connect(&path).await.is_ok() }).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    // Its Hello.
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    let _ = stream.write_all(words).await;
    stream
}

/// A whole state.
fn state(records: &[Record]) -> Vec<u8> {
    let mut out = Welcome { format: 1, resumes: false }.encode().to_vec();
    records.iter().for_each(|r| write_record(&mut out, r).unwrap());
    write_begin(&mut out, &Begin { journal: 7, position: 0, next_session: 100 });
    write_beat(&mut out, 1, true);
    out
}

fn put(name: &str, value: &str) -> Record {
    Record::Put { name: name.into(), value: value.as_bytes().to_vec() }
}

fn open(id: u64, local: SocketAddr, remote: SocketAddr) -> Record {
    let tcp =
        TcpOpened { window: vec![0xff; 20], mss: u32::MAX, send_scale: 255, receive_scale: 255, options: 255, ..TcpOpened::default() };
    Record::Open(SessionId(id), Box::new(Opened { protocol: Protocol::Bgp, local, remote, passive: true, tcp }))
}

#[test]
fn a_standby_fills_its_forwarder_and_tells_nobody_until_it_is_promoted() {
    alone(async {
        let mut site = standby();
        let bfd = Some(Bfd { interval_ms: 50, multiplier: 3 });
        site.config.static_routes.push(StaticRoute { prefix: "10.7.0.0/16".parse().unwrap(), via: CE2.into(), bfd });
        site.write();
        let pvmd = site.pvmd_with(Some("journal"));
        let neighbor = |address, mac: u8| Neighbor { address, mac: MacAddr([2, 0, 0, 0, 0, mac]) };
        let told = serde_json::to_string(&[
            neighbor(CE.into(), 7),
            neighbor(CE2.into(), 9),
            neighbor([10, 0, 0, 1].into(), 7),
            neighbor(PE.into(), 7),
            Neighbor { address: CE2.into(), mac: MacAddr([0xff; 6]) },
        ]);
        let neighbors = format!(r#"{{"version":1,"value":{}}}"#, told.unwrap());
        let nobody = put("pvm/awaited", r#"{"version":1,"value":[]}"#);
        let watched = put("pvm/statics", &format!(r#"{{"version":1,"value":["{CE2}"]}}"#));
        let _leader = lead(&site, &state(&[nobody, watched, put("pvm/neighbors", &neighbors)])).await;
        until("it has all", || async { site.order(InstanceOrder::Look).await.unwrap().forwards }).await;
        assert!(["10.2.0.0/16", "10.7.0.0/16", "10.9.0.0/16"].iter().all(|p| site.forward.target(p).is_some()));
        // Only who can be a neighbour; nobody with the PE's own address, or a group's.
        until("FastForward knows the neighbor", || async { !site.forward.table.lock().unwrap().neighbors.is_empty() }).await;
        assert_eq!(site.forward.table.lock().unwrap().neighbors, [neighbor(CE.into(), 7)]);
        assert_eq!((site.cvm.ends(), site.cvm.table.lock().unwrap().routes.len()), (0, 0));

        let s = site.order(InstanceOrder::Look).await.unwrap();
        assert_eq!((s.generation, s.state), (2, InstanceState::Standby));
        assert!(site.order(InstanceOrder::Fence { lease_ms: 100 }).await.is_err());
        assert!(site.order(InstanceOrder::Promote { generation: 1 }).await.is_err());
        // Who watches hears of the promotion.
        let watch = site.order(InstanceOrder::Watch { seen: s.revision });
        let (watched, promoted) = tokio::join!(watch, site.order(InstanceOrder::Promote { generation: 3 }));
        assert!(watched.unwrap().revision != s.revision);
        assert_eq!(promoted.map(|p| (p.generation, p.state)), Ok((3, InstanceState::Active)));
        until("BFD does not confirm it", || async { site.forward.target("10.7.0.0/16").is_none() }).await;
        until("the CVM is told", || async { site.cvm.ends() == 1 && site.cvm.attributes("10.9.0.0/16").is_some() }).await;
        let ce = Ce::start(CE, 65101, PE, None);
        ce.announce("10.1.0.0/16");
        ce.release();
        until("a session", || async { site.cvm.attributes("10.1.0.0/16").is_some() }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_promoted_instance_stays_what_it_is_and_a_replaced_one_is_silent_until_it_has_a_higher_generation() {
    alone(async {
        let site = standby();
        let pvmd = site.pvmd_with(Some("journal"));
        until("it can be promoted", || async { site.order(InstanceOrder::Promote { generation: 3 }).await.is_ok() }).await;
        pvmd.terminate().await;
        let pvmd = site.pvmd_with(Some("journal"));
        let mut other = Site::new(true);
        until("it speaks", || async { site.order(InstanceOrder::Look).await.is_ok_and(|s| s.promoted.is_some()) }).await;
        assert_eq!(site.order(InstanceOrder::Look).await.map(|s| (s.generation, s.state)), Ok((3, InstanceState::Active)));
        until("it told the CVM", || async { site.status().await.relay_up }).await;

        // Another instance of the same attachment, elsewhere.
        other.config.instance = Instance { generation: 4, role: InstanceRole::Active };
        other.config.relay = site.cvm.client();
        other.config.bgp.clear();
        other.write();
        let second = other.pvmd();
        until("the first one is silent", || async { site.order(InstanceOrder::Look).await.unwrap().state == InstanceState::Fenced }).await;
        let s = site.order(InstanceOrder::Look).await.unwrap();
        assert!(s.problems.iter().any(|p| p.contains("higher generation")), "{:?}", s.problems);
        second.terminate().await;
        // The controller alone knows that the other is gone.
        assert_eq!(site.order(InstanceOrder::Resume).await.map(|s| (s.generation, s.state)), Ok((3, InstanceState::Active)));
        let s = site.order(InstanceOrder::Promote { generation: 5 }).await.unwrap();
        assert_eq!((s.generation, s.state, s.problems), (5, InstanceState::Active, vec![]));
        until("it speaks again", || async { site.status().await.relay_up }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_fence_outlives_the_process() {
    alone(async {
        let mut site = Site::new(true);
        site.cvm.start();
        let site = site;
        let look = async || site.order(InstanceOrder::Look).await;
        let speaks = async || look().await.is_ok_and(|s| s.promoted.is_some() && s.state == InstanceState::Active);
        let pvmd = site.pvmd_with(Some("journal"));
        until("it speaks", || async { speaks().await && site.cvm.ends() == 1 }).await;
        site.order(InstanceOrder::Fence { lease_ms: 60_000 }).await.unwrap();
        pvmd.terminate().await;
        let pvmd = site.pvmd_with(Some("journal"));
        until("it stands still", || async { look().await.is_ok_and(|s| s.state == InstanceState::Fenced) }).await;
        until("the CVM hears it", || async { site.status().await.relay_up }).await;
        let s = site.order(InstanceOrder::Fence { lease_ms: 60_000 }).await.unwrap();
        assert_eq!((s.state, s.promoted, site.cvm.ends()), (InstanceState::Fenced, None, 1), "{s:?}");
        site.order(InstanceOrder::Resume).await.unwrap();
        until("it goes on", || async { speaks().await }).await;

        // By itself when its lease is over, not sooner; and once only.
        let began = Instant::now();
        site.order(InstanceOrder::Fence { lease_ms: 2000 }).await.unwrap();
        pvmd.terminate().await;
        let pvmd = site.pvmd_with(Some("journal"));
        until("it goes on by itself", || async { speaks().await }).await;
        assert!(began.elapsed() >= Duration::from_secs(2), "after {:?}", began.elapsed());
        pvmd.terminate().await;
        let pvmd = site.pvmd_with(Some("journal"));
        until("it speaks at once", || async { look().await.is_ok_and(|s| s.promoted.is_some()) }).await;
        pvmd.terminate().await;
    });
}

#[test]
fn a_reload_of_a_standby_reads_again_what_it_has() {
    alone(async {
        let mut site = standby();
        let pvmd = site.pvmd_with(Some("journal"));
        let _leader = lead(&site, &state(&[put("pvm/traffic/1", "{")])).await;
        until("it has all", || async { site.order(InstanceOrder::Look).await.unwrap().forwards }).await;
        site.config.asn = 65009;
        site.write();
        let _: Reloaded = site.ask(PvmQuery::Reload).await.unwrap();
        assert!(!site.order(InstanceOrder::Look).await.unwrap().forwards);
        let _leader = lead(&site, &state(&[])).await;
        until("it has all again", || async { site.order(InstanceOrder::Look).await.unwrap().forwards }).await;
        pvmd.terminate().await;
    });
}

/// Streams that no leader of ours would send: the standby stays, and takes nobody's place by them.
#[test]
fn a_hostile_leader_gains_nothing() {
    alone(async {
        let site = standby();
        let pvmd = site.pvmd_with(Some("journal"));
        let us = SocketAddr::from((PE, 179));
        let ce = SocketAddr::from((CE, 40_000));
        let id = SessionId(1);
        let bgp = |kind: u8, length: u16| [&[0xff; 16][..], &length.to_be_bytes(), &[kind]].concat();
        let hostile: Vec<Vec<u8>> = vec![
            vec![0; 1 << 16],
            vec![0xff; 1 << 16],
            (0..1 << 16).map(|i: u32| i.to_le_bytes()[1].wrapping_mul(37)).collect(),
            [&Welcome { format: 1, resumes: false }.encode()[..], &[0xff; 64]].concat(),
            [&Welcome { format: 1, resumes: true }.encode()[..], &state(&[])].concat(),
            Welcome { format: 99, resumes: false }.encode().to_vec(),
            // Bytes of no session, of a session with strangers, of nobody's protocol; more acknowledged than was sent.
            state(&[Record::Received(id, vec![1; 4096]), Record::Sent(id, vec![1; 4096]), Record::Close(id)]),
            state(&[open(1, us, SocketAddr::from(([203, 0, 113, 9], 1))), Record::Received(id, bgp(1, 19))]),
            state(&[open(1, us, ce), open(1, us, ce), Record::Received(id, vec![7; 8192])]),
            state(&[open(1, us, ce), Record::Received(id, bgp(2, 0xffff)), Record::Sent(id, bgp(1, 3))]),
            state(&[open(1, us, ce), Record::Acked { session: id, sent: u64::MAX, window: vec![9; 999], timestamp: 0, at_ms: u64::MAX }]),
            state(&[put("bfd/x", "{}"), put("bfd/", "\u{0}"), put("pvm/awaited", "[[[["), put("pvm/statics", "7")]),
            state(&(0..300).map(|i| open(i, us, ce)).collect::<Vec<_>>()),
        ];
        for words in &hostile {
            let leader = lead(&site, words).await;
            assert!(pvmd.alive() && site.status().await.customer_routes == 0);
            drop(leader);
        }
        // The last one had all the routes to a session that never was. It cannot go on, and another one comes.
        let _leader = lead(&site, &state(&[open(1, us, ce), open(2, us, ce), Record::Received(id, bgp(4, 19))])).await;
        until("it believes that it has all", || async { site.order(InstanceOrder::Look).await.unwrap().forwards }).await;
        let ce = Ce::start(CE, 65101, PE, None);
        ce.announce("10.1.0.0/16");
        ce.release();
        let s = tokio::time::timeout(LIMIT, site.order(InstanceOrder::Promote { generation: 3 })).await.unwrap().unwrap();
        assert_eq!((s.state, s.promoted.unwrap().sessions), (InstanceState::Active, 0));
        until("a session of its own", || async { site.cvm.attributes("10.1.0.0/16").is_some() }).await;
        let loose = |op: &HoldOp| matches!(op, HoldOp::Over { .. });
        assert!(site.forward.table.lock().unwrap().holds.iter().any(loose), "nothing of it is held for ever");
        tokio::time::timeout(Duration::from_secs(5), pvmd.terminate()).await.unwrap();
    });
}
