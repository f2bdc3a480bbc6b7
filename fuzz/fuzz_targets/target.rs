//! A target that is accepted is one that a backend reads as we do: no dot segments, no NUL, and strict is its own strict.
#![no_main]

mod head;

use libfuzzer_sys::fuzz_target;
use spliceway::proxy::target::Target;

fuzz_target!(|bytes: &[u8]| {
    let Some(head) = head::parse(bytes) else { return };
    let Ok(target) = Target::parse(&head.method, &head.uri, &head.headers) else { return };
    let path = target.path.strict();
    assert!(path == "*" || path.starts_with('/'), "{path:?}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path:?}");
    assert!(!path.contains('\0') && !path.contains("%00"), "{path:?}");
    let again = target.path_and_query().to_string().parse().expect("what is forwarded is a target");
    let again = Target::parse(&head.method, &again, &head.headers).expect("and is accepted again");
    assert_eq!(again.path.strict(), path);
});
