//! A path has more than one reading.
//!
//! The *strict* reading is matched and forwarded: unreserved characters decoded (RFC 3986 section 6.2.2.2), dot segments
//! removed (5.2.4), all else byte for byte. The *loose* readings are those of a backend that takes more liberties: it
//! decodes everything, takes `\` for `/`, cuts `;parameters`, merges `//`. They are never forwarded; a request whose
//! route depends on the reading is refused. Decoding `%2F` for everybody would break the backends that put a name with a
//! slash into one segment; never looking at it would let `/x%2f..%2fsecret` through.
//!
//! A backend takes some of these liberties and not others, so every combination that the path gives rise to is read.
//! Reading only with all of them at once can be steered: `/a/..%2f..%2fs/..;/..;/a` is under `/a` with none and with
//! all of them, and under `/s` for a backend that decodes and keeps parameters.

use std::error::Error;
use std::fmt;

use http::uri::PathAndQuery;

/// A path with its query, as received, as forwarded, and as others may read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    received: PathAndQuery,
    forwarded: PathAndQuery,
    loose: Vec<Box<[u8]>>,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// A NUL, encoded or not: it ends the name for a backend that is written in C.
    Nul,
    /// A `%` that two hexadecimal digits do not follow (RFC 3986 section 2.1).
    Escape,
}

impl Path {
    /// Reads a path. The query is never looked into.
    pub fn parse(received: &PathAndQuery) -> Result<Self, PathError> {
        let raw = received.path().as_bytes();
        check(raw)?;
        if !has_other_readings(raw) {
            return Ok(Self { received: received.clone(), forwarded: forwarded(received, raw), loose: Vec::new() });
        }
        let plain = decoded(raw, is_unreserved);
        let strict = read(&plain, &Liberties::NONE);
        let loose = loose_readings(raw, &plain, &strict);
        Ok(Self { received: received.clone(), forwarded: forwarded(received, &strict), loose })
    }

    /// The path as received.
    pub fn raw(&self) -> &str {
        self.received.path()
    }

    /// The path that is matched and forwarded.
    pub fn strict(&self) -> &str {
        self.forwarded.path()
    }

    /// What less strict readers make of the path: each different from the strict reading and from one another, and not
    /// necessarily UTF-8. Empty for nearly every request.
    pub fn loose(&self) -> impl Iterator<Item = &[u8]> {
        self.loose.iter().map(AsRef::as_ref)
    }

    /// The query, byte for byte.
    pub fn query(&self) -> Option<&str> {
        self.received.query()
    }

    /// The strict path and the query: what is forwarded. What was received itself, unless reading changed it.
    pub fn forwarded(&self) -> &PathAndQuery {
        &self.forwarded
    }
}

/// What a reader does beyond the strict reading, in the order in which it does it.
#[derive(Debug)]
struct Liberties {
    backslash_is_slash: bool,
    cuts_parameters: bool,
    merges_slashes: bool,
}

impl Liberties {
    const NONE: Self = Self { backslash_is_slash: false, cuts_parameters: false, merges_slashes: false };
}

fn check(raw: &[u8]) -> Result<(), PathError> {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|&b| b == b'%' || b == 0) {
        match escape(&rest[at..]) {
            Some(0) => return Err(PathError::Nul),
            Some(_) => rest = &rest[at + 3..],
            None if rest[at] == 0 => return Err(PathError::Nul),
            None => return Err(PathError::Escape),
        }
    }
    Ok(())
}

/// The byte that `text` begins with an escape of.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *text else { return None };
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `raw` with the escapes of some bytes decoded, once.
fn decoded(raw: &[u8], wanted: fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, tail)) = rest.split_first() {
        match escape(rest).filter(|&byte| wanted(byte)) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

/// Whether reading `raw` could make a difference at all, strictly or with any liberty.
fn has_other_readings(raw: &[u8]) -> bool {
    raw.iter().any(|b| matches!(b, b'%' | b'\\' | b';')) || raw.windows(2).any(|pair| matches!(pair, b"//" | b"/."))
}

/// What others make of the path as received, and of the strict reading, which is all that a backend gets to see: the
/// dot segments that are gone from it can have hidden what it says.
fn loose_readings(raw: &[u8], plain: &[u8], strict: &[u8]) -> Vec<Box<[u8]>> {
    let mut texts = vec![plain.to_vec(), decoded(raw, |_| true)];
    if strict != plain {
        texts.extend([strict.to_vec(), decoded(strict, |_| true)]);
    }
    let mut found: Vec<Box<[u8]>> = Vec::new();
    for text in &texts {
        for liberties in combinations(text) {
            let reading = read(text, &liberties);
            if reading != strict && found.iter().all(|other| **other != *reading) {
                found.push(reading.into());
            }
        }
    }
    found
}

/// The combinations of liberties that can matter to `text`.
fn combinations(text: &[u8]) -> impl Iterator<Item = Liberties> {
    let choices = |occurs: bool| if occurs { &[false, true][..] } else { &[false][..] };
    let backslashes = choices(text.contains(&b'\\'));
    let parameters = choices(text.contains(&b';'));
    // Other liberties make empty segments too: "/;x/" and "/\".
    let merges =
        choices(text.windows(2).any(|pair| matches!(pair, b"//" | b"/;" | b"/\\" | b"\\/" | b"\\\\" | b"\\;")));
    backslashes.iter().flat_map(move |&backslash_is_slash| {
        parameters.iter().flat_map(move |&cuts_parameters| {
            merges.iter().map(move |&merges_slashes| Liberties { backslash_is_slash, cuts_parameters, merges_slashes })
        })
    })
}

/// `text` taken apart into segments, with some liberties, and put together without dot segments (RFC 3986 section 5.2.4:
/// a dot segment at the end leaves a slash, and `..` at the root leads nowhere).
fn read(text: &[u8], liberties: &Liberties) -> Vec<u8> {
    // "*" of OPTIONS is no path.
    let Some((b'/', body)) = text.split_first() else { return text.to_vec() };
    let is_slash = |b: &u8| *b == b'/' || (*b == b'\\' && liberties.backslash_is_slash);
    // The output of the segments so far; a segment is always written with the slash before it.
    let mut out = Vec::with_capacity(text.len());
    let mut ends_in_slash = false;
    for segment in body.split(is_slash) {
        let segment = match segment.iter().position(|&b| b == b';') {
            Some(parameters) if liberties.cuts_parameters => &segment[..parameters],
            _ => segment,
        };
        ends_in_slash = true;
        match segment {
            b"." => {}
            b".." => out.truncate(out.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            b"" if liberties.merges_slashes => {}
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
                ends_in_slash = false;
            }
        }
    }
    if ends_in_slash {
        out.push(b'/');
    }
    out
}

fn forwarded(received: &PathAndQuery, strict: &[u8]) -> PathAndQuery {
    // "http://host?query" has a path, "/", that is not in its text.
    if strict == received.path().as_bytes() && !received.as_str().starts_with('?') {
        return received.clone();
    }
    let mut text = strict.to_vec();
    if let Some(query) = received.query() {
        text.push(b'?');
        text.extend_from_slice(query.as_bytes());
    }
    PathAndQuery::try_from(text).expect("a path without some of its segments and with letters for escapes is a path")
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nul => "the path holds a NUL",
            Self::Escape => "the path holds a % that is no escape",
        })
    }
}

impl Error for PathError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Path, PathError> {
        Path::parse(&PathAndQuery::try_from(text).unwrap())
    }

    fn strict(text: &str) -> String {
        parse(text).unwrap().strict().to_owned()
    }

    fn loose(text: &str) -> Vec<String> {
        parse(text).unwrap().loose().map(|reading| String::from_utf8_lossy(reading).into_owned()).collect()
    }

    #[test]
    fn strict_decodes_unreserved_and_removes_dot_segments_and_nothing_else() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/A/b", "/A/b"),
            // Dot segments, RFC 3986 sections 5.2.4 and 5.4.
            ("/.", "/"),
            ("/..", "/"),
            ("/../", "/"),
            ("/../..", "/"),
            ("/../a", "/a"),
            ("/a/.", "/a/"),
            ("/a/./", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/a/./b", "/a/b"),
            ("/./a", "/a"),
            ("/a/...", "/a/..."),
            ("/a/.b", "/a/.b"),
            ("/a/..b", "/a/..b"),
            ("/a/b..", "/a/b.."),
            ("/.well-known/x", "/.well-known/x"),
            // Escapes of unreserved characters.
            ("/%61", "/a"),
            ("/%7Ea", "/~a"),
            ("/%7e%2D%5f%2E%30%5A", "/~-_.0Z"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E", "/a/"),
            ("/a/%2E/", "/a/"),
            ("/a/.%2e/b", "/b"),
            ("/%2e%2e/%2e%2e/etc", "/etc"),
            // All else stays, in its own spelling.
            ("/a%2fb", "/a%2fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%20b%3b%5c", "/a%20b%3b%5c"),
            ("/%c3%A9", "/%c3%A9"),
            ("/\u{e9}", "/\u{e9}"),
            ("/a\\..\\b", "/a\\..\\b"),
            ("/a;x=1/b", "/a;x=1/b"),
            ("/a/..;/b", "/a/..;/b"),
            ("/a%2f..%2fb", "/a%2f..%2fb"),
            // Decoded once.
            ("/%2561", "/%2561"),
            ("/a/%252e%252e/b", "/a/%252e%252e/b"),
            ("/%25%36%31", "/%2561"),
            // Empty segments are segments.
            ("//", "//"),
            ("//a", "//a"),
            ("/a//b", "/a//b"),
            ("/a//", "/a//"),
            ("/a//..", "/a/"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/..//a", "//a"),
        ] {
            assert_eq!(strict(raw), expected, "{raw}");
        }
    }

    #[test]
    fn what_nothing_changed_is_forwarded_as_it_came() {
        for text in ["/", "/a?", "/a/b?c=/../d", "/a%2Fb", "/a//b?x", "/\u{e9}"] {
            let received = PathAndQuery::try_from(text).unwrap();
            let path = Path::parse(&received).unwrap();
            assert_eq!(path.forwarded().as_str().as_ptr(), received.as_str().as_ptr(), "{text}: the same memory");
        }
    }

    #[test]
    fn the_query_is_kept_byte_for_byte() {
        for (received, forwarded) in [
            ("/a/../b?c/../%2e%41%zz?&\\;//", "/b?c/../%2e%41%zz?&\\;//"),
            ("/%61?", "/a?"),
            ("/%61", "/a"),
            ("/a?%00", "/a?%00"),
            ("?q", "/?q"),
        ] {
            assert_eq!(parse(received).unwrap().forwarded().as_str(), forwarded);
        }
    }

    #[test]
    fn nul_and_broken_escapes_are_refused() {
        for (text, error) in [
            ("/%00", PathError::Nul),
            ("/a%00b", PathError::Nul),
            ("/%41%00", PathError::Nul),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%4g", PathError::Escape),
            ("/%%41", PathError::Escape),
            ("/a%/b", PathError::Escape),
            ("/%u0041", PathError::Escape),
            ("/%+1", PathError::Escape),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn an_ordinary_path_has_no_loose_reading() {
        for text in ["/", "/a", "/a/b/", "/a.b/c.d", "/A-b_c~d", "/.well-known/acme", "/a/../b", "/%61", "/\u{e9}"] {
            assert_eq!(loose(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn loose_takes_each_liberty() {
        for (text, expected) in [
            ("/x%2f..%2fsecret", "/secret"),
            ("/x%2F..%2Fsecret", "/secret"),
            ("/x/..%2fsecret", "/secret"),
            ("/x/%2e%2e%2fsecret", "/secret"),
            ("/x\\..\\secret", "/secret"),
            ("/x%5c..%5Csecret", "/secret"),
            ("/x/..\\secret", "/secret"),
            ("/x/..;/secret", "/secret"),
            ("/x/..;a=b/secret", "/secret"),
            ("/x/..%3b/secret", "/secret"),
            ("/x/%2e%2e;/secret", "/secret"),
            ("/x/.;/y", "/x/y"),
            ("/secret;jsessionid=1", "/secret"),
            ("/;a/secret", "/secret"),
            ("//secret", "/secret"),
            ("/x//../secret", "/secret"),
            ("/\\secret", "/secret"),
            ("/a%20b", "/a b"),
            // Decoded once.
            ("/x%252f..%252fsecret", "/x%2f..%2fsecret"),
            ("/%2561", "/%61"),
        ] {
            assert!(loose(text).iter().any(|reading| reading == expected), "{text}: {:?}", loose(text));
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_read_too() {
        let path = parse("/%ff%2fx").unwrap();
        assert_eq!(path.loose().collect::<Vec<_>>(), [&b"/\xff/x"[..]]);
    }

    #[test]
    fn taking_all_liberties_does_not_hide_what_some_of_them_show() {
        // A backend that decodes, and keeps parameters.
        assert!(loose("/a/..%2f..%2fsecret/..;/..;/a").contains(&"/secret/..;/..;/a".to_owned()));
        // One that cuts parameters, and does not decode.
        assert!(loose("/a/..;/secret/..%2f..%2fa").contains(&"/secret/..%2f..%2fa".to_owned()));
        // One that takes all liberties, but is sent the path without its dot segments.
        assert_eq!(strict("/%5Csecret//../"), "/%5Csecret/");
        assert!(loose("/%5Csecret//../").contains(&"/secret/".to_owned()));
    }

    #[test]
    fn readings_are_few_whatever_is_sent() {
        let hostile = "/a//..;/%2f%5c%3b\\/../".repeat(1000);
        assert!(parse(&hostile).unwrap().loose().count() < 32);
    }

    fn has_dot_segment(path: &str) -> bool {
        path.split('/').any(|segment| segment == "." || segment == "..")
    }

    /// Paths of the characters that reading is about.
    fn difficult() -> impl Strategy<Value = String> {
        "/([a./;\\\\]|%2[eEfF5]|%3[bB]|%5[cC]|%61|%c3|\u{e9}|//|\\.\\./){0,24}(\\?[a/.%?]{0,5})?"
    }

    proptest! {
        #[test]
        fn strict_is_idempotent_and_free_of_dot_segments(text in difficult()) {
            let path = parse(&text).unwrap();
            prop_assert!(path.strict().starts_with('/'));
            prop_assert!(!has_dot_segment(path.strict()));
            prop_assert_eq!(strict(path.strict()), path.strict());
            prop_assert_eq!(path.query(), text.split_once('?').map(|(_, query)| query));
            prop_assert_eq!(path.forwarded().query(), path.query());
        }

        #[test]
        fn loose_readings_are_distinct_and_free_of_dot_segments(text in difficult()) {
            let path = parse(&text).unwrap();
            let readings: Vec<_> = path.loose().collect();
            for (at, reading) in readings.iter().enumerate() {
                prop_assert!(reading.starts_with(b"/"));
                prop_assert!(!has_dot_segment(&String::from_utf8_lossy(reading)));
                prop_assert_ne!(*reading, path.strict().as_bytes());
                prop_assert!(!readings[..at].contains(reading));
            }
        }

        #[test]
        fn a_strict_reading_has_the_loose_readings_of_what_was_received(text in difficult()) {
            // Else the backend, which sees the strict reading only, could read what was never judged.
            let (path, again) = (parse(&text).unwrap(), parse(&strict(&text)).unwrap());
            for reading in again.loose() {
                prop_assert!(path.loose().any(|known| known == reading) || reading == path.strict().as_bytes());
            }
        }
    }
}
