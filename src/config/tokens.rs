//! Values that HTTP restricts to certain characters: tokens, methods, headers, statuses; and the level of the log.

use http::{HeaderName, HeaderValue, Method, StatusCode};
use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::HeaderMatch;
use super::report::{Refusal, nearest, quoted};
use super::values::{count, text};

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// `gateway.name`: it goes into Via, where it is a token (RFC 9110 section 7.6.3).
pub(super) fn gateway_name(text: &str) -> Result<&str, Refusal> {
    if text.len() <= 255 && is_token(text) {
        return Ok(text);
    }
    let expected = "expected 1 to 255 letters, digits and any of !#$%&'*+-.^_`|~";
    Err(Refusal::new(format!("{} is not a gateway's name", quoted(text)), expected))
}

/// The nearest name that a gateway can have to `host`, the name of the machine.
pub(super) fn gateway_name_of(host: &str) -> String {
    let allowed = |c: char| if c.is_ascii() && is_token_byte(c as u8) { c } else { '-' };
    let name: String = host.chars().map(allowed).take(255).collect();
    if name.is_empty() { "gateway".to_owned() } else { name }
}

/// An item of `route.upgrade`: a protocol as in the Upgrade header (RFC 9110 section 7.8), in lower case.
pub(super) fn upgrade(text: &str) -> Result<Box<str>, Refusal> {
    let token = text.to_ascii_lowercase();
    if token == "h2c" {
        // RFC 9113 section 3.1 took it back, and passed on it hides all later requests of a connection from the routes.
        return Err(Refusal::new("\"h2c\" is never one", "leave it out: such requests are served as plain ones"));
    }
    let (name, version) = token.split_once('/').unwrap_or((&token, "0"));
    if is_token(name) && is_token(version) {
        return Ok(token.into());
    }
    Err(Refusal::new(format!("{} is not a protocol", quoted(text)), "expected one such as \"websocket\""))
}

/// An item of `route.methods`.
pub(super) fn method(text: &str) -> Result<Method, Refusal> {
    let refuse = |expected: &str| Err(Refusal::new(format!("{} cannot be matched", quoted(text)), expected));
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => refuse("such requests are always answered 405"),
        Ok(_) if upper != text && METHODS.contains(&upper.as_str()) => {
            refuse(&format!("methods are case-sensitive: write {upper:?}"))
        }
        Ok(method) => Ok(method),
        Err(_) => refuse("expected a method such as \"GET\""),
    }
}

/// A key of `route.headers`.
pub(super) fn header_name(text: &str) -> Result<HeaderName, Refusal> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        Refusal::new(format!("{} is not a header's name", quoted(text)), "expected one such as \"X-Version\"")
    })
}

/// A value of `route.headers`.
pub(super) fn header_match(value: &DeValue<'_>) -> Result<HeaderMatch, Refusal> {
    match value {
        DeValue::Boolean(true) => Ok(HeaderMatch::Present),
        DeValue::Boolean(false) => Err(Refusal::new(
            "the absence of a header cannot be matched",
            "leave it out, or name another route for those that have it",
        )),
        _ => header_value(text(value, "expected the value, or true for \"is there\"")?).map(HeaderMatch::Equals),
    }
}

/// The value of a header.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, Refusal> {
    let trimmed = text.trim_matches([' ', '\t']) == text;
    HeaderValue::from_str(text).ok().filter(|_| trimmed && !text.is_empty()).ok_or_else(|| {
        let expected = "expected text without control characters, and without spaces at its ends";
        Refusal::new(format!("{} cannot be a header's value", quoted(text)), expected)
    })
}

/// `respond.status`.
pub(super) fn status(value: &DeValue<'_>) -> Result<StatusCode, Refusal> {
    let number = count(value, 200..=599)?;
    let status = u16::try_from(number).ok().and_then(|n| StatusCode::from_u16(n).ok());
    Ok(status.expect("200 to 599 are statuses"))
}

/// `redirect.status`.
pub(super) fn redirect_status(value: &DeValue<'_>) -> Result<StatusCode, Refusal> {
    let expected = "expected 301, 302, 303, 307 or 308";
    let status = status(value).map_err(|refusal| Refusal::new(refusal.what, expected))?;
    match status.as_u16() {
        301 | 302 | 303 | 307 | 308 => Ok(status),
        other => Err(Refusal::new(format!("{other} does not redirect"), expected)),
    }
}

/// `log.level`. A lone word that is no level would be read as a target whose every message is wanted, so that
/// "inof" would be taken for a module: it is refused.
pub(super) fn level(text: &str) -> Result<String, Refusal> {
    let is_level = |word: &str| LEVELS.iter().any(|l| l.eq_ignore_ascii_case(word));
    let lone = text.split(',').map(str::trim).find(|d| !d.contains(['=', '[']) && !is_level(d));
    if let Some(word) = lone.filter(|_| !text.contains('{')) {
        let expected = match nearest(word, LEVELS) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "expected error, warn, info, debug, trace, or directives such as \"info,spliceway::proxy=debug\""
                .to_owned(),
        };
        return Err(Refusal::new(format!("{} is not a level", quoted(word)), expected));
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| {
        Refusal::new(format!("{}: {error}", quoted(text)), "expected directives such as \"info,hyper=warn\"")
    })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_protocols_in_lower_case() {
        assert_eq!(upgrade("WebSocket").as_deref(), Ok("websocket"));
        assert_eq!(upgrade("IRC/6.9").as_deref(), Ok("irc/6.9"));
        for text in ["h2c", "H2C", "", "a b", "a/", "/1", "a/b/c", "a,b"] {
            assert!(upgrade(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(method("GET"), Ok(Method::GET));
        assert_eq!(method("PROPFIND").unwrap().as_str(), "PROPFIND");
        for text in ["get", "Post", "", "A B", "CONNECT", "TRACE"] {
            assert!(method(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn levels_are_levels_or_directives() {
        for text in
            ["info", "off", "WARN", "info,hyper=warn", "spliceway::tunnel=trace", "info,spliceway[request{id}]=debug"]
        {
            assert_eq!(level(text).as_deref(), Ok(text));
        }
        for text in ["inof", "", "info,hyper", "hyper=loud", "info,,"] {
            assert!(level(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_gateway_is_named_after_its_host() {
        for (host, expected) in [("gw-1.example", "gw-1.example"), ("", "gateway"), ("a b(c)", "a-b-c-")] {
            assert_eq!(gateway_name_of(host), expected);
            assert!(gateway_name(expected).is_ok());
        }
    }
}
