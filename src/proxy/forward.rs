//! A plain request to a backend: over a connection that is kept from before or a fresh one, body and all, and its answer
//! back.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use super::body::{Body, Kept};
use super::forwarded::Told;
use super::upload::{Progress, RequestBody, Upload};
use super::{Answer, Inbound, Plain, Serving, forwarded, framing, headers};
use crate::config::{ExchangeTimeouts, HostHeader};
use crate::downstream::connection::ConnContext;
use crate::record::Record;
use crate::rejection::Rejection;
use crate::tunnel::alarm::Alarm;
use crate::tunnel::io::TunnelIo;
use crate::upstream::Upstream;
use crate::upstream::dial::Dial;
use crate::upstream::endpoint::{Endpoint, EndpointGuard};
use crate::upstream::http1::{Connection, Unanswered};

/// Forwards a request and begins its answer.
pub async fn forward(
    inbound: Inbound,
    parts: Parts,
    body: Incoming,
    upstream: &Upstream,
    connection: &ConnContext,
    serving: &Serving,
    record: &mut Record,
) -> Result<Answer, Rejection> {
    let (method, version) = (parts.method.clone(), parts.version);
    let (body, progress) = RequestBody::new(body, headers::expects_continue(&parts), record);
    let mut head = parts;
    prepare(&mut head, &inbound, connection, serving)?;
    let mut attempt = Attempt {
        dial: Dial::new(upstream, &serving.config.tcp, inbound.route.timeouts.connect),
        upstream,
        connection,
        inbound: &inbound,
        progress: &progress,
    };
    let mut request = Request::from_parts(head, body);
    progress.open_on_continue(&mut request);
    let (response, backend, endpoint) = attempt.ask(request, record).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Rejection::UnaskedSwitch);
    }
    let mut response = towards_client(response, &method, &inbound.route.timeouts)?;
    // The client waits with its body for a 100 that will not come: where the next request begins, nobody can say.
    let is_refused = progress.refuse();
    // HTTP/1.0 knows no chunks: hyper ends such a body by its close, and yet would say keep-alive to who asked for it.
    let ends_by_close = version < Version::HTTP_11 && response.headers().contains_key(TRANSFER_ENCODING);
    if is_refused || ends_by_close {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let kept = Some(Kept { connection: backend, settings: upstream.config.pool });
    Ok(Answer::Response(Plain { response, endpoint: Some(endpoint), request_body: Some(progress), kept }))
}

/// The tries of one request.
struct Attempt<'a> {
    dial: Dial<'a>,
    upstream: &'a Upstream,
    connection: &'a ConnContext,
    inbound: &'a Inbound,
    progress: &'a Arc<Progress>,
}

impl Attempt<'_> {
    /// Asks one endpoint after another, as long as nothing of the request was sent.
    async fn ask(
        &mut self,
        mut request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<(Response<Incoming>, Connection, EndpointGuard), Rejection> {
        let mut failure = Rejection::NoEndpoint;
        while let Some(endpoint) = self.dial.next().await {
            record.goes_to(endpoint.endpoint());
            set_host(request.headers_mut(), self.upstream, endpoint.endpoint());
            match self.ask_endpoint(request, &endpoint).await {
                Ok((response, backend)) => return Ok((response, backend, endpoint)),
                Err(Failed { rejection, unsent: Some(unsent) }) => {
                    failure = self.connection.attempt_failed(rejection);
                    request = unsent;
                }
                Err(Failed { rejection, unsent: None }) => return Err(rejection),
            }
        }
        Err(failure)
    }

    /// Asks one endpoint: over a connection that is kept, and where that turns out to be dead over a fresh one.
    async fn ask_endpoint(
        &mut self,
        request: Request<RequestBody>,
        endpoint: &EndpointGuard,
    ) -> Result<(Response<Incoming>, Connection), Failed> {
        let Some(mut backend) = self.kept(endpoint) else {
            return match self.dial.connect(endpoint).await {
                Ok(stream) => self.ask_over(stream, endpoint, request).await,
                Err(error) => Err(Failed { rejection: Rejection::Connect(error), unsent: Some(request) }),
            };
        };
        let spare = may_repeat(&request).then(|| copy(&request));
        self.connection.worker.cell.reused.add(1);
        match self.answer_in_time(&mut backend, request).await {
            Ok(response) => Ok((response, backend)),
            Err(Failed { rejection: Rejection::Exchange(error), unsent }) => {
                // What came before anything was sent is no answer to it: bytes that a backend sent unasked.
                let Some(request) = unsent.or_else(|| spare.filter(|_| !error.answered)) else {
                    return Err(Failed { rejection: Rejection::Exchange(error), unsent: None });
                };
                self.connection.worker.cell.retried.add(1);
                match self.dial.connect_again(endpoint).await {
                    Ok(stream) => self.ask_over(stream, endpoint, request).await,
                    Err(error) => Err(Failed { rejection: Rejection::Connect(error), unsent: Some(request) }),
                }
            }
            Err(failed) => Err(failed),
        }
    }

    fn kept(&self, endpoint: &EndpointGuard) -> Option<Connection> {
        let Upstream { config, .. } = self.upstream;
        config.pool?;
        self.connection.worker.pool.take(endpoint.endpoint(), config.tls.as_deref())
    }

    async fn ask_over(
        &self,
        stream: TunnelIo,
        endpoint: &EndpointGuard,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Connection), Failed> {
        self.connection.worker.cell.opened.add(1);
        let limits = &self.connection.listener.limits;
        let tls = self.upstream.config.tls.as_ref().map(|tls| tls.fingerprint(&endpoint.endpoint().configured));
        let mut backend = match Connection::over(stream, tls, limits).await {
            Ok(backend) => backend,
            Err(error) => return Err(Failed { rejection: Rejection::Exchange(error), unsent: Some(request) }),
        };
        self.answer_in_time(&mut backend, request).await.map(|response| (response, backend))
    }

    /// The head of the answer, under the deadlines that fit how far the request has come.
    async fn answer_in_time(
        &self,
        backend: &mut Connection,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failed> {
        let timeouts = &self.inbound.route.timeouts;
        self.progress.begin();
        let mut answer = pin!(backend.ask(request));
        let mut alarm = Alarm::new(Instant::now() + timeouts.stall.min(timeouts.response_head));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                // A request's body that fails makes the exchange fail, and hyper blames the exchange.
                return Poll::Ready(answer.map_err(|unanswered| match self.progress.fault() {
                    Some(fault) => Failed { rejection: Rejection::Body(fault), unsent: None },
                    None => Failed::from(unanswered),
                }));
            }
            loop {
                let (due, rejection) = deadline(self.progress.upload(), timeouts);
                if due <= Instant::now() {
                    return Poll::Ready(Err(Failed { rejection, unsent: None }));
                }
                if alarm.poll(due, cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// A try that came to nothing.
struct Failed {
    rejection: Rejection,
    /// The request, when nothing of it was sent: then another endpoint may be tried.
    unsent: Option<Request<RequestBody>>,
}

impl From<Unanswered> for Failed {
    fn from(unanswered: Unanswered) -> Self {
        Self { rejection: Rejection::Exchange(unanswered.error), unsent: unanswered.unsent }
    }
}

fn deadline(upload: Upload, timeouts: &ExchangeTimeouts) -> (Instant, Rejection) {
    match upload {
        Upload::Whole(since) => (since + timeouts.response_head, Rejection::ResponseTimedOut),
        Upload::AwaitsClient(since) => (since + timeouts.stall, Rejection::BodyTooSlow),
        Upload::AwaitsBackend(since) => (since + timeouts.stall, Rejection::BodyNotTaken),
    }
}

/// Whether a request may be sent once more although it may have been sent before: nothing but its head, and asking twice
/// is asking once (RFC 9110 section 9.2.2).
fn may_repeat(request: &Request<RequestBody>) -> bool {
    request.body().is_none() && request.method().is_idempotent()
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::none());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// Makes a head into the one that backends are sent, but for the Host of one endpoint.
pub fn prepare(
    head: &mut Parts,
    inbound: &Inbound,
    connection: &ConnContext,
    serving: &Serving,
) -> Result<(), Rejection> {
    let received = std::mem::replace(&mut head.version, Version::HTTP_11);
    let length = framing::request_body(received, &head.headers).map_err(Rejection::Framing)?;
    let host = inbound.target.host.value();
    headers::towards_backend(&mut head.headers, &inbound.ask, host.clone());
    framing::set(&mut head.headers, length);
    head.uri = Uri::from(inbound.target.path_and_query());
    let told = Told {
        client: inbound.client,
        trusted: &inbound.listener.trusted_proxies,
        scheme: connection.scheme,
        host,
        port: connection.local.0.port(),
        name: &serving.config.gateway.name,
        version: received,
        certificate: connection.client_certificate(),
        id: inbound.id.clone(),
    };
    forwarded::towards_backend(&mut head.headers, told, serving.config.forwarded);
    Ok(())
}

/// The Host that this endpoint is sent.
pub fn set_host(headers: &mut HeaderMap, upstream: &Upstream, endpoint: &Endpoint) {
    let host = match &upstream.config.host_header {
        // As the client sent it: it is there already.
        HostHeader::Client => return,
        HostHeader::Literal(value) => value.clone(),
        HostHeader::Endpoint => endpoint.host(upstream.config.scheme()),
    };
    headers.insert(HOST, host);
}

/// Makes a backend's answer into the one that the client is sent.
pub fn towards_client(
    response: Response<Incoming>,
    method: &Method,
    timeouts: &ExchangeTimeouts,
) -> Result<Response<Body>, Rejection> {
    let (mut head, body) = response.into_parts();
    let length =
        framing::answer_body(method, head.status, head.version, &head.headers).map_err(Rejection::AnswerFraming)?;
    headers::towards_client(&mut head.headers, headers::Answer::Response);
    framing::set(&mut head.headers, length);
    head.version = Version::HTTP_11;
    Ok(Response::from_parts(head, Body::forwarded(body, timeouts.stall)))
}
