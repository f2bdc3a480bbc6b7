//! A worker: one thread, one single-threaded runtime, its own listening sockets, and all that its connections share. A
//! connection lives and dies on one worker: no lock and no other core on the path of a byte.
//!
//! Tasks of a worker are spawned here and nowhere else, so that what runs on it is what this file says.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{MissedTickBehavior, interval};

use crate::cells::Cell;
use crate::config;
use crate::downstream::addr::ListenAddr;
use crate::downstream::connection::{self, Accepted};
use crate::downstream::listener::{Listener, Policy};
use crate::proxy::{self, Serving};
use crate::record::Sink;
use crate::registry::{Open, Order, Registry};
use crate::turns;
use crate::upstream::pool::{self, Pool};

/// What the control thread tells a worker.
#[derive(Debug)]
pub enum Message {
    /// Serve by another configuration.
    Serve(Change),
    /// Take nothing new, end what is idle, let the rest end.
    Drain,
    /// End everything now.
    HardStop,
}

/// Another configuration, as one worker gets it. Everything in it has been made elsewhere: to take it is to put pointers in
/// the places of others.
#[derive(Debug)]
pub struct Change {
    /// What requests are served by from now on.
    pub serving: Arc<Serving>,
    /// How connections are treated, for each address that is configured.
    pub policies: Vec<(ListenAddr, Policy)>,
    /// The sockets of addresses that were not configured before.
    pub opened: Vec<(ListenAddr, OwnedFd)>,
    /// Dropped when it is in force here.
    pub done: mpsc::Sender<()>,
}

/// How far a worker's life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It takes what comes.
    Serving,
    /// It takes nothing new.
    Draining,
}

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Context {
    /// All that is open here.
    pub registry: Arc<Registry>,
    /// Where records go.
    pub sink: Arc<Sink>,
    /// This worker's counters.
    pub cell: Arc<Cell>,
    /// The gateway's budget of tunnels.
    pub tunnels: Arc<Semaphore>,
    /// Connections to backends that wait for the next request.
    pub pool: Pool,
    /// How far its life is.
    pub stage: watch::Sender<Stage>,
    in_force: Mutex<InForce>,
}

/// A configuration, and which listener has which address by it.
#[derive(Debug)]
struct InForce {
    serving: Arc<Serving>,
    listeners: HashMap<ListenAddr, Arc<config::Listener>>,
}

impl Context {
    /// The context of that worker, from 0, which serves by `serving` until it is given another.
    pub fn new(worker: usize, serving: Arc<Serving>, sink: Arc<Sink>, tunnels: Arc<Semaphore>) -> Self {
        Self {
            registry: Arc::default(),
            sink,
            cell: Arc::new(Cell { worker, ..Cell::default() }),
            tunnels,
            pool: Pool::default(),
            stage: watch::Sender::new(Stage::Serving),
            in_force: Mutex::new(InForce { serving, listeners: HashMap::new() }),
        }
    }

    /// The configuration as it is now; a request keeps the one that it began with.
    pub fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.lock().serving)
    }

    /// The same, and the listener that has this address by it.
    pub fn in_force(&self, address: ListenAddr) -> (Arc<Serving>, Option<Arc<config::Listener>>) {
        let in_force = self.lock();
        (Arc::clone(&in_force.serving), in_force.listeners.get(&address).cloned())
    }

    fn serve_by(&self, serving: Arc<Serving>, listeners: HashMap<ListenAddr, Arc<config::Listener>>) {
        // The control thread holds the old one until nobody else does: ten thousand routes are not freed here.
        *self.lock() = InForce { serving, listeners };
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new work is refused.
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() == Stage::Draining
    }
}

/// One worker: its sockets and its inbox.
#[derive(Debug)]
pub struct Worker {
    /// What its connections share.
    pub context: Arc<Context>,
    /// What it serves first, its sockets among it.
    pub first: Change,
    /// What the control thread tells it.
    pub inbox: mpsc::UnboundedReceiver<Message>,
}

impl Worker {
    /// Runs until it has been drained or stopped. A plain future: a thread with its own runtime drives it, and so can a
    /// test.
    pub async fn run(self) {
        let Self { context, first, mut inbox } = self;
        let mut accepting = Accepting::default();
        accepting.serve(first, &context);
        let sweeper = spawn(sweep_pool(Arc::clone(&context)));
        // To the end: what is cut at last ends in turns, too.
        let turns = spawn(turns::begin_turns());
        let last = loop {
            match inbox.recv().await {
                Some(Message::Serve(change)) => accepting.serve(change, &context),
                other => break other,
            }
        };
        if let Some(Message::Drain) = last {
            context.stage.send_replace(Stage::Draining);
            // What waits in the accept queues belongs to the drain, so its end is waited for before the walk.
            accepting.ended().await;
            context.registry.order(Order::Drain);
            tokio::select! {
                () = context.registry.empty() => return,
                _ = inbox.recv() => {}
            }
        }
        accepting.abort();
        sweeper.abort();
        let Open { connections, tunnels } = context.registry.order(Order::HardStop);
        context.cell.cut.add((connections + tunnels) as u64);
        context.registry.empty().await;
        turns.abort();
    }
}

/// The loops that accept, one for each address.
#[derive(Debug, Default)]
struct Accepting {
    open: HashMap<ListenAddr, (watch::Sender<Policy>, JoinHandle<()>)>,
    /// Of addresses that are configured no longer: they take what waits in their queues.
    closing: Vec<JoinHandle<()>>,
}

impl Accepting {
    /// Takes another configuration, in one step: no connection and no request meets half of it.
    fn serve(&mut self, change: Change, context: &Arc<Context>) {
        let Change { serving, policies, opened, done } = change;
        let listeners = policies.iter().map(|(address, policy)| (*address, Arc::clone(&policy.config)));
        context.serve_by(serving, listeners.collect());
        let mut opened: HashMap<_, _> = opened.into_iter().collect();
        let mut before = std::mem::take(&mut self.open);
        for (address, policy) in policies {
            let known = before.remove(&address);
            if let Some((policies, accepting)) = known {
                policies.send_replace(policy);
                self.open.insert(address, (policies, accepting));
            } else if let Some(socket) = opened.remove(&address) {
                let (policies, policy) = watch::channel(policy);
                let listener = Listener { policy, address, socket };
                self.open.insert(address, (policies, spawn(listener.run(Arc::clone(context)))));
            }
        }
        self.closing.retain(|closing| !closing.is_finished());
        let closing: Vec<_> = before.into_values().map(|(_, accepting)| accepting).collect();
        self.closing.push(spawn(async move {
            all_ended(closing).await;
            // Not before: an address can be bound anew when its sockets are closed.
            drop(done);
        }));
    }

    /// Waits until nothing is accepted any more.
    async fn ended(&mut self) {
        all_ended(self.open.drain().map(|(_, (_, accepting))| accepting)).await;
        all_ended(self.closing.drain(..)).await;
    }

    fn abort(&self) {
        self.closing.iter().chain(self.open.values().map(|(_, accepting)| accepting)).for_each(JoinHandle::abort);
    }
}

async fn all_ended(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    for task in tasks {
        let _ = task.await;
    }
}

/// Looks after the idle connections to backends, for ever.
async fn sweep_pool(context: Arc<Context>) {
    let mut ticks = interval(pool::SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        context.pool.sweep();
    }
}

/// A connection's task. A panic in it ends it and nothing else: the runtime catches it, its seat, its record and its
/// endpoint are released as it unwinds.
pub fn spawn_connection(accepted: Accepted, context: Arc<Context>) {
    drop(spawn(connection::serve(accepted, context, proxy::handle)));
}

/// A tunnel's task: fresh, so that the connection's large future is freed.
pub fn spawn_tunnel<T>(tunnel: T)
where
    T: Future<Output = ()> + Send + 'static,
{
    drop(spawn(tunnel));
}

/// The task of a connection to a backend. When the body of its answer is dropped, hyper closes the connection, but not
/// before what was written has left: a backend that takes nothing would keep it, and with it the client's body, for as
/// long as it pleases. So the task can be ended, too.
pub fn spawn_driver<F>(driver: F) -> AbortHandle
where
    F: Future<Output = hyper::Result<()>> + Send + 'static,
{
    let task = spawn(async {
        // The body at its other end has got the same error.
        let _ = driver.await;
    });
    task.abort_handle()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    tokio::spawn(task)
}
