//! What runs without a configuration: the test page, the echo service, and a small backend of its own behind the very path
//! of any upstream. On loopback only.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use crate::config::{Bind, Config, ConfigError, Listener, Name};
use crate::downstream::certificates::{Certificate, TlsError};
use crate::downstream::tls::{Settings, Tls};
use crate::service::echo;

/// Where the demonstration listens.
pub const ADDRESS: &str = "127.0.0.1:8080";

/// Where it listens with TLS, with a certificate made at start.
pub const TLS_ADDRESS: &str = "127.0.0.1:8443";

/// What it says when it is there.
pub const GREETING: &str = "Spliceway's demonstration: open http://127.0.0.1:8080/ in a browser, or \
                            https://127.0.0.1:8443/ (its certificate is made at start); Ctrl-C ends it.";

/// How long the small backend waits when it cannot accept, as a listener does.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Messages larger than this are refused by the small backend.
const MAX_MESSAGE: usize = 1024 * 1024;

/// How long the certificate of the demonstration is valid: nobody shall get used to it.
const VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there is no demonstration.
#[derive(Debug)]
pub enum DemonstrationError {
    /// The small backend cannot be started.
    Backend(io::Error),
    /// No certificate can be made.
    Certificate(rcgen::Error),
    /// The certificate that was made cannot be used.
    Tls(TlsError),
    /// The configuration is refused.
    Config(ConfigError),
}

/// Starts the small backend and makes the configuration of a gateway in front of it.
pub fn start() -> Result<Config, DemonstrationError> {
    let backend = start_backend().map_err(DemonstrationError::Backend)?;
    let mut config = config(backend).map_err(DemonstrationError::Config)?;
    let tls = Arc::new(make_certificate()?);
    // The configuration names files, and this certificate has none: it never leaves the process.
    config.listeners.push(Arc::new(with_tls(&config.listeners[0], tls)));
    Ok(config)
}

fn config(backend: SocketAddr) -> Result<Config, ConfigError> {
    let text = format!(
        r#"
[[listener]]
name = "plain"
bind = "{ADDRESS}"

[upstream.backend]
endpoints = ["{backend}"]

[[route]]
name = "test-page"
path = "/"
service = "test-page"

[[route]]
name = "echo"
path = "/echo"
service = "echo"

[[route]]
name = "backend"
path = "/backend"
upstream = "backend"

[[route]]
name = "health"
path = "/health"
service = "health"
"#
    );
    Config::parse("demonstration", &text, Path::new("."))
}

fn with_tls(plain: &Listener, tls: Arc<Tls>) -> Listener {
    let address: SocketAddr = TLS_ADDRESS.parse().expect("a constant that is an address");
    Listener {
        name: Name::new("tls").expect("a constant that is a name"),
        binds: vec![Bind::Address(address)],
        timeouts: plain.timeouts,
        limits: plain.limits,
        trusted_proxies: plain.trusted_proxies.clone(),
        tls: Some(tls),
    }
}

fn make_certificate() -> Result<Tls, DemonstrationError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let mut params = CertificateParams::new(names).map_err(DemonstrationError::Certificate)?;
    let now = SystemTime::now();
    let valid = now - Duration::from_secs(60 * 60)..now + VALID;
    (params.not_before, params.not_after) = (valid.start.into(), valid.end.into());
    let key = KeyPair::generate().map_err(DemonstrationError::Certificate)?;
    let certificate = params.self_signed(&key).map_err(DemonstrationError::Certificate)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let nowhere = Path::new("(made at start)");
    let certificate = Certificate::new(vec![certificate.into()], key, nowhere, nowhere);
    certificate.and_then(|one| Tls::new(vec![one], &Settings::default())).map_err(DemonstrationError::Tls)
}

/// Starts the small backend, a WebSocket echo, on a loopback port of the system's choice. It ends with the process.
fn start_backend() -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let serve = move || runtime.block_on(serve(listener));
    thread::Builder::new().name("backend".into()).spawn(serve)?;
    Ok(address)
}

async fn serve(listener: TcpListener) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.spawn(converse(stream));
                }
                // What fails is not the client but the machine (no descriptors): a moment later it may not.
                Err(error) => {
                    tracing::warn!(%error, "the demonstration's backend cannot accept; it pauses for a second");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream) {
    // The crate that speaks WebSocket answers the handshake; what is no handshake gets its 400.
    if let Ok((_, websocket)) = tokio_websockets::ServerBuilder::new().accept(stream).await {
        echo::echo(websocket.into_inner(), MAX_MESSAGE, |_| {}).await;
    }
}

impl fmt::Display for DemonstrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(error) => write!(f, "the demonstration's backend cannot be started: {error}"),
            Self::Certificate(error) => write!(f, "the demonstration's certificate cannot be made: {error}"),
            Self::Tls(error) => write!(f, "the demonstration's certificate: {error}"),
            Self::Config(error) => write!(f, "the demonstration's configuration: {error}"),
        }
    }
}

impl std::error::Error for DemonstrationError {}
