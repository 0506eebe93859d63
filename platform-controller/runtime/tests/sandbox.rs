//! Sandboxes on this host. `cargo test -p edgeplex-runtime -- --ignored` as root.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, children, read, spec, wait_for};
use edgeplex_runtime::{Runtime, RuntimeError, Sandbox, SandboxConfig, Share, SharedDir, VmId, VmKind, VmState};
use edgeplex_types::MacAddr;
use nix::libc;
use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{MetadataExt, OpenOptionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn a_vm_sees_itself_and_nothing_of_the_host() {
    let host = Host::new();
    let s = host.open().await;
    let spec = host.spec("pvm-acme-denver", VmKind::Pvm);
    let vm = s.start(&spec).await.unwrap();
    assert_eq!((vm.state, &vm.spec_hash, vm.template.len()), (VmState::Running, &spec.hash(), 64));
    println!("stages: {:?}", vm.timings);

    let log = wait_for("pvmd's log", || Some(read(s.vm_log_dir(&spec.id).join("pvmd.log"))).filter(|l| l.ends_with("done\n")));
    let line = |start: &str| log.lines().find_map(|l| l.strip_prefix(start)).unwrap_or_else(|| panic!("no {start} in {log}")).to_owned();
    assert!(line("pid ").ends_with("uid 0 host pvm-acme-denver"), "{log}");
    assert!(!line("pid ").starts_with("1 "));
    assert_eq!(line("config "), "{\"a\":1}");
    assert_eq!(line("nics ").split_whitespace().collect::<Vec<_>>(), ["all", "core", "cust", "default", "lo"]);
    assert_eq!(
        line("root ").split_whitespace().collect::<Vec<_>>(),
        ["bin", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "tmp", "usr", "var"]
    );
    assert_eq!(line("opt ").trim(), "fastforward pvmd");
    // CAP_SYS_ADMIN (21), CAP_SYS_PTRACE (19), CAP_SYS_MODULE (16) are not among them; CAP_NET_ADMIN (12) is.
    let caps = u64::from_str_radix(line("CapBnd:").trim(), 16).unwrap();
    assert_eq!((caps & (1 << 21 | 1 << 19 | 1 << 16), caps & 1 << 12), (0, 1 << 12));
    assert_eq!(line("NoNewPrivs:").trim(), "1");
    for refused in [
        "etc is read-only",
        "usr is read-only",
        "root is read-only",
        "cannot mount",
        "relay is read-only",
        "the place of run is not its own",
    ] {
        assert!(log.contains(refused), "{refused} in {log}");
    }

    // Its own user ids, on the host too.
    let uid = fs::metadata(s.vm_run_dir(&spec.id).join("alive")).unwrap().uid();
    assert!(uid >= 100_000);
    let status = read(format!("/proc/{}/status", children(&vm)[0]));
    assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{status}");
    let config = fs::metadata(host.path().join("d/vms/pvm-acme-denver/etc/config.json")).unwrap();
    assert_eq!((config.uid(), config.mode() & 0o777), (uid, 0o600));
    let etc = fs::metadata(host.path().join("d/vms/pvm-acme-denver/etc")).unwrap();
    assert_eq!((etc.uid(), etc.mode() & 0o777), (0, 0o755));
    // Nothing of the host's disk is its to fill.
    let own = Command::new("find").arg(host.path()).args(["-uid", &uid.to_string(), "-not", "-type", "l"]).output().unwrap();
    assert_eq!(String::from_utf8(own.stdout).unwrap().lines().count(), 1, "etc/config.json, which it sees read-only");
    assert!(!host.path().join("d/vm-state/pvm-acme-denver").exists());
    let run = s.vm_run_dir(&spec.id);
    // As the daemon reaches a socket there: a handle on it first, which follows no link of the VM's.
    let _listener = UnixListener::bind(run.join("s")).unwrap();
    let handle = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(run.join("s")).unwrap();
    UnixStream::connect(format!("/proc/self/fd/{}", handle.as_raw_fd())).unwrap();
    assert_eq!(fs::write(run.join("big"), vec![1; 5 << 20]).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    fs::remove_file(run.join("big")).unwrap();
    let files = (0..500).take_while(|n| fs::write(run.join(n.to_string()), "").is_ok()).count();
    assert!((100..256).contains(&files), "{files}");
    // Its own namespaces, all of them.
    for ns in ["mnt", "pid", "net", "ipc", "uts", "user", "cgroup"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{ns}")).unwrap();
        assert_ne!(of(&children(&vm)[0].to_string()), of("self"), "{ns}");
    }
    let cgroup = read(format!("/proc/{}/cgroup", vm.pid));
    assert!(cgroup.contains("/pvm-acme-denver"), "{cgroup}");

    s.rewrite_config(&spec.id, b"{\"b\":2}").await.unwrap();
    assert_eq!(read(format!("/proc/{}/root/etc/edgeplex/config.json", vm.pid)), "{\"b\":2}");
    assert!(matches!(s.start(&spec).await, Err(RuntimeError::Exists(_))));
    let clock = Instant::now();
    s.stop(&spec.id).await.unwrap();
    println!("stop: {:?}", clock.elapsed());
    assert!(s.inspect(&spec.id).await.unwrap().is_none());
    s.stop(&spec.id).await.unwrap();
    assert_eq!(host.remains(), Vec::<String>::new());
    assert!(read(host.path().join("d/old-logs/pvm-acme-denver/pvm-acme-denver/pvmd.log")).ends_with("done\n"));
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn vnics_have_their_names_addresses_and_no_offloads() {
    let host = Host::new();
    let s = host.open().await;
    let spec = host.spec("pvm-acme-denver", VmKind::Pvm);
    let vm = s.start(&spec).await.unwrap();
    let net = format!("--net=/proc/{}/ns/net", vm.pid);
    let inside = |args: &[&str]| String::from_utf8(Command::new("nsenter").arg(&net).args(args).output().unwrap().stdout).unwrap();
    let links = inside(&["ip", "-o", "link"]);
    for nic in &spec.nics {
        let line = links.lines().find(|l| l.contains(&format!(" {}@", nic.name))).unwrap();
        assert!(line.contains(&nic.mac.to_string()) && line.contains("mtu 1600") && line.contains("NOARP,UP"), "{line}");
        let outside = String::from_utf8(Command::new("ethtool").args(["-k", &nic.host_name]).output().unwrap().stdout).unwrap();
        for features in [inside(&["ethtool", "-k", &nic.name]), outside] {
            for f in ["tx-checksumming", "tx-tcp-segmentation", "generic-segmentation-offload", "generic-receive-offload"] {
                assert!(features.contains(&format!("{f}: off")), "{f} of {}: {features}", nic.name);
            }
        }
    }
    assert!(links.lines().any(|l| l.contains(" lo:") && l.contains("LOOPBACK,UP")), "{links}");
    assert_eq!(inside(&["cat", "/proc/sys/net/ipv4/conf/cust/rp_filter"]).trim(), "1");
    assert_eq!(inside(&["cat", "/proc/sys/net/ipv6/conf/cust/disable_ipv6"]).trim(), "1");
    s.stop(&spec.id).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn a_process_that_dies_is_started_again_and_the_others_run_on() {
    let host = Host::new();
    let s = host.open().await;
    let spec = host.spec("pvm-acme-denver", VmKind::Pvm);
    let vm = s.start(&spec).await.unwrap();
    let run = s.vm_run_dir(&spec.id);
    wait_for("both", || (run.join("alive").exists() && read(run.join("ff.runs")).lines().count() == 1).then_some(()));
    let [pvmd, ff] = children(&vm)[..] else { panic!("{:?}", children(&vm)) };
    assert!(Command::new("kill").args(["-9", &ff.to_string()]).status().unwrap().success());
    wait_for("the second run", || (read(run.join("ff.runs")).lines().count() == 2).then_some(()));
    let now = children(&vm);
    assert!(now.contains(&pvmd) && !now.contains(&ff) && now.len() == 2, "{now:?}");
    assert!(read(s.vm_log_dir(&spec.id).join("init.log")).contains("fastforward was ended by SIGKILL; again in 50ms"));

    // Init gone, all gone; the host sees it, and starting anew needs no stop.
    assert!(Command::new("kill").args(["-9", &vm.pid.to_string()]).status().unwrap().success());
    wait_for("the end", || (!Path::new(&format!("/proc/{pvmd}")).exists()).then_some(()));
    // Its init goes last of all, a moment after its processes.
    while s.inspect(&spec.id).await.unwrap().unwrap().state != VmState::Dead {
        tokio::task::yield_now().await;
    }
    let again = s.start(&spec).await.unwrap();
    assert_ne!(again.pid, vm.pid);
    s.stop(&spec.id).await.unwrap();
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn freezing_stops_a_vm_and_thawing_lets_it_go_on() {
    let host = Host::new();
    let s = host.open().await;
    let spec = host.spec("pvm-acme-denver", VmKind::Pvm);
    s.start(&spec).await.unwrap();
    s.freeze(&spec.id).await.unwrap();
    assert_eq!(s.inspect(&spec.id).await.unwrap().unwrap().state, VmState::Frozen);
    s.thaw(&spec.id).await.unwrap();
    assert_eq!(s.inspect(&spec.id).await.unwrap().unwrap().state, VmState::Running);
    // A frozen VM can be stopped.
    s.freeze(&spec.id).await.unwrap();
    s.stop(&spec.id).await.unwrap();
    assert!(matches!(s.freeze(&spec.id).await, Err(RuntimeError::Unknown(_))));
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn vms_outlive_the_daemon_and_are_found_again() {
    // The daemon is another process here, which is killed: this test, called once more.
    if let Some(base) = std::env::var_os("EDGEPLEX_TEST_DAEMON") {
        let base = PathBuf::from(base);
        let s = Sandbox::open(SandboxConfig { dir: base.join("d"), bin_dir: base.join("bin") }).await.unwrap();
        for spec in [spec(&base, "pvm-acme-denver", VmKind::Pvm), spec(&base, "cvm", VmKind::Cvm)] {
            s.start(&spec).await.unwrap();
        }
        println!("DAEMON UP");
        loop {
            std::thread::park();
        }
    }
    let host = Host::new();
    let mut daemon = Command::new(std::env::current_exe().unwrap());
    daemon.args(["--ignored", "--exact", "--nocapture", "vms_outlive_the_daemon_and_are_found_again"]);
    daemon.env("EDGEPLEX_TEST_DAEMON", host.path()).stdout(std::process::Stdio::piped());
    let mut daemon = daemon.spawn().unwrap();
    let mut out = std::io::BufReader::new(daemon.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("DAEMON UP") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut out, &mut line).unwrap(), 0);
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    let s = host.open().await;
    let found = s.list().await.unwrap();
    assert_eq!(
        found.iter().map(|v| (v.id.as_str(), v.state)).collect::<Vec<_>>(),
        [("cvm", VmState::Running), ("pvm-acme-denver", VmState::Running)]
    );
    for vm in &found {
        assert!(!vm.timings.is_empty());
        // cvmd ignores SIGTERM: its init does not wait for ever.
        s.stop(&vm.id).await.unwrap();
    }
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn the_relay_directory_is_shared_and_written_by_the_cvm_only() {
    let host = Host::new();
    let s = host.open().await;
    let (pvm, cvm) = (host.spec("pvm-acme-denver", VmKind::Pvm), host.spec("cvm", VmKind::Cvm));
    s.start(&cvm).await.unwrap();
    wait_for("cvmd", || host.path().join("relay/up").exists().then_some(()));
    let vm = s.start(&pvm).await.unwrap();
    assert_eq!(read(format!("/proc/{}/root/run/relay/up", vm.pid)), "up\n");
    let owner = |id: &VmId| fs::metadata(s.vm_run_dir(id)).unwrap().uid();
    assert_ne!(owner(&cvm.id), owner(&pvm.id));
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn the_cvm_connects_to_the_router_and_nobody_else_can() {
    let host = Host::new();
    let s = host.open().await;
    let (cvm, lsr, pvm) = (host.spec("cvm", VmKind::Cvm), host.spec("lsr", VmKind::Lsr), host.spec("pvm-b", VmKind::Pvm));
    let [cvm_vm, _, pvm_vm] = [s.start(&cvm).await.unwrap(), s.start(&lsr).await.unwrap(), s.start(&pvm).await.unwrap()];
    let connected = |vm: &VmId| {
        let path = s.vm_run_dir(vm).join("lsr");
        wait_for("cvmd", || (read(&path) == "up\n").then_some(()));
    };
    connected(&cvm.id);
    let owner = |id: &VmId| fs::metadata(s.vm_run_dir(id)).unwrap().uid();
    let dir = host.path().join("lsr");
    for (path, mode) in [(dir.clone(), 0o2750), (dir.join("fib.sock"), 0o660)] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (owner(&lsr.id), owner(&cvm.id), mode));
    }
    assert_eq!(read(s.vm_run_dir(&cvm.id).join("lsr-writable")), "no\n");
    assert!(Path::new(&format!("/proc/{}/root/run/lsr", cvm_vm.pid)).exists());
    assert!(!Path::new(&format!("/proc/{}/root/run/lsr", pvm_vm.pid)).exists(), "customers' VMs never see it");

    // Made anew with other user ids, beside the router that runs: it finds the socket all the same.
    s.stop(&cvm.id).await.unwrap();
    std::os::unix::fs::lchown(dir.join("fib.sock"), None, Some(99_999)).unwrap();
    s.start(&cvm).await.unwrap();
    connected(&cvm.id);
    s.stop(&lsr.id).await.unwrap();
    s.start(&lsr).await.unwrap();
    wait_for("the new router", || UnixStream::connect(dir.join("fib.sock")).ok());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn a_start_that_fails_leaves_nothing() {
    let host = Host::new();
    let s = host.open().await;
    // Late: the last of the interfaces is refused, when the VM is all but made.
    let mut spec = host.spec("pvm-b", VmKind::Pvm);
    spec.nics[1].mac = MacAddr([1, 0, 0, 0, 0, 1]);
    let e = s.start(&spec).await.unwrap_err().to_string();
    assert!(e.contains("veth"), "{e}");
    assert_eq!(host.remains(), Vec::<String>::new());
    // In the middle: a relay directory that is a file cannot be mounted.
    let mut spec = host.spec("pvm-b", VmKind::Pvm);
    spec.shared[0] = SharedDir { host: host.path().join("no/such/dir"), path: "/run/relay".into(), role: Share::OwnerForAll };
    s.start(&spec).await.unwrap_err();
    assert_eq!(host.remains(), Vec::<String>::new());
    // Early: a program is missing.
    fs::rename(host.path().join("bin/pvmd"), host.path().join("bin/away")).unwrap();
    let spec = host.spec("pvm-b", VmKind::Pvm);
    let e = s.start(&spec).await.unwrap_err().to_string();
    assert!(e.contains("bin/pvmd"), "{e}");
    assert_eq!(host.remains(), Vec::<String>::new());
    fs::rename(host.path().join("bin/away"), host.path().join("bin/pvmd")).unwrap();
    s.start(&spec).await.unwrap();
    s.stop(&spec.id).await.unwrap();
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn the_state_of_a_cvm_outlives_its_making_until_it_is_forgotten() {
    let host = Host::new();
    let s = host.open().await;
    let spec = host.spec("cvm", VmKind::Cvm);
    let dir = host.path().join("d/vm-state/cvm");
    let runs = |n: usize| wait_for("cvmd", || (read(dir.join("labels")).lines().count() == n).then_some(()));
    let vm = s.start(&spec).await.unwrap();
    runs(1);
    let (meta, run) = (fs::metadata(&dir).unwrap(), fs::metadata(s.vm_run_dir(&spec.id)).unwrap());
    assert_eq!((meta.uid(), meta.mode() & 0o777), (run.uid(), 0o700));
    assert!(matches!(s.forget(&spec.id).await, Err(RuntimeError::Exists(_))));

    // Told to stop, and made anew; by then another VM has had its user ids.
    s.stop(&spec.id).await.unwrap();
    std::os::unix::fs::chown(dir.join("labels"), Some(99_999), Some(99_999)).unwrap();
    s.start(&spec).await.unwrap();
    runs(2);
    assert_eq!(fs::metadata(dir.join("labels")).unwrap().uid(), run.uid());
    // Dead, and made anew over what is left, by a daemon that has just started.
    let vm = s.inspect(&vm.id).await.unwrap().unwrap();
    assert!(Command::new("kill").args(["-9", &vm.pid.to_string()]).status().unwrap().success());
    while s.inspect(&spec.id).await.unwrap().unwrap().state != VmState::Dead {
        tokio::task::yield_now().await;
    }
    let s = host.open().await;
    s.start(&spec).await.unwrap();
    runs(3);

    s.stop(&spec.id).await.unwrap();
    assert!(dir.exists());
    s.forget(&spec.id).await.unwrap();
    assert!(!dir.exists());
    s.forget(&spec.id).await.unwrap();
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn a_vm_whose_state_is_damaged_counts_as_dead_and_lives_until_it_is_made_anew() {
    let host = Host::new();
    let s = host.open().await;
    let (good, bad) = (host.spec("pvm-acme-denver", VmKind::Pvm), host.spec("pvm-b", VmKind::Pvm));
    let before = (s.start(&good).await.unwrap(), s.start(&bad).await.unwrap());
    let state = host.path().join("d/vms/pvm-b/state.json");
    let text = read(&state);
    for damage in [text.replace("\"version\": 1", "\"version\": 2"), text[..text.len() / 2].to_owned(), String::new()] {
        assert_ne!(damage, text);
        fs::write(&state, damage).unwrap();
        let s = host.open().await;
        let found: Vec<_> = s.list().await.unwrap().into_iter().map(|v| (v.id.to_string(), v.state)).collect();
        assert_eq!(found, [("pvm-acme-denver".into(), VmState::Running), ("pvm-b".to_owned(), VmState::Dead)]);
        assert_eq!(s.inspect(&bad.id).await.unwrap().unwrap().state, VmState::Dead);
        assert!(!children(&before.1).is_empty(), "killed at open");
    }
    let s = host.open().await;
    let after = s.start(&bad).await.unwrap();
    assert_ne!(after.pid, before.1.pid);
    let old = read(format!("/proc/{}/stat", before.1.pid));
    assert!(old.is_empty() || old.contains(") Z "), "still there: {old}");
    assert_eq!(s.inspect(&good.id).await.unwrap().unwrap(), before.0);
    fs::write(&state, "").unwrap();
    s.stop(&bad.id).await.unwrap();
    s.stop(&good.id).await.unwrap();
    assert_eq!(host.remains(), Vec::<String>::new());
}
