//! The customer's routers: BIRD and FRR, as they come, without graceful restart. Their logs judge.

use crate::place::{CE, MANY, PE, Place, SITE, sh, until};
use std::{cell::Cell, fmt::Write, path::PathBuf, process::Command};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bird,
    Frr,
    /// BIRD with graceful restart.
    Graceful,
}

#[derive(Debug)]
pub struct Router {
    kind: Kind,
    dir: PathBuf,
    /// How far its log reached when all stood: before, two connections may have met, of which one side took the one to be up that the
    /// other closed (RFC 4271 §6.8).
    stood: Cell<usize>,
}

impl Router {
    /// Tells [`SITE`], and [`MANY`] more when asked to.
    pub fn start(place: &mut Place, kind: Kind) -> Self {
        let dir = place.path().to_owned();
        let router = Self { kind, dir, stood: Cell::new(0) };
        let path = router.dir.display();
        match kind {
            Kind::Bird | Kind::Graceful => {
                let mut many = String::new();
                for i in 0..MANY {
                    writeln!(many, "route 20.{}.{}.0/24 blackhole;", i >> 8, i & 255).unwrap();
                }
                std::fs::write(router.dir.join("many.conf"), many).unwrap();
                let graceful = if kind == Kind::Graceful { "on" } else { "off" };
                let conf = format!(
                    r#"log "{path}/router.log" all; router id {CE}; protocol device {{ }}
                    protocol static site {{ ipv4; route {SITE} blackhole; }}
                    protocol static many {{ disabled; ipv4;
include "{path}/many.conf";
                    }}
                    protocol bgp pvm {{ debug {{ states, routes, events }}; local {CE} as 65101; neighbor {PE} as 65000;
                      graceful restart {graceful}; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}"#
                );
                std::fs::write(router.dir.join("bird.conf"), conf).unwrap();
                place.start(&format!("bird -f -c {path}/bird.conf -s {path}/bird.ctl -P {path}/bird.pid"));
            }
            Kind::Frr => {
                let conf = format!(
                    "debug bgp neighbor-events\ndebug bgp updates in\nrouter bgp 65101\n bgp router-id {CE}\n bgp log-neighbor-changes\n bgp graceful-restart-disable
 no bgp ebgp-requires-policy\n no bgp network import-check\n neighbor {PE} remote-as 65000\n address-family ipv4 unicast\n  network {SITE}\n exit-address-family\n"
                );
                std::fs::write(router.dir.join("bgpd.conf"), conf).unwrap();
                sh(&format!("touch {path}/router.log && chown frr:frr {path} {path}/bgpd.conf {path}/router.log"));
                place.start(&format!(
                    "/usr/lib/frr/bgpd -Z -n -f {path}/bgpd.conf -i {path}/bgpd.pid --vty_socket {path} -z {path}/zserv.api -A 127.0.0.1 -P 0 \
                     --log file:{path}/router.log --log-level debugging"
                ));
            }
        }
        router
    }

    fn ask(&self, words: &[&str]) -> String {
        let path = self.dir.display();
        let (program, head) = match self.kind {
            Kind::Frr => ("vtysh", vec!["--vty_socket".into(), path.to_string(), "--config_dir".into(), path.to_string()]),
            _ => ("birdc", vec!["-s".into(), format!("{path}/bird.ctl")]),
        };
        let out = Command::new(program).args(head).args(words).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Tells the many, or takes them back.
    pub fn many(&self, told: bool) {
        match self.kind {
            Kind::Frr => {
                let no = if told { "" } else { "no " };
                let lines: String = (0..MANY).map(|i| format!("{no}network 20.{}.{}.0/24\n", i >> 8, i & 255)).collect();
                let file = self.dir.join("many.vty");
                std::fs::write(&file, format!("conf t\nrouter bgp 65101\naddress-family ipv4 unicast\n{lines}")).unwrap();
                self.ask(&["-f", file.to_str().unwrap()]);
            }
            _ => {
                self.ask(&[if told { "enable" } else { "disable" }, "many"]);
            }
        }
    }

    /// The session is up and the VPN's route is there.
    pub async fn up(&self) {
        until("the router has the VPN's route", async || self.has(crate::place::VPN).then_some(())).await;
        self.stood.set(self.log().len());
    }

    pub fn has(&self, prefix: &str) -> bool {
        match self.kind {
            Kind::Frr => self.ask(&["-c", &format!("show bgp ipv4 unicast {prefix}")]).contains("65000 65102"),
            _ => self.ask(&["show", "route", prefix]).contains("[pvm"),
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("router.log")).unwrap_or_default()
    }

    /// Lines of the log, since all stood, that tell of the session's end or of a route that left.
    pub fn noticed(&self) -> Vec<String> {
        let signs: &[&str] = match self.kind {
            Kind::Frr => &["Down", "withdrawn", "NOTIFICATION", "went from Established"],
            _ => &["> removed", "pvm: State changed", "pvm: BGP session", "pvm: Received: ", "pvm: Error", "pvm: Sending"],
        };
        let log = self.log();
        let since = log.get(self.stood.get()..).unwrap_or_default().lines();
        since.filter(|l| signs.iter().any(|s| l.contains(s))).map(str::to_owned).collect()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the router noticed:\n{}", self.noticed().join("\n"));
        }
    }
}
