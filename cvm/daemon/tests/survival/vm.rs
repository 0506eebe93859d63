//! One control VM: FastForward and cvmd as processes of their own, killed at will.

use crate::place::{LIMIT, until};
use edgeplex_mgmt::{
    config::CvmConfig,
    show::{CvmQuery, InstanceOrder, InstanceStatus, LabelRow, Route},
};
use edgeplex_transport::mgmt::ask;
use serde::de::DeserializeOwned;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tokio::{net::UnixStream, task::JoinHandle};

#[derive(Debug)]
pub struct Vm {
    namespace: String,
    /// Its run directory.
    pub run: PathBuf,
    /// Of the bridge.
    pub port: String,
    forwarder: Option<Child>,
    cvmd: Option<Child>,
}

impl Vm {
    pub fn new(namespace: String, run: PathBuf, config: &CvmConfig, port: String) -> Self {
        for dir in ["journal", "state"] {
            std::fs::create_dir_all(run.join(dir)).unwrap();
        }
        std::fs::write(run.join("config.json"), serde_json::to_vec(config).unwrap()).unwrap();
        let mut vm = Self { namespace, run, port, forwarder: None, cvmd: None };
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
        let program = Path::new(env!("CARGO_BIN_EXE_cvmd")).with_file_name("fastforward");
        assert!(program.exists(), "no fastforward beside cvmd: cargo build -p edgeplex-forwarder");
        let socket = self.run.join("fib.sock");
        let arguments = ["--wire", "core0=wire0", "--hold", "179", "--hold", "646", "--mtu", "1600", "--socket", socket.to_str().unwrap()];
        self.forwarder = Some(self.spawn(&program, "forwarder.log", &arguments));
    }

    /// As init does, at first and whenever cvmd has died.
    pub fn start_cvmd(&mut self) {
        let of = |name: &str| self.run.join(name).to_str().unwrap().to_owned();
        let (config, journal, state, run) = (of("config.json"), of("journal"), of("state"), self.run.to_str().unwrap());
        let arguments = ["--config", &config, "--run", run, "--journal", &journal, "--state", &state];
        self.cvmd = Some(self.spawn(Path::new(env!("CARGO_BIN_EXE_cvmd")), "cvmd.log", &arguments));
    }

    pub fn kill_cvmd(&mut self) {
        let mut child = self.cvmd.take().unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "cvmd has ended by itself: {}", self.log());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// As on SIGTERM.
    pub fn stop_cvmd(&mut self) {
        let mut child = self.cvmd.take().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// It has ended by itself, as it does when it has to be another process; init starts it again.
    pub async fn restarts(&mut self) {
        let mut child = self.cvmd.take().unwrap();
        let status = until("cvmd ends by itself", async || child.try_wait().unwrap()).await;
        assert!(status.success(), "{}", self.log());
        self.start_cvmd();
    }

    /// Everything in it dies at once.
    pub fn kill(&mut self) {
        for mut child in self.cvmd.take().into_iter().chain(self.forwarder.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.run.join("cvmd.log")).unwrap_or_default()
    }

    pub async fn ask<T: DeserializeOwned>(&self, query: CvmQuery) -> Result<T, String> {
        ask(&self.run.join("mgmt.sock"), &query, LIMIT).await.map_err(|e| e.to_string())
    }

    pub async fn order(&self, order: InstanceOrder) -> Result<InstanceStatus, String> {
        self.ask(CvmQuery::Instance(order)).await
    }

    /// Waits until this instance is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        until(what, async || self.order(InstanceOrder::Look).await.ok().filter(&wanted)).await
    }

    /// Waits until the VPN's table has this prefix, or no longer has it.
    pub async fn has(&self, prefix: &str, there: bool) {
        let prefix: ipnet::IpNet = prefix.parse().unwrap();
        until("the route's presence", async || {
            let routes: Vec<Route> = self.ask(CvmQuery::Routes { attachment: None }).await.ok()?;
            (routes.iter().any(|r| r.prefix == prefix) == there).then_some(())
        })
        .await;
    }

    pub async fn labels(&self) -> Vec<LabelRow> {
        self.ask(CvmQuery::Labels).await.unwrap()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let forwarder = std::fs::read_to_string(self.run.join("forwarder.log")).unwrap_or_default();
            eprintln!("--- {}:\n{}\n--- its forwarder:\n{forwarder}", self.namespace, self.log());
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
