//! A platform's directory on this host, with programs that stand for the daemons.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use edgeplex_runtime::{
    Nic, Process, Runtime, RuntimeError, Sandbox, SandboxConfig, Share, SharedDir, VmId, VmInfo, VmKind, VmSpec, host_nic_name,
};
use edgeplex_types::MacAddr;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// `edgeplex-init`, built as this test was.
pub fn init() -> &'static Path {
    static INIT: OnceLock<PathBuf> = OnceLock::new();
    INIT.get_or_init(|| {
        let built = Command::new(env!("CARGO")).args(["build", "-q", "-p", "edgeplex-init"]).status().unwrap();
        assert!(built.success());
        std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("edgeplex-init")
    })
}

/// A platform's directory, and programs that stand for the daemons. All VMs of it are gone with it.
pub struct Host {
    dir: tempfile::TempDir,
}

/// Says what it sees of its VM, and then waits.
const PVMD: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then echo "pvmd 1.2.3"; exit; fi
exec 2>&1
echo "pid $$ uid $(id -u) host $(cat /proc/sys/kernel/hostname)"
echo "config $(cat /etc/edgeplex/config.json)"
echo "nics $(ls /proc/sys/net/ipv4/conf | tr '\n' ' ')"
echo "root $(ls / | tr '\n' ' ')"
echo "opt $(ls /opt/edgeplex | tr '\n' ' ')"
grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status
touch /etc/edgeplex/x || echo "etc is read-only"
touch /usr/x || echo "usr is read-only"
touch /x || echo "root is read-only"
mount -t tmpfs none /tmp || echo "cannot mount"
touch /run/relay/x || echo "relay is read-only"
ln -s /etc /run/x || echo "the place of run is not its own"
echo yes > /run/edgeplex/alive
echo done
exec sleep 1000
"#;
/// In a label-switching router it listens for the CVM.
const FASTFORWARD: &str = r#"#!/bin/sh
if [ -d /run/lsr ]; then
    exec perl -MIO::Socket::UNIX -e '$p = "/run/lsr/fib.sock"; unlink $p; $s = IO::Socket::UNIX->new(Local => $p, Listen => 1) or die $!; chmod 0660, $p; sleep 1000'
fi
echo $$ > /run/edgeplex/ff.pid
echo run >> /run/edgeplex/ff.runs
exec sleep 1000
"#;
/// A process that takes no hint.
const CVMD: &str = r#"#!/bin/sh
trap '' TERM
read a b c </proc/self/stat
echo up > /run/relay/up; echo up > /run/edgeplex/up
echo kept >> /var/lib/edgeplex/labels
touch /run/lsr/x || echo no > /run/edgeplex/lsr-writable
until perl -MIO::Socket::UNIX -e 'exit !IO::Socket::UNIX->new(Peer => "/run/lsr/fib.sock")'; do sleep 0.1; done
echo up > /run/edgeplex/lsr
while :; do sleep 1000; done
"#;

impl Host {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("edgeplex-vms-").tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::copy(init(), bin.join("edgeplex-init")).unwrap();
        for (name, text) in [("pvmd", PVMD), ("fastforward", FASTFORWARD), ("cvmd", CVMD)] {
            fs::write(bin.join(name), text).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub async fn open(&self) -> Sandbox {
        Sandbox::open(SandboxConfig { dir: self.path().join("d"), bin_dir: self.path().join("bin") }).await.unwrap()
    }

    pub fn spec(&self, id: &str, kind: VmKind) -> VmSpec {
        spec(self.path(), id, kind)
    }

    /// Everything of this host's VMs that could have been left on the real one.
    pub fn remains(&self) -> Vec<String> {
        let run = |program: &str, args: &[&str]| String::from_utf8(Command::new(program).args(args).output().unwrap().stdout).unwrap();
        let me = self.path().display().to_string();
        let links = run("ip", &["-o", "link"]);
        let mut out = vec![];
        for (id, kind) in [("cvm", VmKind::Cvm), ("pvm-acme-denver", VmKind::Pvm), ("pvm-b", VmKind::Pvm), ("lsr", VmKind::Lsr)] {
            let nics = self.spec(id, kind).nics;
            out.extend(nics.into_iter().map(|n| n.host_name).filter(|n| links.contains(n)));
        }
        out.extend(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(&me)).map(str::to_owned));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let exe = fs::read_link(entry.path().join("exe")).unwrap_or_default();
            if exe.starts_with(self.path()) {
                out.push(format!("process {}", entry.path().display()));
            }
        }
        if let Ok(dirs) = fs::read_dir(self.path().join("d/vms")) {
            out.extend(dirs.flatten().map(|e| e.path().display().to_string()));
        }
        out
    }
}

impl Drop for Host {
    /// Also when a test has failed half-way.
    fn drop(&mut self) {
        let config = SandboxConfig { dir: self.path().join("d"), bin_dir: self.path().join("bin") };
        let end = async move {
            let s = Sandbox::open(config).await?;
            for vm in s.list().await? {
                s.stop(&vm.id).await?;
            }
            s.close();
            Ok::<_, RuntimeError>(())
        };
        let thread = std::thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(end));
        let ended = thread.join().unwrap();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

pub fn spec(base: &Path, id: &str, kind: VmKind) -> VmSpec {
    let id: VmId = id.parse().unwrap();
    let nic = |n: u8, name: &str| Nic {
        name: name.into(),
        mac: MacAddr([2, 0, 0, 0, 9, n]),
        mtu: 1600,
        host_name: host_nic_name(base, &id, name),
        tag: None,
    };
    let process = |name: &str| Process { name: name.into(), argv: vec![name.into()] };
    let (nics, processes) = match kind {
        VmKind::Pvm => (vec![nic(1, "cust"), nic(2, "core")], vec![process("pvmd"), process("fastforward")]),
        VmKind::Cvm => (vec![nic(3, "core0")], vec![process("cvmd")]),
        VmKind::Lsr => (vec![nic(4, "core0")], vec![process("fastforward")]),
    };
    let share = |name: &str, role| SharedDir { host: base.join(name), path: format!("/run/{name}"), role };
    let shared = match kind {
        VmKind::Pvm => vec![share("relay", Share::Guest)],
        VmKind::Cvm => vec![share("relay", Share::OwnerForAll), share("lsr", Share::Member)],
        VmKind::Lsr => vec![share("lsr", Share::OwnerForMember)],
    };
    VmSpec { nics, processes, id, kind, config: b"{\"a\":1}".to_vec(), memory_max: Some(256 << 20), shared, image: None, identity: None }
}

pub fn wait_for<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(v) = f() {
            return v;
        }
        assert!(Instant::now() < deadline, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// PIDs on the host of the VM's processes (children of its init).
pub fn children(vm: &VmInfo) -> Vec<u32> {
    let text = read(format!("/proc/{0}/task/{0}/children", vm.pid));
    text.split_whitespace().map(|p| p.parse().unwrap()).collect()
}
