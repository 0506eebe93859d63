//! The task that owns the state: takes one input at a time, changes the RIB, and lets every output flow.

use crate::{
    Options, config,
    customer::CustomerSession,
    fib,
    forwarder::Forwarder,
    mgmt::{self, Question, Questions},
    relay::{self, Session},
    tap::{self, Tap},
};
use anyhow::Context;
use edgeplex_mgmt::{Answer, FIB_SOCKET, SOCKET, config::PvmConfig, show};
use edgeplex_pvm_vrf::{Restart, Vrf};
use edgeplex_relay::{MAX_OPS, ToCvm, ToPvm};
use edgeplex_transport::{
    bgp,
    mgmt::MgmtServer,
    relay::{Delivery, RelayClient, TransportError},
};
use serde_json::Value;
use std::{future::Future, time::Instant};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{error, info, warn};

/// Questions waiting for this task, at most.
const QUESTIONS: usize = 16;

/// One thing that happened.
#[derive(Debug)]
enum Input {
    Customer(bgp::Event),
    Relay(Result<ToPvm, TransportError>),
    Fib(fib::Event),
    Question(Question),
    TapReady,
    Time,
    Stop,
}

/// The daemon of one attachment.
#[derive(Debug)]
pub struct Pvmd {
    options: Options,
    config: PvmConfig,
    started: Instant,
    vrf: Vrf,
    /// Known once FastForward has said what it holds.
    restart: Option<Restart>,
    /// The CVM has told its whole table once.
    vpn_complete: bool,
    customer: CustomerSession,
    relay: RelayClient,
    session: Session,
    forwarder: Forwarder,
    tap: watch::Sender<Tap>,
    tap_ready: watch::Receiver<bool>,
    questions: mpsc::Receiver<Question>,
    _mgmt: MgmtServer,
    _tap_task: Option<JoinHandle<()>>,
}

impl Pvmd {
    /// Reads the configuration and opens every door; nothing here waits for anyone else.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let config = config::load(&options.config)?;
        let now = Instant::now();
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let mgmt = MgmtServer::start(&options.run.join(SOCKET), Questions(ask))?;
        let wanted = Tap { name: options.tap.clone().unwrap_or_default(), address: config.address, mtu: config.customer_mtu };
        let (tap, wanted) = watch::channel(wanted);
        let (ready, tap_ready) = watch::channel(options.tap.is_none());
        let tap_task = options.tap.is_some().then(|| {
            tokio::spawn(async move {
                if let Err(error) = tap::keep(wanted, ready).await {
                    error!(%error, "netlink failed; the interface is no longer looked after");
                }
            })
        });
        info!(attachment = %config.attachment, address = %config.address, pid = std::process::id(), "pvmd starts");
        Ok(Self {
            vrf: Vrf::new(config::vrf(&config)),
            relay: RelayClient::connect(&config.relay).context("relay")?,
            session: Session::new(config.attachment.clone(), now),
            forwarder: Forwarder::new(fib::Link::start(options.run.join(FIB_SOCKET))),
            started: now,
            restart: None,
            vpn_complete: false,
            customer: CustomerSession::default(),
            tap,
            tap_ready,
            questions,
            _mgmt: mgmt,
            _tap_task: tap_task,
            options,
            config,
        })
    }

    /// Runs until `stop` resolves, then leaves without telling the CE, so that packets go on.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        loop {
            let deadline = self.flush(Instant::now())?;
            let input = tokio::select! {
                () = &mut stop => Input::Stop,
                event = self.customer.event() => Input::Customer(event),
                message = self.relay.recv() => Input::Relay(message),
                Some(event) = self.forwarder.event() => Input::Fib(event),
                Some(question) = self.questions.recv() => Input::Question(question),
                // Never guarded by the value as it is now: it may have changed since the last event and would be missed.
                Ok(()) = self.tap_ready.changed() => Input::TapReady,
                () = tokio::time::sleep_until(deadline.into()) => Input::Time,
            };
            if let Input::Stop = input {
                info!("stopping; the CE and FastForward go on with what they have");
                self.customer.leave().await;
                return Ok(());
            }
            self.handle(Instant::now(), input).await?;
        }
    }

    async fn handle(&mut self, now: Instant, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Customer(event) => {
                if let Some(restart) = &mut self.restart {
                    self.customer.handle(now, event, &mut self.vrf, restart);
                }
            }
            Input::Relay(message) => self.on_relay(now, message.context("relay")?)?,
            Input::Fib(event) => {
                if let Some(status) = self.forwarder.handle(now, event, &mut self.vrf) {
                    self.fib_is_up(now, status.epoch.is_some());
                }
            }
            Input::Question((query, reply)) => {
                let answer = self.answer(now, &query).await;
                // The asker may be gone.
                let _ = reply.send(answer);
            }
            Input::TapReady => self.start_customer(),
            // Deadlines are looked at in `flush`.
            Input::Time | Input::Stop => {}
        }
        Ok(())
    }

    /// FastForward holds a FIB, or is empty.
    fn fib_is_up(&mut self, now: Instant, kept: bool) {
        match &mut self.restart {
            None => {
                info!(restarted = kept, "FastForward {}", if kept { "forwards by the FIB of our former life" } else { "is empty" });
                let mut restart = Restart::new(now, kept, self.config.bgp.is_some());
                if self.vpn_complete {
                    restart.vpn_end();
                }
                self.restart = Some(restart);
                self.start_customer();
            }
            Some(restart) if !kept => restart.fib_lost(),
            Some(_) => {}
        }
    }

    /// The CE's session needs the interface, and must know whether this is a restart.
    fn start_customer(&mut self) {
        let ready = *self.tap_ready.borrow() && !self.customer.is_running();
        if let Some(restart) = self.restart.as_ref().filter(|_| ready) {
            self.customer.start(&self.config, self.options.ports, restart.restarted(), &mut self.vrf);
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
        self.customer.tick(now, &mut self.vrf);
        let mut deadline = self.session.deadline();
        if let Some(restart) = &mut self.restart {
            let verdict = restart.verdict(now);
            deadline = restart.deadline(now).map_or(deadline, |d| d.min(deadline));
            self.forwarder.flush(now, verdict, &mut self.vrf);
            self.customer.flush(verdict.release_ce, &mut self.vrf);
            if verdict.relay {
                self.export(now)?;
            }
        }
        let others = [self.customer.deadline(), self.forwarder.deadline()];
        Ok(others.into_iter().flatten().fold(deadline, Instant::min))
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

    async fn answer(&mut self, now: Instant, query: &show::PvmQuery) -> Answer<Value> {
        let answer = match query {
            show::PvmQuery::Status => serde_json::to_value(self.status()),
            show::PvmQuery::Bgp => serde_json::to_value(self.customer.neighbors()),
            show::PvmQuery::Routes => serde_json::to_value(self.vrf.routes().iter().map(mgmt::route).collect::<Vec<_>>()),
            show::PvmQuery::Reload => match self.reload(now).await {
                Ok(()) => serde_json::to_value(show::Reloaded {}),
                Err(error) => {
                    error!(error = format!("{error:#}"), "reload refused; going on as before");
                    return Answer::Error(format!("{error:#}"));
                }
            },
        };
        answer.map_or_else(|e| Answer::Error(e.to_string()), Answer::Ok)
    }

    fn status(&self) -> show::PvmStatus {
        let counts = self.vrf.counts();
        let state = || self.customer.neighbors().into_iter().next().map_or_else(|| "idle".into(), |n| n.state);
        show::PvmStatus {
            attachment: self.config.attachment.clone(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            relay_up: self.session.is_up(),
            fib_up: self.forwarder.is_up(),
            bgp: if self.config.bgp.is_some() { state() } else { "none".into() },
            customer_routes: counts.customer as u64,
            vpn_routes: counts.vpn as u64,
            fib_routes: counts.fib as u64,
        }
    }

    /// Moves to the file as it is now, touching only what differs.
    async fn reload(&mut self, now: Instant) -> anyhow::Result<()> {
        let new = config::load(&self.options.config)?;
        anyhow::ensure!(
            new.attachment == self.config.attachment,
            "attachment is {}: this VM serves {}",
            new.attachment,
            self.config.attachment
        );
        let relay = if new.relay == self.config.relay { None } else { Some(RelayClient::connect(&new.relay).context("relay")?) };
        let old = std::mem::replace(&mut self.config, new);
        if let Some(relay) = relay {
            self.relay = relay;
            self.session.broken(now);
        }
        let another = config::another_session(&old, &self.config);
        if let Some(restart) = self.restart.as_mut().filter(|_| another) {
            self.customer.end(now, &mut self.vrf, restart).await;
            if self.config.bgp.is_none() {
                restart.ce_removed();
            }
        }
        self.vrf.reconfigure(config::vrf(&self.config));
        let tap = Tap { address: self.config.address, mtu: self.config.customer_mtu, ..self.tap.borrow().clone() };
        self.tap.send_if_modified(|t| {
            *t != tap && {
                *t = tap;
                true
            }
        });
        if another {
            self.start_customer();
        } else if let Some(restart) = &self.restart {
            self.customer.update(&self.config, self.options.ports, restart.restarted());
        }
        info!(session_ends = another, "configuration reloaded");
        Ok(())
    }
}
