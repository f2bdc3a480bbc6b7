//! A request, step by step: understood, routed, checked, and then answered here or sent to a backend.
//!
//! Three phases, and what failing in each means: while the request is understood and before there is an answer, a failure
//! is a status (`rejection.rs`); once the 101 has left, it is the end of a tunnel and never a status.
//!
//! client, target (with host and path), route, opening, framing, headers and forwarded are pure: `http`'s types in,
//! decisions out, no I/O.
//! Statuses are not chosen there; every error says which rule was broken and no more.

pub mod body;
mod chain;
pub mod client;
pub mod forward;
pub mod forwarded;
pub mod framing;
pub mod headers;
pub mod host;
pub mod opening;
pub mod path;
pub mod route;
pub mod target;
pub mod upgrade;
pub mod upload;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, UPGRADE};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::Request;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::sync::OwnedSemaphorePermit;

use self::body::{Body, Carried, Kept};
use self::client::Client;
use self::opening::Ask;
use self::route::RouteTable;
use self::target::{Form, Target};
use self::upload::Progress;
use crate::cells::{RouteState, RouteStates};
use crate::config::{
    self, Action, Config, ExchangeTimeouts, Listener, Name, Piece, Redirect, Respond, Route, Scheme, Service, Template,
};
use crate::downstream::connection::ConnContext;
use crate::downstream::seat::Seat;
use crate::record::Record;
use crate::registry::Belongs;
use crate::rejection::Rejection;
use crate::service::test_page;
use crate::tunnel::{Holds, Side, Tunnel, session};
use crate::upstream::endpoint::EndpointGuard;
use crate::upstream::{EndpointStates, Upstream};
use crate::worker;

/// A configuration with what is looked up in it by request. Values: replaced as a whole, never changed.
#[derive(Debug)]
pub struct Serving {
    /// The configuration.
    pub config: Config,
    /// Its number among those of this process.
    pub generation: u64,
    table: RouteTable,
    upstreams: HashMap<Name, Arc<Upstream>>,
    routes: HashMap<Name, Arc<RouteState>>,
    /// The counters of all routes, whatever configuration has them.
    pub states: Arc<RouteStates>,
}

impl Serving {
    /// Makes a configuration ready to serve by, on top of the state that outlives it.
    pub fn new(config: Config, states: &EndpointStates) -> Self {
        let routes = Arc::new(RouteStates::new(config.gateway.workers.get()));
        Self::made(config, routes, 1, |upstream| Arc::new(Upstream::new(upstream, states)))
    }

    /// The same for one that takes the place of `self`: upstreams that are what they were go on as they are.
    pub fn followed_by(&self, config: Config, states: &EndpointStates) -> Self {
        Self::made(config, Arc::clone(&self.states), self.generation + 1, |upstream| {
            match self.upstreams.get(&upstream.name) {
                Some(known) if known.config == upstream => Arc::clone(known),
                Some(known) => Arc::new(known.followed_by(upstream, states)),
                None => Arc::new(Upstream::new(upstream, states)),
            }
        })
    }

    fn made(
        config: Config,
        states: Arc<RouteStates>,
        generation: u64,
        upstream: impl Fn(Arc<config::Upstream>) -> Arc<Upstream>,
    ) -> Self {
        let table = RouteTable::new(config.routes.clone()).expect("resolve has refused routes that conflict");
        let upstreams = config.upstreams.iter().map(|config| (config.name.clone(), upstream(Arc::clone(config))));
        let routes = states.of(config.routes.iter().map(|route| &route.name));
        Self { table, generation, upstreams: upstreams.collect(), routes, states, config }
    }

    /// Every upstream.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// The counters of one of its routes.
    pub fn route_state(&self, name: &Name) -> &Arc<RouteState> {
        self.routes.get(name).expect("every route of the table has its state")
    }

    /// The upstream of that name, where there is one.
    pub fn upstream_of(&self, name: &Name) -> Option<&Arc<Upstream>> {
        self.upstreams.get(name)
    }

    /// One of its upstreams.
    pub fn upstream(&self, name: &Name) -> &Upstream {
        self.upstream_of(name).expect("resolve has refused routes to upstreams that do not exist")
    }
}

/// A request that was understood.
#[derive(Debug)]
pub struct Inbound {
    /// What it is for.
    pub target: Target,
    /// Where it goes.
    pub route: Arc<Route>,
    /// What it asks.
    pub ask: Ask,
    /// Who it is from.
    pub client: Client,
    /// Where it came in, as that is now.
    pub listener: Arc<Listener>,
    /// The id as the backend is told it.
    pub id: HeaderValue,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Answer {
    /// An answer with a body.
    Response(Plain),
    /// A tunnel.
    Switch(Switch),
}

/// A plain answer and what ends with it.
#[derive(Debug)]
pub struct Plain {
    response: Response<Body>,
    endpoint: Option<EndpointGuard>,
    request_body: Option<Arc<Progress>>,
    kept: Option<Kept>,
}

/// An agreed upgrade: the 101, and what stands at the tunnel's other end.
#[derive(Debug)]
pub struct Switch {
    response: Response<Body>,
    far: Far,
    endpoint: Option<EndpointGuard>,
    place: OwnedSemaphorePermit,
}

/// The other end of a tunnel.
#[derive(Debug)]
enum Far {
    /// A backend.
    Backend { side: Side, websocket: bool },
    /// The gateway itself.
    Echo,
}

impl From<Response<Body>> for Plain {
    fn from(response: Response<Body>) -> Self {
        Self { response, endpoint: None, request_body: None, kept: None }
    }
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self::Response(response.into())
    }
}

/// Answers one request of a connection.
pub fn handle(request: Request<Incoming>, connection: Arc<ConnContext>) -> impl Future<Output = Response<Body>> + Send {
    // Before the first poll: when a client's end comes right behind its request, hyper drops the future without one.
    let mut record = Unanswered::new(&connection);
    record.asks(request.method(), None, request.uri().path());
    connection.worker.cell.requests.add(1);
    answer(request, record, connection)
}

async fn answer(
    mut request: Request<Incoming>,
    mut record: Unanswered,
    connection: Arc<ConnContext>,
) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (serving, listener) = connection.in_force();
    let (parts, body) = request.into_parts();

    // Phase one: what is asked? A failure is the client's.
    let has_body = parts.method != Method::HEAD;
    let client = know_client(&parts, &connection, &listener, &mut record);
    let target = read_target(&parts, &connection, &mut record);
    let target = match target.map_err(|rejection| unrouted(rejection, &parts, &mut record)) {
        // `OPTIONS *` is about the server itself (RFC 9110 section 9.3.7): no route has a say.
        Ok(target) if target.form == Form::Asterisk => {
            return Plain::from(empty(StatusCode::NO_CONTENT)).send(record.end(), connection, has_body);
        }
        Ok(target) => target,
        Err(rejection) => return reject(&rejection, record.end(), connection, has_body),
    };
    let inbound = match understand(target, client, &parts, connection.scheme, listener, &serving, &mut record) {
        Ok(inbound) => inbound,
        Err(rejection) => return reject(&rejection, record.end(), connection, has_body),
    };
    connection.bound_stall(inbound.route.timeouts.stall);

    // Phase two: everything that may fail before there is an answer.
    let route = Arc::clone(&inbound.route);
    match act(inbound, parts, body, &connection, &serving, &mut record).await {
        Ok(Answer::Response(plain)) => plain.send(record.end(), connection, has_body),
        Ok(Answer::Switch(switch)) => switch.send(upgrade, record.end(), route, serving, &connection),
        Err(rejection) => reject(&rejection, record.end(), connection, has_body),
    }
}

/// The record of a request as long as nothing is answered. Dropped before [`Unanswered::end`], it says why there was no
/// answer: hyper drops the handling of a request when the client leaves, and so does the gateway's own end.
struct Unanswered {
    record: Option<Record>,
    connection: Arc<ConnContext>,
}

impl Unanswered {
    fn new(connection: &Arc<ConnContext>) -> Self {
        Self { record: Some(connection.record()), connection: Arc::clone(connection) }
    }

    /// There is an answer; the record goes with it.
    fn end(mut self) -> Record {
        self.record.take().expect("it is there until here")
    }
}

impl Deref for Unanswered {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.record.as_ref().expect("it is there until the end")
    }
}

impl DerefMut for Unanswered {
    fn deref_mut(&mut self) -> &mut Record {
        self.record.as_mut().expect("it is there until the end")
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Some(record) = &mut self.record else { return };
        record.unless_told(match std::thread::panicking() {
            true => Cow::Borrowed("the gateway failed: its log has the panic"),
            false => self.connection.cut_or("the client left before the answer"),
        });
    }
}

/// Host, target and framing: what makes the request a request at all.
fn read_target(head: &Parts, connection: &ConnContext, record: &mut Record) -> Result<Target, Rejection> {
    let target = Target::parse(&head.method, &head.uri, &head.headers).map_err(Rejection::Target)?;
    record.asks(&head.method, Some(&target.host.name), target.path.raw());
    if connection.is_misdirected(&target.host.name) {
        return Err(Rejection::Misdirected);
    }
    framing::request_body(head.version, &head.headers).map_err(Rejection::Framing)?;
    Ok(target)
}

/// Who it is from, and by which id it is known: by the word of a trusted proxy, or by the connection alone.
fn know_client(head: &Parts, connection: &ConnContext, listener: &Listener, record: &mut Record) -> Client {
    let client = Client::find(connection.client.0.ip(), &head.headers, &listener.trusted_proxies);
    record.comes_from(client.address);
    if let Some(id) = forwarded::id(&head.headers, &client) {
        record.keep_id(id);
    }
    client
}

/// The route, and then what kind of upgrade: in this order, since the route's list decides what may upgrade.
fn understand(
    target: Target,
    client: Client,
    head: &Parts,
    scheme: Scheme,
    listener: Arc<Listener>,
    serving: &Serving,
    record: &mut Record,
) -> Result<Inbound, Rejection> {
    let route = serving
        .table
        .find(&target, &listener.name, scheme, &head.method, &head.headers)
        .map_err(|error| unrouted(Rejection::Route(error), head, record))?;
    record.takes(serving.route_state(&route.name));
    let ask = Ask::parse(head.version, &head.method, &head.headers, &route.upgrade);
    if !matches!(ask, Ok(Ask::Plain)) {
        record.is_handshake();
    }
    let ask = ask.map_err(Rejection::Opening)?;
    match ask {
        Ask::Plain if !route.plain && route.upgrade.is_empty() => Err(Rejection::Route(route::RouteError::NotFound)),
        Ask::Plain if !route.plain => Err(Rejection::PlainRefused(protocols(&route.upgrade))),
        ask => Ok(Inbound { target, route: Arc::clone(route), ask, client, listener, id: id_value(record) }),
    }
}

/// There is no route to say what may upgrade: who asks for a WebSocket is counted as such all the same.
fn unrouted(rejection: Rejection, head: &Parts, record: &mut Record) -> Rejection {
    if opening::asks_for_websocket(head.version, &head.headers) {
        record.is_handshake();
    }
    rejection
}

fn protocols(tokens: &[Box<str>]) -> HeaderValue {
    HeaderValue::try_from(tokens.join(", ")).expect("the configuration takes tokens only")
}

fn id_value(record: &Record) -> HeaderValue {
    // The room of an id that is made here: growing into it would take more steps or fewer by the zeros that it begins with.
    let mut id = String::with_capacity(32);
    let _ = write!(id, "{}", record.id());
    HeaderValue::try_from(id).expect("ids are visible characters")
}

/// Does what the route says.
async fn act(
    inbound: Inbound,
    parts: Parts,
    body: Incoming,
    connection: &ConnContext,
    serving: &Serving,
    record: &mut Record,
) -> Result<Answer, Rejection> {
    let route = Arc::clone(&inbound.route);
    match &route.action {
        Action::Upstream(name) => {
            // Without Via there is no name of ours to come back: a match would be another gateway's.
            if serving.config.forwarded.via && forwarded::is_loop(&parts.headers, &serving.config.gateway.name) {
                return Err(Rejection::Loop);
            }
            let upstream = serving.upstream(name);
            match &inbound.ask {
                Ask::Plain => forward::forward(inbound, parts, body, upstream, connection, serving, record).await,
                Ask::Upgrade(_) => upgrade::upgrade(inbound, parts, upstream, connection, serving, record).await,
            }
        }
        Action::Respond(fixed) => Ok(respond(fixed).into()),
        Action::Redirect(redirect) => Ok(redirect_to(redirect, &inbound, connection, record).into()),
        Action::Service(Service::Echo) => echo(&inbound, connection),
        Action::Service(Service::TestPage) => Ok(page().into()),
        Action::Service(Service::Health) => Ok(health(connection).into()),
    }
}

fn reject(rejection: &Rejection, mut record: Record, connection: Arc<ConnContext>, has_body: bool) -> Response<Body> {
    let response = rejection.answer(&mut record);
    Plain::from(response).send(record, connection, has_body)
}

impl Plain {
    /// `has_body` is false for HEAD: hyper then sends no body and never asks for one.
    fn send(self, mut record: Record, connection: Arc<ConnContext>, has_body: bool) -> Response<Body> {
        let Self { mut response, endpoint, request_body, kept } = self;
        record.answered(response.status());
        if connection.worker.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| body.carrying(Carried { record, endpoint, request_body, kept, connection, has_body }))
    }
}

impl Switch {
    /// The 101 goes to hyper, everything else into the connection's slot.
    fn send(
        self,
        client: OnUpgrade,
        mut record: Record,
        route: Arc<Route>,
        serving: Arc<Serving>,
        connection: &ConnContext,
    ) -> Response<Body> {
        let Self { response, far, endpoint, place } = self;
        record.answered(response.status());
        connection.switch(Switching { client, ready: Ready { far, route, serving, endpoint, place, record } });
        response
    }
}

/// What waits in a connection's slot for its 101 to leave.
#[derive(Debug)]
pub struct Switching {
    client: OnUpgrade,
    ready: Ready,
}

/// A tunnel but for the client's stream.
#[derive(Debug)]
pub struct Ready {
    far: Far,
    route: Arc<Route>,
    /// Held until the tunnel is in the registry: who walks over the tunnels of a configuration that was replaced waits until
    /// nobody holds it.
    serving: Arc<Serving>,
    endpoint: Option<EndpointGuard>,
    place: OwnedSemaphorePermit,
    record: Record,
}

impl Switching {
    /// The client's stream as hyper gives it back.
    pub async fn upgraded(self) -> hyper::Result<(Upgraded, Ready)> {
        Ok((self.client.await?, self.ready))
    }

    /// The 101 did not leave.
    pub fn abandon(mut self, cause: Cow<'static, str>) {
        self.ready.record.because(cause);
    }
}

impl Ready {
    /// Phase three begins: from here on nothing can be answered.
    pub fn start(self, client: Side, seat: Seat) {
        let Self { far, route, serving, endpoint, place, record } = self;
        seat.registration.becomes_tunnel(Belongs {
            route: route.name.clone(),
            endpoint: endpoint.as_ref().map(|endpoint| Arc::clone(endpoint.state())),
            generation: serving.generation,
        });
        let holds = Holds { seat, place, endpoint, record };
        let timeouts: ExchangeTimeouts = route.timeouts;
        match far {
            Far::Backend { side, websocket } => {
                worker::spawn_tunnel(Tunnel::new(client, side, websocket, &timeouts, holds));
            }
            Far::Echo => worker::spawn_tunnel(session::echo(client, route.max_message, timeouts, holds)),
        }
    }
}

/// A place in the budget of tunnels, for an upgrade that may begin.
fn place_for_tunnel(connection: &ConnContext) -> Result<OwnedSemaphorePermit, Rejection> {
    if connection.worker.is_draining() {
        return Err(Rejection::Draining);
    }
    Arc::clone(&connection.worker.tunnels).try_acquire_owned().map_err(|_| Rejection::TunnelsFull)
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn respond(fixed: &Respond) -> Response<Body> {
    let mut response = Response::new(Body::full(fixed.body.clone()));
    *response.status_mut() = fixed.status;
    if !fixed.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, fixed.content_type.clone());
    }
    response
}

fn redirect_to(redirect: &Redirect, inbound: &Inbound, connection: &ConnContext, record: &Record) -> Response<Body> {
    let location = fill(&redirect.to, inbound, connection, record);
    let location = HeaderValue::try_from(location).expect("pieces of a head and of a checked template fit a header");
    let mut response = empty(redirect.status);
    response.headers_mut().insert(LOCATION, location);
    response
}

fn fill(template: &Template, inbound: &Inbound, connection: &ConnContext, record: &Record) -> String {
    let target = &inbound.target;
    let mut filled = String::new();
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Host => filled.push_str(&target.host.name),
            Piece::Path => filled.push_str(target.path.strict()),
            Piece::Query => filled.push_str(target.query()),
            Piece::Uri => filled.push_str(target.uri()),
            Piece::Scheme => filled.push_str(connection.scheme.as_str()),
            Piece::Id => filled.push_str(&record.id().to_string()),
            Piece::ClientAddress => filled.push_str(&inbound.client.address.to_string()),
        }
    }
    filled
}

fn echo(inbound: &Inbound, connection: &ConnContext) -> Result<Answer, Rejection> {
    // Whatever else may upgrade by the route's list: the echo speaks WebSocket and nothing else.
    let refused = || Rejection::PlainRefused(HeaderValue::from_static("websocket"));
    let Ask::Upgrade(asked) = &inbound.ask else { return Err(refused()) };
    let websocket = asked.websocket().ok_or_else(refused)?;
    let place = place_for_tunnel(connection)?;
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(http::header::SEC_WEBSOCKET_ACCEPT, websocket.accept.clone());
    Ok(Answer::Switch(Switch { response, far: Far::Echo, endpoint: None, place }))
}

fn page() -> Response<Body> {
    let (headers, bytes) = test_page::page();
    let mut response = Response::new(Body::full(bytes));
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// 200 while the gateway takes new work. From the drain on 503: who asks shall send nothing more.
fn health(connection: &ConnContext) -> Response<Body> {
    let (status, text) = match connection.worker.is_draining() {
        false => (StatusCode::OK, "ok\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    };
    let mut response = Response::new(Body::full(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
