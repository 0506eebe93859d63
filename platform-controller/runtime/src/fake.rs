//! A runtime that only remembers.

use crate::{Answer, DEFAULT_IMAGE, Image, Reach, Runtime, RuntimeError, Stream, Told, VmId, VmInfo, VmNic, VmSpec, VmState, open_socket};
use std::{
    collections::BTreeMap,
    future::ready,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use tokio::sync::watch;

/// Holds VMs in memory; its directories are below the one it is given.
#[derive(Debug, Default)]
pub struct FakeRuntime {
    dir: PathBuf,
    vms: Mutex<BTreeMap<VmId, (VmSpec, VmInfo)>>,
    forgotten: Mutex<Vec<VmId>>,
    /// Counts changes of any VM's state.
    changes: watch::Sender<u64>,
    reach: watch::Sender<Reach>,
    /// Hashes by name.
    images: Mutex<BTreeMap<String, String>>,
}

impl FakeRuntime {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }

    /// What the VM was last started with, its configuration as last rewritten.
    pub fn spec(&self, id: &VmId) -> Option<VmSpec> {
        self.with(|vms| vms.get(id).map(|(s, _)| s.clone()))
    }

    /// Lets a VM die as if its init had crashed.
    pub fn crash(&self, id: &VmId) {
        let _ = self.set_state(id, VmState::Dead);
    }

    /// What [`Runtime::reach`] tells from now on.
    pub fn set_reach(&self, reach: Reach) {
        self.reach.send_replace(reach);
    }

    /// From now on there is such an image.
    pub fn set_image(&self, name: &str, hash: &str) {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), hash.to_owned());
    }

    /// The VM's run directory; a socket in it answers [`Runtime::connect`].
    pub fn vm_run_dir(&self, id: &VmId) -> PathBuf {
        self.dir.join("vms").join(id.as_str()).join("run")
    }

    /// The VMs that it was told to forget, in that order.
    pub fn forgotten(&self) -> Vec<VmId> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<VmId, (VmSpec, VmInfo)>) -> T) -> T {
        f(&mut self.vms.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_state(&self, id: &VmId, state: VmState) -> Result<(), RuntimeError> {
        let done = self.with(|vms| vms.get_mut(id).map(|(_, i)| i.state = state)).ok_or_else(|| RuntimeError::Unknown(id.clone()));
        self.changes.send_modify(|n| *n += 1);
        done
    }
}

impl Runtime for FakeRuntime {
    fn start<'a>(&'a self, spec: &'a VmSpec) -> Answer<'a, VmInfo> {
        let result = spec.check().and_then(|()| {
            self.with(|vms| {
                if vms.get(&spec.id).is_some_and(|(_, i)| i.state != VmState::Dead) {
                    return Err(RuntimeError::Exists(spec.id.clone()));
                }
                let pid = u32::try_from(vms.len()).unwrap_or(u32::MAX).saturating_add(1000);
                let (id, kind, state, template) = (spec.id.clone(), spec.kind, VmState::Running, "fake".to_owned());
                let nic = |n: &crate::Nic| VmNic { host_name: n.host_name.clone(), tag: n.tag };
                let (image, nics) = (spec.image.clone(), spec.nics.iter().map(nic).collect());
                let info = VmInfo { id, kind, pid, state, spec_hash: spec.hash(), template, image, nics, timings: vec![] };
                vms.insert(spec.id.clone(), (spec.clone(), info.clone()));
                Ok(info)
            })
        });
        Box::pin(ready(result))
    }

    fn freeze<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(ready(self.set_state(id, VmState::Frozen)))
    }

    fn thaw<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(ready(self.set_state(id, VmState::Running)))
    }

    fn stop<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        self.with(|vms| vms.remove(id));
        self.changes.send_modify(|n| *n += 1);
        Box::pin(ready(Ok(())))
    }

    fn forget<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        let runs = self.with(|vms| vms.get(id).is_some_and(|(_, i)| i.state != VmState::Dead));
        if !runs {
            self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
        }
        Box::pin(ready(if runs { Err(RuntimeError::Exists(id.clone())) } else { Ok(()) }))
    }

    fn inspect<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<VmInfo>> {
        Box::pin(ready(Ok(self.with(|vms| vms.get(id).map(|(_, i)| i.clone())))))
    }

    fn list(&self) -> Answer<'_, Vec<VmInfo>> {
        Box::pin(ready(Ok(self.with(|vms| vms.values().map(|(_, i)| i.clone()).collect()))))
    }

    fn rewrite_config<'a>(&'a self, id: &'a VmId, config: &'a [u8]) -> Answer<'a, ()> {
        let found = self.with(|vms| vms.get_mut(id).map(|(s, _)| s.config = config.to_vec()));
        Box::pin(ready(found.ok_or_else(|| RuntimeError::Unknown(id.clone()))))
    }

    fn config<'a>(&'a self, id: &'a VmId) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(ready(Ok(self.with(|vms| vms.get(id).map(|(s, _)| s.config.clone())))))
    }

    fn kill<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        self.crash(id);
        Box::pin(ready(Ok(())))
    }

    fn exited<'a>(&'a self, id: &'a VmId) -> Answer<'a, ()> {
        Box::pin(async move {
            let dead = |_: &u64| self.with(|vms| vms.get(id).is_none_or(|(_, i)| i.state == VmState::Dead));
            // The sender lives as long as this runtime.
            let _ = self.changes.subscribe().wait_for(dead).await;
            Ok(())
        })
    }

    fn connect<'a>(&'a self, id: &'a VmId, socket: &'a str) -> Answer<'a, Stream> {
        Box::pin(async move {
            if !self.with(|vms| vms.get(id).is_some_and(|(_, i)| i.state != VmState::Dead)) {
                return Err(RuntimeError::Unknown(id.clone()));
            }
            let opened = open_socket(&self.vm_run_dir(id), socket).await;
            let stream = opened.map_err(|error| RuntimeError::Io { id: id.clone(), what: "socket".into(), error })?;
            Ok(Box::new(stream) as Stream)
        })
    }

    fn images(&self) -> Answer<'_, Vec<Image>> {
        let image = |name: &str, hash: &str| Image { name: name.into(), hash: hash.into(), version: "0".into() };
        let more = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::iter::once(image(DEFAULT_IMAGE, "fake")).chain(more.iter().map(|(name, hash)| image(name, hash))).collect();
        Box::pin(ready(Ok(all)))
    }

    /// The image's hash is what its pvmd holds.
    fn ship_image<'a>(&'a self, name: &'a str, from: &'a Path, told: &'a Told<'a>) -> Answer<'a, ()> {
        let pvmd = match *self.reach.borrow() {
            Reach::Up => std::fs::read_to_string(from.join("pvmd")).map_err(|e| e.to_string()),
            _ => Err("it is not there".into()),
        };
        let shipped = pvmd.map(|hash| {
            told(1, 1);
            self.set_image(name, &hash);
        });
        Box::pin(ready(shipped.map_err(|what| RuntimeError::Unreachable { host: "fake".into(), what })))
    }

    fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }
}
