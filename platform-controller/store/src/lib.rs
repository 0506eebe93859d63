//! Desired state on disk: named records that survive a crash at any moment.
//!
//! A record is a version byte and a JSON value. [`Store`] is the trait; [`Embedded`] keeps it in one file (redb, durable
//! commits); [`Memory`] serves tests. All writes of one [`Store::commit`] happen or none does.

use redb::{Database, ReadableDatabase, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Version of records written today.
pub const VERSION: u8 = 1;
/// Longest record, bytes.
pub const MAX_RECORD: usize = 1 << 20;
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("state store: {0}")]
    Engine(Box<dyn std::error::Error + Send + Sync>),
    #[error("record `{key}` is of version {got}: this program reads up to {VERSION}")]
    Version { key: String, got: u8 },
    #[error("record `{key}`: {reason}")]
    Record { key: String, reason: String },
}

fn engine(e: impl Into<redb::Error>) -> StoreError {
    StoreError::Engine(Box::new(e.into()))
}

/// One write; `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub key: String,
    pub record: Option<Vec<u8>>,
}

impl Write {
    pub fn put<T: Serialize>(key: impl Into<String>, value: &T) -> Result<Self, StoreError> {
        let key = key.into();
        let mut record = vec![VERSION];
        serde_json::to_writer(&mut record, value).map_err(|e| StoreError::Record { key: key.clone(), reason: e.to_string() })?;
        if record.len() > MAX_RECORD {
            return Err(StoreError::Record { key, reason: format!("{} bytes: at most {MAX_RECORD} are allowed", record.len()) });
        }
        Ok(Self { key, record: Some(record) })
    }

    pub fn delete(key: impl Into<String>) -> Self {
        Self { key: key.into(), record: None }
    }
}

pub trait Store: Send + Sync + std::fmt::Debug {
    /// Raw records whose key starts with `prefix`, in key order.
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;
    /// All of `writes`, durably, or none.
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError>;
}

/// The records below `prefix`, by the rest of their key.
pub fn read_all<T: DeserializeOwned>(store: &dyn Store, prefix: &str) -> Result<BTreeMap<String, T>, StoreError> {
    let decode = |(key, bytes): (String, Vec<u8>)| {
        let rest = key[prefix.len()..].to_owned();
        Ok((rest, decode(key, &bytes)?))
    };
    store.scan(prefix)?.into_iter().map(decode).collect()
}

/// One record, if it is there.
pub fn read<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<Option<T>, StoreError> {
    store.scan(key)?.into_iter().find(|(k, _)| k == key).map(|(k, bytes)| decode(k, &bytes)).transpose()
}

fn decode<T: DeserializeOwned>(key: String, bytes: &[u8]) -> Result<T, StoreError> {
    let record = |reason: String| StoreError::Record { key: key.clone(), reason };
    let (&version, body) = bytes.split_first().ok_or_else(|| record("is empty".into()))?;
    if version == 0 || version > VERSION {
        return Err(StoreError::Version { key, got: version });
    }
    serde_json::from_slice(body).map_err(|e| record(e.to_string()))
}

/// One file on this host.
#[derive(Debug)]
pub struct Embedded {
    database: Database,
}

impl Embedded {
    /// Opens the file or makes it. Another process that has it open makes this fail.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(engine)?;
        // Made at once, so that reading an empty store is no special case.
        let write = database.begin_write().map_err(engine)?;
        write.open_table(RECORDS).map_err(engine)?;
        write.commit().map_err(engine)?;
        Ok(Self { database })
    }
}

impl Store for Embedded {
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = self.database.begin_read().map_err(engine)?;
        let table = read.open_table(RECORDS).map_err(engine)?;
        let mut out = vec![];
        for entry in table.range(prefix..).map_err(engine)? {
            let (key, value) = entry.map_err(engine)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            out.push((key.value().to_owned(), value.value().to_owned()));
        }
        Ok(out)
    }

    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(engine)?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(engine)?;
            for write in writes {
                match &write.record {
                    Some(record) => drop(table.insert(write.key.as_str(), record.as_slice()).map_err(engine)?),
                    None => drop(table.remove(write.key.as_str()).map_err(engine)?),
                }
            }
        }
        transaction.commit().map_err(engine)
    }
}

/// Forgets everything with the process.
#[derive(Debug, Default)]
pub struct Memory {
    records: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Store for Memory {
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(records.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            match &write.record {
                Some(record) => drop(records.insert(write.key.clone(), record.clone())),
                None => drop(records.remove(&write.key)),
            }
        }
        Ok(())
    }
}
