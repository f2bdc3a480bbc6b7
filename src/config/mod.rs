//! The configuration as the gateway runs with it: values only, every default applied, replaced as a whole.
//!
//! Two shapes, never mixed: `file` is what a person wrote (every key of a spanned TOML table), this module is what the
//! gateway works with. `resolve` turns the one into the other, by [`Config::load`] and [`Config::parse`]. A file is
//! refused there or nowhere, with all of its problems at once ([`ConfigError`]).
//! What lives longer than one configuration (counts, looked-up addresses) is not here but in `State`.

mod address;
mod file;
mod hosts;
mod names;
mod networks;
mod paths;
mod reader;
mod report;
mod resolve;
mod sources;
mod template;
mod tokens;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use crate::downstream::certificates::Certificate;
use crate::downstream::tls::Tls;
use crate::upstream::tls::Tls as BackendTls;

pub use self::file::keys;
pub use self::report::ConfigError;

/// Whether `log.level` could be this text; if not, why.
pub fn check_level(text: &str) -> Result<(), String> {
    let refused = |refusal: report::Refusal| format!("{}; {}", refusal.what, refusal.expected);
    tokens::level(text).map(drop).map_err(refused)
}

/// Header lines of a head by default. hyper keeps that many on its stack and moves to the heap for any other number.
pub const DEFAULT_HEADERS: usize = 100;

/// A whole configuration, ready to run with.
#[derive(Debug)]
pub struct Config {
    /// `[gateway]`.
    pub gateway: Gateway,
    /// `[limits]`: budgets of the whole gateway.
    pub limits: Limits,
    /// `[tcp]`.
    pub tcp: Tcp,
    /// `[forwarded]`.
    pub forwarded: Forwarded,
    /// `[log]`.
    pub log: Log,
    /// `[drain]`.
    pub drain: Drain,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[admin]`.
    pub admin: Admin,
    /// `[[listener]]`, in the order of the file; never empty.
    pub listeners: Vec<Arc<Listener>>,
    /// `[[route]]`, in the order of the file. Which one a request takes never depends on that order.
    pub routes: Vec<Arc<Route>>,
    /// `[upstream.NAME]`, in the order of their names.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What is not wrong and yet not as it should be, each with its place ("gateway.toml:12:15: certificate ...").
    pub warnings: Vec<String>,
}

/// The name of a listener, route or upstream: `[a-z0-9-]{1,64}`. It is the label in records and the identity of state
/// over configurations.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// `[gateway]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// This gateway's name, in every record.
    pub name: Arc<str>,
}

/// `[forwarded]`: what a backend is told of the client and of this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// X-Forwarded-For, -Proto, -Host, -Port.
    pub x_forwarded: bool,
    /// Forwarded (RFC 7239).
    pub forwarded: bool,
    /// X-Real-IP.
    pub x_real_ip: bool,
    /// Via (RFC 9110 section 7.6.3).
    pub via: bool,
}

/// `[limits]`: budgets of the whole gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open client sockets, tunnels included. When it is reached, accepting pauses.
    pub connections: ConnectionLimit,
    /// Open client sockets of one IPv4 address or IPv6 /64, over all listeners; more are closed at once. `None` is "off".
    pub connections_per_client: Option<NonZeroUsize>,
    /// Open tunnels; an upgrade beyond it is answered 503. `None` is "off".
    pub tunnels: Option<NonZeroUsize>,
}

/// `limits.connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// (descriptors - 256) / 2, known when the process has raised its descriptor limit.
    Auto,
    /// As configured; refused at start when it does not fit the descriptors.
    Count(NonZeroUsize),
}

/// `[tcp]`: options of every socket, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Length of the accept queue.
    pub backlog: u32,
    /// Silence before the first keepalive probe; then every 15 s, 3 times.
    pub keepalive: Duration,
    /// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT).
    pub user_timeout: Duration,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Directives for messages, as `tracing_subscriber::EnvFilter` reads them.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Which requests and tunnels get a record.
    pub records: Records,
    /// Where lines go.
    pub file: LogFile,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// `log.records`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// Every request and every tunnel.
    All,
    /// Tunnels only.
    Tunnels,
    /// What went wrong: statuses of 500 and above, rejections, tunnels that did not end by their parties' own closing.
    Failures,
    /// None.
    Off,
}

/// `log.file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFile {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to, opened anew on SIGUSR1.
    Path(PathBuf),
}

/// `[drain]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// From the signal; what is left then is cut.
    pub deadline: Duration,
}

/// `[metrics]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// Where metrics and health are served; `None` is "off".
    pub bind: Option<SocketAddr>,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The Unix socket where the gateway is administered; `None` is "off".
    pub bind: Option<PathBuf>,
}

/// `[[listener]]`: bound addresses and their policy.
#[derive(Debug)]
pub struct Listener {
    /// Its name; by default made from the first bind.
    pub name: Name,
    /// Where it listens; never empty.
    pub binds: Vec<Bind>,
    /// Deadlines of the client's side.
    pub timeouts: ClientTimeouts,
    /// Limits of the client's side.
    pub limits: ClientLimits,
    /// Networks whose word about the client is taken: its own, else the gateway's.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS; without it the listener is plain.
    pub tls: Option<Arc<Tls>>,
}

/// One entry of `listener.bind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bind {
    /// One address.
    Address(SocketAddr),
    /// `*:port`: every address of both families.
    Every(u16),
}

/// The client side's deadlines, inheritance resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// From accept to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// First byte of a request to the end of its head; of a new connection, from accept.
    pub request_head: Duration,
    /// Silence between two requests.
    pub keep_alive: Duration,
}

/// The client side's limits, inheritance resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// This listener's own budget of open sockets, beside the gateway's. `None`: no budget of its own.
    pub connections: Option<NonZeroUsize>,
    /// This listener's own budget for one client, beside the gateway's. `None`: no budget of its own.
    pub connections_per_client: Option<NonZeroUsize>,
    /// Bytes of request line and headers; 431 beyond.
    pub head_size: usize,
    /// Number of header lines; 431 beyond.
    pub headers: usize,
}

/// `[[route]]`: conditions to an action, and its policy.
#[derive(Debug)]
pub struct Route {
    /// Its name; by default made from host and path.
    pub name: Name,
    /// When it applies.
    pub matches: Match,
    /// What it does.
    pub action: Action,
    /// Upgrade tokens that may upgrade here, in lower case; empty: none.
    pub upgrade: Vec<Box<str>>,
    /// Whether requests that do not upgrade are served; else 426, or 404 where nothing may upgrade.
    pub plain: bool,
    /// Deadlines of the exchange and of the tunnel.
    pub timeouts: ExchangeTimeouts,
    /// Bytes of one WebSocket message that the gateway reads itself; Close 1009 beyond.
    pub max_message: usize,
    /// What becomes of its tunnels when it changes or goes.
    pub on_change: TunnelPolicy,
}

/// What becomes of a tunnel when what it belongs to changes or goes; from mild to hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunnelPolicy {
    /// It stays.
    Keep,
    /// It may end by itself until `drain.deadline` has passed.
    Drain,
    /// It is ended.
    Close,
}

/// The conditions of a route. An empty list of hosts, listeners, methods or headers means any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// Hosts.
    pub hosts: Vec<HostPattern>,
    /// Path prefixes by whole segments: each begins with "/", and only "/" itself ends with one. Never empty once resolved.
    pub paths: Vec<Box<str>>,
    /// Scheme of the listener.
    pub scheme: Option<Scheme>,
    /// Listeners by name.
    pub listeners: Vec<Name>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Headers, all of which must match.
    pub headers: Vec<(HeaderName, HeaderMatch)>,
}

/// A host of a route: lower case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Just this host ("a.example", "192.0.2.1", `"[2001:db8::1]"`).
    Exact(Box<str>),
    /// `*.suffix`: any host that has at least one label before ".suffix"; holds the suffix without "*.".
    Below(Box<str>),
}

/// Condition on one header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderMatch {
    /// It is there exactly once, with this value.
    Equals(HeaderValue),
    /// It is there.
    Present,
}

/// How the client reached the gateway, or the gateway a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// What a route does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Forwards to an upstream of that name; the name exists.
    Upstream(Name),
    /// Answers with fixed bytes.
    Respond(Respond),
    /// Sends the client elsewhere.
    Redirect(Redirect),
    /// Answers by a service of the gateway itself.
    Service(Service),
}

/// `respond`.
#[derive(Debug, PartialEq, Eq)]
pub struct Respond {
    /// Status, 200 to 599.
    pub status: StatusCode,
    /// Body, read when the configuration was.
    pub body: Bytes,
    /// Content-Type of a body that is not empty.
    pub content_type: HeaderValue,
}

/// `redirect`.
#[derive(Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Location, with placeholders.
    pub to: Template,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// Text with placeholders, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As written; "{{" has become "{" and "}}" "}".
    Text(Box<str>),
    /// `{host}`: without port.
    Host,
    /// `{path}`: as it is forwarded.
    Path,
    /// `{query}`: without "?"; empty when there is none.
    Query,
    /// `{uri}`: path and, where there is one, "?" and the query.
    Uri,
    /// `{scheme}`.
    Scheme,
    /// `{id}`: the request's id.
    Id,
    /// `{client.address}`: without port.
    ClientAddress,
}

/// `service`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// WebSocket echo.
    Echo,
    /// The page that talks WebSocket to its own origin.
    TestPage,
    /// 200 while the gateway takes new work, 503 from the drain on.
    Health,
}

/// Deadlines of the exchange with a backend and of a tunnel, inheritance resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeTimeouts {
    /// Address look-up, TCP connect and TLS handshake with one endpoint.
    pub connect: Duration,
    /// Upgrade request sent to the end of the backend's answer's head.
    pub upgrade: Duration,
    /// Plain request sent whole to the end of the response's head.
    pub response_head: Duration,
    /// Bytes are there to be written, and none moved.
    pub stall: Duration,
    /// A tunnel without a byte in either direction.
    pub idle: Duration,
    /// One direction has ended and the other is silent.
    pub half_close: Duration,
}

/// `[upstream.NAME]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: Name,
    /// Addresses as configured; never empty.
    pub endpoints: Vec<EndpointAddress>,
    /// Which Host a backend is sent.
    pub host_header: HostHeader,
    /// How often names are looked up again.
    pub resolve: Duration,
    /// How many other endpoints are tried.
    pub retry_attempts: u32,
    /// Connections kept for the next request; `None` is "off".
    pub pool: Option<Pool>,
    /// What becomes of the tunnels of an endpoint that leaves the file, or its name.
    pub on_removed: TunnelPolicy,
    /// TLS; without it its endpoints are spoken to in clear.
    pub tls: Option<Arc<BackendTls>>,
}

/// `upstream.NAME.pool`: of each endpoint and worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Idle connections kept.
    pub idle: NonZeroUsize,
    /// How long one is kept.
    pub idle_timeout: Duration,
}

/// One entry of `upstream.endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// IP address and port.
    Socket(SocketAddr),
    /// A name, each of whose addresses is an endpoint, and a port.
    Named(Box<str>, u16),
}

/// `upstream.host_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostHeader {
    /// As the client sent it.
    Client,
    /// The endpoint as it is configured, with its port unless that is the scheme's own.
    Endpoint,
    /// These bytes.
    Literal(HeaderValue),
}

impl Config {
    /// Every certificate with the name of the listener that serves with it.
    pub fn listener_certificates(&self) -> impl Iterator<Item = (&Name, &Certificate)> {
        self.listeners.iter().flat_map(|listener| {
            let certificates = listener.tls.as_ref().map(|tls| tls.certificates()).unwrap_or_default();
            certificates.iter().map(|certificate| (&listener.name, certificate))
        })
    }

    /// Every certificate that backends are shown, with the name of their upstream.
    pub fn upstream_certificates(&self) -> impl Iterator<Item = (&Name, &Certificate)> {
        let tls = self.upstreams.iter().filter_map(|upstream| Some((&upstream.name, upstream.tls.as_ref()?)));
        tls.filter_map(|(name, tls)| Some((name, tls.certificate()?)))
    }
}

impl Name {
    /// Takes `text` when it is a name: 1 to 64 of `a-z`, `0-9` and `-`.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        ((1..=64).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Named(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Upstream {
    /// How its endpoints are spoken to.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}

impl EndpointAddress {
    /// Whether it is a name, whose addresses are looked up.
    pub fn is_name(&self) -> bool {
        matches!(self, Self::Named(..))
    }
}

impl Scheme {
    /// "http" or "https".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that goes without saying.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}
