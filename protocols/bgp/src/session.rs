//! What two OPENs agree on (RFC 4271 §6.2), and what the session's kind does to the attributes we send (§5.1).

use crate::config::PeerConfig;
use edgeplex_bgp_wire::compose::EncodedAttributes;
use edgeplex_bgp_wire::{Attributes, Capability, Code, Context, FamilySet, GracefulRestart, Notification, Open};
use std::{net::Ipv4Addr, time::Duration};

/// Who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub asn: u32,
    pub router_id: Ipv4Addr,
}

/// What sending to a neighbour depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendContext {
    pub four_octet_as: bool,
    pub ibgp: bool,
    pub local_as: u32,
}

impl SendContext {
    pub(crate) fn encode(&self, attributes: &Attributes) -> EncodedAttributes {
        let mut a = attributes.clone();
        if self.ibgp {
            // RFC 4271 §5.1.5: always there towards internal peers.
            a.local_pref.get_or_insert(crate::decision::DEFAULT_LOCAL_PREF);
        } else {
            a.local_pref = None;
            // RFC 4456 §8: for this AS only.
            a.originator_id = None;
            a.cluster_list.clear();
            if a.as_path.first() != Some(self.local_as) {
                // RFC 4271 §5.1.4: a MED learnt from one AS is not told to another.
                if !a.as_path.is_empty() {
                    a.med = None;
                }
                // RFC 4271 §5.1.2 b
                a.as_path.prepend(self.local_as);
            }
        }
        EncodedAttributes::new(&a, self.four_octet_as)
    }
}

/// The outcome of an exchange of OPENs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) peer_id: Ipv4Addr,
    pub(crate) families: FamilySet,
    pub(crate) four_octet_as: bool,
    pub(crate) route_refresh: bool,
    /// The peer's graceful-restart capability.
    pub(crate) graceful_restart: Option<GracefulRestart>,
    /// Zero: neither hold timer nor keepalives.
    pub(crate) hold_time: Duration,
}

/// The OPEN we send. `restarted`: the R bit (RFC 4724 §3).
pub(crate) fn our_open(config: &PeerConfig, local: &Local, restarted: bool) -> Open {
    let mut open = Open::new(local.asn, config.hold_time, local.router_id);
    for family in families(config).iter() {
        let (afi, safi) = family.afi_safi();
        open.capabilities.push(Capability::MultiProtocol(afi, safi));
    }
    open.capabilities.push(Capability::RouteRefresh);
    if let Some(gr) = config.graceful_restart {
        open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarted,
            notification: false,
            restart_time: gr.restart_time_s.min(4095),
            // The forwarder keeps its FIB whenever we are gone.
            families: families(config).iter().map(|f| (f.afi_safi().0, f.afi_safi().1, true)).collect(),
        }));
    }
    open
}

fn families(config: &PeerConfig) -> FamilySet {
    config.families.iter().copied().collect()
}

/// Judges the peer's OPEN (RFC 4271 §6.2). `Err` is what to tell it.
pub(crate) fn negotiate(config: &PeerConfig, local: &Local, open: &Open) -> Result<Negotiated, Notification> {
    let refuse = |subcode, data: &[u8]| Err(Notification::new(Code::Open, subcode, data));
    // RFC 6793 §4.1: a peer with a large AS number that does not say so appears as AS_TRANS, which is not it.
    if open.asn() != config.remote_as {
        return refuse(2, &[]);
    }
    // RFC 6286 §2.2: not zero, and within one AS not ours.
    if open.identifier.is_unspecified() || config.remote_as == local.asn && open.identifier == local.router_id {
        return refuse(3, &[]);
    }
    if matches!(open.hold_time, 1 | 2) {
        return refuse(6, &[]);
    }
    let ours = families(config);
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
    Ok(Negotiated {
        peer_id: open.identifier,
        families: common,
        four_octet_as: open.four_octet_as().is_some(),
        route_refresh: open.has(&Capability::RouteRefresh),
        graceful_restart: open.graceful_restart().cloned(),
        hold_time: Duration::from_secs(config.hold_time.min(open.hold_time).into()),
    })
}

impl Negotiated {
    pub(crate) fn decode_context(&self, config: &PeerConfig, local: &Local) -> Context {
        let ibgp = config.remote_as == local.asn;
        Context {
            four_octet_as: self.four_octet_as,
            ibgp,
            first_as: (!ibgp).then_some(config.remote_as),
            families: self.families,
            ..Context::default()
        }
    }

    pub(crate) fn send_context(&self, config: &PeerConfig, local: &Local) -> SendContext {
        SendContext { four_octet_as: self.four_octet_as, ibgp: config.remote_as == local.asn, local_as: local.asn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_bgp_wire::{AsPath, Family, update};

    const LOCAL: Local = Local { asn: 65000, router_id: Ipv4Addr::new(10, 0, 0, 1) };

    fn judge(change: impl FnOnce(&mut Open)) -> Result<Negotiated, (u8, u8)> {
        let mut open = Open::new(65101, 180, Ipv4Addr::new(10, 0, 0, 2));
        change(&mut open);
        let config = PeerConfig::new([10, 0, 0, 2], 65101);
        negotiate(&config, &LOCAL, &open).map_err(|n| (n.code.number(), n.subcode))
    }

    #[test]
    fn open_is_judged_as_rfc_4271_6_2_says() {
        assert_eq!(judge(|_| {}).unwrap().hold_time, Duration::from_secs(90));
        assert_eq!(judge(|o| o.hold_time = 0).unwrap().hold_time, Duration::ZERO);
        assert_eq!(judge(|o| o.capabilities = vec![Capability::FourOctetAs(65102)]), Err((2, 2)));
        assert_eq!(judge(|o| o.identifier = Ipv4Addr::UNSPECIFIED), Err((2, 3)));
        assert_eq!(judge(|o| o.hold_time = 2), Err((2, 6)));
        assert_eq!(judge(|o| o.capabilities.push(Capability::MultiProtocol(1, 128))), Err((2, 7)));
        // Equal identifiers are allowed between ASes (RFC 6286), not within one.
        assert!(judge(|o| o.identifier = LOCAL.router_id).is_ok());
        let internal = PeerConfig::new([10, 0, 0, 2], 65000);
        assert_eq!(negotiate(&internal, &LOCAL, &Open::new(65000, 90, LOCAL.router_id)).unwrap_err().subcode, 3);
    }

    #[test]
    fn a_large_as_number_needs_the_capability() {
        let config = PeerConfig::new([10, 0, 0, 2], 4_200_000_000);
        let mut open = Open::new(4_200_000_000, 90, Ipv4Addr::new(1, 1, 1, 1));
        assert!(negotiate(&config, &LOCAL, &open).is_ok());
        open.capabilities.clear();
        assert_eq!(negotiate(&config, &LOCAL, &open).unwrap_err().subcode, 2);
    }

    #[test]
    fn attributes_leave_as_the_kind_of_session_requires() {
        let a = Attributes {
            as_path: AsPath::sequence([65101]),
            med: Some(5),
            local_pref: Some(200),
            originator_id: Some(LOCAL.router_id),
            cluster_list: vec![LOCAL.router_id],
            ..Attributes::default()
        };
        let sent = |ibgp, a: &Attributes| {
            let mut out = vec![];
            let encoded = SendContext { four_octet_as: true, ibgp, local_as: 65000 }.encode(a);
            let nlri = edgeplex_bgp_wire::Nlri::Ipv4("10.0.0.0/8".parse().unwrap());
            edgeplex_bgp_wire::compose::reach(&mut out, &encoded, LOCAL.router_id, &[nlri]);
            let families = FamilySet::from_iter([Family::Ipv4Unicast]);
            let context = Context { four_octet_as: true, ibgp: true, first_as: None, families };
            Attributes::clone(&update::decode(context, &out[19..]).unwrap().attributes.unwrap())
        };
        let external = sent(false, &a);
        assert_eq!(external, Attributes { as_path: AsPath::sequence([65000, 65101]), ..Attributes::default() });
        // Prepended already: nothing is added.
        assert_eq!(sent(false, &external), external);
        assert_eq!(sent(true, &a), a);
        assert_eq!(sent(true, &Attributes::default()).local_pref, Some(100));
    }
}
