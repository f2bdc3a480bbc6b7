//! The test page: one file that opens a WebSocket to its own origin, sends a message and shows what comes back.
//!
//! It is the first thing a new user sees, and it is served to browsers that trust this origin: it loads nothing, and
//! its policy lets just its own script and style run, by their hashes, and connect to nowhere but this origin.

use bytes::Bytes;
use http::HeaderName;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};

/// The headers and the body of a 200.
pub fn page() -> (&'static [(HeaderName, &'static str)], Bytes) {
    (&HEADERS, Bytes::from_static(PAGE.as_bytes()))
}

const PAGE: &str = include_str!("test_page.html");

static HEADERS: [(HeaderName, &str); 4] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CONTENT_SECURITY_POLICY, POLICY),
];

/// The hashes are written out, not computed at start, so that whoever changes the page sees what is let run; the test
/// says the new ones. `connect-src 'self'` covers ws and wss of this origin.
const POLICY: &str = "default-src 'none'; \
    script-src 'sha256-6eDwUf/xRFKaobnduY2N9o3omu3eQxrcibVjRgclTT4='; \
    style-src 'sha256-6CfVc0gj/07J64rSt7gDzf0dvK0ym1tpdxUF8N3sBUU='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::prelude::{BASE64_STANDARD, Engine};
    use http::HeaderValue;

    #[test]
    fn the_policy_names_the_hashes_of_script_and_style() {
        for (directive, element) in [("script-src", "script"), ("style-src", "style")] {
            let hash = BASE64_STANDARD.encode(digest(&SHA256, content(element).as_bytes()));
            let expected = format!("{directive} 'sha256-{hash}';");
            assert!(POLICY.contains(&expected), "the page has changed; the policy needs {expected}");
        }
    }

    #[test]
    fn headers_are_valid_and_forbid_caching_and_sniffing() {
        let (headers, body) = page();
        let value = |name| headers.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        assert_eq!(value(CONTENT_TYPE), Some("text/html; charset=utf-8"));
        assert_eq!(value(CACHE_CONTROL), Some("no-store"));
        assert_eq!(value(X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
        assert!(headers.iter().all(|(_, value)| HeaderValue::from_str(value).is_ok()));
        assert_eq!(body, PAGE);
    }

    #[test]
    fn the_page_loads_nothing_and_makes_no_markup_of_text() {
        for forbidden in [
            "http:",
            "https://",
            " src=",
            "@import",
            "url(",
            "innerHTML",
            "insertAdjacentHTML",
            " style=",
            "onclick",
            "eval(",
        ] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        let links: Vec<_> = PAGE.match_indices("href=").map(|(at, _)| &PAGE[at..at + 13]).collect();
        assert_eq!(links, ["href=\"data:,\""]);
    }

    #[test]
    fn the_ids_that_tests_hold_on_to_are_there_once() {
        for id in ["path", "connect", "close", "message", "send", "log", "state"] {
            assert_eq!(PAGE.matches(&format!(" id=\"{id}\"")).count(), 1, "{id}");
        }
    }

    fn content(element: &str) -> &'static str {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        assert_eq!(PAGE.matches(&open).count(), 1);
        PAGE.split_once(&open).unwrap().1.split_once(&close).unwrap().0
    }
}
