//! The record: exactly one line for each request and each tunnel, written when it has ended, whatever ended it.
//!
//! A record travels with what it describes (request, body of the answer, tunnel) and is written when it is dropped, so that
//! no path out of a connection can forget it, a panic included.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, Hasher};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Instant, SystemTime};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tracing_appender::non_blocking::NonBlocking;

use crate::cells::{self, Cell, RouteState, class};
use crate::config::{LogFormat, Name, Records};
use crate::downstream::addr::ClientAddr;
use crate::rejection::Cause;
use crate::tunnel::{EndedBy, TunnelEnd};
use crate::upstream::endpoint::Endpoint;

/// Where records go, and which.
#[derive(Debug)]
pub struct Sink {
    lines: NonBlocking,
    // Written by a reload alone, so that a lock is no more than a count of its readers.
    style: RwLock<Style>,
    /// Whether there are none at all: asked for each request, and by all workers.
    off: AtomicBool,
}

/// What a configuration says of records. One that has been written is as the configuration is then, whatever it was when
/// its tunnel began: a log has one format.
#[derive(Debug, Clone)]
struct Style {
    format: LogFormat,
    records: Records,
    gateway: Arc<str>,
}

impl Sink {
    /// Writes the records of `gateway` as the configuration's `[log]` has it.
    pub fn new(lines: NonBlocking, format: LogFormat, records: Records, gateway: Arc<str>) -> Self {
        let off = AtomicBool::new(records == Records::Off);
        Self { lines, style: RwLock::new(Style { format, records, gateway }), off }
    }

    /// Writes from now on as another configuration has it.
    pub fn restyle(&self, format: LogFormat, records: Records, gateway: Arc<str>) {
        self.off.store(records == Records::Off, Ordering::Relaxed);
        *self.style.write().unwrap_or_else(PoisonError::into_inner) = Style { format, records, gateway };
    }

    fn style(&self) -> RwLockReadGuard<'_, Style> {
        self.style.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record, if it is one of those that are wanted.
    fn take(&self, fields: &Fields) {
        let style = self.style();
        if style.wants(fields) {
            let line = style.line(fields);
            drop(style);
            // The queue takes it or counts it as dropped; it never fails and never waits.
            let _ = self.lines.clone().write_all(line.as_bytes());
        }
    }
}

impl Style {
    fn wants(&self, fields: &Fields) -> bool {
        match self.records {
            Records::All => true,
            Records::Tunnels => fields.tunnel.is_some(),
            Records::Failures => fields.failed(),
            Records::Off => false,
        }
    }

    fn line(&self, fields: &Fields) -> String {
        let pairs = fields.pairs(&self.gateway);
        let mut line = match self.format {
            LogFormat::Json => json_line(&pairs),
            LogFormat::Text => text_line(&pairs),
        };
        escape_hidden(&mut line);
        line.push('\n');
        line
    }
}

/// An id of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestId {
    /// Made here, unique over processes: 16 hexadecimal digits of this process, 16 of the request.
    Made(u64),
    /// A trusted proxy's, kept so that its records and ours can be read together.
    Kept(Box<str>),
}

impl RequestId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self::Made(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match self {
            Self::Made(number) => number,
            Self::Kept(id) => return f.write_str(id),
        };
        static PROCESS: OnceLock<u64> = OnceLock::new();
        // The standard library seeds its hash maps from the system's randomness.
        let process = PROCESS.get_or_init(|| std::hash::RandomState::new().build_hasher().finish());
        // Every request writes one: `{:016x}` would be five times as dear.
        let digits = [*process, *number].map(hexadecimal);
        f.write_str(std::str::from_utf8(digits.as_flattened()).expect("digits are ASCII"))
    }
}

fn hexadecimal(number: u64) -> [u8; 16] {
    std::array::from_fn(|place| b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15])
}

/// The record of one request, and of the tunnel that it may become.
#[derive(Debug)]
pub struct Record {
    sink: Arc<Sink>,
    fields: Box<Fields>,
    forgotten: bool,
}

#[derive(Debug)]
struct Fields {
    cell: Arc<Cell>,
    id: RequestId,
    client: ClientAddr,
    listener: Name,
    began: Instant,
    method: Option<Method>,
    host: Option<Box<str>>,
    path: Option<Box<str>>,
    route: Option<Arc<RouteState>>,
    endpoint: Option<Arc<Endpoint>>,
    status: Option<StatusCode>,
    cause: Option<Cow<'static, str>>,
    rejected: bool,
    /// It asks for an upgrade.
    handshake: bool,
    sent: u64,
    received: u64,
    /// Counts a request's body where it is moved, so that its bytes are told however the request ends.
    upload: Option<Arc<AtomicU64>>,
    tunnel: Option<TunnelFields>,
}

/// A key and its value, in the order of the line.
type Pair = (&'static str, Value);

#[derive(Debug)]
struct TunnelFields {
    opened: Instant,
    end: Option<TunnelEnd>,
}

impl Record {
    /// The record of a request that is just being read.
    pub fn begin(sink: &Arc<Sink>, cell: &Arc<Cell>, client: ClientAddr, listener: &Name) -> Self {
        let fields = Fields {
            cell: Arc::clone(cell),
            id: RequestId::next(),
            client,
            listener: listener.clone(),
            began: Instant::now(),
            method: None,
            host: None,
            path: None,
            route: None,
            endpoint: None,
            status: None,
            cause: None,
            rejected: false,
            handshake: false,
            sent: 0,
            received: 0,
            upload: None,
            tunnel: None,
        };
        Self { sink: Arc::clone(sink), fields: Box::new(fields), forgotten: false }
    }

    /// It began before it was known to be one: a head that never was whole.
    pub fn since(mut self, began: Instant) -> Self {
        self.fields.began = began;
        self
    }

    /// The request's id.
    pub fn id(&self) -> &RequestId {
        &self.fields.id
    }

    /// The request goes by an id that a trusted proxy has given it.
    pub fn keep_id(&mut self, id: &str) {
        self.fields.id = RequestId::Kept(id.into());
    }

    /// The client as a trusted proxy told it. Its port, nobody told.
    pub fn comes_from(&mut self, client: IpAddr) {
        if client != self.fields.client.0.ip().to_canonical() {
            self.fields.client = ClientAddr(SocketAddr::new(client, 0));
        }
    }

    /// What the head said. Copied: the head's own bytes would pin hyper's whole read buffer for the life of a tunnel.
    pub fn asks(&mut self, method: &Method, host: Option<&str>, path: &str) {
        // A tunnel that began so has no more to tell when there are records again.
        if self.sink.off.load(Ordering::Relaxed) {
            return;
        }
        self.fields.method = Some(method.clone());
        self.fields.host = host.map(Into::into);
        self.fields.path = Some(path.into());
    }

    /// The route that it takes.
    pub fn takes(&mut self, route: &Arc<RouteState>) {
        self.fields.route = Some(Arc::clone(route));
    }

    /// It is an opening handshake, a right one or not.
    pub fn is_handshake(&mut self) {
        self.fields.handshake = true;
    }

    /// The endpoint that it was last sent to.
    pub fn goes_to(&mut self, endpoint: &Arc<Endpoint>) {
        self.fields.endpoint = Some(Arc::clone(endpoint));
    }

    /// The answer's status.
    pub fn answered(&mut self, status: StatusCode) {
        self.fields.status = Some(status);
    }

    /// Why the gateway answered by itself, or ended what was under way.
    pub fn because(&mut self, cause: impl Into<Cow<'static, str>>) {
        self.fields.cause = Some(cause.into());
    }

    /// The same, where nothing has been said yet.
    pub fn unless_told(&mut self, cause: impl Into<Cow<'static, str>>) {
        self.fields.cause.get_or_insert_with(|| cause.into());
    }

    /// There was nothing to record after all.
    pub fn forget(mut self) {
        self.forgotten = true;
    }

    /// The gateway refused it.
    pub fn rejected(&mut self, status: StatusCode, why: impl Into<Cow<'static, str>>, cause: Cause) {
        self.answered(status);
        self.because(why);
        self.fields.cell.rejections.add(cause as usize);
        self.fields.rejected = true;
    }

    /// The request has a body: its bytes, client to server, are those that this counts.
    pub fn uploads(&mut self) -> Arc<AtomicU64> {
        Arc::clone(self.fields.upload.get_or_insert_default())
    }

    /// Bytes of the answer's body, server to client.
    pub fn add_received(&mut self, bytes: u64) {
        self.fields.received += bytes;
    }

    /// The 101 has left: from now on it is a tunnel's record.
    pub fn tunnel_opened(&mut self, now: Instant) {
        self.fields.tunnel = Some(TunnelFields { opened: now, end: None });
        self.fields.count_tunnel(now);
    }

    /// The tunnel's end.
    pub fn tunnel_ended(&mut self, end: TunnelEnd) {
        self.fields.sent = end.sent;
        self.fields.received = end.received;
        if let Some(tunnel) = &mut self.fields.tunnel {
            tunnel.end = Some(end);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.forgotten {
            return;
        }
        if std::thread::panicking() {
            self.because("the gateway failed: a task panicked");
        }
        // Before the line is written: who has read it finds it counted.
        self.fields.count();
        self.sink.take(&self.fields);
    }
}

impl Fields {
    fn route_cell(&self) -> &cells::RouteCell {
        self.route.as_ref().map_or(&self.cell.unrouted, |route| route.cell(self.cell.worker))
    }

    fn count_tunnel(&self, opened: Instant) {
        let of_route = self.route_cell();
        of_route.handshakes.add(class(self.status));
        of_route.opened.add(1);
        self.cell.handshakes.observe(&cells::HANDSHAKES, opened.saturating_duration_since(self.began));
        if let Some(endpoint) = &self.endpoint {
            endpoint.state.tunnel_began();
        }
    }

    /// What it came to. A tunnel's bytes are counted here, at its end: as long as it lives they cost nothing.
    fn count(&self) {
        let of_route = self.route_cell();
        let moved = match &self.tunnel {
            None => {
                // A 101 that did not become a tunnel has not left.
                let class = class(self.status.filter(|status| *status != StatusCode::SWITCHING_PROTOCOLS));
                if self.handshake {
                    of_route.handshakes.add(class)
                } else {
                    of_route.requests.add(class)
                }
                &of_route.of_requests
            }
            Some(tunnel) => {
                of_route.ended.add(1);
                self.cell.ends.add(tunnel.ended_by() as usize);
                self.cell.lives.observe(&cells::LIVES, tunnel.opened.elapsed());
                if let Some(endpoint) = &self.endpoint {
                    endpoint.state.tunnel_ended();
                }
                &of_route.of_tunnels
            }
        };
        moved.sent.add(self.sent());
        moved.received.add(self.received);
    }

    fn sent(&self) -> u64 {
        self.upload.as_ref().map_or(self.sent, |bytes| bytes.load(Ordering::Relaxed))
    }

    fn failed(&self) -> bool {
        let by_status = self.status.is_none_or(|status| status.is_server_error());
        let by_end = self.tunnel.as_ref().is_some_and(|tunnel| {
            let by = tunnel.end.as_ref().map(|end| end.by);
            !matches!(by, Some(EndedBy::ClientClosed | EndedBy::ServerClosed))
        });
        self.rejected || by_status || by_end
    }

    fn client_text(&self) -> String {
        if self.client.0.port() == 0 { self.client.0.ip().to_string() } else { self.client.to_string() }
    }

    fn pairs(&self, gateway: &str) -> Vec<Pair> {
        let mut pairs = Vec::with_capacity(20);
        let mut put = |key, value: Option<Value>| pairs.extend(value.map(|value| (key, value)));
        let text = |text: &dyn fmt::Display| Some(Value::from(text.to_string()));
        put("timestamp", text(&humantime::format_rfc3339_millis(SystemTime::now())));
        put("record", Some(json!(if self.tunnel.is_some() { "tunnel" } else { "request" })));
        put("id", text(&self.id));
        put("gateway", Some(json!(gateway)));
        put("client", Some(self.client_text().into()));
        put("listener", text(&self.listener));
        put("route", self.route.as_ref().map(|route| json!(route.name.as_str())));
        put("endpoint", self.endpoint.as_ref().map(|endpoint| json!(endpoint.address.to_string())));
        put("method", self.method.as_ref().map(|method| json!(method.as_str())));
        put("host", self.host.as_ref().map(|host| json!(host)));
        put("path", self.path.as_ref().map(|path| json!(path)));
        put("status", self.status.map(|status| json!(status.as_u16())));
        put("cause", self.cause.as_ref().map(|cause| json!(cause)));
        put("sent", Some(json!(self.sent())));
        put("received", Some(json!(self.received)));
        match &self.tunnel {
            None => put("took_ms", Some(milliseconds(self.began, Instant::now()))),
            Some(tunnel) => {
                put("ended_by", text(&tunnel.ended_by()));
                put("close_code", tunnel.end.as_ref().and_then(|end| end.close_code).map(|code| json!(code)));
                put("handshake_ms", Some(milliseconds(self.began, tunnel.opened)));
                put("lasted_ms", Some(milliseconds(tunnel.opened, Instant::now())));
            }
        }
        pairs
    }
}

impl TunnelFields {
    /// One that was dropped without an end was in a task that panicked or a runtime that was torn down.
    fn ended_by(&self) -> EndedBy {
        self.end.as_ref().map_or(EndedBy::HardStop, |end| end.by)
    }
}

/// Milliseconds with three decimals.
fn milliseconds(from: Instant, to: Instant) -> Value {
    let micros = u32::try_from(to.saturating_duration_since(from).as_micros()).map(f64::from);
    // Beyond 71 minutes the parts of a millisecond say nothing.
    micros.map_or_else(|_| json!(to.saturating_duration_since(from).as_millis()), |micros| json!(micros / 1000.0))
}

/// One object in one line, its keys in their order.
fn json_line(pairs: &[Pair]) -> String {
    let mut line = String::with_capacity(400);
    for (key, value) in pairs {
        let separator = if line.is_empty() { '{' } else { ',' };
        let _ = write!(line, "{separator}\"{key}\":{value}");
    }
    line.push('}');
    line
}

/// JSON escapes what is a control character in ASCII, and no other. Those of Unicode begin commands to a terminal (U+009B)
/// or end a line for some readers (U+0085, U+2028), and what turns or hides text makes a line look like another.
fn escape_hidden(line: &mut String) {
    let hidden = |char: char| {
        char.is_control()
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !line.is_ascii() || line.contains('\u{7f}') {
        let escape = |char: char| if hidden(char) { format!("\\u{:04x}", u32::from(char)) } else { char.into() };
        *line = line.chars().map(escape).collect();
    }
}

/// `key=value` pairs in one line; values that hold more than plain characters are quoted, and what could end or recolour a
/// line is escaped.
fn text_line(pairs: &[Pair]) -> String {
    let mut line = String::with_capacity(320);
    for (key, value) in pairs {
        let separator = if line.is_empty() { "" } else { " " };
        match value {
            Value::String(plain) if *key == "timestamp" => line.push_str(plain),
            Value::String(plain) if is_plain(plain) => {
                let _ = write!(line, "{separator}{key}={plain}");
            }
            other => {
                let _ = write!(line, "{separator}{key}={other}");
            }
        }
    }
    line
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'=' && b != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_all_of_its_digits() {
        for (number, digits) in [
            (0, "0000000000000000"),
            (0xa, "000000000000000a"),
            (0x0123_4567_89ab_cdef, "0123456789abcdef"),
            (u64::MAX, "ffffffffffffffff"),
        ] {
            assert_eq!(str::from_utf8(&hexadecimal(number)).unwrap(), digits);
        }
    }

    #[test]
    fn a_text_line_cannot_be_broken_by_its_values() {
        let pairs = [
            ("timestamp", json!("2026-11-22T20:31:00.123Z")),
            ("path", json!("/a b\n\"c\"\u{1b}[31m")),
            ("status", json!(200)),
            ("route", json!("chat")),
        ];
        let line = text_line(&pairs);
        assert!(!line.contains('\n') && !line.contains('\u{1b}'), "{line}");
        assert!(line.contains(r#"path="/a b\n\"c\""#), "{line}");
        assert!(line.contains("status=200") && line.contains("route=chat"), "{line}");
    }

    #[test]
    fn hidden_characters_are_escaped_and_can_be_read_back() {
        for char in ['\u{7f}', '\u{85}', '\u{9b}', '\u{200b}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{feff}'] {
            let path = format!("/\u{e4}{char}\u{1f980}");
            let mut line = json_line(&[("path", json!(path))]);
            escape_hidden(&mut line);
            assert_eq!(line, format!("{{\"path\":\"/\u{e4}\\u{:04x}\u{1f980}\"}}", u32::from(char)));
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["path"], path);
        }
    }

    #[test]
    fn a_json_line_is_one_object_with_its_keys_in_order() {
        let line = json_line(&[("timestamp", json!("now")), ("path", json!("/\"\n")), ("sent", json!(3))]);
        assert_eq!(line, r#"{"timestamp":"now","path":"/\"\n","sent":3}"#);
    }

    #[test]
    fn ids_differ() {
        assert_ne!(RequestId::next(), RequestId::next());
        assert_eq!(RequestId::Made(255).to_string().len(), 32);
        assert_eq!(RequestId::Kept("of-a-proxy".into()).to_string(), "of-a-proxy");
    }
}
