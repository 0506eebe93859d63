//! The engines' views in the words of the management socket.

use edgeplex_bgp_wire::Attributes;
use edgeplex_cvm_core::{Core, ForwardingView, LegView, Source as Way, TunnelView};
use edgeplex_cvm_vpn::{LabelState, Learned, Vpn};
use edgeplex_mgmt::show::{
    CvmAttachmentStatus, CvmStatus, FabricLabel, FabricNeighbor, ForwardingRow, LabelRow, LegRow, Route, Source, TunnelRow,
};
use edgeplex_transport::relay::Peer;
use edgeplex_types::{AttachmentId, Community, LargeCommunity};
use std::{collections::BTreeMap, time::Duration};

pub(crate) fn status(vpn: &Vpn<Peer>, uptime: Duration, refused: u64) -> CvmStatus {
    let attachment = |a: edgeplex_cvm_vpn::AttachmentView| {
        // An attachment that waits for its label (quarantine, exhausted range) has no row worth a made-up number.
        Some(CvmAttachmentStatus { attachment: a.id, rd: a.rd, label: a.label?, relay_up: a.session_up, routes: a.customer_routes })
    };
    CvmStatus {
        pid: std::process::id(),
        uptime_s: uptime.as_secs(),
        vpn_routes: vpn.routes(),
        attachments: vpn.show_attachments().into_iter().filter_map(attachment).collect(),
        refused,
    }
}

pub(crate) fn routes(vpn: &Vpn<Peer>, attachment: Option<&AttachmentId>) -> Vec<Route> {
    let row = |r: edgeplex_cvm_vpn::RouteView| Route {
        prefix: r.prefix,
        rd: Some(r.rd),
        source: match r.from {
            Learned::Attachment(ref id) if attachment.is_none_or(|a| a == id) => Source::Bgp,
            _ => Source::Vpn,
        },
        best: r.best,
        multipath: r.multipath,
        backup: r.backup,
        stale: r.stale,
        next_hop: Some(r.next_hop.into()),
        label: Some(r.label),
        tunnel: r.tunnel,
        as_path: r.attributes.as_path.to_string(),
        local_pref: r.attributes.local_pref,
        med: r.attributes.med,
        route_targets: r.attributes.route_targets().collect(),
        communities: communities(&r.attributes),
    };
    vpn.show_routes(attachment).into_iter().map(row).collect()
}

fn communities(attributes: &Attributes) -> Vec<String> {
    let standard = attributes.communities.iter().map(|c| Community(*c).to_string());
    standard.chain(attributes.large_communities.iter().map(|c| LargeCommunity(*c).to_string())).collect()
}

pub(crate) fn labels(vpn: &Vpn<Peer>) -> Vec<LabelRow> {
    let state = |s| match s {
        LabelState::Active => "active",
        LabelState::Quarantine(_) => "quarantine",
    };
    let row = |l: edgeplex_cvm_vpn::LabelView| LabelRow {
        label: l.label,
        attachment: l.attachment,
        rd: l.rd,
        next_hop: l.next_hop,
        state: state(l.state).into(),
    };
    vpn.show_labels().into_iter().map(row).collect()
}

fn legs(legs: Vec<LegView>) -> Vec<LegRow> {
    let row =
        |l: LegView| LegRow { interface: l.hop.interface.to_string(), next_hop: l.hop.address.into(), mac: Some(l.mac), labels: l.labels };
    legs.into_iter().map(row).collect()
}

pub(crate) fn tunnels(core: &Core, vpn: &Vpn<Peer>) -> Vec<TunnelRow> {
    let source = |source| match source {
        Some(Way::Own) => "own",
        Some(Way::Connected) => "connected",
        Some(Way::Static) => "static",
        Some(Way::Ospf) => "ospf",
        None => "-",
    };
    let paths: BTreeMap<_, _> = vpn.show_tunnels().into_iter().map(|t| (t.endpoint, t.paths)).collect();
    let row = |t: TunnelView| TunnelRow {
        id: t.id,
        endpoint: t.endpoint.into(),
        up: !t.legs.is_empty(),
        source: source(t.source).into(),
        cost: t.cost,
        legs: legs(t.legs),
        backup: legs(t.backup),
        paths: paths.get(&t.endpoint).copied().unwrap_or_default(),
    };
    core.show_tunnels().into_iter().map(row).collect()
}

pub(crate) fn forwarding(core: &Core) -> Vec<ForwardingRow> {
    let row = |f: ForwardingView| ForwardingRow { label: f.label, prefix: f.prefix, legs: legs(f.legs) };
    core.show_forwarding().into_iter().map(row).collect()
}

pub(crate) fn fabric_labels(vpn: &Vpn<Peer>) -> Vec<FabricLabel> {
    vpn.labels_in_use().into_iter().map(|(label, id)| FabricLabel { attachment: id.clone(), label }).collect()
}

/// All that legs lead to, and all they might lead to next.
pub(crate) fn fabric_neighbors(core: &Core) -> Vec<FabricNeighbor> {
    core.neighbors().iter().map(|(hop, mac)| FabricNeighbor { mac: *mac, interface: hop.interface.to_string() }).collect()
}
