//! What a request is for: RFC 9112 section 3.2 (the request target) and 3.3 (Host against the target's authority).

use std::error::Error;
use std::fmt;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::host::{Host, HostError};
use super::path::{Path, PathError};

/// A request's target, understood. What is matched, decided and forwarded are the bytes in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// How the target was written.
    pub form: Form,
    /// The host, from the target when it names one, else from the Host line.
    pub host: Host,
    /// The path and the query.
    pub path: Path,
}

/// How a target was written. Authority-form belongs to CONNECT and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`.
    Origin,
    /// `http://host/path?query`, as to a proxy. Its authority replaces Host.
    Absolute,
    /// `*`, with OPTIONS: the server itself is meant.
    Asterisk,
}

/// Why a target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetError {
    /// The Host lines are not one well-formed host.
    Host(HostError),
    /// CONNECT. hyper would make a tunnel of any 2xx to it: an open proxy by accident.
    Connect,
    /// TRACE. It would answer with the headers that this gateway adds.
    Trace,
    /// Authority-form, with another method than CONNECT.
    AuthorityForm,
    /// `*` with another method than OPTIONS.
    Asterisk,
    /// Absolute-form with a scheme that is none of http, https, ws and wss.
    Scheme,
    /// The authority of the absolute-form is no well-formed host.
    Authority(HostError),
    /// The path is malformed.
    Path(PathError),
}

impl Target {
    /// Reads the target. Host is judged first: what a request without a sound one means, nobody can say.
    pub fn parse(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, TargetError> {
        // Also when an absolute-form replaces it: RFC 9112 section 3.2 asks for 400 on any request without exactly one.
        let host = host_line(headers).map_err(TargetError::Host)?;
        refuse_method(method)?;
        let received = uri.path_and_query().ok_or(TargetError::AuthorityForm)?;
        let (form, host) = match uri.authority() {
            Some(authority) => {
                check_scheme(uri)?;
                (Form::Absolute, authority_host(authority.as_str()).map_err(TargetError::Authority)?)
            }
            None if received == "*" && method == Method::OPTIONS => (Form::Asterisk, host),
            None if received == "*" => return Err(TargetError::Asterisk),
            None => (Form::Origin, host),
        };
        // `OPTIONS http://host` should become `OPTIONS *` (RFC 9112 section 3.2.4); `Uri` does not tell it from "/".
        let path = Path::parse(received).map_err(TargetError::Path)?;
        Ok(Self { form, host, path })
    }

    /// What is forwarded, in origin-form (or `*`). No copy is made unless reading changed the path.
    pub fn path_and_query(&self) -> PathAndQuery {
        self.path.forwarded().clone()
    }

    /// The path and, where there is one, `?` and the query, as forwarded: `{uri}` of templates.
    pub fn uri(&self) -> &str {
        self.path.forwarded().as_str()
    }

    /// The query without `?`; empty where there is none: `{query}` of templates.
    pub fn query(&self) -> &str {
        self.path.query().unwrap_or_default()
    }
}

fn host_line(headers: &HeaderMap) -> Result<Host, HostError> {
    let mut lines = headers.get_all(header::HOST).iter();
    let line = lines.next().ok_or(HostError::Missing)?;
    match lines.next() {
        Some(_) => Err(HostError::Several),
        None => Host::parse(line),
    }
}

fn refuse_method(method: &Method) -> Result<(), TargetError> {
    match *method {
        Method::CONNECT => Err(TargetError::Connect),
        Method::TRACE => Err(TargetError::Trace),
        _ => Ok(()),
    }
}

/// The scheme says nothing about how the client came: a TLS terminator in front leaves "https" on a plain connection.
fn check_scheme(uri: &Uri) -> Result<(), TargetError> {
    let known = |scheme: &str| ["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    if uri.scheme_str().is_some_and(known) { Ok(()) } else { Err(TargetError::Scheme) }
}

fn authority_host(authority: &str) -> Result<Host, HostError> {
    Host::parse(&HeaderValue::from_str(authority).map_err(|_| HostError::Character)?)
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host(HostError::Missing) => "no Host",
            Self::Host(_) => "malformed Host",
            Self::Connect => "CONNECT is not served",
            Self::Trace => "TRACE is not served",
            Self::AuthorityForm => "the target is an authority",
            Self::Asterisk => "the target * is for OPTIONS only",
            Self::Scheme => "the target's scheme is not served",
            Self::Authority(_) => "malformed authority in the target",
            Self::Path(_) => "malformed path",
        })
    }
}

impl Error for TargetError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Host(error) | Self::Authority(error) => Some(error),
            Self::Path(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(method: &str, uri: &str, hosts: &[&str]) -> Result<Target, TargetError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        Target::parse(&method.parse().unwrap(), &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn host_is_judged_before_method_and_target() {
        for (hosts, error) in [
            (&[][..], HostError::Missing),
            (&["a", "a"], HostError::Several),
            (&["a", "b"], HostError::Several),
            (&[""], HostError::Empty),
            (&["a b"], HostError::Character),
            (&["a/b@c"], HostError::UserInfo),
            (&["a:x"], HostError::Port),
            (&["[::g]"], HostError::Address),
        ] {
            for (method, uri) in [
                ("GET", "/"),
                ("GET", "/%zz"),
                ("GET", "http://sound.example/"),
                ("CONNECT", "a:443"),
                ("TRACE", "/"),
                ("GET", "*"),
            ] {
                assert_eq!(parse(method, uri, hosts), Err(TargetError::Host(error)), "{method} {uri} {hosts:?}");
            }
        }
    }

    #[test]
    fn each_form_is_taken_or_refused() {
        for (method, uri, expected) in [
            ("GET", "/a?b", Ok((Form::Origin, "host.example", "/a?b"))),
            ("GET", "//other.example/a", Ok((Form::Origin, "host.example", "//other.example/a"))),
            ("OPTIONS", "/", Ok((Form::Origin, "host.example", "/"))),
            ("GET", "/*", Ok((Form::Origin, "host.example", "/*"))),
            ("connect", "/", Ok((Form::Origin, "host.example", "/"))),
            ("GET", "http://T.example./a?b", Ok((Form::Absolute, "t.example", "/a?b"))),
            ("GET", "https://t.example:1/", Ok((Form::Absolute, "t.example", "/"))),
            ("GET", "ws://t.example", Ok((Form::Absolute, "t.example", "/"))),
            ("GET", "WSS://t.example?q", Ok((Form::Absolute, "t.example", "/?q"))),
            ("GET", "HTTP://[::1]:80/a/../b", Ok((Form::Absolute, "[::1]", "/b"))),
            ("OPTIONS", "*", Ok((Form::Asterisk, "host.example", "*"))),
            ("OPTIONS", "http://t.example", Ok((Form::Absolute, "t.example", "/"))),
            ("GET", "*", Err(TargetError::Asterisk)),
            ("options", "*", Err(TargetError::Asterisk)),
            ("CONNECT", "a.example:443", Err(TargetError::Connect)),
            ("CONNECT", "/", Err(TargetError::Connect)),
            ("TRACE", "/", Err(TargetError::Trace)),
            ("GET", "a.example:443", Err(TargetError::AuthorityForm)),
            ("GET", "a", Err(TargetError::AuthorityForm)),
            ("OPTIONS", "a.example", Err(TargetError::AuthorityForm)),
            ("GET", "ftp://a.example/", Err(TargetError::Scheme)),
            ("GET", "httpx://a.example/", Err(TargetError::Scheme)),
            ("GET", "http://user@a.example/", Err(TargetError::Authority(HostError::UserInfo))),
            ("GET", "http://u:p@a.example/", Err(TargetError::Authority(HostError::UserInfo))),
            ("GET", "http://:80/", Err(TargetError::Authority(HostError::Empty))),
            ("GET", "http://a..b/", Err(TargetError::Authority(HostError::Label))),
            ("GET", "http://a,b/", Err(TargetError::Authority(HostError::Character))),
            ("GET", "http://[::g]/", Err(TargetError::Authority(HostError::Address))),
            ("GET", "http://a:99999/", Err(TargetError::Authority(HostError::Port))),
            ("GET", "/%zz", Err(TargetError::Path(PathError::Escape))),
            ("GET", "/%00", Err(TargetError::Path(PathError::Nul))),
        ] {
            let target = parse(method, uri, &["Host.Example:8080"]);
            let seen = target.as_ref().map(|t| (t.form, &*t.host.name, t.uri())).map_err(|&error| error);
            assert_eq!(seen, expected, "{method} {uri}");
        }
    }

    #[test]
    fn a_fragment_goes_no_further() {
        for (uri, forwarded) in [("/a#b", "/a"), ("/a?b#c", "/a?b"), ("/a#b?c", "/a"), ("http://t.example/#/../x", "/")]
        {
            assert_eq!(parse("GET", uri, &["a"]).unwrap().path_and_query(), forwarded);
        }
    }

    #[test]
    fn the_backend_sees_the_clients_own_spelling_of_the_host_that_was_matched() {
        assert_eq!(parse("GET", "/", &["Host.Example.:80"]).unwrap().host.value(), "Host.Example.:80");
        let absolute = parse("GET", "http://T.Example:81/", &["Host.Example"]).unwrap();
        assert_eq!((absolute.host.value().as_bytes(), absolute.host.port), (&b"T.Example:81"[..], Some(81)));
    }

    #[test]
    fn placeholders_have_their_values() {
        let target = parse("GET", "/a/../%62?c=%64", &["A:80"]).unwrap();
        assert_eq!((&*target.host.name, target.path.strict()), ("a", "/b"));
        assert_eq!((target.query(), target.uri()), ("c=%64", "/b?c=%64"));
        let bare = parse("GET", "/a", &["a"]).unwrap();
        assert_eq!((bare.query(), bare.uri()), ("", "/a"));
    }

    #[test]
    fn an_error_says_its_own_level_only() {
        let error = parse("GET", "/", &["a b"]).unwrap_err();
        assert_eq!(error.to_string(), "malformed Host");
        assert_eq!(error.source().unwrap().to_string(), "the host holds an illegal character");
    }

    proptest! {
        #[test]
        fn no_uri_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 1..40), prefix in "(/|http://a/|http://|)") {
            let text = [prefix.as_bytes(), &bytes].concat();
            if let Ok(uri) = Uri::try_from(text) {
                let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("a"))]);
                for method in [Method::GET, Method::OPTIONS] {
                    if let Ok(target) = Target::parse(&method, &uri, &headers) {
                        prop_assert!(target.uri().starts_with('/') || target.form == Form::Asterisk);
                    }
                }
            }
        }

        #[test]
        fn no_host_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes)
                && let Ok(host) = Host::parse(&value)
            {
                prop_assert_eq!(Host::parse(&HeaderValue::from_str(&host.name).unwrap()).unwrap().name, host.name);
            }
        }
    }
}
