//! Brings a topology up and takes it down; finds labs that are already up.

use crate::{
    launch, net,
    node::{Node, Spec},
    process::Process,
    state::{LabDir, LabRecord, labs, netns_name, others},
    supervise,
    topology::Topology,
    wait,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::{collections::BTreeMap, path::Path, thread, time::Duration};

#[derive(Debug)]
pub struct Lab {
    pub dir: LabDir,
    pub topology: Topology,
    pub nodes: BTreeMap<String, Node>,
}

impl Lab {
    /// Brings the topology up; on failure takes away what was made.
    pub fn up(file: &Path, name: Option<&str>) -> Result<Self> {
        let mut topology = Topology::load(file)?;
        if let Some(name) = name {
            topology.name = name.to_owned();
        }
        ensure!(nix::unistd::geteuid().is_root(), "namespaces need root: run it with sudo");
        let dir = LabDir::of(&topology.name)?;
        dir.create()?;
        let _lock = dir.lock()?;
        if dir.is_up() {
            bail!("lab {} is already up: take it down first (lab/down), or bring up another with --name", dir.name());
        }
        let made = Self::build(&dir, topology, file);
        match made {
            // What went wrong first is what matters.
            Err(e) => match dir.destroy() {
                Ok(()) => Err(e),
                Err(also) => Err(e.context(format!("taking away what was made failed too ({also:#})"))),
            },
            made => made,
        }
    }

    fn build(dir: &LabDir, topology: Topology, file: &Path) -> Result<Self> {
        let me = i32::try_from(std::process::id()).ok().and_then(Process::find);
        let (name, prefix) = (topology.name.clone(), topology.prefix.clone());
        dir.write(&LabRecord {
            name: name.clone(),
            prefix: prefix.clone(),
            topology: file.canonicalize()?,
            runner: me,
            run: supervise::run_id(),
        })?;
        for node in topology.nodes.keys() {
            let netns = netns_name(&prefix, &name, node);
            ensure!(!Path::new("/run/netns").join(&netns).exists(), "a network namespace {netns} is already there");
        }
        let nodes = parallel(topology.nodes.keys(), |node| {
            let running = Node::start(dir, node, &Spec::new(&topology, node))?;
            net::name_namespace(&netns_name(&prefix, &name, node), &running)?;
            Ok((node.clone(), running))
        })?;
        let nodes: BTreeMap<_, _> = nodes.into_iter().collect();
        net::connect(&topology, &nodes)?;
        parallel(nodes.values(), |node| launch::launch(&topology, node).with_context(|| format!("node {}", node.name)))?;
        Ok(Self { dir: dir.clone(), topology, nodes })
    }

    /// A lab that is up, by name, or the only one there is.
    pub fn find(name: Option<&str>) -> Result<Self> {
        let dir = match name {
            Some(name) => {
                let dir = LabDir::of(name)?;
                ensure!(dir.0.exists(), "there is no lab {name}; {}", others());
                dir
            }
            None => {
                let mut up = labs();
                up.retain(LabDir::is_up);
                match up.as_slice() {
                    [one] => one.clone(),
                    [] => bail!("no lab is up: start one with lab/up FILE"),
                    many => bail!("several labs are up, say --name: {}", many.iter().map(LabDir::name).collect::<Vec<_>>().join(", ")),
                }
            }
        };
        ensure!(dir.is_up(), "lab {} is not up (what is left of it goes with lab/down --name {0}); {}", dir.name(), others());
        let record = dir.read()?;
        let mut topology = Topology::load(&record.topology)?;
        topology.name = record.name;
        let nodes = topology.nodes.keys().map(|n| Ok((n.clone(), Node::find(&dir, n)?))).collect::<Result<_>>()?;
        Ok(Self { dir, topology, nodes })
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).ok_or_else(|| {
            let known: Vec<_> = self.nodes.keys().map(String::as_str).collect();
            anyhow!("there is no node {name} in lab {}: it has {}", self.dir.name(), known.join(", "))
        })
    }

    pub fn down(&self) -> Result<()> {
        down(&self.dir)
    }
}

/// Takes a lab down, whatever state it is in.
pub fn down(dir: &LabDir) -> Result<()> {
    if !dir.0.exists() {
        return Ok(());
    }
    // Who is bringing it up or taking it down ends within that time, or is stuck.
    let free = || Ok(dir.lock_if_there().map_err(|e| format!("{e:#}")));
    let _lock = wait::until("the lab is free", Duration::from_secs(30), free)?;
    dir.destroy().with_context(|| format!("taking lab {} down", dir.name()))
}

fn parallel<I: Send, T: Send>(items: impl Iterator<Item = I>, work: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = items.map(|item| scope.spawn(move || work(item))).collect();
        running.into_iter().map(|w| w.join().map_err(|_| anyhow!("a worker panicked"))?).collect()
    })
}
