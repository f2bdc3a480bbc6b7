//! TLS of an upstream: the files that it names, and where it names none the authorities that the system trusts, are read
//! here, so that a connection to a backend can never fail for want of them.

use std::cell::OnceCell;
use std::sync::Arc;

use toml::Spanned;

use super::tls::{refuse, warn_of_dates};
use crate::config::EndpointAddress;
use crate::config::file::{BackendTlsTable, UpstreamTable, Verify};
use crate::config::report::{Problems, quoted};
use crate::config::sources::Sources;
use crate::downstream::certificates::{Certificate, TlsError};
use crate::upstream::tls::{Authorities, Tls, Trust, server_name};

const CA: &str = "expected \"system\", or a file of PEM with the certificates of authorities";

/// What TLS of upstreams is resolved with.
pub(super) struct Parts<'p> {
    pub(super) sources: &'p Sources,
    /// The system's authorities: read when the first upstream asks for them, and once for all.
    pub(super) system: OnceCell<Result<Authorities, TlsError>>,
    pub(super) problems: &'p Problems,
}

/// TLS as an upstream has it; `None` where it has none, or where what it names cannot be used, which then has been told.
pub(super) fn backend_tls(upstream: &UpstreamTable, parts: &Parts<'_>) -> Option<Arc<Tls>> {
    let table = upstream.tls.as_ref()?;
    tell_nameless(upstream, table, parts.problems);
    let path = format!("upstream.{}.tls", upstream.name);
    let trust = trust(table, upstream, &path, parts);
    let (Some(certificate), Some(key)) = (&table.certificate, &table.key) else {
        // The one without the other has been told.
        let tell = |error| parts.problems.tell(table.place.clone(), format!("`{path}`: {error}"), "");
        return made(trust?, table, None, tell);
    };
    let folder = parts.sources.folder_of(&table.place);
    let file = folder.join(certificate.get_ref());
    let refuse = |error: &TlsError| refuse(error, &path, (certificate, key), &file, parts.problems);
    let own = match Certificate::load(&file, &folder.join(key.get_ref())) {
        Ok(own) => own,
        Err(errors) => {
            errors.iter().for_each(refuse);
            return None;
        }
    };
    warn_of_dates(&own, certificate, parts.problems);
    // A mistake in `ca` has been told, and hides none in these.
    made(trust?, table, Some(&own), |error| refuse(&error))
}

fn made(
    trust: Trust,
    table: &BackendTlsTable,
    own: Option<&Certificate>,
    tell: impl FnOnce(TlsError),
) -> Option<Arc<Tls>> {
    Tls::new(trust, table.server_name.clone(), own).map(Arc::new).map_err(tell).ok()
}

/// A name that looks like a number in hexadecimal can be looked up, and no certificate is for it.
fn tell_nameless(upstream: &UpstreamTable, table: &BackendTlsTable, problems: &Problems) {
    if table.server_name.is_some() {
        return;
    }
    for endpoint in &upstream.endpoints {
        if let EndpointAddress::Named(name, _) = endpoint.get_ref()
            && server_name(name).is_none()
        {
            let what = format!("`upstream.{}.endpoints`: no certificate is for {}", upstream.name, quoted(name));
            problems.tell(endpoint.span(), what, "give the upstream `tls.server_name`");
        }
    }
}

fn trust(table: &BackendTlsTable, upstream: &UpstreamTable, path: &str, parts: &Parts<'_>) -> Option<Trust> {
    let problems = parts.problems;
    if let Some(verify) = table.verify.as_ref().filter(|verify| *verify.get_ref() == Verify::NoneInsecure) {
        if let Some(ca) = &table.ca {
            let what = format!("`{path}.ca`: no certificate is verified here");
            problems.tell_both(ca.span(), what, "leave one of the two out", (verify.span(), "for this"));
        }
        let name = &upstream.name;
        problems.warn(verify.span(), format!("whoever answers is taken for a backend of {name}: nothing is verified"));
        return Some(Trust::Anybody);
    }
    let own_file;
    let authorities = match table.ca.as_ref().and_then(|ca| ca.get_ref().as_ref()) {
        Some(file) => {
            own_file = Authorities::of_file(&parts.sources.folder_of(&table.place).join(file));
            &own_file
        }
        None => parts.system.get_or_init(Authorities::of_system),
    };
    match authorities {
        Ok(authorities) => Some(Trust::Authorities(authorities.clone())),
        Err(error) => {
            let place = table.ca.as_ref().map_or_else(|| table.place.clone(), Spanned::span);
            problems.tell(place, format!("`{path}.ca`: {error}"), CA);
            None
        }
    }
}
