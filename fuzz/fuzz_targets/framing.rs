//! What is sent on has exactly one framing, and reading that again gives the same length.
#![no_main]

mod head;

use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use spliceway::proxy::framing::{self, BodyLength};

fuzz_target!(|bytes: &[u8]| {
    let Some(head) = head::parse(bytes) else { return };
    if let Ok(length) = framing::request_body(head.version, &head.headers) {
        let mut headers = head.headers.clone();
        framing::set(&mut headers, length);
        assert!(!(headers.contains_key("transfer-encoding") && headers.contains_key("content-length")));
        assert_eq!(framing::request_body(http::Version::HTTP_11, &headers), Ok(length));
    }
    let status = StatusCode::from_u16(100 + u16::from(bytes.last().copied().unwrap_or(0)) * 2).unwrap_or(StatusCode::OK);
    if let Ok(length) = framing::answer_body(&head.method, status, head.version, &head.headers) {
        let mut headers = head.headers;
        framing::set(&mut headers, length);
        assert!(!(headers.contains_key("transfer-encoding") && headers.contains_key("content-length")));
        let bodyless = status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        assert!(!bodyless || length == BodyLength::Empty);
    }
});
