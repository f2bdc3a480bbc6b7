//! Another configuration while the gateway serves: read, compared and bound beside the one in force, and only then applied:
//! whole, or not at all. What a request or a tunnel began with, it keeps; a tunnel is touched only when its own route or
//! endpoint has changed or is gone, and then as that says.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::change::{Changes, Difference};
use crate::config::{Config, ConfigError, Name, TunnelPolicy};
use crate::control::Control;
use crate::gateway::{StartError, connection_limit};
use crate::listening::Addresses;
use crate::proxy::Serving;
use crate::registry::{Belongs, Entry, Order};
use crate::upstream::endpoint::EndpointState;
use crate::upstream::{EndpointStates, departed};
use crate::worker::{Change, Message};

/// Where another configuration comes from, and what it has to fit into.
#[derive(Debug)]
pub struct Source {
    /// The file; None where there is none to read again, as in the demonstration.
    pub file: Option<PathBuf>,
    /// How many descriptors the process may have.
    pub descriptors: u64,
}

/// What came of a reload, for all who have asked for it.
pub type Reloaded = Arc<Result<Applied, ReloadError>>;

/// What a reload has changed, as its lines tell it.
#[derive(Debug)]
pub struct Applied {
    /// What was added, changed and removed.
    pub changes: Vec<Difference>,
    /// Keys that have changed and need a new process.
    pub kept: Vec<&'static str>,
    /// What is not wrong and yet not as it should be.
    pub warnings: Vec<String>,
}

/// Why the configuration in force stays.
#[derive(Debug)]
pub enum ReloadError {
    /// There is no file that could be read again.
    NoFile,
    /// The file asks for what cannot be done.
    Config(ConfigError),
    /// What it asks for could not be had: an address, say.
    Start(StartError),
    /// The gateway takes no new work any more.
    Draining,
    /// The reading of it has failed in the gateway itself: the log has the panic.
    Panicked,
}

/// A configuration that could take the place of the one in force.
#[derive(Debug)]
pub struct Prepared {
    serving: Serving,
    changes: Changes,
}

impl Source {
    /// Reads the file and makes everything ready that needs no socket; on a thread of its own, for a file of ten thousand
    /// routes takes its time.
    pub async fn prepare(&self, old: Arc<Serving>, states: Arc<EndpointStates>) -> Result<Prepared, ReloadError> {
        let file = self.file.clone().ok_or(ReloadError::NoFile)?;
        let prepared = tokio::task::spawn_blocking(move || prepare(&file, &old, &states)).await;
        prepared.map_err(|_| ReloadError::Panicked)?.map_err(ReloadError::Config)
    }
}

fn prepare(file: &Path, old: &Serving, states: &EndpointStates) -> Result<Prepared, ConfigError> {
    let mut config = Config::load(file)?;
    let changes = Changes::between(&old.config, &mut config);
    keep_tickets(&old.config, &mut config);
    Ok(Prepared { serving: old.followed_by(config, states), changes })
}

/// Keys of tickets are state, by the name of the listener: a reload costs no client a whole TLS handshake.
fn keep_tickets(old: &Config, new: &mut Config) {
    for listener in &mut new.listeners {
        let before = old.listeners.iter().find(|before| before.name == listener.name).and_then(|b| b.tls.as_ref());
        let listener = Arc::get_mut(listener).expect("nobody serves by it yet");
        if let (Some(tls), Some(before)) = (&mut listener.tls, before) {
            Arc::get_mut(tls).expect("nobody serves by it yet").keep_tickets_of(before);
        }
    }
}

impl Control {
    /// Puts a configuration into the place of the one in force. Nothing is changed before all that can fail has been done,
    /// and from then on nothing is waited for but that the workers take it.
    pub async fn apply(&mut self, prepared: Prepared) -> Result<Applied, ReloadError> {
        let Prepared { serving, changes } = prepared;
        let config = &serving.config;
        let connections =
            connection_limit(config.limits.connections, self.source.descriptors).map_err(ReloadError::Start)?;
        let addresses = self.addresses.followed_by(config);
        let addresses = addresses.map_err(|(name, error)| ReloadError::Start(StartError::Bind(name, error)))?;
        let opened = (0..self.workers.len()).map(|index| addresses.of_worker(index, &self.addresses));
        let opened: Vec<_> = opened.collect::<Result<_, _>>().map_err(|e| ReloadError::Start(StartError::Thread(e)))?;

        self.resize(connections, config);
        self.restyle(config);
        self.addresses.not_in(&addresses).for_each(|(_, listening)| listening.close_door());
        let (serving, before) = (Arc::new(serving), Arc::clone(&self.serving));
        let (done, mut all_done) = mpsc::channel(1);
        for (worker, opened) in self.workers.iter().zip(opened) {
            let (serving, policies) = (Arc::clone(&serving), addresses.policies(&mut self.budgets));
            let change = Change { serving, policies, opened, done: done.clone() };
            // A worker that has ended has nothing left to serve.
            let _ = worker.orders.send(Message::Serve(change));
        }
        drop(done);
        self.listen_on(addresses, &serving);
        self.serving = serving;
        self.keep_names();
        // Nothing is sent: it ends when every worker has dropped its own.
        let _ = all_done.recv().await;
        tell(&changes, &self.serving);
        self.retire(before, changes.routes);
        let warnings = self.serving.config.warnings.clone();
        Ok(Applied { changes: changes.differences, kept: changes.kept, warnings })
    }

    fn resize(&mut self, connections: std::num::NonZeroUsize, config: &Config) {
        let listeners = config.listeners.iter().map(|listener| &**listener);
        for shrinking in self.budgets.resize(connections, config.limits.connections_per_client, listeners) {
            self.tasks.spawn(shrinking);
        }
        if let Some(shrinking) = self.tunnels.resize(config.limits.tunnels) {
            self.tasks.spawn(shrinking);
        }
    }

    fn restyle(&mut self, config: &Config) {
        self.drain = config.drain;
        self.output.change(&config.log);
        self.sink.restyle(config.log.format, config.log.records, Arc::clone(&config.gateway.name));
    }

    /// The sockets of addresses that are configured no longer are closed here; the workers take what waits in their queues.
    fn listen_on(&mut self, addresses: Addresses, serving: &Serving) {
        for (listener, listening) in addresses.not_in(&self.addresses) {
            tracing::info!(listener = %listener.name, address = %listening.address, "listening");
        }
        for (listener, listening) in self.addresses.not_in(&addresses) {
            tracing::info!(listener = %listener.name, address = %listening.address, "no longer listening");
        }
        if serving.config.tcp != self.serving.config.tcp {
            addresses.all().for_each(|(_, listening)| listening.set_options(&serving.config.tcp));
        }
        self.metrics.listens_on(addresses.all());
        self.addresses = addresses;
    }

    /// Sees to the tunnels of a configuration that was replaced: now, and again when its last request has been answered and
    /// may have become one.
    fn retire(&mut self, before: Arc<Serving>, routes: HashMap<Name, (TunnelPolicy, Order)>) {
        let fates = Arc::new(Fates::new(&before, &self.serving, routes));
        self.see_to(&fates);
        self.states.forget_unused();
        self.tasks.retired.push(Retired { serving: before, fates });
    }

    /// Frees the configurations that nobody is served by any more: here, so that no worker stops for it.
    pub fn free_retired(&mut self) {
        let is_free = |retired: &mut Retired| Arc::strong_count(&retired.serving) == 1;
        for retired in self.tasks.retired.extract_if(.., is_free).collect::<Vec<_>>() {
            self.see_to(&retired.fates);
        }
    }

    /// The tunnels of endpoints that have left their name.
    pub fn see_to_departed(&mut self, gone: Vec<Arc<EndpointState>>, policy: TunnelPolicy) {
        let endpoints = gone.into_iter().map(|state| (state, policy)).collect();
        self.see_to(&Arc::new(Fates { before: u64::MAX, routes: HashMap::new(), endpoints }));
        self.states.forget_unused();
    }

    fn see_to(&mut self, fates: &Arc<Fates>) {
        if fates.spare_all() {
            return;
        }
        let mut draining = 0;
        for worker in &self.workers {
            for (tunnel, (policy, order)) in worker.context.registry.tunnels_of(|belongs| fates.of(belongs)) {
                match policy {
                    TunnelPolicy::Keep => {}
                    TunnelPolicy::Drain => draining += 1,
                    TunnelPolicy::Close => give(&tunnel, order),
                }
            }
        }
        if draining > 0 {
            tracing::info!(tunnels = draining, deadline = ?self.drain.deadline, "draining tunnels of what has changed");
            self.tasks.draining.push((Instant::now() + self.drain.deadline, Arc::clone(fates)));
        }
    }

    /// Ends the tunnels whose time is over; not those of an endpoint that has come back meanwhile, as one does that a name has
    /// at one look-up and has not at the next.
    pub fn end_drained(&mut self) {
        let now = Instant::now();
        let here: Vec<_> = self.serving.upstreams().flat_map(|upstream| upstream.endpoints().to_vec()).collect();
        let is_here: HashSet<_> = here.iter().map(|endpoint| Arc::as_ptr(&endpoint.state)).collect();
        for (_, fates) in self.tasks.draining.extract_if(.., |(until, _)| *until <= now) {
            for worker in &self.workers {
                let of_drained = |belongs: &Belongs| {
                    let (policy, order) = fates.of(belongs)?;
                    let is_back = || belongs.endpoint.as_ref().is_some_and(|own| is_here.contains(&Arc::as_ptr(own)));
                    let is_spared = matches!(order, Order::EndpointRemoved) && is_back();
                    (policy == TunnelPolicy::Drain && !is_spared).then_some(order)
                };
                let over = worker.context.registry.tunnels_of(of_drained);
                over.iter().for_each(|(tunnel, order)| give(tunnel, *order));
            }
        }
    }
}

fn give(tunnel: &Weak<Entry>, order: Order) {
    if let Some(entry) = tunnel.upgrade() {
        entry.give(order);
    }
}

/// A configuration that was replaced and is still in use by requests that began with it.
#[derive(Debug)]
pub struct Retired {
    serving: Arc<Serving>,
    fates: Arc<Fates>,
}

/// What becomes of the tunnels of a configuration that was replaced.
#[derive(Debug)]
pub struct Fates {
    /// Tunnels that began with this configuration or a later one have nothing to do with it.
    before: u64,
    routes: HashMap<Name, (TunnelPolicy, Order)>,
    endpoints: Vec<(Arc<EndpointState>, TunnelPolicy)>,
}

impl Fates {
    fn new(old: &Serving, new: &Serving, routes: HashMap<Name, (TunnelPolicy, Order)>) -> Self {
        let mut endpoints = Vec::new();
        for upstream in old.upstreams() {
            let now = new.upstream_of(&upstream.config.name);
            // As with a route: where the upstream is still there, its word is the one that it has now.
            let policy = now.unwrap_or(upstream).config.on_removed;
            let gone = departed(&upstream.endpoints(), &now.map(|now| now.endpoints()).unwrap_or_default());
            endpoints.extend(gone.into_iter().map(|state| (state, policy)));
        }
        endpoints.retain(|(_, policy)| *policy != TunnelPolicy::Keep);
        Self { before: new.generation, routes, endpoints }
    }

    fn spare_all(&self) -> bool {
        self.routes.is_empty() && self.endpoints.is_empty()
    }

    /// The harder of what its route and its endpoint say.
    fn of(&self, tunnel: &Belongs) -> Option<(TunnelPolicy, Order)> {
        if tunnel.generation >= self.before {
            return None;
        }
        let by_route = self.routes.get(&tunnel.route).copied();
        let is_its_own =
            |state: &Arc<EndpointState>| tunnel.endpoint.as_ref().is_some_and(|own| Arc::ptr_eq(own, state));
        let endpoint = self.endpoints.iter().find(|(state, _)| is_its_own(state));
        let by_endpoint = endpoint.map(|(_, policy)| (*policy, Order::EndpointRemoved));
        by_route.into_iter().chain(by_endpoint).max_by_key(|(policy, _)| *policy)
    }
}

fn tell(changes: &Changes, serving: &Serving) {
    for warning in &serving.config.warnings {
        tracing::warn!("{warning}");
    }
    for key in &changes.kept {
        tracing::warn!(key, "this key has changed, and stays as it was until the process is started anew");
    }
    for difference in &changes.differences {
        tracing::info!(kind = difference.kind, name = difference.name, "{}", difference.how);
    }
    let config = &serving.config;
    let (listeners, routes, upstreams) = (config.listeners.len(), config.routes.len(), config.upstreams.len());
    tracing::info!(changes = changes.differences.len(), listeners, routes, upstreams, "reloaded");
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => f.write_str("there is no configuration file to read again"),
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Draining => f.write_str("the gateway drains"),
            Self::Panicked => f.write_str("the gateway failed while it read the file: its log has the panic"),
        }
    }
}

// The causes stand in the lines above; they would be told twice as sources.
impl std::error::Error for ReloadError {}
