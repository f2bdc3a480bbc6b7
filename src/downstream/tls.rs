//! TLS towards clients: what a listener speaks, which certificate a client is shown, and the TLS handshake of one connection,
//! within the deadline that its caller keeps from accept.

use std::fmt;
use std::io;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::{ALL_KX_GROUPS, Ticketer, cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::CertificateDer;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SignatureAlgorithm, SupportedCipherSuite, version};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

use super::certificates::{Certificate, TlsError};
use super::names::{ByName, covers};
use crate::tunnel::paced::Paced;

/// What a listener needs to speak TLS.
pub struct Tls {
    acceptor: tokio_rustls::TlsAcceptor,
    shown: Arc<Shown>,
    strict_host: bool,
    /// Of all that makes it what it is.
    fingerprint: [u8; 32],
    /// Of what a session that is resumed has been admitted by.
    admission: [u8; 32],
}

/// How a listener speaks TLS, beside its certificates.
#[derive(Debug)]
pub struct Settings {
    /// Whether TLS 1.2 is spoken, too.
    pub tls12: bool,
    /// In the order of our preference; empty: the library's.
    pub cipher_suites: Vec<SupportedCipherSuite>,
    /// Those of the key exchange; of them a client has its own favourite. Empty: the library's.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// Whether a client may come back without a whole TLS handshake.
    pub tickets: bool,
    /// Whether a Host must be what the client asked for by its server name, or of the same certificate.
    pub strict_host: bool,
    /// Who may come.
    pub clients: Clients,
}

/// Which certificates clients show.
#[derive(Debug)]
pub enum Clients {
    /// None is asked for.
    Any,
    /// One that is shown must be signed by one of these.
    Known(Vec<CertificateDer<'static>>),
    /// One must be shown, signed by one of these.
    Required(Vec<CertificateDer<'static>>),
}

impl Default for Settings {
    fn default() -> Self {
        let (cipher_suites, groups) = (Vec::new(), Vec::new());
        Self { tls12: true, cipher_suites, groups, tickets: true, strict_host: true, clients: Clients::Any }
    }
}

/// The certificates of a listener, and how one is chosen.
#[derive(Debug)]
struct Shown {
    certificates: Vec<Certificate>,
    by_name: ByName,
    cipher_suites: Vec<SupportedCipherSuite>,
}

impl Tls {
    /// TLS with these certificates, of which the first is the default; there is one at least.
    pub fn new(certificates: Vec<Certificate>, settings: &Settings) -> Result<Self, TlsError> {
        let provider = Arc::new(provider(settings));
        let fingerprint = fingerprint(&certificates, settings);
        let by_name = ByName::new(certificates.iter().map(|certificate| &*certificate.names));
        let shown = Arc::new(Shown { certificates, by_name, cipher_suites: provider.cipher_suites.clone() });
        let versions: &[_] = if settings.tls12 { &[&version::TLS13, &version::TLS12] } else { &[&version::TLS13] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(versions).map_err(TlsError::Refused)?;
        let builder = match &settings.clients {
            Clients::Any => builder.with_no_client_auth(),
            Clients::Known(authorities) | Clients::Required(authorities) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities)?), provider);
                let is_required = matches!(settings.clients, Clients::Required(_));
                let verifier = if is_required { verifier } else { verifier.allow_unauthenticated() };
                let verifier =
                    verifier.build().map_err(|e| TlsError::Refused(rustls::Error::General(e.to_string())))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        complete(&mut config, settings.tickets).map_err(TlsError::Refused)?;
        let (acceptor, admission) = (Arc::new(config).into(), admission(settings));
        Ok(Self { acceptor, shown, strict_host: settings.strict_host, fingerprint, admission })
    }

    /// Its certificates.
    pub fn certificates(&self) -> &[Certificate] {
        &self.shown.certificates
    }

    /// Whether a request for `host`, on a connection that asked for `server_name`, came to the wrong place (RFC 9110 section
    /// 15.5.20): a client may send it only where the certificate that it was shown is the host's, too. Which one of several
    /// that was is not known here, so it must be true of each.
    pub fn is_misdirected(&self, server_name: &str, host: &str) -> bool {
        let mut may_be_shown = self.shown.by_name.of(Some(server_name)).iter();
        let is_of = |&index: &usize| self.shown.certificates[index].names.iter().any(|name| covers(name, host));
        self.strict_host && host != server_name && !may_be_shown.all(is_of)
    }

    /// Whether the other is the same in all that a client or a backend could tell.
    pub fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Takes the keys of another's tickets: who got a ticket there may come with it here. Not where clients are
    /// admitted by something else: a session that is resumed brings its client's certificate along, unverified.
    pub fn keep_tickets_of(&mut self, other: &Self) {
        if self.admission == other.admission {
            let mut config = ServerConfig::clone(self.acceptor.config());
            config.ticketer = Arc::clone(&other.acceptor.config().ticketer);
            self.acceptor = Arc::new(config).into();
        }
    }

    /// The TLS handshake of one connection. Who calls this bounds it in time.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<Paced>> {
        self.acceptor.accept(Paced::new(stream)).await
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let of_name = self.by_name.of(name.as_deref());
        let keys = of_name.iter().map(|&index| &self.certificates[index].key);
        // RSA's signatures cost the most. Where no key fits, the first: rustls then says what the client lacks.
        let fits = keys.clone().filter(|key| self.fits(key, &hello)).min_by_key(|key| is_rsa(key));
        fits.or_else(|| keys.clone().next()).cloned()
    }
}

impl Shown {
    /// Whether a client can verify what this key signs: by its signature schemes, and before TLS 1.3 by its cipher suites,
    /// too (RFC 5246 section 7.4.2).
    fn fits(&self, key: &CertifiedKey, hello: &ClientHello<'_>) -> bool {
        let Some(signer) = key.key.choose_scheme(hello.signature_schemes()) else { return false };
        let common = self.cipher_suites.iter().filter(|ours| hello.cipher_suites().contains(&ours.suite()));
        common.into_iter().any(|suite| match suite {
            SupportedCipherSuite::Tls13(_) => true,
            SupportedCipherSuite::Tls12(suite) => suite.sign.contains(&signer.scheme()),
        })
    }
}

fn is_rsa(key: &CertifiedKey) -> bool {
    key.key.algorithm() == SignatureAlgorithm::RSA
}

/// All cipher suites by their names, as rustls has them.
pub fn cipher_suites() -> Vec<(&'static str, SupportedCipherSuite)> {
    let suites = default_provider().cipher_suites.into_iter();
    suites.filter_map(|suite| Some((suite.suite().as_str()?, suite))).collect()
}

/// All groups of key exchange, the same.
pub fn groups() -> Vec<(&'static str, &'static dyn SupportedKxGroup)> {
    ALL_KX_GROUPS.iter().filter_map(|group| Some((group.name().as_str()?, *group))).collect()
}

/// Whether it is a certificate that others can be signed by; for a file of authorities.
pub fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    ParsedCertificate::try_from(certificate).is_ok()
        && RootCertStore::empty().add(certificate.clone().into_owned()).is_ok()
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    authorities.iter().try_for_each(|authority| roots.add(authority.clone())).map_err(TlsError::Refused)?;
    Ok(roots)
}

/// The provider. Where nobody has chosen, with AES-128 first: its SHA-256 has hardware help where AES-256's SHA-384 has none,
/// and clients of rustls ask for AES-256 first.
pub fn provider(settings: &Settings) -> CryptoProvider {
    let mut provider = default_provider();
    let first = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    let rank = |suite: &SupportedCipherSuite| !first.iter().any(|first| first.suite() == suite.suite());
    provider.cipher_suites.sort_by_key(rank);
    if !settings.cipher_suites.is_empty() {
        provider.cipher_suites.clone_from(&settings.cipher_suites);
    }
    if !settings.groups.is_empty() {
        provider.kx_groups.clone_from(&settings.groups);
    }
    provider
}

fn complete(config: &mut ServerConfig, tickets: bool) -> Result<(), rustls::Error> {
    // A client of HTTP/1.0 may offer just that (curl --http1.0 does), and it is served over plain TCP, too.
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    config.ignore_client_order = true;
    // Tickets put the session into the client's memory; the cache would keep it in ours.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match tickets {
        true => config.ticketer = Ticketer::new()?,
        false => config.send_tls13_tickets = 0,
    }
    Ok(())
}

fn fingerprint(certificates: &[Certificate], settings: &Settings) -> [u8; 32] {
    let Settings { tls12, cipher_suites, groups, tickets: _, strict_host, clients: _ } = settings;
    let mut context = digest::Context::new(&digest::SHA256);
    certificates.iter().flat_map(Certificate::bytes).for_each(|bytes| context.update(bytes));
    cipher_suites.iter().for_each(|suite| context.update(&u16::from(suite.suite()).to_be_bytes()));
    context.update(b"groups");
    groups.iter().for_each(|group| context.update(&u16::from(group.name()).to_be_bytes()));
    context.update(&[u8::from(*tls12), u8::from(*strict_host)]);
    context.update(&admission(settings));
    finished(context)
}

fn admission(settings: &Settings) -> [u8; 32] {
    let (kind, authorities): (u8, &[_]) = match &settings.clients {
        Clients::Any => (0, &[]),
        Clients::Known(authorities) => (1, authorities),
        Clients::Required(authorities) => (2, authorities),
    };
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[kind, u8::from(settings.tickets)]);
    authorities.iter().for_each(|authority| context.update(authority));
    finished(context)
}

fn finished(context: digest::Context) -> [u8; 32] {
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<_> = self.certificates().iter().map(|certificate| &certificate.file).collect();
        f.debug_struct("Tls").field("files", &files).field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}
