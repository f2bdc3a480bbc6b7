//! Where a message's body ends: RFC 9112 section 6.
//!
//! hyper reads by these headers before anybody else sees them. It removes the Content-Length of a request that has a
//! Transfer-Encoding and merges equal lengths, but it takes `gzip, chunked`, `chunked` twice and two lines, checks less
//! of an answer, and its client drops the body of a GET that has no framing headers. What is sent on has exactly one
//! framing, written here, so that all who read it agree.

use std::error::Error;
use std::fmt;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

use super::headers::{only, tokens};

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none, and no length is told.
    Empty,
    /// There is none, as HEAD asks: the length is the one that a GET would be answered with.
    Announced(u64),
    /// So many bytes; zero is told to be zero.
    Known(u64),
    /// Chunks until the last one.
    Chunked,
    /// All until the connection closes; answers only.
    UntilClose,
}

/// What is wrong with a message's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramingError {
    /// Transfer-Encoding is something else than one line with exactly `chunked`.
    Encoding,
    /// Transfer-Encoding in HTTP/1.0, which does not know it (RFC 9112 section 6.1).
    EncodingBefore11,
    /// A request with Transfer-Encoding and Content-Length (RFC 9112 section 6.3, 3: likely smuggling).
    EncodingAndLength,
    /// Content-Length is no number, or several different ones (RFC 9112 section 6.3, 5).
    Length,
}

/// The body of a request. Without any framing there is none (RFC 9112 section 6.3, 7).
pub fn request_body(version: Version, headers: &HeaderMap) -> Result<BodyLength, FramingError> {
    let (chunked, length) = (is_chunked(version, headers)?, content_length(headers)?);
    match (chunked, length) {
        (true, Some(_)) => Err(FramingError::EncodingAndLength),
        (true, None) => Ok(BodyLength::Chunked),
        (false, Some(length)) => Ok(BodyLength::Known(length)),
        (false, None) => Ok(BodyLength::Empty),
    }
}

/// The body of the answer to a request with `method`. Where both headers are there, Transfer-Encoding is right and the
/// length goes (RFC 9112 section 6.3, 3): hyper's client has read by it, so nothing can hide between the two.
pub fn answer_body(
    method: &Method,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) -> Result<BodyLength, FramingError> {
    let (chunked, length) = (is_chunked(version, headers)?, content_length(headers)?);
    // RFC 9112 section 6.3, 1: no body, whatever the headers say.
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(BodyLength::Empty);
    }
    Ok(match (chunked, length) {
        (false, Some(length)) if method == Method::HEAD => BodyLength::Announced(length),
        _ if method == Method::HEAD => BodyLength::Empty,
        (true, _) => BodyLength::Chunked,
        (false, Some(length)) => BodyLength::Known(length),
        (false, None) => BodyLength::UntilClose,
    })
}

/// Writes the framing of a head that is sent on. A body of unknown length that already turned out to be empty is
/// [`BodyLength::Empty`].
///
/// `Transfer-Encoding: chunked` must be there even though hyper adds it of its own accord: for GET its client does not,
/// and drops the body. Towards a client of HTTP/1.0 hyper takes it away and closes at the end.
pub fn set(headers: &mut HeaderMap, body: BodyLength) {
    headers.remove(header::TRANSFER_ENCODING);
    match body {
        BodyLength::Known(length) | BodyLength::Announced(length) => {
            // A single valid line stays as it is.
            if only(headers, &header::CONTENT_LENGTH).and_then(|line| number(line.as_bytes())) != Some(length) {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        BodyLength::Empty => {
            headers.remove(header::CONTENT_LENGTH);
        }
        BodyLength::Chunked | BodyLength::UntilClose => {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

fn is_chunked(version: Version, headers: &HeaderMap) -> Result<bool, FramingError> {
    if !headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(false);
    }
    if version < Version::HTTP_11 {
        return Err(FramingError::EncodingBefore11);
    }
    let line = only(headers, &header::TRANSFER_ENCODING).ok_or(FramingError::Encoding)?;
    if line.as_bytes().eq_ignore_ascii_case(b"chunked") { Ok(true) } else { Err(FramingError::Encoding) }
}

/// Equal lengths, on several lines or as a list, are taken as one (RFC 9110 section 8.6).
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, FramingError> {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        return Ok(None);
    }
    let mut lengths = tokens(headers, &header::CONTENT_LENGTH).map(number);
    let first = lengths.next().flatten().ok_or(FramingError::Length)?;
    if lengths.all(|other| other == Some(first)) { Ok(Some(first)) } else { Err(FramingError::Length) }
}

/// RFC 9110 section 8.6: `1*DIGIT`. `u64::from_str` alone would take "+5".
fn number(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoding => "Transfer-Encoding is not just chunked",
            Self::EncodingBefore11 => "Transfer-Encoding in HTTP/1.0",
            Self::EncodingAndLength => "both Transfer-Encoding and Content-Length",
            Self::Length => "Content-Length is not one number",
        })
    }
}

impl Error for FramingError {}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    type Lines<'a> = &'a [(&'a str, &'a str)];

    fn map(lines: Lines<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

    fn length(text: &str) -> (&str, &str) {
        ("content-length", text)
    }

    #[test]
    fn other_transfer_encodings_than_one_chunked_are_refused_both_ways() {
        for encodings in [
            &["gzip, chunked"][..],
            &["chunked, gzip"],
            &["chunked, chunked"],
            &["chunked,"],
            &[",chunked"],
            &["chunked", "chunked"],
            &["gzip", "chunked"],
            &["identity"],
            &["xchunked"],
            &["chunked;q=1"],
            &["\"chunked\""],
            &["chunked\t"],
            &["chunked\u{a0}"],
            &[""],
        ] {
            let lines: Vec<_> = encodings.iter().map(|encoding| ("transfer-encoding", *encoding)).collect();
            let (headers, version) = (map(&lines), Version::HTTP_11);
            assert_eq!(request_body(version, &headers), Err(FramingError::Encoding), "{encodings:?}");
            for (method, status) in [(Method::GET, 200), (Method::HEAD, 200), (Method::GET, 304)] {
                let body = answer_body(&method, StatusCode::from_u16(status).unwrap(), version, &headers);
                assert_eq!(body, Err(FramingError::Encoding), "{method} {status} {encodings:?}");
            }
        }
    }

    #[test]
    fn lengths_that_are_not_one_number_are_refused_both_ways() {
        for lengths in [
            &["+5"][..],
            &["-5"],
            &["5 5"],
            &["5x"],
            &["0x5"],
            &["5.0"],
            &[""],
            &[","],
            &["5, 6"],
            &["5", "6"],
            &["5", "x"],
            &["18446744073709551616"],
            &["\u{665}"],
        ] {
            let lines: Vec<_> = lengths.iter().map(|text| length(text)).collect();
            assert_eq!(request_body(Version::HTTP_11, &map(&lines)), Err(FramingError::Length), "{lengths:?}");
            for method in [Method::GET, Method::HEAD] {
                let body = answer_body(&method, StatusCode::OK, Version::HTTP_11, &map(&lines));
                assert_eq!(body, Err(FramingError::Length), "{method} {lengths:?}");
            }
        }
    }

    #[test]
    fn a_request_has_the_body_that_its_headers_say() {
        for (version, lines, expected) in [
            (Version::HTTP_11, &[][..], Ok(BodyLength::Empty)),
            (Version::HTTP_10, &[], Ok(BodyLength::Empty)),
            (Version::HTTP_11, &[length("0")], Ok(BodyLength::Known(0))),
            (Version::HTTP_10, &[length("5")], Ok(BodyLength::Known(5))),
            (Version::HTTP_11, &[length("0005")], Ok(BodyLength::Known(5))),
            (Version::HTTP_11, &[length("18446744073709551615")], Ok(BodyLength::Known(u64::MAX))),
            (Version::HTTP_11, &[length("5"), length("5")], Ok(BodyLength::Known(5))),
            (Version::HTTP_11, &[length("5, 5")], Ok(BodyLength::Known(5))),
            (Version::HTTP_11, &[CHUNKED], Ok(BodyLength::Chunked)),
            (Version::HTTP_11, &[("transfer-encoding", "CHUNKED")], Ok(BodyLength::Chunked)),
            (Version::HTTP_10, &[CHUNKED], Err(FramingError::EncodingBefore11)),
            (Version::HTTP_11, &[CHUNKED, length("5")], Err(FramingError::EncodingAndLength)),
            (Version::HTTP_11, &[length("0"), CHUNKED], Err(FramingError::EncodingAndLength)),
        ] {
            assert_eq!(request_body(version, &map(lines)), expected, "{version:?} {lines:?}");
        }
    }

    /// What an answer's body is, and the framing headers that are sent on with it.
    fn answer(method: &str, status: u16, version: Version, lines: Lines<'_>) -> (BodyLength, Vec<String>) {
        let mut headers = map(lines);
        let status = StatusCode::from_u16(status).unwrap();
        let body = answer_body(&method.parse().unwrap(), status, version, &headers).unwrap();
        set(&mut headers, body);
        (body, headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect())
    }

    #[test]
    fn an_answer_has_one_framing() {
        let (five, chunks) = (&["content-length: 5"][..], &["transfer-encoding: chunked"][..]);
        for (method, status, lines, body, sent) in [
            ("GET", 200, &[length("5")][..], BodyLength::Known(5), five),
            ("GET", 200, &[length("0")], BodyLength::Known(0), &["content-length: 0"]),
            ("GET", 200, &[length("5"), length("5")], BodyLength::Known(5), five),
            ("GET", 200, &[length("5, 5")], BodyLength::Known(5), five),
            ("GET", 200, &[CHUNKED], BodyLength::Chunked, chunks),
            ("GET", 200, &[], BodyLength::UntilClose, chunks),
            ("GET", 200, &[CHUNKED, length("5")], BodyLength::Chunked, chunks),
            ("POST", 500, &[], BodyLength::UntilClose, chunks),
            ("GET", 205, &[length("0")], BodyLength::Known(0), &["content-length: 0"]),
            // The length stays on the answer to a HEAD and goes on 204 and 304.
            ("HEAD", 200, &[length("5")], BodyLength::Announced(5), five),
            ("HEAD", 200, &[length("5, 5")], BodyLength::Announced(5), five),
            ("HEAD", 200, &[], BodyLength::Empty, &[]),
            ("HEAD", 200, &[CHUNKED], BodyLength::Empty, &[]),
            ("HEAD", 200, &[CHUNKED, length("5")], BodyLength::Empty, &[]),
            ("HEAD", 304, &[length("5")], BodyLength::Empty, &[]),
            ("HEAD", 204, &[length("5")], BodyLength::Empty, &[]),
            ("GET", 204, &[length("5")], BodyLength::Empty, &[]),
            ("GET", 204, &[CHUNKED], BodyLength::Empty, &[]),
            ("GET", 304, &[length("5")], BodyLength::Empty, &[]),
            ("GET", 304, &[CHUNKED], BodyLength::Empty, &[]),
            ("GET", 304, &[], BodyLength::Empty, &[]),
            ("GET", 101, &[length("5"), CHUNKED], BodyLength::Empty, &[]),
            ("GET", 100, &[length("5")], BodyLength::Empty, &[]),
        ] {
            let (seen, headers) = answer(method, status, Version::HTTP_11, lines);
            assert_eq!(
                (seen, &headers[..]),
                (body, &sent.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]),
                "{method} {status} {lines:?}"
            );
        }
    }

    #[test]
    fn an_answer_of_http_1_0_ends_by_its_length_or_its_close() {
        assert_eq!(answer("GET", 200, Version::HTTP_10, &[]).0, BodyLength::UntilClose);
        assert_eq!(answer("GET", 200, Version::HTTP_10, &[length("5")]).0, BodyLength::Known(5));
        let chunked = answer_body(&Method::GET, StatusCode::OK, Version::HTTP_10, &map(&[CHUNKED]));
        assert_eq!(chunked, Err(FramingError::EncodingBefore11));
    }

    #[test]
    fn a_valid_length_is_kept_as_it_is_spelled() {
        let mut headers = map(&[length("0005")]);
        set(&mut headers, BodyLength::Known(5));
        assert_eq!(headers[header::CONTENT_LENGTH], "0005");
    }

    #[test]
    fn the_chunked_body_of_a_get_is_framed() {
        let mut headers = map(&[CHUNKED]);
        let body = request_body(Version::HTTP_11, &headers).unwrap();
        headers.remove(header::TRANSFER_ENCODING); // as every hop-by-hop header
        set(&mut headers, body);
        assert_eq!(headers[header::TRANSFER_ENCODING], "chunked");
    }

    #[test]
    fn a_length_that_was_stripped_is_written_again() {
        let mut headers = HeaderMap::new();
        set(&mut headers, BodyLength::Known(7));
        assert_eq!(headers[header::CONTENT_LENGTH], "7");
    }
}
