//! From accept to a stream that speaks HTTP: the TLS handshake where the listener has TLS, under one deadline from accept,
//! in the connection's own task. One that never speaks, or speaks one byte a minute, holds up nobody else.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::net::TcpStream;
use tokio_rustls::rustls::{ProtocolVersion, ServerConnection};

use super::certificates::has_expired;
use super::identity::ClientCertificate;
use super::timing::DRAIN_GRACE;
use super::tls::Tls;
use crate::cells::counted;
use crate::config::{Listener, Scheme};
use crate::registry::{Entry, Order};
use crate::tunnel::alarm::Alarm;
use crate::tunnel::io::TunnelIo;
use crate::turns;

/// A stream that is ready for HTTP.
#[derive(Debug)]
pub struct Secured {
    /// The stream.
    pub io: TunnelIo,
    /// How it is secured.
    pub scheme: Scheme,
    /// What the client has shown of itself in its TLS handshake.
    pub shown: Option<Box<Shown>>,
    /// What its TLS handshake came to, where there was one.
    pub shaken: Option<Shaken>,
}

counted! {
/// What a TLS handshake came to.
pub enum Shaken {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
    /// It failed.
    Failed,
    /// It did not end in time.
    TimedOut,
    /// There was none: plain HTTP.
    PlainHttp,
}
}

/// What a client has shown of itself in its TLS handshake.
#[derive(Debug)]
pub struct Shown {
    /// The name that it asked for (SNI), in lower case.
    pub server_name: Option<Box<str>>,
    /// Its certificate, which was verified.
    pub certificate: Option<ClientCertificate>,
}

impl Shown {
    /// A session that is resumed brings its certificate along, and each gives the ticket for the next: the time of the
    /// certificate must be looked at every time.
    fn by(connection: &ServerConnection) -> io::Result<Option<Box<Self>>> {
        let server_name = connection.server_name().map(|name| name.to_ascii_lowercase().into());
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        if leaf.is_some_and(has_expired) {
            return Err(io::Error::other("the client's certificate has expired since"));
        }
        let certificate = match leaf.map(ClientCertificate::of) {
            // Whoever is let in with one, its backend is told by whom.
            Some(None) => return Err(io::Error::other("the client's certificate cannot be read")),
            certificate => certificate.flatten(),
        };
        Ok((server_name.is_some() || certificate.is_some()).then(|| Box::new(Self { server_name, certificate })))
    }
}

/// Why there is none.
#[derive(Debug)]
pub enum Insecure {
    /// The TLS handshake failed, by the client's fault or its wish.
    Failed(io::Error),
    /// It did not end within `timeouts.tls_handshake`.
    TimedOut,
    /// The client speaks plain HTTP here.
    PlainHttp(TcpStream),
    /// The gateway ends.
    HardStop,
}

impl Insecure {
    /// How it is counted; the gateway's end is nobody's handshake.
    pub fn shaken(&self) -> Option<Shaken> {
        match self {
            Self::Failed(_) => Some(Shaken::Failed),
            Self::TimedOut => Some(Shaken::TimedOut),
            Self::PlainHttp(_) => Some(Shaken::PlainHttp),
            Self::HardStop => None,
        }
    }
}

/// Secures a connection, accepted then, as its listener has it.
pub async fn secure(
    stream: TcpStream,
    listener: &Listener,
    since: Instant,
    entry: &Entry,
) -> Result<Secured, Insecure> {
    let Some(tls) = &listener.tls else {
        return Ok(Secured { io: TunnelIo::Tcp(stream), scheme: Scheme::Http, shown: None, shaken: None });
    };
    let mut deadline = since + listener.timeouts.tls_handshake;
    let mut alarm = Alarm::new(deadline);
    let mut draining = false;
    let mut shaking = pin!(shake_hands(stream, tls));
    poll_fn(|cx| {
        entry.wake_by(cx.waker());
        ready!(turns::poll(cx));
        match entry.ordered() {
            Order::HardStop => return Poll::Ready(Err(Insecure::HardStop)),
            // A drain waits for it no longer than for any connection that has not had its first request.
            Order::Drain if !draining => {
                draining = true;
                deadline = deadline.min(Instant::now() + DRAIN_GRACE);
            }
            // Those of a route and of an endpoint are for tunnels.
            _ => {}
        }
        if let Poll::Ready(shaken) = shaking.as_mut().poll(cx) {
            return Poll::Ready(shaken);
        }
        alarm.poll(deadline, cx).map(|()| Err(Insecure::TimedOut))
    })
    .await
}

/// What is not TLS is told before rustls sees it: rustls would answer plain HTTP with an alert that no browser can read.
async fn shake_hands(stream: TcpStream, tls: &Tls) -> Result<Secured, Insecure> {
    let mut first = [0];
    let peeked = stream.peek(&mut first).await.map_err(Insecure::Failed)?;
    // TLS begins with a record of type handshake, 22 (RFC 8446 section 5.1). An empty line before the request line is plain HTTP too (RFC 9112 section 2.2).
    if peeked == 1 && (first[0].is_ascii_alphabetic() || matches!(first[0], b'\r' | b'\n')) {
        return Err(Insecure::PlainHttp(stream));
    }
    let stream = tls.accept(stream).await.map_err(Insecure::Failed)?;
    let shaken = match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => Shaken::Tls12,
        // rustls speaks no other.
        _ => Shaken::Tls13,
    };
    let shown = Shown::by(stream.get_ref().1).map_err(Insecure::Failed)?;
    Ok(Secured { io: TunnelIo::tls(stream), scheme: Scheme::Https, shown, shaken: Some(shaken) })
}
