//! The core's router, which is the route reflector too: FRR. It judges.

use crate::place::{BFD_MS, CORE, PE, Place, sh, until};
use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A VPN route of another PE, and the next one.
pub const VPN: &str = "10.2.0.0/16";
pub const LATER: &str = "10.3.0.0/16";
/// Another address of the router's, which is none of a neighbour.
pub const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 5);

#[derive(Debug)]
pub struct Router {
    dir: PathBuf,
}

impl Router {
    pub async fn start(place: &mut Place) -> Self {
        let dir = place.path().join("frr");
        std::fs::create_dir(&dir).unwrap();
        let router = Self { dir };
        let d = router.dir.display().to_string();
        let conf = |daemon: &str, text: String| std::fs::write(router.dir.join(format!("{daemon}.conf")), text).unwrap();
        conf("zebra", String::new());
        conf(
            "ospfd",
            format!(
                "interface lan\n ip ospf area 0\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n ip ospf bfd 3 {BFD_MS} {BFD_MS}\n\
                 interface lo\n ip ospf area 0\nrouter ospf\n ospf router-id {CORE}\n log-adjacency-changes detail\n"
            ),
        );
        conf("bfdd", String::new());
        conf(
            "ldpd",
            format!(
                "debug mpls ldp event\ndebug mpls ldp errors\nmpls ldp\n router-id {CORE}\n address-family ipv4\n  discovery transport-address {CORE}\n  interface lan\n  exit\n exit-address-family\n"
            ),
        );
        conf(
            "bgpd",
            format!(
                "debug bgp neighbor-events\nrouter bgp 65000\n bgp router-id {CORE}\n bgp log-neighbor-changes\n no bgp default ipv4-unicast\n bgp graceful-restart-disable\n\
                  neighbor {PE} remote-as 65000\n neighbor {PE} update-source {CORE}\n neighbor {PE} password betweenus\n neighbor {PE} timers connect 1\n neighbor {PE} bfd 3 {BFD_MS} {BFD_MS}\n\
                  address-family ipv4 vpn\n  neighbor {PE} activate\n  neighbor {PE} route-map target out\n  network {VPN} rd 65000:7 label 2000\n exit-address-family\n\
                 route-map target permit 10\n set extcommunity rt 65000:100\n"
            ),
        );
        sh(&format!("chown -R frr:frr {d} && chmod 755 {d}"));
        let common = |daemon: &str| {
            format!(
                "/usr/lib/frr/{daemon} -f {d}/{daemon}.conf -i {d}/{daemon}.pid --vty_socket {d} -z {d}/zserv.api -A 127.0.0.1 -P 0 \
                 --log file:{d}/{daemon}.log --log-level debugging"
            )
        };
        place.start(&common("zebra"));
        until("zebra is there", async || router.dir.join("zserv.api").exists().then_some(())).await;
        place.start(&format!("{} --bfdctl {d}/bfdd.sock", common("bfdd")));
        until("bfdd is there", async || router.dir.join("bfdd.vty").exists().then_some(())).await;
        place.start(&common("ospfd"));
        place.start(&format!("{} --ctl_socket {d}", common("ldpd")));
        place.start(&format!("{} -n", common("bgpd")));
        router
    }

    fn vtysh(&self, lines: &[&str]) -> Command {
        let d = self.dir.to_str().unwrap();
        let mut vtysh = Command::new("vtysh");
        vtysh.args(["--vty_socket", d, "--config_dir", d]).args(lines.iter().flat_map(|line| ["-c", line]));
        vtysh
    }

    pub fn ask(&self, lines: &[&str]) -> String {
        let out = self.vtysh(lines).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Tells one more route, or takes it back; done when the child has ended.
    pub fn telling(&self, told: bool) -> Child {
        let network = format!("{}network {LATER} rd 65000:7 label 2001", if told { "" } else { "no " });
        self.vtysh(&["conf t", "router bgp 65000", "address-family ipv4 vpn", &network]).stdout(Stdio::null()).spawn().unwrap()
    }

    pub fn later(&self, told: bool) {
        self.telling(told).wait().unwrap();
    }

    /// VPN routes lead to an address behind the router from now on.
    pub fn behind(&self) {
        let next_hop = format!("set ipv4 vpn next-hop {BEHIND}");
        self.ask(&["conf t", "route-map target permit 10", &next_hop]);
    }

    /// Our router LSA as it has it: its sequence number.
    pub fn lsa(&self) -> String {
        let all = self.ask(&[&format!("show ip ospf database router {PE}")]);
        all.lines().find(|l| l.contains("LS Seq Number")).unwrap_or_default().trim().to_owned()
    }

    /// Everything stands.
    pub async fn up(&self) {
        until("OSPF is full", async || self.ask(&["show ip ospf neighbor"]).contains("Full/").then_some(())).await;
        until("LDP is operational", async || self.ask(&["show mpls ldp neighbor"]).contains("OPERATIONAL").then_some(())).await;
        let both = || self.ask(&["show bfd peers"]).matches("Status: up").count() == 2;
        until("BFD is up, over the link and from loopback to loopback", async || both().then_some(())).await;
        until("BGP is established", async || self.ask(&["show bgp neighbors"]).contains("BGP state = Established").then_some(())).await;
    }

    /// VPN routes that came from us, with their labels.
    pub fn routes(&self) -> String {
        self.ask(&["show bgp ipv4 vpn 10.1.0.0/16"])
    }

    /// The customer's route as it has it, and how often its table had changed by then.
    pub fn version(&self) -> String {
        self.routes().lines().find(|l| l.contains("version")).unwrap_or_default().trim().to_owned()
    }

    /// Prefixes, and our labels for them, as FRR has them.
    pub fn bindings(&self) -> Vec<String> {
        let all = self.ask(&["show mpls ldp binding"]);
        let of = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["ipv4", prefix, neighbor, _, label, _] if neighbor == PE.to_string() => Some(format!("{prefix} {label}")),
            _ => None,
        };
        all.lines().filter_map(of).collect()
    }

    fn log(&self, daemon: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{daemon}.log"))).unwrap_or_default()
    }

    /// How far the logs reach.
    pub fn mark(&self) -> Mark {
        Mark(DAEMONS.map(|(daemon, _)| self.log(daemon).len()))
    }

    /// What the daemons have written since that tells of a neighbour's end or its coming back.
    pub fn noticed(&self, since: &Mark) -> Vec<String> {
        let news = |((daemon, signs), at): (&(&str, &[&str]), &usize)| {
            let log = self.log(daemon);
            let lines = log.get(*at..).unwrap_or_default().lines().filter(|l| signs.iter().any(|s| l.contains(s)));
            lines.map(|l| format!("{daemon}: {l}")).collect::<Vec<_>>()
        };
        DAEMONS.iter().zip(&since.0).flat_map(news).collect()
    }
}

const DAEMONS: [(&str, &[&str]); 4] = [
    ("ospfd", &["AdjChg", "-> Down", "Full ->", "-> Full"]),
    ("bfdd", &["state-change", "-> down", "down ->"]),
    ("ldpd", &["session down", "closing connection", "nbr_fsm", "session with", "shutdown"]),
    ("bgpd", &["Down", "ADJCHANGE", "NOTIFICATION", "fsm_change_status"]),
];

#[derive(Debug)]
pub struct Mark([usize; 4]);
