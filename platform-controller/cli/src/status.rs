//! Health of the platform, and its history.

use crate::{
    change::{action, field_text},
    error::Stop,
    output::{Printer, clean, duration, or_none, table, time},
};
use edgeplex_api::{AttachmentStatus, AuditEntry, Client, Status, Vm};
use edgeplex_intent::Change;

pub(crate) async fn status(client: &Client, out: Printer) -> Result<(), Stop> {
    out.print(&client.get::<Status>("/v1/status").await?, status_text)
}

pub(crate) async fn audit(client: &Client, out: Printer) -> Result<(), Stop> {
    out.print(&client.get::<Vec<AuditEntry>>("/v1/audit").await?, |entries| audit_text(entries))
}

fn status_text(s: &Status) -> String {
    let r = &s.reconciler;
    let settled = if r.settled { "settled" } else { "working" };
    let cvm = s.cvm.as_ref().map_or_else(
        || "does not answer".into(),
        |c| format!("up {}, {} VPN routes, {} relay connections refused", duration(c.uptime_s), c.vpn_routes, c.refused),
    );
    let lsr = s.lsr.as_ref().map_or_else(String::new, |l| {
        let told = if l.programmed { "" } else { ", not programmed yet" };
        format!("LSR:          up {}, {} labels, {} tunnels{told}\n", duration(l.uptime_s), l.labels, l.tunnels)
    });
    let ready = s.attachments.iter().filter(|a| a.ready).count();
    let mut out = format!(
        "Platform:     {}\nController:   version {}, up {}\nReconciler:   {settled}, {} passes, {} changes\nCVM:          {cvm}\n{lsr}Attachments:  {ready} of {} ready\n",
        s.platform.as_ref().map_or("(none yet: apply one)", |n| n.as_str()),
        s.version,
        duration(s.uptime_s),
        r.passes,
        r.changes,
        s.attachments.len(),
    );
    out.extend(r.problems.iter().map(|p| format!("Problem:      {p}\n")));
    let mut out = clean(&out);
    if !s.vms.is_empty() {
        out += &format!("\n{}", table(&["VM", "STATE", "PID", "TEMPLATE", "STARTED-IN"], s.vms.iter().map(vm_cells)));
    }
    if !s.attachments.is_empty() {
        out += &format!("\n{}", attachments_text(&s.attachments));
    }
    out
}

fn vm_cells(vm: &Vm) -> Vec<String> {
    let total: u64 = vm.timings.iter().map(|t| t.microseconds).fold(0, u64::saturating_add);
    let took = if vm.timings.is_empty() { String::new() } else { format!("{}.{} ms", total / 1000, total / 100 % 10) };
    let template = vm.template.chars().take(12).collect();
    vec![vm.id.clone(), vm.state.clone(), vm.pid.to_string(), template, took]
}

pub(crate) fn attachments_text(rows: &[AttachmentStatus]) -> String {
    let up = |up: bool| if up { "up" } else { "down" }.to_owned();
    let cells = |a: &AttachmentStatus| {
        vec![
            a.attachment.to_string(),
            if a.ready { "yes" } else { "no" }.into(),
            a.port.clone(),
            or_none(a.vlan),
            or_none(a.rd),
            or_none(a.label),
            a.bgp.clone(),
            up(a.relay_up),
            up(a.fib_up),
            a.customer_routes.to_string(),
            a.vpn_routes.to_string(),
        ]
    };
    let header = ["ATTACHMENT", "READY", "PORT", "VLAN", "RD", "LABEL", "BGP", "RELAY", "FIB", "CE-ROUTES", "VPN-ROUTES"];
    table(&header, rows.iter().map(cells))
}

fn audit_text(entries: &[AuditEntry]) -> String {
    let rows = entries.iter().flat_map(|e| {
        let begin = [time(e.at_ms), e.uid.to_string()];
        let change = |c: &Change| {
            let fields: Vec<String> = c.fields.iter().map(field_text).collect();
            [action(c.action).to_owned(), format!("{} {}", c.kind, c.name), "done".into(), fields.join("; ")]
        };
        let (verb, rest) = e.order.split_once(' ').unwrap_or((&e.order, ""));
        let moves = e.moves.iter().map(|m| format!("{}: move {}", m.unit, m.id)).collect::<Vec<_>>().join("; ");
        let order = (!e.order.is_empty()).then(|| [verb.to_owned(), rest.to_owned(), e.outcome.clone(), moves]);
        e.changes.iter().map(change).chain(order).map(|cells| [&begin[..], &cells].concat()).collect::<Vec<_>>()
    });
    table(&["TIME", "UID", "ACTION", "WHAT", "OUTCOME", "DETAILS"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_api::{Reconciler, Timing};

    #[test]
    fn status_says_what_is_wrong() {
        let timings = vec![Timing { stage: "clone".into(), microseconds: 1250 }, Timing { stage: "boot".into(), microseconds: 900 }];
        let vm = Vm { id: "cvm".into(), state: "running".into(), pid: 7, template: "0123456789abcdef".into(), timings };
        let s = Status {
            platform: Some("denver".parse().unwrap()),
            version: "0.1.0".into(),
            uptime_s: 61,
            reconciler: Reconciler { passes: 3, changes: 2, settled: false, problems: vec!["port eth2 is missing\u{1b}".into()] },
            vms: vec![vm],
            attachments: vec![],
            cvm: None,
            lsr: Some(edgeplex_api::LsrStatus { uptime_s: 9, programmed: false, labels: 3, tunnels: 2 }),
        };
        let text = status_text(&s);
        for part in [
            "Platform:     denver\n",
            "up 1m1s",
            "working, 3 passes, 2 changes",
            "CVM:          does not answer",
            "LSR:          up 9s, 3 labels, 2 tunnels, not programmed yet\n",
            "0 of 0 ready",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("Problem:      port eth2 is missing\u{fffd}\n"));
        assert!(text.ends_with("cvm   running   7     0123456789ab   2.1 ms\n"), "{text}");
    }
}
