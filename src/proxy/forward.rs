//! A plain request to a backend: over a connection of its own, body and all, and its answer back.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;

use super::body::{Body, Progress, RequestBody, Upload};
use super::opening::Ask;
use super::target::Target;
use super::{Answer, Inbound, Plain, framing, headers};
use crate::config::{ExchangeTimeouts, HostHeader};
use crate::downstream::connection::ConnContext;
use crate::record::Record;
use crate::rejection::Rejection;
use crate::tunnel::alarm::Alarm;
use crate::upstream::Upstream;
use crate::upstream::dial::{Dial, Dialled};
use crate::upstream::endpoint::{Endpoint, EndpointGuard};
use crate::upstream::http1::Exchange;

/// Forwards a request and begins its answer.
pub async fn forward(
    inbound: Inbound,
    parts: Parts,
    body: Incoming,
    upstream: &Upstream,
    connection: &ConnContext,
    record: &mut Record,
) -> Result<Answer, Rejection> {
    let timeouts = &inbound.route.timeouts;
    let (exchange, endpoint) = reach(upstream, connection, timeouts, record).await?;
    let method = parts.method.clone();
    let mut head = parts;
    towards(&mut head, &inbound.target, &Ask::Plain, endpoint.endpoint(), upstream)?;
    let (body, progress) = RequestBody::new(body);
    let mut exchange = exchange;
    let request = Request::from_parts(head, body);
    let response = answer_in_time(&mut exchange, request, &progress, timeouts).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Rejection::UnaskedSwitch);
    }
    exchange.stream_body();
    let response = towards_client(response, &method, timeouts)?;
    Ok(Answer::Response(Plain { response, endpoint: Some(endpoint), request_body: Some(progress) }))
}

/// A connection to some endpoint; nothing of the request has been sent, so any may be tried.
async fn reach(
    upstream: &Upstream,
    connection: &ConnContext,
    timeouts: &ExchangeTimeouts,
    record: &mut Record,
) -> Result<(Exchange, EndpointGuard), Rejection> {
    let mut dial = Dial::new(upstream, &connection.worker.tcp, timeouts.connect);
    let mut failure = Rejection::NoEndpoint;
    loop {
        match dial.next().await {
            Dialled::Connected(stream, endpoint) => {
                record.goes_to(endpoint.endpoint().address);
                let limits = &connection.listener.limits;
                let exchange = Exchange::over(stream, limits.head_size, limits.headers).await;
                return Ok((exchange.map_err(Rejection::Exchange)?, endpoint));
            }
            Dialled::Failed(endpoint, error) => {
                record.goes_to(endpoint.endpoint().address);
                failure = Rejection::Connect(error);
            }
            Dialled::Exhausted => return Err(failure),
        }
    }
}

/// Makes a head into the one that the backend is sent.
pub fn towards(
    head: &mut Parts,
    target: &Target,
    ask: &Ask,
    endpoint: &Endpoint,
    upstream: &Upstream,
) -> Result<(), Rejection> {
    let length = framing::request_body(head.version, &head.headers).map_err(Rejection::Framing)?;
    headers::towards_backend(&mut head.headers, ask, host_for(upstream, endpoint, target));
    framing::set(&mut head.headers, length);
    head.uri = Uri::from(target.path_and_query());
    // hyper writes the version that the head carries; ours is 1.1 (RFC 9110 section 2.5).
    head.version = Version::HTTP_11;
    Ok(())
}

fn host_for(upstream: &Upstream, endpoint: &Endpoint, target: &Target) -> HeaderValue {
    match &upstream.config.host_header {
        HostHeader::Client => target.host.value().clone(),
        HostHeader::Literal(value) => value.clone(),
        HostHeader::Endpoint => endpoint.host(),
    }
}

/// The head of the answer, under the deadlines that fit how far the request has come.
async fn answer_in_time(
    exchange: &mut Exchange,
    request: Request<RequestBody>,
    progress: &Arc<Progress>,
    timeouts: &ExchangeTimeouts,
) -> Result<Response<Incoming>, Rejection> {
    let mut answer = pin!(exchange.answer(request));
    let mut alarm = Alarm::new(Instant::now() + timeouts.stall.min(timeouts.response_head));
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer.map_err(Rejection::Exchange));
        }
        loop {
            let (due, rejection) = match progress.upload() {
                Upload::Whole(since) => (since + timeouts.response_head, Rejection::ResponseTimedOut),
                Upload::AwaitsClient(since) => (since + timeouts.stall, Rejection::BodyTooSlow),
                Upload::AwaitsBackend(since) => (since + timeouts.stall, Rejection::BodyNotTaken),
            };
            if due <= Instant::now() {
                return Poll::Ready(Err(rejection));
            }
            if alarm.poll(due, cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
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
