//! Headers that concern one connection only (RFC 9110 section 7.6.1): they end here, both ways, and the gateway sets its
//! own in their place.
//!
//! "Intermediaries MUST parse a received Connection header field before a message is forwarded and, for each
//! connection-option in this field, remove any header or trailer field(s) from the message with the same name."

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::forwarded;
use super::opening::Ask;

/// What an answer's head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An ordinary answer.
    Response,
    /// A 101 that has passed [`UpgradeRequest::check_answer`](super::opening::UpgradeRequest::check_answer).
    Switching,
}

/// Makes a request's headers those that a backend is sent: hop-by-hop headers out, `host` as the only Host, and the
/// upgrade with its one token. Framing is set afterwards, by [`framing::set`](super::framing::set).
pub fn towards_backend(headers: &mut HeaderMap, ask: &Ask, host: HeaderValue) {
    let trailers = accepts_trailers(headers);
    match ask {
        Ask::Plain => {
            strip(headers, is_framing);
            if trailers {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
        }
        // Without TE: an upgrade has no body, and a backend that refuses it can do without trailers.
        Ask::Upgrade(upgrade) => {
            strip(headers, is_framing_or_opening);
            switch(headers, upgrade.token().clone());
        }
    }
    headers.insert(header::HOST, host);
}

/// Whether the client waits with its body for a 100 (RFC 9110 section 10.1.1).
pub fn expects_continue(head: &Parts) -> bool {
    let asks = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    head.version == Version::HTTP_11 && head.headers.get_all(header::EXPECT).iter().any(asks)
}

/// Makes an answer's headers those that the client is sent. A 101 keeps its `Upgrade`, under our own `Connection`.
pub fn towards_client(headers: &mut HeaderMap, answer: Answer) {
    match answer {
        Answer::Response => strip(headers, is_framing),
        Answer::Switching => {
            let token = headers.get(header::UPGRADE).cloned();
            strip(headers, is_framing_or_opening);
            if let Some(token) = token {
                switch(headers, token);
            }
        }
    }
}

/// The elements of a comma-separated header, over all its lines, without the empty ones (RFC 9110 section 5.6.1.2).
/// Not for headers whose elements may hold quoted strings.
pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|&b| b == b',')).map(<[u8]>::trim_ascii).filter(|t| !t.is_empty())
}

/// Whether `wanted` is among the elements of a header, in any case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The value of a header that has exactly one line.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    lines.next().filter(|_| lines.next().is_none())
}

static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

fn switch(headers: &mut HeaderMap, token: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, token);
}

/// Takes out of Trailer what must not leave here behind a body either: hyper writes those trailers that it names, and no
/// others. RFC 9110 section 6.5.1 lets whoever reads a message merge its trailers into its headers.
fn strip_trailers(headers: &mut HeaderMap) {
    let may_pass =
        |name: &&[u8]| may_trail(name) && !tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case(name));
    if tokens(headers, &header::TRAILER).all(|name| may_pass(&name)) {
        return;
    }
    let passing: Vec<&[u8]> = tokens(headers, &header::TRAILER).filter(may_pass).collect();
    match HeaderValue::from_bytes(&passing.join(&b", "[..])) {
        Ok(list) if !list.is_empty() => drop(headers.insert(header::TRAILER, list)),
        _ => drop(headers.remove(header::TRAILER)),
    }
}

/// Whether a trailer of this name is between the client and the backend alone. What belongs to one connection, to framing
/// and to routing is not, nor what a backend believes because it comes from the gateway.
fn may_trail(name: &[u8]) -> bool {
    let Ok(name) = HeaderName::from_bytes(name) else { return false };
    !HOP_BY_HOP.contains(&name)
        && ![header::CONTENT_LENGTH, header::HOST, header::TRAILER, header::EXPECT].contains(&name)
        && !forwarded::is_told(name.as_str())
}

/// Removes what is hop-by-hop; naming a header that is `kept` does not remove it.
fn strip(headers: &mut HeaderMap, kept: fn(&HeaderName) -> bool) {
    strip_trailers(headers);
    // All lines are read before the first header goes: `remove` drops every line of a name, and Connection may name
    // itself. Nothing is collected, and so nothing allocated, unless a header is there that only Connection makes
    // hop-by-hop.
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter(|token| !is_usual(token))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !kept(name) && headers.contains_key(name))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// A connection option that names no header, or one that goes in any case.
fn is_usual(token: &[u8]) -> bool {
    let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
    is("close") || HOP_BY_HOP.iter().any(|name| is(name.as_str()))
}

/// Without its Content-Length a message would end elsewhere than we think; Connection has no say in that.
fn is_framing(name: &HeaderName) -> bool {
    name == header::CONTENT_LENGTH
}

/// The gateway has judged the opening handshake by these; a backend that saw less would answer another question.
fn is_framing_or_opening(name: &HeaderName) -> bool {
    is_framing(name) || name.as_str().starts_with("sec-websocket-")
}

/// RFC 9110 section 10.1.4: "trailers" is the one member of TE that means something beyond this connection.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &header::TE).any(|member| {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"trailers")) && !parts.any(is_zero_weight)
    })
}

/// RFC 9110 section 12.4.2: a weight of 0, 0.0 and so on means "not acceptable".
fn is_zero_weight(parameter: &[u8]) -> bool {
    let [b'q' | b'Q', b'=', b'0', fraction @ ..] = parameter else { return false };
    fraction.iter().all(|b| matches!(b, b'.' | b'0'))
}

#[cfg(test)]
mod tests {
    use http::{Method, Version};

    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let parse = |&(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    /// Names sorted, the lines of one name in their order.
    fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut lines: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        lines.sort_by_key(|(name, _)| *name);
        lines
    }

    #[track_caller]
    fn assert_to_backend(received: &[(&str, &str)], sent: &[(&str, &str)]) {
        let mut headers = map(received);
        towards_backend(&mut headers, &Ask::Plain, HeaderValue::from_static("h"));
        let mut expected = sent.to_vec();
        expected.push(("host", "h"));
        assert_eq!(lines(&headers), lines(&map(&expected)), "{received:?}");
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    fn upgrade(lines: &[(&str, &str)]) -> Ask {
        let allowed = ["websocket".into(), "foo".into()];
        let ask = Ask::parse(Version::HTTP_11, &Method::GET, &map(lines), &allowed).unwrap();
        assert!(matches!(ask, Ask::Upgrade(_)));
        ask
    }

    #[test]
    fn hop_by_hop_headers_go_and_all_else_stays() {
        for name in
            ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"]
        {
            assert_to_backend(&[(name, "x"), ("accept", "y"), (name, "z")], &[("accept", "y")]);
        }
        let kept = [("trailer", "x-sum"), ("content-length", "5"), ("cookie", "a"), ("proxy-authorization", "b")];
        assert_to_backend(&kept, &kept);
    }

    #[test]
    fn what_any_connection_line_names_goes() {
        for connection in [&["x-a, X-B"][..], &["x-a", "x-b"], &["close, ,X-A ,", "keep-alive,\tX-b\t"], &[",,x-B,x-a"]]
        {
            let mut received = vec![("x-a", "1"), ("x-b", "2"), ("x-b", "3"), ("x-c", "4")];
            received.extend(connection.iter().map(|line| ("connection", *line)));
            assert_to_backend(&received, &[("x-c", "4")]);
        }
        assert_to_backend(&[("connection", "trailer, cookie"), ("trailer", "x"), ("cookie", "y")], &[]);
        assert_to_backend(&[("connection", "a b, \"x-a\", x-a;q=1, @"), ("x-a", "1")], &[("x-a", "1")]);
    }

    #[test]
    fn what_the_gateway_sets_cannot_be_stripped_by_naming_it() {
        assert_to_backend(
            &[
                ("connection", "Host, Content-Length, X-Forwarded-For"),
                ("host", "x"),
                ("content-length", "5"),
                ("x-forwarded-for", "forged"),
            ],
            &[("content-length", "5")],
        );
    }

    #[test]
    fn only_trailers_that_may_leave_are_announced() {
        for (announced, connection, left) in [
            ("X-Sum", "close", &[("trailer", "X-Sum")][..]),
            ("X-Sum, Server-Timing", "x-other", &[("trailer", "X-Sum, Server-Timing")]),
            ("X-Named, X-Sum", "x-named", &[("trailer", "X-Sum")]),
            ("X-Forwarded-For, X-Sum, X_Real_IP, forwarded, X-Request-Id, Via", "te", &[("trailer", "X-Sum")]),
            ("Connection, Keep-Alive, Upgrade, Transfer-Encoding, Content-Length, Host, Expect", "te", &[]),
            ("not a name, X-Sum", "te", &[("trailer", "X-Sum")]),
        ] {
            let sent = [("trailer", announced), ("connection", connection)];
            let (mut request, mut answer) = (map(&sent), map(&sent));
            towards_backend(&mut request, &Ask::Plain, HeaderValue::from_static("a"));
            request.remove(header::HOST);
            towards_client(&mut answer, Answer::Response);
            assert_eq!((lines(&request), lines(&answer)), (left.to_vec(), left.to_vec()), "{announced}");
        }
    }

    #[test]
    fn there_is_one_host() {
        assert_to_backend(&[("host", "a"), ("host", "b")], &[]);
        assert_to_backend(&[], &[]);
    }

    #[test]
    fn lines_of_one_name_keep_their_order() {
        let cookies = [("set-cookie", "a"), ("set-cookie", "b"), ("set-cookie", "c"), ("via", "1"), ("via", "2")];
        assert_to_backend(&[&[("connection", "x-a"), ("x-a", "1")], &cookies[..]].concat(), &cookies);
    }

    #[test]
    fn te_is_reduced_to_trailers() {
        for (te, kept) in [
            (&["trailers"][..], true),
            (&["Trailers"], true),
            (&["gzip, trailers"], true),
            (&["gzip;q=0.5", "trailers"], true),
            (&["trailers;q=0.5"], true),
            (&["trailers ; q=1"], true),
            (&["trailers;q=0"], false),
            (&["trailers; Q=0.000"], false),
            (&["gzip"], false),
            (&["gzip;trailers"], false),
            (&["xtrailers"], false),
            (&[""], false),
        ] {
            let received: Vec<_> = te.iter().map(|line| ("te", *line)).chain([("connection", "TE")]).collect();
            let sent = if kept { &[("te", "trailers"), ("connection", "te")][..] } else { &[] };
            assert_to_backend(&received, sent);
        }
    }

    #[test]
    fn a_plain_request_asks_for_no_upgrade() {
        assert_to_backend(
            &[
                ("connection", "Upgrade, HTTP2-Settings"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQ"),
                ("accept", "*/*"),
            ],
            &[("accept", "*/*")],
        );
    }

    #[test]
    fn an_upgrade_asks_for_its_one_token_in_the_clients_spelling() {
        let received = [
            ("connection", "keep-alive, Upgrade, Sec-WebSocket-Key, Host, x-a"),
            ("upgrade", "h2c, WebSocket"),
            ("upgrade", "foo"),
            ("http2-settings", "x"),
            ("te", "trailers"),
            ("x-a", "1"),
            KEY,
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "a"),
            ("sec-websocket-protocol", "b"),
        ];
        let mut headers = map(&received);
        towards_backend(&mut headers, &upgrade(&received), HeaderValue::from_static("h"));
        let sent = [
            ("connection", "upgrade"),
            ("upgrade", "WebSocket"),
            ("host", "h"),
            KEY,
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "a"),
            ("sec-websocket-protocol", "b"),
        ];
        assert_eq!(lines(&headers), lines(&map(&sent)));
    }

    #[test]
    fn an_answer_loses_its_hop_by_hop_headers() {
        let mut headers = map(&[
            ("connection", "close, x-a"),
            ("connection", "x-b, sec-websocket-accept"),
            ("keep-alive", "timeout=5"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("upgrade", "h2c"),
            ("sec-websocket-accept", "3"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ]);
        towards_client(&mut headers, Answer::Response);
        assert_eq!(lines(&headers), [("set-cookie", "a"), ("set-cookie", "b"), ("trailer", "x-sum")]);
    }

    #[test]
    fn a_101_keeps_its_upgrade_and_what_was_checked() {
        let mut headers = map(&[
            ("connection", "Upgrade, Sec-WebSocket-Accept, Sec-WebSocket-Protocol, x-a"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-accept", "1"),
            ("sec-websocket-protocol", "2"),
            ("keep-alive", "timeout=5"),
            ("x-a", "3"),
            ("server", "s"),
        ]);
        towards_client(&mut headers, Answer::Switching);
        let sent = [
            ("connection", "upgrade"),
            ("sec-websocket-accept", "1"),
            ("sec-websocket-protocol", "2"),
            ("server", "s"),
            ("upgrade", "WebSocket"),
        ];
        assert_eq!(lines(&headers), sent);
    }
}
