//! TLS of a listener: its files are read here, so that a handshake can never fail for want of them.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use toml::Spanned;

use crate::config::file::TlsTable;
use crate::config::report::Problems;
use crate::downstream::tls::{Tls, TlsError};

const CERTIFICATE: &str = "expected a file of PEM: the certificate, and behind it the ones that signed it";
const KEY: &str = "expected a file of PEM with the private key of the certificate";

/// TLS as the two files give it; `None` where they do not, which then has been told.
pub(super) fn tls(table: &TlsTable, folder: &Path, problems: &Problems) -> Option<Arc<Tls>> {
    let (certificate, key) = (table.certificate.as_ref()?, table.key.as_ref()?);
    let certificate_file = folder.join(certificate.get_ref());
    match Tls::load(&certificate_file, &folder.join(key.get_ref())) {
        Ok(tls) => {
            warn_of_dates(&tls, certificate, &certificate_file, problems);
            Some(Arc::new(tls))
        }
        Err(errors) => {
            errors.iter().for_each(|error| refuse(error, certificate, key, &certificate_file, problems));
            None
        }
    }
}

/// A certificate that has expired, or is not valid yet, is served all the same: a gateway that does not start helps
/// nobody, some clients of tunnels never look at the date, and a clock may be wrong.
fn warn_of_dates(tls: &Tls, certificate: &Spanned<String>, file: &Path, problems: &Problems) {
    let (now, file) = (SystemTime::now(), file.display());
    if tls.valid.end < now {
        let date = date(tls.valid.end);
        problems.warn(certificate.span(), format!("certificate {file} expired on {date}"));
    } else if now < tls.valid.start {
        let date = date(tls.valid.start);
        problems.warn(certificate.span(), format!("certificate {file} is not valid before {date}"));
    }
}

fn date(time: SystemTime) -> String {
    // humantime tells no time before 1970.
    let time = humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}

fn refuse(
    error: &TlsError,
    certificate: &Spanned<String>,
    key: &Spanned<String>,
    certificate_file: &Path,
    problems: &Problems,
) {
    let of_certificate = match error {
        // Certificate and key may be one file; it is then told of as the certificate's.
        TlsError::Unreadable(path, _) | TlsError::NotPem(path, _) => path == certificate_file,
        TlsError::NoCertificate(_) | TlsError::BadCertificate(..) | TlsError::Refused(_) => true,
        TlsError::NoKey(_) | TlsError::EncryptedKey(_) | TlsError::BadKey(..) | TlsError::Mismatch => false,
    };
    let told_at_key = format!("`listener.tls.key`: {error}");
    match error {
        _ if of_certificate => {
            problems.tell(certificate.span(), format!("`listener.tls.certificate`: {error}"), CERTIFICATE);
        }
        TlsError::Mismatch => {
            problems.tell_both(key.span(), told_at_key, KEY, (certificate.span(), "the certificate"));
        }
        _ => problems.tell(key.span(), told_at_key, KEY),
    }
}
