//! No hop-by-hop header gets through, whatever Connection says, and Host is the one that we set.
#![no_main]

mod head;

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use spliceway::proxy::headers::{self, Answer};
use spliceway::proxy::opening::Ask;

fuzz_target!(|bytes: &[u8]| {
    let Some(head) = head::parse(bytes) else { return };
    let allowed = ["websocket".into(), "foo".into()];
    let Ok(ask) = Ask::parse(head.version, &head.method, &head.headers, &allowed) else { return };
    let mut sent = head.headers.clone();
    headers::towards_backend(&mut sent, &ask, HeaderValue::from_static("backend"));
    assert_eq!(sent.get_all("host").iter().collect::<Vec<_>>(), ["backend"]);
    for gone in ["keep-alive", "proxy-connection", "transfer-encoding", "http2-settings"] {
        assert!(!sent.contains_key(gone), "{gone}");
    }
    assert_eq!(sent.contains_key("upgrade"), matches!(ask, Ask::Upgrade(_)));
    assert!(sent.get_all("connection").iter().count() <= 1);
    let mut answered = head.headers;
    headers::towards_client(&mut answered, Answer::Response);
    for gone in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        assert!(!answered.contains_key(gone), "{gone}");
    }
});
