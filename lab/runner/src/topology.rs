//! Reads a containerlab file: checks it against the project's copy of containerlab's schema, merges defaults and
//! keeps what this runner knows how to bring up without Docker. What it does not know is an error, never ignored.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Containerlab's own JSON schema.
pub const SCHEMA: &str = include_str!("../../topologies/clab.schema.json");

#[derive(Debug, Clone)]
pub struct Topology {
    pub name: String,
    pub prefix: String,
    /// Where the file lies; relative binds start here.
    pub directory: PathBuf,
    pub nodes: BTreeMap<String, Node>,
    pub links: Vec<Link>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Linux,
    Bridge,
    OvsBridge,
    /// A QEMU guest with a kernel of its own.
    Vm,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub kind: Kind,
    pub image: Image,
    pub binds: Vec<Bind>,
    pub exec: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
}

/// What a `linux` node's image asks this runner to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// A platform: PE or P, as its intent says.
    EdgePlex,
    /// A further host of a platform: an agent that runs VMs for it.
    Host,
    Frr,
    Bird,
    GoBgp,
    OpenBgpd,
    Plain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Debug, Clone)]
pub struct Link {
    pub ends: [Endpoint; 2],
    pub mtu: u32,
    /// VLAN of an access port on an `ovs-bridge` end; without it the port is a trunk.
    pub vlan: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub node: String,
    pub interface: String,
}

#[derive(Deserialize)]
struct RawFile {
    name: String,
    prefix: Option<String>,
    topology: RawTopology,
}

#[derive(Deserialize)]
struct RawTopology {
    #[serde(default)]
    defaults: RawNode,
    #[serde(default)]
    kinds: BTreeMap<String, RawNode>,
    nodes: BTreeMap<String, RawNode>,
    #[serde(default)]
    links: Vec<RawLink>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields)]
struct RawNode {
    kind: Option<String>,
    image: Option<String>,
    #[serde(default)]
    binds: Vec<String>,
    #[serde(default)]
    exec: Vec<String>,
    #[serde(default)]
    sysctls: BTreeMap<String, Value>,
    /// For people and other tools; nothing here acts on them.
    #[serde(default, rename = "labels")]
    _labels: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    endpoints: Vec<String>,
    mtu: Option<u32>,
    #[serde(default)]
    vars: BTreeMap<String, Value>,
}

/// Lists every place where the text breaks containerlab's schema.
pub fn schema_errors(file: &Value) -> Result<Vec<String>> {
    let schema: Value = serde_json::from_str(SCHEMA).context("clab.schema.json")?;
    let validator = jsonschema::validator_for(&schema).map_err(|e| anyhow!("clab.schema.json: {e}"))?;
    Ok(validator.iter_errors(file).map(|e| format!("{}: {e}", e.instance_path())).collect())
}

impl Topology {
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        let directory = path.canonicalize()?.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, directory).with_context(|| format!("{}", path.display()))
    }

    pub fn parse(text: &str, directory: PathBuf) -> Result<Self> {
        let value: Value = serde_saphyr::from_str(text).map_err(|e| anyhow!("{e}"))?;
        let errors = schema_errors(&value)?;
        ensure!(errors.is_empty(), "not a containerlab topology: {}", errors.join("; "));
        let raw: RawFile = serde_json::from_value(value).context("this runner does not support part of it")?;

        let mut nodes = BTreeMap::new();
        for (name, node) in raw.topology.nodes {
            let kind = node.kind.clone().or_else(|| raw.topology.defaults.kind.clone());
            let of_kind = kind.as_deref().and_then(|k| raw.topology.kinds.get(k)).cloned().unwrap_or_default();
            let parts = [&raw.topology.defaults, &of_kind, &node];
            let built = build_node(kind.as_deref(), &parts, &directory).with_context(|| format!("topology.nodes.{name}"))?;
            nodes.insert(name, built);
        }
        let links = raw
            .topology
            .links
            .into_iter()
            .enumerate()
            .map(|(i, l)| build_link(l, &nodes).with_context(|| format!("topology.links[{i}]")))
            .collect::<Result<Vec<_>>>()?;
        check_interfaces(&links)?;
        // Containerlab's default prefix is "clab".
        let prefix = raw.prefix.unwrap_or_else(|| "clab".into());
        Ok(Self { name: raw.name, prefix, directory, nodes, links })
    }

    /// Whether a node asks its kernel for MPLS, as containerlab's way is.
    pub fn wants_mpls(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.sysctls.keys().any(|k| k.starts_with("net.mpls.")))
    }

    /// The node's ends of its links, in the order of the file, with the link.
    pub fn interfaces<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (&'a str, &'a Link)> {
        self.links.iter().flat_map(move |l| l.ends.iter().filter(move |e| e.node == node).map(move |e| (e.interface.as_str(), l)))
    }
}

fn build_node(kind: Option<&str>, parts: &[&RawNode; 3], directory: &Path) -> Result<Node> {
    let kind = match kind {
        Some("linux") => Kind::Linux,
        Some("bridge") => Kind::Bridge,
        Some("ovs-bridge") => Kind::OvsBridge,
        Some("generic_vm") => Kind::Vm,
        other => bail!("kind {}: this runner knows linux, bridge, ovs-bridge and generic_vm", other.unwrap_or("(none)")),
    };
    let image = parts.iter().rev().find_map(|p| p.image.as_deref()).unwrap_or_default();
    let image = match image.split(':').next().unwrap_or_default() {
        "edgeplex/router" => Image::EdgePlex,
        "edgeplex/host" => Image::Host,
        i if i.ends_with("frr") => Image::Frr,
        i if i.ends_with("bird") => Image::Bird,
        i if i.ends_with("gobgp") => Image::GoBgp,
        i if i.ends_with("openbgpd") => Image::OpenBgpd,
        _ => Image::Plain,
    };
    let mut node = Node { kind, image, binds: vec![], exec: vec![], sysctls: BTreeMap::new() };
    for part in parts {
        for bind in &part.binds {
            node.binds.push(parse_bind(bind, directory)?);
        }
        node.exec.extend(part.exec.iter().cloned());
        for (key, value) in &part.sysctls {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            node.sysctls.insert(key.clone(), value);
        }
    }
    Ok(node)
}

fn parse_bind(text: &str, directory: &Path) -> Result<Bind> {
    let mut fields = text.split(':');
    let (Some(source), Some(target)) = (fields.next(), fields.next()) else { bail!("bind {text}: must be SOURCE:TARGET[:ro]") };
    let read_only = match fields.next() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => bail!("bind {text}: mode {other} is not known, only ro and rw"),
    };
    ensure!(target.starts_with('/'), "bind {text}: the target must be absolute");
    Ok(Bind { source: directory.join(source), target: target.into(), read_only })
}

fn build_link(raw: RawLink, nodes: &BTreeMap<String, Node>) -> Result<Link> {
    let ends = raw
        .endpoints
        .iter()
        .map(|e| {
            let (node, interface) = e.split_once(':').ok_or_else(|| anyhow!("endpoint {e}: must be node:interface"))?;
            ensure!(nodes.contains_key(node), "endpoint {e}: there is no node {node}");
            // IFNAMSIZ of Linux, the final zero included, is 16.
            ensure!((1..=15).contains(&interface.len()), "endpoint {e}: an interface name has 1 to 15 characters");
            Ok(Endpoint { node: node.to_owned(), interface: interface.to_owned() })
        })
        .collect::<Result<Vec<_>>>()?;
    let ends: [Endpoint; 2] = ends.try_into().map_err(|_| anyhow!("a link has two endpoints"))?;
    ensure!(ends[0].node != ends[1].node, "a link joins two nodes");
    let vlan = match raw.vars.get("vlan") {
        None => None,
        Some(v) => {
            let id = v.as_u64().and_then(|v| u16::try_from(v).ok()).filter(|v| (1..=4094).contains(v));
            Some(id.ok_or_else(|| anyhow!("vars.vlan {v}: must be 1 to 4094"))?)
        }
    };
    Ok(Link { ends, mtu: raw.mtu.unwrap_or(1500), vlan })
}

fn check_interfaces(links: &[Link]) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for end in links.iter().flat_map(|l| &l.ends) {
        ensure!(seen.insert((&end.node, &end.interface)), "{}:{} is used by two links", end.node, end.interface);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
name: t
topology:
  defaults: {sysctls: {net.ipv4.ip_forward: 1}}
  nodes:
    a: {kind: linux, image: "frrouting/frr:8.4", binds: ["x/frr.conf:/etc/frr/frr.conf:ro"]}
    s: {kind: ovs-bridge}
  links:
    - {endpoints: ["a:eth1", "s:p1"], mtu: 1600, vars: {vlan: 7}}
"#;

    #[test]
    fn the_projects_topologies_are_valid_containerlab_files() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../topologies");
        let files: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.to_string_lossy().ends_with(".clab.yml")).collect();
        assert!(!files.is_empty());
        for file in files {
            let t = Topology::load(&file).unwrap();
            for node in t.nodes.values() {
                for bind in &node.binds {
                    assert!(bind.source.exists(), "{}", bind.source.display());
                }
            }
        }
    }

    #[test]
    fn defaults_reach_the_nodes_and_the_vlan_the_link() {
        let t = Topology::parse(SMALL, "/base".into()).unwrap();
        assert_eq!(t.prefix, "clab");
        let a = &t.nodes["a"];
        assert_eq!((a.kind, a.image), (Kind::Linux, Image::Frr));
        assert_eq!(a.sysctls["net.ipv4.ip_forward"], "1");
        assert_eq!(a.binds, [Bind { source: "/base/x/frr.conf".into(), target: "/etc/frr/frr.conf".into(), read_only: true }]);
        assert_eq!((t.links[0].mtu, t.links[0].vlan), (1600, Some(7)));
        assert_eq!(t.interfaces("s").map(|(i, _)| i).collect::<Vec<_>>(), ["p1"]);
    }

    #[test]
    fn what_is_wrong_or_unknown_is_named() {
        for (from, to, want) in [
            ("name: t", "nom: t", "not a containerlab topology"),
            ("kind: linux", "kind: nokia_srlinux", "this runner knows linux"),
            ("\"a:eth1\"", "\"z:eth1\"", "there is no node z"),
            ("vlan: 7", "vlan: 4095", "must be 1 to 4094"),
            ("a:eth1", "a:eth1-is-far-too-long", "1 to 15 characters"),
            ("kind: ovs-bridge", "kind: ovs-bridge, runtime: docker", "does not support"),
        ] {
            let error = format!("{:#}", Topology::parse(&SMALL.replace(from, to), "/".into()).unwrap_err());
            assert!(error.contains(want), "{error}");
        }
    }
}
