//! The client's side of TLS: a certificate made for one test, who trusts it, and sessions that block like the rest.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};
use tokio_rustls::rustls;

use super::client::Client;
use super::gateway::Folder;
use super::peer::Peer;

/// A certificate for localhost with its key, as files for the gateway, and clients that trust it and nothing else.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    files: [PathBuf; 2],
    _folder: Folder,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = Folder::new();
        let files = [folder.put("fullchain.pem", certificate.pem()), folder.put("privkey.pem", key.serialize_pem())];
        Self { certificate: certificate.der().clone(), files, _folder: folder }
    }

    /// The line of a listener that serves with it.
    pub fn line(&self) -> String {
        let [certificate, key] = &self.files;
        format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}\n")
    }

    /// A client's configuration that trusts it: TLS 1.3, ALPN http/1.1.
    pub fn trusted(&self) -> ClientConfig {
        self.trusted_with(&version::TLS13)
    }

    /// The same with another version.
    pub fn trusted_with(&self, version: &'static SupportedProtocolVersion) -> ClientConfig {
        Self::all_trusted(&[self], version)
    }

    /// A client's configuration that trusts several.
    pub fn all_trusted(authorities: &[&Self], version: &'static SupportedProtocolVersion) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.certificate.clone()).expect("a certificate");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[version]).expect("the provider has it");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// Connects by TLS.
    pub fn connect(&self, address: SocketAddr) -> Peer {
        self.secure(Client::connect(address))
    }

    /// A TLS handshake over a connection that is there.
    pub fn secure(&self, peer: Peer) -> Peer {
        secure(peer, &Arc::new(self.trusted())).expect("the gateway speaks TLS")
    }
}

/// A TLS handshake with a configuration of one's own: `Arc` because what one connection learns (tickets), the next may use.
pub fn secure(peer: Peer, config: &Arc<ClientConfig>) -> Result<Peer> {
    secure_for(peer, config, "localhost")
}

/// The same for another name than localhost.
pub fn secure_for(peer: Peer, config: &Arc<ClientConfig>, name: &str) -> Result<Peer> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = ClientConnection::new(Arc::clone(config), name).expect("a configuration that works");
    while connection.is_handshaking() {
        connection.complete_io(&mut peer.stream())?;
    }
    Ok(peer.secured(Session::new(connection)))
}

/// A connection that has its ClientHello to say.
pub fn begin(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a configuration that works")
}

/// A session whose TLS handshake is done. Cloned, it is the same one: one thread may send while another receives.
#[derive(Clone)]
pub struct Session {
    connection: Arc<Mutex<ClientConnection>>,
    /// Held while ciphertext goes out, so that it goes in its order; the other lock is not held then, since who sends may
    /// have to wait until the other thread has received.
    sending: Arc<Mutex<()>>,
    /// Ciphertext that has come and is not read yet.
    come: Arc<Mutex<VecDeque<u8>>>,
}

impl Session {
    fn new(connection: ClientConnection) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)), sending: Arc::default(), come: Arc::default() }
    }

    /// The connection of rustls, for what this type has no word for. What it has to say goes out with the next `send`.
    pub fn connection(&self) -> MutexGuard<'_, ClientConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends all of it; of nothing, what the connection has to say by itself.
    pub fn send(&self, mut stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
        let _in_order = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut ciphertext = Vec::new();
            {
                let mut connection = self.connection();
                let taken = connection.writer().write(bytes)?;
                bytes = &bytes[taken..];
                while connection.wants_write() {
                    connection.write_tls(&mut ciphertext)?;
                }
            }
            stream.write_all(&ciphertext)?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends close_notify.
    pub fn say_end(&self, stream: &TcpStream) {
        self.connection().send_close_notify();
        self.send(stream, b"").expect("the other end takes a close_notify");
    }

    /// Receives what there is. Nothing is the end in order: close_notify and FIN. A FIN alone is `UnexpectedEof`.
    pub fn receive(&self, mut stream: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
        let mut come = self.come.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.connection().reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) => return after_end(stream),
                other => return other,
            }
            if come.is_empty() {
                let mut ciphertext = [0; 16 * 1024];
                let count = stream.read(&mut ciphertext)?;
                come.extend(&ciphertext[..count]);
            }
            // It takes as much as it has room for; of nothing, the news of the FIN.
            let mut connection = self.connection();
            connection.read_tls(&mut *come)?;
            connection.process_new_packets().map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }
}

/// Behind a close_notify nothing comes but the FIN.
fn after_end(mut stream: &TcpStream) -> Result<usize> {
    match stream.read(&mut [0])? {
        0 => Ok(0),
        _ => panic!("bytes behind a close_notify"),
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
