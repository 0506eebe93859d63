//! Minimal OVSDB client (RFC 7047): the ports of one bridge.
//!
//! JSON-RPC 1.0 over `<run dir>/db.sock`, one request at a time. Ports are found by name in the database, so that
//! every call is idempotent; a change is complete when ovs-vswitchd has applied it, not when it is in the database.

use crate::{PortNo, SwitchError, connection::in_time};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Longest answer accepted, bytes: some 100,000 ports.
const MAX_ANSWER: usize = 32 << 20;
/// How long ovs-vswitchd may take to apply a change, milliseconds.
const APPLY_MS: u32 = 4000;

#[derive(Debug)]
pub(crate) struct Ovsdb {
    stream: UnixStream,
    buffer: Vec<u8>,
    id: u64,
}

/// One interface as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    ofport: Option<i64>,
    error: Option<String>,
}

fn protocol(what: impl std::fmt::Display) -> SwitchError {
    SwitchError::Protocol(format!("OVSDB: {what}"))
}

/// An optional column is `["set",[]]` or the value (RFC 7047 §5.1).
fn optional(v: &Value) -> Option<&Value> {
    (!v.is_array()).then_some(v)
}

/// Members of a set of UUIDs: `["uuid",…]` or `["set",[["uuid",…],…]]`.
fn uuids(v: &Value) -> Vec<&str> {
    match (v[0].as_str(), &v[1]) {
        (Some("uuid"), one) => one.as_str().into_iter().collect(),
        (Some("set"), Value::Array(many)) => many.iter().filter_map(|u| u[1].as_str()).collect(),
        _ => vec![],
    }
}

impl Ovsdb {
    pub(crate) async fn open(path: &Path) -> Result<Self, SwitchError> {
        let stream = UnixStream::connect(path).await.map_err(|error| SwitchError::Connect { path: path.into(), error })?;
        Ok(Self { stream, buffer: vec![], id: 0 })
    }

    async fn transact(&mut self, operations: &[Value]) -> Result<Vec<Value>, SwitchError> {
        in_time(self.transact_inner(operations)).await
    }

    async fn transact_inner(&mut self, operations: &[Value]) -> Result<Vec<Value>, SwitchError> {
        self.id += 1;
        let mut params = vec![json!("Open_vSwitch")];
        params.extend_from_slice(operations);
        let request = json!({"method": "transact", "params": params, "id": self.id}).to_string();
        self.stream.write_all(request.as_bytes()).await?;
        loop {
            let message = self.message().await?;
            if message["method"] == "echo" {
                // RFC 7047 §4.1.11: an idle connection is probed.
                let reply = json!({"id": message["id"], "result": message["params"], "error": null}).to_string();
                self.stream.write_all(reply.as_bytes()).await?;
                continue;
            }
            if message["id"] != json!(self.id) {
                continue;
            }
            let Value::Array(results) = &message["result"] else { return Err(SwitchError::Refused(message["error"].to_string())) };
            // RFC 7047 §4.1.3: failures stand in the list of results.
            if let Some(e) = results.iter().find(|r| r["error"].is_string()) {
                let (error, details) = (e["error"].as_str().unwrap_or_default(), e["details"].as_str().unwrap_or_default());
                return Err(SwitchError::Refused(format!("OVSDB: {error}: {details}")));
            }
            if results.len() < operations.len() {
                return Err(protocol("fewer results than operations"));
            }
            return Ok(results.clone());
        }
    }

    /// The next JSON value of the stream.
    async fn message(&mut self) -> Result<Value, SwitchError> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Value>();
            match values.next() {
                Some(Ok(v)) => {
                    let used = values.byte_offset();
                    self.buffer.drain(..used);
                    return Ok(v);
                }
                Some(Err(e)) if !e.is_eof() => return Err(protocol(e)),
                _ => {}
            }
            // Parsing starts anew with every read; doubling the read keeps that linear.
            let room = self.buffer.len().max(4096);
            if self.buffer.len() + room > MAX_ANSWER {
                return Err(protocol("answer too long"));
            }
            let start = self.buffer.len();
            self.buffer.resize(start + room, 0);
            let n = self.stream.read(&mut self.buffer[start..]).await?;
            self.buffer.truncate(start + n);
            if n == 0 {
                return Err(SwitchError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// UUIDs of the bridge's ports; an error if there is no such bridge.
    pub(crate) async fn bridge_ports(&mut self, bridge: &str) -> Result<Vec<String>, SwitchError> {
        let select = json!({"op": "select", "table": "Bridge", "where": [["name", "==", bridge]], "columns": ["ports"]});
        let got = self.transact(&[select]).await?;
        let row = got[0]["rows"].get(0).ok_or_else(|| SwitchError::Refused(format!("Open vSwitch has no bridge {bridge}")))?;
        Ok(uuids(&row["ports"]).into_iter().map(str::to_owned).collect())
    }

    /// Lets the switch look at that many tags of a frame.
    pub(crate) async fn ensure_vlan_limit(&mut self, limit: u8) -> Result<(), SwitchError> {
        let select = json!({"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["other_config"]});
        let got = self.transact(&[select]).await?;
        // A map is `["map",[[key,value],…]]` (RFC 7047 §5.1).
        let pairs = got[0]["rows"][0]["other_config"][1].as_array().cloned().unwrap_or_default();
        let want = json!(["vlan-limit", limit.to_string()]);
        if pairs.contains(&want) {
            return Ok(());
        }
        let mutations = json!([["other_config", "delete", ["set", ["vlan-limit"]]], ["other_config", "insert", ["map", [want]]]]);
        self.change(vec![json!({"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": mutations})]).await
    }

    async fn interface(&mut self, name: &str) -> Result<Option<Interface>, SwitchError> {
        let select = json!({"op": "select", "table": "Interface", "where": [["name", "==", name]], "columns": ["ofport", "error"]});
        let got = self.transact(&[select]).await?;
        Ok(got[0]["rows"].get(0).map(Interface::from_row))
    }

    /// Asks ovs-vswitchd to apply what the database has, together with `operations`, and waits until it has.
    async fn change(&mut self, mut operations: Vec<Value>) -> Result<(), SwitchError> {
        let count = operations.len();
        operations.push(json!({"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]}));
        operations.push(json!({"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]}));
        let got = self.transact(&operations).await?;
        let next = got[count + 1]["rows"][0]["next_cfg"].as_i64().ok_or_else(|| protocol("no next_cfg"))?;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_millis(APPLY_MS.into());
        loop {
            let select = json!({"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["cur_cfg"]});
            let got = self.transact(&[select]).await?;
            let current = got[0]["rows"][0]["cur_cfg"].as_i64().ok_or_else(|| protocol("no cur_cfg"))?;
            if current >= next {
                return Ok(());
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Err(SwitchError::Timeout(u64::from(APPLY_MS / 1000)));
            }
            // Sleeps in the server until cur_cfg moves on from what was just read.
            let left = u64::try_from((deadline - now).as_millis()).unwrap_or(0);
            let wait = json!({"op": "wait", "timeout": left, "table": "Open_vSwitch", "where": [], "columns": ["cur_cfg"],
                              "until": "!=", "rows": [{"cur_cfg": current}]});
            match self.transact(&[wait]).await {
                Err(SwitchError::Refused(e)) if e.contains("timed out") => return Err(SwitchError::Timeout(u64::from(APPLY_MS / 1000))),
                other => other?,
            };
        }
    }

    /// Makes interfaces ports of the bridge, if they are not, and returns their numbers.
    pub(crate) async fn ensure_ports(&mut self, bridge: &str, names: &[&str]) -> Result<BTreeMap<String, PortNo>, SwitchError> {
        let port = |name: &str, reason: String| SwitchError::Port { name: name.into(), reason };
        let mine = self.bridge_ports(bridge).await?;
        let mut operations = vec![];
        let (mut pending, mut added) = (false, vec![]);
        for (n, name) in names.iter().enumerate() {
            let select = json!({"op": "select", "table": "Port", "where": [["name", "==", name]], "columns": ["_uuid"]});
            let got = self.transact(&[select]).await?;
            match got[0]["rows"].get(0).map(|r| uuids(&r["_uuid"])) {
                Some(id) if id.iter().all(|u| mine.iter().any(|m| m == u)) => {
                    // There already. A device that came after its port, or anew, gets its number when vswitchd looks again.
                    pending |= self.interface(name).await?.is_none_or(|i| i.number().is_none());
                }
                Some(_) => return Err(port(name, "is a port of another bridge".into())),
                None => {
                    added.push(*name);
                    let (interface, record) = (format!("i{n}"), format!("p{n}"));
                    operations.push(json!({"op": "insert", "table": "Interface", "row": {"name": name}, "uuid-name": interface}));
                    let row = json!({"name": name, "interfaces": ["named-uuid", interface]});
                    operations.push(json!({"op": "insert", "table": "Port", "row": row, "uuid-name": record}));
                    operations.push(json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", bridge]],
                                           "mutations": [["ports", "insert", ["named-uuid", record]]]}));
                }
            }
        }
        if pending || !operations.is_empty() {
            self.change(operations).await?;
        }
        let numbers = self.numbers(names).await;
        if numbers.is_err() {
            // Without its device a port would stand in the database for nothing.
            for name in added {
                self.remove_port(bridge, name).await?;
            }
        }
        numbers
    }

    async fn numbers(&mut self, names: &[&str]) -> Result<BTreeMap<String, PortNo>, SwitchError> {
        let mut out = BTreeMap::new();
        for name in names {
            let fail = |reason: String| SwitchError::Port { name: (*name).into(), reason };
            let i = self.interface(name).await?.ok_or_else(|| fail("vanished while it was added".into()))?;
            let number = i.number().ok_or_else(|| fail(i.error.clone().unwrap_or_else(|| "the switch gave it no number".into())))?;
            out.insert((*name).to_owned(), number);
        }
        Ok(out)
    }

    /// Takes an interface off the bridge, if it is a port of it.
    pub(crate) async fn remove_port(&mut self, bridge: &str, name: &str) -> Result<(), SwitchError> {
        let mine = self.bridge_ports(bridge).await?;
        let select = json!({"op": "select", "table": "Port", "where": [["name", "==", name]], "columns": ["_uuid"]});
        let got = self.transact(&[select]).await?;
        let Some(row) = got[0]["rows"].get(0) else { return Ok(()) };
        let id = uuids(&row["_uuid"]);
        if !id.iter().all(|u| mine.iter().any(|m| m == u)) {
            return Ok(());
        }
        // Port and Interface are garbage-collected once no bridge refers to them.
        let delete = json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", bridge]],
                            "mutations": [["ports", "delete", row["_uuid"]]]});
        self.change(vec![delete]).await
    }
}

impl Interface {
    fn from_row(row: &Value) -> Self {
        Self {
            ofport: optional(&row["ofport"]).and_then(Value::as_i64),
            error: optional(&row["error"]).and_then(Value::as_str).map(str::to_owned),
        }
    }

    /// -1 says that the device could not be opened.
    fn number(&self) -> Option<PortNo> {
        self.ofport.and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=0xfeff).contains(n)).map(PortNo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_columns_and_sets_of_uuids() {
        let row = json!({"name": "eth1", "ofport": 7, "error": ["set", []]});
        let i = Interface::from_row(&row);
        assert_eq!((i.number(), i.error.as_deref()), (Some(PortNo(7)), None));
        let row = json!({"name": "eth1", "ofport": -1, "error": "could not open network device eth1 (No such device)"});
        let i = Interface::from_row(&row);
        assert_eq!(i.number(), None);
        assert!(i.error.unwrap().contains("No such device"));
        assert_eq!(uuids(&json!(["uuid", "a"])), ["a"]);
        assert_eq!(uuids(&json!(["set", [["uuid", "a"], ["uuid", "b"]]])), ["a", "b"]);
        assert!(uuids(&json!(["set", 5])).is_empty());
        assert!(uuids(&json!(null)).is_empty());
    }
}
