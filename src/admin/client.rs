//! The other end of the socket: how `spliceway reload` and `spliceway status` ask a gateway that runs.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::proxy::body::Body;

/// How long the gateway may take. A reload of ten thousand routes takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens there, or who asks may not open it.
    Unreachable(PathBuf, io::Error),
    /// The gateway has ended, or is none.
    Broken(hyper::Error),
    /// It did not answer in time.
    TimedOut,
    /// It is no gateway.
    NotUnderstood(StatusCode),
    /// No runtime to ask with.
    Thread(io::Error),
}

/// Asks for a reload: its status, and what the gateway says of it.
pub fn reload(socket: &Path) -> Result<(StatusCode, Value), AskError> {
    ask(socket, Method::POST, "/reload")
}

/// Asks for the state of everything.
pub fn status(socket: &Path) -> Result<(StatusCode, Value), AskError> {
    ask(socket, Method::GET, "/status")
}

fn ask(socket: &Path, method: Method, path: &str) -> Result<(StatusCode, Value), AskError> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("a path is a URI");
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("spliceway"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AskError::Thread)?;
    let answer = runtime
        .block_on(async { timeout(PATIENCE, exchange(socket, request)).await })
        .unwrap_or(Err(AskError::TimedOut))?;
    let (status, text) = answer;
    let value = serde_json::from_slice(&text).map_err(|_| AskError::NotUnderstood(status))?;
    Ok((status, value))
}

async fn exchange(socket: &Path, request: Request<Body>) -> Result<(StatusCode, Bytes), AskError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|error| AskError::Unreachable(socket.to_owned(), error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(AskError::Broken)?;
    let asked = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, whole(answer).await?))
    };
    let driven = async {
        // What went wrong with it reaches the answer, too.
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = asked => answer.map_err(AskError::Broken),
        () = driven => unreachable!("it waits for ever"),
    }
}

async fn whole(answer: Response<Incoming>) -> hyper::Result<Bytes> {
    let (mut body, mut text) = (answer.into_body(), BytesMut::new());
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            text.extend_from_slice(&data);
        }
    }
    Ok(text.freeze())
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(socket, error) => {
                write!(f, "no gateway can be asked at {}: {error} (admin.bind says where it listens)", socket.display())
            }
            Self::Broken(error) => write!(f, "the gateway did not answer: {error}"),
            Self::TimedOut => write!(f, "the gateway did not answer within {} s", PATIENCE.as_secs()),
            Self::NotUnderstood(status) => write!(f, "who listens there is no gateway: it answered {status}"),
            Self::Thread(error) => write!(f, "the gateway cannot be asked: {error}"),
        }
    }
}

// The causes stand in the lines above.
impl std::error::Error for AskError {}
