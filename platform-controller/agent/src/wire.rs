//! What controller and agent say to each other: frames of a 32-bit big-endian length and JSON.
//!
//! Each connection begins with the controller's [`Hello`], which says what it is for; the agent's [`Greeting`] follows.

use crate::{AgentError, image::Program};
use edgeplex_runtime::{Image, Nic, Process, RuntimeError, Share, SharedDir, VmId, VmInfo, VmKind, VmSpec, is_file_name};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{io, path::Path};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Of all messages. Both ends must have the same.
pub(crate) const VERSION: u8 = 1;
/// Longest frame, bytes: the configuration of a CVM with some ten thousand attachments.
const MAX_FRAME: u32 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u8,
    pub(crate) purpose: Purpose,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Purpose {
    /// Frames follow: [`FromController`] and [`FromAgent`]. The latest such connection is the controller's; an older one is closed.
    Control,
    /// The bytes of a connection to a socket of that VM follow.
    Connect { vm: VmId, socket: String },
    /// The greeting comes when a VM has connected to the relay's socket here; its bytes follow.
    Park,
    /// Programs follow; see [`crate::image`].
    Image { name: String, programs: Vec<Program> },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Greeting {
    Welcome,
    Refused(String),
    /// The VM that was asked for does not run, or nobody listens at its socket.
    Absent(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum FromController {
    Ask {
        id: u64,
        question: Question,
    },
    /// Nobody waits for that answer any more.
    Cancel {
        id: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum FromAgent {
    Beat,
    Answer { id: u64, answer: Result<Reply, Failure> },
}

/// The verbs of `edgeplex_runtime::Runtime`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Question {
    Start(Box<Spec>),
    Freeze(VmId),
    Thaw(VmId),
    Stop(VmId),
    Forget(VmId),
    Inspect(VmId),
    List,
    RewriteConfig { vm: VmId, config: String },
    Config(VmId),
    Kill(VmId),
    Exited(VmId),
    Images,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Done,
    Vm(Option<VmInfo>),
    Vms(Vec<VmInfo>),
    Config(Option<String>),
    Images(Vec<Image>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Failure {
    Exists(VmId),
    Unknown(VmId),
    Other(String),
}

impl From<RuntimeError> for Failure {
    fn from(e: RuntimeError) -> Self {
        match e {
            RuntimeError::Exists(id) => Self::Exists(id),
            RuntimeError::Unknown(id) => Self::Unknown(id),
            e => Self::Other(e.to_string()),
        }
    }
}

/// A `VmSpec` whose shared directories are known by name: each host has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    id: VmId,
    kind: VmKind,
    nics: Vec<Nic>,
    config: String,
    processes: Vec<Process>,
    memory_max: Option<u64>,
    shared: Vec<SharedName>,
    image: Option<String>,
    identity: Option<VmId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedName {
    name: String,
    path: String,
    role: Share,
}

/// Configurations are JSON, and so text.
pub(crate) fn text(config: &[u8]) -> Result<String, RuntimeError> {
    String::from_utf8(config.to_vec()).map_err(|_| RuntimeError::Invalid("the configuration is no text".into()))
}

impl Spec {
    pub(crate) fn id(&self) -> &VmId {
        &self.id
    }

    pub(crate) fn of(spec: &VmSpec) -> Result<Self, RuntimeError> {
        let VmSpec { id, kind, nics, config, processes, memory_max, shared, image, identity } = spec;
        if let Some(nic) = nics.iter().find(|n| n.tag.is_none()) {
            return Err(RuntimeError::Invalid(format!("vNIC {} of VM {id} has no tag; on another host each needs one", nic.name)));
        }
        let by_name = |s: &SharedDir| {
            let name = s.host.file_name().and_then(|n| n.to_str()).map(ToOwned::to_owned);
            let name = name.ok_or_else(|| RuntimeError::Invalid(format!("shared directory {}: has no name", s.host.display())))?;
            Ok(SharedName { name, path: s.path.clone(), role: s.role })
        };
        Ok(Self {
            id: id.clone(),
            kind: *kind,
            nics: nics.clone(),
            config: text(config)?,
            processes: processes.clone(),
            memory_max: *memory_max,
            shared: shared.iter().map(by_name).collect::<Result<_, RuntimeError>>()?,
            image: image.clone(),
            identity: identity.clone(),
        })
    }

    /// The specification for the host whose directory is `dir`.
    pub(crate) fn on(self, dir: &Path) -> Result<VmSpec, RuntimeError> {
        let here = |s: SharedName| {
            if !is_file_name(&s.name) {
                return Err(RuntimeError::Invalid(format!("shared directory `{}`: must be a name", s.name)));
            }
            Ok(SharedDir { host: dir.join(&s.name), path: s.path, role: s.role })
        };
        let Self { id, kind, nics, config, processes, memory_max, shared, image, identity } = self;
        let shared = shared.into_iter().map(here).collect::<Result<_, _>>()?;
        Ok(VmSpec { id, kind, nics, config: config.into_bytes(), processes, memory_max, shared, image, identity })
    }
}

/// A frame, ready to be sent.
pub(crate) fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, AgentError> {
    let body = serde_json::to_vec(message).map_err(|e| AgentError::Wire(e.to_string()))?;
    let length = u32::try_from(body.len()).ok().filter(|n| *n <= MAX_FRAME);
    let length = length.ok_or_else(|| AgentError::Wire(format!("{} bytes: at most {MAX_FRAME} are allowed", body.len())))?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

pub(crate) async fn send<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), AgentError> {
    stream.write_all(&frame(message)?).await.map_err(AgentError::io("connection"))?;
    stream.flush().await.map_err(AgentError::io("connection"))
}

/// The next frame. It takes no more memory than has come of it.
pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, AgentError> {
    let length = stream.read_u32().await.map_err(AgentError::io("connection"))?;
    if length > MAX_FRAME {
        return Err(AgentError::Wire(format!("{length} bytes: at most {MAX_FRAME} are allowed")));
    }
    let mut body = vec![];
    let read = stream.take(length.into()).read_to_end(&mut body).await.map_err(AgentError::io("connection"))?;
    if u32::try_from(read) != Ok(length) {
        return Err(AgentError::io("connection")(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&body).map_err(|e| AgentError::Wire(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeplex_types::MacAddr;

    fn spec() -> VmSpec {
        VmSpec {
            id: "pvm-a-b-g1".parse().unwrap(),
            kind: VmKind::Pvm,
            nics: vec![Nic {
                name: "cust".into(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                mtu: 1500,
                host_name: "ep0".into(),
                tag: Some(7.try_into().unwrap()),
            }],
            config: b"{}".to_vec(),
            processes: vec![],
            memory_max: None,
            shared: vec![SharedDir { host: "/a/relay".into(), path: "/run/relay".into(), role: Share::Guest }],
            image: Some("v2".into()),
            identity: Some("pvm-a-b".parse().unwrap()),
        }
    }

    #[test]
    fn a_specification_is_the_same_on_another_host_but_for_its_directories() {
        let there = Spec::of(&spec()).unwrap().on(Path::new("/b")).unwrap();
        assert_eq!(there.shared[0].host, Path::new("/b/relay"));
        assert_eq!(there.hash(), spec().hash(), "or it would be made anew for ever");
        let mut without = spec();
        without.nics[0].tag = None;
        assert!(Spec::of(&without).unwrap_err().to_string().contains("has no tag"));
        let mut out = Spec::of(&spec()).unwrap();
        out.shared[0].name = "../etc".into();
        assert!(out.on(Path::new("/b")).is_err());
    }

    #[tokio::test]
    async fn frames_read_back_and_long_cut_or_foreign_ones_are_errors() {
        let hello = Hello { version: VERSION, purpose: Purpose::Connect { vm: "cvm".parse().unwrap(), socket: "mgmt.sock".into() } };
        let bytes = frame(&hello).unwrap();
        assert_eq!(receive::<Hello>(&mut &bytes[..]).await.unwrap(), hello);
        for cut in 0..bytes.len() {
            assert!(receive::<Hello>(&mut &bytes[..cut]).await.is_err());
        }
        let long = [&(MAX_FRAME + 1).to_be_bytes()[..], b"{}"].concat();
        assert!(receive::<Hello>(&mut &long[..]).await.unwrap_err().to_string().contains("at most"));
        assert!(receive::<Hello>(&mut &frame(&FromAgent::Beat).unwrap()[..]).await.is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_message_or_an_error(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), honest: bool) {
            if honest {
                let length = u32::try_from(bytes.len()).unwrap();
                bytes.splice(0..0, length.to_be_bytes());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let _ = receive::<Hello>(&mut &bytes[..]).await;
                let _ = receive::<FromController>(&mut &bytes[..]).await;
                let _ = receive::<FromAgent>(&mut &bytes[..]).await;
            });
        }
    }

    /// As it was first: an agent and a controller of different builds meet.
    #[test]
    fn messages_of_version_1_read() {
        let hello: Hello = serde_json::from_str(r#"{"version":1,"purpose":{"connect":{"vm":"cvm","socket":"mgmt.sock"}}}"#).unwrap();
        assert!(matches!(hello.purpose, Purpose::Connect { .. }));
        let image = r#"{"version":1,"purpose":{"image":{"name":"v2","programs":[{"name":"pvmd","bytes":9,"sha256":"ab"}]}}}"#;
        assert!(matches!(serde_json::from_str::<Hello>(image).unwrap().purpose, Purpose::Image { programs, .. } if programs.len() == 1));
        let ask: FromController = serde_json::from_str(r#"{"ask":{"id":3,"question":{"exited":"pvm-a-b-g1"}}}"#).unwrap();
        assert_eq!(ask, FromController::Ask { id: 3, question: Question::Exited("pvm-a-b-g1".parse().unwrap()) });
        let answer: FromAgent = serde_json::from_str(r#"{"answer":{"id":3,"answer":{"Ok":"done"}}}"#).unwrap();
        assert_eq!(answer, FromAgent::Answer { id: 3, answer: Ok(Reply::Done) });
    }
}
