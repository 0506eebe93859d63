//! Our LDP against FRR's ldpd in network namespaces, in both roles. The kernel needs no MPLS for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgeplex_ldp::{Config, Forwarding, Routes, Start};
use edgeplex_transport::{
    Mode,
    journal::Journal,
    ldp::{Event, Handle, start},
};
use edgeplex_types::{Label, LabelRange, NextHop};
use ipnet::Ipv4Net;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc::Receiver;

const LIMIT: Duration = Duration::from_secs(40);
const WE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const FRR: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
/// Below FRR's: it connects. Above: we do.
const LOWER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const HIGHER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 3);
static COUNT: AtomicU32 = AtomicU32::new(0);

fn sh(command: &str) -> String {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Our namespace and FRR's, joined by a veth pair; all of it goes with the value.
struct Wire {
    ours: String,
    theirs: String,
    us: Ipv4Addr,
    dir: tempfile::TempDir,
    zebra: Option<Child>,
    ldpd: Option<Child>,
}

impl Wire {
    fn new(us: Ipv4Addr) -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = (format!("epl{}-{n}a", std::process::id()), format!("epl{}-{n}b", std::process::id()));
        let mut wire = Self { ours, theirs, us, dir: tempfile::tempdir().unwrap(), zebra: None, ldpd: None };
        let (a, b) = (&wire.ours, &wire.theirs);
        sh(&format!(
            "ip netns add {a} && ip netns add {b} && ip link add v0 netns {a} type veth peer name v0 netns {b} &&
             ip -n {a} addr add {WE}/24 dev v0 && ip -n {b} addr add {PEER}/24 dev v0 &&
             ip -n {a} link set v0 up && ip -n {b} link set v0 up && ip -n {a} link set lo up && ip -n {b} link set lo up &&
             ip -n {a} addr add {us}/32 dev lo && ip -n {b} addr add {FRR}/32 dev lo && ip -n {b} addr add 10.77.0.1/24 dev lo &&
             ip -n {a} route add {FRR}/32 via {PEER} && ip -n {b} route add {us}/32 via {WE} && ip -n {b} route add 10.88.0.0/24 via {WE}"
        ));
        std::fs::write(format!("{}/zebra.conf", wire.dir()), "").unwrap();
        wire.configure("");
        wire.zebra = Some(wire.spawn("zebra", ""));
        wire
    }

    fn dir(&self) -> String {
        self.dir.path().to_str().unwrap().to_owned()
    }

    fn configure(&self, more: &str) {
        let conf = format!(
            "mpls ldp\n router-id {FRR}\n {more}\n address-family ipv4\n  discovery transport-address {FRR}\n  interface v0\n  exit\n exit-address-family\n"
        );
        let dir = self.dir();
        std::fs::write(format!("{dir}/ldpd.conf"), conf).unwrap();
        sh(&format!("chown -R frr:frr {dir} && chmod 755 {dir}"));
    }

    fn spawn(&self, daemon: &str, more: &str) -> Child {
        let dir = self.dir();
        let mut run = Command::new("ip");
        // `ip netns exec` gives it a mount namespace of its own: what FRR leaves in /var/tmp goes with it.
        let line = format!(
            "mount -t tmpfs tmpfs /var/tmp && exec /usr/lib/frr/{daemon} {more} -f {dir}/{daemon}.conf -i {dir}/{daemon}.pid \
             --vty_socket {dir} -z {dir}/zserv.api -A 127.0.0.1 -P 0 --log file:{dir}/{daemon}.log"
        );
        run.args(["netns", "exec", &self.theirs, "sh", "-c", &line]);
        run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn start_ldpd(&mut self) {
        let dir = self.dir();
        // It crashes if zebra is not there yet.
        let start = Instant::now();
        while !std::path::Path::new(&format!("{dir}/zserv.api")).exists() {
            assert!(start.elapsed() < LIMIT, "zebra does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ldpd = Some(self.spawn("ldpd", &format!("--ctl_socket {dir}")));
    }

    fn stop_ldpd(&mut self, how: &str) {
        if let Some(mut ldpd) = self.ldpd.take() {
            let _ = Command::new("kill").args([how, &ldpd.id().to_string()]).status();
            let _ = ldpd.wait();
        }
    }

    fn vtysh(&self, lines: &[&str]) -> String {
        let dir = self.dir();
        let head = ["--vty_socket", &dir, "--config_dir", &dir];
        let out = Command::new("vtysh").args(head).args(lines.iter().flat_map(|l| ["-c", l])).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Waits until FRR's answer is as wanted.
    async fn until(&self, what: &str, question: &str, wanted: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let answer = self.vtysh(&[question]);
            if wanted(&answer) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "never: {what}; last answer:\n{answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn config(&self) -> Config {
        let label = |l| Label::try_from(l).unwrap();
        let mut config = Config::new(self.us, LabelRange::new(label(500_000), label(500_999)).unwrap());
        config.interfaces = [Arc::from("v0")].into();
        config
    }

    fn routes(&self) -> Routes {
        let via = vec![NextHop { interface: "v0".into(), address: PEER }];
        let own = |p: &str| (p.parse().unwrap(), vec![]);
        let far = |p: &str| (p.parse().unwrap(), via.clone());
        [own("10.0.0.0/24"), (self.us.into(), vec![]), (FRR.into(), via.clone()), far("10.77.0.0/24"), own("10.88.0.0/24")].into()
    }

    fn start_ours(&self, config: Config, past: Start) -> (Handle, Receiver<Event>) {
        let (handle, events) = start(config, past, Mode::Live(Journal::none()));
        handle.routes(Arc::new(self.routes()));
        handle.interface("v0".into(), WE, true);
        (handle, events)
    }

    /// Runs `body` on a thread of its own in our namespace.
    fn run<F: Future<Output = ()>>(self, body: impl FnOnce(Self) -> F + Send) {
        let namespace = format!("/run/netns/{}", self.ours);
        std::thread::scope(|s| {
            let thread = s.spawn(|| {
                let file = std::fs::File::open(namespace).unwrap();
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body(self));
            });
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop_ldpd("-TERM");
        if let Some(mut zebra) = self.zebra.take() {
            let _ = zebra.kill();
            let _ = zebra.wait();
        }
        for namespace in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// Reads events until one is as wanted; gives what `pick` makes of it.
async fn await_event<T>(what: &str, events: &mut Receiver<Event>, pick: impl Fn(&Event) -> Option<T>) -> T {
    let all = async {
        loop {
            let event = events.recv().await.expect("the speaker lives");
            if let Some(found) = pick(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn is_up(event: &Event) -> Option<Ipv4Addr> {
    if let Event::SessionUp { lsr_id, .. } = event { Some(*lsr_id) } else { None }
}

fn is_down(event: &Event) -> Option<String> {
    if let Event::SessionDown { reason, .. } = event { Some(reason.clone()) } else { None }
}

/// The label that packets of a FEC get.
fn pushed(forwarding: &Forwarding, fec: &str) -> Option<u32> {
    let fec: Ipv4Net = fec.parse().unwrap();
    Some(forwarding.get(&fec)?.hops.first()?.1?.get())
}

async fn label_is(events: &mut Receiver<Event>, fec: &str, label: Option<u32>) {
    let what = format!("{fec} {label:?}");
    await_event(&what, events, |e| if let Event::Forwarding(f) = e { (pushed(f, fec) == label).then_some(()) } else { None }).await;
}

/// Whether a line of `show mpls ldp binding` has all these words.
fn has_line(answer: &str, words: &[&str]) -> bool {
    answer.lines().any(|line| {
        let have: Vec<_> = line.split_whitespace().collect();
        words.iter().all(|w| have.contains(w))
    })
}

const BINDINGS: &str = "show mpls ldp binding";

/// They mostly wait: `lab/test` runs several of them at once.
mod at_leisure {
    use super::*;

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn frr_connects_to_us() {
        labels_both_ways(LOWER);
    }

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn we_connect_to_frr() {
        labels_both_ways(HIGHER);
    }

    fn labels_both_ways(us: Ipv4Addr) {
        let mut wire = Wire::new(us);
        wire.start_ldpd();
        wire.run(|mut wire| async move {
            let (handle, mut events) = wire.start_ours(wire.config(), Start::default());
            let begun = Instant::now();
            assert_eq!(await_event("session", &mut events, is_up).await, FRR);
            eprintln!("{us}: operational {:?} after our start", begun.elapsed());

            // FRR's labels: its own networks by implicit null, and it is their next hop.
            label_is(&mut events, "10.77.0.0/24", Some(3)).await;
            let us_net = format!("{us}/32");
            // Ours at FRR, which is egress for nothing of ours.
            wire.until("our loopback", BINDINGS, |a| has_line(a, &[&us_net, &us.to_string(), "imp-null", "yes"])).await;
            wire.until("a label that FRR does not need", BINDINGS, |a| has_line(a, &["10.77.0.0/24", &us.to_string(), "no"])).await;
            let rows = handle.bindings().await;
            let row = rows.iter().find(|r| r.prefix.to_string() == "10.88.0.0/24").unwrap();
            assert!(row.remote.iter().any(|r| r.label.get() >= 16 && !r.in_use), "FRR's label of a route towards us: {row:?}");
            let synced = |e: &Event| (*e == Event::Synced { interface: "v0".into(), synced: true }).then_some(());
            await_event("in step", &mut events, synced).await;

            // Withdrawals: FRR's, then ours.
            sh(&format!("ip -n {} addr del 10.77.0.1/24 dev lo", wire.theirs));
            label_is(&mut events, "10.77.0.0/24", None).await;
            wire.until("what has nothing behind it is withdrawn", BINDINGS, |a| !has_line(a, &["10.77.0.0/24", &us.to_string()])).await;
            sh(&format!("ip -n {} addr add 10.77.0.1/24 dev lo", wire.theirs));
            label_is(&mut events, "10.77.0.0/24", Some(3)).await;
            wire.until("and comes back", BINDINGS, |a| has_line(a, &["10.77.0.0/24", &us.to_string(), "no"])).await;
            let mut fewer = wire.routes();
            fewer.remove(&"10.88.0.0/24".parse().unwrap());
            handle.routes(Arc::new(fewer));
            wire.until("withdrawn", BINDINGS, |a| !has_line(a, &["10.88.0.0/24", &us.to_string()])).await;
            let row = handle.neighbors().await.remove(0);
            assert_eq!((row.lsr_id, row.state.as_str(), row.interfaces), (FRR, "operational", vec!["v0".to_owned()]));

            // FRR goes and comes back.
            wire.stop_ldpd("-TERM");
            await_event("down", &mut events, is_down).await;
            wire.start_ldpd();
            let begun = Instant::now();
            await_event("up again", &mut events, is_up).await;
            eprintln!("{us}: operational {:?} after FRR's restart", begun.elapsed());
            label_is(&mut events, "10.77.0.0/24", Some(3)).await;

            // We reset it, then leave for good.
            handle.reset(FRR);
            await_event("reset", &mut events, is_down).await;
            await_event("and up", &mut events, is_up).await;
            handle.shutdown(false).await;
            wire.until("we are gone", "show mpls ldp neighbor", |a| !a.contains("OPERATIONAL")).await;
        });
    }

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn md5_when_frr_connects() {
        md5(LOWER);
    }

    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn md5_when_we_connect() {
        md5(HIGHER);
    }

    fn md5(us: Ipv4Addr) {
        let mut wire = Wire::new(us);
        wire.configure(&format!("neighbor {us} password not-a-word"));
        wire.start_ldpd();
        wire.run(|wire| async move {
            let with = |password: &str| Config { passwords: BTreeMap::from([(FRR, password.to_owned())]), ..wire.config() };
            let (handle, mut events) = wire.start_ours(with("wrong"), Start::default());
            // Both hear each other's Hellos, and yet there is no session.
            wire.until("heard", "show mpls ldp discovery", |a| a.contains(&us.to_string())).await;
            let quiet = tokio::time::timeout(Duration::from_secs(8), await_event("a session", &mut events, is_up)).await;
            assert!(quiet.is_err(), "up with the wrong password");
            handle.configure(with("not-a-word"));
            await_event("up with the right password", &mut events, is_up).await;
            label_is(&mut events, "10.77.0.0/24", Some(3)).await;
            handle.configure(wire.config());
            assert!(await_event("down without", &mut events, is_down).await.contains("password"));
            handle.shutdown(true).await;
        });
    }

    /// Stored labels come back to their FECs.
    #[test]
    #[ignore = "needs root, FRR and network namespaces; the lab's test command runs it"]
    fn our_labels_survive_our_restart() {
        let mut wire = Wire::new(HIGHER);
        wire.start_ldpd();
        wire.run(|wire| async move {
            let (handle, mut events) = wire.start_ours(wire.config(), Start::default());
            let fec: Ipv4Net = "10.77.0.0/24".parse().unwrap();
            let stored = await_event("stored", &mut events, |e| {
                if let Event::Store(bindings) = e { bindings.contains_key(&fec).then(|| bindings.clone()) } else { None }
            })
            .await;
            handle.shutdown(true).await;
            let mut bindings = stored.clone();
            // As if others had come before it.
            bindings.insert(fec, Label::try_from(500_777).unwrap());
            let (handle, mut events) = wire.start_ours(wire.config(), Start { restarting: true, bindings });
            wire.until("the same label", BINDINGS, |a| has_line(a, &["10.77.0.0/24", &HIGHER.to_string(), "500777"])).await;
            await_event("recovered", &mut events, |e| (*e == Event::Recovered).then_some(())).await;
            handle.shutdown(false).await;
        });
    }
}
