//! TLS towards backends: who they must be, whom the gateway says that it is, and the TLS handshake of one connection, within
//! the deadline that its caller keeps from the look-up on.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, rustls};

use super::endpoint::Endpoint;
use super::sessions::Sessions;
use crate::config::EndpointAddress;
use crate::downstream::certificates::{Certificate, TlsError, read_certificates, validity};
use crate::downstream::tls::{Settings, provider};
use crate::tunnel::io::TunnelIo;
use crate::tunnel::paced::Paced;
use crate::turns;

/// What an upstream needs to speak TLS. Two are equal that do the same: of an unchanged file, and of unchanged files that it
/// names.
pub struct Tls {
    connector: TlsConnector,
    /// None: each endpoint goes by its own name.
    server_name: Option<ServerName<'static>>,
    /// None where no certificate is verified, and so none can expire.
    sessions: Option<Arc<Sessions>>,
    own: Option<Certificate>,
    fingerprint: Fingerprint,
}

/// A digest of all that a setting consists of: who is trusted, what name is asked for, the gateway's own certificate and key;
/// and of a connection, whom it was made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// Whom a backend's certificate must come from.
#[derive(Debug, Clone)]
pub enum Trust {
    /// From one of these.
    Authorities(Authorities),
    /// From anybody: nothing about it is verified but that its key is at hand.
    Anybody,
}

/// Certificates of authorities.
#[derive(Clone)]
pub struct Authorities {
    roots: Arc<RootCertStore>,
    /// Those that are named one by one, in a file.
    named: Arc<[CertificateDer<'static>]>,
    digest: Fingerprint,
}

/// Why there is no TLS with a backend.
#[derive(Debug)]
pub enum TlsFailure {
    /// Its certificate's time is over.
    Expired,
    /// The same, of a session that was resumed: it may have another by now.
    Outlived,
    /// Its certificate's time is yet to come.
    NotYetValid,
    /// Its certificate is for other names.
    OtherName(ServerName<'static>),
    /// Its certificate was signed by nobody who is trusted.
    Foreign,
    /// Anything else that is wrong with its certificate.
    BadCertificate(CertificateError),
    /// It speaks, but no TLS.
    NotTls,
    /// The TLS handshake did not come to its end.
    Broken(io::Error),
}

impl Tls {
    /// TLS with those that are trusted; `server_name` stands for the names of the endpoints, `own` is what they are shown.
    pub fn new(
        trust: Trust,
        server_name: Option<ServerName<'static>>,
        own: Option<&Certificate>,
    ) -> Result<Self, TlsError> {
        let fingerprint = fingerprint(&trust, server_name.as_ref(), own);
        let provider = Arc::new(provider(&Settings::default()));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Refused)?;
        let sessions = matches!(trust, Trust::Authorities(_)).then(Arc::<Sessions>::default);
        let builder = match trust {
            Trust::Authorities(Authorities { roots, named, .. }) => {
                let webpki = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                let webpki = webpki.map_err(|error| TlsError::Refused(rustls::Error::General(error.to_string())))?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Verified { webpki, named }))
            }
            Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
        };
        let mut config = match own {
            Some(own) => {
                let key = CertifiedKey::clone(&own.key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        // What is spoken behind it; a backend that knows other protocols too then speaks this one.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if let Some(sessions) = &sessions {
            config.resumption = Resumption::store(Arc::clone(sessions) as Arc<dyn ClientSessionStore>);
        }
        let (connector, own) = (Arc::new(config).into(), own.cloned());
        Ok(Self { connector, server_name, sessions, own, fingerprint })
    }

    /// The certificate that backends are shown.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.own.as_ref()
    }

    /// What tells a connection to that endpoint, made by this setting, from others: the name that was verified is part of it.
    pub fn fingerprint(&self, endpoint: &EndpointAddress) -> Fingerprint {
        if self.server_name.is_some() {
            return self.fingerprint;
        }
        let mut digest = Digest::new();
        digest.put(&self.fingerprint.0);
        match endpoint {
            EndpointAddress::Socket(SocketAddr::V4(four)) => digest.put(&four.ip().octets()),
            EndpointAddress::Socket(SocketAddr::V6(six)) => digest.put(&six.ip().octets()),
            EndpointAddress::Named(name, _) => digest.put(name.as_bytes()),
        }
        digest.finish()
    }

    /// The TLS handshake with an endpoint. Who calls this bounds it in time.
    pub async fn connect(&self, stream: TcpStream, endpoint: &Endpoint) -> Result<TunnelIo, TlsFailure> {
        let connecting = self.connector.connect(self.name_of(endpoint), Paced::new(stream));
        let mut connecting = pin!(connecting);
        // Its steps are dear beside a message, as those of a client's handshake are.
        let connected = poll_fn(|cx| {
            ready!(turns::poll(cx));
            connecting.as_mut().poll(cx)
        });
        let stream = connected.await.map_err(TlsFailure::from)?;
        let outlived = self.sessions.as_ref().is_some_and(|sessions| sessions.outlived(stream.get_ref().1));
        let io = TunnelIo::tls(stream);
        if outlived { Err(TlsFailure::Outlived) } else { Ok(io) }
    }

    fn name_of(&self, endpoint: &Endpoint) -> ServerName<'static> {
        match (&self.server_name, &endpoint.configured) {
            (Some(name), _) => name.clone(),
            // An address is not sent (RFC 6066 section 3), but the certificate must have it.
            (None, EndpointAddress::Socket(address)) => address.ip().into(),
            (None, EndpointAddress::Named(name, _)) => {
                server_name(name).expect("resolve has refused endpoints that no certificate can name")
            }
        }
    }
}

/// A name that a certificate may be for: of a host, or an IP address.
pub fn server_name(text: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(text.to_ascii_lowercase()).ok()
}

impl Authorities {
    /// Those of a file of PEM.
    pub fn of_file(path: &Path) -> Result<Self, TlsError> {
        let certificates = read_certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|_| TlsError::BadCertificate(path.into()))?;
        }
        let named = certificates.clone().into();
        Ok(Self { named, ..Self::new(roots, certificates) })
    }

    /// Those that the system trusts. Among hundreds there may be one that cannot be understood: it trusts nobody.
    pub fn of_system() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs.iter().cloned());
        if roots.is_empty() {
            let problem = found.errors.first().map(ToString::to_string);
            return Err(TlsError::NoAuthorities(problem.unwrap_or_else(|| "none is installed".to_owned())));
        }
        Ok(Self::new(roots, found.certs))
    }

    fn new(roots: RootCertStore, mut certificates: Vec<CertificateDer<'static>>) -> Self {
        // A folder gives them in any order.
        certificates.sort_unstable_by(|one, other| one.as_ref().cmp(other));
        let mut digest = Digest::new();
        certificates.iter().for_each(|certificate| digest.put(certificate));
        Self { roots: Arc::new(roots), named: Arc::default(), digest: digest.finish() }
    }
}

fn fingerprint(trust: &Trust, server_name: Option<&ServerName<'_>>, own: Option<&Certificate>) -> Fingerprint {
    let mut digest = Digest::new();
    digest.put(match trust {
        Trust::Authorities(authorities) => &authorities.digest.0,
        Trust::Anybody => b"",
    });
    digest.put(server_name.map(ServerName::to_str).unwrap_or_default().as_bytes());
    own.into_iter().flat_map(Certificate::bytes).for_each(|bytes| digest.put(bytes));
    digest.finish()
}

/// Of several parts, each with its length before it: where one ends is part of what is digested.
struct Digest(digest::Context);

impl Digest {
    fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    fn put(&mut self, part: &[u8]) {
        self.0.update(&part.len().to_be_bytes());
        self.0.update(part);
    }

    fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// Takes what WebPKI takes, and a certificate that the configuration itself names. Of one that is an authority's, too, as
/// `openssl req -x509` makes them, WebPKI says that it is no server's, however it is trusted.
#[derive(Debug)]
struct Verified {
    webpki: Arc<WebPkiServerVerifier>,
    named: Arc<[CertificateDer<'static>]>,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.webpki.verify_server_cert(leaf, intermediates, name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.named.iter().any(|named| named == leaf) =>
            {
                verify_by_itself(leaf, name, now)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// What is left to verify of a certificate that is trusted as it stands: its name and its time.
fn verify_by_itself(
    leaf: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let valid = validity(leaf).ok_or(CertificateError::BadEncoding)?;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    if valid.end < now {
        return Err(CertificateError::Expired.into());
    }
    if now < valid.start {
        return Err(CertificateError::NotValidYet.into());
    }
    verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
    Ok(ServerCertVerified::assertion())
}

/// Takes every certificate. The signatures of the TLS handshake are verified all the same: without them, the one that answers
/// would not even have the key of the certificate that it shows.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("count", &self.roots.len()).finish_non_exhaustive()
    }
}

impl From<io::Error> for TlsFailure {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(problem)) => Self::from(problem.clone()),
            // Neither record nor alert: bytes in clear, where the handshake should be.
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::NotTls,
            _ => Self::Broken(error),
        }
    }
}

impl From<CertificateError> for TlsFailure {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForNameContext { expected, .. } => Self::OtherName(expected),
            // A signature is bad where an authority of the same name, but another key, has made it.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Foreign,
            other => Self::BadCertificate(other),
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired | Self::Outlived => f.write_str("the backend's certificate has expired"),
            Self::NotYetValid => f.write_str("the backend's certificate is not valid yet"),
            Self::OtherName(name) => write!(f, "the backend's certificate is not for {}", name.to_str()),
            Self::Foreign => f.write_str("the backend's certificate was issued by nobody who is trusted"),
            // What WebPKI says has no other words.
            Self::BadCertificate(CertificateError::Other(error)) => {
                write!(f, "the backend's certificate cannot be accepted: {error}")
            }
            Self::BadCertificate(error) => write!(f, "the backend's certificate cannot be accepted: {error}"),
            Self::NotTls => f.write_str("what the backend sent first is not TLS"),
            Self::Broken(error) => write!(f, "the TLS handshake with the backend failed: {error}"),
        }
    }
}

// The causes stand in the lines above, in words; they would be told twice as sources.
impl std::error::Error for TlsFailure {}
