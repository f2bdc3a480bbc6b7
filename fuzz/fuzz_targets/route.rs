//! Routing never panics, and what it finds does match: the strict path lies under one of the route's paths.
#![no_main]

mod head;

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spliceway::config::{Config, Name, Scheme};
use spliceway::proxy::route::RouteTable;
use spliceway::proxy::target::Target;

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let text = r#"
        [[listener]]
        name = "web"
        bind = "127.0.0.1:0"
        [[route]]
        name = "root"
        respond = { status = 200 }
        [[route]]
        name = "secret"
        path = "/secret"
        respond = { status = 403 }
        [[route]]
        name = "deep"
        path = ["/a/b", "/a/b/c"]
        methods = ["GET", "POST"]
        respond = { status = 200 }
        [[route]]
        name = "host"
        host = ["example.com", "*.example.com"]
        path = "/ws"
        respond = { status = 200 }
        [[route]]
        name = "header"
        path = "/secret"
        headers = { "X-Key" = "1" }
        respond = { status = 200 }
    "#;
    let config = Config::parse("fuzz", text, Path::new(".")).expect("a configuration");
    RouteTable::new(config.routes).expect("routes without conflicts")
});

fuzz_target!(|bytes: &[u8]| {
    let Some(head) = head::parse(bytes) else { return };
    let Ok(target) = Target::parse(&head.method, &head.uri, &head.headers) else { return };
    let listener = Name::new("web").expect("a name");
    let Ok(route) = TABLE.find(&target, &listener, Scheme::Http, &head.method, &head.headers) else { return };
    let path = target.path.strict();
    let under = |prefix: &str| prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/"));
    assert!(route.matches.paths.iter().any(|prefix| under(prefix)), "{path:?} is not under {route:?}");
    // The most specific path wins: nothing under /secret is served by the route of everything.
    assert!(route.name.as_str() != "root" || !(path == "/secret" || path.starts_with("/secret/")), "{path:?}");
});
