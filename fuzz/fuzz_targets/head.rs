//! A head out of arbitrary bytes, in the way hyper would hand it over: a request line and header lines, taken apart
//! leniently, so that most inputs reach the code under test.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

/// Lines: method, target, then `name: value`. None where `http` itself refuses the target.
pub fn parse(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|&b| b == b'\n');
    let method = Method::from_bytes(lines.next()?).unwrap_or(Method::GET);
    let uri = Uri::try_from(lines.next()?).ok()?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = method;
    head.uri = uri;
    head.version = if bytes.first().is_some_and(|b| b % 8 == 0) { Version::HTTP_10 } else { Version::HTTP_11 };
    for line in lines {
        let mut halves = line.splitn(2, |&b| b == b':');
        let (Some(name), Some(value)) = (halves.next(), halves.next()) else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            head.headers.append(name, value);
        }
    }
    Some(head)
}
