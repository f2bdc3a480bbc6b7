//! A worker: one thread, one single-threaded runtime, its own listening sockets, and all that its connections share. A
//! connection lives and dies on one worker: no lock and no other core on the path of a byte.
//!
//! Tasks of a worker are spawned here and nowhere else, so that what runs on it is what this file says.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::cells::Cell;
use crate::config::Tcp;
use crate::downstream::connection::{self, Accepted};
use crate::downstream::listener::Listener;
use crate::proxy::{self, Serving};
use crate::record::Sink;
use crate::registry::{Open, Order, Registry};
use crate::upstream::pool::{self, Pool};

/// What the control thread tells a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Take nothing new, end what is idle, let the rest end.
    Drain,
    /// End everything now.
    HardStop,
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
    /// The gateway's budget of tunnels; None is "off".
    pub tunnels: Option<Arc<Semaphore>>,
    /// Options of sockets towards backends.
    pub tcp: Tcp,
    /// Connections to backends that wait for the next request.
    pub pool: Pool,
    /// How far its life is.
    pub stage: watch::Sender<Stage>,
    serving: Mutex<Arc<Serving>>,
}

impl Context {
    /// A context that serves by `serving` until it is given another.
    pub fn new(serving: Arc<Serving>, sink: Arc<Sink>, tunnels: Option<Arc<Semaphore>>) -> Self {
        Self {
            registry: Arc::default(),
            sink,
            cell: Arc::default(),
            tunnels,
            tcp: serving.config.tcp,
            pool: Pool::default(),
            stage: watch::Sender::new(Stage::Serving),
            serving: Mutex::new(serving),
        }
    }

    /// The configuration as it is now; a request keeps the one that it began with.
    pub fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.lock().unwrap_or_else(PoisonError::into_inner))
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
    /// Its sockets.
    pub listeners: Vec<Listener>,
    /// What the control thread tells it.
    pub inbox: mpsc::UnboundedReceiver<Message>,
}

impl Worker {
    /// Runs until it has been drained or stopped. A plain future: a thread with its own runtime drives it, and so can a
    /// test.
    pub async fn run(self) {
        let Self { context, listeners, mut inbox } = self;
        let mut accepting: Vec<_> =
            listeners.into_iter().map(|listener| spawn(listener.run(Arc::clone(&context)))).collect();
        let sweeper = spawn(sweep_pool(Arc::clone(&context)));
        let first = inbox.recv().await.unwrap_or(Message::HardStop);
        if first == Message::Drain {
            context.stage.send_replace(Stage::Draining);
            // What waits in the accept queues belongs to the drain, so its end is waited for before the walk.
            for accepting in accepting.drain(..) {
                let _ = accepting.await;
            }
            context.registry.order(Order::Drain);
            tokio::select! {
                () = context.registry.empty() => return,
                _ = inbox.recv() => {}
            }
        }
        for accepting in accepting {
            accepting.abort();
        }
        sweeper.abort();
        let Open { connections, tunnels } = context.registry.order(Order::HardStop);
        context.cell.cut.add((connections + tunnels) as u64);
        context.registry.empty().await;
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
fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    tokio::spawn(task)
}
