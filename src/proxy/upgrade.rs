//! An upgrade to a backend: dial, exchange, the backend's 101 checked. Nothing is spawned: dropping this future, as hyper
//! does when the client leaves, gives up the dial and closes the backend.

use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::body::Body;
use super::forward::{prepare, set_host, towards_client};
use super::opening::{Ask, UpgradeRequest};
use super::upload::RequestBody;
use super::{Answer, Far, Inbound, Plain, Serving, Switch, headers, place_for_tunnel};
use crate::downstream::connection::ConnContext;
use crate::record::Record;
use crate::rejection::Rejection;
use crate::upstream::Upstream;
use crate::upstream::dial::Dial;
use crate::upstream::endpoint::EndpointGuard;
use crate::upstream::http1::Exchange;

/// Asks one endpoint after another until one has answered; an upgrade request has no body and changes nothing before its
/// 101, so it may be sent again as long as no byte of an answer has come.
pub async fn upgrade(
    inbound: Inbound,
    mut parts: Parts,
    upstream: &Upstream,
    connection: &ConnContext,
    serving: &Serving,
    record: &mut Record,
) -> Result<Answer, Rejection> {
    let place = place_for_tunnel(connection)?;
    prepare(&mut parts, &inbound, connection, serving)?;
    let mut dial = Dial::new(upstream, &serving.config.tcp, inbound.route.timeouts.connect);
    let mut failure = Rejection::NoEndpoint;
    loop {
        let Some(endpoint) = dial.next().await else { return Err(failure) };
        record.goes_to(endpoint.endpoint());
        let stream = match dial.connect(&endpoint).await {
            Ok(stream) => stream,
            Err(error) => {
                failure = connection.attempt_failed(Rejection::Connect(error));
                continue;
            }
        };
        connection.worker.cell.opened.add(1);
        let exchange = Exchange::over(stream, &connection.listener.limits).await.map_err(Rejection::Exchange)?;
        let mut head = parts.clone();
        set_host(&mut head.headers, upstream, endpoint.endpoint());
        match ask_for(exchange, head, &inbound).await {
            Ok((exchange, response)) => {
                return conclude(exchange, response, &inbound, &parts.method, endpoint, place).await;
            }
            Err(Rejection::Exchange(error)) if !error.answered => {
                failure = connection.attempt_failed(Rejection::Exchange(error));
            }
            Err(rejection) => return Err(rejection),
        }
    }
}

/// Sends the upgrade request and waits for the head of the answer, within `timeouts.upgrade`.
async fn ask_for(
    mut exchange: Exchange,
    head: Parts,
    inbound: &Inbound,
) -> Result<(Exchange, Response<Incoming>), Rejection> {
    let request = Request::from_parts(head, RequestBody::none());
    match timeout(inbound.route.timeouts.upgrade, exchange.answer(request)).await {
        Ok(Ok(response)) => Ok((exchange, response)),
        Ok(Err(error)) => Err(Rejection::Exchange(error)),
        Err(_) => Err(Rejection::UpgradeTimedOut),
    }
}

/// A 101 is checked and becomes a tunnel; any other answer is passed on whole, and the client's connection goes on as HTTP.
async fn conclude(
    exchange: Exchange,
    mut response: Response<Incoming>,
    inbound: &Inbound,
    method: &Method,
    endpoint: EndpointGuard,
    place: OwnedSemaphorePermit,
) -> Result<Answer, Rejection> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        exchange.stream_body();
        let response = towards_client(response, method, &inbound.route.timeouts)?;
        return Ok(Answer::Response(Plain { response, endpoint: Some(endpoint), request_body: None, kept: None }));
    }
    let asked = asked(&inbound.ask);
    asked.check_answer(response.headers()).map_err(Rejection::Answer)?;
    let upgrade = hyper::upgrade::on(&mut response);
    let side = exchange.switch(upgrade).await.map_err(Rejection::Exchange)?;
    let far = Far::Backend { side, websocket: asked.websocket().is_some() };
    Ok(Answer::Switch(Switch { response: switching(response), far, endpoint: Some(endpoint), place }))
}

fn asked(ask: &Ask) -> &UpgradeRequest {
    match ask {
        Ask::Upgrade(asked) => asked,
        Ask::Plain => unreachable!("only an upgrade request is sent as one"),
    }
}

/// The backend's 101, headers as they are but for those of its own connection.
fn switching(response: Response<Incoming>) -> Response<Body> {
    let (mut head, _) = response.into_parts();
    headers::towards_client(&mut head.headers, headers::Answer::Switching);
    head.version = Version::HTTP_11;
    Response::from_parts(head, Body::empty())
}
