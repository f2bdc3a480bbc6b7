//! TLS of a listener: its files are read here, so that a handshake can never fail for want of them.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureAlgorithm;
use rustls::pki_types::CertificateDer;
use tokio_rustls::rustls;
use toml::Spanned;

use crate::config::file::{ClientMode, PairTable, TlsTable};
use crate::config::report::Problems;
use crate::downstream::certificates::{Certificate, TlsError, read_certificates};
use crate::downstream::tls::{self, Clients, Settings, Tls};
use crate::expiry::{self, Dates};

const CERTIFICATE: &str = "expected a file of PEM: the certificate, and behind it the ones that signed it";
const KEY: &str = "expected a file of PEM with the private key of the certificate";
const AUTHORITIES: &str = "expected a file of PEM with the certificates that clients' are signed by";

/// TLS as the table and its files give it; `None` where they do not, which then has been told.
pub(super) fn tls(table: &TlsTable, folder: &Path, problems: &Problems) -> Option<Arc<Tls>> {
    let before = problems.count();
    let own = certificate("listener.tls", &table.own, folder, problems);
    let others = table.certificates.iter().map(|pair| certificate("listener.tls.certificates", pair, folder, problems));
    let found: Vec<_> = std::iter::once(own).chain(others).flatten().collect();
    warn_of_hidden(&found, problems);
    let settings = settings(table, folder, problems);
    let certificates: Vec<_> = found.into_iter().map(|(_, certificate)| certificate).collect();
    if certificates.is_empty() || problems.count() > before {
        return None;
    }
    match Tls::new(certificates, &settings) {
        Ok(tls) => Some(Arc::new(tls)),
        Err(error) => {
            problems.tell(table.place.clone(), format!("`listener.tls`: {error}"), "");
            None
        }
    }
}

fn settings(table: &TlsTable, folder: &Path, problems: &Problems) -> Settings {
    let suites = table.cipher_suites.as_deref().unwrap_or_default();
    let groups = table.groups.as_deref().unwrap_or_default();
    problems.tell_repeats("listener.tls.cipher_suites", suites, "leave one out");
    problems.tell_repeats("listener.tls.groups", groups, "leave one out");
    let of_name = |name: &Spanned<&str>| tls::cipher_suites().into_iter().find(|(known, _)| known == name.get_ref());
    let settings = Settings {
        tls12: table.tls12.unwrap_or(true),
        cipher_suites: suites.iter().filter_map(of_name).map(|(_, suite)| suite).collect(),
        groups: groups
            .iter()
            .filter_map(|name| tls::groups().into_iter().find(|(known, _)| known == name.get_ref()))
            .map(|(_, group)| group)
            .collect(),
        tickets: table.tickets.unwrap_or(true),
        strict_host: table.strict_host.unwrap_or(true),
        clients: clients(table, folder, problems),
    };
    if let Some(first) = suites.first()
        && !settings.tls12
        && settings.cipher_suites.iter().all(|suite| suite.tls13().is_none())
    {
        let what = "`listener.tls.cipher_suites`: none of them is of TLS 1.3, and minimum_version asks for that";
        problems.tell(first.span(), what, "add one whose name begins with TLS13_");
    }
    settings
}

fn clients(table: &TlsTable, folder: &Path, problems: &Problems) -> Clients {
    let mode = table.client_certificates.as_ref().map_or(ClientMode::None, |mode| *mode.get_ref());
    match (mode, &table.client_ca) {
        (ClientMode::None, None) => Clients::Any,
        (ClientMode::None, Some(file)) => {
            let what = "`listener.tls.client_ca`: clients are not asked for certificates";
            problems.tell(file.span(), what, "leave it out, or write client_certificates = \"required\"");
            Clients::Any
        }
        (_, None) => {
            let place = table.client_certificates.as_ref().map_or_else(|| table.place.clone(), Spanned::span);
            problems.tell(place, "`listener.tls.client_ca` is missing", AUTHORITIES);
            Clients::Any
        }
        (mode, Some(file)) => match (mode, authorities(file, folder, problems)) {
            (ClientMode::Required, authorities) => Clients::Required(authorities),
            (_, authorities) => Clients::Known(authorities),
        },
    }
}

fn authorities(file: &Spanned<String>, folder: &Path, problems: &Problems) -> Vec<CertificateDer<'static>> {
    let path = folder.join(file.get_ref());
    let refuse = |error: TlsError| {
        problems.tell(file.span(), format!("`listener.tls.client_ca`: {error}"), AUTHORITIES);
        Vec::new()
    };
    match read_certificates(&path) {
        Ok(certificates) if certificates.iter().all(tls::is_authority) => certificates,
        Ok(_) => refuse(TlsError::BadCertificate(path)),
        Err(error) => refuse(error),
    }
}

type Found<'t> = (&'t Spanned<String>, Certificate);

fn certificate<'t>(table: &str, pair: &'t PairTable, folder: &Path, problems: &Problems) -> Option<Found<'t>> {
    let (written, key) = (pair.certificate.as_ref()?, pair.key.as_ref()?);
    let file = folder.join(written.get_ref());
    match Certificate::load(&file, &folder.join(key.get_ref())) {
        Ok(certificate) => {
            warn_of_dates(&certificate, written, problems);
            Some((written, certificate))
        }
        Err(errors) => {
            errors.iter().for_each(|error| refuse(error, table, (written, key), &file, problems));
            None
        }
    }
}

/// A certificate that has expired, or is not valid yet, is served all the same: a gateway that does not start helps
/// nobody, some clients of tunnels never look at the date, and a clock may be wrong.
pub(super) fn warn_of_dates(certificate: &Certificate, written: &Spanned<String>, problems: &Problems) {
    let file = certificate.file.display();
    let dates = Dates::of(&certificate.valid, SystemTime::now());
    match dates {
        Dates::Expired => {
            let date = expiry::date(certificate.valid.end);
            problems.warn(written.span(), format!("certificate {file} expired on {date}"));
        }
        Dates::Early => {
            let date = expiry::date(certificate.valid.start);
            problems.warn(written.span(), format!("certificate {file} is not valid before {date}"));
        }
        Dates::Expires { days } => {
            let date = expiry::date(certificate.valid.end);
            problems.warn(written.span(), format!("certificate {file} expires on {date}, in {days} days"));
        }
        Dates::Fine => {}
    }
}

/// One that no client is ever shown is a mistake that nobody would notice.
fn warn_of_hidden(found: &[Found<'_>], problems: &Problems) {
    let is_rsa = |certificate: &Certificate| certificate.key.key.algorithm() == SignatureAlgorithm::RSA;
    for (index, (written, certificate)) in found.iter().enumerate().skip(1) {
        let alike = found[..index].iter().filter(|(_, before)| is_rsa(before) == is_rsa(certificate));
        let names: Vec<_> = alike.flat_map(|(_, before)| &before.names).collect();
        if certificate.names.iter().all(|name| names.contains(&name)) {
            let file = certificate.file.display();
            problems.warn(
                written.span(),
                format!("certificate {file} is shown to nobody: others before it have all of its names"),
            );
        }
    }
}

/// Says what is wrong with a certificate and its key, at the one or the other; `table` is where they stand.
pub(super) fn refuse(
    error: &TlsError,
    table: &str,
    (certificate, key): (&Spanned<String>, &Spanned<String>),
    certificate_file: &Path,
    problems: &Problems,
) {
    let of_certificate = match error {
        // Certificate and key may be one file; it is then told of as the certificate's.
        TlsError::Unreadable(path, _) | TlsError::NotPem(path, _) => path == certificate_file,
        TlsError::NoCertificate(_)
        | TlsError::BadCertificate(..)
        | TlsError::Refused(_)
        | TlsError::NoAuthorities(_) => true,
        TlsError::NoKey(_) | TlsError::EncryptedKey(_) | TlsError::BadKey(..) | TlsError::Mismatch => false,
    };
    let told_at_key = format!("`{table}.key`: {error}");
    match error {
        _ if of_certificate => {
            problems.tell(certificate.span(), format!("`{table}.certificate`: {error}"), CERTIFICATE);
        }
        TlsError::Mismatch => {
            problems.tell_both(key.span(), told_at_key, KEY, (certificate.span(), "the certificate"));
        }
        _ => problems.tell(key.span(), told_at_key, KEY),
    }
}
