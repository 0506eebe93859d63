//! What two OPENs agree on (RFC 4271 §6.2).

use crate::config::PeerConfig;
use crate::outbound::SendContext;
use edgeplex_bgp_wire::{
    AddPath, Capability, Code, Context, Family, FamilySet, GracefulRestart, LongLived, MAX_EXTENDED_MESSAGE, MAX_MESSAGE, Notification,
    Open, Role,
};
use std::{net::IpAddr, net::Ipv4Addr, time::Duration};

/// Who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub asn: u32,
    pub router_id: Ipv4Addr,
}

/// The outcome of an exchange of OPENs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) peer_id: Ipv4Addr,
    pub(crate) peer_as: u32,
    pub(crate) families: FamilySet,
    /// The peer sends several paths of these.
    pub(crate) add_path: FamilySet,
    pub(crate) four_octet_as: bool,
    pub(crate) route_refresh: bool,
    pub(crate) enhanced_refresh: bool,
    pub(crate) extended_message: bool,
    /// The peer's graceful-restart capability.
    pub(crate) graceful_restart: Option<GracefulRestart>,
    /// We do it as well, so that its routes stay while it restarts.
    pub(crate) helper: bool,
    /// Both sides take a NOTIFICATION for a restart (RFC 8538).
    pub(crate) notification: bool,
    /// The peer's long-lived capability, if we know what it means.
    pub(crate) long_lived: Vec<LongLived>,
    /// The peer told its role, and it is the right one.
    pub(crate) role: bool,
    /// Zero: neither hold timer nor keepalives.
    pub(crate) hold_time: Duration,
}

fn families(config: &PeerConfig) -> FamilySet {
    config.families.iter().copied().collect()
}

fn ibgp(config: &PeerConfig, local: &Local) -> bool {
    config.remote_as == local.asn
}

/// Our role; between ASes only (RFC 9234 §4.1).
fn role(config: &PeerConfig, local: &Local) -> Option<Role> {
    config.role.filter(|_| !ibgp(config, local))
}

/// The OPEN we send. `restarted`: the R bit (RFC 4724 §3).
pub(crate) fn our_open(config: &PeerConfig, local: &Local, restarted: bool) -> Open {
    let mut open = Open::new(local.asn, config.hold_time, local.router_id);
    let afi_safi = || families(config).iter().map(Family::afi_safi);
    let capabilities = &mut open.capabilities;
    capabilities.extend(afi_safi().map(|(afi, safi)| Capability::MultiProtocol(afi, safi)));
    capabilities.extend([Capability::RouteRefresh, Capability::EnhancedRefresh, Capability::ExtendedMessage]);
    capabilities.extend(role(config, local).map(|r| Capability::Role(r.number())));
    if let Some(gr) = config.graceful_restart {
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarted,
            notification: true,
            restart_time: gr.restart_time_s.min(4095),
            // The forwarder keeps its FIB whenever we are gone.
            families: afi_safi().map(|(afi, safi)| (afi, safi, true)).collect(),
        }));
        // RFC 9494 §4.1: never alone.
        if let Some(stale_time) = config.long_lived_s {
            let families = afi_safi().map(|(afi, safi)| LongLived { afi, safi, forwarding: true, stale_time });
            capabilities.push(Capability::LongLived(families.collect()));
        }
    }
    if config.add_path_receive {
        capabilities.push(Capability::AddPath(afi_safi().map(|(afi, safi)| AddPath { afi, safi, receive: true, send: false }).collect()));
    }
    open
}

/// Whether a session on which we have sent `sent` is the one that we would make with `now`. What differs elsewhere changes nothing
/// that was agreed on: a new version may well offer more.
pub(crate) fn same_session(sent: &Open, now: &Open) -> bool {
    let agreed = |o: &Open| {
        let receives = o.add_path().filter(|a| a.receive).filter_map(|a| Family::from_afi_safi(a.afi, a.safi)).collect::<FamilySet>();
        let helper = (o.graceful_restart().is_some(), !o.long_lived().is_empty());
        ((o.asn(), o.identifier, o.hold_time), o.families(), receives, helper, o.roles().next())
    };
    agreed(sent) == agreed(now)
}

/// Judges the peer's OPEN (RFC 4271 §6.2) beside the one that we have sent, or will. `Err` is what to tell it.
pub(crate) fn negotiate(config: &PeerConfig, local: &Local, sent: &Open, open: &Open) -> Result<Negotiated, Notification> {
    let refuse = |subcode, data: &[u8]| Err(Notification::new(Code::Open, subcode, data));
    // RFC 6793 §4.1: a peer with a large AS number that does not say so appears as AS_TRANS, which is not it.
    if open.asn() != config.remote_as {
        return refuse(2, &[]);
    }
    // RFC 6286 §2.2: not zero, and within one AS not ours.
    if open.identifier.is_unspecified() || ibgp(config, local) && open.identifier == local.router_id {
        return refuse(3, &[]);
    }
    if matches!(open.hold_time, 1 | 2) {
        return refuse(6, &[]);
    }
    let ours = sent.families();
    let common = ours.intersection(open.families());
    if common.is_empty() {
        // RFC 5492 §5: the data lists the capabilities required.
        let required: Vec<u8> = ours
            .iter()
            .flat_map(|f| {
                let ([hi, lo], safi) = (f.afi_safi().0.to_be_bytes(), f.afi_safi().1);
                [1, 4, hi, lo, 0, safi]
            })
            .collect();
        return refuse(7, &required);
    }
    let role = match role(config, local) {
        Some(ours) => judge_role(ours, config.role_strict, open)?,
        None => false,
    };
    let helper = sent.graceful_restart().is_some();
    let graceful_restart = open.graceful_restart().cloned();
    let sends_paths = open.add_path().filter(|a| a.send).filter_map(|a| Family::from_afi_safi(a.afi, a.safi)).collect();
    let receives = sent.add_path().any(|a| a.receive);
    let long_lived = if !sent.long_lived().is_empty() { open.long_lived().to_vec() } else { Vec::new() };
    Ok(Negotiated {
        peer_id: open.identifier,
        peer_as: open.asn(),
        families: common,
        add_path: if receives { common.intersection(sends_paths) } else { FamilySet::EMPTY },
        four_octet_as: open.four_octet_as().is_some(),
        route_refresh: open.has(&Capability::RouteRefresh),
        enhanced_refresh: open.has(&Capability::EnhancedRefresh),
        extended_message: open.has(&Capability::ExtendedMessage),
        notification: helper && graceful_restart.as_ref().is_some_and(|g| g.notification),
        helper,
        graceful_restart,
        long_lived,
        role,
        hold_time: Duration::from_secs(sent.hold_time.min(open.hold_time).into()),
    })
}

/// RFC 9234 §4.2: whether the peer told its role, or Role Mismatch.
fn judge_role(ours: Role, strict: bool, open: &Open) -> Result<bool, Notification> {
    let want = ours.counterpart().number();
    let told = open.roles().next().is_some();
    if open.roles().any(|r| r != want) || strict && !told {
        return Err(Notification::new(Code::Open, 11, &[]));
    }
    Ok(told)
}

impl Negotiated {
    pub(crate) fn decode_context(&self, config: &PeerConfig, local: &Local) -> Context {
        let ibgp = ibgp(config, local);
        // RFC 9234 §5, ingress 3. It is for unicast routes only; a session that mixes them with others is not known of.
        let unicast = self.families.iter().all(Family::is_unicast);
        let above = matches!(role(config, local), Some(Role::Customer | Role::Peer | Role::RouteServerClient));
        Context {
            four_octet_as: self.four_octet_as,
            ibgp,
            first_as: (!ibgp).then_some(config.remote_as),
            families: self.families,
            add_path: self.add_path,
            only_to_customer: (above && unicast).then_some(config.remote_as),
        }
    }

    /// How our own UPDATEs read: everything in them is taken as it stands.
    pub(crate) fn outgoing_context(&self) -> Context {
        Context { four_octet_as: self.four_octet_as, ibgp: true, families: self.families, ..Context::default() }
    }

    pub(crate) fn send_context(&self, config: &PeerConfig, local: &Local, own_address: IpAddr) -> SendContext {
        SendContext {
            four_octet_as: self.four_octet_as,
            extended_message: self.extended_message,
            enhanced_refresh: self.enhanced_refresh,
            long_lived: !self.long_lived.is_empty(),
            role: role(config, local),
            as_override: config.as_override,
            remove_private_as: config.remove_private_as,
            own_address: Some(own_address),
            link_local: config.link_local,
            ..SendContext::new(local.asn, config.remote_as)
        }
    }

    /// Families whose routes stay while the peer restarts (RFC 4724 §4.2: those it listed).
    pub(crate) fn kept(&self) -> FamilySet {
        let listed = self.graceful_restart.iter().filter(|_| self.helper).flat_map(|g| &g.families);
        listed.filter_map(|(afi, safi, _)| Family::from_afi_safi(*afi, *safi)).collect::<FamilySet>().intersection(self.families)
    }

    /// Families whose forwarding state the peer kept over its restart.
    pub(crate) fn preserved(&self) -> FamilySet {
        let listed = self.graceful_restart.iter().flat_map(|g| &g.families).filter(|(_, _, forwarding)| *forwarding);
        listed.filter_map(|(afi, safi, _)| Family::from_afi_safi(*afi, *safi)).collect::<FamilySet>().intersection(self.families)
    }

    /// How long every kept family may go on as long-lived stale, seconds.
    pub(crate) fn long_lived_s(&self) -> u32 {
        let time = |f: Family| self.long_lived.iter().find(|l| (l.afi, l.safi) == f.afi_safi()).map_or(0, |l| l.stale_time);
        self.kept().iter().map(time).min().unwrap_or(0)
    }

    /// The longest message the peer may send.
    pub(crate) fn longest_message(&self) -> usize {
        if self.extended_message { MAX_EXTENDED_MESSAGE } else { MAX_MESSAGE }
    }

    /// As an operator reads them.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        let named = [
            (self.four_octet_as, "four-octet-as"),
            (self.route_refresh, "route-refresh"),
            (self.enhanced_refresh, "enhanced-refresh"),
            (self.extended_message, "extended-message"),
            (self.helper && self.graceful_restart.is_some(), "graceful-restart"),
            (self.notification, "graceful-restart-notification"),
            (!self.long_lived.is_empty(), "long-lived-graceful-restart"),
            (!self.add_path.is_empty(), "add-path"),
            (self.role, "role"),
        ];
        named.into_iter().filter(|(agreed, _)| *agreed).map(|(_, name)| name.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Local = Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 1) };

    fn theirs() -> Open {
        Open::new(65101, 180, Ipv4Addr::new(10, 0, 0, 2))
    }

    fn config() -> PeerConfig {
        PeerConfig::new([10, 0, 0, 2], 65101)
    }

    fn judge(config: &PeerConfig, change: impl FnOnce(&mut Open)) -> Result<Negotiated, (u8, u8)> {
        let mut open = theirs();
        change(&mut open);
        negotiate(config, &LOCAL, &our_open(config, &LOCAL, false), &open).map_err(|n| (n.code.number(), n.subcode))
    }

    #[test]
    fn open_is_judged_as_rfc_4271_6_2_says() {
        let judge = |change: fn(&mut Open)| judge(&config(), change);
        assert_eq!(judge(|_| {}).unwrap().hold_time, Duration::from_secs(90));
        assert_eq!(judge(|o| o.hold_time = 0).unwrap().hold_time, Duration::ZERO);
        assert_eq!(judge(|o| o.capabilities = vec![Capability::FourOctetAs(65102)]), Err((2, 2)));
        assert_eq!(judge(|o| o.identifier = Ipv4Addr::UNSPECIFIED), Err((2, 3)));
        assert_eq!(judge(|o| o.hold_time = 2), Err((2, 6)));
        assert_eq!(judge(|o| o.capabilities.push(Capability::MultiProtocol(1, 128))), Err((2, 7)));
        // Equal identifiers are allowed between ASes (RFC 6286), not within one.
        assert!(judge(|o| o.identifier = LOCAL.router_id).is_ok());
        let internal = PeerConfig::new([10, 0, 0, 2], 65000);
        let ours = our_open(&internal, &LOCAL, false);
        assert_eq!(negotiate(&internal, &LOCAL, &ours, &Open::new(65000, 90, LOCAL.router_id)).unwrap_err().subcode, 3);
    }

    #[test]
    fn a_large_as_number_needs_the_capability() {
        let config = PeerConfig::new([10, 0, 0, 2], 4_200_000_000);
        let mut open = Open::new(4_200_000_000, 90, Ipv4Addr::new(1, 1, 1, 1));
        let ours = our_open(&config, &LOCAL, false);
        assert!(negotiate(&config, &LOCAL, &ours, &open).is_ok());
        open.capabilities.clear();
        assert_eq!(negotiate(&config, &LOCAL, &ours, &open).unwrap_err().subcode, 2);
    }

    #[test]
    fn roles_must_be_counterparts() {
        let provider = PeerConfig { role: Some(Role::Provider), ..config() };
        let strict = PeerConfig { role_strict: true, ..provider.clone() };
        let says =
            |roles: &[u8], c: &PeerConfig| judge(c, |o| o.capabilities.extend(roles.iter().map(|r| Capability::Role(*r)))).map(|n| n.role);
        assert_eq!(says(&[3], &provider), Ok(true));
        assert_eq!(says(&[3, 3], &provider), Ok(true));
        assert_eq!(says(&[], &provider), Ok(false));
        for wrong in [&[0][..], &[4], &[200], &[3, 4]] {
            assert_eq!(says(wrong, &provider), Err((2, 11)), "{wrong:?}");
        }
        assert_eq!(says(&[], &strict), Err((2, 11)));
        // Without a role of ours theirs is no matter.
        assert_eq!(says(&[0], &config()), Ok(false));
    }

    #[test]
    fn what_stays_over_a_restart() {
        let gr = crate::config::GracefulRestart { restart_time_s: 60, restarting: false };
        let families = vec![Family::Vpnv4, Family::Vpnv6];
        let ours = PeerConfig { graceful_restart: Some(gr), long_lived_s: Some(0), families, ..config() };
        let listed = |stale: [u32; 2]| {
            judge(&ours, |o| {
                o.capabilities.extend([Capability::MultiProtocol(1, 128), Capability::MultiProtocol(2, 128)]);
                let families = vec![(1, 128, true), (2, 128, false), (1, 1, true)];
                o.capabilities.push(Capability::GracefulRestart(GracefulRestart { families, ..GracefulRestart::default() }));
                let long =
                    [1, 2].into_iter().zip(stale).map(|(afi, stale_time)| LongLived { afi, safi: 128, forwarding: true, stale_time });
                o.capabilities.push(Capability::LongLived(long.collect()));
            })
            .unwrap()
        };
        let n = listed([3600, 60]);
        assert_eq!(n.kept().iter().collect::<Vec<_>>(), [Family::Vpnv4, Family::Vpnv6]);
        assert_eq!(n.preserved().iter().collect::<Vec<_>>(), [Family::Vpnv4]);
        assert_eq!((n.long_lived_s(), listed([0, 60]).long_lived_s()), (60, 0));
    }
}
