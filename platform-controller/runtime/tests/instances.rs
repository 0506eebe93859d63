//! What a VM's successor needs: its end seen at once, its sockets, its files, and other versions of the programs. As `sandbox.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, children, read, wait_for};
use edgeplex_runtime::{DEFAULT_IMAGE, Runtime, RuntimeError, VmId, VmKind, VmNic, VmState};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Far below a second, and far above what the kernel needs on a busy machine.
const SOON: Duration = Duration::from_millis(500);

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn the_end_of_a_vm_is_seen_at_once() {
    let host = Host::new();
    let s = host.open().await;
    let spec = host.spec("pvm-b", VmKind::Pvm);
    timeout(SOON, s.exited(&spec.id)).await.unwrap().unwrap();
    let vm = s.start(&spec).await.unwrap();
    let mut end = s.exited(&spec.id);
    assert!(timeout(Duration::from_millis(100), &mut end).await.is_err(), "it runs");
    // Also by a daemon that came later.
    let later = host.open().await;
    let mut end_2 = later.exited(&spec.id);
    let of_it = children(&vm);
    assert!(!of_it.is_empty());
    kill(Pid::from_raw(vm.pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    timeout(SOON, &mut end).await.unwrap().unwrap();
    timeout(SOON, &mut end_2).await.unwrap().unwrap();
    assert!(of_it.iter().all(|p| !Path::new(&format!("/proc/{p}/ns/net")).exists()), "all of it is dead");
    assert_eq!(s.inspect(&spec.id).await.unwrap().unwrap().state, VmState::Dead);
    timeout(SOON, s.exited(&spec.id)).await.unwrap().unwrap();
    s.stop(&spec.id).await.unwrap();
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn a_vm_is_killed_without_being_asked_also_when_it_is_frozen() {
    let host = Host::new();
    let s = host.open().await;
    // Its daemon ignores SIGTERM: a stop would take seconds.
    let spec = host.spec("cvm", VmKind::Cvm);
    s.kill(&spec.id).await.unwrap();
    for frozen in [false, true] {
        let vm = s.start(&spec).await.unwrap();
        let of_it = wait_for("its daemon", || Some(children(&vm)).filter(|c| !c.is_empty()));
        if frozen {
            s.freeze(&spec.id).await.unwrap();
        }
        let start = Instant::now();
        s.kill(&spec.id).await.unwrap();
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        assert!(of_it.iter().all(|p| !Path::new(&format!("/proc/{p}/ns/net")).exists()), "all of it is dead on return");
        assert_eq!(s.inspect(&spec.id).await.unwrap().unwrap().state, VmState::Dead);
    }
    s.stop(&spec.id).await.unwrap();
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn a_vms_socket_is_reached_while_it_runs() {
    let host = Host::new();
    let s = host.open().await;
    let spec = host.spec("pvm-b", VmKind::Pvm);
    s.start(&spec).await.unwrap();
    let listener = UnixListener::bind(s.vm_run_dir(&spec.id).join("x.sock")).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
    });
    let mut stream = s.connect(&spec.id, "x.sock").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello");
    answer.join().unwrap();
    for bad in ["y.sock", "../edgeplex/x.sock", "alive"] {
        assert!(matches!(s.connect(&spec.id, bad).await, Err(RuntimeError::Io { .. })), "{bad}");
    }
    assert_eq!(s.config(&spec.id).await.unwrap().unwrap(), spec.config);
    s.rewrite_config(&spec.id, b"{}").await.unwrap();
    assert_eq!(s.config(&spec.id).await.unwrap().unwrap(), b"{}");
    s.kill(&spec.id).await.unwrap();
    assert!(matches!(s.connect(&spec.id, "x.sock").await, Err(RuntimeError::Unknown(_))));
    s.stop(&spec.id).await.unwrap();
    assert_eq!(s.config(&spec.id).await.unwrap(), None);
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn vms_of_different_versions_run_side_by_side() {
    let host = Host::new();
    let (bin, images) = (host.path().join("bin"), host.path().join("d/images"));
    for name in ["v2", "broken"] {
        fs::create_dir_all(images.join(name)).unwrap();
    }
    for name in ["edgeplex-init", "fastforward", "cvmd"] {
        fs::copy(bin.join(name), images.join("v2").join(name)).unwrap();
    }
    let pvmd = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo pvmd 2.0.0; exit; fi\necho this is v2\nexec sleep 1000\n";
    fs::write(images.join("v2/pvmd"), pvmd).unwrap();
    fs::set_permissions(images.join("v2/pvmd"), fs::Permissions::from_mode(0o755)).unwrap();
    let s = host.open().await;
    let listed = s.images().await.unwrap();
    let told: Vec<_> = listed.iter().map(|i| (i.name.as_str(), i.version.as_str(), i.hash.len())).collect();
    assert_eq!(told, [(DEFAULT_IMAGE, "1.2.3", 64), ("v2", "2.0.0", 64)], "one that lacks programs is none");
    assert_ne!(listed[0].hash, listed[1].hash);

    let old = host.spec("pvm-b", VmKind::Pvm);
    let mut new = host.spec("pvm-acme-denver", VmKind::Pvm);
    let plain = new.hash();
    new.image = Some("v2".into());
    assert_ne!(new.hash(), plain, "another version is another VM");
    let vms = [s.start(&old).await.unwrap(), s.start(&new).await.unwrap()];
    assert_eq!(vms.each_ref().map(|vm| vm.image.as_deref()), [None, Some("v2")]);
    assert_ne!(vms[0].template, vms[1].template);
    let log = |id: &VmId| read(s.vm_log_dir(id).join("pvmd.log"));
    wait_for("the new one", || log(&new.id).contains("this is v2").then_some(()));
    wait_for("the old one", || log(&old.id).contains("done").then_some(()));
    assert_eq!(host.open().await.inspect(&new.id).await.unwrap().unwrap(), vms[1], "a later daemon knows");

    for (image, says) in [("broken", "edgeplex-init"), ("none", "none/"), ("../bin", "must be letters")] {
        let mut spec = host.spec("cvm", VmKind::Cvm);
        spec.image = Some(image.into());
        let error = s.start(&spec).await.unwrap_err().to_string();
        assert!(error.contains(says) || error.contains(image), "{error}");
        assert_eq!(s.inspect(&spec.id).await.unwrap(), None);
    }
    for id in [&old.id, &new.id] {
        s.stop(id).await.unwrap();
    }
    assert_eq!(host.remains(), Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs root and namespaces"]
async fn instances_of_one_thing_are_one_user_with_one_state() {
    let host = Host::new();
    let s = host.open().await;
    let cvm: VmId = "cvm".parse().unwrap();
    let instance = |n: u8| {
        let mut spec = host.spec(&format!("cvm-g{n}"), VmKind::Cvm);
        spec.identity = Some(cvm.clone());
        spec.nics[0].tag = Some(u16::from(n).try_into().unwrap());
        spec
    };
    let (first, second) = (instance(1), instance(2));
    let relay = host.path().join("relay");
    let own = |id: &VmId| fs::metadata(s.vm_run_dir(id).join("up")).ok().map(|m| m.uid());
    s.start(&first).await.unwrap();
    let uid = wait_for("the first", || own(&first.id));
    s.start(&second).await.unwrap();
    assert_eq!(wait_for("the second", || own(&second.id)), uid);
    // The first must be able to make its socket anew there.
    assert_eq!(fs::metadata(&relay).unwrap().uid(), uid);
    let labels = || read(host.path().join("d/vm-state/cvm/labels")).lines().count();
    wait_for("both have written", || (labels() == 2).then_some(()));
    let again = host.open().await;
    let nic = |spec: &edgeplex_runtime::VmSpec| vec![VmNic { host_name: spec.nics[0].host_name.clone(), tag: spec.nics[0].tag }];
    for spec in [&first, &second] {
        assert_eq!(again.inspect(&spec.id).await.unwrap().unwrap().nics, nic(spec));
    }
    s.kill(&first.id).await.unwrap();
    s.stop(&first.id).await.unwrap();
    assert!(matches!(again.forget(&cvm).await, Err(RuntimeError::Exists(id)) if id == second.id), "what another instance has");
    // A third, by a later daemon: still the same.
    let third = instance(3);
    again.start(&third).await.unwrap();
    assert_eq!(wait_for("the third", || own(&third.id)), uid);
    wait_for("it has the file", || (labels() == 3).then_some(()));
    for id in [&second.id, &third.id] {
        again.kill(id).await.unwrap();
        again.stop(id).await.unwrap();
    }
    again.forget(&cvm).await.unwrap();
    assert_eq!(labels(), 0);
    // A host's user of its own again.
    let other = host.spec("pvm-b", VmKind::Pvm);
    again.start(&other).await.unwrap();
    assert_ne!(fs::metadata(again.vm_run_dir(&other.id)).unwrap().uid(), uid);
    again.stop(&other.id).await.unwrap();
}
