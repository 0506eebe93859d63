//! One owner of teardown. `lab/up`, `lab/demo` and `lab/test` work in a second process, the worker; the first one only
//! waits, for its end or for a signal.
//!
//! ```text
//!  terminal ──SIGINT──► edgeplex-lab demo (supervisor; the signals are blocked and waited for)
//!                          └─ edgeplex-lab --worker-of PID demo (process group of its own; dies with the supervisor)
//!                                └─ ip, nsenter, cargo … (the worker's group, or in a node)
//! ```
//! A signal therefore never meets work half-way in the same process: the supervisor kills the worker and its group,
//! waits until they are gone, and then, alone, takes away what they made. That a lab can be taken away after its maker
//! was killed at any moment is what [`crate::state`] is for. A worker that crashes gets the same treatment.

use crate::{
    complain, lab, node,
    process::{self, Process},
    state::{self, LabDir, LabRecord},
    wait,
};
use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    env, fs,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

/// Names the outermost supervisor to everything below it, so that labs that tests bring up are its own too.
const RUN: &str = "EDGEPLEX_LAB_RUN";
/// What a panic exits with.
const PANICKED: i32 = 101;

/// The outermost supervisor above this process.
pub fn run_id() -> Option<Process> {
    let text = env::var(RUN).ok()?;
    let (pid, start_time) = text.split_once(':')?;
    Some(Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

/// To be called first in the worker: its signals are as usual, and it does not outlive its supervisor.
pub fn become_worker(supervisor: i32) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("prctl")?;
    ensure!(nix::unistd::getppid().as_raw() == supervisor, "the supervisor is gone");
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Runs this same command line in a worker and ends as it ends; on a signal takes down what it made and ends as a
/// shell reports a signal. `names` are the labs that it makes by itself.
pub fn supervise(names: &[String]) -> Result<ExitCode> {
    let endings = endings();
    let mut awaited = endings;
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block()?;
    let me = i32::try_from(std::process::id()).ok().and_then(Process::find).context("no /proc")?;
    let mut command = Command::new(node::own_program()?);
    command.arg(format!("--worker-of={}", me.pid)).args(env::args_os().skip(1));
    if run_id().is_none_or(|outer| !outer.alive()) {
        command.env(RUN, format!("{}:{}", me.pid, me.start_time));
    }
    // Nothing of the terminal's signals reaches the worker; it reads nothing either.
    let child = command.stdin(Stdio::null()).process_group(0).spawn().context("starting the worker")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let worker = Process::find(pid.as_raw()).context("no /proc")?;
    loop {
        let got = match awaited.wait() {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if endings.contains(got) {
            complain!("\n{got}: taking down what was brought up");
            let _ = end(pid);
            let _ = waitpid(pid, None);
            if let Err(e) = take_down(names, me, worker) {
                complain!("edgeplex-lab: {e:#}");
            }
            return Ok(ExitCode::from(128 + u8::try_from(got as i32)?));
        }
        let code = match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) if code != PANICKED => return Ok(ExitCode::from(u8::try_from(code)?)),
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => {
                complain!("edgeplex-lab: the worker was ended by {signal}");
                128 + signal as i32
            }
            _ => continue,
        };
        end(pid)?;
        take_down(names, me, worker)?;
        return Ok(ExitCode::from(u8::try_from(code)?));
    }
}

/// The signals that mean the end. Ctrl-C is always one, also where a shell started us in the background; a hang-up
/// is not under nohup.
fn endings() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| u64::from_str_radix(l.strip_prefix("SigIgn:")?.trim(), 16).ok());
    if ignored.unwrap_or_default() & (1 << (Signal::SIGHUP as i32 - 1)) == 0 {
        set.add(Signal::SIGHUP);
    }
    set
}

/// Kills the worker's process group and waits until nothing of it runs.
fn end(group: Pid) -> Result<()> {
    wait::until_true("the worker and its helpers end", Duration::from_secs(20), || {
        match killpg(group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(process::group(group.as_raw()).is_empty())
    })
}

/// Takes down every lab that the worker, or anything below it, has made.
fn take_down(names: &[String], me: Process, worker: Process) -> Result<()> {
    let mut failed = vec![];
    for dir in state::labs() {
        if is_ours(&dir, names, me, worker)
            && let Err(e) = lab::down(&dir)
        {
            failed.push(format!("{e:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}; repeat with lab/down", failed.join("; "));
    Ok(())
}

fn is_ours(dir: &LabDir, names: &[String], me: Process, worker: Process) -> bool {
    match dir.read() {
        Ok(LabRecord { runner, run, .. }) => runner == Some(worker) || run == Some(me),
        // Killed before it could write the record: there is nothing in it, and nobody is at work on it.
        Err(_) => names.contains(&dir.name()) && !dir.0.join("lab.json").exists() && dir.lock_if_there().is_ok(),
    }
}
