//! Desired state, kept on disk: documents, what the controller chose for them (RDs, keys), and who changed what.
//!
//! Records: `document/<Kind>/<name>`, `rd/<attachment>`, `key/<attachment>`, `cvm-key`, `audit/<number>`.

use anyhow::Context;
use edgeplex_api::AuditEntry;
use edgeplex_intent::{Action, Allocations, Change, Document, Intent, IntentError, Keys, allocate, changes, parse, validate};
use edgeplex_store::{Store, Write, read, read_all};
use edgeplex_types::{AttachmentId, Name};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{Mutex, watch};

/// Entries of the audit log that are kept.
const AUDIT_KEPT: u64 = 1000;

#[derive(Debug, Clone)]
pub struct Desired {
    pub intent: Intent,
    pub rds: Allocations,
    pub keys: BTreeMap<AttachmentId, Keys>,
    pub cvm_key: Keys,
}

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Invalid(#[from] IntentError),
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// The one place through which desired state changes; everyone else watches.
#[derive(Debug)]
pub struct Keeper {
    store: Arc<dyn Store>,
    current: watch::Sender<Arc<Desired>>,
    /// Number of the next audit entry. Held while a change is made: one at a time.
    next_audit: Mutex<u64>,
}

fn new_keys() -> anyhow::Result<Keys> {
    let pair = edgeplex_transport::relay::generate_keypair().context("making a CURVE key pair")?;
    Ok(Keys { public: pair.public, secret: pair.secret })
}

impl Keeper {
    /// Reads what is on disk; makes the CVM's key at the first start.
    pub fn open(store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let cvm_key = match read(&*store, "cvm-key")? {
            Some(key) => key,
            None => {
                let key = new_keys()?;
                store.commit(&[Write::put("cvm-key", &key)?])?;
                key
            }
        };
        let documents: BTreeMap<String, Value> = read_all(&*store, "document/")?;
        let mut intent = Intent::default();
        for (key, value) in documents {
            let documents = parse(&value.to_string()).with_context(|| format!("stored document {key}"))?;
            intent = intent.apply(documents).with_context(|| format!("stored document {key}"))?;
        }
        let by_id = |(id, v): (String, _)| -> anyhow::Result<(AttachmentId, _)> { Ok((id.parse()?, v)) };
        let rds = read_all(&*store, "rd/")?.into_iter().map(by_id).collect::<Result<_, _>>()?;
        let by_id = |(id, v): (String, _)| -> anyhow::Result<(AttachmentId, _)> { Ok((id.parse()?, v)) };
        let keys = read_all(&*store, "key/")?.into_iter().map(by_id).collect::<Result<_, _>>()?;
        let audit: BTreeMap<String, AuditEntry> = read_all(&*store, "audit/")?;
        let next = audit.last_key_value().and_then(|(k, _)| k.parse::<u64>().ok()).map_or(0, |n| n + 1);
        let current = watch::Sender::new(Arc::new(Desired { intent, rds, keys, cvm_key }));
        Ok(Self { store, current, next_audit: Mutex::new(next) })
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Desired>> {
        self.current.subscribe()
    }

    pub fn current(&self) -> Arc<Desired> {
        self.current.borrow().clone()
    }

    pub fn audit(&self) -> anyhow::Result<Vec<AuditEntry>> {
        Ok(read_all(&*self.store, "audit/")?.into_values().collect())
    }

    /// Puts documents in place of those of the same name: all of them, or none.
    pub async fn apply(&self, text: &str, dry_run: bool, uid: u32) -> Result<Vec<Change>, ChangeError> {
        let documents = parse(text)?;
        self.change(dry_run, uid, |intent| intent.apply(documents)).await
    }

    pub async fn delete(&self, customers: &[Name], dry_run: bool, uid: u32) -> Result<Vec<Change>, ChangeError> {
        self.change(dry_run, uid, |intent| {
            let mut next = intent.clone();
            for name in customers {
                if next.customers.remove(name).is_none() {
                    let names: Vec<&str> = intent.customers.keys().map(Name::as_str).collect();
                    let right = format!("no such customer; there are: {}", if names.is_empty() { "none".into() } else { names.join(", ") });
                    return Err(IntentError::new(format!("Customer {name}"), "metadata.name", name, right));
                }
            }
            Ok(next)
        })
        .await
    }

    async fn change(
        &self,
        dry_run: bool,
        uid: u32,
        edit: impl FnOnce(&Intent) -> Result<Intent, IntentError>,
    ) -> Result<Vec<Change>, ChangeError> {
        let mut next_audit = self.next_audit.lock().await;
        let old = self.current();
        let intent = edit(&old.intent)?;
        let rds = allocate(&intent, &old.rds)?;
        validate(&intent, &rds)?;
        let changes = changes(&old.intent, &intent);
        if dry_run || changes.is_empty() {
            return Ok(changes);
        }
        let mut keys = BTreeMap::new();
        for (id, _, _) in intent.attachments() {
            let key = old.keys.get(&id).cloned().map_or_else(new_keys, Ok)?;
            keys.insert(id, key);
        }
        let new = Desired { intent, rds, keys, cvm_key: old.cvm_key.clone() };
        let mut writes = difference(&old, &new, &changes).context("writing desired state")?;
        let at_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
        let entry = AuditEntry { at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX), uid, changes: changes.clone() };
        writes.push(Write::put(audit_key(*next_audit), &entry).context("audit")?);
        writes.extend(next_audit.checked_sub(AUDIT_KEPT).map(|n| Write::delete(audit_key(n))));
        let store = self.store.clone();
        let commit = tokio::task::spawn_blocking(move || store.commit(&writes));
        commit.await.context("store")?.context("storing desired state")?;
        *next_audit += 1;
        self.current.send_replace(Arc::new(new));
        Ok(changes)
    }
}

fn audit_key(n: u64) -> String {
    format!("audit/{n:020}")
}

fn document_key(kind: &str, name: &str) -> String {
    format!("document/{kind}/{name}")
}

/// The writes that turn the stored `old` into `new`.
fn difference(old: &Desired, new: &Desired, changes: &[Change]) -> anyhow::Result<Vec<Write>> {
    let mut writes = vec![];
    let documents: BTreeMap<String, Document> =
        new.intent.documents().into_iter().map(|d| (document_key(d.kind(), d.name().as_str()), d)).collect();
    for change in changes {
        let key = document_key(&change.kind, &change.name);
        writes.push(match (change.action, documents.get(&key)) {
            (Action::Delete, _) | (_, None) => Write::delete(key),
            (_, Some(document)) => Write::put(key, &document.to_value())?,
        });
    }
    for (id, rd) in new.rds.iter().filter(|(id, rd)| old.rds.get(id) != Some(rd)) {
        writes.push(Write::put(format!("rd/{id}"), rd)?);
    }
    for (id, key) in new.keys.iter().filter(|(id, key)| old.keys.get(id) != Some(key)) {
        writes.push(Write::put(format!("key/{id}"), key)?);
    }
    writes.extend(old.rds.keys().filter(|id| !new.rds.contains_key(id)).map(|id| Write::delete(format!("rd/{id}"))));
    writes.extend(old.keys.keys().filter(|id| !new.keys.contains_key(id)).map(|id| Write::delete(format!("key/{id}"))));
    Ok(writes)
}
