//! Commands that change the desired state, and `diff`, which says what would change.

use crate::{
    error::Stop,
    get,
    input::{Input, read_files},
    output::{Printer, clean},
    wait::{self, Goal},
};
use edgeplex_api::{Apply, Changed, Client, Delete, Drift, Status};
use edgeplex_intent::{Action, Change, FieldChange};
use edgeplex_types::{AttachmentId, Name};
use serde_json::Value;
use std::{path::PathBuf, process::ExitCode};

pub(crate) async fn apply(client: &Client, out: Printer, input: &Input, dry_run: bool, wait: Option<u32>) -> Result<(), Stop> {
    let Some(seconds) = wait else {
        return send(client, out, input, dry_run).await.map(drop);
    };
    let before: Status = client.get("/v1/status").await?;
    let changed = send(client, out, input, dry_run).await?;
    wait::until(client, seconds, &Goal::ready(concerned(input, &before), seen_before(&before, &changed))).await
}

/// The attachments of the customers in `input`; a change of the platform concerns those of all others too.
fn concerned(input: &Input, before: &Status) -> Vec<AttachmentId> {
    let mut out = input.attachments();
    if input.has_platform() {
        let others = before.attachments.iter().map(|a| &a.attachment).filter(|id| !input.has_customer(&id.customer));
        out.extend(others.cloned());
    }
    out
}

async fn send(client: &Client, out: Printer, input: &Input, dry_run: bool) -> Result<Changed, Stop> {
    let changed: Changed = client.post("/v1/apply", &Apply { text: input.text.clone(), dry_run }).await?;
    out.print(&changed, changes_text)?;
    Ok(changed)
}

/// The number of passes that must be exceeded before the reconciler can know of the change.
fn seen_before(before: &Status, changed: &Changed) -> Option<u64> {
    (!changed.changes.is_empty()).then_some(before.reconciler.passes)
}

pub(crate) async fn create(
    client: &Client,
    out: Printer,
    name: &Name,
    input: &Input,
    dry_run: bool,
    wait: Option<u32>,
) -> Result<(), Stop> {
    if get::documents(client).await?.iter().any(|d| get::is_customer(d, name)) {
        return Err(Stop::Refused(format!("customer {name} is already there; change it by `apply`")));
    }
    apply(client, out, input, dry_run, wait).await
}

pub(crate) async fn delete(client: &Client, out: Printer, customers: Vec<Name>, wait: u32) -> Result<(), Stop> {
    let before: Status = client.get("/v1/status").await?;
    let theirs = before.attachments.iter().filter(|a| customers.contains(&a.attachment.customer));
    let vms = theirs.map(|a| a.vm.clone()).collect();
    let changed: Changed = client.post("/v1/delete", &Delete { customers: customers.clone(), dry_run: false }).await?;
    out.print(&changed, changes_text)?;
    if wait == 0 {
        return Ok(());
    }
    wait::until(client, wait, &Goal::gone(customers, vms, seen_before(&before, &changed))).await
}

pub(crate) async fn diff(client: &Client, out: Printer, files: &[PathBuf]) -> Result<ExitCode, Stop> {
    let same = if files.is_empty() {
        let drift: Drift = client.get("/v1/drift").await?;
        out.print(&drift, drift_text)?;
        drift.steps.is_empty()
    } else {
        send(client, out, &read_files(files)?, true).await?.changes.is_empty()
    };
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn drift_text(drift: &Drift) -> String {
    if drift.steps.is_empty() {
        return "nothing to do: all is as desired".into();
    }
    clean(&drift.steps.join("\n"))
}

fn changes_text(changed: &Changed) -> String {
    if changed.changes.is_empty() {
        return "nothing changes".into();
    }
    let mut lines: Vec<String> = changed.changes.iter().flat_map(change_lines).collect();
    if changed.dry_run {
        lines.push("(dry run: nothing was changed)".into());
    }
    clean(&lines.join("\n"))
}

/// One line for the document, one for each field.
fn change_lines(change: &Change) -> Vec<String> {
    let fields = change.fields.iter().map(|f| format!("  {}", field_text(f)));
    std::iter::once(format!("{} {} {}", action(change.action), change.kind, change.name)).chain(fields).collect()
}

pub(crate) fn action(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Delete => "delete",
    }
}

pub(crate) fn field_text(f: &FieldChange) -> String {
    let shown = |v: &Value| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned);
    match (&f.old, &f.new) {
        (Some(old), Some(new)) => format!("{}: {} -> {}", f.field, shown(old), shown(new)),
        (None, Some(new)) => format!("{}: set to {}", f.field, shown(new)),
        (Some(old), None) => format!("{}: no longer {}", f.field, shown(old)),
        (None, None) => f.field.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_platform_concerns_the_others_as_they_are() {
        let platform =
            "apiVersion: edgeplex/v1\nkind: Platform\nmetadata: {name: denver}\nspec: {asn: 1, loopback: 10.255.0.1, core: [], access: []}";
        let acme = "apiVersion: edgeplex/v1\nkind: Customer\nmetadata: {name: acme}\nspec: {vpn: {}, attachments: []}";
        let input = |text: &str| Input { text: text.into(), documents: edgeplex_intent::parse(text).unwrap() };
        let mut before = crate::wait::tests::status(true, true, 1);
        let mut other = before.attachments[0].clone();
        other.attachment = "beta/d1".parse().unwrap();
        before.attachments.push(other);
        assert_eq!(concerned(&input(acme), &before), []);
        // acme/d1 goes away with the same input: nobody will ever find it ready.
        let both = input(&format!("{platform}\n---\n{acme}"));
        assert_eq!(concerned(&both, &before), ["beta/d1".parse().unwrap()]);
    }

    #[test]
    fn changes_read_field_by_field() {
        let field = |old: Option<Value>, new: Option<Value>| FieldChange { field: "spec.x".into(), old, new };
        let fields = vec![field(Some(1.into()), Some(2.into())), field(None, Some("a".into())), field(Some("b".into()), None)];
        let change = Change { action: Action::Update, kind: "Customer".into(), name: "acme".into(), fields };
        let changed = Changed { dry_run: true, changes: vec![change] };
        let text = "update Customer acme\n  spec.x: 1 -> 2\n  spec.x: set to a\n  spec.x: no longer b\n(dry run: nothing was changed)";
        assert_eq!(changes_text(&changed), text);
        assert_eq!(changes_text(&Changed { dry_run: false, changes: vec![] }), "nothing changes");
    }
}
