//! A PVM that lies: knocks at the relay with a key of its own, or with one customer's key for another's attachment,
//! and tries to announce a route. It reports what the CVM answered.

use anyhow::{Context, Result};
use edgeplex_relay::{CustomerOp, Sync, ToCvm, ToPvm, decode, encode};
use edgeplex_types::{AttachmentId, Epoch};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long the CVM has to answer; a refused key gets no answer at all.
const PATIENCE: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone)]
pub struct Options {
    pub endpoint: String,
    pub server_key: String,
    /// Public and secret; without them a fresh pair that nobody knows.
    pub keys: Option<(String, String)>,
    pub attachment: AttachmentId,
    pub prefix: IpNet,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Messages of the CVM, in words, at most ten.
    pub answers: Vec<String>,
    pub welcomed: bool,
    pub refused: bool,
}

pub fn run(options: &Options) -> Result<Report> {
    let (public, secret) = match &options.keys {
        Some(keys) => keys.clone(),
        None => {
            let pair = zmq::CurveKeyPair::new()?;
            (zmq::z85_encode(&pair.public_key)?, zmq::z85_encode(&pair.secret_key)?)
        }
    };
    let decoded = |text: &str, what: &str| zmq::z85_decode(text).with_context(|| what.to_owned());
    let socket = zmq::Context::new().socket(zmq::DEALER)?;
    socket.set_linger(0)?;
    socket.set_curve_serverkey(&decoded(&options.server_key, "server key")?)?;
    socket.set_curve_publickey(&decoded(&public, "public key")?)?;
    socket.set_curve_secretkey(&decoded(&secret, "secret key")?)?;
    socket.connect(&options.endpoint)?;

    let incarnation = 0x0bad;
    let epoch = Epoch(1);
    // ORIGIN igp, AS_PATH empty, LOCAL_PREF 1000: a route anybody would prefer.
    let attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 3, 0xe8];
    let route = CustomerOp::Route { prefix: options.prefix, next_hop: None, attributes };
    let say = |sync| ToCvm::Sync { incarnation, sync };
    for message in [
        ToCvm::Hello { attachment: options.attachment.clone(), incarnation, generation: u64::MAX, standby: false },
        say(Sync::Begin { epoch }),
        say(Sync::Ops { epoch, ops: vec![route] }),
        say(Sync::End { epoch }),
    ] {
        socket.send(encode(&message)?, zmq::DONTWAIT).or_else(|e| if e == zmq::Error::EAGAIN { Ok(()) } else { Err(e) })?;
    }
    let mut report = Report { answers: vec![], welcomed: false, refused: false };
    let end = Instant::now() + PATIENCE;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        if socket.poll(zmq::POLLIN, i64::try_from(left.as_millis())?)? == 0 {
            continue;
        }
        let message = decode::<ToPvm>(&socket.recv_bytes(0)?)?;
        let words = match &message {
            ToPvm::Welcome { .. } => {
                report.welcomed = true;
                "welcome".to_owned()
            }
            ToPvm::Refused { reason, .. } => {
                report.refused = true;
                format!("refused: {reason}")
            }
            other => format!("{other:?}").chars().take(60).collect(),
        };
        if report.answers.len() < 10 {
            report.answers.push(words);
        }
    }
    Ok(report)
}
