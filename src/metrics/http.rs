//! Where metrics and health are asked for: one address, three paths, on the control thread and never on a worker.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::time::sleep;

use super::Metrics;
use crate::config::{Bind, Tcp};
use crate::downstream::addr::ListenAddr;
use crate::own_http::press::Press;
use crate::own_http::{EXHAUSTED_PAUSE, Open, allowing, plain, response};
use crate::proxy::body::Body;
use crate::socket::{self, BindError, Listening, Ours};

/// From accept to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// The type of a page (OpenMetrics 1.0).
const PAGE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address where metrics are served; nobody is served there yet.
#[derive(Debug)]
pub struct Served(Arc<Listening>);

impl Served {
    /// Binds it.
    pub fn bind(address: SocketAddr, tcp: &Tcp) -> Result<Self, BindError> {
        let mut bound = socket::listen(Bind::Address(address), 1, tcp, |_| Ours::Nothing)?;
        Ok(Self(bound.pop().expect("one address is bound once")))
    }

    /// Where it is; the real port where port 0 was asked.
    pub fn address(&self) -> ListenAddr {
        self.0.address
    }

    /// Watches the address from now on, inside the runtime that will serve it.
    pub fn watch(self) -> io::Result<Watched> {
        self.0.of_worker(0).map(TcpListener::from).and_then(tokio::net::TcpListener::from_std).map(Watched)
    }
}

/// The address, watched by the runtime that serves it.
#[derive(Debug)]
pub struct Watched(tokio::net::TcpListener);

impl Watched {
    /// Serves for ever.
    pub async fn serve(self, metrics: Arc<Metrics>) {
        let pages = Arc::new(Pages::of(metrics));
        let mut open = Open::default();
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => {
                    let pages = Arc::clone(&pages);
                    open.serve(stream, DEADLINE, move |request| Arc::clone(&pages).answer(request));
                }
                Err(error) => {
                    tracing::error!(%error, "accepting who asks for metrics failed; it pauses for a second");
                    sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}

/// What is answered.
#[derive(Debug)]
struct Pages {
    metrics: Arc<Metrics>,
    press: Press,
}

impl Pages {
    fn of(metrics: Arc<Metrics>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&metrics)));
        let press = Press::new(move || {
            let mut page = String::new();
            text::encode(&mut page, &registry).map(|()| page)
        });
        Self { metrics, press }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        }
        if request.method() != Method::GET {
            return allowing("GET", plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"));
        }
        match path {
            "/metrics" => match self.press.page().await {
                Ok(page) => response(StatusCode::OK, PAGE, page),
                Err(error) => {
                    tracing::error!(%error, "the metrics cannot be told");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be told\n")
                }
            },
            "/readyz" if !self.metrics.is_ready() => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            _ => plain(StatusCode::OK, "ok\n"),
        }
    }
}
