//! One VM: FastForward and pvmd as processes of their own, killed at will.

use crate::place::{LIMIT, until};
use edgeplex_ff_fib_api::{Reply, Request, Target, VERSION, encode_request};
use edgeplex_mgmt::{
    config::PvmConfig,
    show::{InstanceOrder, InstanceStatus, PvmQuery, PvmStatus},
};
use edgeplex_transport::mgmt::ask;
use edgeplex_types::wire::Deframer;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
};

#[derive(Debug)]
pub struct Vm {
    namespace: String,
    /// Its run directory.
    pub run: PathBuf,
    /// Of the bridge.
    pub port: String,
    forwarder: Option<Child>,
    pvmd: Option<Child>,
}

impl Vm {
    pub fn new(namespace: String, run: PathBuf, config: &PvmConfig, port: String) -> Self {
        std::fs::create_dir_all(run.join("journal")).unwrap();
        std::fs::write(run.join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
        let mut vm = Self { namespace, run, port, forwarder: None, pvmd: None };
        vm.start_forwarder();
        vm
    }

    fn spawn(&self, program: &Path, log: &str, arguments: &[&str]) -> Child {
        let log = File::options().create(true).append(true).open(self.run.join(log)).unwrap();
        let mut run = Command::new("ip");
        // It becomes the program itself.
        run.args(["netns", "exec", &self.namespace]).arg(program).args(arguments);
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub fn start_forwarder(&mut self) {
        let program = Path::new(env!("CARGO_BIN_EXE_pvmd")).with_file_name("fastforward");
        assert!(program.exists(), "no fastforward beside pvmd: cargo build -p edgeplex-forwarder");
        let socket = self.run.join("fib.sock");
        self.forwarder = Some(self.spawn(&program, "forwarder.log", &["--socket", socket.to_str().unwrap(), "--hold", "179"]));
    }

    /// As init does, at first and whenever pvmd has died.
    pub fn start_pvmd(&mut self) {
        let of = |name: &str| self.run.join(name).to_str().unwrap().to_owned();
        let (config, journal, run) = (of("config.json"), of("journal"), self.run.to_str().unwrap());
        let arguments = ["--config", &config, "--run", run, "--journal", &journal, "--tap", "pe0"];
        self.pvmd = Some(self.spawn(Path::new(env!("CARGO_BIN_EXE_pvmd")), "pvmd.log", &arguments));
    }

    pub fn kill_pvmd(&mut self) {
        let mut child = self.pvmd.take().unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "pvmd has ended by itself: {}", self.log());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// As on SIGTERM.
    pub fn stop_pvmd(&mut self) {
        let mut child = self.pvmd.take().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Everything in it dies at once.
    pub fn kill(&mut self) {
        for mut child in self.pvmd.take().into_iter().chain(self.forwarder.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.run.join("pvmd.log")).unwrap_or_default()
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, query: PvmQuery) -> Result<T, String> {
        ask(&self.run.join("mgmt.sock"), &query, LIMIT).await.map_err(|e| e.to_string())
    }

    pub async fn status(&self) -> Option<PvmStatus> {
        self.ask(PvmQuery::Status).await.ok()
    }

    pub async fn order(&self, order: InstanceOrder) -> Result<InstanceStatus, String> {
        self.ask(PvmQuery::Instance(order)).await
    }

    pub async fn instance(&self) -> Option<InstanceStatus> {
        self.order(InstanceOrder::Look).await.ok()
    }

    /// Waits until this instance is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        until(what, async || self.instance().await.filter(&wanted)).await
    }

    /// What FastForward does with a packet to `address`; `None` while it is away.
    pub async fn lookup(&self, address: &str) -> Option<Option<Target>> {
        let mut stream = UnixStream::connect(self.run.join("fib.sock")).await.ok()?;
        stream.write_all(&encode_request(&Request::Lookup { address: address.parse().unwrap() }).unwrap()).await.ok()?;
        let (mut frames, mut buffer) = (Deframer::default(), vec![0; 4096]);
        loop {
            match frames.next::<Reply>(VERSION).unwrap() {
                Some(Reply::Lookup { found }) => return Some(found.map(|(_, target)| target)),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
            frames.push(&buffer[..n]);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let forwarder = std::fs::read_to_string(self.run.join("forwarder.log")).unwrap_or_default();
            eprintln!("--- {}:\n{}\n{forwarder}", self.namespace, self.log());
        }
    }
}

/// The platform's part: joins the leader's journal with a standby, for as long as both are there.
pub fn join(leader: &Vm, standby: &Vm) -> JoinHandle<()> {
    let (from, to) = (leader.run.join("journal.sock"), standby.run.join("follow.sock"));
    tokio::spawn(async move {
        loop {
            if let (Ok(mut a), Ok(mut b)) = (UnixStream::connect(&from).await, UnixStream::connect(&to).await) {
                let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
}
