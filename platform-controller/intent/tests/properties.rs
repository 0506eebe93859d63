//! What holds for every plan and every document.

#![allow(clippy::unwrap_used)]

use edgeplex_intent::*;
use proptest::{collection, option, prelude::*, sample};
use std::collections::{BTreeMap, BTreeSet};

const IDS: [&str; 4] = ["cvm", "pvm-a-1", "pvm-a-2", "pvm-b-1"];

/// Ports of its vNICs, and those of the host that it needs.
fn ports(id: &str) -> BTreeSet<String> {
    [format!("{id}-cust"), format!("{id}-core"), if id == "cvm" { "eth1" } else { "eth2" }.into()].into()
}

fn version() -> impl Strategy<Value = String> {
    sample::select(vec!["one".to_owned(), "two".to_owned()])
}

fn desired() -> impl Strategy<Value = Desired> {
    let vm = |id: &'static str| {
        (version(), version())
            .prop_map(move |(spec, config)| (id.to_owned(), DesiredVm { is_cvm: id == "cvm", spec, config, ports: ports(id) }))
    };
    sample::subsequence(IDS.to_vec(), 0..=4)
        .prop_flat_map(move |ids| ids.into_iter().map(vm).collect::<Vec<_>>())
        .prop_map(|vms| Desired { vms: vms.into_iter().collect() })
}

fn observed() -> impl Strategy<Value = Observed> {
    let vm = |id: &'static str| {
        let state = sample::select(vec![VmState::Alive, VmState::Dead]);
        (state, version(), option::of(version())).prop_map(move |(state, spec, config)| {
            let ports = ports(id).into_iter().filter(|p| !p.starts_with("eth")).collect();
            (id.to_owned(), ObservedVm { state, spec, config, ports })
        })
    };
    let vms = sample::subsequence(IDS.to_vec(), 0..=4).prop_flat_map(move |ids| ids.into_iter().map(vm).collect::<Vec<_>>());
    let all: Vec<String> = IDS.iter().flat_map(|id| ports(id)).collect();
    let count = all.len();
    (vms, sample::subsequence(all, 0..=count), 0..3usize).prop_map(|(vms, ports, rules)| Observed {
        vms: vms.into_iter().collect::<BTreeMap<_, _>>(),
        ports: ports.into_iter().collect(),
        rules,
    })
}

/// The world after a step; what cannot be done in it fails.
fn carry_out(step: &Step, desired: &Desired, world: &mut Observed) {
    match step {
        Step::Remove { vm, .. } => {
            let vm = world.vms.remove(vm).unwrap();
            world.ports.retain(|p| !vm.ports.contains(p));
        }
        Step::Configure { vm } => {
            let seen = world.vms.get_mut(vm).unwrap();
            assert_eq!(seen.state, VmState::Alive, "the dead cannot be configured");
            seen.config = Some(desired.vms[vm].config.clone());
        }
        Step::Start { vm } => {
            let want = &desired.vms[vm];
            let nics = want.ports.iter().filter(|p| !p.starts_with("eth")).cloned().collect();
            let new = ObservedVm { state: VmState::Alive, spec: want.spec.clone(), config: Some(want.config.clone()), ports: nics };
            assert!(world.vms.insert(vm.clone(), new).is_none(), "{vm} is there already");
        }
        Step::Connect { vm, ports } => {
            assert!(world.vms.contains_key(vm), "{vm} has no vNIC to connect");
            world.ports.extend(ports.iter().cloned());
        }
        Step::Rules { .. } => world.rules = 0,
    }
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(desired in desired(), observed in observed()) {
        let mut world = observed;
        for step in plan(&desired, &world) {
            carry_out(&step, &desired, &mut world);
        }
        prop_assert_eq!(plan(&desired, &world), vec![]);
        prop_assert!(world.vms.keys().eq(desired.vms.keys()));
        prop_assert!(desired.vms.values().all(|vm| vm.ports.is_subset(&world.ports)));
    }

    #[test]
    fn what_goes_goes_first_and_the_cvm_knows_before_a_pvm_starts(desired in desired(), observed in observed()) {
        let rank = |s: &Step| match s {
            Step::Remove { .. } => 0,
            Step::Configure { vm } | Step::Start { vm } if vm == "cvm" => 1,
            Step::Configure { .. } => 2,
            Step::Start { .. } => 3,
            Step::Connect { .. } => 4,
            Step::Rules { .. } => 5,
        };
        let ranks: Vec<_> = plan(&desired, &observed).iter().map(rank).collect();
        prop_assert!(ranks.is_sorted(), "{ranks:?}");
    }

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

fn name() -> impl Strategy<Value = edgeplex_types::Name> {
    "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4}){0,2}".prop_map(|s| s.parse().unwrap())
}

fn targets() -> impl Strategy<Value = Vec<edgeplex_types::RouteTarget>> {
    collection::vec("(65000:[1-9][0-9]{0,8}|10\\.0\\.0\\.1:[1-9][0-9]{0,3}|4200000000:[1-9])", 0..4)
        .prop_map(|v| v.iter().map(|s| s.parse().unwrap()).collect())
}

/// Up to 80 bytes of anything printable, and words that YAML would take for something else.
fn password() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{1,20}",
        sample::select(vec!["null", "~", "yes", "1e3", "0x10", "12:30", " x ", "- a", "#", "'"]).prop_map(str::to_owned)
    ]
}

fn bgp() -> impl Strategy<Value = Bgp> {
    (1..23456u32, option::of(1..=u32::MAX), option::of(password()), option::of(3..=u16::MAX)).prop_map(
        |(remote_as, max_prefix, password, hold_time)| Bgp { neighbor: [10, 1, 2, 2].into(), remote_as, max_prefix, password, hold_time },
    )
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let fixed = (option::of(1..=4094u16), 576..=9216u16, option::of(16..=1_048_575u32), option::of(1..=u16::MAX));
    (name(), fixed, option::of(bgp()), collection::vec(0..=255u8, 0..3)).prop_map(|(name, (vlan, mtu, label, rd), bgp, routes)| {
        Attachment {
            name,
            port: "eth2.7-x_y".into(),
            vlan: vlan.map(|v| v.try_into().unwrap()),
            address: "10.1.2.1/24".parse().unwrap(),
            mtu,
            rd: rd.map(|n| format!("10.255.0.1:{n}").parse().unwrap()),
            label: label.map(|l| l.try_into().unwrap()),
            bgp,
            static_routes: routes
                .into_iter()
                .map(|n| StaticRoute { prefix: format!("10.{n}.0.0/16").parse().unwrap(), via: [10, 1, 2, 3].into() })
                .collect(),
        }
    })
}

fn document() -> impl Strategy<Value = Document> {
    let customer = (name(), targets(), targets(), collection::vec(attachment(), 0..3));
    let customer = customer.prop_map(|(name, import, export, attachments)| Customer { name, vpn: Vpn { import, export }, attachments });
    let platform =
        (name(), 1..23456u32, 576..=9216u16, option::of(password()), 0..=86_400u32).prop_map(|(name, asn, mtu, password, quarantine)| {
            let range = edgeplex_types::LabelRange::new(16.try_into().unwrap(), 4000.try_into().unwrap()).unwrap();
            Platform {
                name,
                asn,
                loopback: [10, 255, 0, 1].into(),
                core: vec![Core { port: "eth1".into(), address: "10.0.0.1/24".parse().unwrap(), mtu }],
                core_routes: vec![CoreRoute { prefix: "10.255.0.9/32".parse().unwrap(), via: [10, 0, 0, 9].into() }],
                route_reflectors: vec![Reflector { address: [10, 255, 0, 9].into(), password }],
                access: vec!["eth2".into(), "1e3".into()],
                labels: Labels { range, quarantine },
            }
        });
    prop_oneof![customer.prop_map(Document::Customer), platform.prop_map(Document::Platform)]
}
