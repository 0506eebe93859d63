//! Images: the programs of which VMs are made, by name. What is added here comes to every host, also to one that joins later.

use crate::{
    hosts::{Fleet, Missing, told},
    placement::State,
};
use anyhow::{Context, bail, ensure};
use edgeplex_api::{ImageAt, ImageRow, plain};
use edgeplex_intent::OWN_HOST;
use edgeplex_runtime::{DEFAULT_IMAGE, Image, Reach, is_file_name};
use futures::future::join_all;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    process::Command,
    sync::{Mutex, Notify},
    time::{sleep, timeout},
};

/// What every image has.
const PROGRAMS: [&str; 4] = ["cvmd", "edgeplex-init", "fastforward", "pvmd"];
/// It runs as the first process of a VM and nowhere else: it has no version to say.
const INIT: &str = "edgeplex-init";
/// What a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before a program is tried again that somebody still had open for writing.
const BUSY: Duration = Duration::from_millis(20);
/// Between two looks at what hosts have: where something could not be copied, and where all is well.
const AGAIN: Duration = Duration::from_secs(5);
const PERIOD: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Images {
    /// The controller's; images are below `images/` there, and likewise on other hosts.
    dir: PathBuf,
    fleet: Arc<Fleet>,
    /// Held while one is added.
    adding: Mutex<()>,
    added: Notify,
}

impl Images {
    pub fn new(dir: PathBuf, fleet: Arc<Fleet>) -> Self {
        Self { dir, fleet, adding: Mutex::default(), added: Notify::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join("images").join(name)
    }

    /// Those of the controller's host, and what other hosts have of them.
    pub async fn list(&self, placed: &State) -> anyhow::Result<Vec<ImageRow>> {
        let images = self.fleet.own().images().await?;
        let made_of = |name: &str| {
            let of = |i: &&crate::placement::Instance| i.image.as_deref().unwrap_or(DEFAULT_IMAGE) == name;
            placed.units.values().map(|p| p.instances().into_iter().filter(of).count()).sum()
        };
        let row = async |i: Image| ImageRow {
            instances: made_of(&i.name),
            hosts: join_all(self.fleet.names().into_iter().map(|host| self.at(host, &i.name))).await,
            version: i.version,
            hash: i.hash,
            name: i.name,
        };
        Ok(join_all(images.into_iter().map(row)).await)
    }

    /// How an image is on a host.
    async fn at(&self, host: String, image: &str) -> ImageAt {
        let there = self.fleet.has_image(&host, Some(image)).await;
        self.fleet.image_at(host, image, there)
    }

    /// Copies the programs in `from`. What is added never changes afterwards, for VMs are made of it: it is there whole and has been
    /// tried, or not at all.
    pub async fn add(&self, name: &str, from: &Path) -> anyhow::Result<()> {
        ensure!(
            is_file_name(name) && name != DEFAULT_IMAGE,
            "image `{name}`: must be letters, digits, hyphens and dots, and not {DEFAULT_IMAGE}"
        );
        ensure!(from.is_absolute(), "{}: must be an absolute path", from.display());
        let _one = self.adding.lock().await;
        let to = self.path(name);
        // One that lacks a program is none, and never was: an earlier version left such.
        ensure!(!is_complete(&to), "image {name} is there already; images do not change, give another name");
        let (from, part) = (from.to_owned(), self.path(&format!(".{name}.part")));
        let result = self.put(&from, &part, &to).await;
        if result.is_err() {
            let _ = fs::remove_dir_all(&part);
        }
        self.added.notify_one();
        result
    }

    async fn put(&self, from: &Path, part: &Path, to: &Path) -> anyhow::Result<()> {
        let (of, into) = (from.to_owned(), part.to_owned());
        tokio::task::spawn_blocking(move || copy(&of, &into)).await??;
        for program in PROGRAMS {
            try_out(&part.join(program)).await.with_context(|| from.join(program).display().to_string())?;
        }
        remove(to)?;
        fs::rename(part, to).map_err(|e| anyhow::anyhow!("{}: {}", to.display(), plain(&e)))
    }

    /// Whether VMs can be made of it on the controller's host, and on each host that has some now.
    pub async fn check(&self, name: &str, placed: &State) -> anyhow::Result<()> {
        let own = self.fleet.own().images().await?;
        ensure!(own.iter().any(|i| i.name == name), "there is no image {name}; see `edgeplex image list`");
        let in_use: BTreeSet<&String> = placed.units.values().flat_map(|p| p.instances()).map(|i| &i.host).collect();
        for host in in_use.into_iter().filter(|h| self.fleet.is_up(h)) {
            let at = self.at(host.clone(), name).await;
            if !at.there {
                let note = if at.note.is_empty() { "see `edgeplex show hosts`" } else { &at.note };
                bail!("image {name} is not on host {host}: {note}");
            }
        }
        Ok(())
    }

    /// Brings to each host what it lacks, for ever.
    pub async fn keep(self: Arc<Self>) {
        let mut news = self.fleet.news();
        loop {
            let rest = if self.supply().await { PERIOD } else { AGAIN };
            tokio::select! {
                () = self.added.notified() => {}
                changed = news.changed() => if changed.is_err() { return },
                () = sleep(rest) => {}
            }
        }
    }

    /// Whether all hosts that are there have all.
    pub async fn supply(&self) -> bool {
        let own = match self.fleet.own().images().await {
            Ok(images) => images.into_iter().filter(|i| i.name != DEFAULT_IMAGE).collect::<Vec<_>>(),
            Err(e) => {
                tracing::warn!("images: {e}");
                return false;
            }
        };
        let up = self.fleet.names().into_iter().filter(|h| h != OWN_HOST && self.fleet.seen(h).reach == Reach::Up);
        join_all(up.map(|host| self.supply_host(host, &own))).await.into_iter().all(|whole| whole)
    }

    async fn supply_host(&self, host: String, own: &[Image]) -> bool {
        let Ok(runtime) = self.fleet.at(&host) else { return true };
        let Ok(there) = runtime.images().await else { return false };
        let mut whole = true;
        for image in own {
            let say = |why: String, failed| self.fleet.set_missing(&host, &image.name, Some(Missing { why, failed }));
            match there.iter().find(|i| i.name == image.name) {
                Some(found) if found.hash == image.hash => self.fleet.set_missing(&host, &image.name, None),
                Some(_) => say("another of that name is there, or its agent is of another version".into(), true),
                None => {
                    tracing::info!("image {} is copied to host {host}", image.name);
                    let before = self.fleet.missing(&host, &image.name);
                    let far = |done: u64, all: u64| say(format!("{} % of it is there", done * 100 / all.max(1)), false);
                    match runtime.ship_image(&image.name, &self.path(&image.name), &far).await {
                        Ok(()) => {
                            tracing::info!("image {} is on host {host}", image.name);
                            self.fleet.set_missing(&host, &image.name, None);
                        }
                        Err(e) => {
                            let why = told(e);
                            if before.is_none_or(|b| b.why != why) {
                                tracing::warn!("image {} does not come to host {host}: {why}", image.name);
                            }
                            say(why, true);
                            whole = false;
                        }
                    }
                }
            }
        }
        whole
    }
}

fn is_complete(dir: &Path) -> bool {
    PROGRAMS.iter().all(|p| dir.join(p).is_file())
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => bail!("{}: {}", dir.display(), plain(&e)),
        _ => Ok(()),
    }
}

/// The programs of an image and nothing else, on disk.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let shown = from.display();
    let about = fs::metadata(from).map_err(|e| anyhow::anyhow!("{shown}: {}", plain(&e)))?;
    ensure!(about.is_dir(), "{shown}: must be a directory");
    let runs = |p: &&&str| fs::metadata(from.join(p)).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let lacking: Vec<&str> = PROGRAMS.iter().filter(|p| !runs(p)).copied().collect();
    ensure!(lacking.is_empty(), "{shown}: lacks {}; an image has {}, all executable", lacking.join(", "), PROGRAMS.join(", "));
    remove(to)?;
    let copied = fs::create_dir_all(to).and_then(|()| {
        PROGRAMS.iter().try_for_each(|p| {
            fs::copy(from.join(p), to.join(p))?;
            fs::set_permissions(to.join(p), fs::Permissions::from_mode(0o755))?;
            fs::File::open(to.join(p))?.sync_all()
        })
    });
    copied.map_err(|e| anyhow::anyhow!("{}: {}", to.display(), plain(&e)))
}

/// One that cannot be run is found now, and not by the first customer who is moved onto it.
async fn try_out(program: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let attempt = async {
        loop {
            match command.output().await {
                // Another thread was just starting something when the copy was written, and has not let go of it yet.
                Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => sleep(BUSY).await,
                other => return other,
            }
        }
    };
    let output = timeout(PATIENCE, attempt).await.with_context(|| format!("says no version within {} s", PATIENCE.as_secs()))?;
    let output = output.map_err(|e| anyhow::anyhow!("cannot be run: {}", plain(&e)))?;
    if output.status.success() || program.ends_with(INIT) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("cannot be run: {}", said.lines().next().map_or_else(|| output.status.to_string(), ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_intent::Host;
    use edgeplex_runtime::FakeRuntime;

    fn script(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn build(dir: &Path) -> PathBuf {
        let from = dir.join("build");
        fs::create_dir(&from).unwrap();
        PROGRAMS.iter().for_each(|p| script(&from, p, "#!/bin/sh\necho it 2\n"));
        script(&from, INIT, "#!/bin/sh\nexit 2\n");
        fs::write(from.join("notes.d"), "").unwrap();
        from
    }

    #[tokio::test]
    async fn an_image_is_there_whole_and_tried_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path().into(), Arc::new(Fleet::alone(Arc::new(FakeRuntime::new(dir.path())))));
        let from = build(dir.path());
        let refused = async |says: &str| {
            let error = format!("{:#}", images.add("v2", &from).await.unwrap_err());
            assert!(error.contains(says) && !error.contains("os error"), "{error}");
            let left = fs::read_dir(dir.path().join("images")).map_or(0, Iterator::count);
            assert_eq!(left, 0, "nothing is left of it");
        };
        fs::rename(from.join("cvmd"), dir.path().join("cvmd")).unwrap();
        refused("lacks cvmd; an image has cvmd, edgeplex-init, fastforward, pvmd, all executable").await;
        fs::write(from.join("cvmd"), "").unwrap();
        refused("lacks cvmd").await;
        for (text, says) in [
            ("#!/bin/sh\necho no libdpdk.so.23 >&2\nexit 127\n", "build/cvmd: cannot be run: no libdpdk.so.23"),
            ("#!/bin/sh\nexit 1\n", "build/cvmd: cannot be run: exit status: 1"),
            ("#!/nowhere/sh\n", "build/cvmd: cannot be run: is not there"),
            ("\u{7f}ELF of another machine", "build/cvmd: cannot be run: Exec format error"),
        ] {
            script(&from, "cvmd", text);
            refused(says).await;
        }
        fs::rename(dir.path().join("cvmd"), from.join("cvmd")).unwrap();
        // What an earlier version left of the name.
        fs::create_dir_all(dir.path().join("images/v2")).unwrap();
        images.add("v2", &from).await.unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path().join("images/v2")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, PROGRAMS);
        assert!(images.add("v2", &from).await.unwrap_err().to_string().contains("is there already"));
        for bad in ["", "../x", "default", ".v"] {
            assert!(images.add(bad, &from).await.is_err(), "{bad}");
        }
        for (path, says) in [("/nowhere", "/nowhere: is not there"), ("build", "must be an absolute path")] {
            assert!(images.add("v3", Path::new(path)).await.unwrap_err().to_string().contains(says));
        }
    }

    fn host(name: &str) -> Host {
        let address = "192.0.2.1:7443".parse().unwrap();
        Host { name: name.parse().unwrap(), address, port: "eth7".into(), key: "0".repeat(64), silence: 500 }
    }

    #[tokio::test]
    async fn hosts_get_what_they_lack_when_they_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let (own, west) = (Arc::new(FakeRuntime::new(dir.path())), Arc::new(FakeRuntime::default()));
        let there = west.clone();
        let fleet = Arc::new(Fleet::new(own.clone(), Box::new(move |_| Ok(there.clone()))));
        let images = Arc::new(Images::new(dir.path().into(), fleet.clone()));
        images.add("v2", &build(dir.path())).await.unwrap();
        own.set_image("v2", "#!/bin/sh\necho it 2\n");
        fleet.know(&[host("west")]);
        west.set_reach(Reach::Lost);
        // Its reach is told by a task.
        let seen = async |reach| {
            let mut news = fleet.news();
            while fleet.seen("west").reach != reach {
                news.changed().await.unwrap();
            }
        };
        seen(Reach::Lost).await;
        let placed = State::default();
        let at = async || images.list(&placed).await.unwrap()[1].hosts.clone();
        assert!(images.supply().await);
        assert_eq!((at().await[0].there, at().await[1].there), (true, false));
        assert_eq!(at().await[1].note, "it is copied when the host is there");
        let keeping = tokio::spawn(images.clone().keep());
        west.set_reach(Reach::Up);
        let copied = async {
            while !at().await[1].there {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, copied).await.unwrap();
        keeping.abort();
        assert_eq!(fleet.obstacle("west", Some("v2"), &BTreeSet::new()).await, None);
        // Another of the same name is told, and left alone.
        west.set_image("v2", "other");
        west.set_reach(Reach::Broken);
        seen(Reach::Broken).await;
        west.set_reach(Reach::Up);
        seen(Reach::Up).await;
        assert!(images.supply().await && at().await[1].failed);
        let obstacle = fleet.obstacle("west", Some("v2"), &BTreeSet::new()).await.unwrap();
        assert!(obstacle.starts_with("host west does not have image v2: another of that name"), "{obstacle}");
        let drained = BTreeSet::from(["west".to_owned()]);
        assert_eq!(fleet.obstacle("west", None, &drained).await.unwrap(), "host west is drained");
    }
}
