//! Certificates and private keys, read with errors that say what is wrong with which file.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio_rustls::rustls;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// A certificate that a listener serves with: the chain, its key, and what is inside.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Chain, leaf first, and key.
    pub key: Arc<CertifiedKey>,
    /// The names inside, in lower case: hosts, `*.` and a host, and addresses, those of IPv6 in brackets.
    pub names: Vec<Box<str>>,
    /// From when to when it is valid.
    pub valid: Range<SystemTime>,
    /// Where it came from.
    pub file: PathBuf,
    /// The key's bytes, for a comparison.
    secret: Arc<[u8]>,
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
    /// The system trusts no authority.
    NoAuthorities(String),
}

impl Certificate {
    /// Reads a certificate chain (leaf first) and its private key, both PEM. A mistake in the one hides none in the other.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Vec<TlsError>> {
        let chain = read_certificates(certificate).and_then(|chain| Chain::of(chain, certificate));
        match (chain, read_key(key)) {
            (Ok(chain), Ok(key_der)) => Self::of(chain, key_der, certificate, key).map_err(|error| vec![error]),
            // Both may be one file, and what is wrong with a file as such is wrong once.
            (Err(error @ (TlsError::Unreadable(..) | TlsError::NotPem(..))), Err(_)) if certificate == key => {
                Err(vec![error])
            }
            (chain, key_der) => Err(chain.err().into_iter().chain(key_der.err()).collect()),
        }
    }

    /// One at hand: a chain, leaf first and not empty, and its key; the files are where they came from.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        file: &Path,
        key_file: &Path,
    ) -> Result<Self, TlsError> {
        Self::of(Chain::of(chain, file)?, key, file, key_file)
    }

    fn of(
        Chain { chain, names, valid }: Chain,
        key: PrivateKeyDer<'static>,
        file: &Path,
        key_file: &Path,
    ) -> Result<Self, TlsError> {
        let secret = key.secret_der().into();
        let key = CertifiedKey::from_der(chain, key, &default_provider());
        let key = key.map_err(|error| told_apart(error, key_file))?;
        Ok(Self { key: Arc::new(key), names, valid, file: file.into(), secret })
    }

    /// Every byte that makes it what it is.
    pub fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.key.cert.iter().map(|certificate| &**certificate).chain([&*self.secret])
    }
}

/// A chain that was understood.
struct Chain {
    chain: Vec<CertificateDer<'static>>,
    names: Vec<Box<str>>,
    valid: Range<SystemTime>,
}

impl Chain {
    fn of(chain: Vec<CertificateDer<'static>>, file: &Path) -> Result<Self, TlsError> {
        let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate(file.into()))?;
        let (names, valid) = inside(leaf).ok_or_else(|| TlsError::BadCertificate(file.into()))?;
        Ok(Self { chain, names, valid })
    }
}

/// The certificates in a file of PEM; at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = fs::read(path).map_err(|error| TlsError::Unreadable(path.into(), error))?;
    let certificates: Result<Vec<_>, _> = rustls_pemfile::certs(&mut &*bytes).collect();
    let certificates = certificates.map_err(|error| TlsError::NotPem(path.into(), error))?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.into())) } else { Ok(certificates) }
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

fn told_apart(error: rustls::Error, key: &Path) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
        rustls::Error::General(problem) => TlsError::BadKey(key.into(), problem),
        other => TlsError::Refused(other),
    }
}

/// As PKCS #8 labels it (RFC 7468 section 11), or as a header of the older forms does (RFC 1421 section 4.6.1.1).
fn is_encrypted(pem: &[u8]) -> bool {
    let mut lines = pem.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    lines.any(|line| line == b"-----BEGIN ENCRYPTED PRIVATE KEY-----" || line == b"Proc-Type: 4,ENCRYPTED")
}

/// Whether a certificate's time is over; false of one that cannot be understood.
pub fn has_expired(certificate: &CertificateDer<'_>) -> bool {
    validity(certificate).is_some_and(|valid| valid.end < SystemTime::now())
}

/// From when to when it is valid; None of one that cannot be understood.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<Range<SystemTime>> {
    inside(certificate).map(|(_, valid)| valid)
}

fn inside(leaf: &CertificateDer<'_>) -> Option<(Vec<Box<str>>, Range<SystemTime>)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let validity = parsed.validity();
    Some((names(&parsed), validity.not_before.to_datetime().into()..validity.not_after.to_datetime().into()))
}

/// RFC 9525 section 2: names stand among the alternative names; the common name of the subject is none.
fn names(leaf: &X509Certificate<'_>) -> Vec<Box<str>> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    names.filter_map(name).collect()
}

fn name(name: &GeneralName<'_>) -> Option<Box<str>> {
    match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase().into()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string().into()),
            _ => Some(format!("[{}]", Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?)).into()),
        },
        _ => None,
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
            Self::NoAuthorities(problem) => write!(f, "the system trusts no authority: {problem}"),
            Self::Refused(error) => write!(f, "the certificate cannot be used: {error}"),
        }
    }
}

// The causes stand in the lines above, in words; they would be told twice as sources.
impl std::error::Error for TlsError {}
