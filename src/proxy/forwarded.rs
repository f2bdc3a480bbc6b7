//! What a backend is told of the client and of the gateway, and what it must not be told by anybody else:
//! X-Forwarded-*, Forwarded (RFC 7239), X-Real-IP, X-Request-Id, Via (RFC 9110 section 7.6.3), and whom a client's certificate
//! names: X-Client-Cert-Subject and X-Client-Cert-Fingerprint.
//!
//! A backend believes these headers, so each of them that leaves here is ours or a trusted proxy's. Everyone else's
//! are removed. So is what the configuration switches off, a trusted proxy's too: a backend that is not told something
//! by us must be able to take it from nobody.
//!
//! A trusted proxy's X-Forwarded-Proto, -Host and -Port are kept and its chains are appended to, but only a chain that
//! names the client that was believed ([`Client`]); the other one is begun anew with that client. For a proxy writes
//! one of the two and passes on the other as it came: a forged one, or none, by which the proxy would be the client.
//!
//! A client's certificate is told by the gateway that has verified it and by nobody before it: a proxy that knows nothing of
//! these headers, trusted or not, passes on what anybody wrote. Client-Cert and Client-Cert-Chain (RFC 9440) go for the same
//! reason: they are not told, so nobody else may.
//!
//! Via goes towards backends only: "An HTTP-to-HTTP gateway MUST send an appropriate Via header field in each inbound
//! request message and MAY send a Via header field in forwarded response messages." No loop runs through answers, and
//! clients have no use for the gateway's name.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use ipnet::IpNet;

use super::chain::{Chain, X_FORWARDED_FOR, element, parameter, write_address};
use super::client::Client;
use super::headers::{only, tokens};
use crate::config::{Forwarded, Scheme};
use crate::downstream::identity::ClientCertificate;

/// What there is to tell of a request.
#[derive(Debug, Clone)]
pub struct Told<'a> {
    /// Whom it comes from.
    pub client: Client,
    /// The networks by which that was found.
    pub trusted: &'a [IpNet],
    /// How it reached us.
    pub scheme: Scheme,
    /// Its Host as received: what backends compare with an Origin, whichever Host they are sent.
    pub host: &'a HeaderValue,
    /// The port it came to.
    pub port: u16,
    /// The gateway's name, a token.
    pub name: &'a str,
    /// The version it came in.
    pub version: Version,
    /// The certificate that the client has shown on this connection.
    pub certificate: Option<&'a ClientCertificate>,
    /// Its id.
    pub id: HeaderValue,
}

/// Makes a request's headers tell a backend what `what` has it told, and no more. To be called when the hop-by-hop
/// headers have gone: what is set here cannot be named in Connection.
pub fn towards_backend(headers: &mut HeaderMap, told: Told<'_>, what: Forwarded) {
    // All is read before the first header goes.
    let kept = Kept::read(headers, &told);
    let x_forwarded_for = what.x_forwarded.then(|| x_forwarded_for(headers, &told));
    let forwarded = what.forwarded.then(|| forwarded(headers, &told, &kept));
    remove(headers, |name| must_go(name, told.client.peer_is_trusted, what));
    if let Some(x_forwarded_for) = x_forwarded_for {
        headers.insert(&X_FORWARDED_FOR, x_forwarded_for);
        set_x_forwarded(headers, &told, kept);
    }
    if let Some(forwarded) = forwarded {
        headers.insert(header::FORWARDED, forwarded);
    }
    if what.x_real_ip {
        headers.insert(&X_REAL_IP, value(alone(told.client.address)));
    }
    if what.via {
        headers.append(header::VIA, value([version(told.version), " ", told.name].concat()));
    }
    if let Some(certificate) = told.certificate {
        headers.insert(&X_CLIENT_CERT_SUBJECT, value(certificate.subject.as_str()));
        headers.insert(&X_CLIENT_CERT_FINGERPRINT, value(certificate.fingerprint.as_str()));
    }
    headers.insert(&X_REQUEST_ID, told.id);
}

/// The id that a trusted proxy has given a request: one line, 1 to 128 visible ASCII characters.
pub fn id<'a>(headers: &'a HeaderMap, client: &Client) -> Option<&'a str> {
    let id = only(headers, &X_REQUEST_ID).filter(|_| client.peer_is_trusted)?;
    let is_id = (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    id.to_str().ok().filter(|_| is_id)
}

/// Whether a request has been here before: our name is among those of its Via lines. Gateways in a row need names of
/// their own.
///
/// To be asked only where Via is told. Where it is not, no request of ours holds our name, so one that does is another
/// gateway's, and a loop ends only when it has used up connections or its head has grown too large.
///
/// Comments are not told from elements: one that reads like a Via of ours is no accident.
pub fn is_loop(headers: &HeaderMap, name: &str) -> bool {
    let received_by = |element: &[u8]| {
        let mut words = element.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(name.as_bytes()))
    };
    tokens(headers, &header::VIA).any(received_by)
}

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
static X_CLIENT_CERT_FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a trusted proxy said of the client's own request.
#[derive(Debug, Default)]
struct Kept {
    proto: Option<HeaderValue>,
    host: Option<HeaderValue>,
    port: Option<HeaderValue>,
}

impl Kept {
    fn read(headers: &HeaderMap, told: &Told<'_>) -> Self {
        if !told.client.peer_is_trusted {
            return Self::default();
        }
        // Of several lines the last: a proxy that adds its own below a client's is believed, the client is not.
        let last = |name| headers.get_all(name).into_iter().next_back().filter(|said| !said.is_empty()).cloned();
        let believed = Some(Chain::believed(headers)).filter(|chain| *chain == Chain::Forwarded);
        let client = believed.and_then(|chain| chain.client(headers, told.trusted));
        let said = |name| HeaderValue::from_bytes(parameter(client?.element, name)?).ok();
        Self {
            proto: last(&X_FORWARDED_PROTO).or_else(|| said("proto")).map(proto),
            host: last(&X_FORWARDED_HOST).or_else(|| said("host")),
            port: last(&X_FORWARDED_PORT),
        }
    }
}

/// Some proxies tell the scheme of a WebSocket; backends know http and https.
fn proto(said: HeaderValue) -> HeaderValue {
    match said.as_bytes() {
        ws if ws.eq_ignore_ascii_case(b"ws") => HeaderValue::from_static("http"),
        wss if wss.eq_ignore_ascii_case(b"wss") => HeaderValue::from_static("https"),
        _ => said,
    }
}

fn set_x_forwarded(headers: &mut HeaderMap, told: &Told<'_>, kept: Kept) {
    // Our port belongs to our scheme and host: under a proxy's it would make "https://host:80" of them.
    let ours = kept.proto.is_none() && kept.host.is_none();
    if let Some(port) = kept.port.or_else(|| ours.then(|| told.port.into())) {
        headers.insert(&X_FORWARDED_PORT, port);
    }
    let scheme = || HeaderValue::from_static(told.scheme.as_str());
    headers.insert(&X_FORWARDED_PROTO, kept.proto.unwrap_or_else(scheme));
    headers.insert(&X_FORWARDED_HOST, kept.host.unwrap_or_else(|| told.host.clone()));
}

fn x_forwarded_for(headers: &HeaderMap, told: &Told<'_>) -> HeaderValue {
    ended(begun(headers, told, Chain::XForwardedFor, alone), alone(told.client.peer))
}

fn alone(address: IpAddr) -> Vec<u8> {
    let mut written = Vec::with_capacity(39);
    write_address(&mut written, address);
    written
}

fn forwarded(headers: &HeaderMap, told: &Told<'_>, kept: &Kept) -> HeaderValue {
    let first = |client| element(client, kept.host.as_ref(), kept.proto.as_ref());
    let mut chain = begun(headers, told, Chain::Forwarded, |client| first(Some(client)));
    if chain.is_empty() && kept.proto.is_some() {
        // A proxy that tells the scheme and not the client. Our element alone would say that it was ours.
        chain = followed(&first(None));
    }
    let scheme = HeaderValue::from_static(told.scheme.as_str());
    ended(chain, element(Some(told.client.peer), Some(told.host), Some(&scheme)))
}

/// What stands in a chain before our own element: what a trusted proxy sent, if that names the client that was
/// believed; else that client, unless it is our own element's address.
fn begun(headers: &HeaderMap, told: &Told<'_>, chain: Chain, first: impl Fn(IpAddr) -> Vec<u8>) -> Vec<u8> {
    let Client { address, peer, peer_is_trusted } = told.client;
    let named = || chain.client(headers, told.trusted).map_or(peer, |hop| hop.address);
    if peer_is_trusted && named() == address && chain.is_closed(headers) {
        headers.get_all(chain.name()).into_iter().flat_map(|line| followed(line.as_bytes())).collect()
    } else if address == peer {
        Vec::new()
    } else {
        followed(&first(address))
    }
}

fn followed(elements: &[u8]) -> Vec<u8> {
    if elements.is_empty() { Vec::new() } else { [elements, b", "].concat() }
}

fn ended(mut chain: Vec<u8>, ours: Vec<u8>) -> HeaderValue {
    if chain.is_empty() {
        return value(ours);
    }
    chain.extend(ours);
    value(chain)
}

/// Nothing is collected, and so nothing allocated, unless there is something to remove.
fn remove(headers: &mut HeaderMap, must_go: impl Fn(&str) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| must_go(name.as_str())).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a header by that name says, to some backend or other, what is ours or a trusted proxy's to say.
fn must_go(name: &str, peer_is_trusted: bool, what: Forwarded) -> bool {
    let is = |wanted: &str| name.len() == wanted.len() && begins(name, wanted);
    if begins(name, "x-forwarded") {
        // No proxy spells it otherwise than with "-"; what it passes on in another spelling is a client's.
        let proper = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        !(peer_is_trusted && what.x_forwarded && proper)
    } else if is("forwarded") {
        !(peer_is_trusted && what.forwarded)
    } else {
        // The id itself is replaced where it stands.
        is("x-real-ip") || is_of_certificate(name) || is("x-request-id") && X_REQUEST_ID != name
    }
}

/// Whether it says whom a client's certificate names.
fn is_of_certificate(name: &str) -> bool {
    ["x-client-cert", "client-cert"].into_iter().any(|with| begins(name, with))
}

/// Whether a field by that name says what a backend is told by the gateway: as a trailer it never passes.
pub(super) fn is_told(name: &str) -> bool {
    let is = |wanted: &str| name.len() == wanted.len() && begins(name, wanted);
    begins(name, "x-forwarded")
        || is_of_certificate(name)
        || ["forwarded", "x-real-ip", "x-request-id", "via"].into_iter().any(is)
}

/// Whether a name begins so for a backend that takes headers from variables: for CGI and its heirs "_" is "-", and in
/// some servers so is any other character that is neither letter nor digit. `HeaderName` is lower case already.
fn begins(name: &str, with: &str) -> bool {
    let same = |(b, wanted): (u8, u8)| b == wanted || wanted == b'-' && !b.is_ascii_alphanumeric();
    name.len() >= with.len() && name.bytes().zip(with.bytes()).all(same)
}

/// RFC 9110 section 7.6.3: the version of the message as it was received.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    }
}

fn value(bytes: impl Into<Vec<u8>>) -> HeaderValue {
    HeaderValue::try_from(bytes.into()).expect("made of header values, tokens, addresses and visible characters")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Forwarded = Forwarded { x_forwarded: true, forwarded: true, x_real_ip: true, via: true };
    const NONE: Forwarded = Forwarded { x_forwarded: false, forwarded: false, x_real_ip: false, via: false };
    const PROXY: &str = "10.0.0.1";
    const STRANGER: &str = "2001:db8::1";

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// What a backend is told of a request to `a:8080` that came from `peer` on port 80, plain, in HTTP/1.1.
    fn told(peer: &str, mut headers: HeaderMap, what: Forwarded) -> HeaderMap {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let client = Client::find(peer.parse().unwrap(), &headers, &trusted);
        let host = HeaderValue::from_static("a:8080");
        let id = HeaderValue::from_static("made");
        let (scheme, version) = (Scheme::Http, Version::HTTP_11);
        let told = Told {
            client,
            trusted: &trusted,
            scheme,
            host: &host,
            port: 80,
            name: "gw-1",
            version,
            certificate: None,
            id,
        };
        towards_backend(&mut headers, told, what);
        headers
    }

    /// Names sorted, the lines of one name in their order.
    fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut lines: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        lines.sort_by_key(|(name, _)| *name);
        lines
    }

    #[track_caller]
    fn assert_told(peer: &str, received: &[(&str, &str)], what: Forwarded, expected: &[(&str, &str)]) {
        let mut sorted = expected.to_vec();
        sorted.sort_by_key(|(name, _)| *name);
        assert_eq!(lines(&told(peer, map(received), what)), sorted, "{peer} {received:?}");
    }

    /// The values of these names after a trusted proxy's `received`.
    #[track_caller]
    fn assert_proxied(received: &[(&str, &str)], expected: &[(&str, &str)]) {
        let headers = told(PROXY, map(received), ALL);
        for (name, value) in expected {
            let told: Vec<_> = headers.get_all(*name).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(told.join(" | "), *value, "{name} after {received:?}");
        }
    }

    const OF_THE_STRANGER: [(&str, &str); 8] = [
        ("forwarded", r#"for="[2001:db8::1]";host="a:8080";proto=http"#),
        ("via", "1.1 gw-1"),
        ("x-forwarded-for", "2001:db8::1"),
        ("x-forwarded-host", "a:8080"),
        ("x-forwarded-port", "80"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "2001:db8::1"),
        ("x-request-id", "made"),
    ];

    #[test]
    fn a_stranger_is_told_of_and_not_listened_to() {
        assert_told(STRANGER, &[], ALL, &OF_THE_STRANGER);
        for name in [
            "x-forwarded-for",
            "X-Forwarded-For",
            "x_forwarded_for",
            "X-Forwarded_For",
            "x_Forwarded-FOR",
            "x.forwarded~for",
            "X-Forwarded-Proto",
            "X_Forwarded_Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Prefix",
            "X-Forwarded-Scheme",
            "X-Forwarded-Ssl",
            "X-Forwarded-Server",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "X-Forwarded",
            "Forwarded",
            "FORWARDED",
            "X-Real-IP",
            "x_real_ip",
            "X-Real_IP",
            "X-Request-Id",
            "x_request_id",
            "X-Client-Cert-Subject",
            "x_client_cert_subject",
            "X-Client.Cert-Fingerprint",
            "X-Client-Cert-Verified",
            "Client-Cert",
            "Client-Cert-Chain",
            "client_cert",
        ] {
            for value in ["6.6.6.6", "for=6.6.6.6", "", "for=\"", "https"] {
                assert_told(STRANGER, &[(name, value), (name, "6.6.6.6, 7.7.7.7")], ALL, &OF_THE_STRANGER);
                assert_told(STRANGER, &[(name, value)], NONE, &[("x-request-id", "made")]);
            }
        }
    }

    #[test]
    fn all_else_stays_in_its_order() {
        let others = [
            ("cookie", "a"),
            ("cookie", "b"),
            ("forwarded-by", "c"),
            ("x-forward", "d"),
            ("x-real-ip2", "e"),
            ("xforwarded-for", "f"),
            ("x_request", "g"),
        ];
        assert_told(STRANGER, &others, ALL, &[&others, &OF_THE_STRANGER[..]].concat());
    }

    #[test]
    fn what_is_switched_off_is_told_by_nobody() {
        let received = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/a"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("via", "1.1 other"),
        ];
        let others = [("via", "1.1 other"), ("x-request-id", "made")];
        assert_told(PROXY, &received, NONE, &others);
        assert_told(STRANGER, &received, NONE, &others);
        assert_told(
            PROXY,
            &received,
            Forwarded { x_real_ip: true, ..NONE },
            &[&others[..], &[("x-real-ip", "1.1.1.1")]].concat(),
        );
        let forwarded = ("forwarded", "for=1.1.1.1, for=10.0.0.1;host=\"a:8080\";proto=http");
        assert_told(PROXY, &received, Forwarded { forwarded: true, ..NONE }, &[&others[..], &[forwarded]].concat());
        assert_told(
            PROXY,
            &received,
            Forwarded { x_forwarded: true, ..NONE },
            &[
                &others[..],
                &[
                    ("x-forwarded-for", "1.1.1.1, 10.0.0.1"),
                    ("x-forwarded-host", "a:8080"),
                    ("x-forwarded-prefix", "/a"),
                    ("x-forwarded-proto", "https"),
                ],
            ]
            .concat(),
        );
    }

    #[test]
    fn a_trusted_proxys_facts_are_kept_and_its_chains_go_on() {
        let ours = r#"for=10.0.0.1;host="a:8080";proto=http"#;
        assert_proxied(
            &[],
            &[("forwarded", ours), ("x-forwarded-for", PROXY), ("x-real-ip", PROXY), ("x-forwarded-port", "80")],
        );
        assert_proxied(
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-proto", "HTTPS"),
                ("x-forwarded-host", "b"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-client-cert", "Hash=x"),
                ("forwarded", "for=6.6.6.6, for=1.1.1.1;by=_x"),
                ("forwarded", ""),
                ("x-real-ip", "6.6.6.6"),
                ("x_forwarded_for", "6.6.6.6"),
                ("x_forwarded-proto", "ftp"),
                ("via", "1.0 other"),
            ],
            &[
                ("x-forwarded-for", "6.6.6.6, 1.1.1.1, 10.0.0.1"),
                ("x-forwarded-proto", "HTTPS"),
                ("x-forwarded-host", "b"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-client-cert", "Hash=x"),
                ("forwarded", &format!("for=6.6.6.6, for=1.1.1.1;by=_x, {ours}")),
                ("x-real-ip", "1.1.1.1"),
                ("x_forwarded_for", ""),
                ("x_forwarded-proto", ""),
                ("via", "1.0 other | 1.1 gw-1"),
            ],
        );
    }

    #[test]
    fn both_chains_name_the_client_that_was_believed() {
        let ours = r#"for=10.0.0.1;host="a:8080";proto=http"#;
        for (received, x_forwarded_for, forwarded) in [
            (&[("x-forwarded-for", "1.1.1.1")][..], "1.1.1.1, 10.0.0.1", "for=1.1.1.1, "),
            (&[("forwarded", "for=1.1.1.1")], "1.1.1.1, 10.0.0.1", "for=1.1.1.1, "),
            (
                &[("x-forwarded-for", "6.6.6.6, ::2"), ("forwarded", "for=6.6.6.6")],
                "6.6.6.6, ::2, 10.0.0.1",
                r#"for="[::2]", "#,
            ),
            (&[("x-forwarded-for", "unknown"), ("forwarded", "for=6.6.6.6")], "unknown, 10.0.0.1", ""),
            (
                &[("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=\", for=1.1.1.1")],
                "1.1.1.1, 10.0.0.1",
                "for=1.1.1.1, ",
            ),
            (
                &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "wss"), ("x-forwarded-host", "b:1")],
                "1.1.1.1, 10.0.0.1",
                r#"for=1.1.1.1;host="b:1";proto=https, "#,
            ),
            (&[("x-forwarded-proto", "https")], "10.0.0.1", "for=unknown;proto=https, "),
        ] {
            assert_proxied(
                received,
                &[("x-forwarded-for", x_forwarded_for), ("forwarded", &format!("{forwarded}{ours}"))],
            );
        }
    }

    #[test]
    fn proto_host_and_port_fit_together() {
        for (received, proto, host, port) in [
            (&[][..], "http", "a:8080", "80"),
            (&[("x-forwarded-proto", "https")], "https", "a:8080", ""),
            (&[("x-forwarded-host", "b")], "http", "b", ""),
            (&[("x-forwarded-port", "8443")], "http", "a:8080", "8443"),
            (&[("x-forwarded-proto", "ws"), ("x-forwarded-port", "1")], "http", "a:8080", "1"),
            (&[("x-forwarded-proto", "WSS")], "https", "a:8080", ""),
            (&[("x-forwarded-proto", "")], "http", "a:8080", "80"),
            // A client's line, and below it the proxy's.
            (&[("x-forwarded-proto", "forged"), ("x-forwarded-proto", "https")], "https", "a:8080", ""),
            (&[("forwarded", "for=1.1.1.1;proto=wss;host=\"b:1\"")], "https", "b:1", ""),
            (&[("forwarded", "for=6.6.6.6;proto=ftp, for=1.1.1.1")], "http", "a:8080", "80"),
            (&[("forwarded", "for=1.1.1.1;proto=https"), ("x-forwarded-for", "1.1.1.1")], "http", "a:8080", "80"),
            (&[("forwarded", "for=1.1.1.1;host=\"b\\c\"")], "http", "a:8080", "80"),
        ] {
            let expected = [("x-forwarded-proto", proto), ("x-forwarded-host", host), ("x-forwarded-port", port)];
            assert_proxied(received, &expected);
        }
    }

    #[test]
    fn an_id_is_kept_from_a_trusted_proxy_when_it_is_one() {
        let longest = "x".repeat(128);
        for (ids, kept) in [
            (&["a"][..], Some("a")),
            (&["f81d4fae-7dec-11d0_a765=\"!~"], Some("f81d4fae-7dec-11d0_a765=\"!~")),
            (&[&longest], Some(longest.as_str())),
            (&[], None),
            (&[""], None),
            (&["a b"], None),
            (&["a\tb"], None),
            (&["\u{e9}"], None),
            (&["a", "a"], None),
            (&[&format!("{longest}x")], None),
        ] {
            let received: Vec<_> = ids.iter().map(|id| ("X-Request-ID", *id)).collect();
            let mut headers = map(&[("x_request_id", "b")]);
            for (_, value) in &received {
                headers.append(&X_REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            for (peer, expected) in [(PROXY, kept), (STRANGER, None)] {
                let client = Client::find(peer.parse().unwrap(), &headers, &["10.0.0.0/8".parse().unwrap()]);
                assert_eq!(id(&headers, &client), expected, "{ids:?} from {peer}");
            }
            let headers = told(PROXY, headers, NONE);
            assert_eq!(lines(&headers), [("x-request-id", "made")]);
        }
    }

    #[test]
    fn a_request_that_was_here_is_known_by_its_via() {
        for (via, expected) in [
            (&[][..], false),
            (&["1.1 gw-1"], true),
            (&["1.1 GW-1"], true),
            (&["HTTP/1.1 gw-1"], true),
            (&["1.0 fred, 1.1 gw-1 (Apache/1.1)"], true),
            (&["1.0 fred", "1.1\tgw-1 , 2.0 other"], true),
            (&["1.1 gw-10"], false),
            (&["1.1 gw"], false),
            (&["1.1 gw-1:80"], false),
            (&["gw-1"], false),
            (&["gw-1 1.1"], false),
            (&["1.1 other (gw-1)"], false),
            (&["1.1 other gw-1"], false),
            (&["", ",, ,"], false),
        ] {
            let lines: Vec<_> = via.iter().map(|line| ("Via", *line)).collect();
            assert_eq!(is_loop(&map(&lines), "gw-1"), expected, "{via:?}");
        }
        assert!(is_loop(&told(STRANGER, HeaderMap::new(), ALL), "Gw-1"));
        assert!(!is_loop(&told(STRANGER, HeaderMap::new(), NONE), "gw-1"));
    }

    #[test]
    fn via_tells_the_version_that_was_received() {
        for (received, expected) in
            [(Version::HTTP_10, "1.0"), (Version::HTTP_11, "1.1"), (Version::HTTP_2, "2.0"), (Version::HTTP_3, "3.0")]
        {
            assert_eq!(version(received), expected);
        }
    }

    #[test]
    fn a_chain_that_connection_named_is_begun_anew() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let received = map(&[("x-forwarded-for", "1.1.1.1")]);
        let client = Client::find(PROXY.parse().unwrap(), &received, &trusted);
        let host = HeaderValue::from_static("a");
        let id = HeaderValue::from_static("made");
        let (scheme, version) = (Scheme::Https, Version::HTTP_11);
        let told = Told {
            client,
            trusted: &trusted,
            scheme,
            host: &host,
            port: 443,
            name: "gw-1",
            version,
            certificate: None,
            id,
        };
        let mut stripped = HeaderMap::new();
        towards_backend(&mut stripped, told, Forwarded { x_forwarded: true, ..NONE });
        assert_eq!(stripped["x-forwarded-for"], "1.1.1.1, 10.0.0.1");
        assert_eq!(stripped["x-forwarded-proto"], "https");
    }

    /// The variable in which a CGI backend finds a header, as the most generous server makes it.
    fn variable(name: &str) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        name.chars().map(letter).collect()
    }

    fn is_ours(name: &str) -> bool {
        let name = variable(name);
        name.starts_with("X_FORWARDED_") || ["FORWARDED", "X_REAL_IP", "X_REQUEST_ID"].contains(&name.as_str())
    }

    prop_compose! {
        fn name()(name in prop_oneof![
            "[xX][-_.~][fF]orwarded[-_.|][fF]or",
            "[xX][-_]FORWARDED[-_](Proto|host|PORT|prefix|ssl|Client[-_]Cert|[a-z_-]{1,5})",
            "[fF]or[wW]arded",
            "[xX][-_][rR]eal[-_!]ip",
            "x[-_]Request[-_]ID",
            "via|cookie|te|[a-z_-]{1,8}",
        ]) -> String { name }
    }

    prop_compose! {
        fn line()(name in name(), value in prop_oneof![
            prop::collection::vec(prop_oneof![Just(9), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..40),
            r#"(for=|host=|proto=|6\.6\.6\.6|10\.0\.0\.1|"|\\|,|;| |\[::1\]|wss|1\.1 gw-1){0,12}"#
                .prop_map(String::into_bytes),
        ]) -> (HeaderName, HeaderValue) {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(&value).unwrap())
        }
    }

    prop_compose! {
        fn received()(lines in prop::collection::vec(line(), 0..8)) -> HeaderMap {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value);
            }
            headers
        }
    }

    prop_compose! {
        fn what()(x_forwarded: bool, forwarded: bool, x_real_ip: bool, via: bool) -> Forwarded {
            Forwarded { x_forwarded, forwarded, x_real_ip, via }
        }
    }

    /// Only the headers that a backend believes.
    fn ours(headers: &HeaderMap) -> Vec<(String, HeaderValue)> {
        let ours = headers.iter().filter(|(name, _)| is_ours(name.as_str()));
        let mut ours: Vec<_> = ours.map(|(name, value)| (name.to_string(), value.clone())).collect();
        ours.sort();
        ours
    }

    proptest! {
        #[test]
        fn a_stranger_says_nothing_but_its_address_and_host(received in received(), what in what()) {
            let silent = told(STRANGER, HeaderMap::new(), what);
            let talking = told(STRANGER, received, what);
            prop_assert_eq!(ours(&talking), ours(&silent));
        }

        #[test]
        fn a_proxys_chains_leave_as_one_line_and_name_the_client(received in received(), what in what()) {
            let trusted = ["10.0.0.0/8".parse().unwrap()];
            let before = Client::find(PROXY.parse().unwrap(), &received, &trusted);
            let headers = told(PROXY, received, what);
            for (name, _) in ours(&headers) {
                let single = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-request-id"];
                prop_assert!(!name.contains('_'));
                prop_assert!(!single.contains(&name.as_str()) || headers.get_all(&name).iter().count() == 1);
            }
            // Another gateway behind us finds the same client, by either chain.
            if what.x_forwarded || what.forwarded {
                let after = Client::find("10.0.0.2".parse().unwrap(), &headers, &trusted);
                prop_assert_eq!(after.address, before.address);
            }
            if what.x_forwarded && what.forwarded {
                let mut headers = headers;
                headers.remove("x-forwarded-for");
                let after = Client::find("10.0.0.2".parse().unwrap(), &headers, &trusted);
                prop_assert_eq!(after.address, before.address);
            }
        }
    }
}
