//! From a configuration to a running gateway: everything is bound before anything is served, then workers and control are
//! started. Wiring only. The gateway owns the listening sockets for as long as their address is configured; workers listen
//! on duplicates of the same.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, mpsc};

use crate::config::{self, Config, ConnectionLimit, Name};
use crate::control::{self, Control, Ears, WorkerHandle};
use crate::downstream::addr::ListenAddr;
use crate::downstream::listener::Listener;
use crate::downstream::per_client::ClientBudget;
use crate::downstream::seat::ConnectionBudget;
use crate::proxy::Serving;
use crate::record::Sink;
use crate::socket::{self, BindError, Listening};
use crate::telemetry::Output;
use crate::upstream::EndpointStates;
use crate::worker::{Context, Worker};

/// Descriptors that are not connections: the log, the listening sockets, the runtimes, and room to breathe.
const RESERVED_DESCRIPTORS: u64 = 256;

/// A gateway that holds all its addresses and serves none yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listening: Vec<(Arc<config::Listener>, Vec<Listening>)>,
    connections: usize,
    output: Output,
    ears: Ears,
}

/// Why a gateway cannot start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Bind(Name, BindError),
    /// `limits.connections` asks for more than the process may open.
    TooManyConnections {
        /// What is configured.
        asked: usize,
        /// What fits.
        fits: usize,
    },
    /// The log cannot be opened.
    Log(io::Error),
    /// A thread or its runtime cannot be made, signals not listened to, or a socket not duplicated.
    Thread(io::Error),
}

/// How a gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Connections and tunnels that it cut.
    pub cut: u64,
}

impl Bound {
    /// Hears signals from now on, raises the limit of descriptors and binds every address of every listener.
    pub fn bind(config: Config, output: Output) -> Result<Self, StartError> {
        let ears = Ears::open().map_err(StartError::Thread)?;
        let descriptors = socket::raise_descriptors();
        let connections = connection_limit(config.limits.connections, descriptors)?;
        tracing::info!(descriptors, connections, "descriptors");
        let workers = config.gateway.workers.get();
        let mut listening = Vec::new();
        for listener in &config.listeners {
            let mut addresses = Vec::new();
            for bind in &listener.binds {
                let bound = socket::listen(*bind, workers, &config.tcp);
                addresses.extend(bound.map_err(|error| StartError::Bind(listener.name.clone(), error))?);
            }
            listening.push((Arc::clone(listener), addresses));
        }
        Ok(Self { config, listening, connections, output, ears })
    }

    /// Where it listens, listener by listener.
    pub fn addresses(&self) -> impl Iterator<Item = (&Name, ListenAddr)> {
        self.listening
            .iter()
            .flat_map(|(listener, bound)| bound.iter().map(move |listening| (&listener.name, listening.address)))
    }

    /// Serves until a signal or `stop` ends it.
    pub fn run(self, stop: control::Stop) -> Result<Ended, StartError> {
        for (listener, address) in self.addresses() {
            tracing::info!(%listener, %address, "listening");
        }
        let Self { config, listening, connections, output, ears } = self;
        let sink = Arc::new(Sink::new(
            output.lines(),
            config.log.format,
            config.log.records,
            Arc::clone(&config.gateway.name),
        ));
        let tunnels = config.limits.tunnels.map(|limit| semaphore(limit.get()));
        let per_client = config.limits.connections_per_client;
        let workers = config.gateway.workers.get();
        let drain = config.drain;
        let states = Arc::new(EndpointStates::default());
        let serving = Arc::new(Serving::new(config, &states));
        let budgets = budgets(&listening, connections, per_client);
        let mut handles = Vec::new();
        for index in 0..workers {
            let context = Context::new(Arc::clone(&serving), Arc::clone(&sink), tunnels.clone());
            let listeners = listeners_of(index, &listening, &budgets).map_err(StartError::Thread)?;
            handles.push(start(index, Arc::new(context), listeners)?);
        }
        let control = Control { workers: handles, serving, states, output, drain };
        Ok(control.run(ears, stop, listening))
    }
}

fn connection_limit(asked: ConnectionLimit, descriptors: u64) -> Result<usize, StartError> {
    // A connection that is a tunnel has two sockets.
    let fits = usize::try_from(descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2).unwrap_or(usize::MAX);
    let fits = fits.clamp(1, Semaphore::MAX_PERMITS);
    match asked {
        ConnectionLimit::Auto => Ok(fits),
        ConnectionLimit::Count(asked) if asked.get() <= fits => Ok(asked.get()),
        ConnectionLimit::Count(asked) => Err(StartError::TooManyConnections { asked: asked.get(), fits }),
    }
}

fn semaphore(places: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)))
}

fn budgets(
    listening: &[(Arc<config::Listener>, Vec<Listening>)],
    connections: usize,
    per_client: Option<NonZeroUsize>,
) -> Vec<ConnectionBudget> {
    let gateway = semaphore(connections);
    let per_client = per_client.map(ClientBudget::new);
    let budget =
        |listener: &config::Listener| ConnectionBudget::new(Arc::clone(&gateway), per_client.clone(), &listener.limits);
    listening.iter().map(|(listener, _)| budget(listener)).collect()
}

/// One worker's sockets: of each address the one that is its own.
fn listeners_of(
    worker: usize,
    listening: &[(Arc<config::Listener>, Vec<Listening>)],
    budgets: &[ConnectionBudget],
) -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for ((config, bound), budget) in listening.iter().zip(budgets) {
        for listening in bound {
            let socket: OwnedFd = listening.sockets[worker].try_clone()?;
            listeners.push(Listener {
                config: Arc::clone(config),
                budget: budget.clone(),
                address: listening.address,
                socket,
            });
        }
    }
    Ok(listeners)
}

/// Starts a worker's thread.
fn start(index: usize, context: Arc<Context>, listeners: Vec<Listener>) -> Result<WorkerHandle, StartError> {
    let (orders, inbox) = mpsc::unbounded_channel();
    let worker = Worker { context: Arc::clone(&context), listeners, inbox };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let (ended, end) = tokio::sync::oneshot::channel();
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        runtime.block_on(worker.run());
        // Nobody listens any more only when the control thread is gone, and the process with it.
        let _ = ended.send(());
    });
    Ok(WorkerHandle { orders, context, ended: end, thread: thread.map_err(StartError::Thread)? })
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(listener, error) => write!(f, "listener \"{listener}\": {error}"),
            Self::TooManyConnections { asked, fits } => write!(
                f,
                "limits.connections = {asked} does not fit: with its limit of descriptors this process can hold {fits} \
                 connections (two descriptors each and {RESERVED_DESCRIPTORS} for itself); raise the limit (ulimit -n) \
                 or lower the number"
            ),
            Self::Log(error) => write!(f, "the log cannot be opened: {error}"),
            Self::Thread(error) => write!(f, "a thread cannot be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
