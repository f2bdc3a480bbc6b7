//! TLS towards clients: a certificate and its key read with errors that say what is wrong, and the TLS handshake of one
//! connection, within the deadline that its caller keeps from accept.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedCipherSuite};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

use crate::tunnel::paced::Paced;

/// Ciphertext that a connection may hold back for a client that does not read; rustls' own default is 64 KiB.
const HELD_BACK: usize = 16 * 1024;

/// What a listener needs to speak TLS.
pub struct Tls {
    acceptor: tokio_rustls::TlsAcceptor,
    /// From when to when the certificate is valid.
    pub valid: Range<SystemTime>,
    /// Of the chain and the key.
    fingerprint: [u8; 32],
}

/// Why a certificate and a key cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// It is no PEM, or a broken one.
    NotPem(PathBuf, io::Error),
    /// No certificate in it.
    NoCertificate(PathBuf),
    /// A certificate that cannot be understood.
    BadCertificate(PathBuf),
    /// No private key in it.
    NoKey(PathBuf),
    /// A private key behind a passphrase.
    EncryptedKey(PathBuf),
    /// A key that cannot be used.
    BadKey(PathBuf, String),
    /// The key is another certificate's.
    Mismatch,
    /// Anything else that rustls will not work with.
    Refused(rustls::Error),
}

impl Tls {
    /// Reads a certificate chain (leaf first) and its private key, both PEM. A mistake in the one hides none in the other.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Vec<TlsError>> {
        match (read_chain(certificate), read_key(key)) {
            (Ok((chain, valid)), Ok(key_der)) => Self::new(chain, key_der, valid, key).map_err(|error| vec![error]),
            // Both may be one file, and what is wrong with a file as such is wrong once.
            (Err(error @ (TlsError::Unreadable(..) | TlsError::NotPem(..))), Err(_)) if certificate == key => {
                Err(vec![error])
            }
            (chain, key_der) => Err(chain.err().into_iter().chain(key_der.err()).collect()),
        }
    }

    /// TLS from a chain and a key at hand; `key_file` is where the key came from, for errors.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        valid: Range<SystemTime>,
        key_file: &Path,
    ) -> Result<Self, TlsError> {
        let fingerprint = fingerprint(&chain, &key);
        let config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Refused)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| told_apart(error, key_file))?;
        Ok(Self { acceptor: Arc::new(settings(config).map_err(TlsError::Refused)?).into(), valid, fingerprint })
    }

    /// Whether the other has the same chain and key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// The same with the keys of another's tickets: who got a ticket there may come with it here. Nothing that a session brings
    /// with it depends on certificates; once clients have some, it will on theirs.
    #[must_use]
    pub fn keeping_tickets_of(&self, other: &Self) -> Self {
        let mut config = ServerConfig::clone(self.acceptor.config());
        config.ticketer = Arc::clone(&other.acceptor.config().ticketer);
        Self { acceptor: Arc::new(config).into(), valid: self.valid.clone(), fingerprint: self.fingerprint }
    }

    /// The TLS handshake of one connection. Who calls this bounds it in time.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<Paced>> {
        let mut stream = self.acceptor.accept(Paced::new(stream)).await?;
        stream.get_mut().1.set_buffer_limit(Some(HELD_BACK));
        Ok(stream)
    }
}

fn fingerprint(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    chain.iter().for_each(|certificate| context.update(certificate));
    context.update(key.secret_der());
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The provider, with AES-128 first: its SHA-256 has hardware help where AES-256's SHA-384 has none, and clients of rustls
/// ask for AES-256 first.
fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    let first = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    let rank = |suite: &SupportedCipherSuite| !first.iter().any(|first| first.suite() == suite.suite());
    provider.cipher_suites.sort_by_key(rank);
    provider
}

fn settings(mut config: ServerConfig) -> Result<ServerConfig, rustls::Error> {
    // A client of HTTP/1.0 may offer just that (curl --http1.0 does), and it is served over plain TCP, too.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    config.ignore_client_order = true;
    // Tickets put the session into the client's memory; the cache would keep it in ours.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn told_apart(error: rustls::Error, key: &Path) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
        rustls::Error::General(problem) => TlsError::BadKey(key.into(), problem),
        other => TlsError::Refused(other),
    }
}

fn read_chain(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Range<SystemTime>), TlsError> {
    let chain = read_certificates(path)?;
    let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate(path.into()))?;
    let valid = validity(leaf).ok_or_else(|| TlsError::BadCertificate(path.into()))?;
    Ok((chain, valid))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = fs::read(path).map_err(|error| TlsError::Unreadable(path.into(), error))?;
    rustls_pemfile::certs(&mut &*bytes).collect::<Result<_, _>>().map_err(|error| TlsError::NotPem(path.into(), error))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = fs::read(path).map_err(|error| TlsError::Unreadable(path.into(), error))?;
    if is_encrypted(&bytes) {
        return Err(TlsError::EncryptedKey(path.into()));
    }
    let key = rustls_pemfile::private_key(&mut &*bytes)
        .map_err(|error| TlsError::NotPem(path.into(), error))?
        .ok_or_else(|| TlsError::NoKey(path.into()))?;
    // By itself, as there may be no certificate to try it with.
    default_provider().key_provider.load_private_key(key.clone_key()).map_err(|error| told_apart(error, path))?;
    Ok(key)
}

/// As PKCS #8 labels it (RFC 7468 section 11), or as a header of the older forms does (RFC 1421 section 4.6.1.1).
fn is_encrypted(pem: &[u8]) -> bool {
    let mut lines = pem.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    lines.any(|line| line == b"-----BEGIN ENCRYPTED PRIVATE KEY-----" || line == b"Proc-Type: 4,ENCRYPTED")
}

fn validity(leaf: &CertificateDer<'_>) -> Option<Range<SystemTime>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let validity = parsed.validity();
    Some(validity.not_before.to_datetime().into()..validity.not_after.to_datetime().into())
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("valid", &self.valid).finish_non_exhaustive()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{} cannot be read: {error}", path.display()),
            Self::NotPem(path, error) => write!(f, "{} is not PEM: {error}", path.display()),
            Self::NoCertificate(path) => {
                write!(f, "{} holds no certificate (-----BEGIN CERTIFICATE-----)", path.display())
            }
            Self::BadCertificate(path) => {
                write!(f, "what {} holds as a certificate is none", path.display())
            }
            Self::NoKey(path) => write!(f, "{} holds no private key (-----BEGIN PRIVATE KEY-----)", path.display()),
            Self::EncryptedKey(path) => {
                write!(f, "the private key in {} is encrypted, and nobody is asked for its passphrase", path.display())
            }
            Self::BadKey(path, problem) => {
                write!(f, "the private key in {} cannot be used: {problem}", path.display())
            }
            Self::Mismatch => f.write_str("the private key is not the one of the certificate"),
            Self::Refused(error) => write!(f, "the certificate cannot be used: {error}"),
        }
    }
}

// The causes stand in the lines above, in words; they would be told twice as sources.
impl std::error::Error for TlsError {}
