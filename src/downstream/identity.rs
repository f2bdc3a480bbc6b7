//! Whom a client's certificate names: its subject in the form of RFC 4514, and its fingerprint.

use std::fmt::Write;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use tokio_rustls::rustls;
use x509_parser::der_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::prelude::X509Name;

/// What a verified certificate of a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject (RFC 4514), in visible ASCII characters and blanks.
    pub subject: String,
    /// SHA-256 of the whole certificate, in hexadecimal digits.
    pub fingerprint: String,
}

impl ClientCertificate {
    /// Of a certificate that has been verified; None of one whose subject cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let fingerprint = hexadecimal(digest::digest(&digest::SHA256, certificate).as_ref());
        Some(Self { subject: subject(parsed.subject()), fingerprint })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 4514 section 2.1: the last comes first. x509-parser's own form escapes nothing: a common name of "a, O=b" would read
/// as two attributes, and whoever can choose the one could claim the other.
fn subject(name: &X509Name<'_>) -> String {
    let sets: Vec<Vec<String>> = name
        .iter_rdn()
        .map(|set| set.iter().map(|attribute| attribute_text(attribute.attr_type(), attribute.attr_value())).collect())
        .collect();
    let sets: Vec<String> = sets.iter().rev().map(|set| set.join("+")).collect();
    sets.join(",")
}

fn attribute_text(kind: &Oid<'_>, value: &Any<'_>) -> String {
    match (short(&kind.to_id_string()), text(value)) {
        (Some(short), Some(text)) => format!("{short}={}", escaped(&text)),
        // RFC 4514 section 2.4: the value as it is encoded.
        (short, _) => {
            let encoded = value.to_der_vec().unwrap_or_default();
            let kind = short.map_or_else(|| kind.to_id_string(), str::to_owned);
            format!("{kind}=#{}", hexadecimal(&encoded))
        }
    }
}

/// RFC 4514 section 3: the names that everybody knows.
fn short(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return None,
    })
}

fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => Some(value.as_str().ok()?.to_owned()),
        _ => None,
    }
}

/// RFC 4514 section 2.4; beyond what it asks for, every byte that is no visible ASCII character is escaped, for this becomes a
/// line of a header.
fn escaped(text: &str) -> String {
    let last = text.len().saturating_sub(1);
    let mut escaped = String::with_capacity(text.len());
    for (place, byte) in text.bytes().enumerate() {
        let at_an_end = (place == 0 && matches!(byte, b' ' | b'#')) || (place == last && byte == b' ');
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                escaped.push('\\');
                escaped.push(char::from(byte));
            }
            b' '..=b'~' if at_an_end => {
                escaped.push('\\');
                escaped.push(char::from(byte));
            }
            b' '..=b'~' => escaped.push(char::from(byte)),
            _ => {
                let _ = write!(escaped, "\\{byte:02x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn of(name: &[(DnType, DnValue)]) -> ClientCertificate {
        let mut params = CertificateParams::new(["a".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        name.iter().for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), value.clone()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::of(certificate.der()).unwrap()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn a_subject_is_written_from_its_end_and_nobody_can_claim_a_part_by_a_comma() {
        for (name, expected) in [
            (vec![(DnType::CommonName, utf8("alice"))], "CN=alice"),
            (
                vec![(DnType::OrganizationName, utf8("Example")), (DnType::CommonName, utf8("alice"))],
                "CN=alice,O=Example",
            ),
            (vec![(DnType::CommonName, utf8("alice, O=admins"))], "CN=alice\\, O=admins"),
            (vec![(DnType::CommonName, utf8(" #a\"+,;<>\\ "))], "CN=\\ #a\\\"\\+\\,\\;\\<\\>\\\\\\ "),
            (vec![(DnType::CommonName, utf8("#"))], "CN=\\#"),
            (vec![(DnType::CommonName, utf8("Zoë\r\nX: y\0"))], "CN=Zo\\c3\\ab\\0d\\0aX: y\\00"),
            (vec![(DnType::CustomDnType(vec![2, 5, 4, 5]), utf8("7"))], "2.5.4.5=#0c0137"),
            (vec![], ""),
        ] {
            assert_eq!(of(&name).subject, expected);
        }
    }

    #[test]
    fn a_fingerprint_is_of_the_whole_certificate() {
        let fingerprint = of(&[]).fingerprint;
        assert!(fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()), "{fingerprint}");
        assert_ne!(of(&[]).fingerprint, fingerprint);
    }
}
