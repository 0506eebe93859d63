//! From following to speaking: an order in which no neighbour notices.
//!
//! ```text
//!   gate ─► labels ─► OSPF, BFD ─► kernel routes ─► BGP, LDP ─► FECs ─► core known ─► relay ─► label-switching router
//! ```
//! Nothing that was told before is withdrawn meanwhile: a protocol says nothing of routes and labels before it is told, and routes to
//! the reflectors wait for the PVMs' snapshots, as after any start.

use super::{Control, core::Event, instance::Link};
use crate::{
    core_io::{CoreEvent, CoreIo},
    instance::empty_labels,
    network::NetworkEvent,
};
use anyhow::Context;
use edgeplex_ff_fib_client::Holder;
use edgeplex_journal::Record;
use edgeplex_mgmt::{
    FIB_SOCKET,
    show::{JOURNAL_SOCKET, Promoted},
};
use edgeplex_transport::{
    journal::{Followed, Journal},
    ldp,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{error, info};

impl<I: CoreIo> Control<I> {
    /// A change that another instance, or a past process, has written down.
    pub(super) fn replay(&mut self, record: &Record) {
        self.standing.replayed = true;
        let hop = self.standing.values.replay(record);
        if let Some((hop, mac)) = hop {
            self.core.neighbor(hop, mac);
        }
        self.core.replay(record);
        self.reflectors.replay(record);
    }

    /// What a successor needs of an event.
    pub(super) fn write_down(&mut self, event: &Event) {
        match event {
            Event::Core(CoreEvent::Network(NetworkEvent::Neighbor { hop, mac })) => self.standing.values.put_neighbor(hop, *mac),
            Event::Core(CoreEvent::Ldp(ldp::Event::Store(bindings))) => self.standing.values.put_bindings(bindings),
            _ => {}
        }
    }

    /// The journal is ours: changes go there from now on, and FastForward holds what is not committed.
    /// It holds also where nothing is kept: it must hear that sessions need no hold.
    pub(super) fn keep(&mut self, journal: &Journal) -> Holder {
        let holder = Holder::start(self.paths.run.join(FIB_SOCKET));
        journal.set_gate(Arc::new(holder.clone()));
        if journal.keeps() {
            self.standing.values.write_to(journal.clone());
            self.standing.values.put_identity(&self.config);
            self.standing.values.put_labels(self.vpn.labels());
        }
        holder
    }

    /// A standby takes its leader's place.
    pub(super) async fn succeed(&mut self) -> anyhow::Result<()> {
        let Link::Leader(follower, _) = std::mem::replace(&mut self.standing.link, Link::Journal(Journal::none())) else {
            return Ok(());
        };
        let (journal, rest) = match follower.into_journal() {
            Ok(read) => read,
            Err(error) => {
                error!(%error, "what the leader said cannot be read");
                return self.begin_cold(self.standing.instance, Duration::ZERO);
            }
        };
        for followed in rest {
            if let Followed::Record(record) = followed {
                self.replay(&record);
            }
        }
        self.standing.set_link(Link::Journal(journal.clone()));
        self.take_over(journal).await
    }

    /// Everything has been replayed, and nobody else speaks.
    pub(super) async fn take_over(&mut self, journal: Journal) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut stages = Stages::new(begun);
        let mut labels = empty_labels(begun, super::wall_clock(), &self.config);
        if self.standing.values.labels(begun, &mut labels) {
            self.vpn.take_over(begun, labels);
        }
        let (neighbors, settled) = (self.standing.values.neighbors(), self.standing.values.settled());
        let holder = self.keep(&journal);
        stages.end("values");

        let routing = self.core.promote_routing(neighbors, &journal);
        let routing = self.meanwhile(routing).await;
        stages.end("OSPF and BFD");
        let routes = self.core.route();
        self.meanwhile(routes).await;
        stages.end("kernel routes");
        let sessions = futures::future::join(self.core.promote_labels(&journal), self.reflectors.promote(&journal));
        let (labels, bgp) = self.meanwhile(sessions).await;
        holder.known();
        stages.end("BGP and LDP");
        // Only then is all of it known: what LDP has yet to say would be taken for labels that are gone.
        let told = self.core.speak();
        self.meanwhile(told).await;
        let settled = settled && routing.lost == 0 && labels.lost == 0;
        self.standing.values.put_settled(settled);
        if settled {
            self.core.knows_all();
            self.reflectors.core_converged(&mut self.vpn);
            self.think();
        }
        stages.end("FECs");
        self.relay.bind(&self.config)?;
        self.core.set_forwarding(&self.config, true);
        self.begin_to_speak();
        self.serve(&journal)?;
        stages.end("relay");
        let all = [routing, labels, bgp];
        let promoted = Promoted {
            sessions: all.iter().map(|p| p.sessions).sum(),
            lost: all.iter().map(|p| p.lost).sum(),
            took_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        info!(?routing, ?labels, ?bgp, us = promoted.took_us, settled, %stages, "taken over");
        self.standing.promoted = Some(promoted);
        self.files_due = true;
        Ok(())
    }

    /// Labels stand in the journal, which outlives the process. The files, which outlive the VM, need the disk: they are written when
    /// there is time.
    pub(super) fn write_files(&mut self) {
        if std::mem::take(&mut self.files_due) {
            self.core.store(Instant::now(), self.standing.values.bindings());
            self.store_labels();
        }
    }

    /// A standby may follow.
    pub(super) fn serve(&self, journal: &Journal) -> anyhow::Result<()> {
        if journal.keeps() {
            journal.serve(self.paths.run.join(JOURNAL_SOCKET)).context("journal.sock")?;
        }
        Ok(())
    }

    /// Waits for something while events are taken as they come: who is waited for may itself wait for that.
    pub(super) async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        tokio::pin!(wanted);
        loop {
            let more = self.think();
            tokio::select! {
                // All that the core said before it was done has been taken then. A table of the reflectors' may take long, and
                // nobody waits for it.
                biased;
                event = self.core.event() => self.core_event(event),
                done = &mut wanted => {
                    self.think();
                    return done;
                }
                Some(event) = self.reflectors.event() => self.reflectors.handle(Instant::now(), event, &mut self.vpn),
                () = std::future::ready(()), if more => tokio::task::yield_now().await,
            }
        }
    }
}

/// How long each stage has taken.
struct Stages {
    since: Instant,
    said: String,
}

impl Stages {
    fn new(now: Instant) -> Self {
        Self { since: now, said: String::new() }
    }

    fn end(&mut self, stage: &str) {
        let now = Instant::now();
        let separator = if self.said.is_empty() { "" } else { ", " };
        self.said += &format!("{separator}{stage} {} us", (now - self.since).as_micros());
        self.since = now;
    }
}

impl std::fmt::Display for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.said)
    }
}
