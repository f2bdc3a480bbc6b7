//! The only place where statuses are chosen: what the gateway answers instead of a backend, and why.

use std::fmt;

use http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, Response, StatusCode};

use crate::cells::counted;
use crate::proxy::body::Body;
use crate::proxy::framing::FramingError;
use crate::proxy::headers::has_token;
use crate::proxy::opening::{AnswerError, OpeningError};
use crate::proxy::route::RouteError;
use crate::proxy::target::TargetError;
use crate::proxy::upload::BodyFault;
use crate::record::Record;
use crate::upstream::connect::ConnectError;
use crate::upstream::http1::ExchangeError;
use crate::upstream::tls::TlsFailure;

/// An answer that the gateway gives instead.
#[derive(Debug)]
pub enum Rejection {
    /// The framing of the request's body.
    Framing(FramingError),
    /// Host, method or target.
    Target(TargetError),
    /// The host is another than the one that the client asked for when it connected.
    Misdirected,
    /// No route, or two readings of the path.
    Route(RouteError),
    /// The opening handshake.
    Opening(OpeningError),
    /// A request that does not upgrade, where only upgrades to these protocols are served.
    PlainRefused(HeaderValue),
    /// The request has been here before: our own name is in its Via.
    Loop,
    /// The gateway is about to end.
    Draining,
    /// The budget of tunnels is used up.
    TunnelsFull,
    /// No endpoint is known, or all were tried.
    NoEndpoint,
    /// No connection to a backend.
    Connect(ConnectError),
    /// The backend's connection failed before its answer was whole.
    Exchange(ExchangeError),
    /// The framing of the backend's answer.
    AnswerFraming(FramingError),
    /// A 101 that is not the one that was asked for.
    Answer(AnswerError),
    /// A 101 to a request that did not ask for one.
    UnaskedSwitch,
    /// The backend did not answer the upgrade in time.
    UpgradeTimedOut,
    /// The backend did not answer in time.
    ResponseTimedOut,
    /// The request's body broke off.
    Body(BodyFault),
    /// The client stopped within its request's body.
    BodyTooSlow,
    /// The backend stopped taking the request's body.
    BodyNotTaken,
}

counted! {
/// What the gateway answered by itself for: one of few words, where the record has a sentence.
pub enum Cause {
    /// The framing of the request's body.
    Framing,
    /// Host, method or target.
    Target,
    /// Another host than by SNI.
    Misdirected,
    /// No route.
    NoRoute,
    /// Two readings of the path.
    AmbiguousPath,
    /// A mistake in the opening handshake.
    OpeningHandshake,
    /// Only upgrades are served here.
    PlainRefused,
    /// The request has been here before.
    Loop,
    /// The gateway is about to end.
    Draining,
    /// `limits.tunnels`.
    TunnelsFull,
    /// No endpoint to try.
    NoEndpoint,
    /// No connection to a backend.
    ConnectFailed,
    /// `timeouts.connect`.
    ConnectTimedOut,
    /// A backend's certificate has expired, or is not valid yet.
    CertificateOutOfDate,
    /// A backend's certificate is for another name.
    CertificateOfOther,
    /// A backend's certificate was issued by nobody who is trusted.
    CertificateForeign,
    /// Another fault of a backend's certificate.
    CertificateBad,
    /// No TLS handshake with a backend.
    BackendTls,
    /// A backend's connection failed before its answer was whole.
    Exchange,
    /// The framing of a backend's answer.
    AnswerFraming,
    /// A 101 that is not the one that was asked for.
    WrongSwitch,
    /// A 101 that nobody asked for.
    UnaskedSwitch,
    /// `timeouts.upgrade`.
    UpgradeTimedOut,
    /// `timeouts.response_head`.
    ResponseTimedOut,
    /// The request's body broke off.
    BodyBroken,
    /// `timeouts.stall`: the client's.
    BodyTooSlow,
    /// `timeouts.stall`: the backend's.
    BodyNotTaken,
    /// What came is no HTTP/1.1.
    MalformedHead,
    /// `limits.head_size` or `limits.headers`.
    HeadTooLarge,
    /// A target that is too long.
    TargetTooLong,
    /// The preface of HTTP/2.
    Http2,
    /// `timeouts.request_head`.
    HeadTooSlow,
    /// Plain HTTP on a listener with TLS.
    PlainHttp,
}
}

impl Rejection {
    /// The status that says it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Framing(error) => framing_status(error),
            Self::Target(error) => target_status(error),
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Route(RouteError::NotFound) => StatusCode::NOT_FOUND,
            Self::Route(RouteError::AmbiguousPath) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Opening(error) => opening_status(error),
            Self::PlainRefused(_) => StatusCode::UPGRADE_REQUIRED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Draining | Self::TunnelsFull | Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect(ConnectError::TimedOut | ConnectError::TlsTimedOut)
            | Self::UpgradeTimedOut
            | Self::ResponseTimedOut
            | Self::BodyNotTaken => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(ConnectError::Failed(_) | ConnectError::Tls(_))
            | Self::Exchange(_)
            | Self::AnswerFraming(_)
            | Self::Answer(_)
            | Self::UnaskedSwitch => StatusCode::BAD_GATEWAY,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The answer, and its reason in the record.
    pub fn answer(&self, record: &mut Record) -> Response<Body> {
        let status = self.status();
        record.rejected(status, self.to_string(), self.cause());
        let mut response = Response::new(Body::full(self.text(status).into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        self.add_headers(headers);
        response
    }

    /// How it is counted.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Framing(_) => Cause::Framing,
            Self::Target(_) => Cause::Target,
            Self::Misdirected => Cause::Misdirected,
            Self::Route(RouteError::NotFound) => Cause::NoRoute,
            Self::Route(RouteError::AmbiguousPath) => Cause::AmbiguousPath,
            Self::Opening(_) => Cause::OpeningHandshake,
            Self::PlainRefused(_) => Cause::PlainRefused,
            Self::Loop => Cause::Loop,
            Self::Draining => Cause::Draining,
            Self::TunnelsFull => Cause::TunnelsFull,
            Self::NoEndpoint => Cause::NoEndpoint,
            Self::Connect(ConnectError::Failed(_)) => Cause::ConnectFailed,
            Self::Connect(ConnectError::TimedOut | ConnectError::TlsTimedOut) => Cause::ConnectTimedOut,
            Self::Connect(ConnectError::Tls(failure)) => tls_cause(failure),
            Self::Exchange(error) if error.alert().is_some() => Cause::BackendTls,
            Self::Exchange(_) => Cause::Exchange,
            Self::AnswerFraming(_) => Cause::AnswerFraming,
            Self::Answer(_) => Cause::WrongSwitch,
            Self::UnaskedSwitch => Cause::UnaskedSwitch,
            Self::UpgradeTimedOut => Cause::UpgradeTimedOut,
            Self::ResponseTimedOut => Cause::ResponseTimedOut,
            Self::Body(_) => Cause::BodyBroken,
            Self::BodyTooSlow => Cause::BodyTooSlow,
            Self::BodyNotTaken => Cause::BodyNotTaken,
        }
    }

    /// A client's mistake is explained to it; what is wrong behind the gateway is not the client's to read.
    fn text(&self, status: StatusCode) -> String {
        if status.is_client_error() { format!("{status}: {self}\n") } else { format!("{status}\n") }
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        let mut say = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
        match self.status() {
            // RFC 9110 section 15.5.6: the method is what is wrong, so say which is right.
            StatusCode::METHOD_NOT_ALLOWED if matches!(self, Self::Opening(_)) => {
                say(ALLOW, "GET");
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                say(ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            }
            StatusCode::UPGRADE_REQUIRED => self.require_upgrade(headers),
            StatusCode::SERVICE_UNAVAILABLE => {
                say(RETRY_AFTER, "1");
            }
            _ => {}
        }
        if self.ends_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// RFC 9110 section 15.5.22: "The server MUST send an Upgrade header field in a 426 response to indicate the required
    /// protocol(s)". RFC 6455 section 4.4: and which version of WebSocket.
    fn require_upgrade(&self, headers: &mut HeaderMap) {
        let protocols = match self {
            Self::PlainRefused(protocols) => protocols.clone(),
            _ => HeaderValue::from_static("websocket"),
        };
        headers.insert(UPGRADE, protocols);
        if has_token(headers, &UPGRADE, "websocket") {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }

    /// After these nobody can be sure where the next request begins.
    fn ends_connection(&self) -> bool {
        matches!(self, Self::Framing(_) | Self::Target(_) | Self::Body(_) | Self::BodyTooSlow | Self::BodyNotTaken)
    }
}

/// What hyper or the clock ended a connection for, where no request has a record for it.
#[derive(Debug)]
pub enum ConnectionFault {
    /// hyper could not read the head; it has answered 400.
    MalformedHead(String),
    /// Request line and headers are larger than `limits.head_size`, or more than `limits.headers`; hyper has answered 431.
    HeadTooLarge,
    /// The target is longer than hyper takes, which `limits.head_size` may allow; hyper has answered 414.
    TargetTooLong,
    /// The preface of HTTP/2, without TLS and unasked; hyper has answered nothing.
    Http2,
    /// The client left within a head.
    LeftInHead,
    /// Nothing came at all.
    Mute,
    /// A head began, and was not whole within `timeouts.request_head`.
    HeadTooSlow,
    /// The client was silent between two requests for `timeouts.keep_alive`.
    KeepAliveOver,
    /// The client did not read what it had asked for, for `timeouts.stall`.
    WriteStalled,
    /// Plain HTTP on a listener with TLS.
    PlainHttp,
}

impl ConnectionFault {
    /// What a connection's error means while a head is read.
    pub fn from_hyper(error: &hyper::Error) -> Self {
        // hyper tells the two apart by their text alone.
        if error.is_parse_too_large() && error.to_string() == "URI too long" {
            Self::TargetTooLong
        } else if error.is_parse_too_large() {
            Self::HeadTooLarge
        } else if error.is_parse_version_h2() {
            Self::Http2
        } else if error.is_parse() {
            Self::MalformedHead(error.to_string())
        } else {
            Self::LeftInHead
        }
    }

    /// Puts it into a record of its own. A connection that said nothing is no request: it has none.
    pub fn tell(&self, record: Record) {
        let (status, cause) = match self {
            Self::MalformedHead(_) => (StatusCode::BAD_REQUEST, Cause::MalformedHead),
            Self::Http2 => (StatusCode::BAD_REQUEST, Cause::Http2),
            Self::PlainHttp => (StatusCode::BAD_REQUEST, Cause::PlainHttp),
            Self::TargetTooLong => (StatusCode::URI_TOO_LONG, Cause::TargetTooLong),
            Self::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Cause::HeadTooLarge),
            Self::HeadTooSlow => (StatusCode::REQUEST_TIMEOUT, Cause::HeadTooSlow),
            Self::LeftInHead => {
                let mut record = record;
                return record.because(self.to_string());
            }
            Self::Mute | Self::KeepAliveOver | Self::WriteStalled => return record.forget(),
        };
        let mut record = record;
        record.rejected(status, self.to_string(), cause);
    }

    /// What the client is told before the connection closes; hyper has told the rest.
    pub fn last_words(&self) -> &'static [u8] {
        match self {
            Self::HeadTooSlow => b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            Self::Http2 => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
                  \r\n400 Bad Request: this port speaks HTTP/1.1\n"
            }
            Self::PlainHttp => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
                  \r\n400 Bad Request: this port speaks TLS; ask it by https://\n"
            }
            _ => b"",
        }
    }
}

fn framing_status(error: &FramingError) -> StatusCode {
    match error {
        // RFC 9112 section 6.1: a coding that is not understood.
        FramingError::Encoding => StatusCode::NOT_IMPLEMENTED,
        FramingError::EncodingBefore11 | FramingError::EncodingAndLength | FramingError::Length => {
            StatusCode::BAD_REQUEST
        }
    }
}

fn target_status(error: &TargetError) -> StatusCode {
    match error {
        TargetError::Connect | TargetError::Trace | TargetError::AuthorityForm => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn tls_cause(failure: &TlsFailure) -> Cause {
    match failure {
        TlsFailure::Expired | TlsFailure::Outlived | TlsFailure::NotYetValid => Cause::CertificateOutOfDate,
        TlsFailure::OtherName(_) => Cause::CertificateOfOther,
        TlsFailure::Foreign => Cause::CertificateForeign,
        TlsFailure::BadCertificate(_) => Cause::CertificateBad,
        TlsFailure::NotTls | TlsFailure::Broken(_) => Cause::BackendTls,
    }
}

fn opening_status(error: &OpeningError) -> StatusCode {
    match error {
        OpeningError::Method => StatusCode::METHOD_NOT_ALLOWED,
        OpeningError::Version => StatusCode::UPGRADE_REQUIRED,
        OpeningError::Body | OpeningError::Key => StatusCode::BAD_REQUEST,
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing(error) => error.fmt(f),
            Self::Target(error) => error.fmt(f),
            Self::Route(error) => error.fmt(f),
            Self::Opening(error) => error.fmt(f),
            Self::PlainRefused(_) => f.write_str("only upgrades are served here"),
            Self::Misdirected => f.write_str("this connection was opened for another host"),
            Self::Loop => f.write_str("a loop: this gateway's own name came back in Via"),
            Self::Draining => f.write_str("the gateway is about to end"),
            Self::TunnelsFull => f.write_str("limits.tunnels is reached"),
            Self::NoEndpoint => f.write_str("the upstream has no endpoint to try"),
            Self::Connect(error) => error.fmt(f),
            Self::Exchange(error) => error.fmt(f),
            Self::AnswerFraming(error) => write!(f, "the backend's answer: {error}"),
            Self::Answer(error) => write!(f, "the backend's 101: {error}"),
            Self::UnaskedSwitch => f.write_str("the backend answered 101 to a request that is no upgrade"),
            Self::UpgradeTimedOut => f.write_str("the backend did not answer within timeouts.upgrade"),
            Self::ResponseTimedOut => f.write_str("the backend did not answer within timeouts.response_head"),
            Self::Body(fault) => fault.fmt(f),
            Self::BodyTooSlow => f.write_str("the client sent nothing of its body for timeouts.stall"),
            Self::BodyNotTaken => f.write_str("the backend took nothing of the body for timeouts.stall"),
        }
    }
}

impl fmt::Display for ConnectionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedHead(error) => write!(f, "the head is not HTTP/1.1: {error}"),
            Self::HeadTooLarge => f.write_str("the head is larger than limits.head_size or limits.headers"),
            Self::TargetTooLong => f.write_str("the target is longer than 65534 bytes"),
            Self::Http2 => f.write_str("the head is not HTTP/1.1: it is the preface of HTTP/2"),
            Self::LeftInHead => f.write_str("the client left within a head"),
            Self::Mute => f.write_str("no request within timeouts.request_head"),
            Self::HeadTooSlow => f.write_str("the head was not whole within timeouts.request_head"),
            Self::KeepAliveOver => f.write_str("no request within timeouts.keep_alive"),
            Self::WriteStalled => f.write_str("the client read nothing for timeouts.stall"),
            Self::PlainHttp => f.write_str("plain HTTP on a listener with TLS"),
        }
    }
}
