//! One OpenFlow connection to a bridge, over its management socket.
//!
//! `<run dir>/<bridge>.mgmt` is a service connection: unlike a controller that is configured, its coming and going
//! never makes the switch flush its rules, and it gets no asynchronous messages. So it can be simple: every request
//! is followed by reading until its answer, in one task.

use crate::openflow::{
    BundleControl, FlowCommand, FlowMod, HEADER, Message, OfError, PortDesc, decode_header, encode, encode_bundle_add,
    encode_flow_stats_request, encode_port_desc_request, error_text, flow_stats, hello_body, kind, multipart, port_descriptions,
    port_status,
};
use crate::{Changes, Rule, SwitchError};
use std::{collections::HashMap, path::Path, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// An answer takes well below a millisecond; a switch that has not answered by now is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rules sent before the switch is heard again: some 30 kB, well within a socket's buffer.
const STRETCH: usize = 200;
/// More rules than this from one bridge are not ours.
const MAX_RULES: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    xid: u32,
    bundle: u32,
}

impl From<OfError> for SwitchError {
    fn from(e: OfError) -> Self {
        SwitchError::Protocol(e.to_string())
    }
}

/// Runs `f` but not for ever.
pub(crate) async fn in_time<T>(f: impl Future<Output = Result<T, SwitchError>>) -> Result<T, SwitchError> {
    timeout(PATIENCE, f).await.unwrap_or(Err(SwitchError::Timeout(PATIENCE.as_secs())))
}

impl Connection {
    pub(crate) async fn open(path: &Path) -> Result<Self, SwitchError> {
        let stream = UnixStream::connect(path).await.map_err(|error| SwitchError::Connect { path: path.into(), error })?;
        let mut c = Self { stream, xid: 0, bundle: 0 };
        in_time(async {
            c.send(kind::HELLO, 0, &hello_body()).await?;
            let hello = c.receive().await?;
            if hello.kind != kind::HELLO {
                let text = if hello.kind == kind::ERROR { error_text(&hello.body) } else { format!("message type {}", hello.kind) };
                return Err(SwitchError::Protocol(format!("instead of HELLO: {text}")));
            }
            // The features themselves do not matter, that the switch answers in OpenFlow 1.3 does.
            c.ask(kind::FEATURES_REQUEST, &[], kind::FEATURES_REPLY).await
        })
        .await?;
        Ok(c)
    }

    async fn send(&mut self, kind: u8, xid: u32, body: &[u8]) -> Result<(), SwitchError> {
        Ok(self.stream.write_all(&encode(kind, xid, body)?).await?)
    }

    fn next_xid(&mut self) -> u32 {
        self.xid = self.xid.wrapping_add(1).max(1);
        self.xid
    }

    /// The next message that is for us: echo requests are answered on the way.
    async fn receive(&mut self) -> Result<Message, SwitchError> {
        loop {
            let mut header = [0; HEADER];
            self.stream.read_exact(&mut header).await?;
            let (kind, length, xid) = decode_header(header)?;
            // At most 64 kB, by the width of the length.
            let mut body = vec![0; length - HEADER];
            self.stream.read_exact(&mut body).await?;
            match kind {
                kind::ECHO_REQUEST => self.send(kind::ECHO_REPLY, xid, &body).await?,
                // A service connection gets none unless someone asks for it.
                kind::PORT_STATUS => {
                    let (port, gone) = port_status(&body)?;
                    tracing::debug!(name = port.name, number = port.number.0, gone, "port status");
                }
                _ => return Ok(Message { kind, xid, body }),
            }
        }
    }

    /// Sends a request and returns its answer, which must be of type `want`.
    async fn ask(&mut self, kind: u8, body: &[u8], want: u8) -> Result<Message, SwitchError> {
        let xid = self.next_xid();
        self.send(kind, xid, body).await?;
        self.answer(xid, want).await
    }

    async fn answer(&mut self, xid: u32, want: u8) -> Result<Message, SwitchError> {
        loop {
            let m = self.receive().await?;
            match m.kind {
                _ if m.xid != xid => {}
                kind::ERROR => return Err(SwitchError::Refused(error_text(&m.body))),
                k if k == want => return Ok(m),
                k => return Err(SwitchError::Protocol(format!("answer of type {k}, not {want}"))),
            }
        }
    }

    /// A request that is answered in several parts, each given to `part`.
    async fn ask_all(&mut self, request: &[u8], mut part: impl FnMut(&[u8]) -> Result<(), SwitchError>) -> Result<(), SwitchError> {
        let xid = self.next_xid();
        self.send(kind::MULTIPART_REQUEST, xid, request).await?;
        let asked = request.get(..2);
        loop {
            let m = in_time(self.answer(xid, kind::MULTIPART_REPLY)).await?;
            let (kind, more, contents) = multipart(&m.body)?;
            if asked != Some(&kind.to_be_bytes()[..]) {
                return Err(SwitchError::Protocol(format!("multipart answer of type {kind}")));
            }
            part(contents)?;
            if !more {
                return Ok(());
            }
        }
    }

    pub(crate) async fn rules(&mut self) -> Result<Vec<Rule>, SwitchError> {
        let mut out = vec![];
        let take = |contents: &[u8]| {
            out.extend(flow_stats(contents)?);
            if out.len() > MAX_RULES { Err(SwitchError::Protocol(format!("more than {MAX_RULES} rules"))) } else { Ok(()) }
        };
        self.ask_all(&encode_flow_stats_request(), take).await?;
        out.sort();
        Ok(out)
    }

    pub(crate) async fn ports(&mut self) -> Result<Vec<PortDesc>, SwitchError> {
        let mut out = vec![];
        let take = |contents: &[u8]| {
            out.extend(port_descriptions(contents)?);
            if out.len() > MAX_RULES { Err(SwitchError::Protocol("more ports than numbers".into())) } else { Ok(()) }
        };
        self.ask_all(&encode_port_desc_request(), take).await?;
        Ok(out)
    }

    /// Applies all of `changes` in one bundle, or nothing of it.
    pub(crate) async fn apply(&mut self, changes: &Changes) -> Result<(), SwitchError> {
        let removed = changes.remove.iter().map(|r| (FlowCommand::DeleteStrict, r));
        let added = changes.add.iter().map(|r| (FlowCommand::Add, r));
        let steps: Vec<_> = removed.chain(added).collect();
        self.bundle = self.bundle.wrapping_add(1);
        let mut sent = HashMap::new();
        self.control(BundleControl::OPEN, &sent).await?;
        let filled = self.fill_bundle(&steps, &mut sent).await;
        if let Err(e) = filled {
            // The switch throws an unfinished bundle away with the connection; if this fails, that happens.
            let _ = self.control(BundleControl::DISCARD, &HashMap::new()).await;
            return Err(e);
        }
        self.control(BundleControl::COMMIT, &sent).await?;
        // The commit is answered when the rules are in the tables; the barrier is for what else is under way.
        in_time(self.ask(kind::BARRIER_REQUEST, &[], kind::BARRIER_REPLY)).await?;
        Ok(())
    }

    async fn fill_bundle<'r>(&mut self, steps: &[(FlowCommand, &'r Rule)], sent: &mut HashMap<u32, &'r Rule>) -> Result<(), SwitchError> {
        // A stretch at a time, so that neither side's socket fills while the other waits to be read.
        for stretch in steps.chunks(STRETCH) {
            let mut bytes = vec![];
            for (command, rule) in stretch {
                let xid = self.next_xid();
                let inner = encode(kind::FLOW_MOD, xid, &FlowMod { command: *command, rule: (*rule).clone() }.encode())?;
                bytes.extend(encode(kind::EXPERIMENTER, xid, &encode_bundle_add(self.bundle, &inner))?);
                sent.insert(xid, rule);
            }
            let xid = self.next_xid();
            bytes.extend(encode(kind::BARRIER_REQUEST, xid, &[])?);
            in_time(async {
                self.stream.write_all(&bytes).await?;
                self.answer_or_rule(xid, kind::BARRIER_REPLY, sent).await.map(drop)
            })
            .await?;
        }
        Ok(())
    }

    /// One step of a bundle's life.
    async fn control(&mut self, request: u16, sent: &HashMap<u32, &Rule>) -> Result<(), SwitchError> {
        in_time(async {
            let xid = self.next_xid();
            self.send(kind::EXPERIMENTER, xid, &BundleControl { id: self.bundle, kind: request }.encode()).await?;
            let m = self.answer_or_rule(xid, kind::EXPERIMENTER, sent).await?;
            let got = BundleControl::decode(&m.body)?;
            if got != (BundleControl { id: self.bundle, kind: BundleControl::reply_of(request) }) {
                return Err(SwitchError::Protocol(format!("bundle control {} of bundle {}", got.kind, got.id)));
            }
            Ok(())
        })
        .await
    }

    /// Like [`Self::answer`]; an error about one of the rules sent says which.
    async fn answer_or_rule(&mut self, xid: u32, want: u8, sent: &HashMap<u32, &Rule>) -> Result<Message, SwitchError> {
        let mut refused = None;
        loop {
            let m = self.receive().await?;
            match (m.kind, sent.get(&m.xid)) {
                (kind::ERROR, Some(rule)) => refused = Some((Box::new((*rule).clone()), error_text(&m.body))),
                (kind::ERROR, None) if m.xid == xid => {
                    return Err(match refused {
                        Some((rule, reason)) => SwitchError::RuleRefused { rule, reason },
                        None => SwitchError::Refused(error_text(&m.body)),
                    });
                }
                (k, _) if m.xid == xid && k == want => {
                    return refused.map_or(Ok(m), |(rule, reason)| Err(SwitchError::RuleRefused { rule, reason }));
                }
                (k, _) if m.xid == xid => return Err(SwitchError::Protocol(format!("answer of type {k}, not {want}"))),
                _ => {}
            }
        }
    }
}
