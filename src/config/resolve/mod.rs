//! From the file to what the gateway runs with: defaults, inheritance, names, and everything that concerns more than
//! one key. Nothing behind this refuses a configuration.

mod backend_tls;
mod include;
mod listener;
mod route;
mod tls;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, Error};

use self::backend_tls::backend_tls;
use self::listener::listeners;
use self::route::{Parts, routes};
use super::file::{File, ForwardedTable, GatewayTable, LimitsTable, LogTable, PoolTable, TcpTable, UpstreamTable};
use super::reader::{Reading, Table};
use super::report::{ConfigError, Problems};
use super::sources::Sources;
use super::tokens::gateway_name_of;
use super::{
    Admin, Config, ConnectionLimit, Drain, Forwarded, Gateway, HostHeader, Limits, Log, LogFile, LogFormat, Metrics,
    Pool, Records, Tcp, TunnelPolicy, Upstream,
};

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        Self::parse(&path.display().to_string(), &text, folder)
    }

    /// Reads `text`, which messages call `name`. Files that it names without a folder are in `folder`.
    pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Self, ConfigError> {
        let reading = Reading::default();
        let mut sources = Sources::new(name, text, folder);
        let config = read(text, &mut sources, &reading);
        let warnings = reading.problems.report(&sources).map_err(ConfigError::Refused)?;
        Ok(Self { warnings, ..config.expect("a configuration that is not made has a problem") })
    }
}

/// The configuration, unless the text is no TOML. Whether it can be run with, the problems tell.
fn read(text: &str, sources: &mut Sources, reading: &Reading) -> Option<Config> {
    let (mut table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        tell_syntax(text, 0, &errors, &reading.problems);
        return None;
    }
    include::fetch(&table, sources, &reading.problems);
    let takes = |source| include::take(source, table.get_mut(), &reading.problems);
    // Of each, not until the first that is none.
    let are_toml: Vec<_> = sources.included().iter().map(takes).collect();
    if are_toml.contains(&false) {
        return None;
    }
    let file = File::read(&mut Table::root(reading, &table));
    Some(resolve(file, sources, &reading.problems))
}

/// Says what is no TOML: of each line the first, for a line that is broken in one place mostly is in several. `start` is where
/// the text begins among all.
fn tell_syntax(text: &str, start: usize, errors: &[Error], problems: &Problems) {
    let mut lines = BTreeSet::new();
    for error in errors {
        let place = error.span().unwrap_or(0..0);
        let line = text.bytes().take(place.start).filter(|b| *b == b'\n').count();
        let (what, expected) = match error.message().split_once(", expected ") {
            // A bare word is read as the beginning of "inf" or "true", and that is what the parser would then ask for.
            Some(("invalid float" | "invalid boolean" | "string values must be quoted", _)) => {
                ("invalid value", "text stands in quotes: \"...\"".to_owned())
            }
            Some((what, expected)) => (what, format!("expected {expected}")),
            None => (error.message(), String::new()),
        };
        if lines.insert(line) {
            let place = place.start + start..place.end + start;
            problems.tell(place, format!("not TOML: {what}"), expected);
        }
    }
}

fn resolve(file: File, sources: &Sources, problems: &Problems) -> Config {
    // Of the configuration itself, which alone has all but routes and upstreams.
    let folder = sources.folder_of(&(0..0));
    let listeners = listeners(&file, folder, problems);
    let tls = backend_tls::Parts { sources, system: OnceCell::new(), problems };
    let upstreams: Vec<_> = file.upstreams.iter().map(|table| Arc::new(upstream(table, &tls))).collect();
    let parts = Parts {
        listeners: &listeners,
        upstreams: upstreams.iter().map(|upstream| upstream.name.as_str()).collect(),
        connect: file.connect.unwrap_or(Duration::from_secs(5)),
        exchange: &file.exchange,
        sources,
        problems,
    };
    let routes = routes(file.routes, &parts);
    Config {
        gateway: gateway(file.gateway),
        limits: limits(&file.limits),
        tcp: tcp(&file.tcp),
        forwarded: forwarded(&file.forwarded),
        log: log(file.log, folder),
        metrics: Metrics { bind: file.metrics_bind.as_ref().and_then(|bind| *bind.get_ref()) },
        admin: Admin { bind: file.admin_bind.flatten().map(|socket| folder.join(socket)) },
        drain: Drain { deadline: file.drain_deadline.unwrap_or(Duration::from_secs(25)) },
        listeners,
        routes,
        upstreams,
        // Known when everything has been resolved.
        warnings: Vec::new(),
    }
}

fn gateway(table: GatewayTable) -> Gateway {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let host = || gateway_name_of(&rustix::system::uname().nodename().to_string_lossy());
    Gateway { workers: table.workers.flatten().unwrap_or_else(cores), name: table.name.unwrap_or_else(host).into() }
}

fn limits(table: &LimitsTable) -> Limits {
    let connections = table.connections.as_ref().and_then(|c| *c.get_ref());
    Limits {
        connections: connections.map_or(ConnectionLimit::Auto, ConnectionLimit::Count),
        connections_per_client: table.connections_per_client.as_ref().and_then(|c| *c.get_ref()),
        tunnels: table.tunnels.flatten(),
    }
}

fn tcp(table: &TcpTable) -> Tcp {
    Tcp {
        backlog: table.backlog.and_then(|b| u32::try_from(b).ok()).unwrap_or(4096),
        keepalive: table.keepalive.unwrap_or(Duration::from_secs(60)),
        user_timeout: table.user_timeout.unwrap_or(Duration::from_secs(90)),
    }
}

fn forwarded(table: &ForwardedTable) -> Forwarded {
    Forwarded {
        x_forwarded: table.x_forwarded.unwrap_or(true),
        forwarded: table.forwarded.unwrap_or(true),
        x_real_ip: table.x_real_ip.unwrap_or(false),
        via: table.via.unwrap_or(true),
    }
}

fn log(table: LogTable, folder: &Path) -> Log {
    let file = match table.file.as_deref() {
        None | Some("stdout") => LogFile::Stdout,
        Some("stderr") => LogFile::Stderr,
        Some(path) => LogFile::Path(folder.join(path)),
    };
    Log {
        level: table.level.unwrap_or_else(|| "info".to_owned()),
        format: table.format.unwrap_or(LogFormat::Text),
        records: table.records.unwrap_or(Records::All),
        file,
    }
}

fn upstream(table: &UpstreamTable, tls: &backend_tls::Parts<'_>) -> Upstream {
    tls.problems.tell_repeats(&format!("upstream.{}.endpoints", table.name), &table.endpoints, "leave one out");
    Upstream {
        name: table.name.clone(),
        endpoints: table.endpoints.iter().map(|e| e.get_ref().clone()).collect(),
        host_header: table.host_header.clone().unwrap_or(HostHeader::Client),
        resolve: table.resolve.unwrap_or(Duration::from_secs(30)),
        retry_attempts: table.retry_attempts.and_then(|a| u32::try_from(a).ok()).unwrap_or(2),
        pool: pool(table.pool.as_ref()),
        on_removed: table.on_removed.unwrap_or(TunnelPolicy::Drain),
        tls: backend_tls(table, tls),
    }
}

/// Connections are kept unless that is switched off.
fn pool(table: Option<&Option<PoolTable>>) -> Option<Pool> {
    let idle = NonZeroUsize::new(32).expect("32 is not 0");
    let default = Pool { idle, idle_timeout: Duration::from_secs(30) };
    let Some(table) = table else { return Some(default) };
    table.as_ref().map(|t| Pool {
        idle: t.idle.unwrap_or(default.idle),
        idle_timeout: t.idle_timeout.unwrap_or(default.idle_timeout),
    })
}

/// A timeout, looked up from the narrow place to the wide one, or its default.
fn inherited(narrow: Option<Duration>, wide: Option<Duration>, default_seconds: u64) -> Duration {
    narrow.or(wide).unwrap_or_else(|| Duration::from_secs(default_seconds))
}
