//! What EdgePlex promises, each promise as one small check that runs against a lab that is up and provisioned.
//! `lab/demo` and `lab/test` run the same list.

mod badpeer;
mod capture;
mod churn;
mod failure;
mod forge;
mod intent;
mod isolation;
mod reach;
mod rogue;
mod site;

pub use capture::{Capture, tshark};
pub use site::{CITIES, CUSTOMERS, Ctx, P_ROUTER, PLATFORMS};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, time::Instant};

/// What a check found: a sentence for people, and figures.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    pub text: String,
    pub figures: BTreeMap<String, Value>,
}

impl Evidence {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), figures: BTreeMap::new() }
    }

    #[must_use]
    pub fn figure(mut self, name: &str, value: impl Serialize) -> Self {
        self.figures.insert(name.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
        self
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Ctx<'_>) -> Result<Evidence>,
}

/// The outcome of one scenario, as it stands in the table and in the JSON file.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    pub name: String,
    pub passed: bool,
    pub evidence: String,
    pub figures: BTreeMap<String, Value>,
    pub seconds: f64,
}

/// In the order in which they run: first what only looks, last what disturbs most.
pub const ALL: &[Scenario] = &[
    Scenario { name: "ping between the cities", run: reach::ping },
    Scenario { name: "1400-byte ping, DF set", run: reach::ping_df },
    Scenario { name: "UDP, answered by the right host", run: reach::udp },
    Scenario { name: "TCP, 50 MB with checksum", run: reach::tcp },
    Scenario { name: "traceroute through the VPN", run: reach::traceroute },
    Scenario { name: "labels on the core (tshark)", run: capture::labels },
    Scenario { name: "no packet crosses customers", run: isolation::by_sending },
    Scenario { name: "CE withdraws: gone within 1 s", run: churn::withdraw },
    Scenario { name: "CE session reset and back", run: churn::session_reset },
    Scenario { name: "kill -9 pvmd: no packet lost", run: failure::pvmd },
    Scenario { name: "kill -9 edgeplexd: nothing changes", run: failure::edgeplexd },
    Scenario { name: "customer deleted and created", run: churn::delete_and_create },
    Scenario { name: "CVM killed: labels stay", run: failure::cvm },
    Scenario { name: "bad BGP disturbs only its sender", run: badpeer::bad_bgp },
    // These need no session of the customer that misbehaved, which is left alone for half a minute.
    Scenario { name: "bad intent changes nothing", run: intent::refused },
    Scenario { name: "rogue PVMs are refused", run: rogue::refused },
    Scenario { name: "forged access frames go nowhere", run: isolation::forged },
    Scenario { name: "forged frames of a PVM go nowhere", run: isolation::forged_by_pvm },
    Scenario { name: "after bad BGP: service is back", run: badpeer::recovered },
];

impl Scenario {
    pub fn prove(&self, ctx: &Ctx<'_>) -> Proof {
        let started = Instant::now();
        let outcome = (self.run)(ctx);
        let seconds = started.elapsed().as_secs_f64();
        let (passed, evidence) = match outcome {
            Ok(e) => (true, e),
            Err(e) => (false, Evidence::new(format!("{e:#}"))),
        };
        Proof { name: self.name.to_owned(), passed, evidence: evidence.text, figures: evidence.figures, seconds }
    }
}
