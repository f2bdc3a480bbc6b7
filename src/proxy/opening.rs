//! The opening handshake: is a request an upgrade (RFC 9110 section 7.8), and if one to WebSocket, a sound one (RFC 6455
//! sections 4.2.1 and 4.2.2), and is the backend's 101 the answer to it.
//!
//! hyper offers an upgrade on the `Upgrade` header alone and looks at nothing else, so all of it is looked at here.

use std::error::Error;
use std::fmt;

use aws_lc_rs::digest;
use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderMap, HeaderValue, Method, Version, header};

use super::framing::{self, BodyLength};
use super::headers::{has_token, only, tokens};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// An answer.
    Plain,
    /// To go on in another protocol.
    Upgrade(UpgradeRequest),
}

/// A request to upgrade that has passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeRequest {
    token: HeaderValue,
    websocket: Option<Offer>,
}

/// What a WebSocket client offers, and the proof that it expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Sec-WebSocket-Accept that answers its key.
    pub accept: HeaderValue,
    /// Subprotocols, in its order of preference.
    pub protocols: Vec<Box<str>>,
    /// Names of extensions; one may stand there several times, with other parameters.
    pub extensions: Vec<Box<str>>,
}

/// Why a request to upgrade is refused. One that is no such request is not refused but [`Ask::Plain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpeningError {
    /// WebSocket with another method than GET (RFC 6455 section 4.2.1, 1).
    Method,
    /// The request has a body: what of it arrives late would be taken for the tunnel's first bytes.
    Body,
    /// Not exactly one Sec-WebSocket-Version, of 13 (RFC 6455 section 4.2.1, 6).
    Version,
    /// Not exactly one Sec-WebSocket-Key, of 16 bytes in base64 (RFC 6455 section 4.2.1, 5).
    Key,
}

/// Why a 101 is not the answer to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerError {
    /// Upgrade does not name the one token that was asked for (RFC 6455 section 4.1, 2).
    Upgrade,
    /// Connection lacks `upgrade` (RFC 6455 section 4.1, 3).
    Connection,
    /// Sec-WebSocket-Accept is missing, repeated or wrong (RFC 6455 section 4.1, 4).
    Accept,
    /// An extension that was not offered (RFC 6455 section 4.1, 5).
    Extension,
    /// A subprotocol that was not offered, or several (RFC 6455 section 4.1, 6).
    Subprotocol,
}

impl Ask {
    /// Reads what is asked for, where the tokens of `allowed` may upgrade.
    ///
    /// A client may offer several protocols, the best first (RFC 9110 section 7.8): the first that is allowed is taken.
    /// None allowed is no error: the header may be ignored, and `curl --http2` sends h2c with every GET.
    pub fn parse(
        version: Version,
        method: &Method,
        headers: &HeaderMap,
        allowed: &[Box<str>],
    ) -> Result<Self, OpeningError> {
        if !may_upgrade(version, headers) {
            return Ok(Self::Plain);
        }
        let is_allowed = |token: &&[u8]| allowed.iter().any(|allowed| token.eq_ignore_ascii_case(allowed.as_bytes()));
        match tokens(headers, &header::UPGRADE).find(is_allowed) {
            Some(token) => UpgradeRequest::parse(token, version, method, headers).map(Self::Upgrade),
            None => Ok(Self::Plain),
        }
    }
}

/// Whether it is an opening handshake, a right one or not, by the head alone.
pub fn asks_for_websocket(version: Version, headers: &HeaderMap) -> bool {
    may_upgrade(version, headers) && has_token(headers, &header::UPGRADE, "websocket")
}

/// "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request" (RFC 9110 section 7.8).
fn may_upgrade(version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11 && has_token(headers, &header::CONNECTION, "upgrade")
}

impl UpgradeRequest {
    fn parse(token: &[u8], version: Version, method: &Method, headers: &HeaderMap) -> Result<Self, OpeningError> {
        let websocket = token.eq_ignore_ascii_case(b"websocket");
        if websocket && method != Method::GET {
            return Err(OpeningError::Method);
        }
        if !matches!(framing::request_body(version, headers), Ok(BodyLength::Empty | BodyLength::Known(0))) {
            return Err(OpeningError::Body);
        }
        let websocket = if websocket { Some(Offer::parse(headers)?) } else { None };
        let token = HeaderValue::from_bytes(token).expect("a piece of a header's value is a header's value");
        Ok(Self { token, websocket })
    }

    /// The protocol that is asked for, in the client's spelling.
    pub fn token(&self) -> &HeaderValue {
        &self.token
    }

    /// The WebSocket part; `None` when another protocol is asked for.
    pub fn websocket(&self) -> Option<&Offer> {
        self.websocket.as_ref()
    }

    /// Checks the headers of a 101: a backend that switched to something else, or did not mean to switch, must not be
    /// handed a client's bytes.
    pub fn check_answer(&self, headers: &HeaderMap) -> Result<(), AnswerError> {
        let mut named = tokens(headers, &header::UPGRADE);
        let is_asked = named.next().is_some_and(|token| token.eq_ignore_ascii_case(self.token.as_bytes()));
        if !is_asked || named.next().is_some() {
            return Err(AnswerError::Upgrade);
        }
        if !has_token(headers, &header::CONNECTION, "upgrade") {
            return Err(AnswerError::Connection);
        }
        self.websocket.as_ref().map_or(Ok(()), |offer| offer.check_answer(headers))
    }
}

impl Offer {
    fn parse(headers: &HeaderMap) -> Result<Self, OpeningError> {
        only(headers, &header::SEC_WEBSOCKET_VERSION)
            .filter(|version| *version == "13")
            .ok_or(OpeningError::Version)?;
        let key = only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).ok_or(OpeningError::Key)?;
        // What is no text is no token; it is passed on, and an answer that takes it up is refused.
        let text = |token| Some(str::from_utf8(token).ok()?.into());
        Ok(Self {
            accept: accept_for(key),
            protocols: tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).filter_map(text).collect(),
            extensions: extension_names(headers).filter_map(text).collect(),
        })
    }

    fn check_answer(&self, headers: &HeaderMap) -> Result<(), AnswerError> {
        if only(headers, &header::SEC_WEBSOCKET_ACCEPT) != Some(&self.accept) {
            return Err(AnswerError::Accept);
        }
        let offered = |names: &[Box<str>], name: &[u8]| names.iter().any(|offered| offered.as_bytes() == name);
        if !extension_names(headers).all(|name| offered(&self.extensions, name)) {
            return Err(AnswerError::Extension);
        }
        let chosen = only(headers, &header::SEC_WEBSOCKET_PROTOCOL);
        if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
            && !chosen.is_some_and(|chosen| offered(&self.protocols, chosen.as_bytes()))
        {
            return Err(AnswerError::Subprotocol);
        }
        Ok(())
    }
}

/// The Sec-WebSocket-Accept that answers a key (RFC 6455 section 4.2.2, 5.4). SHA-1 is a fixed transformation here that
/// shows that the server understood; nothing depends on its strength.
pub fn accept_for(key: &HeaderValue) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = BASE64_STANDARD.encode(context.finish());
    HeaderValue::try_from(accept).expect("base64 is visible ASCII")
}

/// 16 bytes are 22 characters and two of padding. They are not decoded: the last character's four surplus bits, which
/// strict decoders want to be zero, are random with some clients, and every server takes those.
fn is_key(key: &HeaderValue) -> bool {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    matches!(key.as_bytes(), [text @ .., b'=', b'='] if text.len() == 22 && text.iter().all(is_base64))
}

/// The names of Sec-WebSocket-Extensions. A parameter may be a quoted string with commas inside (RFC 6455 section 9.1).
fn extension_names(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(comma_outside_quotes()))
        .filter_map(|element| element.split(|&b| b == b';').next())
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
}

fn comma_outside_quotes() -> impl FnMut(&u8) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    move |&byte| {
        quoted ^= byte == b'"' && !escaped;
        escaped = quoted && byte == b'\\' && !escaped;
        byte == b',' && !quoted
    }
}

impl fmt::Display for OpeningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "an upgrade to WebSocket is a GET",
            Self::Body => "an upgrade request has no body",
            Self::Version => "Sec-WebSocket-Version is not 13",
            Self::Key => "Sec-WebSocket-Key is not 16 bytes in base64",
        })
    }
}

impl Error for OpeningError {}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upgrade => "the 101 names another protocol than was asked for",
            Self::Connection => "the 101 has no Connection: upgrade",
            Self::Accept => "the 101 has no right Sec-WebSocket-Accept",
            Self::Extension => "the 101 names an extension that was not offered",
            Self::Subprotocol => "the 101 names a subprotocol that was not offered",
        })
    }
}

impl Error for AnswerError {}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    type Lines<'a> = &'a [(&'a str, &'a str)];

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const SOUND: Lines<'_> = &[
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    const SWITCHED: Lines<'_> =
        &[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", ACCEPT)];

    fn map(lines: Lines<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn ask(method: &str, lines: Lines<'_>) -> Result<Ask, OpeningError> {
        let allowed = ["websocket".into(), "foo/2".into()];
        Ask::parse(Version::HTTP_11, &method.parse().unwrap(), &map(lines), &allowed)
    }

    fn upgrade(lines: Lines<'_>) -> UpgradeRequest {
        match ask("GET", lines) {
            Ok(Ask::Upgrade(upgrade)) => upgrade,
            other => panic!("no upgrade: {other:?}"),
        }
    }

    /// The sound request, with all lines of some names replaced.
    fn sound_but<'a>(lines: &[(&'a str, &'a str)], without: &[&str]) -> Vec<(&'a str, &'a str)> {
        let stays = |name: &str| !without.contains(&name) && lines.iter().all(|(other, _)| *other != name);
        SOUND.iter().filter(|(name, _)| stays(name)).chain(lines).copied().collect()
    }

    #[test]
    fn the_sample_key_of_rfc_6455_has_its_accept() {
        assert_eq!(accept_for(&HeaderValue::from_static(KEY)), ACCEPT);
    }

    #[test]
    fn http_1_0_is_plain() {
        for version in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_2] {
            let ask = Ask::parse(version, &Method::GET, &map(SOUND), &["websocket".into()]);
            assert_eq!(ask, Ok(Ask::Plain), "{version:?}");
        }
    }

    #[test]
    fn without_both_headers_it_is_plain() {
        for (lines, without) in [
            (&[][..], &["connection"][..]),
            (&[], &["upgrade"]),
            (&[], &["connection", "upgrade"]),
            (&[("connection", "keep-alive")], &[]),
            (&[("connection", "keep-alive"), ("connection", "close")], &[]),
            (&[("connection", "upgrades, xupgrade, up grade")], &[]),
            (&[("connection", "")], &[]),
            (&[("upgrade", "")], &[]),
            (&[("upgrade", ",,")], &[]),
        ] {
            assert_eq!(ask("GET", &sound_but(lines, without)), Ok(Ask::Plain), "{lines:?}");
        }
    }

    #[test]
    fn tokens_are_found_in_any_line_case_and_place() {
        for lines in [
            &[("connection", "upgrade")][..],
            &[("connection", "keep-alive, UPGRADE")],
            &[("connection", "keep-alive"), ("connection", "Upgrade")],
            &[("connection", ",,\tupgrade\t,")],
            &[("upgrade", "WebSocket")],
            &[("upgrade", "h2c, websocket")],
            &[("upgrade", "websocket,h2c")],
            &[("upgrade", "h2c"), ("upgrade", "TLS/1.0,, websocket ,")],
        ] {
            assert!(upgrade(&sound_but(lines, &[])).websocket().is_some(), "{lines:?}");
        }
    }

    #[test]
    fn a_token_that_is_not_listed_is_plain() {
        for token in ["h2c", "TLS/1.0", "foo", "foo/1", "foo/2/3", "websocket/13", "websockets", "web socket", "h2c, x"]
        {
            assert_eq!(ask("GET", &sound_but(&[("upgrade", token)], &[])), Ok(Ask::Plain), "{token}");
            assert_eq!(ask("POST", &sound_but(&[("upgrade", token)], &[])), Ok(Ask::Plain), "POST {token}");
        }
        let nothing = Ask::parse(Version::HTTP_11, &Method::GET, &map(SOUND), &[]);
        assert_eq!(nothing, Ok(Ask::Plain));
    }

    #[test]
    fn of_several_listed_tokens_the_clients_first_is_taken_in_its_spelling() {
        assert_eq!(upgrade(&sound_but(&[("upgrade", "h2c, FOO/2, websocket")], &[])).token(), "FOO/2");
        assert_eq!(upgrade(&sound_but(&[("upgrade", "h2c, WEBsocket, foo/2")], &[])).token(), "WEBsocket");
    }

    #[test]
    fn a_websocket_request_that_breaks_a_rule_is_refused_for_it() {
        let unsound: &[(&str, Lines<'_>, &[&str], OpeningError)] = &[
            ("POST", &[], &[], OpeningError::Method),
            ("HEAD", &[], &[], OpeningError::Method),
            ("get", &[], &[], OpeningError::Method),
            ("POST", &[("content-length", "5")], &["sec-websocket-key"], OpeningError::Method),
            ("GET", &[("content-length", "5")], &[], OpeningError::Body),
            ("GET", &[("content-length", "x")], &[], OpeningError::Body),
            ("GET", &[("content-length", "0"), ("content-length", "1")], &[], OpeningError::Body),
            ("GET", &[("transfer-encoding", "chunked")], &[], OpeningError::Body),
            ("GET", &[("transfer-encoding", "gzip")], &[], OpeningError::Body),
            ("GET", &[("transfer-encoding", "")], &[], OpeningError::Body),
            ("GET", &[("content-length", "5")], &["sec-websocket-version"], OpeningError::Body),
            ("GET", &[], &["sec-websocket-version"], OpeningError::Version),
            ("GET", &[("sec-websocket-version", "13"), ("sec-websocket-version", "13")], &[], OpeningError::Version),
            ("GET", &[("sec-websocket-version", "13, 8")], &[], OpeningError::Version),
            ("GET", &[("sec-websocket-version", "1337")], &[], OpeningError::Version),
            ("GET", &[("sec-websocket-version", "8")], &[], OpeningError::Version),
            ("GET", &[("sec-websocket-version", "013")], &[], OpeningError::Version),
            ("GET", &[("sec-websocket-version", "")], &[], OpeningError::Version),
            ("GET", &[("sec-websocket-version", "8")], &["sec-websocket-key"], OpeningError::Version),
            ("GET", &[], &["sec-websocket-key"], OpeningError::Key),
            ("GET", &[("sec-websocket-key", KEY), ("sec-websocket-key", KEY)], &[], OpeningError::Key),
        ];
        for (method, lines, without, error) in unsound {
            assert_eq!(ask(method, &sound_but(lines, without)), Err(*error), "{method} {lines:?} {without:?}");
        }
    }

    #[test]
    fn a_key_is_16_bytes_in_standard_base64() {
        for (key, sound) in [
            (KEY, true),
            ("AAAAAAAAAAAAAAAAAAAAAA==", true),
            ("+/+/+/+/+/+/+/+/+/+/+w==", true),
            ("AAAAAAAAAAAAAAAAAAAAAB==", true), // surplus bits set
            ("", false),
            ("x", false),
            ("SGVsbG8sIHdvcmxkIQ==", false),      // 13 bytes
            ("AAAAAAAAAAAAAAAAAAAAAAA=", false),  // 17 bytes
            ("AAAAAAAAAAAAAAAAAAAAAAAA", false),  // 18 bytes
            ("AAAAAAAAAAAAAAAAAAAAAA", false),    // no padding
            ("AAAAAAAAAAAAAAAAAAAAAA=", false),   // half of it
            ("AAAAAAAAAAAAAAAAAAAAAA===", false), // too much of it
            ("AAAAAAAAAAAAAAAAAAAA====", false),
            ("-_-_-_-_-_-_-_-_-_-_-w==", false), // the URL alphabet
            ("AAAAAAAAAA AAAAAAAAAAA==", false),
            ("dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==", false),
        ] {
            let expected = if sound { None } else { Some(OpeningError::Key) };
            assert_eq!(ask("GET", &sound_but(&[("sec-websocket-key", key)], &[])).err(), expected, "{key}");
        }
    }

    #[test]
    fn a_length_of_zero_is_no_body() {
        assert!(upgrade(&sound_but(&[("content-length", "0")], &[])).websocket().is_some());
    }

    #[test]
    fn another_listed_token_takes_any_method_and_no_body() {
        let lines = [("connection", "upgrade"), ("upgrade", "foo/2")];
        for method in ["GET", "POST", "BREW"] {
            let Ok(Ask::Upgrade(upgrade)) = ask(method, &lines) else { panic!("{method}") };
            assert_eq!((upgrade.token().as_bytes(), upgrade.websocket()), (&b"foo/2"[..], None));
        }
        for body in [("content-length", "1"), ("transfer-encoding", "chunked")] {
            assert_eq!(ask("POST", &[&lines[..], &[body]].concat()), Err(OpeningError::Body));
        }
    }

    #[test]
    fn offers_are_read_from_all_lines() {
        let lines = sound_but(
            &[
                ("sec-websocket-protocol", "chat, superchat"),
                ("sec-websocket-protocol", ",v2.mqtt,"),
                (
                    "sec-websocket-extensions",
                    "permessage-deflate; client_max_window_bits, x-a;p=\"1,x-no;\\\",x-no\" , x-b",
                ),
                ("sec-websocket-extensions", "permessage-deflate"),
            ],
            &[],
        );
        let upgrade = upgrade(&lines);
        let offer = upgrade.websocket().unwrap();
        assert_eq!(offer.accept, ACCEPT);
        assert_eq!(offer.protocols, ["chat", "superchat", "v2.mqtt"].map(Box::from));
        assert_eq!(offer.extensions, ["permessage-deflate", "x-a", "x-b", "permessage-deflate"].map(Box::from));
    }

    #[test]
    fn a_101_must_answer_what_was_asked() {
        let asked = upgrade(&sound_but(
            &[
                ("upgrade", "WebSocket, h2c"),
                ("sec-websocket-protocol", "chat, superchat"),
                ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits, x-a"),
            ],
            &[],
        ));
        let with = |lines: Lines<'static>| {
            let stays = |name: &str| lines.iter().all(|(other, _)| *other != name);
            let merged: Vec<_> = SWITCHED.iter().filter(|(name, _)| stays(name)).chain(lines).copied().collect();
            asked.check_answer(&map(&merged))
        };
        for (lines, expected) in [
            (&[][..], Ok(())),
            (&[("upgrade", "WEBSOCKET"), ("connection", "keep-alive, UPGRADE")], Ok(())),
            (&[("connection", "keep-alive"), ("connection", "upgrade")], Ok(())),
            (&[("upgrade", ",websocket,")], Ok(())),
            (&[("upgrade", "")], Err(AnswerError::Upgrade)),
            (&[("upgrade", "h2c")], Err(AnswerError::Upgrade)),
            (&[("upgrade", "websocket/13")], Err(AnswerError::Upgrade)),
            (&[("upgrade", "websocket, h2c")], Err(AnswerError::Upgrade)),
            (&[("upgrade", "h2c, websocket")], Err(AnswerError::Upgrade)),
            (&[("upgrade", "websocket"), ("upgrade", "h2c")], Err(AnswerError::Upgrade)),
            (&[("connection", "")], Err(AnswerError::Connection)),
            (&[("connection", "close")], Err(AnswerError::Connection)),
            (&[("sec-websocket-accept", "")], Err(AnswerError::Accept)),
            (&[("sec-websocket-accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")], Err(AnswerError::Accept)),
            (&[("sec-websocket-accept", ACCEPT), ("sec-websocket-accept", ACCEPT)], Err(AnswerError::Accept)),
            (&[("sec-websocket-protocol", "superchat")], Ok(())),
            (&[("sec-websocket-protocol", "Chat")], Err(AnswerError::Subprotocol)),
            (&[("sec-websocket-protocol", "other")], Err(AnswerError::Subprotocol)),
            (&[("sec-websocket-protocol", "")], Err(AnswerError::Subprotocol)),
            (&[("sec-websocket-protocol", "chat, superchat")], Err(AnswerError::Subprotocol)),
            (&[("sec-websocket-protocol", "chat"), ("sec-websocket-protocol", "chat")], Err(AnswerError::Subprotocol)),
            (&[("sec-websocket-extensions", "permessage-deflate; server_no_context_takeover")], Ok(())),
            (&[("sec-websocket-extensions", "x-a"), ("sec-websocket-extensions", "permessage-deflate")], Ok(())),
            (&[("sec-websocket-extensions", "x-b")], Err(AnswerError::Extension)),
            (&[("sec-websocket-extensions", "x-a, x-b")], Err(AnswerError::Extension)),
            (&[("sec-websocket-extensions", "x-a"), ("sec-websocket-extensions", "x-b")], Err(AnswerError::Extension)),
            (&[("sec-websocket-extensions", "x-a; p=\"\\\"\", x-b")], Err(AnswerError::Extension)),
            (&[("sec-websocket-extensions", "\u{e9}")], Err(AnswerError::Extension)),
        ] {
            assert_eq!(with(lines), expected, "{lines:?}");
        }
        assert_eq!(asked.check_answer(&HeaderMap::new()), Err(AnswerError::Upgrade), "a bare 101");
    }

    #[test]
    fn a_101_that_takes_up_what_nobody_offered_is_refused() {
        let asked = upgrade(SOUND);
        assert_eq!(asked.check_answer(&map(SWITCHED)), Ok(()));
        let protocol = [SWITCHED, &[("sec-websocket-protocol", "chat")]].concat();
        assert_eq!(asked.check_answer(&map(&protocol)), Err(AnswerError::Subprotocol));
        let extension = [SWITCHED, &[("sec-websocket-extensions", "permessage-deflate")]].concat();
        assert_eq!(asked.check_answer(&map(&extension)), Err(AnswerError::Extension));
    }

    #[test]
    fn the_101_to_another_token_needs_that_token_and_no_accept() {
        let asked = upgrade(&[("connection", "upgrade"), ("upgrade", "foo/2")]);
        for (token, expected) in [
            ("foo/2", Ok(())),
            ("FOO/2", Ok(())),
            ("foo", Err(AnswerError::Upgrade)),
            ("websocket", Err(AnswerError::Upgrade)),
        ] {
            assert_eq!(asked.check_answer(&map(&[("connection", "upgrade"), ("upgrade", token)])), expected, "{token}");
        }
    }
}
