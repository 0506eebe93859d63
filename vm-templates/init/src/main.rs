//! `edgeplex-init`: makes the inside of a VM, and is PID 1 of it.
//!
//! Started by the runtime, on the host (stage 1), then by itself as the first process of the new PID namespace
//! (stage 2), and for a moment as each process of the VM. See `edgeplex_recipes::boot` for the conversation with the runtime. Stage 2 builds the root while it
//! is still root of the host, and only then moves into a user namespace: so the VM's root need not be able to read
//! any of the host's directories, and its mounts belong to the host, beyond the VM's power to undo.

mod caps;
mod log;
mod root;
mod sockopt;
mod supervise;

use anyhow::{Context, bail};
use edgeplex_recipes::{
    BIN_DIR,
    boot::{self, BootSpec, GO, Report},
    tap_of,
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::SigSet,
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, dup2_stdin, dup2_stdout, execv, setgroups, sethostname, setresgid, setresuid, setsid},
};
use std::{
    ffi::CString,
    fs,
    io::{self, Read, Write},
    process::{Command, ExitCode, Stdio},
};

/// FastForward locks the rings of its vNICs, of which there may be 64, into memory. The VM's cgroup bounds it in any case.
const MEMLOCK: u64 = 512 << 20;
const STAGE_2: &str = "--stage-2";
const EXEC: &str = "--exec";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => stage_1(),
        [STAGE_2] => stage_2(),
        [EXEC, program, ..] => become_process(program, &args[1..]),
        _ => {
            eprintln!("edgeplex-init is started by the runtime, without arguments");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("edgeplex-init: {e:#}");
            let _ = report(&Report::Failed(format!("{e:#}")));
            ExitCode::FAILURE
        }
    }
}

fn report(r: &Report) -> io::Result<()> {
    let mut line = serde_json::to_string(r)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Leaves the runtime's session, so that the VM outlives the runtime, and starts stage 2.
fn stage_1() -> anyhow::Result<()> {
    setsid().context("new session")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).context("new mount and PID namespaces (are you root?)")?;
    let child = Command::new("/proc/self/exe").arg(STAGE_2).spawn().context("stage 2")?;
    report(&Report::Pid(child.id()))?;
    Ok(())
}

/// An unbuffered line of standard input.
fn input_line() -> io::Result<Vec<u8>> {
    struct Stdin;
    impl Read for Stdin {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            Ok(nix::unistd::read(io::stdin(), buf)?)
        }
    }
    boot::read_line(&mut Stdin)
}

fn stage_2() -> anyhow::Result<()> {
    // Before anything can arrive: signals wait from here on until the supervisor reads them.
    let signals = supervise::block_signals()?;
    let spec: BootSpec = serde_json::from_slice(&input_line().context("specification")?).context("specification")?;
    if spec.version != boot::VERSION {
        bail!("specification of version {}: this edgeplex-init knows {}", spec.version, boot::VERSION);
    }
    let logs = log::open_all(&spec)?;
    root::build(&spec)?;
    // Where the host's root may not raise it either, few vNICs get along with what there is.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, MEMLOCK, MEMLOCK);

    let rest = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(rest).context("new user, network, IPC, UTS and cgroup namespaces")?;
    report(&Report::Ready)?;
    if input_line().context("waiting for the runtime")? != GO.as_bytes() {
        bail!("the runtime did not say {GO}");
    }

    // The maps are written: 0 is now the VM's own root, and the host's is out of reach.
    setgroups(&[]).context("groups")?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).context("group 0")?;
    setresuid(uid, uid, uid).context("user 0")?;
    sethostname(&spec.hostname).context("host name")?;
    for nic in &spec.raw_nics {
        keep_kernel_off(nic)?;
    }
    // As long as PID 1 has these, the kernel sees no link go down when FastForward is started again.
    let _carriers = spec.raw_nics.iter().filter_map(|nic| tap_of(nic)).map(|tap| sockopt::tap(&tap)).collect::<Result<Vec<_>, _>>()?;
    umask(Mode::from_bits_truncate(spec.umask));
    caps::limit()?;
    prctl::set_no_new_privs().context("no new privileges")?;

    let mut supervisor = supervise::Supervisor::new(&spec, logs, signals);
    supervisor.start_all();
    report(&Report::Running)?;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").context("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    supervisor.run()
}

/// The forwarder reads and writes the frames of this interface. The kernel sees them too: left alone it would answer
/// ARP for the addresses of the TAP, and take in packets a second time. Strict reverse-path filtering drops those,
/// for the way back to any source is the TAP.
fn keep_kernel_off(nic: &str) -> anyhow::Result<()> {
    for (key, value) in [("rp_filter", "1"), ("arp_ignore", "8")] {
        let path = format!("/proc/sys/net/ipv4/conf/{nic}/{key}");
        fs::write(&path, value).context(path)?;
    }
    Ok(())
}

/// The last step to a process of the VM, in the process itself: PID 1's blocked signals would be inherited (the
/// standard library leaves the mask as it is), and unblocking them in PID 1, even for a moment, could lose one.
fn become_process(program: &str, argv: &[String]) -> anyhow::Result<()> {
    SigSet::empty().thread_set_mask().context("signal mask")?;
    let argv = argv.iter().map(|a| CString::new(a.as_str())).collect::<Result<Vec<_>, _>>()?;
    let path = if program.contains('/') { program.to_owned() } else { format!("{BIN_DIR}/{program}") };
    execv(&CString::new(path)?, &argv).context(program.to_owned())?;
    Ok(())
}

/// How PID 1 starts a process of the VM.
fn command(argv: &[String], (out, err): (fs::File, fs::File)) -> Command {
    // The link leads to this program although the VM's root does not have it.
    let mut c = Command::new("/proc/self/exe");
    c.arg(EXEC).args(argv).stdin(Stdio::null()).stdout(out).stderr(err).env_clear();
    c.env("PATH", format!("{BIN_DIR}:/usr/bin:/usr/sbin:/bin:/sbin"));
    if let Ok(level) = std::env::var("RUST_LOG") {
        c.env("RUST_LOG", level);
    }
    c
}
