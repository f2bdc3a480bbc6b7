//! HTTP that the gateway speaks for itself: metrics, health and administration. On the control thread, never on a worker.
//!
//! Whoever asks is bounded: so many connections, each for one request and so long.

pub mod press;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::downstream::linger;
use crate::proxy::body::Body;

/// Connections that may be open. For one more the oldest is closed that waits for no answer of ours: who asks in good faith
/// has it before its turn, however many say nothing.
const MOST_OPEN: usize = 32;

/// The most that a head may have.
const HEAD: usize = 16 * 1024;

/// How long accepting pauses when the machine has nothing left to accept with.
pub const EXHAUSTED_PAUSE: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";

/// The connections that are open at one address.
#[derive(Debug, Default)]
pub struct Open {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<Connection>,
}

/// One of them.
#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    /// Whether its request has come and its answer is not there yet. A reload is not given up for those who only connect.
    is_awaited: Arc<AtomicBool>,
}

impl Open {
    /// Serves one more, for one request, until its answer has been taken or `deadline` has passed since it came.
    pub fn serve<S, F, A>(&mut self, stream: S, deadline: Duration, answer: F)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(Request<Incoming>) -> A + Send + 'static,
        A: Future<Output = Response<Body>> + Send,
    {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|connection| !connection.task.is_finished());
        if self.oldest_first.len() == MOST_OPEN {
            let in_the_way = self.oldest_first.iter().position(|connection| !connection.is_awaited());
            // Where all have asked, it is the oldest all the same: they ask without end.
            if let Some(closed) = self.oldest_first.remove(in_the_way.unwrap_or(0)) {
                closed.task.abort();
            }
        }
        let is_awaited = Arc::<AtomicBool>::default();
        let awaited = Arc::clone(&is_awaited);
        let task = self.tasks.spawn(async move {
            // Too late is over: what is left of it is dropped.
            let _ = timeout(deadline, converse(stream, answer, &awaited)).await;
        });
        self.oldest_first.push_back(Connection { task, is_awaited });
    }
}

impl Connection {
    fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
    }
}

/// One request and its answer.
async fn converse<S, F, A>(stream: S, answer: F, is_awaited: &AtomicBool)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Body>>,
{
    let service = service_fn(move |request| {
        is_awaited.store(true, Ordering::Relaxed);
        let answer = answer(request);
        async move {
            let answer = answer.await;
            is_awaited.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).header_read_timeout(None).max_buf_size(HEAD);
    let mut http = builder.serve_connection(TokioIo::new(stream), service);
    // Who is told of an error has been told by hyper.
    let _ = (&mut http).await;
    let stream = http.into_parts().io.into_inner();
    linger::close(stream, b"").await;
}

/// An answer of a few words.
pub fn plain(status: StatusCode, text: &str) -> Response<Body> {
    response(status, TEXT, Bytes::copy_from_slice(text.as_bytes()))
}

/// An answer that nobody may keep: it is of this moment.
pub fn response(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// That answer (405), with the one method that is understood there.
pub fn allowing(only: &'static str, mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(only));
    response
}
