//! The hosts on which VMs run: the controller's own, and those with an agent.

use crate::placement::now_ms;
use edgeplex_api::{ImageAt, without_numbers};
use edgeplex_intent::{Host, OWN_HOST};
use edgeplex_runtime::{DEFAULT_IMAGE, Reach, Runtime, RuntimeError, VmId, VmInfo};
use futures::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::watch;

/// Reaches the agent of a host.
pub type Dial = Box<dyn Fn(&Host) -> anyhow::Result<Arc<dyn Runtime>> + Send + Sync>;

/// Other hosts by name, each with its runtime.
type Others = BTreeMap<String, (Host, Arc<dyn Runtime>)>;

/// By host and name.
type Images = BTreeMap<(String, String), bool>;

/// Whether a host is there, and since when that is so, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub reach: Reach,
    pub since_ms: u64,
}

/// Why a host does not have an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub why: String,
    /// It was tried, and could not be done.
    pub failed: bool,
}

/// Runtimes by the names of their hosts.
pub struct Fleet {
    own: Arc<dyn Runtime>,
    dial: Dial,
    others: RwLock<Others>,
    /// Counts changes of `others`.
    changes: watch::Sender<u64>,
    /// Images that hosts are known to have, and whether that was seen since the host last came up.
    images: Arc<RwLock<Images>>,
    /// What is known of images that hosts do not have, by host and name.
    missing: RwLock<BTreeMap<(String, String), Missing>>,
    seen: Arc<RwLock<BTreeMap<String, Seen>>>,
    started_ms: u64,
    /// Counts hosts that came, and changes of their reach.
    news: watch::Sender<u64>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("own", &self.own).finish_non_exhaustive()
    }
}

/// All VMs of the hosts that answered, each with its host, and the hosts that did not, with the reason (which does not name the host).
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
        Self {
            own,
            dial,
            others: RwLock::default(),
            changes: watch::Sender::default(),
            images: Arc::default(),
            missing: RwLock::default(),
            seen: Arc::default(),
            started_ms: now_ms(),
            news: watch::Sender::default(),
        }
    }

    /// The controller's own host and no other.
    pub fn alone(own: Arc<dyn Runtime>) -> Self {
        Self::new(own, Box::new(|h| anyhow::bail!("host {}: there is nobody who could reach its agent", h.name)))
    }

    pub fn own(&self) -> &Arc<dyn Runtime> {
        &self.own
    }

    /// Knows these hosts from now on, beside its own. One that is as it was keeps its connection; any other loses it, whoever uses it.
    pub fn know(&self, hosts: &[Host]) {
        let known = |h: &Host| self.others.read().unwrap_or_else(PoisonError::into_inner).get(h.name.as_str()).is_some_and(|(k, _)| k == h);
        let new: Vec<(Host, Arc<dyn Runtime>)> =
            hosts.iter().filter(|h| !known(h)).filter_map(|h| Some((h.clone(), self.reach(h)?))).collect();
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let stays = |name: &String| hosts.iter().any(|h| h.name.as_str() == name) && !new.iter().any(|(h, _)| h.name.as_str() == name);
        let former: Vec<_> = others.extract_if(.., |name, _| !stays(name)).collect();
        if former.is_empty() && new.is_empty() {
            return;
        }
        // An agent obeys the latest that comes: a former one must not come again.
        former.iter().for_each(|(_, (_, runtime))| runtime.release());
        others.extend(new.into_iter().map(|(h, runtime)| (h.name.to_string(), (h, runtime))));
        drop(others);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Changes when a host comes or goes, or is another than it was.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn reach(&self, host: &Host) -> Option<Arc<dyn Runtime>> {
        let runtime = (self.dial)(host).inspect_err(|e| tracing::warn!("host {}: {e:#}", host.name)).ok()?;
        let (mut reach, images, name) = (runtime.reach(), self.images.clone(), host.name.to_string());
        let (seen, news) = (self.seen.clone(), self.news.clone());
        let saw = move |name: &str, reach: Reach| {
            seen.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Seen { reach, since_ms: now_ms() });
            news.send_modify(|n| *n += 1);
        };
        saw(&name, *reach.borrow_and_update());
        // Until the runtime is dropped.
        tokio::spawn(async move {
            while reach.changed().await.is_ok() {
                images
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter_mut()
                    .filter(|((host, _), _)| *host == name)
                    .for_each(|(_, fresh)| *fresh = false);
                saw(&name, *reach.borrow_and_update());
            }
        });
        Some(runtime)
    }

    /// Changes when a host has come, or its reach is another.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The own one is there as long as this controller is.
    pub fn seen(&self, host: &str) -> Seen {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner).get(host).copied();
        seen.filter(|_| host != OWN_HOST).unwrap_or(Seen { reach: Reach::Up, since_ms: self.started_ms })
    }

    /// As the Platform describes it; `None` for the own one.
    pub fn described(&self, host: &str) -> Option<Host> {
        self.others.read().unwrap_or_else(PoisonError::into_inner).get(host).map(|(h, _)| h.clone())
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

    /// Why nothing can be placed there now; `None` where it can.
    pub async fn trouble(&self, host: &str) -> Option<String> {
        if self.is_up(host) {
            return None;
        }
        let why = match self.at(host) {
            Ok(runtime) => runtime.list().await.err().map(told),
            Err(e) => Some(e.to_string()),
        };
        Some(why.unwrap_or_else(|| "it is just coming back".into()))
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

    /// What is known of an image that a host does not have; `None`: it has it.
    pub fn set_missing(&self, host: &str, image: &str, missing: Option<Missing>) {
        let key = (host.to_owned(), image.to_owned());
        let mut all = self.missing.write().unwrap_or_else(PoisonError::into_inner);
        let _ = match missing {
            Some(missing) => all.insert(key, missing),
            None => all.remove(&key),
        };
    }

    pub fn missing(&self, host: &str, image: &str) -> Option<Missing> {
        self.missing.read().unwrap_or_else(PoisonError::into_inner).get(&(host.to_owned(), image.to_owned())).cloned()
    }

    /// An image as it is on a host that has it, or does not.
    pub fn image_at(&self, host: String, image: &str, there: bool) -> ImageAt {
        let missing = self.missing(&host, image).filter(|_| !there);
        let (mut note, failed) = missing.map_or_else(Default::default, |m| (m.why, m.failed));
        let away = !there && self.seen(&host).reach != Reach::Up;
        if away {
            note = "it is copied when the host is there".into();
        } else if !there && note.is_empty() {
            note = "it is to be copied".into();
        }
        ImageAt { host, image: image.to_owned(), there, failed, away, note }
    }

    /// Why nothing of that image is placed there, in words; `None` where it could be.
    pub async fn obstacle(&self, host: &str, image: Option<&str>, drained: &BTreeSet<String>) -> Option<String> {
        if drained.contains(host) {
            return Some(format!("host {host} is drained"));
        }
        if let Some(why) = self.trouble(host).await {
            return Some(format!("host {host} is down: {why}"));
        }
        if self.has_image(host, image).await {
            return None;
        }
        let name = image.unwrap_or(DEFAULT_IMAGE);
        let why = self.missing(host, name).map(|m| format!(": {}", m.why)).unwrap_or_default();
        Some(format!("host {host} does not have image {name}{why}"))
    }

    /// Looks everywhere, side by side.
    pub async fn census(&self) -> Census {
        let look = async |host: String| {
            let vms = match self.at(&host) {
                Ok(runtime) => runtime.list().await.map_err(told),
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

/// Without the host's name, and for people.
pub(crate) fn told(e: RuntimeError) -> String {
    match e {
        RuntimeError::Unreachable { what, .. } => without_numbers(&what),
        e => without_numbers(&e.to_string()),
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
        let changes = fleet.changes();
        fleet.know(&[host("east", "eth8"), host("west", "eth7")]);
        assert!(!changes.has_changed().unwrap());
        let other = Host { silence: 700, ..host("west", "eth7") };
        fleet.know(&[host("east", "eth8"), other]);
        assert!(!Arc::ptr_eq(&west, &fleet.at("west").unwrap()) && changes.has_changed().unwrap(), "it is another");
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
