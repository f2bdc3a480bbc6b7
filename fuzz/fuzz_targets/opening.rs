//! What counts as an upgrade has every property of one, and only the right 101 answers it.
#![no_main]

mod head;

use libfuzzer_sys::fuzz_target;
use spliceway::proxy::opening::Ask;

fuzz_target!(|bytes: &[u8]| {
    let Some(head) = head::parse(bytes) else { return };
    let allowed = ["websocket".into(), "foo".into()];
    let Ok(Ask::Upgrade(asked)) = Ask::parse(head.version, &head.method, &head.headers, &allowed) else { return };
    assert_eq!(head.version, http::Version::HTTP_11);
    assert!(!head.headers.contains_key("transfer-encoding"));
    if let Some(offer) = asked.websocket() {
        assert_eq!(head.method, http::Method::GET);
        assert_eq!(offer.accept.len(), 28);
    }
    // A request's own headers are never a good answer to it.
    let echoed = asked.check_answer(&head.headers).is_ok();
    assert!(!echoed || asked.websocket().is_none_or(|offer| head.headers.get("sec-websocket-accept") == Some(&offer.accept)));
});
