//! What the kind of a session does to the attributes we send, and what it forbids to send at all
//! (RFC 4271 §5.1, RFC 1997, RFC 4456 §8, RFC 9234 §5, RFC 9494 §4.3).

use crate::decision::DEFAULT_LOCAL_PREF;
use edgeplex_bgp_wire::compose::{EncodedAttributes, NextHop};
use edgeplex_bgp_wire::{Attributes, Family, LLGR_STALE, Role};
use std::net::{IpAddr, Ipv6Addr};

/// RFC 1997: no word of it beyond this AS.
const NO_EXPORT: [u32; 2] = [0xffff_ff01, 0xffff_ff03];
/// RFC 1997: no word of it to any peer.
const NO_ADVERTISE: u32 = 0xffff_ff02;

/// What sending to a neighbour depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendContext {
    pub local_as: u32,
    pub remote_as: u32,
    pub four_octet_as: bool,
    /// RFC 8654.
    pub extended_message: bool,
    /// RFC 7313.
    pub enhanced_refresh: bool,
    /// The peer knows long-lived stale routes (RFC 9494).
    pub long_lived: bool,
    /// Ours.
    pub role: Option<Role>,
    pub as_override: bool,
    pub remove_private_as: bool,
    /// Our address of the session: the next hop of routes that have none of their own.
    pub own_address: Option<IpAddr>,
    pub link_local: Option<Ipv6Addr>,
}

impl SendContext {
    /// A session with nothing optional but 4-octet AS numbers.
    pub fn new(local_as: u32, remote_as: u32) -> Self {
        Self {
            local_as,
            remote_as,
            four_octet_as: true,
            extended_message: false,
            enhanced_refresh: false,
            long_lived: false,
            role: None,
            as_override: false,
            remove_private_as: false,
            own_address: None,
            link_local: None,
        }
    }

    fn ibgp(&self) -> bool {
        self.local_as == self.remote_as
    }

    /// Whether routes with these attributes may be sent.
    pub(crate) fn allows(&self, family: Family, a: &Attributes) -> bool {
        // A path that starts with our AS was prepared for this neighbour by its owner, who looked at what had been learnt: the
        // communities are now policy's words to the neighbour.
        let prepared = !self.ibgp() && a.as_path.first() == Some(self.local_as);
        let secret = |c: &u32| *c == NO_ADVERTISE || !self.ibgp() && NO_EXPORT.contains(c);
        if !prepared && a.communities.iter().any(secret) {
            return false;
        }
        // RFC 9494 §4.3
        if a.communities.contains(&LLGR_STALE) && !self.long_lived {
            return false;
        }
        // RFC 9234 §5, egress 2: what came from above or beside goes downwards only.
        let upwards = matches!(self.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
        !(upwards && family.is_unicast() && a.only_to_customer.is_some())
    }

    /// The attributes as this neighbour gets them.
    pub(crate) fn encode(&self, family: Family, attributes: &Attributes) -> EncodedAttributes {
        let mut a = attributes.clone();
        if self.ibgp() {
            // RFC 4271 §5.1.5: always there towards internal peers.
            a.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        } else {
            self.prepare_external(family, &mut a);
        }
        self.encoded(&a)
    }

    /// Attributes that are as this neighbour gets them.
    pub(crate) fn encoded(&self, a: &Attributes) -> EncodedAttributes {
        let encoded = EncodedAttributes::new(a, self.four_octet_as);
        if self.extended_message { encoded.extended() } else { encoded }
    }

    fn prepare_external(&self, family: Family, a: &mut Attributes) {
        a.local_pref = None;
        // RFC 4456 §8: for this AS only.
        a.originator_id = None;
        a.cluster_list.clear();
        // RFC 4360 §6: those that are not transitive stay in the AS.
        a.ext_communities.retain(|c| c[0] & 0x40 == 0);
        let ours_in_front = a.as_path.first() == Some(self.local_as);
        // RFC 4271 §5.1.4: a MED learnt from one AS is not told to another.
        if !ours_in_front && !a.as_path.is_empty() {
            a.med = None;
        }
        if self.as_override {
            a.as_path.replace(self.remote_as, self.local_as);
        }
        if self.remove_private_as {
            a.as_path.remove_private(self.remote_as);
        }
        // RFC 4271 §5.1.2 b. An owner that has put our AS in front has done so already, perhaps more than once.
        if !ours_in_front || a.as_path.first() != Some(self.local_as) {
            a.as_path.prepend(self.local_as);
        }
        // RFC 9234 §5, egress 1
        let downwards = matches!(self.role, Some(Role::Provider | Role::Peer | Role::RouteServer));
        if downwards && family.is_unicast() {
            a.only_to_customer.get_or_insert(self.local_as);
        }
    }

    /// The next hop to send: the one given, or ourselves; `None` if neither is one of the family.
    pub(crate) fn next_hop(&self, family: Family, given: Option<IpAddr>) -> Option<NextHop> {
        let address = given.or(self.own_address)?;
        // RFC 2545 §3: only along with an address of ours, which is on the peer's link as well.
        let link_local = self.link_local.filter(|_| family == Family::Ipv6Unicast && Some(address) == self.own_address);
        Some(NextHop { address, link_local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_bgp_wire::{AsPath, Context, Nlri, compose, update};
    use std::net::Ipv4Addr;

    const F: Family = Family::Ipv4Unicast;
    const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn external() -> SendContext {
        SendContext::new(65000, 65101)
    }

    /// What the neighbour reads.
    fn sent(context: SendContext, a: &Attributes) -> Attributes {
        let mut out = vec![];
        let nlri = Nlri::Unicast("10.0.0.0/8".parse().unwrap());
        assert_eq!(compose::reach(&mut out, &context.encode(F, a), ROUTER, &[nlri]), 1);
        let context = Context { four_octet_as: true, ibgp: true, families: [F].into_iter().collect(), ..Context::default() };
        Attributes::clone(&update::decode(context, &out[19..]).unwrap().attributes.unwrap())
    }

    fn path(context: SendContext, asns: &[u32]) -> String {
        sent(context, &Attributes { as_path: AsPath::sequence(asns), ..Attributes::default() }).as_path.to_string()
    }

    #[test]
    fn attributes_leave_as_the_kind_of_session_requires() {
        let a = Attributes {
            as_path: AsPath::sequence([65101]),
            med: Some(5),
            local_pref: Some(200),
            originator_id: Some(ROUTER),
            cluster_list: vec![ROUTER],
            ext_communities: vec![[0, 2, 0, 1, 0, 0, 0, 1], [0x40, 4, 0, 1, 0, 0, 0, 1]],
            ..Attributes::default()
        };
        let outside = sent(external(), &a);
        let ext_communities = vec![a.ext_communities[0]];
        assert_eq!(outside, Attributes { as_path: AsPath::sequence([65000, 65101]), ext_communities, ..Attributes::default() });
        // Prepended already: nothing is added.
        assert_eq!(sent(external(), &outside), outside);
        let inside = SendContext::new(65000, 65000);
        assert_eq!(sent(inside, &a), a);
        assert_eq!(sent(inside, &Attributes::default()).local_pref, Some(100));
    }

    #[test]
    fn paths_of_sites_with_one_as_number_and_of_private_ones() {
        let over = SendContext { as_override: true, ..external() };
        assert_eq!(path(over, &[65101, 3356]), "65000 65000 3356");
        assert_eq!(path(over, &[65000, 65101]), "65000 65000");
        let clean = SendContext { remove_private_as: true, remote_as: 3356, local_as: 1299, ..external() };
        assert_eq!(path(clean, &[65101, 3356, 64512]), "1299 3356");
        // Our own AS is private too, but it is ours.
        assert_eq!(path(SendContext { remove_private_as: true, ..external() }, &[65000, 65102]), "65000");
    }

    #[test]
    fn well_known_communities_are_honoured() {
        let with = |c: u32| Attributes { communities: vec![c], ..Attributes::default() };
        let inside = SendContext::new(65000, 65000);
        for (community, in_, out) in [
            (0xffff_ff01, true, false),
            (0xffff_ff02, false, false),
            (0xffff_ff03, true, false),
            (LLGR_STALE, false, false),
            (7, true, true),
        ] {
            assert_eq!((inside.allows(F, &with(community)), external().allows(F, &with(community))), (in_, out), "{community:#x}");
        }
        assert!(SendContext { long_lived: true, ..inside }.allows(F, &with(LLGR_STALE)));
        // The operator's policy towards the neighbour: it is sent, and says so.
        let prepared = Attributes { as_path: AsPath::sequence([65000]), ..with(0xffff_ff01) };
        assert!(external().allows(F, &prepared));
        assert_eq!(sent(external(), &prepared).communities, [0xffff_ff01]);
    }

    #[test]
    fn routes_from_above_or_beside_go_downwards_only() {
        let plain = Attributes::default();
        let marked = Attributes { only_to_customer: Some(7), ..plain.clone() };
        for (role, may, marks) in [
            (Role::Provider, true, true),
            (Role::RouteServer, true, true),
            (Role::Peer, false, true),
            (Role::Customer, false, false),
            (Role::RouteServerClient, false, false),
        ] {
            let context = SendContext { role: Some(role), ..external() };
            assert!(context.allows(F, &plain));
            assert_eq!(context.allows(F, &marked), may, "{role:?}");
            assert!(context.allows(Family::Vpnv4, &marked));
            assert_eq!(sent(context, &plain).only_to_customer, marks.then_some(65000), "{role:?}");
        }
        assert_eq!(sent(SendContext { role: Some(Role::Provider), ..external() }, &marked).only_to_customer, Some(7));
    }

    #[test]
    fn the_next_hop_is_ours_unless_given() {
        let own: IpAddr = "2001:db8::1".parse().unwrap();
        let link_local = "fe80::1".parse().ok();
        let context = SendContext { own_address: Some(own), link_local, ..external() };
        assert_eq!(context.next_hop(Family::Ipv6Unicast, None), Some(NextHop { address: own, link_local }));
        let other: IpAddr = "2001:db8::2".parse().unwrap();
        assert_eq!(context.next_hop(Family::Ipv6Unicast, Some(other)), Some(other.into()));
        assert_eq!(external().next_hop(F, None), None);
    }
}
