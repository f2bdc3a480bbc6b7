//! Administration over a Unix socket that its owner alone may open: a reload, and the state of everything. On the control
//! thread, never on a worker, and never on an address of a listener.

pub mod client;
pub mod socket;
mod status;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use self::socket::AdminSocket;
use crate::change::Difference;
use crate::metrics::Metrics;
use crate::own_http::press::Press;
use crate::own_http::{EXHAUSTED_PAUSE, Open, allowing, response};
use crate::proxy::body::Body;
use crate::reload::{Applied, ReloadError, Reloaded};

/// From accept to the end of the answer. Ten thousand routes are read in a second.
const DEADLINE: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";

/// Who waits to hear what came of a reload.
pub type Asker = oneshot::Sender<Reloaded>;

/// The socket, watched by the runtime that serves it.
#[derive(Debug)]
pub struct Admin {
    listener: UnixListener,
    /// Removes the socket's name when the gateway ends.
    _socket: AdminSocket,
}

impl Admin {
    /// Watches the socket from now on, inside the runtime that will serve it.
    pub fn watch(socket: AdminSocket) -> std::io::Result<Self> {
        Ok(Self { listener: UnixListener::from_std(socket.listener()?)?, _socket: socket })
    }

    /// Serves for ever.
    pub async fn serve(self, metrics: Arc<Metrics>, reloads: mpsc::UnboundedSender<Asker>) {
        let status = Press::new(move || Ok(format!("{}\n", status::of(&metrics))));
        let desk = Arc::new(Desk { status, reloads });
        let mut open = Open::default();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let desk = Arc::clone(&desk);
                    open.serve(stream, DEADLINE, move |request| Arc::clone(&desk).answer(request));
                }
                Err(error) => {
                    tracing::error!(%error, "accepting who administers failed; it pauses for a second");
                    sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}

/// What is answered.
#[derive(Debug)]
struct Desk {
    status: Press,
    reloads: mpsc::UnboundedSender<Asker>,
}

impl Desk {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match (request.uri().path(), request.method()) {
            ("/status", &Method::GET) => self.status().await,
            ("/status", _) => allowing("GET", refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")),
            ("/reload", &Method::POST) => self.reload().await,
            ("/reload", _) => allowing("POST", refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")),
            _ => refusal(StatusCode::NOT_FOUND, "not found"),
        }
    }

    /// Not on this thread: there may be ten thousand routes.
    async fn status(&self) -> Response<Body> {
        match self.status.page().await {
            Ok(status) => response(StatusCode::OK, JSON, status),
            Err(error) => {
                tracing::error!(%error, "the status cannot be told");
                refusal(StatusCode::INTERNAL_SERVER_ERROR, "the status cannot be told")
            }
        }
    }

    async fn reload(&self) -> Response<Body> {
        let (asker, answer) = oneshot::channel();
        // Nobody hears it, or nobody answers: the gateway has ended meanwhile.
        let asked = self.reloads.send(asker);
        let reloaded = match asked {
            Ok(()) => answer.await.unwrap_or_else(|_| Arc::new(Err(ReloadError::Draining))),
            Err(_) => Arc::new(Err(ReloadError::Draining)),
        };
        match &*reloaded {
            Ok(applied) => json_response(StatusCode::OK, &told(applied)),
            Err(error) => {
                let refused = json!({ "applied": false, "error": error.to_string() });
                json_response(status_of(error), &refused)
            }
        }
    }
}

fn told(applied: &Applied) -> Value {
    let change = |d: &Difference| json!({ "kind": d.kind, "name": d.name, "how": d.how.to_string() });
    json!({
        "applied": true,
        "changes": applied.changes.iter().map(change).collect::<Vec<_>>(),
        "kept": applied.kept,
        "warnings": applied.warnings,
    })
}

/// Of administration alone: no client of a listener ever sees one of these.
fn status_of(error: &ReloadError) -> StatusCode {
    match error {
        ReloadError::Config(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ReloadError::NoFile | ReloadError::Start(_) | ReloadError::Draining => StatusCode::CONFLICT,
        ReloadError::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    json_response(status, &json!({ "error": why }))
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    response(status, JSON, Bytes::from(format!("{value}\n")))
}
