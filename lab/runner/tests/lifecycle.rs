//! The runner itself, on a small topology without EdgePlex: nodes, links, VLANs, daemons; two labs of one file; and
//! nothing left behind, not even when the runner was interrupted or killed half-way. Needs root and what lab/setup installs.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test, though not under cfg(test)

use edgeplex_lab::{
    lab::{Lab, down},
    leftovers,
    state::LabDir,
    wait,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

const TOPOLOGY: &str = r#"
name: small
prefix: epx
topology:
  defaults: {sysctls: {net.ipv6.conf.all.disable_ipv6: 1}}
  nodes:
    sw: {kind: ovs-bridge}
    br: {kind: bridge}
    a: {kind: linux, image: debian, exec: [ip address add 10.0.0.1/24 dev eth1, ip address add 10.1.0.1/24 dev eth2]}
    b: {kind: linux, image: debian, exec: [ip address add 10.0.0.2/24 dev eth1]}
    c: {kind: linux, image: debian, exec: [ip address add 10.0.0.3/24 dev eth1]}
    bird: {kind: linux, image: "bird:2", binds: ["bird.conf:/etc/bird/bird.conf:ro"], exec: [ip address add 10.1.0.2/24 dev eth1]}
    frr:
      kind: linux
      image: frrouting/frr:8.4
      binds: ["frr.conf:/etc/frr/frr.conf:ro", "daemons:/etc/frr/daemons:ro"]
      exec: [ip address add 10.1.0.3/24 dev eth1]
  links:
    - {endpoints: ["a:eth1", "sw:a"], vars: {vlan: 10}}
    - {endpoints: ["b:eth1", "sw:b"], vars: {vlan: 10}}
    - {endpoints: ["c:eth1", "sw:c"], vars: {vlan: 20}}
    - {endpoints: ["a:eth2", "br:a2"], mtu: 1600}
    - {endpoints: ["bird:eth1", "br:bird"], mtu: 1600}
    - {endpoints: ["frr:eth1", "br:frr"], mtu: 1600}
"#;
const BIRD: &str = "router id 10.1.0.2; protocol device {} protocol static { ipv4; route 10.9.0.0/16 blackhole; }
protocol bgp { local 10.1.0.2 as 65001; neighbor 10.1.0.3 as 65002; connect delay time 1; ipv4 { import all; export all; }; }";
const FRR: &str = "router bgp 65002\n no bgp ebgp-requires-policy\n neighbor 10.1.0.2 remote-as 65001\nexit\n";

/// A folder with the topology; the labs of a test have names of their own.
struct Site {
    dir: tempfile::TempDir,
    labs: Vec<String>,
}

impl Site {
    fn new(labs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("small.clab.yml", TOPOLOGY), ("bird.conf", BIRD), ("frr.conf", FRR), ("daemons", "bgpd=yes\n")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let labs = labs.iter().map(|l| format!("{l}-{}", std::process::id())).collect();
        Self { dir, labs }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("small.clab.yml")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for lab in &self.labs {
            let _ = down(&LabDir::of(lab).unwrap());
        }
    }
}

fn runner(arguments: &[&str]) -> Command {
    // The library finds the runner as its own executable; in a test that is the test. So go through the program.
    let mut c = Command::new(env!("CARGO_BIN_EXE_edgeplex-lab"));
    c.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    c
}

fn up(site: &Site, lab: &str) -> Lab {
    assert!(runner(&["up", site.file().to_str().unwrap(), "--name", lab]).status().unwrap().success());
    Lab::find(Some(lab)).unwrap()
}

#[test]
#[ignore = "needs root"]
fn nodes_are_joined_as_the_file_says_and_two_labs_of_one_file_do_not_meet() {
    let site = Site::new(&["one", "two"]);
    let labs: Vec<Lab> = site.labs.iter().map(|l| up(&site, l)).collect();
    for lab in &labs {
        let ping = |from: &str, to: &str| lab.node(from).unwrap().output(&["ping", "-c1", "-W1", to]).unwrap().status.success();
        assert!(ping("a", "10.0.0.2"), "the same VLAN");
        assert!(!ping("a", "10.0.0.3"), "another VLAN");
        assert!(ping("a", "10.1.0.2"), "the bridge");
        let frr = lab.node("frr").unwrap();
        wait::until_true("FRR learns BIRD's route", Duration::from_secs(30), || {
            Ok(frr.run(&["vtysh", "-c", "show bgp ipv4 unicast"])?.contains("10.9.0.0/16"))
        })
        .unwrap();
        assert_eq!(lab.node("bird").unwrap().run(&["hostname"]).unwrap().trim(), "bird");
        let mtu = lab.node("a").unwrap().run(&["cat", "/sys/class/net/eth2/mtu"]).unwrap();
        assert_eq!(mtu.trim(), "1600");
    }
    // The first one's end is not felt by the second.
    labs[0].down().unwrap();
    assert!(labs[1].node("a").unwrap().output(&["ping", "-c1", "-W1", "10.0.0.2"]).unwrap().status.success());
    labs[1].down().unwrap();
    for lab in &site.labs {
        assert_eq!(leftovers::of(lab, &[]), Vec::<String>::new());
    }
}

#[test]
#[ignore = "needs root"]
fn a_lab_whose_runner_was_killed_half_way_is_taken_away_whole() {
    let site = Site::new(&["killed"]);
    let lab = &site.labs[0];
    // At a different point each time.
    for milliseconds in [5, 20, 60, 120, 200, 300] {
        let mut child = runner(&["up", site.file().to_str().unwrap(), "--name", lab]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        down(&LabDir::of(lab).unwrap()).unwrap();
        assert_eq!(leftovers::of(lab, &[]), Vec::<String>::new(), "killed after {milliseconds} ms");
    }
    up(&site, lab).down().unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_failing_command_of_a_node_takes_the_lab_down_and_is_named() {
    let site = Site::new(&["failing"]);
    fs::write(site.file(), TOPOLOGY.replace("ip address add 10.0.0.3/24 dev eth1", "ip address add 10.0.0.3/24 dev eth7")).unwrap();
    let out = runner(&["up", site.file().to_str().unwrap(), "--name", &site.labs[0]]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("node c") && said.contains("eth7"), "{said}");
    assert_eq!(leftovers::of(&site.labs[0], &[]), Vec::<String>::new());
}

#[test]
#[ignore = "needs root"]
fn ctrl_c_at_any_moment_leaves_nothing_and_says_nothing_else() {
    let site = Site::new(&["signalled"]);
    let lab = &site.labs[0];
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().cycle();
    let mut interrupted = 0;
    for (signal, milliseconds) in signals.zip([10, 40, 80, 130, 200, 300, 450, 600]) {
        // As a terminal does it: the whole foreground process group gets the signal.
        let mut command = runner(&["up", site.file().to_str().unwrap(), "--name", lab]);
        let child = command.stderr(Stdio::piped()).process_group(0).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let sent = killpg(group, signal);
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        if out.status.success() {
            // It was done before the signal came.
            down(&LabDir::of(lab).unwrap()).unwrap();
        } else if out.status.code().is_some() {
            // Else it came before the runner was ready for one, and so before anything was made.
            interrupted += 1;
            sent.unwrap();
            assert_eq!(out.status.code(), Some(128 + signal as i32), "{said}");
            assert_eq!(said.trim(), format!("{signal}: taking down what was brought up"));
        }
        assert_eq!(leftovers::of(lab, &[]), Vec::<String>::new(), "{signal} after {milliseconds} ms");
    }
    assert!(interrupted > 2, "only {interrupted} came in time");
    up(&site, lab).down().unwrap();
}

#[test]
#[ignore = "needs root"]
fn an_interrupted_attempt_leaves_a_lab_that_is_up_alone_and_so_does_a_reader_who_leaves() {
    let site = Site::new(&["stays"]);
    let lab = &site.labs[0];
    let file = site.file();
    let arguments = ["up", file.to_str().unwrap(), "--name", lab];
    let mut child = runner(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success(), "nobody reads what it prints");
    let mut child = runner(&arguments).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(15));
    let _ = killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT);
    assert!(!child.wait().unwrap().success());
    let lab = Lab::find(Some(lab)).unwrap();
    assert!(lab.node("a").unwrap().output(&["ping", "-c1", "-W1", "10.0.0.2"]).unwrap().status.success());
}

#[test]
fn a_command_line_that_can_do_nothing_says_so_at_once() {
    for (arguments, code, want) in [
        (&["demo", "--only", "zzz"][..], 2, "ping between the cities"),
        (&["demo", "--json", "/nonexistent/x.json"], 2, "/nonexistent/x.json"),
        (&["test", "--only", "zzz"], 2, "clippy"),
        (&["down", "--name", "no-such-lab"], 1, "there is no lab no-such-lab"),
        (&["exec", "--name", "no-such-lab", "a", "true"], 1, "there is no lab no-such-lab"),
    ] {
        let out = runner(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(want), "{said}");
    }
}
