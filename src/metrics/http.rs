//! Where metrics and health are asked for: one address, three paths, on the control thread and never on a worker.
//!
//! A page is made on a thread of its own, and of the time of one processor making pages takes a tenth at most.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use super::Metrics;
use crate::config::{Bind, Tcp};
use crate::downstream::addr::ListenAddr;
use crate::own_http::{EXHAUSTED_PAUSE, Open, other_method, plain, response};
use crate::proxy::body::Body;
use crate::socket::{self, BindError, Listening};

/// From accept to the end of the answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// A page that took so long to make is followed by a pause of so many times that.
const PAUSE: u32 = 9;

/// The type of a page (OpenMetrics 1.0).
const PAGE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address where metrics are served; nobody is served there yet.
#[derive(Debug)]
pub struct Served(Arc<Listening>);

impl Served {
    /// Binds it.
    pub fn bind(address: SocketAddr, tcp: &Tcp) -> Result<Self, BindError> {
        let mut bound = socket::listen(Bind::Address(address), 1, tcp, |_| None)?;
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

/// Where pages are made: one at a time, and few.
#[derive(Debug)]
struct Press {
    registry: Arc<Registry>,
    last: Arc<Mutex<Made>>,
}

/// The page that was made last.
#[derive(Debug)]
struct Made {
    page: Bytes,
    /// When it was begun.
    at: Instant,
    /// Before then no other is made.
    next: Instant,
}

impl Pages {
    fn of(metrics: Arc<Metrics>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&metrics)));
        Self { metrics, press: Press::of(registry) }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        }
        if request.method() != Method::GET {
            return other_method("GET");
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

impl Press {
    fn of(registry: Registry) -> Self {
        let now = Instant::now();
        let none = Made { page: Bytes::new(), at: now, next: now };
        Self { registry: Arc::new(registry), last: Arc::new(Mutex::new(none)) }
    }

    /// A page of this moment or later: all who wait for one get the same.
    async fn page(&self) -> Result<Bytes, NoPage> {
        let asked = Instant::now();
        let last = Arc::clone(&self.last).lock_owned().await;
        if last.at > asked {
            return Ok(last.page.clone());
        }
        sleep_until(last.next).await;
        let registry = Arc::clone(&self.registry);
        // The place goes with the making: who asks and leaves makes no room for another page beside this one.
        let made = spawn_blocking(move || make(last, &registry));
        made.await.map_err(NoPage::Panicked)?.map_err(NoPage::Unwritten)
    }
}

fn make(mut last: OwnedMutexGuard<Made>, registry: &Registry) -> Result<Bytes, fmt::Error> {
    let at = Instant::now();
    let mut page = String::new();
    text::encode(&mut page, registry)?;
    let page = Bytes::from(page);
    *last = Made { page: page.clone(), at, next: Instant::now() + at.elapsed() * PAUSE };
    Ok(page)
}

/// Why there is no page.
#[derive(Debug)]
enum NoPage {
    Panicked(JoinError),
    Unwritten(fmt::Error),
}

impl fmt::Display for NoPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(error) => error.fmt(f),
            Self::Unwritten(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::DescriptorEncoder;
    use tokio::time::timeout;

    use super::*;

    /// Counts how many pages are begun; each is held until it is let go.
    #[derive(Debug)]
    struct Held {
        begun: Arc<AtomicUsize>,
        let_go: std::sync::Mutex<mpsc::Receiver<()>>,
    }

    impl Collector for Held {
        fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.let_go.lock().unwrap().recv().map_err(|_| fmt::Error)
        }
    }

    #[tokio::test]
    async fn who_asks_and_leaves_has_no_second_page_made_beside_the_first() {
        let (go, let_go) = mpsc::channel();
        let begun = Arc::<AtomicUsize>::default();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Held { begun: Arc::clone(&begun), let_go: let_go.into() }));
        let press = Press::of(registry);
        for _ in 0..20 {
            // Left while its page is made, or while it waits for the one that is.
            assert!(timeout(Duration::from_millis(5), press.page()).await.is_err());
        }
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert_eq!(press.page().await.unwrap(), "# EOF\n");
        assert_eq!(begun.load(Ordering::SeqCst), 2, "the first was begun before it was asked for");
    }
}
