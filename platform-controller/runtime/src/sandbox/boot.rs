//! The making of a VM, step by step; see `edgeplex_recipes::boot` for the conversation with its init.

use super::{Sandbox, UIDS, blocking, failed, nics, proc::ProcessId, state::State, state::replace};
use crate::{RuntimeError, Share, SharedDir, VmId, VmKind, VmSpec};
use edgeplex_recipes::{
    Entry, RUN_DIR, Recipe, VmDir,
    boot::{self, BootProcess, BootSpec, GO, MAX_LINE, Report, SharedMount},
};
use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// A step takes milliseconds; a host so loaded that it takes this long has other troubles.
const STEP: Duration = Duration::from_secs(10);
/// A log of a process is moved aside at this length, bytes; so each takes at most about twice that.
const LOG_MAX: u64 = 8 << 20;

/// What has been made so far and must go again if the rest fails.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    pub(super) init: Option<ProcessId>,
    pub(super) nics: bool,
}

pub(super) fn recipe(kind: VmKind) -> Recipe {
    match kind {
        VmKind::Cvm => Recipe::cvm(),
        VmKind::Pvm => Recipe::pvm(),
        VmKind::Lsr => Recipe::lsr(),
    }
}

/// Writes the VM's configuration file, for its root only.
pub(super) fn write_config(vm_dir: &Path, config: &[u8], uid: u32) -> io::Result<()> {
    replace(&vm_dir.join("etc/config.json"), config, 0o600, Some(uid))
}

/// Gives a tree to the VM that is about to be made; links in it are not followed. Other user ids than the last time
/// are rare: another VM had taken them meanwhile.
fn own(path: &Path, uid: u32) -> io::Result<()> {
    lchown(path, Some(uid), Some(uid))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            match own(&entry?.path(), uid) {
                // Another instance, which is at work there, has just replaced it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Makes a directory that may be there.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Gives a shared directory to a VM by the user ids that it is about to have. The owner makes sockets in it; where only one
/// other VM may connect, the directory carries that VM's group and is set-group-id, so that sockets have it too.
fn share(dir: &SharedDir, uid: u32) -> io::Result<()> {
    let path = &dir.host;
    make(path, 0o700)?;
    match dir.role {
        Share::OwnerForAll => {
            chown(path, Some(uid), Some(uid))?;
            fs::set_permissions(path, Permissions::from_mode(0o755))
        }
        // chown(2) may clear the bit.
        Share::OwnerForMember => {
            chown(path, Some(uid), None)?;
            fs::set_permissions(path, Permissions::from_mode(0o2750))
        }
        Share::Member => {
            chown(path, None, Some(uid))?;
            fs::set_permissions(path, Permissions::from_mode(0o2750))?;
            // What the owner has made already is for this VM too, should it have other user ids than before.
            fs::read_dir(path)?.try_for_each(|entry| lchown(entry?.path(), None, Some(uid)))
        }
        Share::Guest => Ok(()),
    }
}

/// The pipe to and from a VM's init.
struct Pipe {
    id: VmId,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Pipe {
    async fn say(&mut self, line: &[u8]) -> Result<(), RuntimeError> {
        let line = [line, b"\n"].concat();
        self.input.write_all(&line).await.map_err(failed(&self.id, "its init does not listen"))
    }

    async fn hear(&mut self) -> Result<Report, RuntimeError> {
        let mut line = vec![];
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        let mut output = (&mut self.output).take(limit);
        let read = timeout(STEP, output.read_until(b'\n', &mut line)).await;
        match read.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
            Ok(0) => Err(RuntimeError::Failed { id: self.id.clone(), what: "its init ended without a word; see its log".into() }),
            Ok(_) => serde_json::from_slice(&line).map_err(|e| failed(&self.id, "its init said what cannot be")(e.into())),
            Err(e) => Err(failed(&self.id, "waiting for its init")(e)),
        }
    }

    async fn expect(&mut self, want: &Report) -> Result<(), RuntimeError> {
        match self.hear().await? {
            got if got == *want => Ok(()),
            Report::Failed(what) => Err(RuntimeError::Failed { id: self.id.clone(), what }),
            got => Err(RuntimeError::Failed { id: self.id.clone(), what: format!("its init said {got:?} instead of {want:?}") }),
        }
    }
}

impl Sandbox {
    /// Makes and starts the VM. What has been made is noted in `attempt`.
    pub(super) async fn boot(&self, spec: &VmSpec, uid_base: u32, attempt: &mut Attempt) -> Result<State, RuntimeError> {
        let id = &spec.id;
        let (mut timings, mut clock) = (vec![], Instant::now());
        let mut lap = |stage: &str| {
            timings.push((stage.to_owned(), clock.elapsed()));
            clock = Instant::now();
        };
        let template = self.template(spec.kind, spec.image.as_deref()).await?;
        lap("template");

        let dir = self.vm_dir(id);
        let layout = Layout {
            dir: dir.clone(),
            bin_dir: self.images.bin_dir(spec.image.as_deref()),
            state_dir: self.state_dir(spec.identity.as_ref().unwrap_or(id)),
        };
        let (asked, recipe) = (spec.clone(), template.recipe.clone());
        let boot = blocking(move || layout.prepare(&asked, &recipe, uid_base)).await.map_err(failed(id, "files"))?;
        let log = fs::OpenOptions::new().create(true).append(true).mode(0o640).open(dir.join("log/init.log"));
        let log = log.map_err(failed(id, "log"))?;
        lap("files");

        let mut command = Command::new(self.images.bin_dir(spec.image.as_deref()).join("edgeplex-init"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).current_dir("/");
        let mut stage_1 = command.spawn().map_err(failed(id, "edgeplex-init"))?;
        let none = || RuntimeError::Failed { id: id.clone(), what: "edgeplex-init has no pipes".into() };
        let (input, output) = (stage_1.stdin.take().ok_or_else(none)?, stage_1.stdout.take().ok_or_else(none)?);
        let mut pipe = Pipe { id: id.clone(), input, output: BufReader::new(output) };
        let pid = match pipe.hear().await? {
            Report::Pid(pid) => pid,
            Report::Failed(what) => return Err(RuntimeError::Failed { id: id.clone(), what }),
            got => return Err(RuntimeError::Failed { id: id.clone(), what: format!("its init said {got:?} first") }),
        };
        let init = ProcessId::of(pid).map_err(failed(id, "its init"))?;
        attempt.init = Some(init);
        // Stage 1 ends as soon as it has reported; the host's init adopts stage 2.
        timeout(STEP, stage_1.wait()).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())).map_err(failed(id, "edgeplex-init"))?;
        lap("spawn");

        let (cgroups, name, memory_max) = (self.cgroups.clone(), id.as_str().to_owned(), spec.memory_max);
        blocking(move || cgroups.create(&name, pid, memory_max)).await.map_err(failed(id, "cgroup"))?;
        lap("cgroup");
        pipe.say(&serde_json::to_vec(&boot).map_err(|e| failed(id, "specification")(e.into()))?).await?;
        pipe.expect(&Report::Ready).await?;
        // Not before: until its root is made, its root is the host's.
        let run = dir.join("run");
        let linked = symlink(format!("/proc/{pid}/root{RUN_DIR}"), &run).and_then(|()| lchown(&run, Some(uid_base), Some(uid_base)));
        linked.map_err(failed(id, "run directory"))?;
        lap("root and namespaces");

        let map = format!("0 {uid_base} {UIDS}");
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), &map).map_err(failed(id, format!("{file} {map}")))?;
        }
        attempt.nics = true;
        let host_nics: Vec<_> = spec.nics.iter().map(|n| n.host_name.clone()).collect();
        // Left behind by a VM that died and whose namespace something still holds.
        nics::remove(&host_nics).await.map_err(failed(id, "vNICs"))?;
        nics::create(pid, &spec.nics, template.recipe.raw_nics).await.map_err(failed(id, "vNICs"))?;
        lap("vNICs");

        let (version, kind, spec_hash, template) = (State::VERSION, spec.kind, spec.hash(), template.id);
        let tags = spec.nics.iter().filter_map(|n| Some((n.host_name.clone(), n.tag?))).collect();
        let (id, image, identity) = (id.clone(), spec.image.clone(), spec.identity.clone());
        let state = State { version, id, kind, init, uid_base, spec_hash, template, host_nics, timings: vec![], tags, image, identity };
        let id = &spec.id;
        // Before `go`: from then on the VM lives without this daemon, and must be found.
        let state = keep(state, &dir).await.map_err(failed(id, "state"))?;
        pipe.say(GO.as_bytes()).await?;
        pipe.expect(&Report::Running).await?;
        lap("start");
        keep(State { timings, ..state }, &dir).await.map_err(failed(id, "state"))
    }
}

/// Writes a VM's state, and waits until it is on disk.
async fn keep(state: State, dir: &Path) -> io::Result<State> {
    let dir = dir.to_owned();
    blocking(move || state.write(&dir).map(|()| state)).await
}

/// Where things of a VM are.
struct Layout {
    dir: PathBuf,
    bin_dir: PathBuf,
    state_dir: PathBuf,
}

impl Layout {
    /// Lays out the VM's directory.
    fn prepare(self, spec: &VmSpec, recipe: &Recipe, uid_base: u32) -> io::Result<BootSpec> {
        let Self { dir, bin_dir, state_dir } = self;
        make(&dir, 0o700)?;
        for (name, mode) in [("etc", 0o755), ("log", 0o700), ("root", 0o700)] {
            make(&dir.join(name), mode)?;
        }
        // The VM sees its directories by their own permissions alone: mounts do not go through the host's path. `etc`
        // stays the host's, which writes there.
        write_config(&dir, &spec.config, uid_base)?;
        let state_dir = recipe.root.iter().any(|e| matches!(e, Entry::Vm { what: VmDir::State, .. })).then_some(state_dir);
        if let Some(state) = &state_dir {
            state.parent().map_or(Ok(()), |all| make(all, 0o700))?;
            make(state, 0o700)?;
            own(state, uid_base)?;
        }
        for shared in &spec.shared {
            share(shared, uid_base).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", shared.host.display())))?;
        }
        let process = |p: &crate::Process| BootProcess { name: p.name.clone(), argv: p.argv.clone() };
        let raw = |n: &crate::Nic| recipe.raw_nics.then(|| n.name.clone());
        let mount = |s: &SharedDir| SharedMount {
            host: s.host.clone(),
            path: s.path.clone(),
            writable: matches!(s.role, Share::OwnerForAll | Share::OwnerForMember),
        };
        Ok(BootSpec {
            version: boot::VERSION,
            hostname: spec.id.as_str().chars().take(63).collect(),
            root: dir.join("root"),
            entries: recipe.root.clone(),
            config_dir: dir.join("etc"),
            state_dir,
            uid_base,
            shared: spec.shared.iter().map(mount).collect(),
            binaries: recipe.binaries.iter().map(|b| (b.clone(), bin_dir.join(b))).collect(),
            log_dir: dir.join("log"),
            log_max: LOG_MAX,
            processes: spec.processes.iter().map(process).collect(),
            umask: recipe.umask,
            raw_nics: spec.nics.iter().filter_map(raw).collect(),
        })
    }
}
