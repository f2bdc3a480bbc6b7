//! From a configuration to a running gateway: everything is bound before anything is served, then workers and control are
//! started. Wiring only. The gateway owns the listening sockets for as long as their address is configured; workers listen
//! on duplicates of the same.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, mpsc};

use crate::admin::socket::{AdminError, AdminSocket};
use crate::config::{Config, ConnectionLimit, Name};
use crate::control::{self, Control, Doors, Ears, WorkerHandle};
use crate::downstream::addr::ListenAddr;
use crate::downstream::seat::{Budget, Budgets};
use crate::listening::Addresses;
use crate::metrics::Metrics;
use crate::metrics::http::Served;
use crate::proxy::Serving;
use crate::record::Sink;
use crate::reload::Source;
use crate::socket::{self, BindError};
use crate::telemetry::Output;
use crate::upstream::EndpointStates;
use crate::worker::{Change, Context, Worker};

/// Descriptors that are not connections: the log, the listening sockets, the runtimes, and room to breathe.
const RESERVED_DESCRIPTORS: u64 = 256;

/// A gateway that holds all its addresses and serves none yet.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    file: Option<PathBuf>,
    addresses: Addresses,
    doors: Doors,
    descriptors: u64,
    connections: NonZeroUsize,
    output: Output,
    ears: Ears,
}

/// Why a gateway cannot start, or cannot go over to another configuration.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Bind(Name, BindError),
    /// The address of the metrics cannot be listened on.
    Metrics(BindError),
    /// The socket of administration cannot be listened on.
    Admin(AdminError),
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
        let addresses = Addresses::default().followed_by(&config);
        let addresses = addresses.map_err(|(listener, error)| StartError::Bind(listener, error))?;
        let metrics = config.metrics.bind.map(|bind| Served::bind(bind, &config.tcp)).transpose();
        let metrics = metrics.map_err(StartError::Metrics)?;
        let admin = config.admin.bind.as_deref().map(AdminSocket::bind).transpose().map_err(StartError::Admin)?;
        let doors = Doors { metrics, admin };
        if let Some((_, listening)) = addresses.all().next() {
            socket::make_room(
                descriptors.min(2 * connections.get() as u64 + RESERVED_DESCRIPTORS),
                &listening.sockets[0],
            );
        }
        Ok(Self { config, file: None, addresses, doors, descriptors, connections, output, ears })
    }

    /// A reload reads this file; without one there is nothing to reload.
    #[must_use]
    pub fn reloading(self, file: &Path) -> Self {
        Self { file: Some(file.to_owned()), ..self }
    }

    /// Where it listens, listener by listener.
    pub fn addresses(&self) -> impl Iterator<Item = (&Name, ListenAddr)> {
        self.addresses.all().map(|(listener, listening)| (&listener.name, listening.address))
    }

    /// Serves until a signal or `stop` ends it.
    pub fn run(self, stop: control::Stop) -> Result<Ended, StartError> {
        for (listener, address) in self.addresses() {
            tracing::info!(%listener, %address, "listening");
        }
        if let Some(metrics) = &self.doors.metrics {
            tracing::info!(address = %metrics.address(), "metrics are served");
        }
        if let Some(admin) = &self.doors.admin {
            tracing::info!(socket = %admin.path().display(), "administration is served");
        }
        let Self { config, file, addresses, doors, descriptors, connections, output, ears } = self;
        let sink = Arc::new(Sink::new(
            output.lines(),
            config.log.format,
            config.log.records,
            Arc::clone(&config.gateway.name),
        ));
        let tunnels = Budget::new(config.limits.tunnels);
        let mut budgets = Budgets::new(connections, config.limits.connections_per_client);
        let (workers, drain) = (config.gateway.workers.get(), config.drain);
        let states = Arc::new(EndpointStates::default());
        let serving = Arc::new(Serving::new(config, &states));
        let mut handles = Vec::new();
        for index in 0..workers {
            let context = Context::new(index, Arc::clone(&serving), Arc::clone(&sink), Arc::clone(tunnels.places()));
            let first = Change {
                serving: Arc::clone(&serving),
                policies: addresses.policies(&mut budgets),
                opened: addresses.of_worker(index, &Addresses::default()).map_err(StartError::Thread)?,
                done: mpsc::channel(1).0,
            };
            handles.push(start(index, Arc::new(context), first)?);
        }
        let source = Source { file, descriptors };
        let contexts = handles.iter().map(|worker| Arc::clone(&worker.context)).collect();
        let metrics = Arc::new(Metrics::new(contexts, Arc::clone(&states), output.losses()));
        let control = Control {
            workers: handles,
            serving,
            states,
            addresses,
            budgets,
            tunnels,
            sink,
            output,
            metrics,
            drain,
            source,
            tasks: control::Tasks::default(),
        };
        Ok(control.run(ears, stop, doors))
    }
}

/// What `limits.connections` comes to with so many descriptors.
pub fn connection_limit(asked: ConnectionLimit, descriptors: u64) -> Result<NonZeroUsize, StartError> {
    // A connection that is a tunnel has two sockets.
    let fits = usize::try_from(descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2).unwrap_or(usize::MAX);
    let fits = NonZeroUsize::new(fits.min(Semaphore::MAX_PERMITS)).unwrap_or(NonZeroUsize::MIN);
    match asked {
        ConnectionLimit::Auto => Ok(fits),
        ConnectionLimit::Count(asked) if asked <= fits => Ok(asked),
        ConnectionLimit::Count(asked) => Err(StartError::TooManyConnections { asked: asked.get(), fits: fits.get() }),
    }
}

/// Starts a worker's thread.
fn start(index: usize, context: Arc<Context>, first: Change) -> Result<WorkerHandle, StartError> {
    let (orders, inbox) = mpsc::unbounded_channel();
    let worker = Worker { context: Arc::clone(&context), first, inbox };
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
            Self::Admin(error) => write!(f, "admin.bind: {error}"),
            Self::Metrics(error) => write!(f, "metrics.bind: {error}"),
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
