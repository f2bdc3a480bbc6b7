//! Paths of routes: they are compared with the normal form of a request's path, so one that is not in normal form
//! would never match, and is refused with the form that would.

use super::report::{Refusal, quoted};

/// A path of a route. "/ws/" and "/ws" are the same: paths match by whole segments.
pub(super) fn path(text: &str) -> Result<Box<str>, Refusal> {
    let trimmed = text.strip_suffix('/').filter(|t| !t.is_empty()).unwrap_or(text);
    if let Some(refusal) = never_right(text) {
        return Err(refusal);
    }
    let normal = normal_form(text);
    if trimmed == normal && !text.contains("//") {
        return Ok(normal.into());
    }
    Err(Refusal::new(format!("{}: {}", quoted(text), reason(text)), format!("write {}", quoted(&normal))))
}

/// What no other spelling could mean.
fn never_right(text: &str) -> Option<Refusal> {
    let refuse = |expected: &str| Some(Refusal::new(format!("{} is not a path", quoted(text)), expected));
    match text.rsplit('/').next() {
        _ if text.is_empty() => refuse("write \"/\", or leave the key out"),
        _ if text.contains("%00") => refuse("a request with \"%00\" is always refused"),
        Some("*" | "**") => refuse("a path matches everything below it: leave the \"*\" out"),
        _ => None,
    }
}

/// Why `text` is not in normal form.
fn reason(text: &str) -> &'static str {
    let dots = |segment: &str| matches!(segment, "." | "..");
    match text {
        _ if text.contains(['?', '#']) => "a path ends before \"?\" and \"#\"",
        _ if !text.starts_with('/') => "a path begins with \"/\"",
        _ if text.contains("//") => "no segment of a path is empty",
        _ if text.split('/').any(dots) => "\".\" and \"..\" are resolved before routes are compared",
        _ if text.contains('%') => {
            "\"%\" stands before two hex digits, and never for a letter, digit, \"-\", \".\", \"_\" or \"~\""
        }
        _ => "a URI holds such characters only escaped",
    }
}

/// RFC 3986 section 6.2.2: escapes of unreserved characters decoded, what must be escaped escaped, "." and ".."
/// resolved; and no empty segments.
fn normal_form(text: &str) -> String {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let escaped = normal_escapes(path.as_bytes());
    let mut segments = Vec::new();
    for segment in escaped.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn normal_escapes(mut path: &[u8]) -> String {
    let mut normal = String::new();
    while let [byte, rest @ ..] = path {
        path = rest;
        match (byte, escape(rest)) {
            (b'%', Some(escaped)) if is_unreserved(escaped) => normal.push(char::from(escaped)),
            (b'%', Some(_)) => normal.extend(["%", &String::from_utf8_lossy(&rest[..2])]),
            (b, _) if *b == b'/' || is_pchar(*b) => normal.push(char::from(*b)),
            (b, _) => normal.push_str(&format!("%{b:02X}")),
        }
        if *byte == b'%' && escape(rest).is_some() {
            path = &rest[2..];
        }
    }
    normal
}

/// The byte that two hex digits at the beginning of `text` stand for.
fn escape(text: &[u8]) -> Option<u8> {
    let digits = text.first_chunk::<2>().filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// RFC 3986 section 3.3, but for the escapes.
fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_normal_form_are_taken() {
        for (text, expected) in [
            ("/", "/"),
            ("/ws", "/ws"),
            ("/ws/", "/ws"),
            ("/a/b.c/~d", "/a/b.c/~d"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb", "/a%2fb"),
            ("/a:b@c;d=e,f", "/a:b@c;d=e,f"),
            ("/...", "/..."),
            ("/a*b", "/a*b"),
        ] {
            assert_eq!(path(text).as_deref(), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn other_paths_are_told_their_normal_form() {
        for (text, hint) in [
            ("ws", "write \"/ws\""),
            ("//", "write \"/\""),
            ("/ws//", "write \"/ws\""),
            ("/a//b", "write \"/a/b\""),
            ("/a/./b", "write \"/a/b\""),
            ("/a/../b", "write \"/b\""),
            ("/a/..", "write \"/\""),
            ("/%2e%2E/x", "write \"/x\""),
            ("/%77s", "write \"/ws\""),
            ("/100%", "write \"/100%25\""),
            ("/a?b=1", "write \"/a\""),
            ("/a#b", "write \"/a\""),
            ("/a b", "write \"/a%20b\""),
            ("/é", "write \"/%C3%A9\""),
            ("/a\\b", "write \"/a%5Cb\""),
            ("/ws/*", "leave the \"*\" out"),
            ("/a%00", "always refused"),
            ("", "write \"/\""),
        ] {
            let refusal = path(text).unwrap_err();
            assert!(refusal.expected.contains(hint), "{text:?}: {refusal:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_normal_form_is_its_own_normal_form(text in "\\PC*") {
            let normal = normal_form(&text);
            proptest::prop_assert_eq!(normal_form(&normal), normal.as_str());
            if never_right(&normal).is_none() {
                proptest::prop_assert_eq!(path(&normal), Ok(normal.into()));
            }
        }
    }
}
