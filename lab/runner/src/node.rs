//! A node: a process tree in namespaces of its own (network, mount, PID, UTS, IPC; a further host's clock) over the host's file system.
//!
//! ```text
//!  runner ── node-init (outer): unshares, starts ──► node-init (pid 1): mounts, waits for ever, reaps
//!                                                      └── daemons, started by nsenter + `daemonize`
//! ```
//! The node sees the host's programs, but its own /proc, /sys and /run (so every daemon finds its sockets where it
//! expects them), and its own /etc/frr and /etc/bird, into which the topology's binds go.

use crate::{
    process::Process,
    state::{LabDir, NODE_INIT, write_json},
    topology::{Image, Topology},
    wait,
};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// What node-init has to prepare; lies in the node's directory as spec.json.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    pub hostname: String,
    /// Where edgeplexd's directory appears in a PE node, below /run; /run/edgeplex leads there. edgeplexd derives the
    /// names of its cgroups from it, so it is another one in every node of every lab.
    pub edgeplex: Option<PathBuf>,
    /// Interfaces of a node whose FRR is to believe that the kernel forwards MPLS; [`crate::tools::ovs_lsr`] does it.
    pub mpls: Vec<String>,
    /// Directories of the host that the node gets empty and to itself, with their owner.
    pub private: Vec<(PathBuf, Option<String>)>,
    /// Source, target, read-only.
    pub binds: Vec<(PathBuf, PathBuf, bool)>,
    /// Seconds by which its monotonic and boot-time clocks are ahead of the machine's: hosts do not start at the same moment.
    pub clock: Option<u32>,
}

/// Of a further host.
const OTHER_CLOCK: u32 = 1_000_000;

impl Spec {
    pub fn new(topology: &Topology, hostname: &str) -> Self {
        let (lab, node) = (&topology.name, &topology.nodes[hostname]);
        let image = node.image;
        let private = match image {
            // FRR keeps crash logs in /var/tmp, by pid: ours are the same in every node.
            Image::Frr => vec![("/etc/frr".into(), Some("frr".into())), ("/var/tmp".into(), None)],
            Image::Bird => vec![("/etc/bird".into(), None)],
            Image::EdgePlex | Image::Host | Image::GoBgp | Image::OpenBgpd | Image::Plain => vec![],
        };
        let mpls = if topology.wants_mpls(hostname) { topology.interfaces(hostname).map(|(i, _)| i.to_owned()).collect() } else { vec![] };
        let binds = node.binds.iter().map(|b| (b.source.clone(), b.target.clone(), b.read_only)).collect();
        let edgeplex = matches!(image, Image::EdgePlex | Image::Host).then(|| PathBuf::from(format!("pe/{lab}-{hostname}")));
        let clock = (image == Image::Host).then_some(OTHER_CLOCK);
        Self { hostname: hostname.to_owned(), edgeplex, mpls, private, binds, clock }
    }
}

/// A running node.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub init: Process,
    pub dir: PathBuf,
    bin_dir: PathBuf,
}

impl Node {
    /// Starts the node's first process and returns once its namespaces are ready.
    pub fn start(lab: &LabDir, name: &str, spec: &Spec) -> Result<Self> {
        let dir = lab.node(name);
        for sub in ["", "run", "sys", "shared", "edgeplex"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        write_json(&dir.join("spec.json"), spec)?;
        let log = fs::File::create(dir.join("shared/init.log"))?;
        let mut outer =
            Command::new(own_program()?).arg(NODE_INIT).arg(&dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut said = String::new();
        if let Some(out) = outer.stdout.take() {
            BufReader::new(out).read_line(&mut said)?;
        }
        let ended = outer.wait()?;
        let log = || fs::read_to_string(dir.join("shared/init.log")).unwrap_or_default();
        ensure!(ended.success() && said.trim() == "ready", "node {name} did not start: {}", log().trim());
        Self::find(lab, name)
    }

    pub fn find(lab: &LabDir, name: &str) -> Result<Self> {
        let init = lab.init(name).filter(|p| p.alive()).with_context(|| format!("node {name} of lab {} is not running", lab.name()))?;
        Ok(Self { name: name.to_owned(), init, dir: lab.node(name), bin_dir: bin_dir()? })
    }

    /// A command that runs inside the node, with EdgePlex's programs on its PATH.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let path = env::var("PATH").unwrap_or_default();
        let mut c = Command::new("nsenter");
        c.args(["-t", &self.init.pid.to_string(), "-m", "-u", "-i", "-n", "-p"]);
        let clock = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/time")).ok();
        if clock(&self.init.pid.to_string()) != clock("self") {
            c.arg("-T");
        }
        c.args(["--", program]).args(arguments);
        c.env("PATH", format!("{}:{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", self.bin_dir.display()));
        c.env("EDGEPLEX_SOCKET", "/run/edgeplex/api.sock").env("OVS_RUNDIR", "/run/openvswitch").env("OVS_LOGDIR", "/run/lab");
        c.current_dir("/");
        c
    }

    /// Runs to the end, whatever the exit code.
    pub fn output(&self, line: &[&str]) -> Result<Output> {
        let (program, arguments) = line.split_first().context("empty command")?;
        self.command(program, arguments).stdin(Stdio::null()).output().with_context(|| format!("{} in {}", line.join(" "), self.name))
    }

    /// Runs to the end and gives what it wrote; a failure carries what it complained of.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        let out = self.output(line)?;
        if !out.status.success() {
            let said = [out.stdout, out.stderr].concat();
            bail!("{}: `{}` ended with {}: {}", self.name, line.join(" "), out.status, String::from_utf8_lossy(&said).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    pub fn shell(&self, script: &str) -> Result<String> {
        self.run(&["sh", "-ec", script])
    }

    /// Starts one of our own subcommands in the node, with a pipe to it.
    pub fn tool(&self, arguments: &[&str]) -> Result<Child> {
        let me = own_program()?;
        let mut c = self.command(&me.to_string_lossy(), arguments);
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        c.spawn().with_context(|| format!("{} in {}", arguments.join(" "), self.name))
    }

    /// Starts a daemon as a child of the node's first process, in a session of its own, with its output in the
    /// node's log directory. Returns once it has been started.
    pub fn daemon(&self, name: &str, line: &[&str]) -> Result<()> {
        let me = own_program()?.to_string_lossy().into_owned();
        let log = format!("/run/lab/{name}.log");
        self.run(&[&[me.as_str(), "daemonize", "--log", &log, "--"], line].concat()).map(drop)
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("shared").join(format!("{name}.log"))
    }

    /// The node's processes of that command name (as ps shows it), by the host's pids.
    pub fn processes(&self, command: &str) -> Vec<i32> {
        crate::process::tree(self.init.pid).into_iter().filter(|p| crate::process::command(*p) == command).collect()
    }

    /// Waits until a path exists in the node.
    pub fn wait_path(&self, path: &str, deadline: Duration) -> Result<()> {
        let full = PathBuf::from(format!("/proc/{}/root{path}", self.init.pid));
        wait::until_true(&format!("{}: {path}", self.name), deadline, || Ok(full.exists()))
    }
}

/// Where this program and the rest of EdgePlex lie.
pub fn bin_dir() -> Result<PathBuf> {
    Ok(own_program()?.parent().context("no directory of our own")?.to_owned())
}

/// This program's file. When a build has replaced it meanwhile, the kernel says so behind the name: then it is the
/// new one that we want, the same as the other programs beside it.
pub fn own_program() -> Result<PathBuf> {
    let path = env::current_exe()?;
    let name = path.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// time_namespaces(7): for children only.
const CLONE_NEWTIME: i32 = 0x80;

/// `edgeplex-lab node-init DIR`, outer half: new namespaces, then pid 1 within them.
pub fn init_outer(dir: &Path) -> Result<()> {
    nix::unistd::setsid().context("setsid")?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWPID)
        .context("unshare (root is needed)")?;
    let spec: Spec = crate::state::read_json(&dir.join("spec.json"))?;
    if let Some(ahead) = spec.clock.filter(|_| Path::new("/proc/self/ns/time").exists()) {
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME)).context("a clock of its own")?;
        fs::write("/proc/self/timens_offsets", format!("monotonic {ahead} 0\nboottime {ahead} 0\n")).context("a clock of its own")?;
    }
    let mut inner = Command::new(own_program()?).arg(NODE_INIT).arg(dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let pid = i32::try_from(inner.id())?;
    let process = Process::find(pid).context("the node's first process is gone")?;
    write_json(&dir.join("init.json"), &process)?;
    let mut said = String::new();
    if let Some(out) = inner.stdout.take() {
        BufReader::new(out).read_line(&mut said)?;
    }
    ensure!(said.trim() == "ready", "the node's first process failed");
    println!("ready");
    Ok(())
}

/// Inner half: pid 1 of the node. Returns only on error.
pub fn init_inner(dir: &Path) -> Result<()> {
    let spec: Spec = crate::state::read_json(&dir.join("spec.json"))?;
    // Not in the outer half, which still has to read the host's /proc.
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    prepare_mounts(dir, &spec)?;
    nix::unistd::sethostname(&spec.hostname)?;
    ensure!(Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success(), "cannot bring lo up");
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    // Nobody reads the pipe after this.
    let null = fs::File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    reap_for_ever()
}

fn reap_for_ever() -> Result<()> {
    use nix::sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    };
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        children.wait()?;
    }
}

fn prepare_mounts(dir: &Path, spec: &Spec) -> Result<()> {
    let none = None::<&str>;
    // Changes of the host still reach us (so that we pin nothing that it unmounts), ours do not reach it.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("making / a slave")?;
    let bind = |from: &Path, to: &Path, extra: MsFlags| -> Result<()> {
        mount(Some(from), to, none, MsFlags::MS_BIND | extra, none)
            .with_context(|| format!("binding {} on {}", from.display(), to.display()))
    };

    let proc_flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), proc_flags, none).context("/proc")?;
    if !spec.mpls.is_empty() {
        pretend_mpls(dir, &spec.mpls)?;
    }
    let sys = dir.join("sys");
    mount(Some("sysfs"), &sys, Some("sysfs"), proc_flags, none).context("/sys")?;
    if Path::new("/sys/fs/cgroup").is_dir() {
        bind(Path::new("/sys/fs/cgroup"), &sys.join("fs/cgroup"), MsFlags::MS_REC)?;
    }
    bind(&sys, Path::new("/sys"), MsFlags::MS_REC)?;

    let run = dir.join("run");
    mount(Some("tmpfs"), &run, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755")).context("/run")?;
    for sub in ["lab", "openvswitch", "bird", "frr", "gobgp", "openbgpd", "lock"] {
        fs::create_dir(run.join(sub))?;
    }
    give(&run.join("frr"), "frr")?;
    bind(&dir.join("shared"), &run.join("lab"), MsFlags::empty())?;
    if let Some(own) = &spec.edgeplex {
        fs::create_dir_all(run.join(own))?;
        bind(&dir.join("edgeplex"), &run.join(own), MsFlags::empty())?;
        std::os::unix::fs::symlink(own, run.join("edgeplex"))?;
    }

    for (path, owner) in &spec.private {
        ensure!(path.is_dir(), "{} is missing: run lab/setup", path.display());
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
            .with_context(|| format!("{}", path.display()))?;
        if let Some(owner) = owner {
            give(path, owner)?;
        }
    }
    for (source, target, read_only) in &spec.binds {
        let target = target.strip_prefix("/run").map_or_else(|_| target.clone(), |rest| run.join(rest));
        if !target.exists() {
            if source.is_dir() { fs::create_dir_all(&target)? } else { fs::write(&target, "")? }
        }
        bind(source, &target, MsFlags::empty())?;
        if *read_only {
            bind(source, &target, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)?;
        }
    }
    // Last, because the sources above may lie under the host's /run.
    bind(&run, Path::new("/run"), MsFlags::MS_REC)
}

/// Puts /proc/sys/net/mpls before a router's eyes, as a kernel with MPLS has it; the rest of /proc/sys/net stays what it is.
fn pretend_mpls(dir: &Path, interfaces: &[String]) -> Result<()> {
    let none = None::<&str>;
    let (net, real) = (Path::new("/proc/sys/net"), dir.join("net"));
    fs::create_dir_all(&real)?;
    mount(Some(net), &real, none, MsFlags::MS_BIND, none).context("/proc/sys/net")?;
    mount(Some("tmpfs"), net, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755")).context("/proc/sys/net")?;
    for entry in fs::read_dir(&real)? {
        let entry = entry?;
        let place = net.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&place)?
        } else {
            fs::write(&place, "")?
        }
        mount(Some(&entry.path()), &place, none, MsFlags::MS_BIND, none).with_context(|| place.display().to_string())?;
    }
    for interface in interfaces {
        let conf = net.join("mpls/conf").join(interface);
        fs::create_dir_all(&conf)?;
        fs::write(conf.join("input"), "1\n")?;
        give(&conf.join("input"), "frr")?;
    }
    fs::write(net.join("mpls/platform_labels"), "1048575\n")?;
    Ok(())
}

/// Gives a directory to a user, if the machine has that user.
fn give(path: &Path, user: &str) -> Result<()> {
    if let Some(user) = nix::unistd::User::from_name(user)? {
        nix::unistd::chown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// `edgeplex-lab daemonize --log FILE -- CMD…`: starts the command in a new session and leaves it to pid 1.
pub fn daemonize(log: &Path, line: &[String]) -> Result<()> {
    let (program, arguments) = line.split_first().context("empty command")?;
    nix::unistd::setsid().or_else(|e| if e == nix::errno::Errno::EPERM { Ok(nix::unistd::getpid()) } else { Err(e) })?;
    let out = fs::File::options().create(true).append(true).open(log)?;
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn();
    let child = child.with_context(|| format!("cannot start {program}"))?;
    println!("{}", child.id());
    Ok(())
}
