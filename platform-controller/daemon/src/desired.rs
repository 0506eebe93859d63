//! Desired state, kept on disk: documents, and what the controller chose for them (RDs, keys).
//!
//! Records: `document/<Kind>/<name>`, `rd/<attachment>`, `key/<attachment>`, `cvm-key`.

use crate::audit::Audit;
use anyhow::Context;
use edgeplex_intent::{Action, Allocations, Change, Document, Intent, IntentError, Keys, allocate, changes, parse, validate};
use edgeplex_store::{Store, Write, read, read_all};
use edgeplex_types::{AttachmentId, Name};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

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
    audit: Arc<Audit>,
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
        let audit = Arc::new(Audit::open(store.clone())?);
        let current = watch::Sender::new(Arc::new(Desired { intent, rds, keys, cvm_key }));
        Ok(Self { store, current, audit })
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Desired>> {
        self.current.subscribe()
    }

    pub fn current(&self) -> Arc<Desired> {
        self.current.borrow().clone()
    }

    pub fn audit(&self) -> &Arc<Audit> {
        &self.audit
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
        // One change at a time.
        let mut next = self.audit.turn().await;
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
        writes.extend(Audit::of_changes(*next, uid, &changes)?);
        let store = self.store.clone();
        let commit = tokio::task::spawn_blocking(move || store.commit(&writes));
        commit.await.context("store")?.context("storing desired state")?;
        *next += 1;
        self.current.send_replace(Arc::new(new));
        Ok(changes)
    }
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
