//! TLS of clients and of backends: certificates made for one test, who trusts them, and sessions that block like the rest.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};
use tokio_rustls::rustls;

use super::client::Client;
use super::gateway::Folder;
use super::peer::Peer;

/// A certificate with its key, as files for the gateway, who trusts it and nothing else, and backends that have it.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    files: [PathBuf; 2],
    _folder: Folder,
}

impl Authority {
    /// Makes one, for localhost.
    pub fn new() -> Self {
        Self::of(&["localhost"])
    }

    /// The same for other names or addresses.
    pub fn of(names: &[&str]) -> Self {
        Self::of_years(names, 2019..4000)
    }

    /// The same, valid from one New Year to another.
    pub fn of_years(names: &[&str], years: Range<i32>) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        (params.not_before, params.not_after) = (date_time_ymd(years.start, 1, 1), date_time_ymd(years.end, 1, 1));
        Self::made(&params)
    }

    /// The same, valid until then.
    pub fn until(names: &[&str], end: SystemTime) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), end.into());
        Self::made(&params)
    }

    /// The same, and an authority's, as `openssl req -x509` makes them.
    pub fn of_itself(names: &[&str], years: Range<i32>) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        (params.not_before, params.not_after) = (date_time_ymd(years.start, 1, 1), date_time_ymd(years.end, 1, 1));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self::made(&params)
    }

    /// One that is good for clients only.
    pub fn of_client() -> Self {
        let mut params = CertificateParams::new(["client".to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Self::made(&params)
    }

    fn made(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = Folder::new();
        let files = [folder.put("fullchain.pem", certificate.pem()), folder.put("privkey.pem", key.serialize_pem())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8");
        Self { certificate: certificate.der().clone(), key, files, _folder: folder }
    }

    /// The file of the certificate.
    pub fn certificate(&self) -> &Path {
        &self.files[0]
    }

    /// Its private key's.
    pub fn key(&self) -> &Path {
        &self.files[1]
    }

    /// The line of a listener that serves with it.
    pub fn line(&self) -> String {
        let [certificate, key] = &self.files;
        format!("tls = {{ certificate = {certificate:?}, key = {key:?} }}\n")
    }

    /// The line of an upstream that trusts it alone; `more` is further keys, each with a comma before it.
    pub fn line_up(&self, more: &str) -> String {
        format!("tls = {{ ca = {:?}{more} }}\n", self.certificate())
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

    /// A backend's configuration with this certificate: TLS 1.3, ALPN http/1.1.
    pub fn serving(&self) -> ServerConfig {
        self.serving_with(&version::TLS13)
    }

    /// The same with another version.
    pub fn serving_with(&self, version: &'static SupportedProtocolVersion) -> ServerConfig {
        self.serving_whom(version, WebPkiClientVerifier::no_client_auth())
    }

    /// The same for clients with one certificate and no others.
    pub fn serving_only(&self, client: &Self, version: &'static SupportedProtocolVersion) -> ServerConfig {
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client.roots()), provider);
        self.serving_whom(version, verifier.build().expect("a root"))
    }

    fn serving_whom(
        &self,
        version: &'static SupportedProtocolVersion,
        whom: Arc<dyn ClientCertVerifier>,
    ) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[version]).expect("the provider has it");
        let builder = builder.with_client_cert_verifier(whom);
        let config = builder.with_single_cert(vec![self.certificate.clone()], self.key.clone_key());
        let mut config = config.expect("a certificate and its key");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        roots
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
    Ok(peer.secured(Session::new(connection.into())))
}

/// A script of a backend that speaks TLS. Where the TLS handshake comes to nothing, the connection is held until the other end
/// has left it, so that what it is told is not reset away.
pub fn speaking(config: ServerConfig, script: impl Fn(Peer) + Send + Sync + 'static) -> impl Fn(Peer) + Send + Sync {
    let config = Arc::new(config);
    move |peer| match accept(&peer, &config) {
        Ok(session) => script(peer.secured(session)),
        Err(_) => while matches!(peer.stream().read(&mut [0; 4096]), Ok(1..)) {},
    }
}

/// The server's side of a TLS handshake.
pub fn accept(peer: &Peer, config: &Arc<ServerConfig>) -> Result<Session> {
    let mut connection = ServerConnection::new(Arc::clone(config)).expect("a configuration that works");
    while connection.is_handshaking() {
        connection.complete_io(&mut peer.stream())?;
    }
    // The tickets of TLS 1.3 go out behind it.
    while connection.wants_write() {
        connection.write_tls(&mut peer.stream())?;
    }
    Ok(Session::new(connection.into()))
}

/// A connection that has its ClientHello to say.
pub fn begin(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a configuration that works")
}

/// A session whose TLS handshake is done. Cloned, it is the same one: one thread may send while another receives.
#[derive(Clone)]
pub struct Session {
    connection: Arc<Mutex<Connection>>,
    /// Held while ciphertext goes out, so that it goes in its order; the other lock is not held then, since who sends may
    /// have to wait until the other thread has received.
    sending: Arc<Mutex<()>>,
    /// Ciphertext that has come and is not read yet.
    come: Arc<Mutex<VecDeque<u8>>>,
}

impl Session {
    fn new(connection: Connection) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)), sending: Arc::default(), come: Arc::default() }
    }

    /// The connection of rustls, for what this type has no word for. What it has to say goes out with the next `send`.
    pub fn connection(&self) -> MutexGuard<'_, Connection> {
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
