//! What holds for every document: written and read again it is the same, shown it has no password.

#![allow(clippy::unwrap_used)]

mod common;

use edgeplex_intent::*;
use edgeplex_mgmt::config::{BgpRole, LabelMode, OspfNetwork, PolicyAction, PrefixRange, Role};
use edgeplex_types::{LabelRange, Name, RouteTarget};
use proptest::{collection, option, prelude::*, sample};
use std::{net::IpAddr, str::FromStr};

proptest! {
    #[test]
    fn a_document_written_is_the_document_read(document in document()) {
        let value = document.to_value();
        prop_assert_eq!(&parse(&value.to_string()).unwrap(), &vec![document.clone()]);
        prop_assert_eq!(&parse(&serde_saphyr::to_string(&value).unwrap()).unwrap(), &vec![document]);
    }

    #[test]
    fn no_text_breaks_the_reader(text in "[-a-z0-9:{}\\[\\]'\"&*!|>% \n\t#,?]{0,200}") {
        let _ = parse(&text);
    }
}

/// The long documents use every field; one that is forgotten in reading, writing or comparing shows here.
#[test]
fn documents_that_use_every_field_come_back_whole_and_hide_their_passwords() {
    for text in [common::FULL_PLATFORM, common::FULL_ACME] {
        let document = parse(text).unwrap().remove(0);
        let mut given: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        let written = document.to_value();
        // What is written as the operator wrote it, or with a default in place.
        let spec = given["spec"].take();
        covers(&written["spec"], &spec, "spec");
        let shown = format!("{}{document:?}", document.to_shown());
        for password in ["exactly-16-bytes", "for-ldp", "for-bgp", "for-acme"] {
            assert!(!shown.contains(password), "{password}: {shown}");
        }
    }
}

/// All that is in `given` is in `written`, with the same value; what is false or nothing may be left out.
fn covers(written: &serde_json::Value, given: &serde_json::Value, path: &str) {
    use serde_json::Value;
    match given {
        Value::Object(o) => o.iter().for_each(|(k, v)| match written.get(k) {
            None => {
                let usual = [Value::Bool(false), "pe".into(), "per-attachment".into()];
                assert!(usual.contains(v), "{path}.{k} is lost");
            }
            Some(w) => covers(w, v, &format!("{path}.{k}")),
        }),
        Value::Array(a) => a.iter().enumerate().for_each(|(i, v)| covers(&written[i], v, &format!("{path}[{i}]"))),
        leaf => assert_eq!(written, leaf, "{path}"),
    }
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4}){0,2}".prop_map(|s| s.parse().unwrap())
}

/// Some different ones of these.
fn some<T: FromStr<Err: std::fmt::Debug> + Clone + std::fmt::Debug + 'static>(texts: &[&str]) -> impl Strategy<Value = Vec<T>> + use<T> {
    let all: Vec<T> = texts.iter().map(|t| t.parse().unwrap()).collect();
    let count = all.len();
    sample::subsequence(all, 0..=count)
}

fn targets() -> impl Strategy<Value = Vec<RouteTarget>> {
    some(&["65000:1", "65000:999999999", "10.0.0.1:7", "4200000000:9"])
}

/// Up to 80 bytes of anything printable, and words that YAML would take for something else.
fn password(longest: usize) -> impl Strategy<Value = String> {
    let words = sample::select(vec!["null", "~", "yes", "1e3", "0x10", "12:30", " x ", "- a", "#", "'"]);
    prop_oneof!["\\PC{1,20}", words.prop_map(str::to_owned)].prop_filter("too long", move |p| p.len() <= longest)
}

fn bfd() -> impl Strategy<Value = Bfd> {
    (10..=60_000u32, 2..=255u8).prop_map(|(interval, multiplier)| Bfd { interval, multiplier })
}

fn range() -> impl Strategy<Value = LabelRange> {
    (16..500_000u32, 0..500_000u32).prop_map(|(a, n)| LabelRange::new(a.try_into().unwrap(), (a + n).try_into().unwrap()).unwrap())
}

fn max_prefix() -> impl Strategy<Value = MaxPrefix> {
    prop_oneof![
        (1..=u32::MAX).prop_map(MaxPrefix::from),
        (1..=u32::MAX, 1..=100u8, any::<bool>(), 1..=86_400u32).prop_map(|(limit, warn, warning_only, restart)| MaxPrefix {
            limit,
            warn,
            warning_only,
            restart
        })
    ]
}

fn prefix_range() -> impl Strategy<Value = PrefixRange> {
    let v4 = (0..=32u8, 0..=32u8).prop_map(|(a, b)| ("10.0.0.0/8", a.max(8), b.max(8)));
    let v6 = (0..=128u8, 0..=128u8).prop_map(|(a, b)| ("2001:db8::/32", a.max(32), b.max(32)));
    (prop_oneof![v4, v6], any::<bool>(), any::<bool>()).prop_map(|((prefix, a, b), ge, le)| PrefixRange {
        prefix: prefix.parse().unwrap(),
        ge: ge.then_some(a.min(b)),
        le: le.then_some(a.max(b)),
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let as_path = option::of(sample::select(vec!["^65101( |$)".to_owned(), "\\d+".to_owned(), "\\{".to_owned(), "^$".to_owned()]));
    let matches = (collection::vec(prefix_range(), 0..3), some(&["65000:1", "no-export"]), some(&["65000:1:2"]), as_path)
        .prop_map(|(prefixes, communities, large_communities, as_path)| RuleMatch { prefixes, communities, large_communities, as_path });
    let numbers = (option::of(any::<u32>()), option::of(any::<u32>()), 0..=16u8);
    let set = (numbers, some(&["65000:7", "blackhole"]), some(&["1:1"]), some(&["65000:3:4"])).prop_map(|(n, add, remove, large)| {
        let (local_pref, med, prepend) = n;
        RuleSet { local_pref, med, add_communities: add, remove_communities: remove, add_large_communities: large, prepend }
    });
    (matches, set, any::<bool>()).prop_map(|(matches, set, accept)| match accept {
        true => Rule { matches, set, action: PolicyAction::Accept },
        false => Rule { matches, set: RuleSet::default(), action: PolicyAction::Reject },
    })
}

fn bgp() -> impl Strategy<Value = Bgp> {
    let neighbor = sample::select(vec!["10.1.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()]);
    let session = (neighbor, 1..23456u32, option::of(max_prefix()), option::of(password(80)), option::of(3..=u16::MAX));
    let roles = vec![BgpRole::Provider, BgpRole::Customer, BgpRole::Peer, BgpRole::RouteServer, BgpRole::RouteServerClient];
    let more = (option::of("[a-z ]{1,30}[a-z]"), option::of(1..=254u8), option::of(sample::select(roles)), option::of(bfd()), 0..=10u8);
    let rules = || collection::vec(rule(), 0..3);
    (session, more, any::<[bool; 4]>(), rules(), rules()).prop_map(|(s, m, flags, import, export)| {
        let (neighbor, remote_as, max_prefix, password, hold_time) = s;
        let (shutdown, ttl_security, role, bfd, allow_as_in) = m;
        let [as_override, remove_private_as, default_originate, site] = flags;
        let site_of_origin = site.then(|| "65000:77".parse().unwrap());
        Bgp {
            neighbor,
            remote_as,
            max_prefix,
            password,
            hold_time,
            shutdown,
            ttl_security,
            role,
            bfd,
            as_override,
            allow_as_in,
            remove_private_as,
            site_of_origin,
            default_originate,
            import,
            export,
        }
    })
}

fn static_route() -> impl Strategy<Value = StaticRoute> {
    let v4 = any::<u8>().prop_map(|n| (format!("10.{n}.0.0/16"), "10.1.2.3"));
    let v6 = any::<u8>().prop_map(|n| (format!("2001:db8:{n:x}::/48"), "2001:db8::3"));
    (prop_oneof![v4, v6], option::of(bfd())).prop_map(|((prefix, via), bfd)| StaticRoute {
        prefix: prefix.parse().unwrap(),
        via: via.parse().unwrap(),
        bfd,
    })
}

fn label_mode() -> impl Strategy<Value = Option<LabelMode>> {
    option::of(sample::select(vec![LabelMode::PerAttachment, LabelMode::PerCe]))
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let fixed = (option::of(1..=4094u16), 576..=9216u16, option::of(16..=1_048_575u32), option::of(1..=u16::MAX), 1..=3u8);
    let vpn = (option::of(targets()), option::of(targets())).prop_map(|(import, export)| VpnOverride { import, export });
    let choices = (vpn, label_mode(), option::of(1..=16u8));
    let lists = (collection::vec(bgp(), 0..3), collection::vec(static_route(), 0..3));
    (name(), fixed, choices, lists).prop_map(|(name, fixed, choices, (bgp, static_routes))| {
        let (vlan, mtu, label, rd, families) = fixed;
        let (vpn, label_mode, max_paths) = choices;
        Attachment {
            name,
            port: "eth2.7-x_y".into(),
            vlan: vlan.map(|v| v.try_into().unwrap()),
            address: (families & 1 != 0).then(|| "10.1.2.1/24".parse().unwrap()),
            address6: (families & 2 != 0).then(|| "2001:db8::1/64".parse().unwrap()),
            mtu,
            rd: rd.map(|n| format!("10.255.0.1:{n}").parse().unwrap()),
            label: label.map(|l| l.try_into().unwrap()),
            vpn,
            label_mode,
            max_paths,
            bgp,
            static_routes,
        }
    })
}

fn leak() -> impl Strategy<Value = Leak> {
    let from =
        prop_oneof![name().prop_map(LeakFrom::From), targets().prop_filter("none", |t| !t.is_empty()).prop_map(LeakFrom::RouteTargets)];
    let prefixes = some(&["0.0.0.0/0", "::/0", "10.0.0.0/8"]).prop_filter("none", |p| !p.is_empty());
    (from, prefixes).prop_map(|(from, prefixes)| Leak { from, prefixes })
}

fn protection() -> impl Strategy<Value = Protection> {
    sample::select(vec![Protection::Restart, Protection::Standby])
}

fn host() -> impl Strategy<Value = Host> {
    let address = (1..=223u8, any::<u16>(), 1..=u16::MAX, any::<bool>()).prop_map(|(a, b, port, six)| {
        let ip = if six { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(a), b]) } else { [a, 0, 2, 7].into() };
        (ip, port).into()
    });
    (name(), address, "[0-9a-f]{64}", 150..=60_000u16).prop_map(|(name, address, key, silence)| Host {
        name,
        address,
        port: "link-1.x".into(),
        key,
        silence,
    })
}

fn customer() -> impl Strategy<Value = Customer> {
    let vpn = (targets(), targets(), collection::vec(leak(), 0..3), option::of(1..=16u8), label_mode());
    let vpn = vpn.prop_map(|(import, export, leak, max_paths, label_mode)| Vpn { import, export, leak, max_paths, label_mode });
    let all = (name(), vpn, option::of(protection()), collection::vec(attachment(), 0..3));
    all.prop_map(|(name, vpn, protection, attachments)| Customer { name, vpn, protection, attachments })
}

fn authentication() -> impl Strategy<Value = Authentication> {
    use AuthenticationType::{HmacSha256, HmacSha384, HmacSha512, Md5, Simple};
    let kinds = sample::select(vec![HmacSha256, HmacSha384, HmacSha512]);
    prop_oneof![
        password(8).prop_map(|password| Authentication { kind: Simple, key_id: 0, password }),
        (1..=255u8, password(16)).prop_map(|(key_id, password)| Authentication { kind: Md5, key_id, password }),
        (kinds, 1..=255u8, password(80)).prop_map(|(kind, key_id, password)| Authentication { kind, key_id, password }),
    ]
}

fn ospf_port() -> impl Strategy<Value = OspfPort> {
    let network = sample::select(vec![OspfNetwork::PointToPoint, OspfNetwork::Broadcast]);
    let times = (1..=60_000u16, 1..=5000u32, 1..=3600u16);
    (network, 1..=65_535u16, any::<u8>(), times, any::<bool>(), option::of(authentication())).prop_map(
        |(network, cost, priority, (hello, more, retransmit), passive, authentication)| OspfPort {
            network,
            cost,
            priority,
            hello,
            dead: u32::from(hello) + more,
            retransmit,
            passive,
            authentication,
        },
    )
}

fn core() -> impl Strategy<Value = Core> {
    (576..=9216u16, option::of(ospf_port()), any::<bool>(), option::of(bfd())).prop_map(|(mtu, ospf, ldp, bfd)| Core {
        port: "eth1".into(),
        address: "10.0.0.1/24".parse().unwrap(),
        mtu,
        ospf,
        ldp,
        bfd,
    })
}

fn ldp() -> impl Strategy<Value = Ldp> {
    let times = (1..=20_000u16, 1..=40_000u16, 3..=u16::MAX, 0..=3600u16);
    let passwords = collection::vec(password(80).prop_map(|password| LdpPassword { neighbor: [10, 255, 0, 3].into(), password }), 0..2);
    (range(), times, any::<[bool; 2]>(), passwords).prop_map(|(labels, (hello, more, keepalive, reconnect), flags, passwords)| {
        let [explicit_null, igp_sync] = flags;
        Ldp { labels, hello, hold: hello + more, keepalive, explicit_null, reconnect, igp_sync, passwords }
    })
}

fn platform() -> impl Strategy<Value = Platform> {
    let ospf = (any::<u32>(), any::<[bool; 2]>(), 0..=1800u16).prop_map(|(area, [stub_router, loop_free_alternates], grace)| Ospf {
        area: area.into(),
        stub_router,
        grace,
        loop_free_alternates,
    });
    let reflector = (option::of(password(80)), option::of(bfd())).prop_map(|(password, bfd)| Reflector {
        address: [10, 255, 0, 9].into(),
        password,
        bfd,
    });
    let labels = (range(), 0..=86_400u32).prop_map(|(range, quarantine)| Labels { range, quarantine });
    let protocols = (option::of(ospf), option::of(ldp()), collection::vec(reflector, 0..2), labels);
    let instances = (collection::vec(host(), 0..3), protection(), any::<bool>());
    let all = (name(), any::<bool>(), 1..23456u32, core(), protocols, instances);
    all.prop_map(|(name, pe, asn, core, (ospf, ldp, route_reflectors, labels), (hosts, protection, standby))| Platform {
        name,
        role: if pe { Role::Pe } else { Role::P },
        asn: pe.then_some(asn),
        loopback: [10, 255, 0, 1].into(),
        core: vec![core],
        core_routes: vec![CoreRoute { prefix: "10.255.0.9/32".parse().unwrap(), via: [10, 0, 0, 9].into() }],
        ospf,
        ldp,
        route_reflectors,
        access: vec!["eth2".into(), "1e3".into()],
        labels,
        hosts,
        protection,
        control_plane: ControlPlane { standby },
    })
}

fn document() -> impl Strategy<Value = Document> {
    prop_oneof![customer().prop_map(Document::Customer), platform().prop_map(Document::Platform)]
}
