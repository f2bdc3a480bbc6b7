//! The control thread: signals, reloads, names, the log's rotation, the drain. Nothing of it ever runs on a worker; it speaks to
//! them through their inboxes and reads their cells.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};

use crate::admin::socket::AdminSocket;
use crate::admin::{Admin, Asker};
use crate::config::{Drain, Name};
use crate::downstream::seat::{Budget, Budgets};
use crate::expiry::Daily;
use crate::gateway::Ended;
use crate::listening::Addresses;
use crate::metrics::Metrics;
use crate::metrics::http::Served;
use crate::proxy::Serving;
use crate::record::Sink;
use crate::reload::{Applied, Fates, ReloadError, Retired, Source};
use crate::telemetry::{Dropped, Output};
use crate::upstream::resolve::{self, Departed};
use crate::upstream::{EndpointStates, Upstream};
use crate::worker::{Context, Message};

/// How often it is looked at whether the log dropped lines.
const LOG_CHECK: Duration = Duration::from_secs(5);

/// How often it is looked at whether a configuration that was replaced is still in use.
const FREE_CHECK: Duration = Duration::from_secs(1);

/// Everything that outlives a configuration, and the workers.
#[derive(Debug)]
pub struct Control {
    /// The workers.
    pub workers: Vec<WorkerHandle>,
    /// The configuration in force.
    pub serving: Arc<Serving>,
    /// What is known of endpoints, whatever configuration they came with.
    pub states: Arc<EndpointStates>,
    /// The listening sockets, which it owns.
    pub addresses: Addresses,
    /// The budgets of connections.
    pub budgets: Budgets,
    /// The budget of tunnels.
    pub tunnels: Budget,
    /// Where records go.
    pub sink: Arc<Sink>,
    /// The log.
    pub output: Output,
    /// What is told of all of it.
    pub metrics: Arc<Metrics>,
    /// How to drain.
    pub drain: Drain,
    /// Where another configuration comes from.
    pub source: Source,
    /// What it does beside.
    pub tasks: Tasks,
}

/// What the control thread does beside hearing signals; all of it ends with it.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<()>,
    /// The look-ups of upstreams with names.
    look_ups: HashMap<Name, (Arc<Upstream>, AbortHandle)>,
    departures: Option<mpsc::UnboundedSender<Departed>>,
    /// Configurations that were replaced and are still in use.
    pub retired: Vec<Retired>,
    /// Tunnels that have until then to end by themselves.
    pub draining: Vec<(Instant, Arc<Fates>)>,
}

impl Tasks {
    /// Does this, too, until it is done.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        // Those that are done are forgotten here, at the latest.
        while self.running.try_join_next().is_some() {}
        self.running.spawn(task)
    }

    /// Waits until the time of some tunnels is over.
    fn drained(&self) -> impl Future<Output = ()> + use<> {
        let next = self.draining.iter().map(|(until, _)| *until).min();
        async move {
            match next {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        }
    }
}

/// A worker as the control thread holds it.
#[derive(Debug)]
pub struct WorkerHandle {
    /// Its inbox.
    pub orders: mpsc::UnboundedSender<Message>,
    /// What it shares with its connections.
    pub context: Arc<Context>,
    /// Says that it has run to its end.
    pub ended: oneshot::Receiver<()>,
    /// Its thread.
    pub thread: JoinHandle<()>,
}

/// How a gateway inside a larger program is ended: like a signal, for each time that its sender sends.
#[derive(Debug)]
pub struct Stop(mpsc::UnboundedReceiver<()>);

impl Stop {
    /// The sender asks for the drain, and the second time for the end.
    pub fn channel() -> (mpsc::UnboundedSender<()>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    async fn asked(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

/// The control thread's runtime, and the signals that it hears. A signal that comes between this and the moment that the
/// gateway serves waits for it, and ends no process that has bound its addresses already.
#[derive(Debug)]
pub struct Ears {
    runtime: Runtime,
    signals: Signals,
}

impl Ears {
    /// Hears from now on.
    pub fn open() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _within = runtime.enter();
            Signals::listen()?
        };
        Ok(Self { runtime, signals })
    }
}

/// Where the gateway itself is asked, beside its listeners.
#[derive(Debug)]
pub struct Doors {
    /// For metrics and health.
    pub metrics: Option<Served>,
    /// For administration.
    pub admin: Option<AdminSocket>,
}

/// The signals that a gateway listens to.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    /// Never waited for: heard, it makes a log file that has reached a limit (ulimit -f) an error of the write, and not the
    /// end of the process.
    _file_size: Signal,
}

impl Control {
    /// Runs the gateway to its end.
    pub fn run(self, ears: Ears, stop: Stop, doors: Doors) -> Ended {
        let Ears { runtime, signals } = ears;
        let ended = runtime.block_on(self.serve(signals, stop, doors));
        // A look-up blocks a thread for as long as the machine's resolver has patience: the end does not wait for it.
        runtime.shutdown_background();
        ended
    }

    async fn serve(mut self, mut signals: Signals, mut stop: Stop, doors: Doors) -> Ended {
        self.metrics.listens_on(self.addresses.all());
        let mut asked = self.open(doors);
        let (departures, mut departed) = mpsc::unbounded_channel();
        self.tasks.departures = Some(departures);
        self.keep_names();
        tracing::info!(workers = self.workers.len(), "serving");
        tell_service_manager(NotifyState::Ready);
        self.metrics.ready(true);
        self.until_end(&mut signals, &mut stop, &mut departed, &mut asked).await;
        // Before anything else of the drain: who asks shall send nothing more.
        self.metrics.ready(false);
        tracing::info!(deadline = ?self.drain.deadline, open = self.open_entries(), "draining");
        tell_service_manager(NotifyState::Stopping);
        // The workers take what waits in the queues; their duplicates keep the sockets open until they have.
        self.addresses.all().for_each(|(_, listening)| listening.close_door());
        self.addresses = Addresses::default();
        self.tell(|| Message::Drain);
        self.until_drained(&mut signals, &mut stop, &mut asked).await;
        self.conclude()
    }

    /// Serves at its own doors from now on; gives those who ask for a reload there.
    fn open(&mut self, doors: Doors) -> mpsc::UnboundedReceiver<Asker> {
        let (reloads, asked) = mpsc::unbounded_channel();
        match doors.metrics.map(Served::watch).transpose() {
            Ok(Some(metrics)) => _ = self.tasks.spawn(metrics.serve(Arc::clone(&self.metrics))),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the address of the metrics cannot be watched"),
        }
        match doors.admin.map(Admin::watch).transpose() {
            Ok(Some(admin)) => _ = self.tasks.spawn(admin.serve(Arc::clone(&self.metrics), reloads)),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the socket of administration cannot be watched"),
        }
        asked
    }

    /// Looks the names of the configuration in force up from now on. Upstreams that are what they were go on as they are.
    pub fn keep_names(&mut self) {
        let Some(departures) = self.tasks.departures.clone() else { return };
        let upstreams: Vec<_> = self.serving.upstreams().filter(|u| u.names().next().is_some()).cloned().collect();
        let is_kept = |known: &Arc<Upstream>| upstreams.iter().any(|upstream| Arc::ptr_eq(upstream, known));
        for (_, (_, gone)) in self.tasks.look_ups.extract_if(|_, (known, _)| !is_kept(known)) {
            gone.abort();
        }
        for upstream in upstreams {
            if !self.tasks.look_ups.contains_key(&upstream.config.name) {
                let (states, departures) = (Arc::clone(&self.states), departures.clone());
                let task = self.tasks.spawn(resolve::keep_resolved(Arc::clone(&upstream), states, departures));
                self.tasks.look_ups.insert(upstream.config.name.clone(), (upstream, task));
            }
        }
    }

    /// Serves until it is asked to end.
    async fn until_end(
        &mut self,
        signals: &mut Signals,
        stop: &mut Stop,
        departed: &mut mpsc::UnboundedReceiver<Departed>,
        asked: &mut mpsc::UnboundedReceiver<Asker>,
    ) {
        let mut check = log_check();
        let mut expiry = Daily::from(SystemTime::now());
        let mut free = interval(FREE_CHECK);
        free.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut askers = Vec::new();
            tokio::select! {
                () = either(&mut signals.terminate, &mut signals.interrupt) => return,
                () = stop.asked() => return,
                _ = signals.hangup.recv() => {}
                Some(asker) = asked.recv() => askers.push(asker),
                Some((upstream, gone)) = departed.recv() => {
                    self.see_to_departed(gone, upstream.config.on_removed);
                    continue;
                }
                () = self.tasks.drained() => {
                    self.end_drained();
                    continue;
                }
                _ = free.tick() => {
                    self.free_retired();
                    expiry.tell(&self.serving.config, SystemTime::now());
                    continue;
                }
                _ = signals.user1.recv() => {
                    self.reopen_log();
                    continue;
                }
                _ = check.tick() => {
                    tell_dropped_lines(&self.output);
                    continue;
                }
            }
            // One reading of the file is an answer to all who have asked before it.
            askers.extend(std::iter::from_fn(|| asked.try_recv().ok()));
            // What the file takes to be read may be long; the end does not wait for it.
            let reloaded = tokio::select! {
                () = either(&mut signals.terminate, &mut signals.interrupt) => return,
                () = stop.asked() => return,
                reloaded = self.reload() => Arc::new(reloaded),
            };
            for asker in askers {
                // Who has left does not want to know.
                let _ = asker.send(Arc::clone(&reloaded));
            }
        }
    }

    /// Goes over to what the file says now, or says why not.
    async fn reload(&mut self) -> Result<Applied, ReloadError> {
        tell_service_manager(NotifyState::Reloading);
        let (serving, states) = (Arc::clone(&self.serving), Arc::clone(&self.states));
        let result = match self.source.prepare(serving, states).await {
            Ok(prepared) => self.apply(prepared).await,
            Err(error) => Err(error),
        };
        self.metrics.reloads.count(result.is_ok());
        if let Err(error) = &result {
            tracing::error!("the reload is refused, and the configuration stays as it is: {error}");
        }
        tell_service_manager(NotifyState::Ready);
        result
    }

    /// Waits for the workers; when the deadline has passed or a second signal has come, what is left is cut.
    async fn until_drained(
        &mut self,
        signals: &mut Signals,
        stop: &mut Stop,
        asked: &mut mpsc::UnboundedReceiver<Asker>,
    ) {
        let mut deadline = pin!(sleep(self.drain.deadline));
        let mut check = log_check();
        loop {
            tokio::select! {
                () = all_ended(&mut self.workers) => return,
                () = &mut deadline => {
                    tracing::warn!(open = self.open_entries(), "drain.deadline has passed: cutting what is left");
                    break;
                }
                () = either(&mut signals.terminate, &mut signals.interrupt) => {
                    tracing::warn!(open = self.open_entries(), "second signal: cutting what is left");
                    break;
                }
                () = stop.asked() => {
                    tracing::warn!(open = self.open_entries(), "asked again: cutting what is left");
                    break;
                }
                _ = signals.hangup.recv() => self.refuse_reload(),
                Some(asker) = asked.recv() => {
                    self.refuse_reload();
                    let _ = asker.send(Arc::new(Err(ReloadError::Draining)));
                }
                _ = signals.user1.recv() => self.reopen_log(),
                _ = check.tick() => tell_dropped_lines(&self.output),
            }
        }
        self.tell(|| Message::HardStop);
        all_ended(&mut self.workers).await;
    }

    fn conclude(self) -> Ended {
        let (mut connections, mut refused, mut requests, mut tunnels, mut cut) = (0, 0, 0, 0, 0);
        for worker in self.workers {
            let cell = Arc::clone(&worker.context.cell);
            if worker.thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
            connections += cell.connections.get();
            refused += cell.refused.get();
            requests += cell.requests.get();
            tunnels += cell.tunnels.get();
            cut += cell.cut.get();
        }
        tell_dropped_lines(&self.output);
        tracing::info!(connections, refused, requests, tunnels, cut, "ended");
        Ended { cut }
    }

    fn tell(&self, message: impl Fn() -> Message) {
        for worker in &self.workers {
            // A worker that has ended has nothing left to be told.
            let _ = worker.orders.send(message());
        }
    }

    fn open_entries(&self) -> usize {
        self.workers.iter().map(|worker| worker.context.registry.len()).sum()
    }

    fn refuse_reload(&self) {
        self.metrics.reloads.count(false);
        tracing::error!("the reload is refused: the gateway drains");
    }

    fn reopen_log(&self) {
        self.output.reopen();
        tracing::info!("SIGUSR1: the log file is opened anew");
    }
}

fn tell_dropped_lines(output: &Output) {
    if let Some(Dropped { new, total }) = output.newly_dropped() {
        tracing::warn!(dropped = new, total, "lines of the log were dropped: what reads them is too slow");
    }
}

/// Does nothing where no service manager asked for it (NOTIFY_SOCKET is not set).
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// When it is looked whether lines of the log were dropped.
fn log_check() -> Interval {
    let mut check = interval(LOG_CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check
}

async fn all_ended(workers: &mut [WorkerHandle]) {
    for worker in workers {
        if !worker.ended.is_terminated() {
            // An error means that its thread is gone, which is an end as well.
            let _ = (&mut worker.ended).await;
        }
    }
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}
