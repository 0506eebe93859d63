//! The hosts on which VMs run: the controller's own, and those with an agent.

use edgeplex_intent::{Host, OWN_HOST};
use edgeplex_runtime::{DEFAULT_IMAGE, Reach, Runtime, RuntimeError, VmId, VmInfo};
use futures::future::join_all;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

/// Reaches the agent of a host.
pub type Dial = Box<dyn Fn(&Host) -> anyhow::Result<Arc<dyn Runtime>> + Send + Sync>;

/// Other hosts by name, each with its runtime.
type Others = BTreeMap<String, (Host, Arc<dyn Runtime>)>;

/// By host and name.
type Images = BTreeMap<(String, String), bool>;

/// Runtimes by the names of their hosts.
pub struct Fleet {
    own: Arc<dyn Runtime>,
    dial: Dial,
    others: RwLock<Others>,
    /// Images that hosts are known to have, and whether that was seen since the host last came up.
    images: Arc<RwLock<Images>>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("own", &self.own).finish_non_exhaustive()
    }
}

/// All VMs of the hosts that answered, each with its host, and the hosts that did not, with the reason.
#[derive(Debug, Default)]
pub struct Census {
    pub vms: Vec<(String, VmInfo)>,
    pub silent: BTreeMap<String, String>,
}

impl Census {
    pub fn find(&self, host: &str, vm: &str) -> Option<&VmInfo> {
        self.vms.iter().find(|(h, i)| h == host && i.id.as_str() == vm).map(|(_, i)| i)
    }
}

impl Fleet {
    pub fn new(own: Arc<dyn Runtime>, dial: Dial) -> Self {
        Self { own, dial, others: RwLock::default(), images: Arc::default() }
    }

    /// The controller's own host and no other.
    pub fn alone(own: Arc<dyn Runtime>) -> Self {
        Self::new(own, Box::new(|h| anyhow::bail!("host {}: there is nobody who could reach its agent", h.name)))
    }

    pub fn own(&self) -> &Arc<dyn Runtime> {
        &self.own
    }

    /// Knows these hosts from now on, beside its own. One that is as it was keeps its connection.
    pub fn know(&self, hosts: &[Host]) {
        let known = |h: &Host| self.others.read().unwrap_or_else(PoisonError::into_inner).get(h.name.as_str()).is_some_and(|(k, _)| k == h);
        let new: Vec<(Host, Arc<dyn Runtime>)> =
            hosts.iter().filter(|h| !known(h)).filter_map(|h| Some((h.clone(), self.reach(h)?))).collect();
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.retain(|name, _| hosts.iter().any(|h| h.name.as_str() == name));
        others.extend(new.into_iter().map(|(h, runtime)| (h.name.to_string(), (h, runtime))));
    }

    fn reach(&self, host: &Host) -> Option<Arc<dyn Runtime>> {
        let runtime = (self.dial)(host).inspect_err(|e| tracing::warn!("host {}: {e:#}", host.name)).ok()?;
        let (mut reach, images, name) = (runtime.reach(), self.images.clone(), host.name.to_string());
        // Until the runtime is dropped.
        tokio::spawn(async move {
            while reach.changed().await.is_ok() {
                let mut images = images.write().unwrap_or_else(PoisonError::into_inner);
                images.iter_mut().filter(|((host, _), _)| *host == name).for_each(|(_, fresh)| *fresh = false);
            }
        });
        Some(runtime)
    }

    pub fn at(&self, host: &str) -> anyhow::Result<Arc<dyn Runtime>> {
        if host == OWN_HOST {
            return Ok(self.own.clone());
        }
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(host).map(|(_, runtime)| runtime.clone()).ok_or_else(|| anyhow::anyhow!("there is no host {host}"))
    }

    /// The own one first.
    pub fn names(&self) -> Vec<String> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(OWN_HOST.to_owned()).chain(others.keys().cloned()).collect()
    }

    /// The fabric's port to that host; `None` for the own one.
    pub fn link(&self, host: &str) -> Option<String> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.get(host).map(|(h, _)| h.port.clone())
    }

    /// Whether something may be placed there, or may stay. One whose agent has just gone is back in a moment, or lost.
    pub fn is_up(&self, host: &str) -> bool {
        self.at(host).is_ok_and(|r| *r.reach().borrow() != Reach::Lost)
    }

    /// Whether VMs can be made of that image there: of the same programs as here. Looked at anew each time that the host comes up.
    pub async fn has_image(&self, host: &str, image: Option<&str>) -> bool {
        let Some(image) = image.filter(|i| *i != DEFAULT_IMAGE) else { return true };
        let key = (host.to_owned(), image.to_owned());
        let known = self.images.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if known == Some(true) {
            return true;
        }
        let Ok(runtime) = self.at(host) else { return false };
        let find = async |runtime: &dyn Runtime| Ok::<_, RuntimeError>(runtime.images().await?.into_iter().find(|i| i.name == image));
        // One that cannot say has what it had.
        let (Ok(own), Ok(found)) = (find(&*self.own).await, find(&*runtime).await) else { return known.is_some() };
        let there = found.is_some_and(|found| own.is_none_or(|own| own.hash == found.hash));
        let mut images = self.images.write().unwrap_or_else(PoisonError::into_inner);
        let _ = if there { images.insert(key, true) } else { images.remove(&key) };
        there
    }

    /// Looks everywhere, side by side.
    pub async fn census(&self) -> Census {
        let look = async |host: String| {
            let vms = match self.at(&host) {
                Ok(runtime) => runtime.list().await.map_err(|e| e.to_string()),
                Err(e) => Err(format!("{e:#}")),
            };
            (host, vms)
        };
        let mut census = Census::default();
        for (host, vms) in join_all(self.names().into_iter().map(look)).await {
            match vms {
                Ok(vms) => census.vms.extend(vms.into_iter().map(|vm| (host.clone(), vm))),
                Err(e) => drop(census.silent.insert(host, e)),
            }
        }
        census
    }
}

/// One VM, and how to reach it.
#[derive(Debug, Clone)]
pub struct Place {
    pub runtime: Arc<dyn Runtime>,
    pub vm: VmId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_runtime::FakeRuntime;

    fn host(name: &str, port: &str) -> Host {
        let address = "192.0.2.1:7443".parse().unwrap();
        Host { name: name.parse().unwrap(), address, port: port.into(), key: "0".repeat(64), silence: 500 }
    }

    #[tokio::test]
    async fn hosts_come_and_go() {
        let fleet = Fleet::new(Arc::new(FakeRuntime::default()), Box::new(|_| Ok(Arc::new(FakeRuntime::default()))));
        fleet.know(&[host("west", "eth7")]);
        let west = fleet.at("west").unwrap();
        fleet.know(&[host("east", "eth8"), host("west", "eth7")]);
        assert_eq!(fleet.names(), ["local", "east", "west"]);
        assert!(Arc::ptr_eq(&west, &fleet.at("west").unwrap()), "it keeps its connection");
        assert_eq!((fleet.link("west"), fleet.link("local")), (Some("eth7".into()), None));
        fleet.know(&[]);
        assert!(fleet.at("west").is_err());
        assert!(fleet.census().await.silent.is_empty());
    }

    #[tokio::test]
    async fn an_image_is_looked_at_anew_when_a_host_comes_back() {
        let (own, west) = (Arc::new(FakeRuntime::default()), Arc::new(FakeRuntime::default()));
        let there = west.clone();
        let fleet = Fleet::new(own.clone(), Box::new(move |_| Ok(there.clone())));
        fleet.know(&[host("west", "eth7")]);
        own.set_image("v2", "1");
        assert!(!fleet.has_image("west", Some("v2")).await);
        west.set_image("v2", "1");
        assert!(fleet.has_image("west", Some("v2")).await);
        west.set_image("v2", "2");
        west.set_reach(Reach::Broken);
        assert!(fleet.is_up("west"), "its agent may be back in a moment");
        west.set_reach(Reach::Up);
        tokio::time::timeout(std::time::Duration::from_secs(5), async {
            while fleet.has_image("west", Some("v2")).await {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        west.set_reach(Reach::Lost);
        assert!(!fleet.is_up("west"));
    }
}
