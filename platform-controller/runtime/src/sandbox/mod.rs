//! VMs made of namespaces and a cgroup.

use crate::{Answer, Runtime, RuntimeError, VmId, VmInfo, VmSpec};
use std::path::PathBuf;

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
}

impl Sandbox {
    /// Opens the runtime over `config.dir`, making the directory if need be, and finds the VMs of an earlier daemon.
    pub async fn open(config: SandboxConfig) -> Result<Self, RuntimeError> {
        Ok(Self { config })
    }
}

impl Runtime for Sandbox {
    fn start<'a>(&'a self, _spec: &'a VmSpec) -> Answer<'a, VmInfo> {
        unimplemented!("in minutes")
    }
    fn freeze<'a>(&'a self, _id: &'a VmId) -> Answer<'a, ()> {
        unimplemented!("in minutes")
    }
    fn thaw<'a>(&'a self, _id: &'a VmId) -> Answer<'a, ()> {
        unimplemented!("in minutes")
    }
    fn stop<'a>(&'a self, _id: &'a VmId) -> Answer<'a, ()> {
        unimplemented!("in minutes")
    }
    fn inspect<'a>(&'a self, _id: &'a VmId) -> Answer<'a, Option<VmInfo>> {
        unimplemented!("in minutes")
    }
    fn list(&self) -> Answer<'_, Vec<VmInfo>> {
        unimplemented!("in minutes")
    }
    fn rewrite_config<'a>(&'a self, _id: &'a VmId, _config: &'a [u8]) -> Answer<'a, ()> {
        unimplemented!("in minutes")
    }
    fn vm_run_dir(&self, id: &VmId) -> PathBuf {
        self.config.dir.join("vms").join(id.as_str()).join("run")
    }
    fn vm_log_dir(&self, id: &VmId) -> PathBuf {
        self.config.dir.join("vms").join(id.as_str()).join("log")
    }
}
