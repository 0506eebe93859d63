//! VMs made of namespaces and a cgroup.
//!
//! ```text
//!  <dir>/vms/<id>/  state.json   what a later daemon needs to find the VM again
//!                   etc/         config.json, seen in the VM as /etc/edgeplex
//!                   run          leads into the VM, to its /run/edgeplex with the sockets of its daemons
//!                   log/         one file a process, not seen in the VM
//!                   root/        empty; its root is mounted over it, in its own namespace
//!  <dir>/vm-state/<id>/          what the VM shall find again when it is made anew, /var/lib/edgeplex in the CVM
//!  <dir>/templates/              manifests
//!  <dir>/images/<name>/          other versions of the programs
//!  <dir>/old-logs/<identity>/<id>/  logs of a VM that was stopped; of the last sixteen of its identity
//! ```
//! A VM is not a child that dies with the daemon: it has its own session, and the host's init adopts it.

mod boot;
mod cgroup;
mod images;
mod life;
mod nics;
mod old_logs;
mod proc;
mod sockopt;
mod state;

use crate::{Answer, Image, Reach, Runtime, RuntimeError, Stream, VmId, VmInfo, VmKind, VmNic, VmSpec, VmState};
use cgroup::{Cgroups, wait_until};
use images::Images;
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};
use state::State;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// First user id that a VM may have on the host, and how many each VM has.
const FIRST_UID: u32 = 100_000;
const UIDS: u32 = 1 << 16;
/// VMs before user ids would pass 2^31, which some tools take for negative.
const UID_SLOTS: u32 = 32_000;
/// What init may take to end the VM's processes (it gives them 2 s), and what the kernel may take after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest configuration read back, bytes.
const CONFIG_MAX: u64 = 64 << 20;

/// Where a [`Sandbox`] keeps its VMs and finds its programs.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// VMs live below `vms/` of it.
    pub dir: PathBuf,
    /// Has `edgeplex-init` and the daemons.
    pub bin_dir: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Sandbox {
    config: SandboxConfig,
    images: Arc<Images>,
    cgroups: Cgroups,
    /// What each VM that exists or is being made is an instance of, and its first user id.
    uids: Mutex<BTreeMap<VmId, (VmId, u32)>>,
    /// This host is always there.
    reach: watch::Sender<Reach>,
}

/// Which VM a user id of the host belongs to, as a number; `None` if to none.
pub fn vm_of_user(uid: u32) -> Option<u32> {
    uid.checked_sub(FIRST_UID).map(|n| n / UIDS).filter(|slot| *slot < UID_SLOTS)
}

fn failed(id: &VmId, what: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let (id, what) = (id.clone(), what.into());
    move |error| RuntimeError::Io { id, what, error }
}

/// Runs what blocks where it may block.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(f).await.map_err(io::Error::other)?
}

impl Sandbox {
    /// Opens the runtime over `config.dir`, making the directory if need be, and finds the VMs of an earlier daemon.
    pub async fn open(config: SandboxConfig) -> Result<Self, RuntimeError> {
        let bad = |what: String| move |e: io::Error| RuntimeError::Invalid(format!("{what}: {e}"));
        let vms = config.dir.join("vms");
        let name = config.dir.display().to_string();
        fs::create_dir_all(&vms).map_err(bad(name.clone()))?;
        // Mounted into VMs by its path: it must stay the same from wherever the daemon is started again.
        let dir = config.dir.canonicalize().map_err(bad(name.clone()))?;
        let bin_dir = config.bin_dir.canonicalize().map_err(bad(config.bin_dir.display().to_string()))?;
        let config = SandboxConfig { dir, bin_dir };
        let images = Arc::new(Images::open(&config.dir, &config.bin_dir)?);
        let group = format!("edgeplex-{}", crate::spec::hex(&Sha256::digest(config.dir.as_os_str().as_encoded_bytes()), 12));
        let s = Self { config, images, cgroups: Cgroups::open(&group), uids: Mutex::default(), reach: watch::Sender::default() };
        for id in s.ids().map_err(bad(name))? {
            match State::read(&s.vm_dir(&id)) {
                Ok(Some(state)) => drop(s.uids().insert(id, (state.identity(), state.uid_base))),
                // Its making was cut short: without `go` its init has ended by itself. Its files are in the way.
                Ok(None) => s.clear(&id).await?,
                // It may be running: it is found dead by `list`, and whoever wants it made anew says so.
                Err(e) => {
                    tracing::warn!("VM {id}: {e}");
                    if let Some(base) = s.owner(&id) {
                        s.uids().insert(id.clone(), (id, base));
                    }
                }
            }
        }
        let known = s.ids().map_err(bad(s.config.dir.display().to_string()))?;
        for id in s.cgroups.list() {
            if !known.iter().any(|k| k.as_str() == id) {
                s.cgroups.kill(&id);
                let groups = s.cgroups.clone();
                let _ = blocking(move || groups.remove(&id)).await;
            }
        }
        Ok(s)
    }

    /// The template from which VMs of that kind and image are made now. Reads programs that have changed since the last time.
    pub async fn template(&self, kind: VmKind, image: Option<&str>) -> Result<edgeplex_recipes::Template, RuntimeError> {
        let (images, image) = (self.images.clone(), image.map(ToOwned::to_owned));
        let resolve = tokio::task::spawn_blocking(move || images.template(kind, image.as_deref()));
        Ok(resolve.await.map_err(|e| RuntimeError::Invalid(format!("template: {e}")))??)
    }

    fn uids(&self) -> MutexGuard<'_, BTreeMap<VmId, (VmId, u32)>> {
        self.uids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vm_dir(&self, id: &VmId) -> PathBuf {
        self.config.dir.join("vms").join(id.as_str())
    }

    /// Outlives the VM's own directory.
    fn state_dir(&self, id: &VmId) -> PathBuf {
        self.config.dir.join("vm-state").join(id.as_str())
    }

    fn ids(&self) -> io::Result<Vec<VmId>> {
        let mut ids: Vec<VmId> =
            fs::read_dir(self.config.dir.join("vms"))?.flatten().filter_map(|e| e.file_name().into_string().ok()?.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// Reserves user ids for a VM: those of the other instances of the same; or by the hash of what it is an instance of, so that it
    /// gets the same ones again, or the next free.
    fn claim(&self, id: &VmId, identity: &VmId) -> Result<u32, RuntimeError> {
        let mut uids = self.uids();
        if uids.contains_key(id) {
            return Err(RuntimeError::Exists(id.clone()));
        }
        if let Some(base) = uids.values().find(|(of, _)| of == identity).map(|(_, base)| *base) {
            uids.insert(id.clone(), (identity.clone(), base));
            return Ok(base);
        }
        let mut h = Sha256::new_with_prefix(self.config.dir.as_os_str().as_encoded_bytes());
        h.update(identity.as_str());
        let hash = h.finalize();
        let start = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % UID_SLOTS;
        let base = (0..UID_SLOTS)
            .map(|n| FIRST_UID + (start + n) % UID_SLOTS * UIDS)
            .find(|base| !uids.values().any(|(_, u)| u == base))
            .ok_or_else(|| RuntimeError::Failed { id: id.clone(), what: "no user ids are left".into() })?;
        uids.insert(id.clone(), (identity.clone(), base));
        Ok(base)
    }

    fn state(&self, id: &VmId) -> Result<Option<State>, RuntimeError> {
        State::read(&self.vm_dir(id)).map_err(failed(id, "state"))
    }

    /// The first user id of a VM whose state does not say.
    fn owner(&self, id: &VmId) -> Option<u32> {
        fs::symlink_metadata(self.vm_dir(id).join("run")).ok().map(|m| m.uid()).filter(|uid| *uid >= FIRST_UID)
    }

    /// What is known of a VM. One whose state cannot be understood can be neither spoken to nor watched: it counts as
    /// dead, so that it is made anew, and the others are left alone.
    fn look(&self, id: &VmId) -> Result<Option<VmInfo>, RuntimeError> {
        match State::read(&self.vm_dir(id)) {
            Ok(state) => Ok(state.map(|s| self.info(s))),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                let kind = match id.as_str().split('-').next() {
                    Some("cvm") => VmKind::Cvm,
                    Some("lsr") => VmKind::Lsr,
                    _ => VmKind::Pvm,
                };
                let (state, spec_hash, template) = (VmState::Dead, String::new(), String::new());
                Ok(Some(VmInfo { id: id.clone(), kind, pid: 0, state, spec_hash, template, image: None, nics: vec![], timings: vec![] }))
            }
            Err(e) => Err(failed(id, "state")(e)),
        }
    }

    fn info(&self, s: State) -> VmInfo {
        let state = match s.init.is_alive() {
            false => VmState::Dead,
            true if self.cgroups.is_frozen(s.id.as_str()) => VmState::Frozen,
            true => VmState::Running,
        };
        let State { id, kind, init, spec_hash, template, image, host_nics, tags, timings, .. } = s;
        let nics = host_nics.into_iter().map(|name| VmNic { tag: tags.get(&name).copied(), host_name: name }).collect();
        VmInfo { id, kind, pid: init.pid, state, spec_hash, template, image, nics, timings }
    }

    async fn start_vm(&self, spec: &VmSpec) -> Result<VmInfo, RuntimeError> {
        spec.check()?;
        if let Some(old) = self.look(&spec.id)? {
            if old.state != VmState::Dead {
                return Err(RuntimeError::Exists(spec.id.clone()));
            }
            self.stop_vm(&spec.id).await?;
        }
        let uid_base = self.claim(&spec.id, spec.identity.as_ref().unwrap_or(&spec.id))?;
        let mut attempt = boot::Attempt::default();
        match self.boot(spec, uid_base, &mut attempt).await {
            Ok(state) => Ok(self.info(state)),
            Err(e) => {
                // The reason counts, not what else goes wrong on the way back.
                if let Some(init) = attempt.init {
                    let _ = init.signal(Signal::SIGKILL);
                }
                let hosts: Vec<_> = spec.nics.iter().map(|n| n.host_name.clone()).collect();
                if attempt.nics {
                    let _ = nics::remove(&hosts).await;
                }
                if let Err(more) = self.clear(&spec.id).await {
                    tracing::warn!("after a failed start: {more}");
                }
                Err(e)
            }
        }
    }

    async fn stop_vm(&self, id: &VmId) -> Result<(), RuntimeError> {
        let state = match State::read(&self.vm_dir(id)) {
            Ok(Some(state)) => state,
            Ok(None) => return Ok(()),
            // What runs of it is found by its cgroup. Its vNICs go with its processes.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return self.clear(id).await,
            Err(e) => return Err(failed(id, "state")(e)),
        };
        let (cgroups, init, name) = (self.cgroups.clone(), state.init, id.as_str().to_owned());
        let end = move || {
            if cgroups.is_frozen(&name) {
                cgroups.freeze(&name, false)?;
            }
            init.signal(Signal::SIGTERM)?;
            if wait_until(PATIENCE, || Ok(!init.is_alive())).is_err() {
                // The kernel ends a PID namespace together with its PID 1.
                init.signal(Signal::SIGKILL)?;
                cgroups.kill(&name);
                wait_until(PATIENCE, || Ok(!init.is_alive()))?;
            }
            Ok(())
        };
        blocking(end).await.map_err(failed(id, "its processes do not end"))?;
        nics::remove(&state.host_nics).await.map_err(failed(id, "vNICs"))?;
        self.clear(id).await
    }

    /// Removes what the VM had on the host apart from processes and interfaces. Its logs are kept aside.
    async fn clear(&self, id: &VmId) -> Result<(), RuntimeError> {
        let (cgroups, name) = (self.cgroups.clone(), id.as_str().to_owned());
        let removed = blocking(move || {
            cgroups.kill(&name);
            cgroups.remove(&name)
        });
        removed.await.map_err(failed(id, "cgroup"))?;
        let identity = self.uids().get(id).map_or_else(|| id.clone(), |(of, _)| of.clone());
        let (dir, old) = (self.vm_dir(id), self.config.dir.join("old-logs").join(identity.as_str()));
        let name = id.as_str().to_owned();
        let files = blocking(move || {
            let log = dir.join("log");
            if log.exists() {
                old_logs::keep(&log, &old, &name)?;
            }
            remove_all(&dir)
        });
        files.await.map_err(failed(id, "files"))?;
        self.uids().remove(id);
        Ok(())
    }

    async fn forget_vm(&self, id: &VmId) -> Result<(), RuntimeError> {
        // Also what an instance of it has.
        let all: Vec<VmId> = self.uids().iter().filter(|(vm, (of, _))| *vm == id || of == id).map(|(vm, _)| vm.clone()).collect();
        for vm in all {
            if self.look(&vm)?.is_some_and(|s| s.state != VmState::Dead) {
                return Err(RuntimeError::Exists(vm));
            }
        }
        let dir = self.state_dir(id);
        blocking(move || remove_all(&dir)).await.map_err(failed(id, "its state"))
    }

    fn require(&self, id: &VmId) -> Result<State, RuntimeError> {
        self.state(id)?.filter(|s| s.init.is_alive()).ok_or_else(|| RuntimeError::Unknown(id.clone()))
    }

    async fn set_frozen(&self, id: &VmId, frozen: bool) -> Result<(), RuntimeError> {
        self.require(id)?;
        let (cgroups, name) = (self.cgroups.clone(), id.as_str().to_owned());
        blocking(move || cgroups.freeze(&name, frozen)).await.map_err(failed(id, if frozen { "freeze" } else { "thaw" }))
    }

    fn list_vms(&self) -> Result<Vec<VmInfo>, RuntimeError> {
        let ids = self.ids().map_err(|e| RuntimeError::Invalid(format!("{}: {e}", self.config.dir.display())))?;
        let look = |id: &VmId| {
            // Not read for now, as when descriptors have run out: that says nothing about the VM, nor about the others.
            self.look(id).unwrap_or_else(|e| {
                tracing::warn!("{e}");
                None
            })
        };
        Ok(ids.iter().filter_map(look).collect())
    }

    /// The VM's run directory as the host sees it. What is in it belongs to the VM: hostile.
    pub fn vm_run_dir(&self, id: &VmId) -> PathBuf {
        self.vm_dir(id).join("run")
    }

    /// Where the VM's logs are, one file a process.
    pub fn vm_log_dir(&self, id: &VmId) -> PathBuf {
        self.vm_dir(id).join("log")
    }

    /// Takes away the host-wide groups of this runtime, if no VM is left. For a platform that is being removed.
    pub fn close(self) {
        self.cgroups.close();
    }
}

/// Removes a tree that may not be there. Symlinks in it, which a VM may have made, are removed, not followed.
fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Runtime for Sandbox {
    fn start<'a>(&'a self, spec: &'a VmSpec) -> Answer<'a, VmInfo> {
        Box::pin(self.start_vm(spec))
    }

    fn freeze<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.set_frozen(id, true))
    }

    fn thaw<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.set_frozen(id, false))
    }

    fn stop<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.stop_vm(id))
    }

    fn forget<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.forget_vm(id))
    }

    fn inspect<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<VmInfo>> {
        Box::pin(async move { self.look(id) })
    }

    fn list(&self) -> Answer<'_, Vec<VmInfo>> {
        Box::pin(async move { self.list_vms() })
    }

    fn rewrite_config<'a>(&'a self, id: &'a VmId, config: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let state = self.require(id)?;
            let (dir, config) = (self.vm_dir(id), config.to_vec());
            blocking(move || boot::write_config(&dir, &config, state.uid_base)).await.map_err(failed(id, "configuration"))
        })
    }

    fn config<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let mut bytes = vec![];
            let read = fs::File::open(self.vm_dir(id).join("etc/config.json")).and_then(|f| f.take(CONFIG_MAX).read_to_end(&mut bytes));
            match read {
                Ok(_) => Ok(Some(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(failed(id, "configuration")(e)),
            }
        })
    }

    fn kill<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.kill_vm(id))
    }

    fn exited<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.exited_vm(id))
    }

    fn connect<'a>(&'a self, id: &'a VmId, socket: &'a str) -> Answer<'a, Stream> {
        Box::pin(self.connect_to(id, socket))
    }

    fn images(&self) -> Answer<'_, Vec<Image>> {
        Box::pin(self.list_images())
    }

    fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }
}
