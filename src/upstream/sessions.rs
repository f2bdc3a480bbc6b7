//! Sessions of TLS with backends, for the next connections to resume: that spares both sides most of a TLS handshake when
//! thousands of tunnels come at once.
//!
//! Who resumes a session verifies no certificate again, and is given the next session by the one that it resumed, without end.
//! So a certificate that has expired meanwhile is looked for here: then all sessions are forgotten.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind, NamedGroup};
use tokio_rustls::rustls;

use crate::downstream::certificates;

/// How many are kept, as many as rustls keeps by itself.
const MOST: usize = 256;

/// The sessions of one upstream.
#[derive(Debug)]
pub struct Sessions(Mutex<Arc<ClientSessionMemoryCache>>);

impl Sessions {
    /// Whether a connection has come by a session whose certificate has expired. If so, there are no sessions any more: what
    /// connects again learns whether there is a new certificate.
    pub fn outlived(&self, connection: &ClientConnection) -> bool {
        let outlived = connection.handshake_kind() == Some(HandshakeKind::Resumed) && has_expired(connection);
        if outlived {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cache();
        }
        outlived
    }

    fn cache(&self) -> Arc<ClientSessionMemoryCache> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self(Mutex::new(cache()))
    }
}

fn cache() -> Arc<ClientSessionMemoryCache> {
    Arc::new(ClientSessionMemoryCache::new(MOST))
}

fn has_expired(connection: &ClientConnection) -> bool {
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    leaf.is_some_and(certificates::has_expired)
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.cache().set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache().kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.cache().set_tls12_session(server, session);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.cache().tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.cache().remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.cache().insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.cache().take_tls13_ticket(server)
    }
}
