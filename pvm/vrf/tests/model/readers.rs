//! Those who hear of the RIB. Each refuses a stream out of order.

use edgeplex_ff_fib_api::{FibOp, Target, Tunnel};
use edgeplex_pvm_vrf::CeOp;
use edgeplex_relay::CustomerOp;
use edgeplex_types::{Label, TunnelId};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// FastForward: sweeps by epoch.
#[derive(Debug, Default)]
pub(crate) struct Fib {
    pub(crate) epoch: u64,
    routes: BTreeMap<IpNet, (u64, Target)>,
    tunnels: BTreeMap<TunnelId, (u64, Tunnel)>,
    labels: BTreeMap<Label, (u64, Option<IpAddr>)>,
}

fn uses(target: &Target) -> Vec<TunnelId> {
    match target {
        Target::Vpn { paths, backup } => paths.iter().chain(backup).map(|p| p.tunnel).collect(),
        _ => vec![],
    }
}

impl Fib {
    pub(crate) fn program(&mut self, ops: Vec<FibOp>) {
        for op in ops {
            match op {
                FibOp::Route { prefix, target } => {
                    if let Target::Vpn { paths, .. } = &target {
                        assert!(!paths.is_empty());
                    }
                    for id in uses(&target) {
                        assert!(self.tunnels.get(&id).is_some_and(|(e, _)| *e == self.epoch), "tunnel before first route");
                    }
                    self.routes.insert(prefix, (self.epoch, target));
                }
                FibOp::Withdraw { prefix } => {
                    let (epoch, _) = self.routes.remove(&prefix).expect("withdraw of a route that is there");
                    assert_eq!(epoch, self.epoch, "withdraw of a route told in this session");
                }
                FibOp::Tunnel(t) => {
                    self.tunnels.insert(t.id, (self.epoch, t));
                }
                FibOp::TunnelGone { id } => {
                    let used = self.routes.values().any(|(epoch, t)| *epoch == self.epoch && uses(t).contains(&id));
                    assert!(!used, "tunnel gone after the last route");
                    assert!(self.tunnels.remove(&id).is_some());
                }
                FibOp::OwnLabel { label, next_hop } => {
                    self.labels.insert(label, (self.epoch, next_hop));
                }
                FibOp::OwnLabelGone { label } => {
                    let (epoch, _) = self.labels.remove(&label).expect("a label that is there");
                    assert_eq!(epoch, self.epoch, "a label told in this session");
                }
                FibOp::Interface(i) => assert_eq!(i.addresses.len(), 3, "both families and the link-local address"),
                other => panic!("not for a port VM: {other:?}"),
            }
        }
    }

    pub(crate) fn end(&mut self) {
        let epoch = self.epoch;
        self.routes.retain(|_, (e, _)| *e == epoch);
        self.tunnels.retain(|_, (e, _)| *e == epoch);
        self.labels.retain(|_, (e, _)| *e == epoch);
    }

    pub(crate) fn targets(&self) -> BTreeMap<IpNet, Target> {
        self.routes.iter().map(|(p, (_, t))| (*p, t.clone())).collect()
    }

    pub(crate) fn legs(&self) -> BTreeMap<u32, usize> {
        self.tunnels.iter().map(|(id, (_, t))| (id.0, t.legs.len())).collect()
    }

    pub(crate) fn label_table(&self) -> BTreeMap<u32, Option<IpAddr>> {
        self.labels.iter().map(|(l, (_, next_hop))| (l.get(), *next_hop)).collect()
    }
}

/// The CVM.
#[derive(Debug, Default)]
pub(crate) struct Cvm {
    pub(crate) table: BTreeMap<IpNet, (Option<IpAddr>, Vec<u8>)>,
    told: BTreeSet<IpNet>,
}

impl Cvm {
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Readers {
    pub(crate) fib: Fib,
    pub(crate) relay: Cvm,
    pub(crate) ces: BTreeMap<IpAddr, BTreeMap<IpNet, Vec<u8>>>,
}

impl Readers {
    pub(crate) fn relay(&mut self, ops: Vec<CustomerOp>) {
        for op in ops {
            match op {
                CustomerOp::Route { prefix, next_hop, attributes } => {
                    self.relay.table.insert(prefix, (next_hop, attributes));
                    self.relay.told.insert(prefix);
                }
                CustomerOp::Withdraw { prefix } => {
                    assert!(self.relay.told.remove(&prefix), "withdraw of a route told in this session");
                    self.relay.table.remove(&prefix);
                }
            }
        }
    }

    pub(crate) fn ce(&mut self, ce: IpAddr, ops: Vec<CeOp>) {
        let table = self.ces.entry(ce).or_default();
        for op in ops {
            match op {
                CeOp::Advertise { prefix, attributes } => {
                    assert_eq!(prefix.addr().is_ipv4(), ce.is_ipv4(), "a session carries the family of its addresses");
                    table.insert(prefix, attributes.to_bytes());
                }
                CeOp::Withdraw { prefix } => assert!(table.remove(&prefix).is_some()),
            }
        }
    }
}
