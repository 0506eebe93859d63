//! The BGP rows: VPNv4 and VPNv6 with four reflectors or PEs of the core, IPv4 and IPv6 with four customers' routers.

use super::{
    cases::{Case, Expect, Reach, Voice},
    hostile::{From, Hostile},
    matrix::{Column, Matrix},
    speaker::{Bird, Family, Frr, GoBgp, OpenBgpd, Side, Speaker},
    world::{CUSTOMER, LOOPBACK, World, soon, soon_true, within},
};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// A daemon that has sessions with the device under test, with its lines of the matrix.
pub(super) struct Peer<'a> {
    pub name: &'static str,
    /// 1 to 4, in every address.
    pub number: u8,
    pub core: bool,
    node: &'static str,
    speaker: Box<dyn Speaker + 'a>,
    /// Who originates what this one reflects, where it has no routes of its own.
    origin: Option<Frr<'a>>,
    pub rows: [Row; 2],
}

/// One line: a family of a peer.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub line: usize,
    family: Family,
    /// Addresses of the session: the peer's and ours.
    address: String,
    neighbor: String,
    /// Whose session it is in `edgeplex show bgp`.
    owner: String,
}

impl Row {
    fn side(&self) -> Side<'_> {
        Side { family: self.family, neighbor: &self.neighbor }
    }
}

/// `10.TENS.N.0/24` or `2001:db8:TENS:N::/64`. Base routes are always there, extra ones come and go.
fn prefix(v6: bool, tens: u8, number: u8) -> String {
    if v6 { format!("2001:db8:{tens}:{number}::/64") } else { format!("10.{tens}.{number}.0/24") }
}

const NAMES: [&str; 4] = ["FRR", "BIRD", "GoBGP", "OpenBGPD"];

impl Peer<'_> {
    fn base(&self, row: &Row) -> String {
        prefix(row.family.is_v6(), if self.core { 20 } else { 10 }, self.number)
    }

    fn extra(&self, row: &Row) -> String {
        prefix(row.family.is_v6(), if self.core { 21 } else { 11 }, self.number)
    }

    /// OpenBGPD 7.7 on Linux keeps a VPN route that is withdrawn, by FRR 8.4 no less than by us.
    fn forgets_no_vpn(&self) -> bool {
        self.core && self.number == 4
    }

    fn announce(&self, row: &Row, prefix: &str, there: bool) -> Result<()> {
        let origin: &dyn Speaker = match &self.origin {
            Some(frr) => frr,
            None => self.speaker.as_ref(),
        };
        origin.announce(row.side(), prefix, self.number, there)?;
        match &self.origin {
            // It drops what a session brought when that ends.
            Some(frr) if self.forgets_no_vpn() && !there => frr.node.run(&["vtysh", "-c", "clear bgp 10.0.4.2"]).map(drop),
            _ => Ok(()),
        }
    }
}

/// Every peer, with its rows declared in the matrix.
pub(super) fn peers<'a>(world: &World<'a>, matrix: &mut Matrix) -> Result<Vec<Peer<'a>>> {
    let mut peers = vec![];
    for core in [true, false] {
        for (number, name) in (1..).zip(NAMES) {
            let short = ["frr", "bird", "gobgp", "obgpd"][usize::from(number) - 1];
            let node_name: &'static str = match (core, number) {
                (true, 1) => "core-frr",
                (true, 2) => "core-bird",
                (true, 3) => "core-gobgp",
                (true, _) => "core-obgpd",
                (false, 1) => "ce-frr",
                (false, 2) => "ce-bird",
                (false, 3) => "ce-gobgp",
                (false, _) => "ce-obgpd",
            };
            let node = world.lab.node(node_name)?;
            let speaker: Box<dyn Speaker + 'a> = match number {
                1 => Box::new(Frr { node, asn: if core { 65000 } else { 65101 } }),
                2 => Box::new(Bird { node }),
                3 => Box::new(GoBgp { node, address6: "2001:db8:3::2" }),
                _ => Box::new(OpenBgpd { node }),
            };
            let frr = Frr { node: world.lab.node("core-frr")?, asn: 65000 };
            let origin = (core && matches!(number, 2 | 4)).then_some(frr);
            let (owner, families, addresses, neighbors) = if core {
                let address = ["10.255.0.2", "10.255.0.3", "10.0.3.2", "10.0.4.2"][usize::from(number) - 1].to_owned();
                ("cvm".to_owned(), [Family::Vpnv4, Family::Vpnv6], [address.clone(), address], [LOOPBACK.to_owned(), LOOPBACK.to_owned()])
            } else {
                let addresses = [format!("192.168.{number}.2"), format!("2001:db8:{number}::2")];
                let neighbors = [format!("192.168.{number}.1"), format!("2001:db8:{number}::1")];
                (format!("{CUSTOMER}/{short}"), [Family::Ipv4, Family::Ipv6], addresses, neighbors)
            };
            let row = |i: usize| Row {
                line: 0,
                family: families[i],
                address: addresses[i].clone(),
                neighbor: neighbors[i].clone(),
                owner: owner.clone(),
            };
            peers.push(Peer { name, number, core, node: node_name, speaker, origin, rows: [row(0), row(1)] });
        }
    }
    // Lines are by protocol, then by peer.
    for (core, i, protocol) in [(true, 0, "VPNv4"), (true, 1, "VPNv6"), (false, 0, "CE IPv4"), (false, 1, "CE IPv6")] {
        for peer in peers.iter_mut().filter(|p| p.core == core) {
            peer.rows[i].line = matrix.lines.len();
            matrix.declare(protocol, peer.name);
        }
    }
    Ok(peers)
}

pub(super) struct Bgp<'a, 'w> {
    pub world: &'w World<'a>,
    pub peers: Vec<Peer<'a>>,
}

type Lines<'p, 'a> = Vec<(&'p Peer<'a>, &'p Row)>;

impl<'a> Bgp<'a, '_> {
    fn rows(&self) -> Lines<'_, 'a> {
        self.peers.iter().flat_map(|p| p.rows.iter().map(move |r| (p, r))).collect()
    }

    /// A customer's router, another one than the peer, that must see what it announces; its extra routes are seen by the peer.
    fn witness(&self, peer: &Peer<'_>) -> &Peer<'a> {
        let number = peer.number % 4 + 1;
        self.peers.iter().find(|p| !p.core && p.number == number).unwrap_or(&self.peers[0])
    }

    fn witness_row(&self, peer: &Peer<'_>, row: &Row) -> (&Peer<'a>, &Row) {
        let witness = self.witness(peer);
        (witness, &witness.rows[usize::from(row.family.is_v6())])
    }

    fn up_now(&self, peer: &Peer<'_>, row: &Row, what: &str) -> Result<()> {
        soon(&format!("{what}: session with {} ({})", peer.name, row.address), || {
            let (theirs, ours) = (peer.speaker.established(row.side())?, self.world.session(&row.owner, &row.address)?);
            Ok(if theirs && ours.state == "established" {
                Ok(())
            } else {
                Err(format!(
                    "{} says {}, we say {} ({})",
                    peer.name,
                    if theirs { "established" } else { "not established" },
                    ours.state,
                    ours.last_error
                ))
            })
        })
    }

    /// The peer's route is at the witness, with us as the peer's; the witness's route is at the peer.
    fn exchange(&self, peer: &Peer<'_>, row: &Row, theirs: &str, ours: &str, there: bool) -> Result<()> {
        let (witness, seen) = self.witness_row(peer, row);
        let what = |who: &str, prefix: &str| format!("{who} {} {prefix}", if there { "has" } else { "has no longer" });
        soon_true(&what("edgeplex", theirs), || {
            let attachment = if peer.core { &seen.owner } else { &row.owner };
            let route = self.world.route(attachment, theirs)?;
            let source = if peer.core { "vpn" } else { "bgp" };
            let right = route.is_some_and(|(s, label)| s == source && (!peer.core || label == 2000 + u64::from(peer.number)));
            Ok(right == there)
        })?;
        soon_true(&what(&format!("{} as witness", witness.name), theirs), || Ok(witness.speaker.has(seen.side(), theirs)? == there))?;
        if !there && peer.forgets_no_vpn() {
            return Ok(());
        }
        soon_true(&what(peer.name, ours), || Ok(peer.speaker.has(row.side(), ours)? == there))
    }

    fn base_exchange(&self, peer: &Peer<'_>, row: &Row) -> Result<()> {
        let (witness, seen) = self.witness_row(peer, row);
        self.exchange(peer, row, &peer.base(row), &witness.base(seen), true)
    }

    pub(super) fn up(&self, matrix: &mut Matrix) {
        for (peer, row) in self.rows() {
            matrix.check(&[row.line], Column::Up, || {
                self.up_now(peer, row, "up")?;
                Ok(format!("Established, says {}; established, says edgeplex show bgp", peer.name))
            });
        }
    }

    /// GoBGP's routes come from its command line only.
    fn base_of_gobgp(&self) -> Result<()> {
        self.peers
            .iter()
            .filter(|p| p.number == 3)
            .flat_map(|p| p.rows.iter().map(move |r| (p, r)))
            .try_for_each(|(p, r)| p.announce(r, &p.base(r), true))
    }

    pub(super) fn routes(&self, matrix: &mut Matrix) {
        let prepared = self.base_of_gobgp();
        for (peer, row) in self.rows() {
            matrix.check(&[row.line], Column::Routes, || {
                if let Err(e) = &prepared {
                    anyhow::bail!("GoBGP's routes: {e:#}");
                }
                self.base_exchange(peer, row)?;
                let (witness, seen) = self.witness_row(peer, row);
                let origin = peer.origin.as_ref().map_or("", |_| " (reflected from FRR)");
                Ok(format!(
                    "{}{origin} is at edgeplex and at customer's {}; {} is at {}",
                    peer.base(row),
                    witness.name,
                    witness.base(seen),
                    peer.name
                ))
            });
        }
    }

    pub(super) fn withdraw(&self, matrix: &mut Matrix) {
        let all = |there: bool| -> Vec<Result<()>> { self.rows().iter().map(|(p, r)| p.announce(r, &p.extra(r), there)).collect() };
        let extra = |peer: &Peer<'_>, row: &Row, there: bool| {
            let (witness, seen) = self.witness_row(peer, row);
            self.exchange(peer, row, &peer.extra(row), &witness.extra(seen), there)
        };
        let came: Vec<Result<()>> =
            all(true).into_iter().zip(self.rows()).map(|(said, (p, r))| said.and_then(|()| extra(p, r, true))).collect();
        let gone = all(false);
        for ((came, gone), (peer, row)) in came.into_iter().zip(gone).zip(self.rows()) {
            matrix.check(&[row.line], Column::Withdraw, || {
                came.context("announcing")?;
                gone.context("withdrawing")?;
                extra(peer, row, false)?;
                let (witness, seen) = self.witness_row(peer, row);
                Ok(format!(
                    "{} came and went, seen at customer's {}; {} came and went at {}",
                    peer.extra(row),
                    witness.name,
                    witness.extra(seen),
                    peer.name
                ))
            });
        }
    }

    pub(super) fn refresh(&self, matrix: &mut Matrix) {
        for (peer, row) in self.rows() {
            if peer.name == "GoBGP" {
                let why = peer.speaker.ask_again(row.side()).err().map_or_else(String::new, |e| e.to_string());
                matrix.not_applicable(row.line, Column::Refresh, &why);
                continue;
            }
            matrix.check(&[row.line], Column::Refresh, || {
                let before = peer.speaker.heard(row.side())?;
                let resets = self.world.session(&row.owner, &row.address)?.resets;
                peer.speaker.ask_again(row.side())?;
                let after = soon("the routes come again", || {
                    let now = peer.speaker.heard(row.side())?;
                    Ok(if now > before { Ok(now) } else { Err(format!("{} counts {now} updates as before", peer.name)) })
                })?;
                self.base_exchange(peer, row)?;
                ensure!(self.world.session(&row.owner, &row.address)?.resets == resets, "the session was reset");
                Ok(format!("{} sent ROUTE-REFRESH: its updates received went from {before} to {after}", peer.name))
            });
        }
    }

    /// Each daemon is killed; a hostile speaker takes its place for a while; then it comes back.
    pub(super) fn restart_peers(&self, matrix: &mut Matrix, cases: &[Case], columns: &dyn Fn(Column) -> bool) {
        for peer in &self.peers {
            crate::complain!("    {} {} …", if peer.core { "core" } else { "customer's" }, peer.name);
            let lines = peer.rows.clone().map(|r| r.line);
            let before: Vec<u64> = peer.rows.iter().map(|r| self.world.session(&r.owner, &r.address).map_or(0, |s| s.resets)).collect();
            if columns(Column::BadInput) {
                let silent = peer.speaker.silence();
                if let Err(e) = silent {
                    crate::complain!("    {}: {e:#}", peer.name);
                }
                for row in &peer.rows {
                    matrix.check(&[row.line], Column::BadInput, || self.bad_input(peer, row, cases));
                }
            }
            let killed = peer.speaker.kill();
            let started = peer.speaker.start();
            if !columns(Column::RestartPeer) {
                continue;
            }
            matrix.check(&lines, Column::RestartPeer, || {
                killed?;
                started?;
                if peer.number == 3 {
                    peer.rows.iter().try_for_each(|r| peer.announce(r, &peer.base(r), true))?;
                }
                for (row, before) in peer.rows.iter().zip(before) {
                    self.up_now(peer, row, "after kill -9")?;
                    self.base_exchange(peer, row)?;
                    let resets = self.world.session(&row.owner, &row.address)?.resets;
                    ensure!(resets > before, "we never noticed that {} was killed", peer.name);
                }
                Ok(format!("{}'s daemon killed and started: Established again, routes both ways again", peer.name))
            });
        }
    }

    /// From the peer's place: every bad UPDATE that must not end the session, between two good ones.
    fn bad_input(&self, peer: &Peer<'_>, row: &Row, cases: &[Case]) -> Result<String> {
        let node = self.world.lab.node(peer.node)?;
        let (reach, families) = match row.family {
            Family::Ipv4 => (Reach::Classic, "1/1"),
            Family::Ipv6 => (Reach::Multi(2, 1), "2/1"),
            Family::Vpnv4 => (Reach::Multi(1, 128), "1/128"),
            Family::Vpnv6 => (Reach::Multi(2, 128), "2/128"),
        };
        let asn = if peer.core { 65000 } else { 65100 + u16::from(peer.number) };
        let router_id = if peer.core { row.address.clone() } else { format!("192.168.{}.2", peer.number) };
        // Of the core, a next hop to which there is an LSP; of a customer, itself.
        let next_hop = if peer.core { "10.255.0.2" } else { &router_id };
        let voice = Voice { asn, next_hop: next_hop.parse()?, next_hop6: row.address.parse().ok(), reach };
        let from = From { local: &row.address, peer: &row.neighbor, asn, router_id: &router_id, families };
        let mut hostile = Hostile::start(node, &from)?;
        let v6 = row.family.is_v6();
        // 2001:db8:66:K::/64 or 10.66.K.0/24.
        let wire = |k: u8| if v6 { vec![64, 0x20, 1, 0xd, 0xb8, 0, 0x66, 0, k] } else { vec![24, 10, 66, k] };
        let named = |k: u8| prefix(v6, 66, k);
        hostile.update(&voice.good(&wire(1))?)?;
        let chosen: Vec<&Case> = cases
            .iter()
            .filter(|c| c.expect.keeps_session() && (!c.classic || reach == Reach::Classic))
            // What is fine between ASes is another matter inside of one, and the other way round.
            .filter(|c| !peer.core || c.expect == Expect::TreatAsWithdraw)
            .filter(|c| !(peer.core && c.name.starts_with("AS_PATH")))
            .collect();
        for case in &chosen {
            hostile.update(&voice.bad(case, &wire(2))?)?;
        }
        hostile.update(&voice.good(&wire(3))?)?;
        let attachment = if peer.core { &self.witness_row(peer, row).1.owner } else { &row.owner };
        soon("the good routes around the bad ones", || {
            if let Some(end) = hostile.ended() {
                return Ok(Err(format!("the session was ended: {end}")));
            }
            let have = [1, 3].map(|k| self.world.route(attachment, &named(k)).map(|r| r.is_some()));
            Ok(match have {
                [Ok(true), Ok(true)] => Ok(()),
                other => Err(format!("{other:?}; {:?}", self.world.session(&row.owner, &row.address))),
            })
        })?;
        let withdrawn = self.world.session(&row.owner, &row.address)?.treated_as_withdraw;
        ensure!(hostile.ended().is_none(), "the session was ended");
        hostile.stop()?;
        Ok(format!(
            "{} malformed UPDATEs from {}'s address: session kept, good routes before and after taken, {withdrawn} treated as withdraw",
            chosen.len(),
            peer.name
        ))
    }

    /// Our own daemons die: the core's first, then the customers'.
    pub(super) fn restart_ours(&self, matrix: &mut Matrix) {
        for core in [true, false] {
            let program = if core { "cvmd" } else { "pvmd" };
            let killed = self.world.kill_ours(program).map_err(|e| format!("{e:#}"));
            for (peer, row) in self.rows().into_iter().filter(|(p, _)| p.core == core) {
                matrix.check(&[row.line], Column::RestartOurs, || {
                    let n = killed.clone().map_err(anyhow::Error::msg)?;
                    self.up_now(peer, row, "after kill -9")?;
                    self.base_exchange(peer, row)?;
                    Ok(format!("{n} {program} killed: Established again, says {}; routes both ways again", peer.name))
                });
            }
        }
    }

    /// A password on our side first: no session may be; then on theirs: it comes back.
    pub(super) fn md5(&self, matrix: &mut Matrix, applied: &Result<(), String>) {
        const PASSWORD: &str = "bgp-word";
        let lost: Vec<Result<()>> = self
            .rows()
            .iter()
            .map(|(peer, row)| {
                within(Duration::from_secs(100), &format!("{} is refused without the password", peer.name), || {
                    let (theirs, ours) = (peer.speaker.established(row.side())?, self.world.session(&row.owner, &row.address)?);
                    Ok(if theirs || ours.state == "established" {
                        Err(format!("{} established: {theirs}; we: {}", peer.name, ours.state))
                    } else {
                        Ok(())
                    })
                })
            })
            .collect();
        let set: Vec<Result<(), String>> = self
            .peers
            .iter()
            .map(|p| {
                // A core session carries both families.
                let sides: Vec<Side<'_>> = p.rows.iter().take(if p.core { 1 } else { 2 }).map(Row::side).collect();
                p.speaker.password(&sides, PASSWORD).map_err(|e| format!("{e:#}"))?;
                if p.number == 3 {
                    p.rows.iter().try_for_each(|r| p.announce(r, &p.base(r), true)).map_err(|e| format!("{e:#}"))
                } else {
                    Ok(())
                }
            })
            .collect();
        let mut lost = lost.into_iter();
        for (peer, set) in self.peers.iter().zip(set) {
            for row in &peer.rows {
                let lost = lost.next().unwrap_or(Ok(()));
                matrix.check(&[row.line], Column::Md5, || {
                    applied.clone().map_err(anyhow::Error::msg).context("edgeplex apply")?;
                    lost?;
                    set.clone().map_err(anyhow::Error::msg).context("setting the password")?;
                    self.up_now(peer, row, "with the password at both ends")?;
                    self.base_exchange(peer, row)?;
                    Ok(format!("password here only: no session; also at {}: Established, routes both ways", peer.name))
                });
            }
        }
    }
}
