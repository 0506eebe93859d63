//! The task that owns the state: takes one input at a time, changes the RIB, and lets every output flow.

use crate::{
    Options,
    bfd::{Change, Watch},
    config::{self, Loaded},
    customer::Customers,
    forwarder::{self, Seen},
    instance::{Life, Phase},
    mgmt::{self, Question, Questions},
    probe::Prober,
    relay::{self, Session},
    tap::{self, Tap},
};
use anyhow::Context;
use edgeplex_ff_fib_api::{FibOp, Neighbor};
use edgeplex_ff_fib_client as fib;
use edgeplex_journal::Record;
use edgeplex_mgmt::{Answer, FIB_SOCKET, SOCKET, config::PvmConfig, show};
use edgeplex_pvm_vrf::{Restart, Verdict, Vrf};
use edgeplex_relay::{MAX_OPS, Refusal, ToCvm, ToPvm};
use edgeplex_transport::{
    bfd, bgp,
    journal::Followed,
    mgmt::MgmtServer,
    relay::{Delivery, RelayClient, TransportError},
};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{error, info, warn};

mod orders;
use orders::{Done, Work};

/// Questions waiting for this task, at most.
const QUESTIONS: usize = 16;
/// A look around when there is nothing to wait for.
const IDLE: Duration = Duration::from_secs(1);

/// One thing that happened.
#[derive(Debug)]
enum Input {
    Customer(bgp::Event),
    Bfd(bfd::Event),
    Relay(Result<ToPvm, TransportError>),
    Fib(fib::Event),
    Question(Question),
    TapReady,
    Seen(Seen),
    Followed(Followed),
    LogChanged,
    Done(Done),
    Time,
}

/// The daemon of one attachment.
#[derive(Debug)]
pub struct Pvmd {
    options: Options,
    loaded: Loaded,
    started: Instant,
    vrf: Vrf,
    /// Known once FastForward has said what it holds.
    restart: Option<Restart>,
    /// The CVM has told its whole table once.
    vpn_complete: bool,
    life: Life,
    /// Of a predecessor, until there are sessions to read them into.
    records: Vec<Record>,
    /// As a standby: the RIB has all that the leader's has.
    caught_up: bool,
    work: Work,
    log_changes: watch::Receiver<u64>,
    customers: Customers,
    bfd: Watch,
    relay: RelayClient,
    session: Session,
    forwarder: fib::Client,
    seen: mpsc::Receiver<Seen>,
    seeds: watch::Sender<Option<Vec<Neighbor>>>,
    tap: watch::Sender<Tap>,
    tap_ready: watch::Receiver<bool>,
    questions: mpsc::Receiver<Question>,
    _mgmt: MgmtServer,
    _tap_task: Option<JoinHandle<()>>,
}

fn tap_of(name: String, config: &PvmConfig) -> Tap {
    let mut addresses = config.addresses.clone();
    addresses.sort();
    Tap { name, addresses, mtu: config.customer_mtu }
}

/// The RIB as FastForward is told of it, as far as the verdict goes.
struct Programmed<'a> {
    vrf: &'a mut Vrf,
    verdict: Verdict,
}

impl fib::Source for Programmed<'_> {
    fn restart(&mut self) {
        self.vrf.fib_restart();
    }

    fn take(&mut self, max: usize) -> Vec<FibOp> {
        self.vrf.fib_ops(max, self.verdict.fib)
    }

    fn complete(&self) -> bool {
        self.verdict.fib_end && self.vrf.fib_clean()
    }
}

impl Pvmd {
    /// Reads the configuration and opens every door; nothing here waits for anyone else.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let loaded = config::load(&options.config)?;
        let config = &loaded.config;
        let now = Instant::now();
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let (tap, wanted) = watch::channel(tap_of(options.tap.clone().unwrap_or_default(), config));
        let holder = fib::Holder::start(options.run.join(FIB_SOCKET));
        let (life, records) = Life::start(&options.run, options.journal.as_deref(), config.instance, holder.clone())?;
        let (seeds, seed) = watch::channel(None);
        let (look, seen) = mpsc::channel(1);
        tokio::spawn(forwarder::keep(holder, seed, look));
        let mgmt = MgmtServer::start(&options.run.join(SOCKET), Questions::new(ask, Prober::new(wanted.clone()), life.watch()))?;
        let (ready, tap_ready) = watch::channel(options.tap.is_none());
        let tap_task = options.tap.is_some().then(|| {
            tokio::spawn(async move {
                if let Err(error) = tap::keep(wanted, ready).await {
                    error!(%error, "netlink failed; the interface is no longer looked after");
                }
            })
        });
        info!(attachment = %config.attachment, addresses = config::addresses(config), pid = std::process::id(), "pvmd starts");
        let mut bfd = Watch::start(options.tap.as_deref());
        // Nothing is wanted no more.
        let _ = bfd.configure(&loaded);
        Ok(Self {
            vrf: Vrf::new(loaded.vrf.clone()),
            relay: RelayClient::connect(&config.relay).context("relay")?,
            session: Session::new(config.attachment.clone(), life.instance, now),
            forwarder: fib::Client::start(options.run.join(FIB_SOCKET)),
            started: now,
            restart: None,
            vpn_complete: false,
            log_changes: life.log_changes(),
            life,
            records,
            caught_up: false,
            work: Work::default(),
            customers: Customers::new(options.ports.clone()),
            bfd,
            seen,
            seeds,
            tap,
            tap_ready,
            questions,
            _mgmt: mgmt,
            _tap_task: tap_task,
            options,
            loaded,
        })
    }

    /// Runs until `stop` resolves, then leaves without telling the CEs, so that packets go on.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => {
                    let successor = self.life.has_successor();
                    info!(successor, "stopping; the CEs and FastForward go on with what they have");
                    self.bfd.leave(successor).await;
                    self.customers.leave(successor).await;
                    return Ok(());
                }
                input = self.next() => {
                    let input = input?;
                    self.handle(Instant::now(), input).await?;
                }
            }
        }
    }

    /// Lets everything flow that may, then waits for what happens next. Cancel-safe.
    async fn next(&mut self) -> anyhow::Result<Input> {
        let deadline = self.flush(Instant::now())?;
        Ok(tokio::select! {
            event = self.customers.event() => Input::Customer(event),
            event = self.bfd.event() => Input::Bfd(event),
            message = self.relay.recv() => Input::Relay(message),
            event = self.forwarder.event() => Input::Fib(event),
            Some(question) = self.questions.recv() => Input::Question(question),
            Some(seen) = self.seen.recv() => Input::Seen(seen),
            followed = self.life.followed() => Input::Followed(followed),
            Ok(()) = self.log_changes.changed() => Input::LogChanged,
            done = self.work.done() => Input::Done(done?),
            // Never guarded by the value as it is now: it may have changed since the last event and would be missed.
            Ok(()) = self.tap_ready.changed() => Input::TapReady,
            () = tokio::time::sleep_until(deadline.into()) => Input::Time,
        })
    }

    async fn handle(&mut self, now: Instant, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Customer(event) => {
                if let Some(restart) = &mut self.restart {
                    self.customers.handle(now, event, &mut self.vrf, restart);
                }
            }
            Input::Bfd(event) => {
                let changes = self.bfd.handle(event);
                self.bfd_changes(now, changes);
            }
            Input::Relay(message) => self.on_relay(now, message.context("relay")?)?,
            Input::Fib(event) => {
                if let Some(status) = self.forwarder.handle(now, event) {
                    self.fib_is_up(now, status.epoch.is_some());
                }
            }
            Input::Question((query, reply)) => self.answer(now, query, reply).await,
            Input::TapReady => self.begin(now),
            Input::Seen(seen) => self.seen(seen),
            Input::Followed(followed) => self.on_followed(followed),
            Input::Done(done) => self.on_done(now, done),
            // Deadlines and what is told of this instance are looked at in `flush`.
            Input::LogChanged | Input::Time => {}
        }
        Ok(())
    }

    fn bfd_changes(&mut self, now: Instant, changes: Vec<Change>) {
        for change in changes {
            match (change, &mut self.restart) {
                (Change::StaticUp(via) | Change::StaticDown(via), restart) => {
                    self.vrf.bfd(via, change == Change::StaticUp(via));
                    if let Some(restart) = restart {
                        restart.bfd_settled(via);
                    }
                }
                (Change::BgpDown(peer), Some(restart)) => self.customers.bfd_down(now, peer, &mut self.vrf, restart),
                // Without it there is no session yet.
                (Change::BgpDown(_), None) => {}
            }
        }
    }

    /// FastForward holds a FIB, or is empty.
    fn fib_is_up(&mut self, now: Instant, kept: bool) {
        match &mut self.restart {
            None => {
                info!(restarted = kept, "FastForward {}", if kept { "forwards by the FIB of our former life" } else { "is empty" });
                let ces = config::sessions(&self.loaded.config).map(|b| b.neighbor);
                let mut restart = Restart::new(now, kept, ces, self.bfd.unsettled());
                if self.vpn_complete {
                    restart.vpn_end();
                }
                self.restart = Some(restart);
                self.begin(now);
            }
            Some(restart) if !kept => restart.fib_lost(),
            Some(_) => {}
        }
    }

    fn on_relay(&mut self, now: Instant, message: ToPvm) -> anyhow::Result<()> {
        let mut out = vec![];
        let event = self.session.receive(now, message, &mut out);
        self.say(now, out)?;
        if let Some(event) = event {
            self.relay_event(event);
        }
        Ok(())
    }

    fn relay_event(&mut self, event: relay::Event) {
        match event {
            relay::Event::Up => {
                info!("relay session is up");
                self.vrf.relay_restart();
            }
            relay::Event::Vpn(sync) => {
                if self.vrf.vpn(sync) {
                    info!(routes = self.vrf.counts().vpn, "the CVM's table is complete");
                    self.vpn_complete = true;
                    if let Some(restart) = &mut self.restart {
                        restart.vpn_end();
                    }
                }
            }
            relay::Event::Down(reason) => warn!(reason, "relay session is down; its routes stay"),
            relay::Event::Refused(Refusal::Superseded) => self.replaced(),
            relay::Event::Refused(reason) => warn!(%reason, "relay session refused"),
        }
    }

    /// Sends on the relay. False: a message was lost, and the session starts anew.
    fn say(&mut self, now: Instant, messages: impl IntoIterator<Item = ToCvm>) -> anyhow::Result<bool> {
        for message in messages {
            let calling = matches!(message, ToCvm::Hello { .. });
            match self.relay.send(&message).context("relay")? {
                Delivery::Queued => {}
                Delivery::Dropped if calling => self.session.nobody_there(now),
                Delivery::Dropped => {
                    warn!("the relay takes nothing; its session starts anew");
                    self.session.broken(now);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Lets everything flow that may, and says when to come back at the latest.
    fn flush(&mut self, now: Instant) -> anyhow::Result<Instant> {
        let mut out = vec![];
        if let Some(event) = self.session.tick(now, &mut out) {
            self.relay_event(event);
        }
        self.say(now, out)?;
        self.customers.tick(now, &mut self.vrf);
        let lease = self.lease(now);
        self.write_changes();
        let mut waits = None;
        if let Some(restart) = &mut self.restart {
            let verdict = restart.verdict(now);
            waits = restart.deadline(now);
            self.forwarder.flush(now, &mut Programmed { vrf: &mut self.vrf, verdict });
            self.customers.flush(verdict.release_ce, &mut self.vrf);
            if verdict.relay {
                self.export(now)?;
            }
        }
        self.instance_status();
        let deadlines = [waits, lease, self.session.deadline(), self.customers.deadline(), self.forwarder.deadline()];
        Ok(deadlines.into_iter().flatten().min().unwrap_or(now + IDLE))
    }

    /// Exports to the CVM, as far as its credits go.
    fn export(&mut self, now: Instant) -> anyhow::Result<()> {
        while self.session.may_send() && !self.vrf.relay_clean() {
            let ops = self.vrf.relay_ops(MAX_OPS);
            if ops.is_empty() {
                break;
            }
            let message = self.session.ops(now, ops);
            if !self.say(now, message)? {
                return Ok(());
            }
        }
        if self.vrf.relay_clean() {
            let message = self.session.end(now);
            self.say(now, message)?;
        }
        Ok(())
    }

    async fn answer(&mut self, now: Instant, query: mgmt::StateQuery, reply: mgmt::Reply) {
        let answer = match query {
            mgmt::StateQuery::Status => mgmt::answer(&self.status()),
            mgmt::StateQuery::Bgp => mgmt::answer(&self.customers.neighbors()),
            mgmt::StateQuery::Routes => mgmt::answer(&self.vrf.routes().iter().map(mgmt::route).collect::<Vec<_>>()),
            mgmt::StateQuery::Bfd => {
                let show = self.bfd.show();
                tokio::spawn(async move { reply.send(mgmt::answer(&show.await)) });
                return;
            }
            mgmt::StateQuery::Instance(order) => return self.order(now, order, reply),
            mgmt::StateQuery::Reload => match self.reload(now).await {
                Ok(()) => mgmt::answer(&show::Reloaded {}),
                Err(error) => {
                    error!(error = format!("{error:#}"), "reload refused; going on as before");
                    Answer::Error(format!("{error:#}"))
                }
            },
        };
        // The asker may be gone.
        let _ = reply.send(answer);
    }

    fn instance_status(&mut self) -> show::InstanceStatus {
        // Before it is caught up a standby's table is not whole.
        let whole = self.caught_up || matches!(self.life.phase, Phase::Speaking | Phase::Fenced { .. } | Phase::Replaced);
        self.life.status(whole && self.forwarder.is_complete())
    }

    fn status(&self) -> show::PvmStatus {
        let counts = self.vrf.counts();
        show::PvmStatus {
            attachment: self.loaded.config.attachment.clone(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            relay_up: self.session.is_up(),
            fib_up: self.forwarder.is_up(),
            bgp: mgmt::least(&self.loaded.config, &self.customers.neighbors()),
            customer_routes: counts.customer as u64,
            vpn_routes: counts.vpn as u64,
            fib_routes: counts.fib as u64,
        }
    }

    /// Moves to the file as it is now, touching only what differs.
    async fn reload(&mut self, now: Instant) -> anyhow::Result<()> {
        let new = config::load(&self.options.config)?;
        let serves = &self.loaded.config.attachment;
        anyhow::ensure!(new.config.attachment == *serves, "attachment is {}: this VM serves {serves}", new.config.attachment);
        let same_relay = new.config.relay == self.loaded.config.relay;
        let relay = if same_relay { None } else { Some(RelayClient::connect(&new.config.relay).context("relay")?) };
        let others = self.customers.others(&new);
        self.loaded = new;
        if let Some(relay) = relay {
            self.relay = relay;
            self.session.broken(now);
        }
        self.vrf.reconfigure(self.loaded.vrf.clone());
        if let Some(restart) = &mut self.restart {
            self.customers.reconfigure(now, &self.loaded, &mut self.vrf, restart).await;
        }
        let changes = self.bfd.configure(&self.loaded);
        self.bfd_changes(now, changes);
        self.tap.send_if_modified(|tap| {
            let new = tap_of(tap.name.clone(), &self.loaded.config);
            *tap != new && {
                *tap = new;
                true
            }
        });
        self.renumber(now);
        self.begin(now);
        if others {
            self.read_again()?;
        }
        info!("configuration reloaded");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
